"""Waiting until something is idle: no client is held, no connection is open."""

from attrs import define, field
from twisted.internet.defer import Deferred


@define(eq=False)
class IdleNotifier:
    """Holds the Deferreds that wait until its owner is idle."""

    _waiting: list[Deferred[None]] = field(factory=list, init=False)

    def wait(self, *, is_idle: bool) -> Deferred[None]:
        """Return a Deferred that fires at the next :meth:`notify`, or at once.

        :param is_idle: whether the owner is idle now, so that the Deferred fires at once.
        """
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        if is_idle:
            waiting.callback(None)
        else:
            self._waiting.append(waiting)
        return waiting

    def notify(self) -> None:
        """Fire all waiting Deferreds."""
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)
