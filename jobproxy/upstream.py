"""Start calls: a POST to the job server through treq, and a name for every way it can end."""

from typing import Any

from attrs import define, field, frozen
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectingCancelledError, DNSLookupError
from twisted.internet.interfaces import IReactorTime
from twisted.web._newclient import RequestNotSent
from twisted.web.client import (
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
)
from twisted.web.iweb import IResponse

from jobproxy.client import BodyTooBig, collect_body, post_json
from jobproxy.http1.agent import UNTRUSTED
from jobproxy.messages import Report, parse_report
from jobproxy.problems import (
    InvalidJson,
    UpstreamAuth,
    UpstreamBusy,
    UpstreamRedirect,
    UpstreamRejected,
    UpstreamUnreachable,
    UpstreamUntrusted,
)
from jobproxy.reuse import ReusePolicy

MAX_ACK = 65_536
MAX_RETRY_AFTER = 3_600

_NEVER_SENT = (ConnectError, ConnectingCancelledError, DNSLookupError, RequestNotSent)
_PERHAPS_SENT = (CancelledError, RequestGenerationFailed, RequestTransmissionFailed, ResponseFailed)
_REJECTIONS = frozenset({400, 404, 409, 410, 422})


class AmbiguousStart(Exception):
    """The start may have reached the job server, although no usable ack came back."""


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
    :param reuse: says whether connections may be kept.
    """

    _treq: HTTPClient = field(repr=False)
    _clock: IReactorTime = field(repr=False)
    _url: str
    _timeout: float
    _reuse: ReusePolicy = field(repr=False)

    async def start(self, account: str, body: bytes) -> Report:
        """Start a job.

        :param account: whose job it is.
        :param body: the start call's body, JSON.
        :return: the ack; without an id and a state if the job server left them out.
        :raises AmbiguousStart: if it is not known whether the job was started.
        :raises Problem: if it certainly was not: one of the ``Upstream…`` kinds.
        """
        call = self._reuse.begin(account)
        is_acknowledged = False
        try:
            report = _read(await self._exchange(body, call.may_keep))
            is_acknowledged = True
        finally:
            self._reuse.end(call, is_acknowledged)
        return report

    async def _exchange(self, body: bytes, may_keep: bool) -> _Answer:
        """Return the job server's answer; one deadline covers all of it."""
        waiting: Deferred[Any] = post_json(
            self._treq, self._clock, self._url, body, may_keep=may_keep
        )

        def give_up() -> None:
            waiting.cancel()

        timer = self._clock.callLater(self._timeout, give_up)
        try:
            response: IResponse = await waiting
            waiting = collect_body(response, MAX_ACK)
            try:
                return _Answer(response, await waiting)
            except (BodyTooBig, *_PERHAPS_SENT):
                return _Answer(response, None)
        except _NEVER_SENT as error:
            raise UpstreamUnreachable(
                "No connection to the job server could be made; the job was not started.",
                retry_after=1,
            ) from error
        except _PERHAPS_SENT as error:
            if _is_tls_failure(error):
                raise UpstreamUntrusted(
                    "The job server's TLS certificate or protocol was not accepted."
                ) from error
            raise AmbiguousStart(f"no answer: {type(error).__name__}") from error
        finally:
            if timer.active():
                timer.cancel()


def _read(answer: _Answer) -> Report:
    """Tell what an answer of the job server means for the job."""
    status = answer.response.code
    if 200 <= status < 300:
        if answer.body is None:
            raise AmbiguousStart(f"status {status} and an ack that is not whole")
        try:
            return parse_report(answer.body)
        except InvalidJson as error:
            raise AmbiguousStart(f"status {status} without a usable ack") from error
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
            "The job server's URL, as the proxy was given it, has moved.", upstream_status=status
        )
    if status in (429, 503):
        raise UpstreamBusy(
            "The job server takes no jobs at the moment; the job was not started.",
            upstream_status=status,
            retry_after=_retry_after(answer.response),
        )
    raise AmbiguousStart(f"status {status}")


def _retry_after(response: IResponse) -> int:
    """Return the seconds that the job server asks to wait, within reason (RFC 9110, 10.2.3)."""
    values = response.headers.getRawHeaders("retry-after") or ["1"]
    seconds = int(values[0]) if values[0].isascii() and values[0].isdigit() else 1
    return min(seconds, MAX_RETRY_AFTER)


def _is_tls_failure(error: BaseException) -> bool:
    """Whether a request failed in the TLS handshake, so before any of it was sent."""
    reasons = getattr(error, "reasons", ())
    return any(reason.check(*UNTRUSTED) for reason in reasons)
