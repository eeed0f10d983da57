"""The work sample itself: 50 held clients through a server that takes one connection at a time."""

import json
import re
import signal
import subprocess
import urllib.request
from typing import Any

import pytest

from jobproxy.sandbox.processes import find_script, run_pair
from tests.support.processes import fetch_json, run


def run_sample(job_server: dict[str, str], proxy: dict[str, str]) -> tuple[Any, Any, Any]:
    """Run jobclient through a proxy; return its report, the verdict on its proof and the stats."""
    with run_pair(job_server, proxy) as (server, front):
        done = run("jobclient", "--url", f"{front.url}/proxy", "--account", "example", "--json")
        report = json.loads(done.stdout)
        assert done.returncode == (0 if report["result"] == "PASSED" else 1)
        verdict = fetch_json(f"{server.url}/verify", report["proof"].encode())
        return report, verdict, fetch_json(f"{server.url}/stats")


@pytest.mark.parametrize("holding", ["request", "connection"])
@pytest.mark.parametrize("latency", ["0", "0.1"])
def test_passes(latency: str, holding: str) -> None:
    """The sample passes, near the job server and far from it, whatever holds the one slot."""
    report, verdict, stats = run_sample({"latency": latency, "hold-slot": holding}, {})
    assert report["errors"] == {}
    assert report["result"] == "PASSED"
    assert verdict == {"jobs": 50, "genuine": 50}
    assert stats["callbacks_accepted"] == 50
    assert stats["repeated_callback_urls"] == 0


def test_early_callbacks() -> None:
    """B1: callbacks that come before their ack are answers like any other."""
    report, verdict, stats = run_sample({"faults": "early=1"}, {})
    assert report["result"] == "PASSED"
    assert verdict == {"jobs": 50, "genuine": 50}
    assert stats["faults"] == {"early": 50}
    # Not one client was kept waiting for a job to end after its callback had come.
    assert report["max"] < report["limit"]


def test_lost_acks() -> None:
    """S6, S11: of starts whose ack was lost every callback that comes is an answer."""
    report, verdict, stats = run_sample({"faults": "reset=0.3,garbage=0.3", "seed": "1"}, {})
    assert stats["faults"].keys() == {"reset", "garbage"}
    assert report["errors"] == {}
    assert verdict == {"jobs": 50, "genuine": 50}


def test_demo() -> None:
    """The demo passes, ends with the verdict, and says how many proofs are genuine."""
    done = run("jobproxy-demo")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "WORK SAMPLE RESULT: PASSED"
    assert "The job server says: 50 of 50 proofs genuine." in lines
    assert "Succeeded: 50" in lines


def test_demo_compares() -> None:
    """The demo shows how the job server alone fails."""
    done = run("jobproxy-demo", "--compare", "--jobs", "11")
    verdicts = [line for line in done.stdout.splitlines() if line.startswith("WORK SAMPLE")]
    assert verdicts == [
        "WORK SAMPLE RESULT: FAILED",
        "WORK SAMPLE RESULT: PASSED",
        "WORK SAMPLE RESULT: PASSED",
    ]


def test_demo_stays() -> None:
    """The demo says where the live page is, and leaves it up until Ctrl-C."""
    command = [find_script("jobproxy-demo"), "--stay", "--jobs", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        printed = ""
        while "Ctrl-C" not in printed:
            line = demo.stdout.readline()
            assert line, printed
            printed += line
        page = re.search(r"http://\S+/ ", printed)
        assert page is not None
        with urllib.request.urlopen(page[0].strip(), timeout=10) as response:
            assert b"<title>jobproxy</title>" in response.read()
        demo.send_signal(signal.SIGINT)
        assert demo.wait(20) == 0
