"""The suite itself: what keeps one test from failing because of another, or of the machine."""

import signal
import socket
import subprocess
import sys
from contextlib import closing

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from jobproxy.sandbox.processes import find_free_port, release_ports
from tests.support.programs import NO_SKIPS, fail_if_skipped
from tests.support.signals import INHERITED, reset_in_children
from tests.support.time_limit import limit

IGNORED = "import signal, sys; print(signal.getsignal(int(sys.argv[1])) is signal.SIG_IGN)"


@pytest_twisted.ensureDeferred
async def test_a_coroutine_that_hangs_fails() -> None:
    """A test that waits for ever is cancelled, and so is its cleaning up."""
    steps = []

    async def hang() -> None:
        try:
            await Deferred[None]()
        finally:
            steps.append("clean up")

    with pytest.raises(AssertionError, match="it hung"):
        await limit(hang, 0.01)()
    assert steps == ["clean up"]


@pytest_twisted.ensureDeferred
async def test_a_coroutine_keeps_its_own_failure() -> None:
    """A limit changes nothing of a test that ends in time."""

    async def fail() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await limit(fail, 60)()


@pytest.mark.parametrize("number", INHERITED, ids=lambda number: str(number.name))
def test_children_ignore_no_signal(number: signal.Signals) -> None:
    """A program that a test runs ignores no signal because the suite was told to."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        reset_in_children()
        command = [sys.executable, "-c", IGNORED, str(int(number))]
        assert subprocess.check_output(command) == b"False\n"
    finally:
        signal.signal(number, before)


def test_a_free_port_is_free_for_nobody_else() -> None:
    """A server can listen on a port that was found, and nobody else finds it."""
    port = find_free_port()
    with closing(socket.socket()) as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    with socket.create_server(("127.0.0.1", port)) as server:
        assert server.getsockname()[1] == port
    release_ports()
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", port))


@pytest.mark.parametrize(("value", "outcome"), [("1", "failed"), ("", "skipped")])
def test_a_skipped_test_fails_where_all_is_installed(
    monkeypatch: pytest.MonkeyPatch, value: str, outcome: str
) -> None:
    """With the variable of CI nothing is skipped without notice."""
    monkeypatch.setenv(NO_SKIPS, value)
    report = pytest.CollectReport("tests/test_x.py", "skipped", ("", 1, "needs x"), [])
    fail_if_skipped(report)
    assert report.outcome == outcome
