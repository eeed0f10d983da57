"""The clock of one node among several that share a clock."""

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.base import DelayedCall
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import Clock
from zope.interface import implementer


@implementer(IReactorTime)
class NodeClock:
    """The clock of one node: the one that all share, until the node is dead."""

    def __init__(self, shared: Clock) -> None:
        self._shared = shared
        self._is_dead = False

    def seconds(self) -> float:
        return self._shared.seconds()

    def callLater(
        self,
        delay: float,
        callable: Any,  # noqa: A002
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if self._is_dead:
            return DelayedCall(0, callable, args, kwargs, _do_nothing, _do_nothing, self.seconds)
        return self._shared.callLater(delay, self._call, callable, args, kwargs)

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        return self._shared.getDelayedCalls()

    def die(self) -> None:
        """Call nothing any more."""
        self._is_dead = True

    def _call(self, call: Callable[..., object], args: Any, kwargs: Any) -> None:
        if not self._is_dead:
            call(*args, **kwargs)


def _do_nothing(call: DelayedCall) -> None:
    """Replace what a reactor does with a call that is delayed."""
