"""A limit to each coroutine test, so that one that hangs fails alone.

pytest-timeout, the last resort, raises wherever the reactor happens to be, which no later test of
the same process would survive.
"""

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import iscoroutinefunction
from threading import Event, Thread
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from tests.support.reactor import reactor

#: The share of pytest's own timeout that a coroutine gets.
SHARE = 2 / 3
#: Seconds between one cancellation and the next, for a test that waits for something else then.
PAUSE = 5.0

Test = Callable[..., Coroutine[Deferred[Any], Any, None]]


def limit_item(item: pytest.Item) -> None:
    """Limit the time of a test that is a coroutine."""
    if isinstance(item, pytest.Function) and iscoroutinefunction(item.obj):
        marker = item.get_closest_marker("timeout")
        timeout = marker.args[0] if marker else float(item.config.getini("timeout"))
        item.obj = limit(item.obj, SHARE * timeout)


def limit(test: Test, seconds: float) -> Test:
    """Return a test that is cancelled, and fails, after so many seconds."""

    @wraps(test)
    async def limited(*positional: Any, **named: Any) -> None:
        running: Deferred[None] = Deferred.fromCoroutine(test(*positional, **named))
        with cancelling(running, seconds):
            try:
                await running
            except CancelledError as error:
                raise AssertionError(f"it hung: cancelled after {seconds:.0f} s") from error

    return limited


@contextmanager
def cancelling(running: "Deferred[None]", seconds: float) -> Iterator[None]:
    """Cancel a Deferred that has not fired after so many seconds, again and again.

    A thread does it, since many tests look whether a call is left in the reactor.
    """
    is_over = Event()

    def cancel() -> None:
        wait = seconds
        while not is_over.wait(wait):
            reactor.callFromThread(running.cancel)
            wait = PAUSE

    thread = Thread(target=cancel, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
