"""The live page, its files and the runbook."""

from typing import ClassVar

from attrs import define, field
from klein import Klein

from jobproxy.http1.request import Request
from jobproxy.monitoring.page import TYPES, read_asset, render_page
from jobproxy.monitoring.runbook import read_runbook, render_runbook
from jobproxy.monitoring.status import Status
from jobproxy.wire.problems import not_found

#: Only our own files run in the page; the icon is in it.
_POLICY = (
    b"default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self'; "
    b"img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


@define(eq=False)
class PageRoutes:
    """Serves the live page, which shows the events of the status, and the runbook."""

    side: ClassVar = "admin"
    _status: Status
    _page: str = field(init=False)
    _assets: dict[str, bytes] = field(init=False)
    _runbook: bytes = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._page = read_asset("page.html").decode()
        self._assets = {name: read_asset(name) for name in TYPES}
        self._runbook = render_runbook(read_runbook())

    def add_to(self, app: Klein) -> None:
        app.route("/", methods=["GET"])(self.get_page)
        app.route("/assets/<name>", methods=["GET"])(self.get_asset)
        app.route("/runbook", methods=["GET"])(self.get_runbook)

    def get_page(self, request: Request) -> bytes:
        return _send(request, "text/html", render_page(self._page, self._status.describe()))

    def get_asset(self, request: Request, name: str) -> bytes:
        if name not in TYPES:
            raise not_found()
        return _send(request, TYPES[name], self._assets[name])

    def get_runbook(self, request: Request) -> bytes:
        return _send(request, "text/html", self._runbook)


def _send(request: Request, kind: str, body: bytes) -> bytes:
    request.setHeader(b"Content-Type", f"{kind}; charset=utf-8".encode())
    request.setHeader(b"Content-Security-Policy", _POLICY)
    request.setHeader(b"X-Content-Type-Options", b"nosniff")
    # After an upgrade the files must be those of the page.
    request.setHeader(b"Cache-Control", b"no-cache")
    return body
