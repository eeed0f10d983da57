"""The real reactor, for tests that need sockets."""

from typing import Any

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
