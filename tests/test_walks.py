"""A job's way through the code is short: how many files a body passes."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import jobproxy
from tests.support.proxy import ProxyTestCase, result_of

ROOT = Path(jobproxy.__file__).parent
MARK = "a mark that is found in nothing else"
MOST = 13
ADVICE = "see docs/architecture.rst, the way of a job: merge two of these, or pass the body by"


def has_mark(value: object, depth: int = 2) -> bool:
    """Whether a value holds the marked body, itself or in one of its parts."""
    if isinstance(value, bytes):
        return MARK.encode() in value
    if isinstance(value, str):
        return MARK in value
    if not depth:
        return False
    if isinstance(value, dict):
        return any(has_mark(part, depth - 1) for part in value.values())
    if isinstance(value, list | tuple):
        return any(has_mark(part, depth - 1) for part in value)
    parts = (getattr(value, name, None) for name in ("body", "data", "parameters"))
    return any(has_mark(part, depth - 1) for part in parts)


def follow(act: Callable[[], object]) -> list[str]:
    """Return the files whose functions got a marked body as an argument, in order, each once."""
    files: dict[str, None] = {}

    def look(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and ROOT in path.parents and any(map(has_mark, frame.f_locals.values())):
            files[str(path.relative_to(ROOT))] = None

    sys.setprofile(look)
    try:
        act()
    finally:
        sys.setprofile(None)
    return list(files)


class WalkTests(ProxyTestCase):
    """A proxy that has done a job, so that nothing is done for the first time."""

    def setUp(self) -> None:
        super().setUp()
        client = self.submit()
        self.starts[0].ack("0")
        self.call_back(self.starts[0], result_of("0"))
        self.assertEqual(client.response.status, 200)

    def test_body_of_a_client_passes_few_files_to_the_start_request(self) -> None:
        """From the socket to treq, which issues the start request, a body passes few files."""
        client = self.connect()
        files = follow(lambda: client.request(body=b'{"account":"a","x":"%b"}' % MARK.encode()))
        files = files[: files.index("http1/client.py") + 1]
        self.assertIn("gateway.py", files)
        self.assertLessEqual(len(files), MOST, f"{files}; {ADVICE}")
        self.starts[1].respond(result_of("1"))

    def test_body_of_a_callback_passes_few_files_to_the_client(self) -> None:
        """From the socket of the job server to that of the client, a body passes few files."""
        client = self.submit()
        self.starts[1].ack("1")
        body = b'{"id":"1","x":"%b"}' % MARK.encode()
        files = follow(lambda: self.connect().request(self.starts[1].callback_path, body))
        self.assertEqual(client.response.body, body)
        self.assertIn("jobs/table.py", files)
        self.assertLessEqual(len(files), MOST, f"{files}; {ADVICE}")
