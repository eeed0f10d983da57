"""What the nodes of a store in memory share."""

from typing import Protocol

from attrs import define, field, frozen
from twisted.internet.interfaces import IReactorTime

from jobproxy.store.interface import Claim, Message
from jobproxy.store.timed_map import TimedMap
from jobproxy.wire.tokens import LIFETIME


class Member(Protocol):
    """The store of one node."""

    def receive(self, message: Message) -> None:
        """Receive a message."""

    def catch_up(self) -> None:
        """Ask for what the node may have missed."""


@frozen
class Result:
    body: bytes
    came: float
    upstream_id: str | None


@define(eq=False)
class Shared:
    """The data that the nodes share.

    :param retain: seconds that results are kept.
    :param key_life: seconds that claims are kept.
    :ivar nodes: the stores of the nodes that are alive, by name.
    """

    clock: IReactorTime
    retain: float
    key_life: float = LIFETIME
    nodes: dict[str, "Member"] = field(factory=dict, init=False)
    claims: TimedMap[Claim] = field(init=False)
    #: The names of claims, by job id.
    claim_names: dict[str, str] = field(factory=dict, init=False)
    results: TimedMap[Result] = field(init=False)
    notes: TimedMap[bytes] = field(init=False)
    #: The results that were sent to a node, by its name, until it has confirmed them.
    unconfirmed: dict[str, set[str]] = field(factory=dict, init=False)
    orphans: dict[str, None] = field(factory=dict, init=False)
    #: The acquired slots of each account by name, and when each is free again.
    slots: dict[str, dict[str, float]] = field(factory=dict, init=False)
    #: When the pause of each paused account ends.
    pauses: dict[str, float] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Remove all data but the list of nodes."""
        self.claims, self.results = TimedMap(self.clock), TimedMap(self.clock)
        self.notes = TimedMap(self.clock)
        self.claim_names.clear()
        self.unconfirmed.clear()
        self.orphans.clear()
        self.slots.clear()
        self.pauses.clear()

    def lose_data(self) -> None:
        """Remove all data, and let the nodes notice it, as they do when their heartbeat returns."""
        self.forget()
        for node in list(self.nodes.values()):
            node.catch_up()
