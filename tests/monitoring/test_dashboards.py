"""The dashboard and the alerts: what they ask for is what the proxy tells."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from jobproxy.wire.problems import Problem
from tests.support.cluster import ClusterTestCase

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
CASES = ALERTS.with_name("alerts_test.yml")
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "jobproxy.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
NAMES = re.findall(r"- alert: (\w+)", ALERTS.read_text())

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed"
)


def find_queries() -> Iterator[str]:
    """Yield every PromQL expression."""
    for panel in PANELS:
        for target in panel.get("targets", ()):
            yield target["expr"]
    rules = re.sub(r">-\n\s+", "", ALERTS.read_text())
    for rule in rules.split("- alert: ")[1:]:
        match = re.search(r"expr: (.*?)\n\s+(?:#|for:|labels:)", rule, re.DOTALL)
        assert match is not None
        yield match[1]


def list_problems(kind: type[Problem] = Problem) -> set[str]:
    """Return the slugs of all problems."""
    slugs = {kind.slug} if hasattr(kind, "slug") else set()
    return slugs.union(*(list_problems(child) for child in kind.__subclasses__()))


class MetricsTests(ClusterTestCase):
    def test_known(self) -> None:
        """Every metric that is asked for is told, also by a proxy that has done nothing yet."""
        text = self.nodes[0].connect().get("/metrics").response.body.decode()
        told = set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
        told |= {f"{name}_{part}" for name in told for part in ("bucket", "count", "sum")}
        asked = {
            name
            for query in find_queries()
            for name in re.findall(r"\b((?:jobproxy|process)_\w+)\b(?!\()", query)
        }
        asked.discard("jobproxy_")
        self.assertGreater(len(asked), 20)
        self.assertEqual(asked - told, set())

    def test_outcomes(self) -> None:
        """Every outcome of an answer that is asked for is a kind of problem, or no problem."""
        known = list_problems() | {"ok", "client-left"}
        for query in find_queries():
            for names in re.findall(r'outcome!?=~?"([^"]*)"', query):
                self.assertEqual(set(names.split("|")) - known, set(), query)


@needs_promtool
@pytest.mark.parametrize("words", [["check", "rules", ALERTS], ["test", "rules", CASES]])
def test_promtool(words: list[Any]) -> None:
    """Prometheus understands the rules, and each fires when it should, and not otherwise."""
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested() -> None:
    """Every alert has a case in which it fires, and one in which it nearly does."""
    cases = re.findall(r"- name: (\w+), (.*)", CASES.read_text())
    assert NAMES
    assert cases == [(name, end) for name in NAMES for end in ("which fires", "nearly")]


def test_runbook() -> None:
    """Every alert says how bad it is, and leads to what to do."""
    for rule in ALERTS.read_text().split("- alert: ")[1:]:
        name = rule.split("\n")[0]
        assert re.search(r"severity: (page|ticket)\b", rule), name
        assert f"runbook: runbook.html#{name.lower()}\n" in rule
        assert "summary:" in rule


def test_panels() -> None:
    """Every panel says what it shows, in what unit, and takes the data source that is chosen."""
    for panel in PANELS:
        assert panel["title"]
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        for place in (panel, *panel["targets"]):
            assert place["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            assert '{instance=~"$instance"' in target["expr"]


def test_layout() -> None:
    """No two panels have one number or one place."""
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for one, other in combinations([panel["gridPos"] for panel in PANELS], 2):
        is_beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        is_below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert is_beside or is_below
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in PANELS)
