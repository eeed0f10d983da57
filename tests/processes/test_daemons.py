"""The daemons as processes: how they start, serve and stop."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from jobproxy.sandbox.processes import (
    DaemonFailed,
    DaemonProcess,
    find_free_port,
    find_script,
    run_pair,
    wait_until_served,
)
from tests.support.processes import ROOT, fetch_json, run
from tests.support.waiting import DEADLINE, wait_for_exit, wait_until

JOB = json.dumps({"account": "example", "wait": True})
HEADERS = {"Content-Type": "application/json"}


def post(connection: HTTPConnection, body: str = JOB) -> tuple[int, Any]:
    connection.request("POST", "/proxy", body, HEADERS)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "jobproxy: --callback-url is missing (or JOBPROXY_CALLBACK_URL)\n"),
        (
            ["--callback-url=http://a.example/", "--wait=soon"],
            "jobproxy: --wait must be a number of seconds above 0, not 'soon'\n",
        ),
    ],
)
def test_a_bad_option_is_one_line_on_standard_error(arguments: list[str], line: str) -> None:
    """G6: a bad or missing option is one line on standard error, and exit code 78."""
    done = run("twistd", "-n", "--pidfile=", "jobproxy", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (78, "", line)


@pytest.mark.parametrize(
    ("plugin", "arguments"),
    [("jobproxy", ["--callback-url=http://a.example/"]), ("jobserver", [])],
)
def test_a_taken_port_is_one_line_on_standard_error(plugin: str, arguments: list[str]) -> None:
    """G5: a port that is taken is one line on standard error, and exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listen = f"--listen=tcp:{port}:interface=127.0.0.1"
        done = run("twistd", "-n", "--pidfile=", "--logfile=/dev/null", plugin, listen, *arguments)
    line = f"{plugin}: cannot listen on 127.0.0.1:{port}: Address already in use\n"
    assert (done.returncode, done.stderr) == (1, line)


def test_an_endpoint_that_cannot_be_is_one_line_on_standard_error(tmp_path: Path) -> None:
    """A port out of range, or a socket in no folder, is one line, and exit code 78."""
    command = ("twistd", "-n", "--pidfile=", "--logfile=/dev/null", "jobserver")
    for place, reason in (
        ("tcp:70000", "must have a port of 0 to 65535"),
        (f"unix:{tmp_path}/none/socket", "must have a socket in a folder that exists"),
    ):
        done = run(*command, f"--listen={place}")
        line = f"jobserver: --listen {reason}, not {place!r}\n"
        assert (done.returncode, done.stderr) == (78, line)


def test_options_are_checked_without_a_start(tmp_path: Path) -> None:
    """With --check a process ends at once: with 0, or with 78 and one line."""
    command = ("twistd", "--pidfile=", "jobproxy", "--callback-url=http://x.example/c", "--check")
    with run_pair({}, {"store": f"sqlite:{tmp_path}/s.db"}):
        done = run(*command, f"--store=sqlite:{tmp_path}/s.db")
        assert (done.returncode, done.stdout) == (0, "jobproxy: all options are right\n")
    (tmp_path / "thesis").write_bytes(b"my thesis\n" * 100)
    done = run(*command, f"--store=sqlite:{tmp_path}/thesis")
    assert done.returncode == 78
    assert done.stderr.startswith(f"jobproxy: --store: {tmp_path}/thesis is not a database")


def test_a_socket_that_cannot_be_made_is_one_line_on_standard_error(tmp_path: Path) -> None:
    """A socket with a name that is too long is one line, and exit code 1."""
    place = f"unix:{tmp_path}/{'s' * 120}"
    done = run(
        "twistd", "-n", "--pidfile=", "--logfile=/dev/null", "jobserver", f"--listen={place}"
    )
    assert done.returncode == 1
    assert done.stderr.startswith("jobserver: cannot listen on ")
    assert done.stderr.count("\n") == 1


def test_a_connection_is_kept_for_job_after_job() -> None:
    """A client that keeps its connection gets job after job over it."""
    with run_pair({"duration": "0.05"}, {}) as (server, proxy):
        connection = HTTPConnection("127.0.0.1", proxy.port, timeout=DEADLINE)
        connection.connect()
        used = connection.sock
        results = [post(connection) for _ in range(5)]
        assert connection.sock is used
        connection.close()
        # The client may have its response before the job server has that of its callback.
        wait_until(lambda: fetch_json(f"{server.url}/stats")["callbacks_accepted"] == 5)
        stats = fetch_json(f"{server.url}/stats")
    assert [status for status, _ in results] == [200] * 5
    assert len({result["id"] for _, result in results}) == 5
    assert stats["started"] == 5


def test_a_wrong_path_gets_a_problem() -> None:
    """Q23: a wrong path is answered in JSON, over a real connection too."""
    options = {"callback-url": "http://a.example/callback"}
    with DaemonProcess("jobproxy", options) as proxy:
        connection = HTTPConnection("127.0.0.1", proxy.port, timeout=DEADLINE)
        connection.request("GET", "/")
        response = connection.getresponse()
        assert response.status == 405
        assert json.load(response)["type"] == "urn:jobproxy:problem:method-not-allowed"
        connection.close()


def test_a_held_client_gets_a_problem_when_the_proxy_stops() -> None:
    """A held client is told when the proxy is stopped, and the process ends."""
    with run_pair({"duration": "60"}, {"drain-timeout": "0.1"}) as (server, proxy):
        responses: list[tuple[int, Any]] = []
        connection = HTTPConnection("127.0.0.1", proxy.port, timeout=DEADLINE)
        client = threading.Thread(target=lambda: responses.append(post(connection)))
        client.start()
        wait_until(lambda: fetch_json(f"{server.url}/stats")["started"])
        proxy.process.send_signal(signal.SIGTERM)
        client.join()
        wait_for_exit(proxy.process)
        connection.close()
        log = proxy.log
    ((status, problem),) = responses
    assert status == 503
    assert problem["type"] == "urn:jobproxy:problem:draining"
    assert "Traceback" not in log


def test_the_tac_file_runs_the_same_service(tmp_path: Path) -> None:
    """``jobproxy.tac`` runs the same service, with its options from the environment."""
    port = find_free_port()
    environment = {
        "JOBPROXY_CALLBACK_URL": f"http://127.0.0.1:{port}/callback",
        "JOBPROXY_LISTEN": f"tcp:{port}:interface=127.0.0.1",
    }
    with DaemonProcess("jobserver", {"duration": "0.05"}) as server:
        command = [find_script("twistd"), "-n", "--pidfile=", "-y", str(ROOT / "jobproxy.tac")]
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, **environment, "JOBPROXY_JOB_SERVER_URL": f"{server.url}/start"},
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_until_served(process, port)
            connection = HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
            status, result = post(connection)
            connection.close()
        finally:
            process.terminate()
            wait_for_exit(process)
    assert (status, result["state"]) == (200, "completed")


def test_a_failed_start_raises_what_the_daemon_logged() -> None:
    """A daemon that does not start is told with what it said."""
    daemon = DaemonProcess("jobproxy", {"wait": "soon"})
    with pytest.raises(DaemonFailed, match="--callback-url is missing"), daemon:
        pass
    assert sys.exc_info() == (None, None, None)
