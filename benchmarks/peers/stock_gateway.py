"""A gateway with stock twisted.web, Klein and treq, as a first version would be written.

On Linux it runs on the epoll reactor, as jobproxy does by default. It has no account limiter, no
signed tokens and no strict parsing: only the path of a job.
"""

import argparse
import json
import secrets
from typing import Any

import treq
from klein import Klein
from twisted.internet import reactor as global_reactor  # noqa: TID251
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.web.client import HTTPConnectionPool
from twisted.web.http import Request
from twisted.web.http_headers import Headers
from twisted.web.server import Site

WAIT = 30.0
START_TIMEOUT = 10.0
MAX_STARTS = 256
reactor: Any = global_reactor


class QuietSite(Site):
    def log(self, request: Request) -> None:
        """Write no access log, like the other gateways."""


class Gateway:
    """Holds clients in a table of Deferreds until their callbacks come."""

    def __init__(self, callback_url: str, job_server_url: str) -> None:
        self._callback_url = callback_url
        self._job_server_url = job_server_url
        self._waiting: dict[str, Deferred[bytes]] = {}
        self._pool = HTTPConnectionPool(reactor, persistent=True)
        # By default only two are kept, and most start requests would need a new connection.
        self._pool.maxPersistentPerHost = MAX_STARTS

    def app(self) -> Klein:
        """Return the routes."""
        app = Klein()
        app.route("/proxy", methods=["POST"])(self.proxy)
        app.route("/callback/<token>", methods=["POST"])(self.callback)
        return app

    async def proxy(self, request: Request) -> bytes:
        """Start a job and respond with its callback's body."""
        try:
            start = {**json.loads(_read(request)), "wait": False}
        except (ValueError, TypeError):
            return _respond(request, 400, b'{"error":"the body is not a JSON object"}')
        token = secrets.token_urlsafe(16)
        result: Deferred[bytes] = Deferred()
        self._waiting[token] = result
        try:
            await self._start({**start, "callback": f"{self._callback_url}/{token}"})
            return _respond(request, 200, await result.addTimeout(WAIT, reactor))
        except DeferredTimeout:
            return _respond(request, 504, b'{"error":"the job did not end in time"}')
        finally:
            del self._waiting[token]

    async def _start(self, start: dict[str, object]) -> None:
        response = await treq.post(
            self._job_server_url,
            data=json.dumps(start).encode(),
            headers=Headers({"Content-Type": ["application/json"]}),
            pool=self._pool,
            timeout=START_TIMEOUT,
        )
        # The connection is free for the next start request once the body has been read.
        await response.content()
        if response.code != 200:
            raise RuntimeError(f"the job server responded {response.code}")

    async def callback(self, request: Request, token: str) -> bytes:
        """Receive the result of a job."""
        result = self._waiting.get(token)
        if result is None:
            return _respond(request, 404, b'{"error":"nobody waits for this job"}')
        if not result.called:
            result.callback(_read(request))
        return _respond(request, 200, b'{"status":"accepted"}')


def _read(request: Request) -> bytes:
    assert request.content is not None
    return request.content.read()


def _respond(request: Request, status: int, body: bytes) -> bytes:
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", b"application/json")
    # Without it twisted.web would use chunked encoding, which costs more.
    request.setHeader(b"Content-Length", b"%d" % len(body))
    return body


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--callback-url", required=True)
    parser.add_argument("--job-server-url", required=True)
    arguments = parser.parse_args()
    gateway = Gateway(arguments.callback_url, arguments.job_server_url)
    site = QuietSite(gateway.app().resource())
    reactor.listenTCP(arguments.port, site, backlog=4096, interface="127.0.0.1")
    reactor.run()


if __name__ == "__main__":
    main()
