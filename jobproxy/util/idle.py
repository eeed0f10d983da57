"""Waiting until there is nothing left to wait for."""

from attrs import define, field
from twisted.internet.defer import Deferred


@define(eq=False)
class IdleNotifier:
    """Tells whoever waits for it that something has come to rest."""

    _waiting: list[Deferred[None]] = field(factory=list, init=False)

    def wait(self, *, is_idle: bool) -> Deferred[None]:
        """Return a Deferred that fires at once if it is quiet already, and else when it is told."""
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        if is_idle:
            waiting.callback(None)
        else:
            self._waiting.append(waiting)
        return waiting

    def notify(self) -> None:
        """Have all know who wait."""
        told, self._waiting = self._waiting, []
        for waiting in told:
            waiting.callback(None)
