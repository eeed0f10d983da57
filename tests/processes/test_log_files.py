"""The log of a real process: in a file that is rotated, and options that would lose it."""

import signal
import subprocess
from pathlib import Path

import pytest

from jobproxy.sandbox.processes import find_free_port, find_script
from tests.support.processes import run
from tests.support.socket_client import Client, request, result_of
from tests.support.threaded_job_server import serve_jobs
from tests.support.waiting import PATIENT, wait_until

LOGGER = "--logger=jobproxy.logs.json_lines"


def test_rotated_file_loses_no_line(tmp_path: Path) -> None:
    """The file is renamed while jobs run; after SIGHUP lines go to a new one of the old name."""
    file, moved = tmp_path / "log", tmp_path / "log.1"
    port, jobs = find_free_port(), 30
    with serve_jobs() as server, file.open("ab") as output:
        command = [find_script("twistd"), "--nodaemon", "--pidfile=", LOGGER, "jobproxy"]
        command += [f"--callback-url=http://127.0.0.1:{port}/callback"]
        command += [f"--job-server-url={server.url}/start", f"--listen=tcp:{port}"]
        command += [f"--{name}={value}" for name, value in PATIENT.items()]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: b"jobproxy 0" in file.read_bytes())
            for number in range(jobs):
                with Client(port) as client:
                    client.send_job(number)
                    server.wait_for_acks([number])
                    assert (
                        request(server.callbacks[number], result_of(number), "POST").status == 200
                    )
                    assert client.receive().body == result_of(number)
                if number == 9:
                    file.rename(moved)
                if number == 19:
                    process.send_signal(signal.SIGHUP)
                    wait_until(file.exists)
            ends = [path.read_text().count(" has ended: result") for path in (moved, file)]
            assert sum(ends) == jobs
            assert min(ends) >= 9
            # Twisted writes its own last words to standard error, which is the same file.
            assert file.samefile(f"/proc/{process.pid}/fd/2")
        finally:
            process.terminate()
            process.wait()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--nodaemon", "--logfile=/dev/null"], "--logfile has no effect with this --logger"),
        ([], "use --nodaemon"),
    ],
)
def test_options_that_would_lose_the_log_are_refused(
    more: list[str], words: str, tmp_path: Path
) -> None:
    """G12: no line would be written: the process does not start, and says why."""
    options = ["--callback-url=http://127.0.0.1:1/callback", "--listen=tcp:0"]
    pid_file = f"--pidfile={tmp_path / 'pid'}"
    done = run("twistd", pid_file, LOGGER, *more, "jobproxy", *options)
    assert done.returncode == 78
    assert words in done.stderr
