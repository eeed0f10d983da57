"""The coordinator: what a gateway asks about jobs, keys and results that other nodes may know.

A method returns :data:`None` where nobody else has to be asked, so that a job of this node alone
costs neither a Deferred nor a turn of the reactor.
"""

from typing import Protocol

from attrs import define, frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from jobproxy.jobs.delivery import Delivery
from jobproxy.jobs.record import JobRecord
from jobproxy.jobs.table import CorrelationTable
from jobproxy.store.interface import Orphan
from jobproxy.util.histogram import Histogram
from jobproxy.wire.jobs import Report


@frozen(eq=False)
class ClusterStatus:
    """How it goes with the other nodes.

    :param node: the name of this one.
    :param is_up: whether the store can be reached, and this node receives messages.
    :param calls: requests to the store, by result.
    :param durations: of the store's responses.
    :param relays: what became of callbacks for other nodes' jobs.
    :param gaps: how many times messages may have been missed.
    :param found: results that were found after a gap.
    :param unsent: what other nodes could not be sent at once.
    """

    node: str
    is_up: bool
    calls: dict[str, int]
    durations: Histogram
    relays: dict[str, int]
    gaps: int
    found: int
    unsent: int


class Coordinator(Protocol):
    """Everything that returns a Deferred fails with a :class:`ProblemError` of the kind
    ``STORE_UNREACHABLE`` if it cannot be known.
    """

    def claim(self, record: JobRecord) -> Deferred[bool]:
        """Ask for the right to start a job that has a key; fire with whether it is granted."""

    def locate(self, job_id: str) -> Deferred[JobRecord] | None:
        """Put the record of another node's job into the table.

        :return: fails with ``NOT_FOUND`` if nobody knows the job.
        """

    def locate_key(
        self, key_digest: bytes, request_digest: bytes, known: JobRecord | None
    ) -> Deferred[JobRecord | None]:
        """Return the job of a key, wherever it is.

        :param known: the job of that key in the table.
        :return: fails with ``IDEMPOTENCY_KEY_REUSED`` if the key belongs to another request.
        """

    def is_elsewhere(self, job_id: str) -> bool:
        """Whether another node has the job."""

    def relay(self, job_id: str, report: Report) -> Deferred[Delivery]:
        """Send a callback to the node that has the job; to be called if it is elsewhere."""

    def remember(self, waiting: Deferred[JobRecord]) -> Deferred[JobRecord]:
        """Let other nodes know of a job that its client may ask for, once ``waiting`` fires."""

    def orphan_collected(self, job_id: str) -> None:
        """Note that a client asks for a result; it is an orphan no longer."""

    def list_orphans(self) -> Deferred[list[Orphan]]:
        """Return the results that nobody waited for or asked for since, the oldest first."""

    def find_orphan(self, job_id: str) -> Deferred[bytes | None]:
        """Return the body of an orphan, if there is one with this job id."""

    def drop_orphan(self, job_id: str) -> Deferred[None]:
        """Forget an orphan."""

    def reasons_not_ready(self) -> list[str]:
        """Return why jobs had better go to another node."""

    def status(self) -> ClusterStatus | None:
        """Return how it goes with the other nodes, if there can be any."""


@define(eq=False)
class LocalCoordinator:
    """For a node without others: nobody else knows anything."""

    _table: CorrelationTable
    _clock: IReactorTime

    def claim(self, record: JobRecord) -> Deferred[bool]:  # noqa: ARG002 - Coordinator's
        return succeed(True)

    def locate(self, job_id: str) -> None:
        """Nobody has to be asked."""

    def locate_key(
        self,
        key_digest: bytes,  # noqa: ARG002 - Coordinator's
        request_digest: bytes,  # noqa: ARG002 - Coordinator's
        known: JobRecord | None,
    ) -> Deferred[JobRecord | None]:
        return succeed(known)

    def is_elsewhere(self, job_id: str) -> bool:  # noqa: ARG002 - Coordinator's
        return False

    def relay(self, job_id: str, report: Report) -> Deferred[Delivery]:
        raise NotImplementedError("every job is here")

    def remember(self, waiting: Deferred[JobRecord]) -> Deferred[JobRecord]:
        return waiting

    def orphan_collected(self, job_id: str) -> None:
        """The table has noted it."""

    def list_orphans(self) -> Deferred[list[Orphan]]:
        now = self._clock.seconds()
        return succeed(
            [
                Orphan(record.job_id, record.upstream_id, record.result.body, now - record.ended)
                for record in self._table.retention.orphans
                if record.result is not None and record.ended is not None
            ]
        )

    def find_orphan(self, job_id: str) -> Deferred[bytes | None]:
        return succeed(self._table.retention.find_orphan(job_id))

    def drop_orphan(self, job_id: str) -> Deferred[None]:
        self._table.drop_orphan(job_id)
        return succeed(None)

    def reasons_not_ready(self) -> list[str]:
        return []

    def status(self) -> None:
        """There are no others."""
