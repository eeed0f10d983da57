"""Start calls: a POST to the job server through treq, and a name for every way it can end."""

import errno
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timezone
from email.utils import parsedate_to_datetime
from math import ceil
from typing import Any

from attrs import define, field, frozen
from twisted.internet import error as errors
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web._newclient import RequestNotSent
from twisted.web.client import (
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
)
from twisted.web.iweb import IResponse

from jobproxy.http1.agent import UNTRUSTED
from jobproxy.http1.client import CLOSE, JSON, BodyTooBig, PlainClient, read_body
from jobproxy.upstream.circuit import Circuit
from jobproxy.upstream.keepalive import KeepAlivePolicy
from jobproxy.util.deadline import Deadline
from jobproxy.util.histogram import Histogram
from jobproxy.wire.jobs import Report, parse_report
from jobproxy.wire.problems import (
    InvalidJson,
    Overloaded,
    Problem,
    UpstreamAuth,
    UpstreamBusy,
    UpstreamRedirect,
    UpstreamRejected,
    UpstreamUnreachable,
    UpstreamUntrusted,
)

MAX_ACK = 65_536
MAX_RETRY_AFTER = 3_600

_NEVER_SENT = (
    errors.ConnectError,
    errors.ConnectingCancelledError,
    errors.DNSLookupError,
    RequestNotSent,
)
_PERHAPS_SENT = (CancelledError, RequestGenerationFailed, RequestTransmissionFailed, ResponseFailed)
_CAUSES = {
    errors.ConnectionRefusedError: "refused",
    errors.DNSLookupError: "dns",
    errors.TimeoutError: "no-connection",
}
_REJECTIONS = frozenset({400, 404, 409, 410, 422})
_NO_SOCKETS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

Headers = Sequence[tuple[bytes, bytes]]


class AmbiguousStart(Exception):
    """The start may have reached the job server, although no usable ack came back.

    :param kind: one word for it.
    :param is_alive: whether the job server seems to be well nevertheless.
    """

    def __init__(self, reason: str, kind: str, *, is_alive: bool = False) -> None:
        super().__init__(reason)
        self.kind = kind
        self.is_alive = is_alive


@frozen
class _Answer:
    response: IResponse
    #: None if it did not come to its end, or was too big.
    body: bytes | None


@define(eq=False)
class JobServer:
    """The job server, as far as we call it.

    :param url: where starts are POSTed to.
    :param timeout: seconds for one start call, from its connect to the end of its ack.
    :param keepalive: says whether connections may be kept.
    :param circuit: says whether there may be start calls at all.
    :param now: Unix time in seconds, for dates that the job server tells.
    :ivar results: how many start calls ended how.
    """

    _treq: PlainClient = field(repr=False)
    _clock: IReactorTime = field(repr=False)
    _url: str
    _timeout: float
    _keepalive: KeepAlivePolicy = field(repr=False)
    circuit: Circuit
    _now: Callable[[], float] = time.time
    results: Counter[str] = field(factory=Counter, init=False)
    durations: Histogram = field(factory=Histogram, init=False)

    async def start(self, account: str, body: bytes, headers: Headers = ()) -> Report:
        """Start a job.

        :param account: whose job it is.
        :param body: the start call's body, JSON.
        :param headers: what else the job server is told.
        :return: the ack; without an id and a state if the job server left them out.
        :raises AmbiguousStart: if it is not known whether the job was started.
        :raises Problem: if it certainly was not: one of the ``Upstream…`` kinds.
        """
        is_probe = self.circuit.before_call()
        call = self._keepalive.begin(account)
        began = self._clock.seconds()
        is_acknowledged = False
        try:
            report = self._read(await self._exchange(body, headers, call.may_keep))
            is_acknowledged = True
        except BaseException as error:
            self._judge(error, is_probe)
            self.results[_name_failure(error)] += 1
            raise
        finally:
            self._keepalive.end(call, is_acknowledged)
            self.durations.observe(self._clock.seconds() - began)
        self.circuit.record_success()
        self.results[_name_ack(report)] += 1
        return report

    def _judge(self, error: BaseException, is_probe: bool) -> None:
        """Tell the circuit what a start call's failure says about the job server."""
        if isinstance(error, UpstreamUnreachable) or (
            isinstance(error, AmbiguousStart) and not error.is_alive
        ):
            self.circuit.record_failure(is_probe=is_probe)
        elif isinstance(error, Problem | AmbiguousStart) and not isinstance(error, Overloaded):
            self.circuit.record_success()
        else:
            self.circuit.record_nothing(is_probe=is_probe)

    async def _exchange(self, body: bytes, headers: Headers, may_keep: bool) -> _Answer:
        """Return the job server's answer; one deadline covers all of it."""
        common = JSON if may_keep else (*JSON, *CLOSE)
        waiting: Deferred[Any] = self._treq.request(
            "POST", self._url, headers=(*common, *headers), data=body
        )
        kind = "lost"

        def give_up() -> None:
            nonlocal kind
            kind = "timeout"
            waiting.cancel()

        deadline = Deadline(self._clock, self._timeout, give_up)
        try:
            response: IResponse = await waiting
            waiting = read_body(response, MAX_ACK)
            try:
                return _Answer(response, await waiting)
            except (BodyTooBig, *_PERHAPS_SENT):
                return _Answer(response, None)
        except _NEVER_SENT as error:
            if getattr(error, "osError", None) in _NO_SOCKETS:
                raise Overloaded(
                    "The proxy has no socket left for the start; the job was not started.",
                    retry_after=1,
                ) from error
            raise UpstreamUnreachable(
                "No connection to the job server could be made; the job was not started.",
                retry_after=1,
            ) from error
        except _PERHAPS_SENT as error:
            if _is_tls_failure(error):
                raise UpstreamUntrusted(
                    "The job server's TLS certificate or protocol was not accepted."
                ) from error
            raise AmbiguousStart(f"no answer: {type(error).__name__}", kind) from error
        finally:
            deadline.cancel()

    def _read(self, answer: _Answer) -> Report:
        """Tell what an answer of the job server means for the job."""
        status = answer.response.code
        if 200 <= status < 300:
            if answer.body is None:
                raise AmbiguousStart(f"status {status}, half an ack", "invalid", is_alive=True)
            try:
                return parse_report(answer.body)
            except InvalidJson as error:
                raise AmbiguousStart(
                    f"status {status}, no usable ack", "invalid", is_alive=True
                ) from error
        if status in _REJECTIONS:
            raise UpstreamRejected(
                "The job server did not accept the job; see upstreamBody.",
                upstream_status=status,
                upstream_body=answer.body or b"",
            )
        if status in (401, 403):
            raise UpstreamAuth(
                "The job server does not let this proxy start jobs; its operator has to be told.",
                upstream_status=status,
            )
        if 300 <= status < 400:
            raise UpstreamRedirect(
                "The job server's URL, as the proxy was given it, has moved.",
                upstream_status=status,
            )
        if status in (429, 503):
            raise UpstreamBusy(
                "The job server takes no jobs at the moment; the job was not started.",
                upstream_status=status,
                retry_after=self._retry_after(answer.response),
            )
        raise AmbiguousStart(f"status {status}", "error", is_alive=status < 500)

    def _retry_after(self, response: IResponse) -> int | None:
        """Return the seconds that the job server asks to wait, within reason (RFC 9110, 10.2.3)."""
        values = response.headers.getRawHeaders(b"retry-after") or [b""]
        text = values[0].decode("latin-1")
        if text.isascii() and text.isdigit():
            return min(int(text[:9]), MAX_RETRY_AFTER)
        try:
            date = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return None
        seconds = date.replace(tzinfo=timezone.utc).timestamp() - self._now()
        return max(0, min(ceil(seconds), MAX_RETRY_AFTER))


def _name_ack(report: Report) -> str:
    if report.is_ended:
        return "inline"
    return "acknowledged" if report.upstream_id is not None else "no-id"


def _name_failure(error: BaseException) -> str:
    if isinstance(error, AmbiguousStart):
        return error.kind
    if isinstance(error, Overloaded):
        return "no-socket"
    for cause, name in _CAUSES.items():
        if isinstance(error.__cause__, cause):
            return name
    return error.slug.removeprefix("upstream-") if isinstance(error, Problem) else "crash"


def _is_tls_failure(error: BaseException) -> bool:
    """Whether a request failed in the TLS handshake, so before any of it was sent."""
    reasons = getattr(error, "reasons", ())
    return any(reason.check(*UNTRUSTED) for reason in reasons)
