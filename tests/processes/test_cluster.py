"""Several nodes and a real Redis, by the books of the benchmark's script."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from jobproxy.sandbox.processes import DaemonProcess, find_free_port
from tests.support.processes import ROOT, fetch_json, post_job, run

#: Seconds; the script has deadlines of its own.
LONG = 300.0
SCRIPT = str(ROOT / "benchmarks" / "cluster.py")


def play(scenario: str, *arguments: str) -> dict[str, str]:
    """Run a scenario, which passes; return what it prints, by label."""
    done = run("python", SCRIPT, scenario, "--busy", *arguments, timeout=LONG)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"PASSED {scenario}" in done.stdout
    return dict(re.findall(r"^ *(\S.*?) {2,}(\S.*)$", done.stdout, re.MULTILINE))


@pytest.mark.timeout(2 * LONG)
def test_a_callback_to_another_node_reaches_its_client() -> None:
    """B15: three nodes, and each callback comes to one that does not hold the client."""
    figures = play("relay", "--jobs", "1500")
    assert (
        int(figures["with response 200"])
        == int(figures["whose callback was sent elsewhere first"])
        == 1500
    )
    assert float(figures["calls to Redis per job"]) <= 4


@pytest.mark.timeout(2 * LONG)
def test_a_killed_node_loses_no_result_that_was_still_to_come() -> None:
    """G4: a node dies; jobs with a key end elsewhere, results of others are orphans."""
    figures = play("kill", "--seconds", "4")
    assert int(figures["jobs with a key that were sent again"]) > 0


@pytest.mark.timeout(2 * LONG)
def test_an_emptied_redis_loses_nothing() -> None:
    """B15, X1, X2: Redis goes, and comes back with nothing in it; nothing is lost or done twice."""
    figures = play("restart", "--seconds", "4", "--away", "2.5")
    assert int(figures["with response 503 store-unreachable"]) > 0


@pytest.mark.timeout(2 * LONG)
def test_jobs_that_need_no_redis_do_not_wait_for_one_that_hangs() -> None:
    """X1: Redis hangs; jobs that do not need it do not wait for it."""
    figures = play("hang", "--seconds", "2", "--away", "3")
    assert int(figures["with response 200"]) > 0


def test_nodes_without_a_store_need_nothing_of_each_other() -> None:
    """Without a store, nodes with callback URLs of their own need nothing of each other."""
    job_server = {"duration": "0.05", "slots-per-account": "50"}
    with DaemonProcess("jobserver", job_server) as server:
        ports = [find_free_port(), find_free_port()]
        one, other = (
            DaemonProcess(
                "jobproxy",
                {
                    "callback-url": f"http://127.0.0.1:{port}/callback",
                    "job-server-url": f"{server.url}/start",
                },
                port,
            )
            for port in ports
        )
        with one, other, ThreadPoolExecutor(20) as executor:
            results = list(executor.map(post_job, [one.url, other.url] * 20))
        assert len({result["id"] for result in results}) == 40
        assert {result["state"] for result in results} == {"completed"}
        assert fetch_json(f"{server.url}/stats")["started"] == 40
