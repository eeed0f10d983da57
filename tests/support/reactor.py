"""The real reactor, for tests that need sockets."""

from collections.abc import Callable
from typing import Any

import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.task import deferLater
from twisted.internet.tcp import Connection

reactor: Any = global_reactor


async def until_closed() -> None:
    """Wait until our ends of all connections are closed too, and so their sockets gone."""
    while any(
        isinstance(end, Connection) for end in [*reactor.getReaders(), *reactor.getWriters()]
    ):
        await deferLater(reactor, 0.001)
    # A connection that is aborted is not watched any more, but is closed only in the next turn.
    await deferLater(reactor, 0)


async def until(is_so: Callable[[], object]) -> None:
    """Give the reactor turns until something is so."""
    while not is_so():
        await deferLater(reactor, 0.001)


def run(test: Callable[[], Any]) -> Callable[[], Any]:
    """Run a coroutine as a test on the real reactor."""

    @pytest_twisted.ensureDeferred
    async def runner() -> None:
        await test()

    runner.__doc__ = test.__doc__
    return runner
