"""The clients in docs/clients: each is run as it is, against the real daemons."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from jobproxy import tap
from jobproxy.sandbox.processes import DaemonProcess, find_free_port, run_pair
from tests.support.processes import ROOT
from tests.support.programs import needs
from tests.support.socket_client import request
from tests.support.waiting import DEADLINE, wait_until

FOLDER = ROOT / "docs" / "clients"
#: How each is run.
COMMANDS = {
    "curl_client.sh": ["sh"],
    "requests_client.py": [sys.executable],
    "httpx_client.py": [sys.executable],
    "node_client.mjs": ["node"],
    "JavaClient.java": ["java"],
    "go_client.go": ["go", "run"],
}
NEEDED = {
    "curl_client.sh": [needs("curl", "curl")],
    "node_client.mjs": [needs("nodejs", "node")],
    "JavaClient.java": [needs("openjdk-17-jdk-headless", "javac")],
    "go_client.go": [needs("golang-go", "go")],
}
each_client = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=NEEDED.get(name, ())) for name in COMMANDS]
)


@contextmanager
def run_client(name: str, url: str, job: str, cache: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run a client while the context lasts."""
    command = [*COMMANDS[name], str(FOLDER / name), url, job]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"GOCACHE": str(cache), "GOFLAGS": "", "GO111MODULE": "off"},
        # ``go run`` has a child, which has to end too.
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def count_jobs(server: DaemonProcess) -> int:
    """Return how many jobs the job server has started."""
    started = request(f"{server.url}/stats").document["started"]
    assert isinstance(started, int)
    return started


def has_counted(label: str, metrics: str) -> bool:
    """Whether a count with a label, which is a pattern, is more than 0."""
    return re.search(rf"{label}.* [1-9]", metrics) is not None


@each_client
def test_a_documented_client_survives_a_bad_day(name: str, tmp_path: Path) -> None:
    """A job server that is down, a killed proxy, a job longer than --wait: one job, one result."""
    server = DaemonProcess("jobserver", {"duration": "6"})
    port = find_free_port()
    options = {
        "callback-url": f"http://127.0.0.1:{port}/callback",
        "job-server-url": f"{server.url}/start",
        "store": f"sqlite:{tmp_path / 'store.db'}",
        "wait": "1",
    }
    first, second = (DaemonProcess("jobproxy", options, port) for _ in range(2))
    job = '{"account": "example"}'
    with run_client(name, f"{first.url}/proxy", job, tmp_path / "cache") as client:
        with first:
            refused = 'outcome="upstream-unreachable"'
            wait_until(lambda: has_counted(refused, request(f"{first.url}/metrics").body.decode()))
            server.__enter__()
            wait_until(lambda: count_jobs(server))
            first.process.kill()
        try:
            with second:
                printed, errors = client.communicate(timeout=DEADLINE)
                metrics = request(f"{second.url}/metrics").body.decode()
            assert count_jobs(server) == 1
        finally:
            server.stop()
    assert (client.returncode, errors) == (0, "")
    assert '"state":"completed"' in printed.replace(" ", "")
    # Which of them depends on whether the ack was stored before the end.
    assert has_counted('outcome="(wait-over|start-unknown)"', metrics)


@each_client
def test_a_documented_client_repeats_no_job_that_is_refused(name: str, tmp_path: Path) -> None:
    """A job that was not started, and without Retry-After, is not sent again."""
    with run_pair({}, {}) as (_, proxy):
        with run_client(name, f"{proxy.url}/proxy", "{}", tmp_path / "cache") as client:
            printed, errors = client.communicate(timeout=DEADLINE)
        metrics = request(f"{proxy.url}/metrics").body.decode()
    assert client.returncode == 1
    assert printed == ""
    assert "no result" in errors
    assert "invalid-request" in errors
    counts = re.findall(
        r"^jobproxy_responses_total\{.*invalid-request.* (.*)$", metrics, re.MULTILINE
    )
    assert sum(float(count) for count in counts) == 1


@each_client
def test_a_documented_client_asks_for_a_job_whose_start_is_unknown(
    name: str, tmp_path: Path
) -> None:
    """A job of which nobody knows whether it was started is asked for, and not sent again."""
    faulty = {"duration": "2", "faults": "reset=1"}
    with run_pair(faulty, {"ambiguous-grace": "0.1"}) as (server, proxy):
        job = '{"account": "example"}'
        with run_client(name, f"{proxy.url}/proxy", job, tmp_path / "cache") as client:
            printed, errors = client.communicate(timeout=DEADLINE)
        metrics = request(f"{proxy.url}/metrics").body.decode()
        assert count_jobs(server) == 1
    assert (client.returncode, errors) == (0, "")
    assert '"state":"completed"' in printed.replace(" ", "")
    assert has_counted('outcome="start-unknown"', metrics)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_documented_client_is_complete(name: str) -> None:
    """Each client waits longer than --wait by default, sends a key, and is in the document."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    (longest,) = (option.default for option in tap.Options.table if option.name == "wait")
    assert re.search(rf"\bwait *= *{longest}\b", text, re.IGNORECASE)
    assert re.search(r"\bwait \+ 5\b", text, re.IGNORECASE)
    for word in ("Idempotency-Key", "Prefer", "Location", "Retry-After"):
        assert word in text
    page = (ROOT / "docs" / "clients.rst").read_text(encoding="utf-8")
    assert f".. literalinclude:: clients/{name}\n" in page


def test_no_other_client_is_documented() -> None:
    """Each file in docs/clients is run."""
    assert {path.name for path in FOLDER.iterdir() if path.is_file()} == COMMANDS.keys()
