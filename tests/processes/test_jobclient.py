"""jobclient as a process: its exit codes, its output when it is interrupted or not read."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from jobproxy.sandbox.processes import DaemonProcess, find_script
from tests.support.processes import run
from tests.support.waiting import DEADLINE

DATA = '{"account": "{account}", "wait": false, "callback": "http://127.0.0.1:9/{n}"}'
#: Runs a command that SIGINT ends, also if the tests run in a background that ignores it.
USUAL = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
ENDLESS = ("--rate", "50", "--duration", "600", "--account", "a", "--data", DATA)


@pytest.fixture
def url() -> Iterator[str]:
    """Return the URL of a job server."""
    with DaemonProcess("jobserver", {}) as server:
        yield f"{server.url}/start"


def start(*arguments: str, errors: int = subprocess.PIPE) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", USUAL, find_script("jobclient"), *arguments],
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )


def test_load_at_a_rate(url: str) -> None:
    """A load at a rate passes, and writes nothing but its report without a terminal."""
    words = ["--rate", "20", "--jobs", "20", "--account", "a", "--data", DATA, "--json"]
    done = run("jobclient", "--url", url, *words)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["result"] == "PASSED"
    assert report["statuses"] == {"200": 20}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_load_has_its_report(url: str, number: signal.Signals) -> None:
    """A load that is interrupted prints the report of what is there."""
    with start("--url", url, *ENDLESS, "--csv", "-") as process:
        assert process.stdout is not None
        # The second line is that of a job.
        assert [process.stdout.readline()[:6] for _ in range(2)] == ["number", "1,a,0."]
        process.send_signal(number)
        _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 128 + number
    assert errors.splitlines()[-1].startswith("FAILED: interrupted, ")
    assert "p99.9" in errors


@pytest.mark.parametrize("words", [("--csv", "-", "--duration", "600"), ("--jobs", "1")])
def test_output_that_nobody_reads_ends_it_silently(url: str, words: tuple[str, ...]) -> None:
    """If nobody reads its output, jobclient ends silently, also during a load."""
    with start("--url", url, "--data", DATA.replace("{account}", "a"), *words) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(DEADLINE) == 141
    assert errors == ""


def test_terminal_has_a_live_line(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal has a live line with the rate and percentiles, of which nothing is left."""
    monkeypatch.setenv("COLUMNS", "200")
    ours, theirs = pty.openpty()
    try:
        words = ("--rate", "20", "--duration", "2", "--account", "a", "--data", DATA)
        with start("--url", url, *words, errors=theirs) as process:
            os.close(theirs)
            assert process.wait(DEADLINE) == 0
        shown = os.read(ours, 10_000).decode()
    finally:
        os.close(ours)
    assert " jobs/s " in shown
    assert " p99 " in shown
    assert shown.endswith("\r\x1b[K")
