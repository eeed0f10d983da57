"""The coordinator: agrees with other nodes on keys, jobs and orphans.

``locate`` returns :data:`None` where no other node has to be asked; the other methods of a single
node return Deferreds that have fired. A coordinator that is an ``IService`` is started and stopped
with the proxy; what has to know each change of a job is an observer of the table. Both happen in
``app/build.py``.
"""

from typing import Protocol

from attrs import frozen
from twisted.internet.defer import Deferred

from jobproxy.jobs.delivery import Delivery
from jobproxy.jobs.record import JobRecord
from jobproxy.store.interface import Placement
from jobproxy.store.orphans import OrphanPage, Position
from jobproxy.util.histogram import Histogram
from jobproxy.wire.reports import Report

#: What becomes of calls to the store, and of callbacks of other nodes' jobs.
CALL_RESULTS = ("ok", "failed")
RELAY_RESULTS = (
    *(placement.value for placement in Placement),
    "progress",
    "store-unreachable",
    "cut-off",
)


@frozen(eq=False)
class ClusterStatus:
    """The connection with the other nodes, for status and metrics.

    :param node: the name of this node.
    :param is_up: whether the store can be reached, and this node receives messages.
    :param calls: the number of calls to the store, by result.
    :param durations: of the calls that did not fail.
    :param relays: callbacks that came here for other nodes' jobs, by what became of them.
    :param gaps: how many times messages may have been missed.
    :param found: results that were found in the store after such a gap.
    :param unsent: calls of the outbox that failed.
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
    """What a gateway asks about jobs, keys and orphans that other nodes may know.

    Every Deferred fails with a :class:`ProblemError` of the kind ``STORE_UNREACHABLE`` if the
    store cannot be reached and is needed.
    """

    def claim(self, record: JobRecord) -> Deferred[bool]:
        """Claim the key of a job.

        :return: fires with whether to start the job here; if not, another node starts it.
        """

    def locate(self, job_id: str) -> Deferred[JobRecord] | None:
        """Make sure that the table has an up-to-date record of another node's job.

        :return: :data:`None`: the table has it, or no other node can know it. The Deferred fails
            with ``JOB_UNKNOWN`` if no node knows the job.
        """

    def locate_key(
        self, key_digest: bytes, request_digest: bytes, known: JobRecord | None
    ) -> Deferred[JobRecord | None]:
        """Return the record of the job of a key, on whichever node it is.

        :param known: the record of the job with that key in the table, if there is one.
        :return: fails with ``IDEMPOTENCY_KEY_REUSED`` if the key belongs to another request, and
            with ``RESULT_GONE`` if its job was started and its result is not kept.
        :raises ProblemError: the same.
        """

    def is_elsewhere(self, job_id: str) -> bool:
        """Whether another node owns the job."""

    def relay(self, job_id: str, report: Report) -> Deferred[Delivery]:
        """Send a callback to the owner of the job, which must be another node."""

    def relay_thin(self, job_id: str, packed: bytes, report: Report) -> Deferred[Delivery]:
        """Have the owner of a job, which must be another node, fetch what a callback announces.

        Only the owner has what is needed to fetch it. If that is dead, the callback itself is the
        result.

        :param packed: the callback; see :attr:`jobproxy.profiles.messages.Message.packed`.
        :param report: what it says.
        :return: fires once the result is in the store; fails with a problem if that takes long.
        """

    def secure(self, record: JobRecord) -> Deferred[None] | None:
        """Store the result of a job if a client or the operator can ask for it.

        To be called before the job server is told that its callback was accepted.

        :return: :data:`None`: that is not necessary. The Deferred fires once it is stored.
        """

    def remember(
        self, waiting: Deferred[JobRecord], record: JobRecord, *, is_async: bool
    ) -> Deferred[JobRecord]:
        """Note a job in the store before its client gets a response without the result.

        The client can then ask any node for it, also after a restart. A problem of a job with a key
        does not say that the job was not started if another node has started a job with that key.

        :param is_async: whether the client takes such a response.
        :return: ``waiting``, with the same outcome but for that; it fails with
            ``STORE_UNREACHABLE`` if the job cannot be noted.
        """

    def orphan_collected(self, job_id: str) -> None:
        """Remove a result from the orphans, as a client got it."""

    def list_orphans(self, limit: int, after: Position) -> Deferred[OrphanPage]:
        """Return the orphans after a position, the oldest first, and at most so many."""

    def count_orphans(self) -> Deferred[int]:
        """Return how many orphans the list has."""

    def find_orphan(self, job_id: str) -> Deferred[bytes | None]:
        """Return the body of the orphan with this job id, if there is one."""

    def drop_orphan(self, job_id: str) -> Deferred[None]:
        """Forget an orphan."""

    def reasons_not_ready(self) -> list[str]:
        """Return why a load balancer should send jobs to another node."""

    def status(self) -> ClusterStatus | None:
        """Return the connection with the other nodes, if there can be any."""
