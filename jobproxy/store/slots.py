"""Slots that several nodes count together, in a store that they share."""

from attrs import frozen
from twisted.internet.defer import Deferred
from zope.interface import Interface


@frozen
class SlotGrant:
    """Whether a slot was acquired.

    :param paused: seconds until the account gets slots again; 0.0 if it is not paused.
    """

    is_granted: bool
    paused: float = 0.0


class ISlotStore(Interface):
    """A store in which the nodes of a cluster count slots.

    Every Deferred fails with :class:`StoreUnreachable`, as those of :class:`IStore` do.
    """

    def acquire_slot(account: str, slot: str, limit: int, seconds: float) -> "Deferred[SlotGrant]":
        """Acquire one of an account's slots. Those of dead nodes do not count.

        :param slot: a new name for it.
        :param limit: how many slots the account has.
        :param seconds: after which the slot is free again, if it is not released.
        """

    def release_slot(account: str, slot: str) -> "Deferred[None]":
        """Release a slot of this node; nothing happens if it was not acquired."""

    def pause_account(account: str, seconds: float) -> "Deferred[None]":
        """Grant an account no slots for some seconds; never shortens a pause."""
