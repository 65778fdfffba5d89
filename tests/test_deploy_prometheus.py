"""Scrape configuration and rules: valid, each rule tested by promtool, each alert explained in the runbook."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor.metrics import Metrics
from monitor.records import ModelRef
from monitor.stations import group_channels
from tests.programs import find_program
from tests.test_metrics import SERVER, N, Z, found

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "deploy" / "prometheus"
RULES = sorted((FOLDER / "rules").glob("*.yml"))
TESTS = sorted((FOLDER / "tests").glob("*.yml"))
# Names that others give.
FOREIGN = {"up", "process_start_time_seconds", "ALERTS"}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def rules(kind: str) -> list[dict[str, Any]]:
    return [rule for path in RULES for group in load(path)["groups"] for rule in group["rules"] if kind in rule]


def checks(kind: str) -> list[dict[str, Any]]:
    return [check for path in TESTS for test in load(path)["tests"] for check in test.get(kind, [])]


def promtool(*arguments: str) -> None:
    program = find_program("promtool")
    assert program is not None
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.needs("promtool")
def test_the_configuration_is_valid() -> None:
    promtool("check", "config", str(FOLDER / "prometheus.yml"))
    promtool("check", "rules", "--lint=all", "--lint-fatal", *map(str, RULES))


@pytest.mark.needs("promtool")
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_rules(path: Path) -> None:
    promtool("test", "rules", str(path))


def test_each_alert_is_seen_to_fire_and_not_to_fire() -> None:
    wanted = {(rule["alert"], rule["labels"]["severity"]) for rule in rules("alert")}
    assert len(wanted) == len(rules("alert"))
    fired = {
        (check["alertname"], alert["exp_labels"]["severity"])
        for check in checks("alert_rule_test")
        for alert in check["exp_alerts"]
    }
    silent = {check["alertname"] for check in checks("alert_rule_test") if not check["exp_alerts"]}
    assert fired == wanted
    assert silent == {alert for alert, _ in wanted}


def test_each_record_is_tested() -> None:
    asked = " ".join(check["expr"] for check in checks("promql_expr_test") if check["exp_samples"])
    assert [rule["record"] for rule in rules("record") if rule["record"] not in asked] == []


def test_each_alert_says_what_to_do() -> None:
    headings = {line[3:] for line in (ROOT / "docs" / "runbook.md").read_text().splitlines() if line.startswith("## ")}
    for rule in rules("alert"):
        name, notes = rule["alert"], rule["annotations"]
        assert notes.keys() == {"summary", "description", "runbook_url"}, name
        assert notes["runbook_url"] == f"{{{{ $externalLabels.runbook }}}}#{name.lower()}", name
        assert rule["labels"].keys() == {"severity"}, name
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}, name
    assert headings == {rule["alert"] for rule in rules("alert")}


def test_rules_know_only_series_that_there_are() -> None:
    metrics = Metrics()
    metrics.add_server(SERVER)
    metrics.add_queue("packets")
    metrics.add_station(group_channels([Z, N])[0])
    metrics.build(version="1", python="3")
    metrics.model(ModelRef("a", "1", "ab"))
    known = (
        {series.partition(" ")[0] for series in found(metrics)} | {rule["record"] for rule in rules("record")} | FOREIGN
    )
    for rule in rules("expr"):
        named = set(re.findall(r"\b(?:monitor_|process_|[a-z]+:)[a-z0-9_:]+", re.sub(r'"[^"]*"', "", rule["expr"])))
        assert named <= known, rule
