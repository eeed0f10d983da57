"""Profiles with real processes: a job server in a thread, which speaks another API."""

import hmac
import json
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from jobproxy.sandbox.processes import DaemonProcess, find_free_port
from tests.support.waiting import DEADLINE, wait_until

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
CREDENTIAL = "Bearer of the client"
PROFILE = """
path = "/v1/predictions"
account = "$request.header.Authorization"
[start]
url = "http://127.0.0.1:{port}/v1/predictions"
forward = ["Authorization"]
rejected = [401, 402, 422]
[start.set]
"$request.body#/webhook" = "{{$callback.url}}"
[ack]
state = "$response.body#/status"
[callback]
state = "$message.payload#/status"
progress = ["starting"]
succeeded = ["succeeded"]
failed = ["failed"]
verify = {{ scheme = "standard-webhooks", secret-file = "secret" }}
[result]
failed-status = 502
[poll]
url = "{{$response.body#/urls/get}}"
after = 0.2
every = 0.2
[cancel]
url = "{{$response.body#/urls/cancel}}"
"""


class Api(ThreadingHTTPServer):
    """A job server whose jobs do what their input says.

    :ivar cancelled: the ids of the jobs that were cancelled.
    :ivar busy: how many threads still have a request, or a callback to send.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.cancelled: list[str] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.busy = 0
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self.busy += 1
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        super().process_request_thread(request, client_address)
        with self._lock:
            self.busy -= 1

    def call_back(self, url: str, body: dict[str, Any], *, is_signed: bool = True) -> int:
        """Send a callback; return the status of the response."""
        data, now = json.dumps(body).encode(), str(int(time.time()))
        key = b64decode(SECRET.removeprefix("whsec_")) if is_signed else b"another"
        digest = hmac.digest(key, f"msg.{now}.".encode() + data, "sha256")
        headers = {
            "Content-Type": "application/json",
            "Webhook-Id": "msg",
            "Webhook-Timestamp": now,
            "Webhook-Signature": f"v1,{b64encode(digest).decode()}",
        }
        port, _, path = url.removeprefix("http://127.0.0.1:").partition("/")
        with closing(HTTPConnection("127.0.0.1", int(port), timeout=DEADLINE)) as connection:
            connection.request("POST", f"/{path}", data, headers)
            response = connection.getresponse()
            response.read()
            return response.status


class _Connection(BaseHTTPRequestHandler):
    server: Api

    def respond(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(size) or b"{}")
        assert self.headers["Authorization"] == CREDENTIAL
        if self.path.endswith("/cancel"):
            self.server.cancelled.append(self.path.split("/")[1])
            self.respond(200, {})
            return
        plan = body["input"]
        if isinstance(plan, int):
            self.respond(plan, {"detail": "no"})
            return
        number = str(len(self.server.jobs))
        self.server.jobs[number] = body
        base = f"http://127.0.0.1:{self.server.server_port}/{number}"
        urls = {"get": base, "cancel": f"{base}/cancel"}
        ack = {"id": number, "status": "starting", "urls": urls}
        end = {"id": number, "status": "failed" if plan == "fail" else "succeeded"}
        call_back, url = self.server.call_back, body["webhook"]
        if plan == "early":
            assert call_back(url, end) == 200
        self.respond(201, ack)
        if plan == "forged":
            assert call_back(url, end, is_signed=False) == 401
        if plan in ("succeed", "fail", "forged"):
            assert call_back(url, {"id": number, "status": "starting"}) == 200
            assert call_back(url, end) == 200

    def do_GET(self) -> None:
        assert self.headers["Authorization"] == CREDENTIAL
        number = self.path.removeprefix("/")
        plan = self.server.jobs[number]["input"]
        self.respond(200, {"id": number, "status": "succeeded" if plan == "poll" else "starting"})

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, DaemonProcess]]:
    """A job server, and jobproxy in front of it."""
    folder: Path = tmp_path_factory.mktemp("profile")
    server, port = Api(), find_free_port()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    (folder / "secret").write_text(SECRET)
    (folder / "api.toml").write_text(PROFILE.format(port=server.server_port))
    options = {
        "callback-url": f"http://127.0.0.1:{port}/callback",
        "profile": str(folder / "api.toml"),
    }
    try:
        with DaemonProcess("jobproxy", options, port=port) as daemon:
            yield server, daemon
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def settled(api: tuple[Api, DaemonProcess]) -> Iterator[None]:
    """Wait until the job server's threads have closed what they opened."""
    yield
    wait_until(lambda: not api[0].busy)


def ask(daemon: DaemonProcess, plan: object, **headers: str) -> tuple[int, dict[str, Any]]:
    """Send a job as a client of the API does; return the status and the body of the response."""
    fields = {"Content-Type": "application/json", "Authorization": CREDENTIAL, **headers}
    with closing(HTTPConnection("127.0.0.1", daemon.port, timeout=DEADLINE)) as connection:
        connection.request("POST", "/v1/predictions", json.dumps({"input": plan}), fields)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


@pytest.mark.parametrize(
    ("plan", "status", "word"),
    [
        ("succeed", 200, "succeeded"),
        ("fail", 502, "failed"),
        ("early", 200, "succeeded"),
        ("forged", 200, "succeeded"),
        ("poll", 200, "succeeded"),
    ],
)
def test_client_gets_the_end_of_its_job(
    api: tuple[Api, DaemonProcess], plan: str, status: int, word: str
) -> None:
    """However the job server says it; a callback that is not signed changes nothing."""
    found, body = ask(api[1], plan)
    assert (found, body["status"]) == (status, word)


def test_refusal_is_the_clients(api: tuple[Api, DaemonProcess]) -> None:
    """The status and the words of the job server, and that nothing was started."""
    status, problem = ask(api[1], 402)
    assert (status, problem["started"]) == (402, "no")
    assert problem["upstreamBody"] == '{"detail": "no"}'


def test_job_is_cancelled_when_its_client_leaves(api: tuple[Api, DaemonProcess]) -> None:
    """Nobody can come back for it."""
    server, daemon = api
    connection = HTTPConnection("127.0.0.1", daemon.port, timeout=DEADLINE)
    headers = {"Content-Type": "application/json", "Authorization": CREDENTIAL}
    before = len(server.jobs)
    connection.request("POST", "/v1/predictions", b'{"input": "hang"}', headers)
    wait_until(lambda: len(server.jobs) > before)
    connection.close()
    wait_until(lambda: str(before) in server.cancelled)


def test_credentials_are_in_no_log(api: tuple[Api, DaemonProcess]) -> None:
    """Neither those of clients nor the secret of the signatures."""
    _, daemon = api
    ask(daemon, "succeed")
    assert CREDENTIAL not in daemon.log
    assert SECRET not in daemon.log
