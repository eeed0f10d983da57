"""Start requests: a POST to the job server, and a name for each way in which it can end."""

import errno
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import define, field
from twisted.internet import error as errors
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web._newclient import RequestNotSent
from twisted.web.client import (
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
)
from twisted.web.iweb import IResponse

from jobproxy.http1.agent import Untrusted
from jobproxy.http1.client import CLOSE, PlainClient, read_body
from jobproxy.http1.response import BodyTooBig
from jobproxy.http1.tunnel import TunnelRefused
from jobproxy.upstream.circuit import Circuit
from jobproxy.upstream.keepalive import Call, KeepAlivePolicy
from jobproxy.upstream.start_errors import AmbiguousStart, Health, NotStarted, StartResult
from jobproxy.upstream.start_responses import read_ack
from jobproxy.util.deadline import Deadline
from jobproxy.util.histogram import Histogram
from jobproxy.wire.jobs import AnyJob
from jobproxy.wire.problems import Kind, Problem
from jobproxy.wire.refusals import REFUSALS
from jobproxy.wire.reports import Report
from jobproxy.wire.start_calls import StartCall

_log = Logger()

_NEVER_SENT = (
    errors.ConnectError,
    errors.ConnectingCancelledError,
    errors.DNSLookupError,
    RequestNotSent,
)
_MAYBE_SENT = (CancelledError, RequestGenerationFailed, RequestTransmissionFailed, ResponseFailed)
_CAUSES: dict[type[Exception], StartResult] = {
    errors.ConnectionRefusedError: "refused",
    errors.DNSLookupError: "dns",
    errors.TimeoutError: "no-connection",
}
_NO_SOCKETS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

Headers = Sequence[tuple[bytes, bytes]]


@define(eq=False)
class JobServer:
    """Sends start requests to the job server.

    :param url: where to POST them.
    :param timeout: seconds for one start request, from its connection to the end of its ack.
    :param keepalive: decides whether connections are kept.
    :param circuit: decides whether start requests are sent at all.
    :param now: returns Unix time in seconds, for a ``Retry-After`` with a date.
    :param max_ack: bytes of a response's body that are read; a larger one counts as empty.
    :param refusals: the problem of each refusal, by its status.
    :param headers: of all start requests, like credentials.
    :ivar results: the number of start requests by result, a label of the metrics.
    :ivar durations: of all start requests.
    """

    _treq: PlainClient = field(repr=False)
    _clock: IReactorTime = field(repr=False)
    _url: str
    _timeout: float
    _keepalive: KeepAlivePolicy = field(repr=False)
    circuit: Circuit
    _now: Callable[[], float] = time.time
    _max_ack: int = 65_536
    _refusals: Mapping[int, Kind] = field(default=REFUSALS, repr=False)
    _headers: Headers = field(default=(), repr=False)
    results: Counter[str] = field(factory=Counter, init=False)
    durations: Histogram = field(factory=Histogram, init=False)

    async def start(self, job: AnyJob, start: StartCall, headers: Headers = ()) -> Report:
        """Send one start request.

        :param start: the job's start request.
        :param headers: additional headers.
        :return: the ack; its id and state may be missing.
        :raises AmbiguousStart: if it is not known whether the job was started.
        :raises NotStarted: if the job certainly was not started.
        """
        is_probe = self.circuit.before_call(job.account)
        call = self._keepalive.begin(job.account)
        began = self._clock.seconds()
        is_acknowledged = False
        try:
            response, ack = await self._exchange(start, headers, call.may_keep)
            report = read_ack(job, response, ack, self._now, self._refusals)
            is_acknowledged = True
        except (NotStarted, AmbiguousStart) as error:
            self._record_failure(error.result, error.health, call, is_probe)
            raise
        except BaseException:
            self._record_failure("crash", Health.UNKNOWN, call, is_probe)
            raise
        finally:
            self._keepalive.end(call, is_acknowledged)
            self.durations.observe(self._clock.seconds() - began)
        self.circuit.record_success()
        self.results[_name_ack(report)] += 1
        return report

    def replace_headers(self, headers: Headers) -> None:
        """Send other headers with all start requests from now on."""
        self._headers = headers

    def _record_failure(
        self, result: StartResult, health: Health, call: Call, is_probe: bool
    ) -> None:
        """Count a failed start request, and report it to the circuit."""
        self.results[result] += 1
        if health is Health.ALIVE:
            self.circuit.record_success()
        elif health is Health.UNKNOWN:
            self.circuit.record_nothing(is_probe=is_probe)
        else:
            self.circuit.record_failure(health, call.account, call.sent, is_probe=is_probe)

    async def _exchange(
        self, start: StartCall, headers: Headers, may_keep: bool
    ) -> tuple[IResponse, bytes]:
        """Return the job server's response with its body, which is empty if it was too large.

        That of a refusal is empty, too, if it did not arrive. One deadline is for all of it.
        """
        common = start.headers if may_keep else (*start.headers, *CLOSE)
        waiting: Deferred[Any] = self._treq.request(
            start.method,
            start.url or self._url,
            headers=(*common, *headers, *self._headers),
            data=start.body,
        )
        kind: StartResult = "lost"
        response: IResponse | None = None

        def give_up() -> None:
            nonlocal kind
            kind = "timeout"
            waiting.cancel()

        deadline = Deadline(self._clock, self._timeout, give_up)
        try:
            response = await waiting
            waiting = read_body(response, self._max_ack)
            return response, await waiting
        except _NEVER_SENT as error:
            raise _never_sent(error) from error
        except Untrusted as error:
            problem = Problem(
                Kind.UPSTREAM_UNTRUSTED,
                "The job server's TLS certificate or protocol was not accepted.",
            )
            raise NotStarted(problem, "untrusted", Health.ALIVE) from error
        except (BodyTooBig, *_MAYBE_SENT) as error:
            response = response or getattr(error, "response", None)
            if response is not None and (
                response.code in self._refusals or is_due_to(error, BodyTooBig)
            ):
                return response, b""
            reason = f"no complete response: {type(error).__name__}"
            raise AmbiguousStart(reason, kind, Health.LOST) from error
        finally:
            deadline.cancel()


def _name_ack(report: Report) -> StartResult:
    if report.is_ended:
        return "inline"
    return "acknowledged" if report.upstream_id is not None else "no-id"


def _never_sent(error: Exception) -> NotStarted:
    """Return the error of a start request for which there was no connection."""
    if getattr(error, "osError", None) in _NO_SOCKETS:
        problem = Problem(
            Kind.OVERLOADED,
            "The proxy has no free socket for the start request; the job was not started.",
            retry_after=1,
        )
        return NotStarted(problem, "no-socket", Health.UNKNOWN)
    detail = "No connection to the job server could be made; the job was not started."
    if isinstance(error, TunnelRefused):
        detail = "The HTTP proxy made no connection to the job server; the job was not started."
        _log.warn("{error}", error=error)
    problem = Problem(Kind.UPSTREAM_UNREACHABLE, detail, retry_after=1)
    results = [result for cause, result in _CAUSES.items() if isinstance(error, cause)]
    return NotStarted(problem, (*results, "unreachable")[0], Health.DEAD, may_retry=True)


def is_due_to(error: Exception, *kinds: type[Exception]) -> bool:
    """Whether an error is of one of these kinds, or has one as a reason."""
    reasons = getattr(error, "reasons", ())
    return isinstance(error, kinds) or any(reason.check(*kinds) for reason in reasons)
