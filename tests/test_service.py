"""`monitor run` between a SeedLink server and a real broker: what a subscriber hears is what replay finds."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from pymseed import DataEncoding, MS3Record

from monitor.model import Model
from monitor.playback.server import PlaybackServer, PlaybackSettings
from monitor.records import Detection, Segment
from tests.mosquitto import Mosquitto
from tests.service import PATIENCE_S, Hearer, Monitor, running, wait_for
from tests.test_pipeline import detect
from tests.test_resume import SETTINGS, packets
from tests.waveforms import earthquake, segments

pytestmark = pytest.mark.needs("mosquitto")

DETECTOR = f"[detector]\nthreshold = {SETTINGS.threshold}\n"


@pytest.fixture(scope="module")
def source() -> list[Segment]:
    """Earthquakes of the last minutes, and quiet behind them, so that all of them end."""
    pieces = packets(100.0)
    late_s = (time.time_ns() - pieces[-1].next_ns) // 10**9 - 300
    pieces = [replace(piece, starttime_ns=piece.starttime_ns + late_s * 10**9) for piece in pieces]
    quiet = [p for p in pieces if pieces[0].starttime_ns <= p.starttime_ns < pieces[0].starttime_ns + 40 * 10**9]
    shift = pieces[-1].next_ns - pieces[0].starttime_ns
    return pieces + [replace(piece, starttime_ns=piece.starttime_ns + shift) for piece in quiet]


@pytest.fixture(scope="module")
def expected(source: list[Segment]) -> dict[str, Detection]:
    found = detect(Model(), source, settings=SETTINGS)
    finals = {d.id: d for d in found if d.state == "final"}
    assert len(finals) >= 6
    return finals


@contextlib.contextmanager
def playing(
    source: list[Segment], *, preload_s: float = float("inf"), speed: float | None = None
) -> Iterator[PlaybackServer]:
    """A SeedLink server in a thread of its own, everything in its ring from the start unless said otherwise."""
    settings = PlaybackSettings(preload_s=preload_s)
    ready, done = threading.Event(), threading.Event()
    servers: list[PlaybackServer] = []

    async def serve() -> None:
        async with PlaybackServer.play(source, settings=settings, speed=speed) as server:
            servers.append(server)
            ready.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(PATIENCE_S)
        yield servers[0]
    finally:
        done.set()
        thread.join()


def alike(heard: dict[str, dict[str, Any]], expected: dict[str, Detection]) -> None:
    assert heard.keys() == expected.keys()
    for one, detection in expected.items():
        wanted = msgspec.to_builtins(detection)
        got = {**heard[one], "origin": "replay"}
        got["reason"]["checks"].pop("timing_good", None)
        assert got == wanted


@pytest.mark.parametrize("version", ["3", "4"])
def test_live_equals_replay(
    version: str, source: list[Segment], expected: dict[str, Detection], tmp_path: Path
) -> None:
    with Mosquitto(tmp_path / "broker") as broker, Hearer(broker.port) as hearer, playing(source) as server:
        monitor = Monitor(tmp_path, seedlink=server.port, mqtt=broker.port)
        one_of_two = "usgs_pick = true" if version == "4" else ""
        monitor.write(
            seedlink=server.port,
            mqtt=broker.port,
            more=DETECTOR,
            server=f'version = "{version}"',
            broker=one_of_two,
        )
        with running(monitor):
            wait_for(
                lambda: len(hearer.finals()) >= len(expected), why="detections are missing", or_if=monitor.has_ended
            )
            assert f"SeedLink {version}" in monitor.log
            code, ready = monitor.get("/readyz")
            assert code == 200, ready
            assert monitor.get("/healthz")[0] == 200
            wait_for(lambda: monitor.metric("monitor_samples_total") > 0, why="nothing is counted")
            assert monitor.metric('monitor_detections_total{origin="backfill",state="final"') == len(expected)
            assert monitor.stop() == 0
        alike(hearer.finals(), expected)
        statuses = [body for topic, body in hearer.messages if topic == "monitor/v1/test/status"]
        assert statuses[0]["state"] == "online"
        assert (statuses[-1]["state"], statuses[-1]["reason"]) == ("offline", "stopped")
        assert {d["id"]: d["revision"] for d in hearer.detections if d["state"] == "new"}.keys() == expected.keys()
        picks = {body["ID"]: body for topic, body in hearer.messages if topic == "monitor/v1/XX/ABC/pick"}
        assert picks.keys() == (expected.keys() if one_of_two else set())
        for one, pick in picks.items():
            assert pick["Time"] == expected[one].onset[:23] + "Z"


def test_killed_again_and_again_nothing_is_lost_or_told_anew(
    source: list[Segment], expected: dict[str, Detection], tmp_path: Path
) -> None:
    rng = np.random.default_rng(7)
    with Mosquitto(tmp_path / "broker") as broker, Hearer(broker.port) as hearer, playing(source) as server:
        monitor = Monitor(tmp_path, seedlink=server.port, mqtt=broker.port, more=DETECTOR)
        for _ in range(4):
            before = len(hearer.detections)
            with running(monitor):
                wanted = before + int(rng.integers(1, 4))
                wait_for(
                    lambda wanted=wanted: len(hearer.detections) >= min(wanted, 12),  # type: ignore[misc]
                    why="no progress",
                    or_if=monitor.has_ended,
                )
        with running(monitor):
            wait_for(lambda: len(hearer.finals()) >= len(expected), why="detections are missing")
            assert monitor.stop() == 0
        alike(hearer.finals(), expected)
        assert {d["id"] for d in hearer.detections} == expected.keys()


def test_a_broker_that_is_away_gets_everything_later(
    source: list[Segment], expected: dict[str, Detection], tmp_path: Path
) -> None:
    with (
        Mosquitto(tmp_path / "broker", persistent=True) as broker,
        Hearer(broker.port) as hearer,
        playing(source) as server,
    ):
        broker.kill()
        monitor = Monitor(tmp_path, seedlink=server.port, mqtt=broker.port, more=DETECTOR)
        with running(monitor):
            wait_for(
                lambda: monitor.log.count("final earthquake") >= 3, why="nothing is found", or_if=monitor.has_ended
            )
            code, ready = monitor.get("/readyz")
            assert code == 503
            assert "not connected" in ready
            # Not even a restart without a broker loses what waits.
            monitor.kill()
            monitor.start()
            broker.start()
            wait_for(lambda: len(hearer.finals()) >= len(expected), why="detections are missing")
            assert monitor.stop() == 0
        alike(hearer.finals(), expected)


def test_settings_are_read_again_and_bad_ones_refused(source: list[Segment], tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker") as broker, playing(source) as server:
        monitor = Monitor(tmp_path, seedlink=server.port, mqtt=broker.port)
        with running(monitor):
            wait_for(lambda: "following XX.ABC" in monitor.log, why="no data", or_if=monitor.has_ended)
            monitor.write(seedlink=server.port, mqtt=broker.port, more="[detector]\nthreshold = 7\n")
            monitor.signal(signal.SIGHUP)
            wait_for(lambda: "as they were before" in monitor.log, why="not told")
            assert "[detector] threshold is 7" in monitor.log
            assert monitor.metric("monitor_config_last_reload_successful") == 0
            monitor.write(seedlink=server.port, mqtt=broker.port, server='name = "other"')
            monitor.signal(signal.SIGHUP)
            wait_for(lambda: "settings read again" in monitor.log, why="not told")
            wait_for(lambda: "other: connected" in monitor.log, why="the new server is not followed")
            assert monitor.metric('monitor_connected{server="other"}') == 1
            assert f'monitor_connected{{server="127.0.0.1:{server.port}"}}' not in monitor.get("/metrics")[1]
            assert monitor.stop() == 0


def test_a_port_that_is_taken_is_worth_another_try(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker") as broker:
        monitor = Monitor(tmp_path, seedlink=1, mqtt=broker.port)
        monitor.http = broker.port
        monitor.write(seedlink=1, mqtt=broker.port)
        monitor.start()
        assert monitor.process is not None
        assert monitor.process.wait(PATIENCE_S) == 75
        assert "cannot listen" in monitor.log
        assert "Traceback" not in monitor.log


def test_without_servers_and_with_bad_settings_it_does_not_start(tmp_path: Path) -> None:
    for text, code, said in (
        ("[mqtt]\n", 2, "no [[seedlink]] server"),
        ("[mqtt]\nport = 0\n", 2, "[mqtt] port"),
        ('[model]\npath = "absent.tflite"\n', 3, "absent.tflite"),
    ):
        monitor = Monitor(tmp_path, seedlink=1, mqtt=1)
        monitor.config.write_text(text)
        monitor.start()
        assert monitor.process is not None
        assert monitor.process.wait(PATIENCE_S) == code
        assert said in monitor.log
        assert "Traceback" not in monitor.log


def test_a_replay_is_published_as_such(tmp_path: Path) -> None:
    wave = earthquake(rate=100.0, p_s=40.0, s_minus_p=4.0, seconds=75.0, snr=15.0, seed=1)
    with (tmp_path / "day.mseed").open("wb") as file:
        for segment in segments(wave, rate=100.0):
            record = MS3Record()
            record.sourceid = f"FDSN:XX_ABC__H_H_{segment.channel_id.channel[-1]}"
            record.samprate, record.starttime = 100.0, segment.starttime_ns
            record.encoding = DataEncoding.STEIM2
            file.writelines(bytes(piece) for piece in record.generate(segment.samples, "i"))
    with Mosquitto(tmp_path / "broker") as broker, Hearer(broker.port) as hearer:
        monitor = Monitor(tmp_path, seedlink=1, mqtt=broker.port)
        command = [sys.executable, "-m", "monitor.cli", "replay", str(tmp_path / "day.mseed"), "--publish"]
        command += ["--format", "jsonl", "--config", str(monitor.config)]
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False, text=True)
        assert done.returncode == 0, done.stderr
        wait_for(hearer.finals, why="nothing was published")
        (printed,) = [json.loads(line) for line in done.stdout.splitlines()]
        assert hearer.finals() == {printed["id"]: printed}
        assert printed["origin"] == "replay"
        broker.kill()
