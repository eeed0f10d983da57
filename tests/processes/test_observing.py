"""A real proxy as its operator sees it: status, metrics and log, which say the same."""

import json
import os
import re
import subprocess
import urllib.request

from jobproxy.daemon.process import raise_file_limit
from jobproxy.sandbox.processes import (
    DaemonProcess,
    find_free_port,
    find_script,
    wait_until_served,
)
from tests.support.processes import fetch_json
from tests.support.stage import run_stage
from tests.support.waiting import DEADLINE, wait_for_exit, wait_until

HELD = 1_000


def read_metric(url: str, name: str) -> int:
    """Return the sum of a metric's samples."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=DEADLINE) as response:
        text = response.read().decode()
    samples = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    return int(sum(map(float, samples)))


def count_states(proxy: DaemonProcess) -> dict[str, int]:
    """Return how many lines of the log have which state of a job."""
    states = re.findall(r" jobproxy.jobs: .* state=(\w+)", proxy.log)
    return {state: states.count(state) for state in set(states)}


def test_status_metrics_and_log_agree() -> None:
    """With 1,000 clients held, and once they are answered, all that can be read agrees."""
    raise_file_limit()
    port = find_free_port()
    url = f"http://127.0.0.1:{port}"
    with run_stage(admin_listen=f"tcp:{port}:interface=127.0.0.1") as stage:
        clients = stage.hold(*range(HELD))
        wait_until(lambda: count_states(stage.proxy).get("running") == HELD)
        status = fetch_json(f"{url}/status")
        assert status["held"] == status["jobs"] == read_metric(url, "jobproxy_held") == HELD
        assert status["starts"] == {"acknowledged": HELD}
        assert count_states(stage.proxy) == {"queued": HELD, "starting": HELD, "running": HELD}
        listed = fetch_json(f"{url}/jobs?state=running&limit=1000")
        assert len({job["job"] for job in listed["jobs"]}) == listed["total"] == HELD
        assert {stage.call_back(number).status for number in range(HELD)} == {200}
        assert all(client.receive().status == 200 for client in clients)
        wait_until(lambda: count_states(stage.proxy).get("ended") == HELD)
        wait_until(lambda: fetch_json(f"{url}/status")["held"] == 0)
        status = fetch_json(f"{url}/status")
        assert (status["held"], status["callbacks"]) == (0, {"accepted": HELD})
        responses = {
            (each["status"], each["outcome"]): each["count"] for each in status["responses"]
        }
        assert responses[200, "ok"] >= 2 * HELD
        assert read_metric(url, "jobproxy_job_seconds_count") == HELD
        assert sum(status["jobSeconds"]["counts"]) == HELD
        assert status["logDropped"] == 0


def test_a_log_that_nobody_reads_does_not_stop_the_proxy() -> None:
    """L7: a proxy whose log nobody reads goes on, and counts the lines that it drops."""
    port = find_free_port()
    reading, writing = os.pipe()
    with DaemonProcess("jobserver", {"duration": "60"}) as server:
        command = [find_script("twistd"), "-n", "--pidfile=", "--logger=jobproxy.logs.json_lines"]
        command += ["jobproxy", f"--listen=tcp:{port}:interface=127.0.0.1", "--max-held=20000"]
        command += [f"--callback-url=http://127.0.0.1:{port}/callback"]
        command += [f"--job-server-url={server.url}/start"]
        process = subprocess.Popen(command, stdout=writing, stderr=subprocess.DEVNULL)
        os.close(writing)
        try:
            wait_until_served(process, port)
            dropped = 0
            while dropped == 0:
                for _ in range(500):
                    url = f"http://127.0.0.1:{port}/proxy"
                    body = json.dumps({"account": "example", "wait": False}).encode()
                    headers = {"Content-Type": "application/json", "X-Request-Id": "x" * 128}
                    request = urllib.request.Request(url, body, headers)
                    with urllib.request.urlopen(request, timeout=DEADLINE) as response:
                        assert response.status == 202
                dropped = read_metric(f"http://127.0.0.1:{port}", "jobproxy_log_dropped_total")
        finally:
            process.terminate()
            wait_for_exit(process)
            os.close(reading)
