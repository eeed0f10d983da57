"""Log lines about refused callbacks, whose responses only the job server sees."""

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from jobproxy.api.jobs import PROXY_PATHS
from jobproxy.api.routing import normalize
from jobproxy.http1.request import Request
from jobproxy.wire.problems import Problem

_log = Logger()

#: Lines that may follow each other at once; anybody can cause them.
BURST = 10
#: Seconds after which one more line may be written.
INTERVAL = 6.0
#: Bytes of a header or method that are shown.
MAX_SHOWN = 100


@define(eq=False)
class RefusedCallbacks:
    """Writes a line for a refused callback, wherever it was sent; not more than a few a minute.

    Neither its path, which may have a token, nor its body is shown.

    :param path: of the callback URL, without a slash at its end.
    """

    _clock: IReactorTime
    _path: str
    _allowance: float = field(default=BURST, init=False)
    _last: float = field(default=0.0, init=False)
    _unwritten: int = field(default=0, init=False)

    def report(self, request: Request, problem: Problem) -> None:
        """Write a line if a refused request was for a callback URL."""
        if not self._is_callback(request.path):
            return
        now = self._clock.seconds()
        self._allowance = min(BURST, self._allowance + (now - self._last) / INTERVAL)
        self._last = now
        if self._allowance < 1:
            self._unwritten += 1
            return
        self._allowance -= 1
        _log.warn(
            "a callback was refused: {status} {slug} to {method} from {peer} with Content-Type "
            "{content_type}; {unwritten} more since the last line",
            status=problem.status,
            slug=problem.slug,
            method=_show(request.method),
            peer=str(getattr(request.channel.transport.getPeer(), "host", "a Unix socket")),
            content_type=_show(request.find_header(b"content-type") or b"none"),
            unwritten=self._unwritten,
            request_id=request.request_id.decode(),
        )
        self._unwritten = 0

    def _is_callback(self, target: bytes) -> bool:
        path = normalize(target.decode("ascii", "replace"))
        if path in PROXY_PATHS:
            return False
        base, _, _ = path.rpartition("/")
        return self._path in (base, path)


def _show(text: bytes) -> str:
    return text[:MAX_SHOWN].decode("ascii", "backslashreplace")
