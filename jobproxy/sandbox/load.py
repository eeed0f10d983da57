"""The loop of a load: sends jobs one after another, or at a rate whatever the responses do."""

import math
from collections.abc import Callable
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from twisted.web.iweb import IResponse

from jobproxy.http1.client import PlainClient, read_body
from jobproxy.sandbox.load_outcomes import JobFailed, Judge, Outcome, name_failure
from jobproxy.sandbox.load_requests import LoadRequests

#: Bytes of a response at most.
MAX_BODY = 1_000_000
#: Seconds by which a job may be sent too early, so that rounding does not cost a turn of the loop.
_EARLY = 1e-6


@frozen
class Plan:
    """When the jobs of a load start, and when it ends.

    :param concurrency: requests at once at most.
    :param timeout: seconds for one response, from when the job should have been sent.
    :param jobs: the number of jobs; None: the duration alone ends the load.
    :param duration: seconds after which no further job starts; None: the number of jobs alone
        ends it.
    :param rate: jobs per second, whatever the responses do; None: each response starts the next
        job.
    """

    concurrency: int
    timeout: float
    jobs: int | None = None
    duration: float | None = None
    rate: float | None = None

    @property
    def last(self) -> float:
        """The number of the last job; infinite if only the clock ends the load."""
        last: float = math.inf if self.jobs is None else self.jobs
        if self.rate is not None and self.duration is not None:
            last = min(last, math.ceil(round(self.rate * self.duration, 6)))
        return last


@define(eq=False)
class LoadLoop:
    """Runs one load.

    A job that has no place among the requests at once waits for one, without memory of its own:
    its number says when it should have been sent, and its latency begins there.

    :param judge: says which responses are a success.
    :param record: is called with each outcome.
    :ivar active: the number of requests without a response.
    """

    _client: PlainClient
    _clock: IReactorTime
    _plan: Plan
    _requests: LoadRequests
    _judge: Judge
    _record: Callable[[Outcome], object]
    _begun: float = field(default=0.0, init=False)
    _number: int = field(default=1, init=False)
    _last: float = field(init=False)
    #: By number of the job, in the order of their deadlines.
    _held: dict[int, tuple[float, Deferred[Any]]] = field(factory=dict, init=False, repr=False)
    _late: set[int] = field(factory=set, init=False)
    _sending: bool = field(default=False, init=False)
    _start_timer: IDelayedCall | None = field(default=None, init=False)
    _deadline_timer: IDelayedCall | None = field(default=None, init=False)
    _ended: Deferred[float] = field(factory=Deferred, init=False)
    active: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._last = self._plan.last

    def run(self) -> Deferred[float]:
        """Run the load; must be called once.

        :return: fires with the seconds that it took.
        """
        self._begun = self._clock.seconds()
        self._send_due()
        return self._ended

    def stop(self) -> None:
        """End the load now; the jobs without a response have no outcome."""
        self._last = 0
        self._record = _ignore
        for _, exchange in list(self._held.values()):
            exchange.cancel()
        self._send_due()

    def _send_due(self) -> None:
        """Send all jobs that are due and have a place; end the load after the last one."""
        if self._sending or self._ended.called:
            return
        self._sending = True
        wait = self._send_until_none_is_due()
        self._sending = False
        if wait is not None and self._start_timer is None:
            self._start_timer = self._clock.callLater(wait, self._wake)
        elif self._number > self._last and not self.active:
            self._end()

    def _send_until_none_is_due(self) -> float | None:
        """Return the seconds until another job is due; None: only a response makes it so."""
        plan, rate = self._plan, self._plan.rate
        while self.active < plan.concurrency and self._number <= self._last:
            now = self._clock.seconds()
            if rate is None:
                start = now
                if plan.duration is not None and now - self._begun >= plan.duration:
                    self._last = self._number - 1
                    break
            else:
                start = self._begun + (self._number - 1) / rate
                if start - now > _EARLY:
                    return start - now
            number = self._number
            self._number += 1
            if now - start < plan.timeout:
                self._send(number, start, now)
            else:
                error = JobFailed(None, "", f"not sent: no free connection in {plan.timeout:g} s")
                account, _, _ = self._requests.make(number)
                self._record(Outcome(number, account, start, now, now, error=error.error))
        return None

    def _wake(self) -> None:
        self._start_timer = None
        self._send_due()

    def _send(self, number: int, start: float, now: float) -> None:
        account, headers, body = self._requests.make(number)
        self.active += 1
        try:
            exchange: Deferred[Any] = self._client.request(
                "POST", self._requests.url, headers=headers, data=body
            )
        except Exception:  # any failure of a job is counted
            exchange = Deferred()
            exchange.errback(Failure())
        deadline = start + self._plan.timeout
        self._held[number] = (deadline, exchange)
        if self._deadline_timer is None:
            self._deadline_timer = self._clock.callLater(deadline - now, self._check_deadlines)
        exchange.addCallback(self._read, number, account, start, now)
        exchange.addErrback(self._fail, number, account, start, now)
        exchange.addCallback(self._finish, number)

    def _read(
        self, response: IResponse, number: int, account: str, start: float, sent: float
    ) -> Deferred[Outcome]:
        def judge(body: bytes) -> Outcome:
            end, status = self._clock.seconds(), response.code
            # Only the first one of several is of interest.
            request_id = (response.headers.getRawHeaders("x-request-id") or [""])[0]
            try:
                job = self._judge(status, body)
            except JobFailed as failed:
                return Outcome(
                    number, account, start, sent, end, status, request_id, error=failed.error
                )
            return Outcome(number, account, start, sent, end, status, request_id, job=job)

        return read_body(response, MAX_BODY).addCallback(judge)

    def _fail(
        self, failure: Failure, number: int, account: str, start: float, sent: float
    ) -> Outcome:
        is_late = number in self._late
        assert failure.value is not None
        name = TimeoutError.__name__ if is_late else name_failure(failure.value)
        error = JobFailed(None, "", name).error
        return Outcome(number, account, start, sent, self._clock.seconds(), error=error)

    def _finish(self, outcome: Outcome, number: int) -> None:
        self._held.pop(number, None)
        self._late.discard(number)
        self.active -= 1
        self._record(outcome)
        self._send_due()

    def _check_deadlines(self) -> None:
        """Give up the jobs whose time is over, and set the timer for the next one."""
        # The timer stays until the end of this method: jobs that are sent meanwhile need no other.
        now = self._clock.seconds()
        while self._held:
            number, (deadline, exchange) = next(iter(self._held.items()))
            if deadline > now:
                self._deadline_timer = self._clock.callLater(deadline - now, self._check_deadlines)
                return
            self._late.add(number)
            exchange.cancel()
        self._deadline_timer = None

    def _end(self) -> None:
        for timer in (self._start_timer, self._deadline_timer):
            if timer is not None and timer.active():
                timer.cancel()
        self._ended.callback(self._clock.seconds() - self._begun)


def _ignore(outcome: Outcome) -> None:
    """Forget an outcome."""
