"""The counts of a load, in bounded memory."""

from collections import Counter

from attrs import define, field

from jobproxy.sandbox.latencies import Latencies
from jobproxy.sandbox.load_outcomes import JobError, Outcome

#: Different errors that are counted each for itself.
MAX_ERRORS = 100


@define(eq=False)
class ErrorCount:
    """How often an error came.

    :ivar request_id: of one of the jobs, to look for in a log.
    """

    count: int = 0
    request_id: str = ""


@define(eq=False)
class Tally:
    """Counts outcomes.

    :ivar succeeded: latencies from when the jobs should have been sent; so are those of
        ``failed``.
    :ivar delays: from when jobs should have been sent until they were.
    """

    succeeded: Latencies = field(factory=Latencies, init=False)
    failed: Latencies = field(factory=Latencies, init=False)
    delays: Latencies = field(factory=Latencies, init=False)
    statuses: Counter[int] = field(factory=Counter, init=False)
    errors: dict[JobError, ErrorCount] = field(factory=dict, init=False)

    @property
    def count(self) -> int:
        return self.succeeded.count + self.failed.count

    def record(self, outcome: Outcome) -> None:
        """Count an outcome."""
        latencies = self.succeeded if outcome.error is None else self.failed
        latencies.observe(outcome.end - outcome.start)
        self.delays.observe(outcome.sent - outcome.start)
        if outcome.status is not None:
            self.statuses[outcome.status] += 1
        if outcome.error is not None:
            self._count_error(outcome.error, outcome.request_id)

    def _count_error(self, error: JobError, request_id: str) -> None:
        known = self.errors.get(error)
        if known is None:
            if len(self.errors) >= MAX_ERRORS:
                # A body may hold anything, such as a time; its beginning is not bounded in number.
                error = JobError(None, "", "other errors")
            known = self.errors.setdefault(error, ErrorCount())
        known.count += 1
        known.request_id = known.request_id or request_id
