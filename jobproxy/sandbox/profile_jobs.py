"""The jobs of a simulated API, and what became of each start request."""

from typing import Any

from attrs import define, field

from jobproxy.profiles.messages import Message, Scope
from jobproxy.sandbox.faults import Fault

#: Characters that are kept of the response to a callback.
MAX_NOTE = 200


@define(eq=False)
class SimulatedJob:
    """A start request, and the job that it has started.

    :param faults: those that were drawn, by kind.
    :param base: where the simulator is, for the URLs in messages.
    :ivar state: ``refused``, ``progress``, ``succeeded``, ``failed`` or ``cancelled``.
    :ivar named: the id in the ack.
    :ivar polls: how often the job was asked for; ``fetches``: its result.
    :ivar delivered: one entry for each callback that got a response: the state in it, and the
        status and the body of the response.
    """

    job_id: str
    faults: dict[str, Fault]
    base: str
    request: Message = field(repr=False)
    callback_urls: tuple[str, ...] = field(repr=False)
    state: str = "progress"
    named: str | None = field(default=None, init=False)
    ack: Message | None = field(default=None, init=False, repr=False)
    polls: int = field(default=0, init=False)
    fetches: int = field(default=0, init=False)
    delivered: list[tuple[str, int, str]] = field(factory=list, init=False)

    @property
    def is_running(self) -> bool:
        return self.state == "progress"

    def scope(self, message: Message | None = None) -> Scope:
        """Return what the profile's URLs are made of."""
        return Scope(self.request, self.ack, message)

    def describe(self) -> dict[str, Any]:
        """Return the entry of ``/simulator/jobs``; without URLs, which have tokens in them."""
        return {
            "id": self.job_id,
            "state": self.state,
            "faults": list(self.faults),
            "polls": self.polls,
            "fetches": self.fetches,
            "delivered": self.delivered,
        }
