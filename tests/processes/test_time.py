"""Clocks that jump, also over restarts, and a process that does not come to its turn."""

import time
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from tests.support.clocks import Clocks, make_clocks
from tests.support.socket_client import Client, result_of
from tests.support.stage import Stage, run_stage
from tests.support.waiting import wait_for_exit, wait_until

#: Seconds; far more than any test takes, and than any client is held.
HOUR = 3_600
#: Seconds that a client is held, and those of a stall; an idle connection is kept for 30.
WAIT, STALL = 20, 21
WAIT_OVER = "urn:jobproxy:problem:wait-over"


@pytest.fixture
def clocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return make_clocks(tmp_path, monkeypatch)


def read_offset(stage: Stage) -> float:
    """Return how many seconds ahead of ours the proxy's clock is."""
    date = stage.ready().headers["Date"]
    return parsedate_to_datetime(date).timestamp() - time.time()


@pytest.mark.parametrize("seconds", [HOUR, -HOUR, 48 * HOUR], ids=["T1", "T2", "T5"])
def test_a_step_of_the_wall_clock_moves_no_deadline(clocks: Clocks, seconds: int) -> None:
    """T1, T2, T5: a step of the wall clock moves no deadline, and no callback becomes a forgery."""
    with run_stage() as stage:
        held, later = stage.hold(1, 2)
        (short,) = stage.hold(0, Prefer=f"wait={WAIT}")
        clocks.wall.jump(seconds)
        assert read_offset(stage) == pytest.approx(seconds, abs=HOUR / 4)

        assert stage.call_back(1).document == {"status": "accepted"}
        assert held.receive().body == result_of(1)
        (new,) = stage.hold(3)
        assert not short.has_response()
        clocks.monotonic.jump(STALL)
        # The loop sleeps by the kernel's clock, which has not jumped.
        assert stage.ready().status == 200
        assert short.receive().verdict == (504, WAIT_OVER, "yes")
        assert stage.call_back(0).document == {"status": "late"}
        assert not later.has_response()

        clocks.wall.jump(0)
        for number, client in ((2, later), (3, new)):
            assert stage.call_back(number).document == {"status": "accepted"}
            assert client.receive().body == result_of(number)


@pytest.mark.parametrize("is_kept", [False, True], ids=["new", "kept"])
@pytest.mark.parametrize("count", [1, 50])
def test_what_arrived_in_time_counts_after_a_stall(
    clocks: Clocks, count: int, is_kept: bool
) -> None:
    """T3: what arrives in time is a result, though the process reads it past the deadline."""
    with run_stage() as stage:
        clients = stage.hold(*range(count), Prefer=f"wait={WAIT}")
        senders = [stage.connect() for _ in range(count)] if is_kept else []
        for sender in senders:
            sender.ask("GET", "/readyz")
            assert sender.receive().status == 200
        with stage.stall():
            senders = senders or [stage.connect() for _ in range(count)]
            for number, sender in enumerate(senders):
                sender.call_back(stage.server.callbacks[number], number)
            clocks.monotonic.jump(STALL)
        for number, client in enumerate(clients):
            response = client.receive()
            assert (response.status, response.body) == (200, result_of(number))
        assert {sender.receive().status for sender in senders} == {200}


def test_a_deadline_that_passed_in_a_stall_ends_the_wait(clocks: Clocks) -> None:
    """T3: a client whose result has not arrived by then gets its problem after the stall."""
    with run_stage() as stage:
        (client,) = stage.hold(0)
        with stage.stall():
            clocks.monotonic.jump(HOUR)
        # The loop sleeps by the kernel's clock, which has not jumped.
        assert stage.ready().status == 200
        assert client.receive().verdict == (504, WAIT_OVER, "yes")


def restart(stage: Stage) -> None:
    """Kill the proxy, and start another one in its place."""
    stage.proxy.process.kill()
    wait_for_exit(stage.proxy.process)
    stage.proxy.stop()
    stage.proxy.__enter__()
    wait_until(lambda: stage.ready().status == 200)


def check_keys(stage: Stage, started: dict[int, str], ended: Iterable[int]) -> None:
    """Send the jobs with the same keys again: each is held, or has its result, and none starts."""
    server, clients = stage.server, {number: send_keyed(stage, number) for number in started}
    waited_for = [clients[number] for number in ended]
    wait_until(
        lambda: all(each.has_response() for each in waited_for) or server.callbacks != started
    )
    for number in ended:
        assert server.callbacks == started
        response = clients[number].receive()
        assert (response.status, response.body) == (200, result_of(number))
    # What was sent before has been read by then.
    assert stage.ready().status == 200
    assert not any(clients[number].has_response() for number in started.keys() - set(ended))
    assert server.callbacks == started


def send_keyed(stage: Stage, number: int) -> Client:
    return stage.send_job(number, f"account {number}", Idempotency_Key=f'"{number}"')


def test_clock_that_was_behind_at_the_start_starts_nothing_twice(
    clocks: Clocks, tmp_path: Path
) -> None:
    """T5: a proxy starts with a clock an hour behind, which is put right before it is killed."""
    clocks.wall.jump(-HOUR)
    store = f"sqlite:{tmp_path / 'store.db'}"
    # Less than the step: by the wall clock every key is over.
    with run_stage(store=store, key_life="1800") as stage:
        clients = [send_keyed(stage, number) for number in range(6)]
        stage.server.wait_for_acks(range(6))
        for number in range(3):
            assert stage.call_back(number).status == 200
            assert clients[number].receive().body == result_of(number)
        started = dict(stage.server.callbacks)
        clocks.wall.jump(0)
        for _ in range(2):
            restart(stage)
            check_keys(stage, started, range(3))
        # The token of a job was made an hour ago, and is still valid.
        assert stage.call_back(3).status == 200
        check_keys(stage, started, range(4))


def test_clock_that_is_ahead_for_a_while_starts_nothing_twice(
    clocks: Clocks, tmp_path: Path
) -> None:
    """T5: a proxy is killed and started while its clock is two days ahead, and after that."""
    with run_stage(store=f"sqlite:{tmp_path / 'store.db'}") as stage:
        first = [send_keyed(stage, number) for number in range(4)]
        stage.server.wait_for_acks(range(4))
        assert stage.call_back(0).status == 200
        assert first[0].receive().body == result_of(0)
        clocks.wall.jump(48 * HOUR)
        later = send_keyed(stage, 4)
        stage.server.wait_for_acks([4])
        assert stage.call_back(4).status == 200
        assert later.receive().body == result_of(4)
        started = dict(stage.server.callbacks)
        restart(stage)
        check_keys(stage, started, [0, 4])
        clocks.wall.jump(0)
        restart(stage)
        check_keys(stage, started, [0, 4])
        assert stage.call_back(1).status == 200
        check_keys(stage, started, [0, 1, 4])
