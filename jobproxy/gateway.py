"""A job's way: admitted, started when its lane has a place, waited for, answered."""

import math
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b

from attrs import define, field
from twisted.internet.defer import Deferred, execute, succeed

from jobproxy.jobs.index import IdTable
from jobproxy.jobs.record import Delivery, JobRecord, Origin, State
from jobproxy.jobs.table import CorrelationTable
from jobproxy.store.interface import Orphan
from jobproxy.upstream.starts import Starter
from jobproxy.wire.jobs import Job, parse_report
from jobproxy.wire.preferences import Preferences
from jobproxy.wire.problems import (
    CallbackConflict,
    Draining,
    IdempotencyKeyReused,
    NotFound,
    Overloaded,
    Problem,
    UpstreamBusy,
)
from jobproxy.wire.tokens import TokenSigner


@define(eq=False)
class Gateway:
    """Turns one held request into one start call and one callback.

    :param callback_url: the public base of callback URLs, without a slash at its end.
    :param wait: seconds a client is held at most.
    :param max_held: clients held at once.
    :param shows_accounts: whether the log and the operator may see whose a job is.
    """

    table: CorrelationTable
    starter: Starter
    _signer: TokenSigner
    _callback_url: str
    _wait: float = field(kw_only=True)
    max_held: int = field(kw_only=True)
    shows_accounts: bool = field(default=False, kw_only=True)
    #: Whether no new jobs are taken, as the proxy is about to stop.
    is_draining: bool = field(default=False, init=False)
    #: How many callbacks were taken as what.
    callbacks: Counter[str] = field(factory=Counter, init=False)

    def submit(self, job: Job, preferences: Preferences, request_id: bytes) -> Deferred[JobRecord]:
        """Have a job done.

        :param request_id: is told to the job server.
        :return: fires with the job's entry when it has a result, or when what is known of it is
            what the terms want; or fails with a :class:`Problem` that tells whether it was started.
            Cancel it when the client has left: a job that is still queued is then not started, and
            one that has been started goes on.
        :raises Draining: if the proxy is about to stop.
        :raises Overloaded: if no more clients can be held, or no more jobs be queued.
        :raises AccountQueueFull: if too many jobs of the account wait.
        :raises UpstreamBusy: if the job server takes no jobs of the account for longer than the
            client waits.
        :raises UpstreamUnreachable: if the job server is known to be dead.
        """
        self._admit()
        if self.starter.limiter.queued >= self.max_held:
            raise Overloaded(
                f"{self.max_held} jobs are queued already; try again when some are started.",
                retry_after=1,
            )
        paused = self.starter.limiter.paused_for(job.account)
        if paused > self.hold_time(preferences):
            raise UpstreamBusy(
                "The job server takes no jobs of this account for some time.",
                upstream_status=503,
                retry_after=math.ceil(round(paused, 3)),
            )
        start = self.starter.queue(job)
        token = self._signer.mint()
        record = self.table.create(
            token.job_id,
            start.cancel_start,
            key_digest=key_digest_of(job, preferences.key) if preferences.key else None,
            request_digest=request_digest_of(job) if preferences.key else b"",
            origin=Origin(
                request_id,
                preferences.trace[0][1] if preferences.trace else None,
                job.account if self.shows_accounts else None,
            ),
        )
        answer = self._hold(record, job, preferences)
        headers = (*preferences.trace, (b"x-request-id", request_id))
        by_id = isinstance(self.table, IdTable)
        callback_url = self._callback_url if by_id else f"{self._callback_url}/{token.text}"
        start.begin(record, callback_url, headers)
        return answer

    def recall(self, job: Job, key: str) -> Deferred[JobRecord | None]:
        """Return the job that this account has given this key to, if it was or may be started.

        :return: fails with :class:`IdempotencyKeyReused` if it is another job.
        """
        return execute(self._recall_here, key_digest_of(job, key), request_digest_of(job))

    def join(self, record: JobRecord, job: Job, preferences: Preferences) -> Deferred[JobRecord]:
        """Wait, as another client, for a job that is known already.

        :return: as :meth:`submit` does.
        :raises Overloaded: if no more clients can be held.
        """
        if record.result is None:
            self._admit(record)
        return self._hold(record, job, preferences)

    def find(self, job_id: str, preferences: Preferences) -> Deferred[JobRecord]:
        """Ask for a job by its handle, and wait for its outcome if the terms say so.

        :return: as :meth:`submit` does; fires with a job that has not ended when time is up.
        :raises NotFound: if nothing is known of it.
        :raises Overloaded: if no more clients can be held.
        """
        record = self.table.find(job_id)
        if record is None:
            raise NotFound
        if record.outcome is None:
            if preferences.wait is None:
                return succeed(record)
            self._check_room(record)
        return self.table.wait(record, self.hold_time(preferences), is_poll=True)

    def hold_time(self, preferences: Preferences) -> float:
        """Return the seconds for which a client is held at most."""
        return self._wait if preferences.wait is None else min(preferences.wait, self._wait)

    def list_orphans(self) -> Deferred[list[Orphan]]:
        """Return the results that nobody waited for or asked for since, the oldest first."""
        now = self.starter.clock.seconds()
        return succeed(
            [
                Orphan(record.job_id, record.upstream_id, record.result.body, now - record.ended)
                for record in self.table.orphans()
                if record.result is not None and record.ended is not None
            ]
        )

    def find_orphan(self, job_id: str) -> Deferred[bytes | None]:
        """Return the body of an orphan, if there is one of this handle."""
        return succeed(self.table.find_orphan(job_id))

    def drop_orphan(self, job_id: str) -> Deferred[None]:
        """Forget an orphan."""
        return execute(self.table.drop_orphan, job_id)

    def recognize(self, token: str) -> str:
        """Return the handle of the job that a callback's URL names.

        To be called before anything else of the callback is looked at.

        :param token: what the URL ends with; nothing is assumed of it.
        :raises NotFound: if it is not one of our tokens, just as for a path that does not exist.
        """
        job_id = self._signer.verify(token)
        if job_id is None:
            self.callbacks["forged"] += 1
            raise NotFound
        return job_id

    def deliver(self, job_id: str, body: bytes) -> Delivery | Deferred[Delivery]:
        """Take the callback of a recognized job.

        :raises InvalidJson: if the body is not a JSON object; the job goes on.
        :raises CallbackConflict: if it contradicts what is known of the job; the job goes on.
        """
        return self._count(lambda: self.table.complete(job_id, parse_report(body)))

    def deliver_by_id(self, body: bytes) -> Delivery:
        """Take a callback that only the job server's id tells from others.

        :raises InvalidJson: if the body is not a JSON object.
        :raises InvalidRequest: if it has no id.
        :raises CallbackConflict: if it contradicts what is known of the job.
        """
        table = self.table
        assert isinstance(table, IdTable)
        return self._count(lambda: table.complete_by_id(parse_report(body)))

    def reasons_not_ready(self) -> list[str]:
        """Return why jobs had better go to another proxy."""
        reasons = []
        if self.is_draining:
            reasons.append("draining")
        if not self.starter.job_server.circuit.allows:
            reasons.append("job-server-unreachable")
        return reasons

    def drain(self) -> None:
        """Take no more jobs, and start none of those that are queued."""
        self.is_draining = True
        self.table.fail_queued(_draining)

    def _recall_here(self, key_digest: bytes, request_digest: bytes) -> JobRecord | None:
        record = self.table.find_key(key_digest)
        if record is None or (record.state is State.ENDED and record.result is None):
            return None
        if record.request_digest != request_digest:
            raise IdempotencyKeyReused
        return record

    def _count(self, deliver: Callable[[], Delivery]) -> Delivery:
        result = "crash"
        try:
            delivery = deliver()
            result = delivery.value
        except CallbackConflict:
            result = "conflict"
            raise
        except Problem:
            result = "malformed"
            raise
        finally:
            self.callbacks[result] += 1
        return delivery

    def _admit(self, record: JobRecord | None = None) -> None:
        if self.is_draining:
            raise _mark(_draining(), record)
        self._check_room(record)

    def _check_room(self, record: JobRecord | None) -> None:
        if self.table.held >= self.max_held:
            problem = Overloaded(
                f"{self.max_held} clients are held already; try again when some are done.",
                retry_after=1,
            )
            raise _mark(problem, record)

    def _hold(self, record: JobRecord, job: Job, preferences: Preferences) -> Deferred[JobRecord]:
        is_async = preferences.is_async or not job.is_held
        seconds = self.hold_time(preferences)
        if record.state is State.UNCONFIRMED and record.cancel_start is None:
            # Nothing can come any more but the callback.
            seconds = min(seconds, self.starter.grace)
        until = State.RUNNING if is_async and preferences.wait is None else State.ENDED
        return self.table.wait(record, seconds, until=until, takes_state=is_async)


def _draining() -> Draining:
    return Draining("The proxy is about to stop, and starts no more jobs.", retry_after=1)


def _mark(problem: Problem, record: JobRecord | None) -> Problem:
    """Have a problem say what is known of the job, if there is one already."""
    if record is not None:
        record.mark(problem)
        problem.started = record.started
    return problem


def key_digest_of(job: Job, key: str) -> bytes:
    """Return what stands for an account's key."""
    # Neither can hold a zero byte, so that no two pairs look alike.
    return _digest(f"{job.account}\0{key}")


def request_digest_of(job: Job) -> bytes:
    """Return what stands for all that makes a job what it is."""
    # Whether the client waits does not make it another job.
    return _digest(job.parameters) if job.own_start is None else _digest(job.own_start.decode())


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()
