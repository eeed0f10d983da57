"""Clocks that jump, and a process that does not come to its turn."""

import os
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from tests.processes.test_draining import Stage, result_of, run_stage

HOUR = 3_600
WAIT_OVER = "urn:jobproxy:problem:wait-over"

#: Is imported by Python before everything else of a process.
SITE = """
import time
from pathlib import Path

_offset, _time = Path(__file__).with_name("offset"), time.time
time.time = lambda: _time() + int(_offset.read_text())
"""


class WallClock:
    """The wall clock of processes that are started while it is there."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._offset = folder / "offset"
        self.step(0)
        (folder / "sitecustomize.py").write_text(SITE)
        monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)

    def step(self, seconds: int) -> None:
        """Have it show so many seconds more, or less, than the time."""
        # No process may see a file that is half written.
        new = self._offset.with_suffix(".new")
        new.write_text(str(seconds))
        new.rename(self._offset)


@pytest.fixture
def wall_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WallClock:
    return WallClock(tmp_path, monkeypatch)


def read_offset(stage: Stage) -> float:
    """Return how many seconds ahead of ours the proxy's clock is."""
    date = stage.ready().headers["Date"]
    return parsedate_to_datetime(date).timestamp() - time.time()


@pytest.mark.parametrize("seconds", [HOUR, -HOUR], ids=["T1", "T2"])
def test_wall_clock_steps(wall_clock: WallClock, seconds: int) -> None:
    """T1, T2: a step of the wall clock moves no deadline, and no callback becomes a forgery."""
    with run_stage() as stage:
        begin = time.monotonic()
        short = stage.send_job(0, Prefer="wait=1")
        (held, later) = stage.hold(1, 2)
        wall_clock.step(seconds)
        assert read_offset(stage) == pytest.approx(seconds, abs=10)

        assert stage.call_back(1).document == {"status": "accepted"}
        assert held.receive().body == result_of(1)
        assert not short.has_answer()
        (new,) = stage.hold(3)
        assert short.receive().verdict == (504, WAIT_OVER, "yes")
        assert 1.0 <= time.monotonic() - begin < 2.0
        assert stage.call_back(0).document == {"status": "late"}
        assert not later.has_answer()

        wall_clock.step(0)
        for number, client in ((2, later), (3, new)):
            assert stage.call_back(number).document == {"status": "accepted"}
            assert client.receive().body == result_of(number)


@pytest.mark.parametrize("is_kept", [False, True], ids=["new", "kept"])
@pytest.mark.parametrize("count", [1, 50])
def test_stall(count: int, is_kept: bool) -> None:
    """T3: what comes in time is an answer, though the process comes to it past the deadline."""
    with run_stage() as stage:
        clients = [stage.send_job(number, f"{number}", Prefer="wait=1") for number in range(count)]
        stage.server.wait_for(count)
        senders = [stage.connect() for _ in range(count)] if is_kept else []
        assert stage.ready().status == 200
        with stage.stall():
            senders = senders or [stage.connect() for _ in range(count)]
            for number, sender in enumerate(senders):
                sender.call_back(stage.server.callbacks[number], number)
            time.sleep(1.2)
        for number, client in enumerate(clients):
            response = client.receive()
            assert (response.status, response.body) == (200, result_of(number))
        assert {sender.receive().status for sender in senders} == {200}


def test_deadline_after_a_stall() -> None:
    """T3: who has no result by then is told so soon after."""
    with run_stage() as stage:
        client = stage.send_job(0, Prefer="wait=1")
        stage.server.wait_for(1)
        with stage.stall():
            time.sleep(1.1)
        assert client.has_answer(0.5)
        assert client.receive().verdict == (504, WAIT_OVER, "yes")
