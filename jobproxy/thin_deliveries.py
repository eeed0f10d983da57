"""Thin callbacks and the job that they are about, which may be another node's."""

from collections.abc import Callable

from attrs import define, evolve
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from jobproxy.cluster.coordinator import Coordinator
from jobproxy.jobs import job_problems
from jobproxy.jobs.delivery import Delivery
from jobproxy.jobs.events import Source
from jobproxy.jobs.record import JobRecord
from jobproxy.jobs.states import State
from jobproxy.jobs.table import CorrelationTable
from jobproxy.profiles.messages import Message, Scope, unpack_message
from jobproxy.profiles.readings import Reading
from jobproxy.upstream.follow_ups import FollowUps, messages_of
from jobproxy.upstream.thin_callbacks import Deliver
from jobproxy.wire.problems import ProblemError
from jobproxy.wire.reports import Report

_log = Logger()

#: The states of a job whose callback may come before the ack.
_ACK_EXPECTED = frozenset({State.STARTING, State.STARTING_AGAIN})


@define(eq=False)
class ThinDeliveries:
    """Delivers the results that thin callbacks announce, once they are fetched.

    :param follow_ups: fetches results; :data:`None`: no profile says that callbacks are thin.
    :param deliver: receives a callback that has its result with it.
    :param secure: makes the result of a job as safe as it has to be; returns what became of it.
    :param count: counts a callback, and returns what became of it.
    """

    _table: CorrelationTable
    _coordinator: Coordinator
    _follow_ups: FollowUps | None
    _profile: str
    _deliver: Callable[[str | None, Report], Delivery | Deferred[Delivery]]
    _secure: Callable[[JobRecord, Delivery], Delivery | Deferred[Delivery]]
    _count: Callable[[Delivery], Delivery]

    def receive(
        self, job_id: str | None, record: JobRecord | None, reading: Reading, message: Message
    ) -> Delivery | Deferred[Delivery]:
        """Receive a callback that says only that a job has ended.

        :param job_id: of its token; :data:`None`: it has none.
        :param record: of the job, if there is one here.
        :param message: the callback.
        :return: fires once the result is as safe as that of any other callback.
        :raises ProblemError: as any other callback, and if the result cannot be fetched soon; the
            Deferred can fail with the same.
        """
        if self._table.is_stopped:
            raise job_problems.keeps_nothing()
        if job_id is not None and self._coordinator.is_elsewhere(job_id):
            relaying = self._coordinator.relay_thin(job_id, message.packed, reading.report)
            return relaying.addCallback(self._count)
        if record is None:
            report = reading.report
            if job_id is None:
                # It is parked; its result is fetched when the ack is there.
                report = evolve(report, messages=Scope(message=message.compact()))
            return self._deliver(job_id, report)

        def deliver(report: Report) -> Delivery | Deferred[Delivery]:
            if self._table.is_stopped:
                raise job_problems.keeps_nothing()
            if record.result is None:
                return self._deliver(record.job_id, report)
            # A thin callback only announces the result, so that it contradicts none.
            return self._secure(record, self._count(Delivery.DUPLICATE))

        return self._fetch(record, reading, message, deliver)

    def receive_relayed(self, record: JobRecord, packed: bytes) -> None:
        """Receive a thin callback of a job of this node that came to another one.

        That node gets the result when the job ends, and counts the callback.
        """
        if self._follow_ups is None:
            return
        message = unpack_message(packed)
        reading = self._follow_ups.read_callback(record, message)

        def deliver(report: Report) -> Delivery | Deferred[Delivery]:
            if record.result is None:
                self._table.complete(record.job_id, report, Source.ELSEWHERE, self._profile)
            return self._secure(record, Delivery.ACCEPTED)

        fetching = maybeDeferred(self._fetch, record, reading, message, deliver)
        fetching.addErrback(_log_crash, record)

    def when_idle(self) -> Deferred[None]:
        """Return a Deferred that fires once no job is asked for and no result fetched."""
        if self._follow_ups is None:
            return succeed(None)
        return Deferred.fromCoroutine(self._follow_ups.when_idle())

    def stop(self) -> None:
        """Give up all fetches; the job server is told to send those callbacks again."""
        if self._follow_ups is not None:
            self._follow_ups.thin.stop()

    def _fetch(
        self, record: JobRecord, reading: Reading, message: Message, deliver: Deliver
    ) -> Delivery | Deferred[Delivery]:
        is_early = record.state in _ACK_EXPECTED and record.acked is None
        can_fetch = messages_of(record) is not None and reading.result_url is not None
        is_over = record.result is not None or not (is_early or can_fetch)
        if self._follow_ups is None or is_over:
            return deliver(reading.report)
        return self._follow_ups.thin.receive(record, message, deliver, is_early=is_early)


def _log_crash(failure: Failure, record: JobRecord) -> None:
    """Log a bug; the job server of a callback that cannot be taken now sends it again."""
    if not failure.check(ProblemError):
        _log.failure(
            "a relayed callback of job {job} crashed",
            failure,
            LogLevel.critical,
            **record.log_fields,
        )
