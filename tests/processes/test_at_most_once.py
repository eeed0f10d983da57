"""At most once: the books of thousands of starts with faults, kept by the benchmark's script."""

import re
import socket

import pytest

from jobproxy.sandbox.processes import DaemonProcess, wait_until_served
from tests.support.processes import ROOT, fetch_json, run
from tests.support.programs import needs

#: Seconds; the script has deadlines of its own.
LONG = 600.0
SCRIPT = str(ROOT / "benchmarks" / "at_most_once.py")


def keep_books(*arguments: str) -> dict[str, int]:
    """Run the script, which passes; return the figures that it prints, by their labels."""
    done = run("python", SCRIPT, "--busy", *arguments, timeout=LONG)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("PASSED ")
    rows = re.findall(r"^ *(\S.*?) {2,}(\d+)", done.stdout, re.MULTILINE)
    return {label: int(figure) for label, figure in rows}


@pytest.mark.timeout(2 * LONG)
def test_no_job_is_started_twice() -> None:
    """S1, S6, S8, S11, S17, S18: of 10,000 jobs none is started twice, and no result is lost."""
    books = keep_books("--jobs", "10000", "--concurrency", "600")
    assert books["with a repeated callback URL"] == 0
    # That there are any, of hundreds; how many is up to the seed, and to the machine.
    assert books["ambiguous starts"] > 0
    assert books["ambiguous starts with a callback"] > 0
    assert books["connections refused"] > 0
    assert books["start requests refused as busy"] > 0
    assert books["with response 200"] == books["callbacks accepted for a client"] > 0


@pytest.mark.timeout(2 * LONG)
def test_with_retry_always_only_doubtful_starts_are_repeated() -> None:
    """S6, S18: with --retry always no job is started more often than a start was in doubt."""
    books = keep_books("--jobs", "1000", "--concurrency", "300", "--retry", "always")
    # On a slow machine that is more than the faults that were injected.
    assert 0 < books["with a repeated callback URL"] <= books["starts ambiguous to the proxy"]
    assert books["with response 200"] == books["callbacks accepted for a client"] > 0


MODES = ["tls", "redirects", "echoes", "neighbours", "kills"]


def keep_key_books(mode: str) -> None:
    """Run a mode with a few jobs with keys: each has one start, and what was told 200 is there."""
    books = keep_books(mode, "--jobs", "150", "--concurrency", "40")
    assert books["jobs with a key"] == 150
    assert books["second starts"] == books["results told 200 and gone"] == 0
    assert books["clients that got the result"] > 0


@pytest.mark.timeout(2 * LONG)
@pytest.mark.parametrize("mode", MODES)
def test_a_key_is_a_promise_whatever_the_faults(mode: str) -> None:
    """No job with a key is started twice, and no result that was told 200 is lost."""
    keep_key_books(mode)


@needs("gcc", "cc")
@pytest.mark.timeout(2 * LONG)
@pytest.mark.parametrize("mode", ["clocks", "clocks-sqlite"])
def test_a_key_is_a_promise_whatever_the_wall_clock_shows(mode: str) -> None:
    """No job with a key is started twice while the wall clock steps back and forth."""
    keep_key_books(mode)


def test_a_refused_connection_is_a_closed_port() -> None:
    """S1: the simulator's fault refused is a port that is closed, and opened again in time."""
    with DaemonProcess("jobserver", {"faults": "refused=1:3", "duration": "0"}) as server:
        address = ("127.0.0.1", server.port)
        result = fetch_json(f"{server.url}/start", b'{"account":"a","wait":true}')
        assert result["state"] == "completed"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        wait_until_served(server.process, server.port)
        assert fetch_json(f"{server.url}/stats")["faults"] == {"refused": 1}
