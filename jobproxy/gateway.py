"""The life of a job: admit, start, wait, deliver. Read this first."""

import math
from collections import Counter
from urllib.parse import urlsplit

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, succeed

from jobproxy.cluster.coordinator import Coordinator
from jobproxy.jobs import job_problems
from jobproxy.jobs.delivery import REFUSED_CALLBACKS, REFUSED_RESULTS, Delivery
from jobproxy.jobs.hold_times import HoldTimes
from jobproxy.jobs.record import JobRecord, Origin
from jobproxy.jobs.table import CorrelationTable
from jobproxy.jobs.unknown_words import UnknownWords
from jobproxy.thin_deliveries import ThinDeliveries
from jobproxy.upstream.redaction import reveals
from jobproxy.upstream.silence import Silence
from jobproxy.upstream.starts import Starter, StartRequest
from jobproxy.wire.jobs import AnyJob, key_digest_of
from jobproxy.wire.preferences import Preferences
from jobproxy.wire.problems import Kind, Problem, ProblemError, job_unknown, not_found
from jobproxy.wire.reports import ENDED, Report
from jobproxy.wire.tokens import JOB_ID_LENGTH, TokenSigner, is_job_id

#: Characters of a path that could be a secret; shorter ones occur in what job servers say.
MIN_SECRET = 16


@define(eq=False)
class Gateway:
    """The life of a job: starts it, holds its clients and receives its callbacks.

    :param coordinator: asks other nodes.
    :param callback_url: the public base of callback URLs, without a slash at its end.
    :param has_tokens: whether each job has a callback URL of its own, which ends with its token.
    :param hold_times: decides how long each client is held.
    :param max_held: the most clients held at once, and the most queued jobs.
    :param shows_accounts: whether the log and the operator may see a job's account.
    :param profile: the name of the profile by which the job server is spoken to; empty: the
        built-in one.
    :ivar is_leaving: whether the proxy is about to stop, so that it is not ready.
    :ivar is_draining: whether new jobs are refused for that reason.
    :ivar callbacks: the number of callbacks, by what became of them.
    :ivar thin: delivers callbacks that say only that a job has ended.
    """

    table: CorrelationTable
    starter: Starter
    coordinator: Coordinator
    _signer: TokenSigner
    _callback_url: str
    _has_tokens: bool = field(default=True, kw_only=True)
    hold_times: HoldTimes = field(kw_only=True)
    max_held: int = field(kw_only=True)
    shows_accounts: bool = field(default=False, kw_only=True)
    profile: str = field(default="", kw_only=True)
    is_leaving: bool = field(default=False, init=False)
    is_draining: bool = field(default=False, init=False)
    callbacks: Counter[str] = field(factory=Counter, init=False)
    thin: ThinDeliveries = field(init=False, repr=False)
    _silence: Silence = field(init=False)
    _unknown_words: UnknownWords = field(factory=UnknownWords, init=False)
    #: What tokens are valid for: one profile's job server must not end another one's jobs.
    _scope: bytes = field(init=False)
    #: What is secret of a callback URL that is the same for all jobs.
    _url_secrets: tuple[str, ...] = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._scope = self.profile.encode()
        path = urlsplit(self._callback_url).path
        self._url_secrets = (self._callback_url, *([path] if len(path) >= MIN_SECRET else []))
        self._silence = Silence(self.starter.job_server.results)
        self.thin = ThinDeliveries(
            self.table,
            self.coordinator,
            self.starter.follow_ups,
            self.profile,
            self.deliver,
            self._secure,
            self._count,
        )

    def submit(
        self, job: AnyJob, preferences: Preferences, request_id: bytes
    ) -> Deferred[JobRecord]:
        """Start a new job, and hold its client.

        :param request_id: is sent to the job server with the start request.
        :return: fires with the job's record when it has a result, or earlier if the preferences say
            so; or fails with a :class:`ProblemError` that says whether the job was started. Cancel
            it when the client has left: a queued job is then not started; a job that was started
            continues.
        :raises ProblemError: if the job is not accepted.
        """
        self._admit()
        self._check_queue(job, preferences)
        if not self.callbacks:
            self._silence.warn(self.callbacks)
        token = self._signer.mint(self._scope)
        key = preferences.key
        key_digest = key_digest_of(job, key) if key else None
        request_digest = job.digest() if key else b""
        origin = Origin(
            request_id,
            preferences.trace[0][1] if preferences.trace else None,
            job.account if self.shows_accounts else None,
        )
        start = self.starter.queue(job)
        record = self.table.create(
            token.job_id,
            start.cancel,
            key_digest=key_digest,
            request_digest=request_digest,
            origin=origin,
            account=job.account,
            profile=self.profile,
        )
        waiting = self._hold(record, job, preferences)
        url = f"{self._callback_url}/{token.text}" if self._has_tokens else self._callback_url
        secrets = (token.text, token.mac) if self._has_tokens else self._url_secrets
        headers = (*preferences.trace, (b"X-Request-Id", request_id))
        start.begin(record, StartRequest(url, secrets, headers))
        return waiting

    def find_by_key(self, job: AnyJob, key: str) -> Deferred[JobRecord | None]:
        """Return the record of the job with this key, unless it is certain that it was not started.

        :raises ProblemError: if the key belongs to another request; the Deferred can fail with the
            same, or with ``RESULT_GONE`` if the job was started and its result is not kept.
        """
        key_digest, request_digest = key_digest_of(job, key), job.digest()
        record = self.table.keys.find(key_digest)
        if record is not None and record.request_digest != request_digest:
            raise ProblemError(job_problems.key_reused())
        return self.coordinator.locate_key(key_digest, request_digest, record)

    def join(self, record: JobRecord, job: AnyJob, preferences: Preferences) -> Deferred[JobRecord]:
        """Hold another client for a job that has a record already.

        :return: as :meth:`submit` does.
        :raises ProblemError: if no more clients can be held.
        """
        self.coordinator.orphan_collected(record.job_id)
        if record.result is None:
            self._admit(record)
        return self._hold(record, job, preferences)

    def find(self, job_id: str, preferences: Preferences) -> Deferred[JobRecord]:
        """Return a job by its job id; hold the client until the job ends if the preferences say so.

        :return: as :meth:`submit` does, but at the deadline it fires with a record that has not
            ended.
        :raises ProblemError: if the job is unknown, or no more clients can be held; the Deferred
            can fail with the same.
        """
        locating = self.coordinator.locate(job_id)
        if locating is not None:
            # The table may have no room for the record.
            return locating.addCallback(self._poll, preferences)
        self.coordinator.orphan_collected(job_id)
        return self._poll(self._find_known(job_id), preferences)

    async def look_up(self, job_id: str) -> JobRecord:
        """Return a job by its job id, for whoever does not fetch its result.

        :raises ProblemError: if the job is unknown.
        """
        locating = self.coordinator.locate(job_id)
        # The table may have no room for the record.
        return self._find_known(job_id) if locating is None else await locating

    def _find_known(self, job_id: str) -> JobRecord:
        record = self.table.find(job_id)
        if record is None:
            raise job_unknown(job_id) if is_job_id(job_id) else not_found()
        return record

    def _poll(self, record: JobRecord, preferences: Preferences) -> Deferred[JobRecord]:
        if not record.is_ended:
            if preferences.wait is None:
                return succeed(record)
            self._check_room(record)
        seconds = self.hold_times.of(preferences)
        waiting = self.table.clients.wait(record, seconds, is_poll=True)
        return waiting.addErrback(job_problems.mark_own_wait)

    def verify(self, token: str) -> str:
        """Return the job id in a token; to be called before a callback's body is read.

        :param token: the end of the URL's path, which may be anything.
        :raises ProblemError: if it is not valid: the same problem as for a path that does not
            exist.
        """
        job_id = self._signer.verify(token, self.table.find, self._scope)
        if job_id is None:
            self.callbacks["forged"] += 1
            raise not_found()
        return job_id

    def deliver(self, job_id: str | None, report: Report) -> Delivery | Deferred[Delivery]:
        """Receive a callback.

        :param job_id: of its token; :data:`None`: the callback URL is the same for all jobs.
        :raises ProblemError: if the callback contradicts what is known of the job, which it then
            does not change; or if the result is not safe in the store, so that the job server has
            to send it again. The Deferred can fail with the same.
        """
        upstream_id = report.upstream_id or ""
        if job_id and len(upstream_id) > JOB_ID_LENGTH and reveals(upstream_id, f"{job_id}."):
            # The id of a job is shown and logged; its token must not be.
            report = evolve(report, upstream_id=None)
        if self.table.is_stopped:
            raise job_problems.keeps_nothing()
        circuit = self.starter.job_server.circuit
        if circuit.is_in_doubt and job_id is not None:
            circuit.record_callback()
        if job_id is not None and self.coordinator.is_elsewhere(job_id):
            return self.coordinator.relay(job_id, report).addCallback(self._count)
        delivery, record = self.table.complete(job_id, report, profile=self.profile)
        if delivery.is_refused:
            self.callbacks[REFUSED_RESULTS[delivery]] += 1
            raise ProblemError(REFUSED_CALLBACKS[delivery])
        self.callbacks[delivery.value] += 1
        if report.state not in ENDED and report.state is not None:
            self._unknown_words.note(report.state, delivery)
        return delivery if record is None else self._secure(record, delivery)

    def _secure(self, record: JobRecord, delivery: Delivery) -> Delivery | Deferred[Delivery]:
        securing = self.coordinator.secure(record)
        return delivery if securing is None else securing.addCallback(lambda _: delivery)

    def _count(self, delivery: Delivery) -> Delivery:
        """Count a callback, also one of another node's job, by what became of it."""
        self.callbacks[delivery.value] += 1
        return delivery

    def find_named(self, job_id: str | None, upstream_id: str | None) -> JobRecord | None:
        """Return the record of a callback, by its token's job id or by its upstream id."""
        if job_id is not None:
            return self.table.find(job_id)
        return self.table.indexes.of(self.profile).find(upstream_id)

    async def cancel(self, job_id: str) -> bool:
        """Ask the job server to cancel a job; return whether it has agreed.

        :raises ProblemError: if the job is unknown, has ended, or cannot be cancelled.
        """
        record, follow_ups = await self.look_up(job_id), self.starter.follow_ups
        if follow_ups is None or not follow_ups.can_cancel(record):
            detail = (
                "This job cannot be cancelled: it has ended, its API has no way to do it, or "
                "another process has started it, as only that one has the credentials."
            )
            raise _refusal(Problem(Kind.METHOD_NOT_ALLOWED, detail, allowed=("GET",)), record)
        return await follow_ups.cancel(record)

    def is_token(self, text: str) -> bool:
        """Whether a callback with this token would be received, whatever its body is."""
        return self._signer.verify(text, self.table.find, self._scope) is not None

    @property
    def is_unheard(self) -> bool:
        """Whether many jobs were acknowledged, and no callback has ever come."""
        is_heard = self.table.has_news_from_elsewhere or self.starter.polls
        return not is_heard and self._silence.is_broken(self.callbacks)

    def reasons_not_ready(self) -> list[str]:
        """Return why a load balancer should send jobs to another proxy.

        A job server that is away is no reason: it is away for the others as well.
        """
        reasons = ["draining"] if self.is_leaving else []
        return reasons + self.coordinator.reasons_not_ready()

    def leave(self) -> None:
        """Be not ready, but accept jobs as before."""
        self.is_leaving = True

    def drain(self) -> None:
        """Accept no new jobs, and end the queued ones without a start."""
        self.leave()
        self.is_draining = True
        self.starter.drain()
        self.table.fail_queued(job_problems.draining())

    def _check_queue(self, job: AnyJob, preferences: Preferences) -> None:
        """Refuse a job that could not be started before its deadline."""
        limiter = self.starter.limiter
        if limiter.queued >= self.max_held:
            detail = f"{self.max_held} jobs are queued already; try again when some are started."
            raise ProblemError(Problem(Kind.OVERLOADED, detail, retry_after=1))
        paused = limiter.paused_for(job.account)
        if paused > self.hold_times.of(preferences):
            problem = Problem(
                Kind.UPSTREAM_BUSY,
                "The job server accepts no jobs of this account for some time.",
                upstream_status=503,
                retry_after=math.ceil(round(paused, 3)),
            )
            raise ProblemError(problem)

    def _admit(self, record: JobRecord | None = None) -> None:
        if self.is_draining:
            raise _refusal(job_problems.draining(), record)
        self._check_room(record)

    def _check_room(self, record: JobRecord | None) -> None:
        if self.table.clients.held >= self.max_held:
            detail = f"{self.max_held} clients are held already; try again when some have left."
            raise _refusal(Problem(Kind.OVERLOADED, detail, retry_after=1), record)

    def _hold(
        self, record: JobRecord, job: AnyJob, preferences: Preferences
    ) -> Deferred[JobRecord]:
        is_async = preferences.is_async or not job.is_held
        waiting = self.table.clients.wait(
            record,
            self.hold_times.for_job(record, preferences),
            ack_is_enough=is_async and preferences.wait is None,
            takes_state=is_async,
        )
        if preferences.wait is not None and preferences.wait < self.hold_times.longest:
            waiting.addErrback(job_problems.mark_own_wait)
        if not self.callbacks:
            waiting.addErrback(self._silence.explain, self.callbacks)
        if self.starter.follow_ups is not None:
            waiting.addErrback(self.starter.follow_ups.client_left, record)
        return self.coordinator.remember(waiting, record, is_async=is_async)


def _refusal(problem: Problem, record: JobRecord | None) -> ProblemError:
    """Return an error that names the job, if there is one, and says whether it was started."""
    if record is not None:
        problem = evolve(job_problems.about(record, problem), started=record.started)
    return ProblemError(problem)
