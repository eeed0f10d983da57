"""The starts that wait for a slot, by account: some end when the account is paused."""

from typing import Generic, TypeVar

from attrs import define, field

from jobproxy.jobs.record import JobRecord

#: A start, whatever it is.
Start = TypeVar("Start")


@define(eq=False)
class WaitingStarts(Generic[Start]):
    """Starts and the records of their jobs."""

    _records: dict[str, dict[Start, JobRecord]] = field(factory=dict, init=False, repr=False)

    def add(self, start: Start, record: JobRecord) -> None:
        """Note that a start waits for a slot."""
        self._records.setdefault(record.account, {})[start] = record

    def remove(self, start: Start, record: JobRecord) -> None:
        """Note that a start that waited waits no more."""
        records = self._records[record.account]
        del records[start]
        if not records:
            del self._records[record.account]

    def find_late(self, account: str, until: float) -> list[JobRecord]:
        """Return the jobs of an account that were not started, and will not be wanted any more.

        :param until: when they could be started, in seconds on the clock.
        """
        return [
            record
            for record in self._records.get(account, {}).values()
            if record.started == "no" and record.wanted_until < until
        ]
