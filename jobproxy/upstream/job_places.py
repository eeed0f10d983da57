"""Places: how many jobs of an account run at once, from their start to their result."""

from attrs import define, field
from twisted.internet.defer import Deferred

from jobproxy.jobs.end_watch import EndWatch
from jobproxy.jobs.record import JobRecord
from jobproxy.upstream.limiter import AccountLimiter


@define(eq=False)
class JobPlaces:
    """Grants places to jobs; a job keeps its place until it ends.

    :param limiter: counts the places of each account, and has the queues for them.
    :param ends: tells when a job has ended.
    """

    limiter: AccountLimiter
    _ends: EndWatch

    def enter(self, account: str) -> "JobPlace":
        """Queue a job for a place; :meth:`JobPlace.keep` has to follow at once.

        :raises ProblemError: if the queue of the account is full.
        """
        return JobPlace(self.limiter, self._ends, account, self.limiter.acquire(account))


@define(eq=False)
class JobPlace:
    """The place of one job.

    :ivar granted: fires when the job has its place.
    """

    _limiter: AccountLimiter
    _ends: EndWatch
    _account: str
    granted: Deferred[str | None]
    _is_held: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.granted.addCallback(self._note)

    def keep(self, record: JobRecord) -> None:
        """Keep the place until this job ends."""
        self._ends.watch(record.job_id, self._leave)

    def _note(self, slot: str | None) -> str | None:
        self._is_held = True
        return slot

    def _leave(self) -> None:
        if self._is_held:
            self._is_held = False
            self._limiter.release(self._account)
        else:
            self.granted.cancel()
