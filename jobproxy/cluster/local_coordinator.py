"""The coordinator of a single node, which has no other node to ask."""

from attrs import define
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from jobproxy.cluster.own_orphans import list_own_orphans
from jobproxy.jobs.delivery import Delivery
from jobproxy.jobs.record import JobRecord
from jobproxy.jobs.table import CorrelationTable
from jobproxy.store.orphans import OrphanPage, Position
from jobproxy.wire.reports import Report


@define(eq=False)
class LocalCoordinator:
    """For a single node: there is no other node to ask."""

    _table: CorrelationTable
    _clock: IReactorTime

    def claim(self, record: JobRecord) -> Deferred[bool]:  # noqa: ARG002 - Coordinator's
        return succeed(True)

    def locate(self, job_id: str) -> None:
        """Return :data:`None`: there is no other node to ask."""

    def locate_key(
        self,
        key_digest: bytes,
        request_digest: bytes,
        known: JobRecord | None,
    ) -> Deferred[JobRecord | None]:
        if known is None:
            self._table.keys.check_free(key_digest, request_digest)
        return succeed(known)

    def is_elsewhere(self, job_id: str) -> bool:  # noqa: ARG002 - Coordinator's
        return False

    def relay(self, job_id: str, report: Report) -> Deferred[Delivery]:
        raise NotImplementedError("this node owns every job")

    def relay_thin(self, job_id: str, packed: bytes, report: Report) -> Deferred[Delivery]:
        raise NotImplementedError("this node owns every job")

    def secure(self, record: JobRecord) -> None:
        """Return :data:`None`: the table has the result, and there is no store."""

    def remember(
        self,
        waiting: Deferred[JobRecord],
        record: JobRecord,  # noqa: ARG002 - Coordinator's
        *,
        is_async: bool,  # noqa: ARG002
    ) -> Deferred[JobRecord]:
        return waiting

    def orphan_collected(self, job_id: str) -> None:
        """Do nothing: the table has moved the record to its outcomes."""

    def list_orphans(self, limit: int, after: Position) -> Deferred[OrphanPage]:
        orphans = list_own_orphans(self._table, limit, after, self._clock.seconds())
        return succeed(OrphanPage(orphans))

    def count_orphans(self) -> Deferred[int]:
        return succeed(len(self._table.retention.orphans))

    def find_orphan(self, job_id: str) -> Deferred[bytes | None]:
        return succeed(self._table.retention.find_orphan(job_id))

    def drop_orphan(self, job_id: str) -> Deferred[None]:
        self._table.retention.drop_orphan(job_id)
        return succeed(None)

    def reasons_not_ready(self) -> list[str]:
        return []

    def status(self) -> None:
        """Return :data:`None`: there are no other nodes."""
