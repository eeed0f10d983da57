"""Deferreds for somebody who may stop waiting, although the work must go on."""

from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

Value = TypeVar("Value")


def shield(working: Deferred[Value]) -> Deferred[Value]:
    """Return a Deferred that fires as another one does; if it is cancelled, that one is not.

    A failure goes to the returned Deferred alone; ``working`` then fires with :data:`None`.
    """
    waiting: Deferred[Value] = Deferred()

    def succeed(value: Value) -> Value:
        waiting.callback(value)
        return value

    def fail(failure: Failure) -> None:
        waiting.errback(failure)

    working.addCallbacks(succeed, fail)
    return waiting
