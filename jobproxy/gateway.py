"""A job's way: admitted, started when its lane has a place, waited for, answered."""

import math
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b

from attrs import define, field
from twisted.internet.defer import Deferred, execute, succeed

from jobproxy.correlation import CorrelationTable
from jobproxy.entries import Delivery, Entry, Origin, Orphan, State
from jobproxy.fixed import IdTable
from jobproxy.messages import Job, parse_report
from jobproxy.problems import (
    CallbackConflict,
    Draining,
    IdempotencyKeyReused,
    NotFound,
    Overloaded,
    Problem,
    UpstreamBusy,
)
from jobproxy.starts import Starter
from jobproxy.terms import Terms
from jobproxy.tokens import TokenSigner


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

    def submit(self, job: Job, terms: Terms, request_id: bytes) -> Deferred[Entry]:
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
        if self.starter.lanes.queued >= self.max_held:
            raise Overloaded(
                f"{self.max_held} jobs are queued already; try again when some are started.",
                retry_after=1,
            )
        paused = self.starter.lanes.paused_for(job.account)
        if paused > self.hold_time(terms):
            raise UpstreamBusy(
                "The job server takes no jobs of this account for some time.",
                upstream_status=503,
                retry_after=math.ceil(round(paused, 3)),
            )
        start = self.starter.queue(job)
        token = self._signer.mint()
        entry = self.table.expect(
            token.handle,
            start.withdraw,
            alias=alias_of(job, terms.key) if terms.key else None,
            fingerprint=fingerprint_of(job) if terms.key else b"",
            origin=Origin(
                request_id,
                terms.trace[0][1] if terms.trace else None,
                job.account if self.shows_accounts else None,
            ),
        )
        answer = self._hold(entry, job, terms)
        headers = (*terms.trace, (b"x-request-id", request_id))
        by_id = isinstance(self.table, IdTable)
        callback_url = self._callback_url if by_id else f"{self._callback_url}/{token.text}"
        start.begin(entry, callback_url, headers)
        return answer

    def recall(self, job: Job, key: str) -> Deferred[Entry | None]:
        """Return the job that this account has given this key to, if it was or may be started.

        :return: fails with :class:`IdempotencyKeyReused` if it is another job.
        """
        return execute(self._recall_here, alias_of(job, key), fingerprint_of(job))

    def join(self, entry: Entry, job: Job, terms: Terms) -> Deferred[Entry]:
        """Wait, as another client, for a job that is known already.

        :return: as :meth:`submit` does.
        :raises Overloaded: if no more clients can be held.
        """
        if entry.result is None:
            self._admit(entry)
        return self._hold(entry, job, terms)

    def find(self, handle: str, terms: Terms) -> Deferred[Entry]:
        """Ask for a job by its handle, and wait for its outcome if the terms say so.

        :return: as :meth:`submit` does; fires with a job that has not ended when time is up.
        :raises NotFound: if nothing is known of it.
        :raises Overloaded: if no more clients can be held.
        """
        entry = self.table.find(handle)
        if entry is None:
            raise NotFound
        if entry.outcome is None:
            if terms.wait is None:
                return succeed(entry)
            self._check_room(entry)
        return self.table.wait(entry, self.hold_time(terms), is_poll=True)

    def hold_time(self, terms: Terms) -> float:
        """Return the seconds for which a client is held at most."""
        return self._wait if terms.wait is None else min(terms.wait, self._wait)

    def list_orphans(self) -> Deferred[list[Orphan]]:
        """Return the results that nobody waited for or asked for since, the oldest first."""
        now = self.starter.clock.seconds()
        return succeed(
            [
                Orphan(entry.handle, entry.job_id, entry.result.body, now - entry.ended)
                for entry in self.table.orphans()
                if entry.result is not None and entry.ended is not None
            ]
        )

    def find_orphan(self, handle: str) -> Deferred[bytes | None]:
        """Return the body of an orphan, if there is one of this handle."""
        return succeed(self.table.find_orphan(handle))

    def drop_orphan(self, handle: str) -> Deferred[None]:
        """Forget an orphan."""
        return execute(self.table.drop_orphan, handle)

    def recognize(self, token: str) -> str:
        """Return the handle of the job that a callback's URL names.

        To be called before anything else of the callback is looked at.

        :param token: what the URL ends with; nothing is assumed of it.
        :raises NotFound: if it is not one of our tokens, just as for a path that does not exist.
        """
        handle = self._signer.verify(token)
        if handle is None:
            self.callbacks["forged"] += 1
            raise NotFound
        return handle

    def deliver(self, handle: str, body: bytes) -> Delivery | Deferred[Delivery]:
        """Take the callback of a recognized job.

        :raises InvalidJson: if the body is not a JSON object; the job goes on.
        :raises CallbackConflict: if it contradicts what is known of the job; the job goes on.
        """
        return self._count(lambda: self.table.complete(handle, parse_report(body)))

    def deliver_by_id(self, body: bytes) -> Delivery:
        """Take a callback that only the job server's id tells from others.

        :raises InvalidJson: if the body is not a JSON object.
        :raises InvalidRequest: if it has no id.
        :raises CallbackConflict: if it contradicts what is known of the job.
        """
        table = self.table
        assert isinstance(table, IdTable)
        return self._count(lambda: table.complete_by_id(parse_report(body)))

    def find_reasons(self) -> list[str]:
        """Return why jobs had better go to another proxy."""
        reasons = []
        if self.is_draining:
            reasons.append("draining")
        if not self.starter.job_server.circuit.is_passable:
            reasons.append("job-server-unreachable")
        return reasons

    def drain(self) -> None:
        """Take no more jobs, and start none of those that are queued."""
        self.is_draining = True
        self.table.fail_queued(_draining)

    def _recall_here(self, alias: bytes, fingerprint: bytes) -> Entry | None:
        entry = self.table.find_alias(alias)
        if entry is None or (entry.state is State.ENDED and entry.result is None):
            return None
        if entry.fingerprint != fingerprint:
            raise IdempotencyKeyReused
        return entry

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

    def _admit(self, entry: Entry | None = None) -> None:
        if self.is_draining:
            raise _mark(_draining(), entry)
        self._check_room(entry)

    def _check_room(self, entry: Entry | None) -> None:
        if self.table.held >= self.max_held:
            problem = Overloaded(
                f"{self.max_held} clients are held already; try again when some are done.",
                retry_after=1,
            )
            raise _mark(problem, entry)

    def _hold(self, entry: Entry, job: Job, terms: Terms) -> Deferred[Entry]:
        is_async = terms.is_async or not job.is_held
        seconds = self.hold_time(terms)
        if entry.state is State.UNCONFIRMED and entry.withdraw is None:
            # Nothing can come any more but the callback.
            seconds = min(seconds, self.starter.grace)
        until = State.RUNNING if is_async and terms.wait is None else State.ENDED
        return self.table.wait(entry, seconds, until=until, takes_state=is_async)


def _draining() -> Draining:
    return Draining("The proxy is about to stop, and starts no more jobs.", retry_after=1)


def _mark(problem: Problem, entry: Entry | None) -> Problem:
    """Have a problem say what is known of the job, if there is one already."""
    if entry is not None:
        entry.mark(problem)
        problem.started = entry.started
    return problem


def alias_of(job: Job, key: str) -> bytes:
    """Return what stands for an account's key."""
    # Neither can hold a zero byte, so that no two pairs look alike.
    return _digest(f"{job.account}\0{key}")


def fingerprint_of(job: Job) -> bytes:
    """Return what stands for all that makes a job what it is."""
    # Whether the client waits does not make it another job.
    return _digest(job.parameters) if job.own_start is None else _digest(job.own_start.decode())


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()
