"""Requests about a job after its start, as its profile says: polls, results, cancels.

They need the client's credentials, which are kept in memory alone, with the job's ack. So after a
restart, and on other nodes, they are not made.
"""

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any, cast

from attrs import define, field, frozen
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
from jobproxy.profiles.messages import Message, Scope, read_headers
from jobproxy.profiles.profile import Profile
from jobproxy.profiles.readings import Reading, make_fetched, read_message
from jobproxy.profiles.requests import make_follow_headers
from jobproxy.upstream.job_server import is_due_to
from jobproxy.upstream.start_responses import read_retry_after
from jobproxy.upstream.thin_callbacks import ThinCallbacks
from jobproxy.util.backoff import Backoff
from jobproxy.util.deadline import Deadline
from jobproxy.util.steps import run_in_steps
from jobproxy.wire.reports import Report

_log = Logger()

#: Attempts to fetch a result that somebody waits for or can ask for, and of any other one.
MANY, FEW = 10, 3
#: Seconds from the first of these attempts to the last, whatever pause the job server asks for.
FETCH_TIME = 300.0
_NOT_FOUND = 404
#: Statuses after which to ask again is useless. Redirects are never followed.
_REFUSED = frozenset({*range(300, 400), 400, 401, 403, _NOT_FOUND, 405, 410, 422})


@frozen
class Answer:
    """What came of a request.

    :param message: of a success; :data:`None`: it failed.
    :param retry_after: seconds that the job server asks to wait.
    :param is_refused: whether to ask again is useless.
    """

    message: Message | None = None
    retry_after: float = 0.0
    is_refused: bool = False


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

    def __attrs_post_init__(self) -> None:
        self._pauses = Backoff(first=0.5, maximum=10.0, random=self._random, least=0.5)
        self.thin = ThinCallbacks(self._clock, self._fetch_thin, self._read_thin)

    @property
    def polls(self) -> bool:
        """Whether the job server is asked for jobs whose callback does not come."""
        return self._profile.poll is not None

    async def poll(self, record: JobRecord) -> Report | None:
        """Ask for a job until it has ended, or nobody wants its result; may be cancelled.

        :param record: with its ack.
        :return: the result; :data:`None`: only a callback can end the job.
        """
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
            answer = await self._ask("poll", rule.method, url, scope)
            if answer.is_refused:
                _log.warn("job {job} cannot be asked for any more", **record.log_fields)
                return None
            failures = 0 if answer.message is not None else failures + 1
            pause = max(answer.retry_after, rule.every)
            if answer.message is None:
                pause = max(pause, self._pauses.pause(failures))
                continue
            if answer.message.is_large:
                await run_in_steps(self._clock, answer.message.read_in_steps(is_strict=False))
            full = scope.with_message(answer.message)
            reading = read_message(self._profile, rule.reads, full, is_poll=True)
            if not reading.report.is_progress:
                return await self.fetch(record, scope, reading)

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
        return Deferred.fromCoroutine(
            self.fetch(record, scope, self.read_callback(record, message))
        )

    def read_callback(self, record: JobRecord, message: Message) -> Reading:
        """Return what a callback of a job says."""
        scope = (messages_of(record) or Scope()).with_message(message)
        return read_message(self._profile, self._profile.callback, scope)

    def _read_thin(self, message: Message) -> Report:
        return read_message(self._profile, self._profile.callback, Scope(message=message)).report

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
        is_good = 200 <= response.code < 300
        self.results[f"{purpose}-{'ok' if is_good else 'refused'}"] += 1
        wait = float(read_retry_after(cast(Any, response), self._now) or 0)
        if not is_good:
            # A job that has ended is known, but perhaps not yet to the server that is asked.
            is_early = purpose == "result" and response.code == _NOT_FOUND
            return Answer(None, wait, response.code in _REFUSED and not is_early)
        headers = read_headers(response, self._profile.headers.message)
        return Answer(Message(body, headers, status=response.code), wait)


def messages_of(record: JobRecord) -> Scope | None:
    """Return a job's request and ack, as long as they are kept."""
    found = None if record.ack is None else record.ack.messages
    return found.compact() if isinstance(found, Scope) else None


def is_wanted(record: JobRecord) -> bool:
    """Whether anybody waits for a job's result, or can come back for it."""
    return not record.is_ended and bool(record.waiters or record.may_be_asked_for)
