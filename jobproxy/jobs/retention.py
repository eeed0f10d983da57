"""Where the jobs are kept that nobody waits for."""

from collections.abc import Callable

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from jobproxy.jobs.record import JobRecord
from jobproxy.util.expiring_map import ExpiringMap

_log = Logger()

#: Seconds that a job without an end is remembered once nobody waits: as long as its token is good.
LIFETIME = 86_400.0
#: How much is kept at most of each kind.
MAX_NUMBER = 50_000
MAX_BYTES = 64 * 2**20
#: What an entry takes besides the body of its result, in bytes.
OVERHEAD = 1_024


@define(eq=False)
class Retention:
    """Three shelves; each entry is on one at most, and knows which.

    :param retain: seconds that outcomes are kept.
    :param drop: is called with each entry that had to go, by time or for want of room.
    :ivar unattended: jobs that have not ended.
    :ivar outcomes: jobs whose outcome somebody got, or can come and ask for.
    :ivar orphans: jobs whose result came when nobody waited for it any more; they have room of
        their own, so that no traffic pushes them out.
    """

    _clock: IReactorTime
    _retain: float
    _drop: Callable[[JobRecord], object]
    unattended: ExpiringMap[JobRecord] = field(init=False)
    outcomes: ExpiringMap[JobRecord] = field(init=False)
    orphans: ExpiringMap[JobRecord] = field(init=False)

    def __attrs_post_init__(self) -> None:
        bounds = (MAX_NUMBER, MAX_BYTES)
        self.unattended = ExpiringMap(self._clock, LIFETIME, *bounds, self._drop)
        self.outcomes = ExpiringMap(self._clock, self._retain, *bounds, self._drop)
        self.orphans = ExpiringMap(self._clock, self._retain, *bounds, self._give_up)

    @property
    def retained(self) -> int:
        """How many outcomes are kept."""
        return len(self.outcomes) + len(self.orphans)

    @property
    def retained_bytes(self) -> int:
        """About how many bytes they take."""
        return self.outcomes.size + self.orphans.size

    def move(self, record: JobRecord, kept_in: ExpiringMap[JobRecord] | None) -> None:
        """Put an entry on a shelf, or on none as somebody waits for it."""
        if record.kept_in is not None:
            record.kept_in.take(record.job_id)
        record.kept_in = kept_in
        if kept_in is not None:
            size = OVERHEAD + (len(record.result.body) if record.result else 0)
            kept_in.put(record.job_id, record, size)

    def clear(self) -> None:
        """Keep nothing any more."""
        for kept_in in (self.unattended, self.outcomes, self.orphans):
            kept_in.clear()

    def _give_up(self, record: JobRecord) -> None:
        _log.warn("the result of job {job} is forgotten; nobody asked for it", **record.names)
        self._drop(record)
