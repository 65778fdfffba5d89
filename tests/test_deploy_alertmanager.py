"""Alertmanager's settings: who is told of what; and the whole way from a detection to whoever is woken by it."""

import http.server
import json
import queue
import re
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor.metrics import Metrics
from monitor.records import ChannelId
from monitor.stations import group_channels
from tests.detections import detection
from tests.mosquitto import free_port
from tests.programs import find_program
from tests.service import PATIENCE_S, wait_for
from tests.test_deploy_grafana import prometheus
from tests.test_deploy_prometheus import rules

SHIPPED = Path(__file__).parent.parent / "deploy" / "alertmanager" / "alertmanager.yml"


def amtool(*arguments: str) -> str:
    program = find_program("amtool")
    assert program is not None
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.mark.needs("amtool")
def test_the_settings_are_valid_and_so_are_the_examples_in_them(tmp_path: Path) -> None:
    amtool("check-config", str(SHIPPED))
    with_examples, examples = re.subn(
        r"^(\s*)# (smtp_|email_configs|  - to|    send|location)", r"\1\2", SHIPPED.read_text(), flags=re.M
    )
    assert examples == 11
    (tmp_path / "alertmanager.yml").write_text(with_examples)
    amtool("check-config", str(tmp_path / "alertmanager.yml"))


@pytest.mark.needs("amtool")
def test_critical_wakes_warning_waits_info_is_written_down() -> None:
    told = {"critical": "wake", "warning": "morning", "info": "record"}
    asked = {(rule["labels"]["severity"], rule["alert"].startswith("Earthquake")) for rule in rules("alert")}
    assert len(asked) == 5
    for severity, earthquake in asked:
        name = "EarthquakeAtStation" if earthquake else "Something"
        arguments = ["config", "routes", "test", f"--config.file={SHIPPED}", f"severity={severity}"]
        assert amtool(*arguments, f"alertname={name}", "station=XX.ABC") == told[severity]


def test_what_is_not_told_because_of_another_is_an_alert_that_there_is() -> None:
    names = {rule["alert"] for rule in rules("alert")}
    for rule in yaml.safe_load(SHIPPED.read_text())["inhibit_rules"]:
        (source,), (target,) = rule["source_matchers"], rule["target_matchers"]
        found = []
        for matcher in (source, target):
            operator, pattern = re.fullmatch(r'alertname(=~|!=|=)"(.*)"', matcher).groups()  # type: ignore[union-attr]
            each = pattern.split("|") if operator == "=~" else [pattern]
            matched = [{name for name in names if re.fullmatch(one, name)} for one in each]
            assert all(matched), matcher
            chosen = set.union(*matched)
            found.append(names - chosen if operator == "!=" else chosen)
        assert not found[0] & found[1], "an alert would hush itself"
        assert rule["equal"][:2] == ["job", "instance"]


class Listener:
    """What is told by webhook, by the path that it came to."""

    def __init__(self) -> None:
        self.heard: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        heard = self.heard

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()
                heard.put((self.path, body))

            def log_message(self, *_: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.port = self._server.server_port

    def __enter__(self) -> "Listener":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def hear(self) -> tuple[str, dict[str, Any]]:
        return self.heard.get(timeout=PATIENCE_S)


@contextmanager
def alertmanager(folder: Path, listener: Listener) -> Iterator[int]:
    """One with the shipped settings, in more of a hurry, that tells the listener; its port."""
    program = find_program("prometheus-alertmanager")
    assert program is not None
    text, receivers = re.subn("http://alarm.invalid", f"http://127.0.0.1:{listener.port}", SHIPPED.read_text())
    text, waits = re.subn(r"group_wait: \d+s", "group_wait: 100ms", text)
    assert (receivers, waits) == (2, 3)
    folder.mkdir()
    (folder / "alertmanager.yml").write_text(text)
    port = free_port()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder}/alertmanager.yml",
                f"--storage.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
                "--cluster.listen-address=",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(lambda: is_ready(port), why="it does not start", or_if=lambda: process.poll() is not None)
        yield port
    finally:
        process.terminate()
        process.wait()


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=PATIENCE_S) as answer:
            return bool(answer.status == 200)
    except urllib.error.URLError:
        return False


def post(port: int, *alerts: dict[str, str]) -> None:
    body = json.dumps([{"labels": {"job": "monitor", "instance": "a", **labels}} for labels in alerts]).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/v2/alerts", body, {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request, timeout=PATIENCE_S).close()


def hushed(port: int) -> set[tuple[str, str]]:
    """Alert and station of what is not told because of another."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v2/alerts", timeout=PATIENCE_S) as answer:
        alerts = json.load(answer)
    return {
        (alert["labels"]["alertname"], alert["labels"].get("station", ""))
        for alert in alerts
        if alert["status"]["inhibitedBy"]
    }


@pytest.mark.needs("prometheus-alertmanager")
def test_a_silent_stations_channels_are_not_told(tmp_path: Path) -> None:
    silent = {"alertname": "StationSilent", "severity": "critical", "station": "XX.ABC"}
    dead = {"alertname": "ChannelDead", "severity": "warning", "station": "XX.ABC", "channel": "HHZ"}
    late = {"alertname": "DataLate", "severity": "warning", "station": "XX.DEF"}
    broker = {"alertname": "BrokerUnreachable", "severity": "critical"}
    outbox = {"alertname": "OutboxOld", "severity": "warning"}
    elsewhere = {**dead, "instance": "b"}
    with Listener() as listener, alertmanager(tmp_path / "alertmanager", listener) as port:
        post(port, silent, broker)
        told = [listener.hear() for _ in range(2)]
        assert {path for path, _ in told} == {"/wake"}
        # One message for a station, one for the computer.
        assert sorted(body["groupLabels"].get("station", "") for _, body in told) == ["", "XX.ABC"]
        post(port, dead, late, outbox, elsewhere)
        wanted = {("ChannelDead", "XX.ABC"), ("OutboxOld", "")}
        wait_for(lambda: hushed(port) == wanted, why=f"not told: {hushed(port)}")


@pytest.mark.needs("prometheus")
@pytest.mark.needs("prometheus-alertmanager")
def test_from_a_detection_to_whoever_is_woken_by_it(tmp_path: Path) -> None:
    wanted = {("EarthquakeAtSeveralStations", "critical"): "/wake", ("EarthquakeAtStation", "warning"): "/morning"}
    metrics = Metrics()
    codes = ("ABC", "DEF", "GHI")
    for code in codes:
        metrics.add_station(group_channels([ChannelId("XX", code, "", "HHZ")])[0])

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, text = metrics.exposition(self.headers.get("Accept", ""))
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None: ...

    monitor = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=monitor.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        with Listener() as listener, alertmanager(tmp_path / "alertmanager", listener) as port:
            targets = tmp_path / "targets.yml"
            targets.write_text(f'- targets: ["127.0.0.1:{port}"]\n')
            with prometheus(tmp_path / "prometheus", monitor.server_port):
                (tmp_path / "prometheus" / "targets" / "alertmanager.yml").write_text(targets.read_text())
                for code in codes:
                    metrics.detection(detection(station=f"XX.{code}", probability=0.97, origin="live", state="new"))
                told: dict[tuple[str, str], dict[str, Any]] = {}
                while not wanted.keys() <= told.keys():
                    path, body = listener.hear()
                    for alert in body["alerts"]:
                        told[alert["labels"]["alertname"], alert["labels"]["severity"]] = {"path": path, **alert}
    finally:
        monitor.shutdown()
        thread.join()
        monitor.server_close()
    several, one = (told[alert] for alert in wanted)
    assert {alert: told[alert]["path"] for alert in wanted} == wanted
    assert several["annotations"]["summary"] == "Earthquake at 3 stations"
    assert several["annotations"]["runbook_url"] == "https://example.org/docs/runbook.md#earthquakeatseveralstations"
    # The address of the runbook is no label: nothing is grouped or routed by it.
    assert "runbook" not in several["labels"].keys() | one["labels"].keys()
