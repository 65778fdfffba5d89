"""Dashboards and rules for Grafana: as the generator makes them, and every query answered by a real Prometheus."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor.records import Segment
from tests.mosquitto import Mosquitto, free_port
from tests.programs import find_program
from tests.service import Monitor, running, wait_for
from tests.test_service import DETECTOR, playing
from tests.waveforms import earthquake, segments, split

DEPLOY = Path(__file__).parent.parent / "deploy"
FOLDER = DEPLOY / "grafana"
DASHBOARDS = sorted((FOLDER / "dashboards").glob("*.json"))
# The disks of a container are not shown: they are the host's.
DISKS = {"btrfs", "ext4", "f2fs", "xfs", "zfs"}
VARIABLES = {"$station": ".*", "$__rate_interval": "30s", "$__range": "1h"}


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def expressions() -> set[str]:
    boards = [load(path) for path in DASHBOARDS]
    asked = {target["expr"] for board in boards for panel in panels(board) for target in panel["targets"]}
    rules = load(FOLDER / "provisioning" / "alerting" / "liveness.json")["groups"][0]["rules"]
    return asked | {rule["data"][0]["model"]["expr"] for rule in rules}


def test_the_files_are_what_the_generator_makes() -> None:
    command = [sys.executable, str(FOLDER / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_dashboards_are_whole() -> None:
    assert {path.stem for path in DASHBOARDS} == {"fleet", "station", "detections"}
    uids = set()
    for path in DASHBOARDS:
        board = load(path)
        uids.add(board["uid"])
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            at = panel["gridPos"]
            cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
            assert not taken & cells, (path.stem, panel["title"])
            assert max(x for x, _ in cells) < 24
            taken |= cells
        for panel in panels(board):
            assert panel["title"]
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["targets"]
    assert len(uids) == len(DASHBOARDS)


def test_provisioning_hangs_together() -> None:
    (source,) = yaml.safe_load((FOLDER / "provisioning" / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((FOLDER / "provisioning" / "dashboards" / "monitor.yml").read_text())["providers"]
    assert provider["options"]["path"]
    runbook = (FOLDER.parent.parent / "docs" / "runbook.md").read_text().lower()
    rules = load(FOLDER / "provisioning" / "alerting" / "liveness.json")["groups"][0]["rules"]
    for rule in rules:
        assert rule["noDataState"] == rule["execErrState"] == "Alerting"
        assert rule["data"][0]["datasourceUid"] == source["uid"]
        assert [data["refId"] for data in rule["data"]] == ["A", "B"]
        assert rule["condition"] == "B"
        assert f"## {rule['annotations']['runbook_url'].rpartition('#')[2]}\n" in runbook
    prometheus = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]


@contextlib.contextmanager
def prometheus(folder: Path, target: int, *, node: int | None = None) -> Iterator[int]:
    """One with the shipped configuration and rules, in more of a hurry; its port."""
    program = find_program("prometheus")
    assert program is not None
    shutil.copytree(DEPLOY / "prometheus", folder)
    for path in (folder / "prometheus.yml", folder / "rules" / "detections.yml"):
        path.write_text(re.sub(r"(_interval|timeout|interval): \d+s", r"\1: 1s", path.read_text()))
    (folder / "targets" / "monitor.yml").write_text(f'- targets: ["127.0.0.1:{target}"]\n')
    if node is not None:
        (folder / "targets" / "node.yml").write_text(f'- targets: ["127.0.0.1:{node}"]\n')
    command = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with listening(command, folder / "log") as port:
        yield port


@contextlib.contextmanager
def node_exporter(folder: Path) -> Iterator[int]:
    """One that tells of disks; its port."""
    program = find_program("prometheus-node-exporter")
    assert program is not None
    command = [program, "--collector.disable-defaults", "--collector.filesystem"]
    with listening(command, folder / "node.log") as port:
        yield port


@contextlib.contextmanager
def listening(command: list[str], log_file: Path) -> Iterator[int]:
    """One of Prometheus's programs on a port of its own; the port."""
    port = free_port()
    with log_file.open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


def ask(port: int, expr: str) -> list[dict[str, Any]]:
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': expr})}"
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        pytest.fail(f"{expr}: {error.read().decode()}")
    except urllib.error.URLError:
        return []  # not up yet
    return result


def fill_in(expr: str) -> str:
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    assert "$" not in expr, expr
    return expr


GONE_BY_S, STILL_TO_COME_S = 112, 25


def recent() -> list[Segment]:
    """An earthquake a minute ago; what comes after now is noise."""
    seconds = GONE_BY_S + STILL_TO_COME_S
    wave = earthquake(rate=100.0, p_s=60.0, s_minus_p=3.0, seconds=seconds, snr=15.0, seed=1)
    start = time.time_ns() - GONE_BY_S * 10**9
    pieces = [piece for whole in segments(wave, rate=100.0, start_ns=start) for piece in split(whole, [412])]
    return sorted(pieces, key=lambda piece: piece.starttime_ns)


def has_a_disk() -> bool:
    return any(line.split()[2] in DISKS for line in Path("/proc/mounts").read_text().splitlines())


@pytest.mark.needs("mosquitto")
@pytest.mark.needs("prometheus")
@pytest.mark.needs("prometheus-node-exporter")
def test_every_query_is_answered(tmp_path: Path) -> None:
    """Each panel and each rule of Grafana's shows something of a daemon that detects, and loses its channels then."""
    source = recent()
    more = f"{DETECTOR}[live]\nlateness_s = 3600\n[quality]\ndead_after_s = 5\n"
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(Mosquitto(tmp_path / "broker"))
        server = stack.enter_context(playing(source, preload_s=GONE_BY_S, speed=1.0))
        node = stack.enter_context(node_exporter(tmp_path))
        monitor = stack.enter_context(running(Monitor(tmp_path, seedlink=server.port, mqtt=broker.port, more=more)))
        port = stack.enter_context(prometheus(tmp_path / "prometheus", monitor.http, node=node))
        # The series of a station exist from its first packet on; rates need two scrapes of them.
        wait_for(lambda: "final earthquake" in monitor.log, why="nothing is found", or_if=monitor.has_ended)
        waiting = {fill_in(expr) for expr in expressions()}
        assert len(waiting) > 40
        if not has_a_disk():
            waiting = {expr for expr in waiting if "node_filesystem" not in expr}

        def all_answered() -> bool:
            waiting.difference_update({expr for expr in waiting if ask(port, expr)})
            return not waiting

        with contextlib.suppress(AssertionError):
            wait_for(all_answered, why="see below", or_if=monitor.has_ended)
        assert waiting == set()
        (one,) = wait_for(lambda: ask(port, "station:monitor_live_detection:probability"), why="no live detection")
        assert one["metric"]["station"] == "XX.ABC"
        assert float(one["value"][1]) > 0.5
        wait_for(lambda: ask(port, 'ALERTS{alertname="EarthquakeAtStation"}'), why="no alarm")
        assert monitor.stop() == 0
