"""Requests about a job after its start, as its profile says: polls, results, cancels.

They need the client's credentials, which are kept in memory alone, with the job's ack. So after a
restart, and on other nodes, they are not made.
"""

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any, cast

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from jobproxy.http1.client import CLOSE, PlainClient, read_body
from jobproxy.http1.response import BodyTooBig, Response
from jobproxy.jobs.record import JobRecord
from jobproxy.profiles.expressions import Template
from jobproxy.profiles.hosts import is_allowed
from jobproxy.profiles.messages import Message, Scope
from jobproxy.profiles.profile import Profile
from jobproxy.profiles.readings import Reading, make_fetched, read_message
from jobproxy.profiles.requests import make_follow_headers
from jobproxy.upstream.answers import Answer, judge
from jobproxy.upstream.job_server import is_due_to
from jobproxy.upstream.thin_callbacks import ThinCallbacks
from jobproxy.util.backoff import Backoff
from jobproxy.util.deadline import Deadline
from jobproxy.util.idle import IdleNotifier
from jobproxy.util.steps import run_in_steps
from jobproxy.wire.reports import Report

_log = Logger()

#: Attempts to fetch a result that somebody waits for or can ask for, and of any other one.
MANY, FEW = 10, 3
#: Seconds from the first of these attempts to the last, whatever pause the job server asks for.
FETCH_TIME = 300.0


@define(eq=False)
class FollowUps:
    """Asks a job server about jobs that it has started.

    :param timeout: seconds for one request.
    :param max_body: bytes of a response's body.
    :param now: returns Unix time in seconds, for a ``Retry-After`` with a date.
    :ivar results: the number of requests, by purpose and result.
    :ivar thin: the callbacks whose result is being fetched.
    """

    _client: PlainClient = field(repr=False)
    _clock: IReactorTime = field(repr=False)
    _profile: Profile
    _timeout: float
    _max_body: int
    _random: Random = field(repr=False)
    _now: Callable[[], float]
    results: Counter[str] = field(factory=Counter, init=False)
    _pauses: Backoff = field(init=False)
    thin: ThinCallbacks = field(init=False, repr=False)
    #: The job ids of the polls that have no response, or whose result is being fetched.
    _asking: set[str] = field(factory=set, init=False, repr=False)
    _idle: IdleNotifier = field(factory=IdleNotifier, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._pauses = Backoff(first=0.5, maximum=10.0, random=self._random, least=0.5)
        self.thin = ThinCallbacks(self._clock, self._fetch_thin, self._read_thin)

    @property
    def polls(self) -> bool:
        """Whether the job server is asked for jobs whose callback does not come."""
        return self._profile.poll is not None

    async def when_idle(self) -> None:
        """Wait until nothing is being asked for: no thin callback's result, and no job."""
        while self.thin or self._asking:
            await self.thin.when_idle()
            await self._idle.wait(is_idle=not self._asking)

    def poll(self, record: JobRecord, complete: Callable[[str, Report], Any]) -> Deferred[None]:
        """Ask for a job until it has ended, or nobody wants its result.

        :param record: with its ack.
        :param complete: is called with the job id and the result, unless only a callback can end
            the job.
        :return: fires when nothing is asked any more; may be cancelled.
        """

        def deliver(report: Report | None) -> None:
            if report is not None and not record.is_ended:
                complete(record.job_id, report)

        polling = Deferred.fromCoroutine(self._poll(record)).addCallback(deliver)
        return polling.addBoth(self._rest, record)

    def _rest(self, outcome: Any, record: JobRecord) -> Any:
        """Note that a job is not being asked for at the moment; return the outcome."""
        self._asking.discard(record.job_id)
        if not self._asking:
            self._idle.notify()
        return outcome

    async def _poll(self, record: JobRecord) -> Report | None:
        rule, scope = self._profile.poll, messages_of(record)
        assert rule is not None
        url = None if scope is None else self._find_url(rule.url, scope)
        if url is None or scope is None:
            _log.warn("job {job} cannot be asked for: its ack has no URL", **record.log_fields)
            return None
        failures, pause = 0, rule.after
        while True:
            await deferLater(self._clock, pause * self._random.uniform(0.9, 1.0))
            if not is_wanted(record):
                return None
            quiet = self._clock.seconds() - (record.last_report or 0.0)
            if quiet < 0.9 * rule.after:
                # A callback has said that the job goes on.
                pause = rule.after - quiet
                continue
            self._asking.add(record.job_id)
            answer = await self._ask("poll", rule.method, url, scope)
            if answer.is_refused:
                _log.warn("job {job} cannot be asked for any more", **record.log_fields)
                return None
            failures = 0 if answer.message is not None else failures + 1
            pause = max(answer.retry_after, rule.every)
            if answer.message is None:
                pause = max(pause, self._pauses.pause(failures))
                self._rest(None, record)
                continue
            if answer.message.is_large:
                await run_in_steps(self._clock, answer.message.read_in_steps(is_strict=False))
            full = scope.with_message(answer.message)
            reading = read_message(self._profile, rule.reads, full, is_poll=True)
            if not reading.report.is_progress:
                return await self.fetch(record, scope, reading)
            self._rest(None, record)

    async def fetch(self, record: JobRecord, scope: Scope, reading: Reading) -> Report:
        """Return the result that a thin message has announced; the message, if it cannot be had.

        :param scope: with the request and the ack.
        """
        url, failures, end = reading.result_url, 0, self._clock.seconds() + FETCH_TIME
        if url is None or scope.request is None:
            return reading.report
        if not self._may_ask(self._profile.callback.url, url):
            _log.warn("the URL of the result of job {job} is not allowed", **record.log_fields)
            return reading.report
        while True:
            answer = await self._ask("result", "GET", url, scope)
            if answer.message is not None:
                return make_fetched(reading.report, answer.message)
            if self.thin.is_stopped:
                # The client may report a cancelled request as one that failed.
                raise CancelledError
            failures += 1
            is_last = failures >= (MANY if is_wanted(record) else FEW)
            left = end - self._clock.seconds()
            if is_last or answer.is_refused or left <= 0:
                _log.warn("the result of job {job} cannot be fetched", **record.log_fields)
                return reading.report
            pause = max(answer.retry_after, self._pauses.pause(failures))
            await deferLater(self._clock, min(pause, left))

    def fetch_early(
        self, record: JobRecord, parked: Report | None, complete: Callable[[str, Report], Any]
    ) -> None:
        """Fetch the result that a thin callback has announced before the ack.

        :param parked: the callback, if it was told 200 already.
        :param complete: is called with the job id and the result of such a callback.
        """
        scope = None if parked is None else parked.messages
        if isinstance(scope, Scope) and scope.message is not None:
            self.thin.receive_parked(
                record, scope.message, lambda report: complete(record.job_id, report)[0]
            )
        else:
            self.thin.begin(record)

    def _fetch_thin(self, record: JobRecord, message: Message) -> Deferred[Report]:
        """Return the result that a thin callback has announced."""
        scope = messages_of(record) or Scope()
        return Deferred.fromCoroutine(self.fetch(record, scope, self._read(scope, message)))

    def read_callback(self, record: JobRecord, message: Message) -> Reading:
        """Return what a callback of a job says."""
        return self._read(messages_of(record) or Scope(), message)

    def _read_thin(self, message: Message) -> Report:
        return self._read(Scope(), message).report

    def _read(self, scope: Scope, message: Message) -> Reading:
        full = scope.with_message(message)
        return read_message(self._profile, self._profile.callback, full)

    def client_left(self, failure: Failure, record: JobRecord) -> Failure:
        """Cancel a job whose last client has left, if nobody can come back for it.

        :param failure: of the client's Deferred.
        :return: the same.
        """
        if failure.check(CancelledError) and not is_wanted(record) and self.can_cancel(record):
            Deferred.fromCoroutine(self.cancel(record)).addErrback(self._log_crash, record)
        return failure

    def _log_crash(self, failure: Failure, record: JobRecord) -> None:
        _log.failure(
            "a request about job {job} crashed", failure, LogLevel.critical, **record.log_fields
        )

    async def cancel(self, record: JobRecord) -> bool:
        """Ask the job server to cancel a job; return whether it has agreed."""
        rule, scope = self._profile.cancel, messages_of(record)
        url = None if rule is None or scope is None else self._find_url(rule.url, scope)
        if rule is None or scope is None or url is None:
            return False
        answer = await self._ask("cancel", rule.method, url, scope)
        words = "is cancelled" if answer.message is not None else "could not be cancelled"
        _log.info("job {job} {words}", **record.log_fields, words=words)
        return answer.message is not None

    def can_cancel(self, record: JobRecord) -> bool:
        """Whether there is a way to cancel a job that runs."""
        is_known = messages_of(record) is not None and not record.is_ended
        return self._profile.cancel is not None and is_known

    def _find_url(self, template: Template, scope: Scope) -> str | None:
        url = template.render_url(scope)
        return url if url is not None and self._may_ask(template, url) else None

    def _may_ask(self, template: Template | None, url: str) -> bool:
        """Whether the client's credentials may go to a URL.

        :param template: of which it was made: its own host is that of the profile's author.
        """
        if template is not None and template.sole is None:
            return True
        start = self._profile.start.url
        return is_allowed(url, self._profile.limits.hosts, "" if start is None else start.text)

    async def _ask(self, purpose: str, method: str, url: str, scope: Scope) -> Answer:
        """Send one request with the client's credentials."""
        assert scope.request is not None
        headers = (*make_follow_headers(self._profile, scope.request), *CLOSE)
        waiting: Deferred[Any] = self._client.request(method, url, headers=headers, data=b"")
        is_late = False

        def give_up() -> None:
            nonlocal is_late
            is_late = True
            waiting.cancel()

        deadline = Deadline(self._clock, self._timeout, give_up)
        try:
            response = await waiting
            waiting = read_body(response, self._max_body)
            body = await waiting
        except CancelledError:
            if not is_late:
                raise
            self.results[f"{purpose}-timeout"] += 1
            return Answer()
        except Exception as error:  # whatever it was: the request is repeated or given up
            if is_due_to(error, BodyTooBig):
                self.results[f"{purpose}-too-large"] += 1
                return Answer(is_refused=True)
            self.results[f"{purpose}-failed"] += 1
            _log.debug("{purpose}: {error}", purpose=purpose, error=type(error).__name__)
            return Answer()
        finally:
            deadline.cancel()
        return self._judge(purpose, cast(Response, response), body)

    def _judge(self, purpose: str, response: Response, body: bytes) -> Answer:
        names = self._profile.headers.message
        answer = judge(response, body, names, self._now, is_of_ended=purpose == "result")
        is_good = answer.message is not None
        self.results[f"{purpose}-{'ok' if is_good else 'refused'}"] += 1
        return answer


def messages_of(record: JobRecord) -> Scope | None:
    """Return a job's request and ack, as long as they are kept."""
    found = None if record.ack is None else record.ack.messages
    return found.compact() if isinstance(found, Scope) else None


def is_wanted(record: JobRecord) -> bool:
    """Whether anybody waits for a job's result, or can come back for it."""
    return not record.is_ended and bool(record.waiters or record.may_be_asked_for)
