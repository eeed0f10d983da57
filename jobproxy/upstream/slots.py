"""What a start waits for: a slot of its account."""

from typing import Protocol

from twisted.internet.defer import Deferred


class Slots(Protocol):
    """Grants slots. The node's :class:`AccountLimiter`, or :class:`ClusterSlots`."""

    def acquire(self, account: str) -> Deferred[str | None]:
        """Return a Deferred that fires with a slot, which the caller has to :meth:`release`."""

    def requeue(self, account: str) -> Deferred[str | None]:
        """Do the same for a job that had a slot before: it is the first of its account."""

    def release(self, account: str, slot: str | None) -> None:
        """Release a slot.

        :param slot: what the Deferred fired with.
        """

    def note_refusal(self, account: str, seconds: float) -> None:
        """Grant an account no slots for some time, as the job server asks for it."""
