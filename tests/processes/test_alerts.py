"""The alerts, played with what a real proxy exports in the situations that they are for.

What ``/metrics`` says before and after a situation is given to Prometheus's own engine as a history
of some minutes, so that names, labels and the births of series are the real ones.
"""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from jobproxy.sandbox.processes import find_free_port
from tests.support.processes import ROOT
from tests.support.programs import needs
from tests.support.redis_server import RedisServer
from tests.support.socket_client import request, result_of
from tests.support.stage import Stage, run_stage
from tests.support.waiting import wait_until

ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
#: Minutes of a history before the situation, and when it is looked at.
QUIET, END = 10, 23
#: How the names of counters end, and those of the parts of histograms.
COUNTS = ("_total", "_sum", "_count", "_bucket")
FIRING = 'count by (alertname) (ALERTS{alertstate="firing"})'

HELD = 'jobproxy_held{instance="a",job="jobproxy"}'
LAG = 'jobproxy_reactor_lag_seconds_sum{instance="a",job="jobproxy"}'
UP = 'jobproxy_store_up{instance="a",job="jobproxy"}'

Samples = dict[str, float]


def scrape(stage: Stage) -> Samples:
    """Return all that the proxy exports, by series, as a scrape of the job ``jobproxy``."""
    text = request(f"{stage.proxy.url}/metrics").body.decode()
    found = {'up{instance="a",job="jobproxy"}': 1.0}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {**sample.labels, "instance": "a", "job": "jobproxy"}
            words = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
            found[f"{sample.name}{{{words}}}"] = sample.value
    return found


def describe(name: str, before: Samples, after: Samples, alerts: set[str], rate: int) -> Any:
    """Return a test of promtool: the alerts that fire after a situation, and no others.

    :param rate: how many times a minute it happens; 0: it happens once.
    """
    series = []
    for key in {**before, **after}:
        old, new = before.get(key), after.get(key, 0.0)
        values = [f"_x{QUIET - 1}" if old is None else f"{old!r}x{QUIET - 1}"]
        is_count = any(f"{end}{{" in key for end in COUNTS)
        growth = (new - (old or 0.0)) * rate if is_count else 0.0
        values.append(f"{new!r}+{growth!r}x{END}" if growth else f"{new!r}x{END}")
        series.append({"series": key, "values": " ".join(values)})
    expected = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(alerts)]
    checks = [{"expr": FIRING, "eval_time": f"{END}m", "exp_samples": expected}]
    return {"name": name, "interval": "1m", "input_series": series, "promql_expr_test": checks}


class Play:
    """Situations of one proxy, each between two scrapes."""

    def __init__(self, stage: Stage) -> None:
        self.tests: list[Any] = []
        self._stage = stage
        self._before = scrape(stage)

    def end(self, name: str, *alerts: str, rate: int = 0) -> None:
        """End a situation, in which these alerts fire."""
        after = scrape(self._stage)
        self.tests.append(describe(name, self._before, after, set(alerts), rate))
        self._before = after


def play_callbacks() -> list[Any]:
    """Play what job servers and others send as callbacks."""
    with run_stage() as stage:
        play = Play(stage)
        clients = stage.hold(*range(5))
        for number in range(5):
            stage.call_back(number)
        assert [client.receive().status for client in clients] == [200] * 5
        play.end("all is well", rate=10)
        stage.call_back(0, result_of(0).replace(b"completed", b"failed"))
        play.end("the job server contradicts itself once", "JobproxyConflicts")
        for _ in range(10):
            assert request(f"{stage.proxy.url}/callback/x", b"{}", "POST").status == 404
        play.end("a scan of the callbacks", "JobproxyForgedCallbacks", rate=60)
        short = [stage.send_job(number, Prefer="wait=1") for number in (7, 8, 9)]
        assert [client.receive().status for client in short] == [504] * 3
        play.end("clients that choose a short wait", rate=10)
        for client in stage.hold(11, 12):
            client.close()
        wait_until(lambda: scrape(stage)[HELD] == 0)
        for number in (11, 12):
            stage.call_back(number)
        play.end("clients leave before their results come", "JobproxyOrphans", rate=10)
        with stage.stall():
            time.sleep(2)
        wait_until(lambda: scrape(stage)[LAG] > 1)
        play.end("the loop stands for two seconds", "JobproxyLoopLate", rate=4)
        return play.tests


def play_silence() -> list[Any]:
    """Play jobs whose callbacks do not come."""
    with run_stage(wait="1") as stage:
        play = Play(stage)
        for number in range(20):
            client = stage.send_job(number, f"account {number}", Prefer="respond-async")
            assert client.receive().status == 202
        play.end("no callback ever comes", "JobproxyUnheard")
        stage.call_back(0)
        play.end("the first callback comes")
        late = [stage.send_job(number, f"account {number}") for number in (21, 22, 23)]
        assert [client.receive().status for client in late] == [504] * 3
        play.end("the only three clients get no result", "JobproxyTimeouts")
        return play.tests


def play_dead_server() -> list[Any]:
    """Play a job server to which no connection can be made."""
    url = f"http://127.0.0.1:{find_free_port()}/start"
    with run_stage(job_server_url=url, start_attempts="1") as stage:
        play = Play(stage)
        for number in range(3):
            assert stage.send_job(number, f"account {number}").receive().status == 503
        play.end("the job server refuses three connections", "JobproxyRefusing")
        for number in range(3, 15):
            assert stage.send_job(number, f"account {number}").receive().status == 503
        wait_until(lambda: "warnings" in request(f"{stage.proxy.url}/readyz").document)
        play.end("the job server is away", "JobproxyRefusing", "JobproxyCircuitOpen")
        return play.tests


def play_store(secrets: Path) -> list[Any]:
    """Play a store that is full, and one that is away."""
    with RedisServer() as redis, run_stage(store=redis.url, secret_file=str(secrets)) as stage:
        wait_until(lambda: scrape(stage)[UP] == 1)
        play = Play(stage)
        (client,) = stage.hold(1, Idempotency_Key="one")
        stage.call_back(1)
        assert client.receive().status == 200
        play.end("a store that is well", rate=5)
        redis.ask("CONFIG", "SET", "maxmemory", "1")
        full = [stage.send_job(n, Idempotency_Key=f"key-{n}") for n in (2, 3)]
        assert [client.receive().status for client in full] == [503] * 2
        play.end("the store is full", "JobproxyStoreDown", "JobproxyRefusing", rate=5)
        redis.stop()
        wait_until(lambda: scrape(stage)[UP] == 0)
        play.end("the store is away, after it was full", "JobproxyStoreDown", "JobproxyDegraded")
        return play.tests


@needs("prometheus", "promtool")
def test_alerts_fire_in_their_situations_and_in_no_others(tmp_path: Path) -> None:
    """With the real metrics of each situation its alerts fire, and no others."""
    secrets = tmp_path / "secrets"
    secrets.write_text("k" * 48)
    secrets.chmod(0o600)
    tests = [*play_callbacks(), *play_silence(), *play_dead_server(), *play_store(secrets)]
    cases = tmp_path / "cases.yml"
    document = {"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}
    cases.write_text(json.dumps(document))
    words = ["promtool", "test", "rules", str(cases)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
