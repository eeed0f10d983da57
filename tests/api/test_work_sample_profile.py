"""The built-in wire is a profile like any other: written down as one, it behaves the same."""

import gzip
import re
from typing import Any

import pytest
from attrs import field, frozen

from tests.support.clients import Client
from tests.support.job_server import FakeJobServer
from tests.support.memory_network import Network
from tests.support.profiles import parse_profile
from tests.support.proxy import Proxy

PROFILE = """
    [start]
    url = "{URL}/start"
    [start.set]
    "$request.body#/wait" = false
    "$request.body#/callback" = "{$callback.url}"
"""
JSON_ACK = b'{"state":"running","id":"1"}'
RESULT = b'{"id":"1", "state":"completed", "more": [1.00]}'
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
GZIP = {"Content-Encoding": "gzip"}


@frozen
class Message:
    """What a client or the job server sends."""

    body: bytes
    headers: dict[str, str] = field(factory=dict)
    status: int = 200
    method: str = "POST"
    suffix: str = ""


JOB = Message(b'{"account":"a"}')
JOBS = [
    JOB,
    Message(b'{"n": 1.00,"account":"a","more": "\\u00e9"}'),
    Message(b"\xef\xbb\xbf" + JOB.body),
    Message(JOB.body, {"Prefer": "respond-async"}),
    Message(JOB.body, {"Prefer": "wait=5"}),
    Message(JOB.body, {"Idempotency-Key": '"k"'}),
    Message(JOB.body, {"X-More": "x", "Authorization": "Bearer x"}),
    Message(gzip.compress(JOB.body, mtime=0), GZIP),
    Message(b"[]"),
    Message(b"nonsense"),
    Message(b'{"account":"a","account":"b"}'),
    Message(b'{"account":"\xff"}'),
    Message(b'{"account":"a","deep":' + b"[" * 70 + b"]" * 70 + b"}"),
]
REFUSED = (400, 401, 402, 403, 404, 405, 406, 408, 409, 411, 413, 415, 421, 422, 423, 425, 426, 428)
ACKS = [
    Message(JSON_ACK),
    *[Message(b"", status=status) for status in (200, 201, 202, 204)],
    Message(b"OK"),
    Message(b"[1]"),
    Message(gzip.compress(JSON_ACK, mtime=0), GZIP),
    Message(b'{"id":"\xe9"}'),
    Message(b"\xef\xbb\xbf" + JSON_ACK),
    Message(b'{"id":%b}' % (b"1" * 5_000)),
    Message(b'{"id":7,"state":"RUNNING"}'),
    Message(b'{"id":null,"state":null}'),
    Message(b'{"id":"1","state":"weird"}'),
    Message(b'{"id":"1","state":"completed","more":1.00}'),
    Message(b'{"id":"1","state":"SUCCEEDED"}'),
    Message(b'{"id":"1","state":"failed"}'),
    *[Message(b'{"error":"no"}', status=status) for status in (300, 301, 302, 303, 307, 308)],
    *[Message(b'{"error":"no"}', status=status) for status in (*REFUSED, 431, 451)],
    *[Message(b"no", status=status) for status in (429, 500, 501, 502, 503, 504)],
    Message(b"no", {"Retry-After": "1"}, 429),
    Message(b"no", {"Retry-After": "7200"}, 503),
]
CALLBACKS = [
    Message(RESULT),
    Message(b"a=1&state=completed", FORM),
    Message(b"state=running&id=1", FORM),
    Message(b"text", {"Content-Type": "text/plain"}),
    Message(b"<a/>", {"Content-Type": "application/xml"}),
    Message(b"%PDF\0\xff", {"Content-Type": "application/pdf"}),
    Message(b"[1]"),
    Message(b""),
    Message(gzip.compress(RESULT, mtime=0), GZIP),
    Message(gzip.compress(b'{"state":"running"}', mtime=0), GZIP),
    Message(b"\xef\xbb\xbf" + RESULT),
    Message(RESULT.decode().encode("utf-16")),
    Message('{"state":"running"}'.encode("utf-16")),
    Message(b"[" * 100 + b"]" * 100),
    Message(b'{"n":%b}' % (b"9" * 5_000)),
    Message(b'{"id":"2","state":"completed"}'),
    Message(b'{"id":"1","state":"failed"}'),
    Message(b'{"id":"1","state":"RUNNING"}'),
    Message(b'{"id":"1","state":"in_progress"}'),
    Message(b'{"id":"1","state":"weird"}'),
    Message(b'{"state":7}'),
    Message(b'{"state":"completed","state":"running"}'),
    Message(b'{"cut":'),
    Message(RESULT, method="PUT"),
    Message(RESULT, method="PATCH"),
    Message(RESULT, suffix="/"),
    Message(RESULT, suffix="x"),
    Message(b'{"id":"1","state":"completed","more":"%b"}' % (b"x" * 70_000)),
]


class Stage:
    """A proxy in memory, and all that its client and its job server see."""

    def __init__(self, *, is_built_in: bool) -> None:
        self.proxy = Proxy()
        if not is_built_in:
            profile = parse_profile(PROFILE, "work-sample")
            self.proxy.settings = {"profile": (profile,), "job_server_url": ""}
        network = Network()
        self.proxy.build(network, FakeJobServer(network))
        self.seen: list[Any] = []
        self._names: dict[str, str] = {}

    def send(self, message: Message, path: str = "/proxy", method: str = "POST") -> Client:
        body = None if method == "GET" else message.body
        client = self.proxy.connect()
        client.request(path, body, method=method, headers=dict(message.headers))
        self.proxy.clock.advance(0)
        return client

    def note(self, client: Client) -> None:
        """Note the responses that a client has got."""
        for response in client.responses:
            headers = {
                name: self.hide(value) for name, value in response.headers.items() if name != "date"
            }
            self.seen.append((response.status, headers, self.hide(response.body.decode("latin-1"))))
        self.seen.append("held" if client.is_held else "not held")

    def hide(self, text: str) -> str:
        """Replace what is new in each process."""
        for name, value in self._names.items():
            text = text.replace(value, name)
        return text.replace("/callback/work-sample/", "/callback/")

    def play(self, job: Message, ack: Message | None, callbacks: list[Message]) -> list[Any]:
        """Play one job; return all that was seen of it."""
        client = self.send(job)
        if not self.proxy.starts:
            self.note(client)
            return self.seen
        start = self.proxy.starts[0]
        path = re.sub("http://[^/]*", "", start.body["callback"])
        token = path.rpartition("/")[2]
        self._names = {"TOKEN": token, "JOB": token.partition(".")[0]}
        headers = [line for line in start.request.headers if line[0] != b"content-length"]
        self.seen.append((start.request.uri, self.hide(start.raw.decode()), sorted(headers)))
        if ack is None:
            start.lose()
        else:
            headers_of_ack = {n.replace("-", "_"): v for n, v in ack.headers.items()}
            start.respond(ack.body, ack.status, **headers_of_ack)
        self.note(client)
        for each in callbacks:
            self.note(self.send(each, path + each.suffix, each.method))
            self.note(client)
        self.proxy.clock.advance(10)
        self.note(self.send(JOB, f"/jobs/{self._names['JOB']}", "GET"))
        self.proxy.clock.advance(100)
        self.note(client)
        return self.seen


CASES: list[tuple[Message, Message | None, list[Message]]] = [
    *[(job, ACKS[0], [CALLBACKS[0], CALLBACKS[0]]) for job in JOBS],
    *[(JOB, ack, [CALLBACKS[0]]) for ack in (*ACKS, None)],
    *[(JOBS[3], ack, [CALLBACKS[0]]) for ack in (*ACKS, None)],
    *[(JOB, ACKS[0], [each, CALLBACKS[0], each]) for each in CALLBACKS],
]


@pytest.mark.parametrize(("job", "ack", "callbacks"), CASES, ids=range(len(CASES)))
def test_built_in_wire_is_a_profile_like_any_other(
    job: Message, ack: Message | None, callbacks: list[Message]
) -> None:
    """The start request, all responses, and what can be asked for later are the same."""
    built_in, profile = (
        Stage(is_built_in=is_built_in).play(job, ack, callbacks) for is_built_in in (True, False)
    )
    assert built_in == profile
