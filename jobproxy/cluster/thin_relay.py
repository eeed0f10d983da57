"""Thin callbacks that came to another node: who fetches the result."""

from collections.abc import Callable

from attrs import define, field

from jobproxy.jobs.record import JobRecord

#: Receives a thin callback of a job, as :attr:`jobproxy.profiles.messages.Message.packed`.
ReceiveThin = Callable[[JobRecord, bytes], object]


@define(eq=False)
class ThinRelay:
    """Passes the thin callbacks of jobs on to whoever speaks the profile of the job.

    The inbox, which gets them, exists before those who speak to job servers.
    """

    _receivers: dict[str, ReceiveThin] = field(factory=dict, init=False, repr=False)

    def add(self, profile: str, receive: ReceiveThin) -> None:
        """Add who receives the thin callbacks of a profile; to be called once for each."""
        self._receivers[profile] = receive

    def receive(self, record: JobRecord, packed: bytes) -> None:
        """Pass a thin callback on; nothing happens if nobody speaks the profile of the job."""
        receive = self._receivers.get(record.profile)
        if receive is not None:
            receive(record, packed)
