"""The dashboard and the alerts use only metrics that the proxy has."""

import json
import re
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from jobproxy.monitoring.words import OWN_WAIT_OVER, RUNNING
from jobproxy.wire.problems import Kind
from tests.support.cluster import ClusterTestCase
from tests.support.programs import needs

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
CASES = ALERTS.with_name("alerts_test.yml")
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "jobproxy.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
NAMES = re.findall(r"- alert: (\w+)", ALERTS.read_text())

needs_promtool = needs("prometheus", "promtool")


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


def list_problems() -> set[str]:
    """Return the slugs of all problems."""
    return {kind.slug for kind in Kind}


class MetricsTests(ClusterTestCase):
    def test_every_metric_in_a_query_exists(self) -> None:
        """Every metric in a query exists, also on a proxy that has done nothing yet."""
        text = self.nodes[0].operate().get("/metrics").response.body.decode()
        known = set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
        known |= {f"{name}_{part}" for name in known for part in ("bucket", "count", "sum")}
        used = {
            name
            for query in find_queries()
            for name in re.findall(r"\b((?:jobproxy|process)_\w+)\b(?!\()", query)
        }
        used.discard("jobproxy_")
        self.assertGreater(len(used), 20)
        unknown = used - known
        self.assertFalse(unknown, f"alerts.yml or jobproxy.json: the proxy has no metric {unknown}")

    def test_every_outcome_in_a_query_exists(self) -> None:
        """Every outcome in a query is the slug of a problem, or not a problem."""
        known = list_problems() | {"ok", "client-left", RUNNING, OWN_WAIT_OVER}
        for query in find_queries():
            for names in re.findall(r'outcome!?=~?"([^"]*)"', query):
                unknown = set(names.split("|")) - known
                self.assertFalse(unknown, f"alerts.yml or jobproxy.json: no such outcome: {query}")


@needs_promtool
@pytest.mark.parametrize("words", [["check", "rules", ALERTS], ["test", "rules", CASES]])
def test_promtool_accepts_the_rules(words: list[Any]) -> None:
    """Prometheus accepts the rules, and each alert fires when it should, and not otherwise."""
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested() -> None:
    """Every alert has a case in which it fires, and one in which it nearly does."""
    cases = re.findall(r"- name: (\w+), (.*)", CASES.read_text())
    assert NAMES
    expected = [(name, end) for name in NAMES for end in ("which fires", "nearly")]
    assert cases == expected, (
        "deploy/prometheus/alerts_test.yml: each alert of alerts.yml, in the same order, needs the "
        "cases '- name: ALERT, which fires' and '- name: ALERT, nearly'"
    )


def test_every_alert_has_a_severity_and_a_runbook() -> None:
    """Every alert has a severity and a link to the runbook."""
    for rule in ALERTS.read_text().split("- alert: ")[1:]:
        name = rule.split("\n")[0]
        place = f"deploy/prometheus/alerts.yml, {name}"
        assert re.search(r"severity: (page|ticket)\b", rule), f"{place}: severity page or ticket"
        link = f"runbook: runbook.html#{name.lower()}\n"
        assert link in rule, f"{place}: add {link}"
        assert "summary:" in rule, f"{place}: add a summary"


def test_every_panel_has_a_description_and_a_unit() -> None:
    """Every panel has a description and a unit, and uses the selected data source."""
    for panel in PANELS:
        place = f"deploy/grafana/jobproxy.json, panel {panel['id']}"
        assert panel["title"], f"{place}: add a title"
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith("."), f"{place}: the description is a sentence"
        assert panel["fieldConfig"]["defaults"]["unit"], f"{place}: add a unit"
        assert panel["targets"], f"{place}: add a query"
        source = {"type": "prometheus", "uid": "${datasource}"}
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == source, f"{place}: the datasource is {source}"
        for target in panel["targets"]:
            selected = '{instance=~"$instance"'
            assert selected in target["expr"], f"{place}: the query must contain {selected}"


def test_panels_do_not_overlap() -> None:
    """No two panels have the same id or overlap."""
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for one, other in combinations([panel["gridPos"] for panel in PANELS], 2):
        is_beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        is_below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert is_beside or is_below
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in PANELS)
