"""jobproxyctl, as an operator runs it."""

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from jobproxy.sandbox.processes import DaemonProcess, find_free_port
from tests.support.processes import run
from tests.support.socket_client import result_of
from tests.support.stage import run_stage
from tests.support.waiting import wait_for_exit

CONNECT = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"


def control(admin: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run("jobproxyctl", *arguments, JOBPROXY_ADMIN=admin)


def test_each_command_prints_what_is_so() -> None:
    """Each command tells what is so, in text or JSON, and drain ends the process."""
    port = find_free_port()
    admin = f"http://127.0.0.1:{port}"
    with run_stage(admin_listen=f"tcp:{port}:interface=127.0.0.1") as stage:
        clients = stage.hold(1, 2, 3)
        clients[0].close()
        status = json.loads(control(admin, "status", "--json").stdout)
        assert (status["jobs"], status["ready"]) == (3, True)
        shown = json.loads(control(admin, "--json", "jobs", "show", "1").stdout)
        assert [each["event"] for each in shown["events"]][-1] == "acknowledged"
        jobs = control(admin, "jobs", "--state", "running", "--limit", "2").stdout
        assert [line.split()[1] for line in jobs.splitlines()] == ["STATE", "running", "running"]
        for number in (1, 2, 3):
            stage.call_back(number)
        (orphan,) = json.loads(control(admin, "orphans", "list", "--json").stdout)["orphans"]
        shown = control(admin, "orphans", "show", orphan["job"])
        assert shown.stdout.encode() == result_of(1)
        assert control(admin, "orphans", "drop", orphan["job"]).stdout == "dropped\n"
        again = control(admin, "orphans", "drop", orphan["job"])
        assert again.returncode == 1
        assert again.stderr.startswith("jobproxyctl: ")
        assert "This job has no orphan" in again.stderr
        wrong = control(f"http://127.0.0.1:{stage.proxy.port}", "status")
        assert wrong.stderr.endswith(" Is this the port of --admin-listen?\n")
        drained = control(admin, "drain")
        assert (drained.returncode, drained.stdout) == (0, "draining, 0 clients held\n")
        assert wait_for_exit(stage.proxy.process) == 0
        gone = control(admin, "status")
        assert gone.returncode == 1
        assert "cannot connect" in gone.stderr


def test_callback_url_is_checked_as_a_job_server_would_use_it() -> None:
    """``check-callback`` says whether callbacks from this machine reach the proxy."""
    with run_stage() as stage, DaemonProcess("jobserver", {}) as other:
        url = f"{stage.proxy.url}/callback"
        found = control("", "check-callback", url)
        assert (found.returncode, found.stderr) == (0, "")
        assert "reaches a jobproxy" in found.stdout
        assert json.loads(control("", "check-callback", url, "--json").stdout)["reached"] is True
        for wrong, words in (
            (f"http://127.0.0.1:{find_free_port()}/callback", "cannot be reached from here"),
            (other.url, "is served by something else"),
            ("callback", "must be a URL"),
        ):
            failed = control("", "check-callback", wrong)
            assert failed.returncode in {1, 2}
            assert words in failed.stderr
        assert "Traceback" not in stage.proxy.log


def test_only_the_user_of_the_process_may_use_the_operators_socket() -> None:
    """G10: other users of the machine cannot connect to the operator's socket, and stop nothing."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        admin = Path(folder) / "admin.sock"
        with run_stage(admin_listen=f"unix:{admin}"):
            assert stat.S_IMODE(admin.stat().st_mode) == 0o600
            assert control(f"unix:{admin}", "status").returncode == 0
            python = shutil.which("python3", path="/usr/bin:/bin")
            if os.getuid() == 0 and python is not None:
                asking = [python, "-c", CONNECT, str(admin)]
                refused = subprocess.run(asking, user="nobody", capture_output=True, check=False)
                assert b"PermissionError" in refused.stderr
