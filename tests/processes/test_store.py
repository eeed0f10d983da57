"""A real proxy with a store in a file: killed, stopped, refused, and waited for."""

import sqlite3
import stat
import subprocess
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from jobproxy.sandbox.processes import DaemonProcess, find_free_port
from tests.support.processes import ROOT, run
from tests.support.programs import needs
from tests.support.socket_client import Response, request, result_of
from tests.support.stage import Stage, make_proxy, run_stage
from tests.support.waiting import wait_for_exit, wait_until

SCRIPT = str(ROOT / "benchmarks" / "restarts.py")
UNREACHABLE = "urn:jobproxy:problem:store-unreachable"
#: Seconds; the script has deadlines of its own.
LONG = 300.0


def play(*arguments: str) -> None:
    """Run the script, which passes."""
    done = run("python", SCRIPT, *arguments, timeout=LONG)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED" in done.stdout


@pytest.mark.timeout(2 * LONG)
def test_killed_processes_lose_nothing_and_start_nothing_twice() -> None:
    """K1, K3, K4: five kills at random moments: no second start, no lost and no wrong result."""
    play("--rounds", "5", "--jobs", "60")


@pytest.mark.timeout(2 * LONG)
def test_restarts_in_good_order_lose_nothing() -> None:
    """K1, K2, K3: SIGTERM under load, as an upgrade does: the same."""
    play("--rounds", "3", "--jobs", "60", "--gently")


@needs("gcc", "cc")
@pytest.mark.timeout(2 * LONG)
def test_power_cut_loses_nothing_that_was_promised() -> None:
    """K6: the same with the files as they were when they were last synced to the disk."""
    play("--rounds", "3", "--jobs", "60", "--power-cut")


def write_damage(path: Path) -> None:
    path.write_bytes(b"my thesis\n" * 100)


def write_newer(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.execute("PRAGMA application_id = 1785684592")
    connection.close()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (write_damage, "is not a database of SQLite, or is damaged"),
        (write_newer, "was written by a newer version of jobproxy"),
        (Path.mkdir, "cannot be opened: Is a directory"),
    ],
)
def test_file_that_cannot_be_used_is_refused_in_one_line(
    spoil: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    """G12: the process does not start: one line, and exit code 78."""
    path = tmp_path / "store.db"
    spoil(path)
    done = run(
        "twistd",
        "--nodaemon",
        "--pidfile=",
        "jobproxy",
        "--callback-url=http://127.0.0.1:1/callback",
        f"--store=sqlite:{path}",
    )
    assert done.returncode == 78, done.stdout
    assert done.stderr.startswith(f"jobproxy: --store: {path} {words}")
    assert done.stderr.count("\n") == 1


def test_second_process_waits_for_the_first_to_end(tmp_path: Path) -> None:
    """G13: a second process on the same file takes no keys until the first has ended."""
    store = f"sqlite:{tmp_path / 'store.db'}"
    first, second = (
        make_proxy("http://127.0.0.1:1", find_free_port(), store=store) for _ in range(2)
    )

    def is_ready(proxy: DaemonProcess) -> bool:
        return request(f"{proxy.url}/readyz").status == 200

    with first:
        wait_until(lambda: is_ready(first))
        with second:
            owner = first.process.pid
            wait_until(lambda: f"is used by process {owner}" in second.log)
            assert not is_ready(second)
            first.process.terminate()
            wait_for_exit(first.process)
            wait_until(lambda: is_ready(second))
            assert "can be used again" in second.log
    assert stat.S_IMODE((tmp_path / "store.db.key").stat().st_mode) == 0o600
    assert not (tmp_path / "store.db-wal").exists()


def fill(stage: Stage, results: tuple[bytes, ...]) -> Response:
    """Send jobs with new keys and these results, until a key is refused; return that response."""
    for number in count(2):
        client = stage.send_job(number, Idempotency_Key=f'"{number}"')
        if not stage.is_started(number, client):
            return client.receive()
        receipt = stage.call_back(number, results[0])
        if receipt.status != 200 and len(results) > 1:
            results = results[1:]
    raise AssertionError


def test_jobs_are_answered_while_the_disk_is_full(tmp_path: Path) -> None:
    """K5: a full store takes no new keys; held clients are unharmed, and what is kept is there."""
    store = f"sqlite:{tmp_path / 'store.db'}?max-size=1M"
    big = b'{"state": "completed", "more": "%b"}' % (b"x" * 60_000)
    with run_stage(store=store, max_body="70000") as stage:
        (kept,) = stage.hold(0, Idempotency_Key='"kept"')
        assert stage.call_back(0, big).status == 200
        assert kept.receive().body == big
        (held,) = stage.hold(1)
        refused = fill(stage, (big, b'{"state":"completed","more":"%b"}' % (b"x" * 1_000)))
        assert refused.verdict == (503, UNREACHABLE, "unknown")
        assert stage.call_back(1).status == 200
        assert held.receive().status == 200
        again = stage.send_job(0, "account 0", Idempotency_Key='"kept"').receive()
        assert (again.status, again.body) == (200, big)
        wait_until(lambda: "has reached its max-size, or the disk is full" in stage.proxy.log)


@pytest.fixture
def broken_disk(tmp_path: Path) -> dict[str, str]:
    """Return the variables of a process whose store is on a disk that can break."""
    library = tmp_path / "io_errors.so"
    source = ROOT / "tests" / "support" / "io_errors.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return {
        "LD_PRELOAD": str(library),
        "IO_ERROR_FILES": str(tmp_path / "store.db"),
        "IO_ERRORS": str(tmp_path / "errors"),
    }


@needs("gcc", "cc")
@pytest.mark.parametrize("kinds", ["s", "w", "rws"])
def test_broken_disk_loses_nothing_that_was_told_200(
    kinds: str, tmp_path: Path, broken_disk: dict[str, str]
) -> None:
    """K5: with EIO, keys and results that must be kept get 503; all goes on once the disk does."""
    errors = Path(broken_disk["IO_ERRORS"])
    with run_stage(broken_disk, store=f"sqlite:{tmp_path / 'store.db'}") as stage:
        (keyed,) = stage.hold(0, Idempotency_Key='"before"')
        (held,) = stage.hold(1)
        errors.write_text(kinds)
        refused = stage.send_job(2, "account 2", Idempotency_Key='"meanwhile"').receive()
        assert refused.verdict[:2] == (503, UNREACHABLE)
        assert stage.call_back(0).status == 503
        assert stage.call_back(1).status == 200
        assert held.receive().body == result_of(1)
        wait_until(lambda: "cannot be used: disk I/O error" in stage.proxy.log)
        errors.unlink()
        wait_until(lambda: stage.call_back(0).status == 200)
        assert keyed.receive().body == result_of(0)
        again = stage.send_job(0, "account 0", Idempotency_Key='"before"').receive()
        assert (again.status, again.body) == (200, result_of(0))
        wait_until(lambda: "can be used again" in stage.proxy.log)
        assert "Traceback" not in stage.proxy.log


@needs("gcc", "cc")
def test_broken_disk_at_the_start_is_said_in_one_line(
    tmp_path: Path, broken_disk: dict[str, str]
) -> None:
    """K5: the process does not start: one line, and exit code 78."""
    Path(broken_disk["IO_ERRORS"]).write_text("rws")
    done = run(
        "twistd",
        "--nodaemon",
        "--pidfile=",
        "jobproxy",
        "--callback-url=http://127.0.0.1:1/callback",
        f"--store=sqlite:{tmp_path / 'store.db'}",
        LD_PRELOAD=broken_disk["LD_PRELOAD"],
        IO_ERROR_FILES=broken_disk["IO_ERROR_FILES"],
        IO_ERRORS=broken_disk["IO_ERRORS"],
    )
    assert done.returncode == 78, done.stdout
    assert done.stderr.count("\n") == 1
    assert "cannot be used: disk I/O error" in done.stderr
