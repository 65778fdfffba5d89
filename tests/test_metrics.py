"""Every series: what exists from the start, what moves it, and what Prometheus itself makes of it."""

import asyncio
import contextlib
import json
import math
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from monitor.channel import ChannelCounts
from monitor.clock import Discipline
from monitor.http import HttpServer, Routes, metrics_handler
from monitor.metrics import PUBLISH_RESULTS, SERVER_REASONS, Metrics
from monitor.quality import ChannelQuality
from monitor.records import ChannelId, ModelRef, Packet, Segment
from monitor.settings import QualitySettings
from monitor.stations import StationGroup, group_channels
from monitor.timebase import NS_PER_SECOND
from tests.detections import detection
from tests.programs import find_program

NOW_NS = 1_700_000_000 * NS_PER_SECOND
Z, N, E = (ChannelId("XX", "ABC", "", code) for code in ("HHZ", "HHN", "HHE"))
STRONG = ChannelId("XX", "ABC", "00", "HNZ")
BROAD, ACCELEROMETER = group_channels([Z, N, E, STRONG])
SERVER = "server:18000"
STATES = ("ok", "dead", "flat", "clipped")
EMPTY = Metrics()


def found(metrics: Metrics) -> dict[str, float]:
    """Each series, as `name{a="1"}`, and its value."""
    _, text = metrics.exposition()
    return {
        sample.name + "".join(f" {name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in parse_text(text.decode())
        for sample in family.samples
    }


def moved(metrics: Metrics, before: dict[str, float]) -> dict[str, float]:
    after = found(metrics)
    return {
        name: value
        for name, value in after.items()
        if name.startswith("monitor_") and before.get(name) != value and not (math.isnan(value) and name in before)
    }


def complete() -> Metrics:
    metrics = Metrics(now_ns=lambda: NOW_NS)
    metrics.add_server(SERVER)
    metrics.add_queue("packets")
    metrics.add_station(BROAD)
    metrics.build(version="1.2.3", python="3.13.1")
    metrics.model(ModelRef("small", "1", "ab" * 32))
    return metrics


def packet(channel_id: ChannelId = Z, *, server: str = SERVER) -> Packet:
    segment = Segment(channel_id, NOW_NS - 3 * NS_PER_SECOND, 100.0, np.zeros(100, np.int32))
    return Packet(server, channel_id.station_id, 7, (segment,), 512, NOW_NS)


def test_what_is_configured_exists_from_the_start() -> None:
    series = found(complete())
    assert series["monitor_gaps_total channel=HHE station=XX.ABC"] == 0
    assert series["monitor_last_packet_timestamp_seconds channel=HHN station=XX.ABC"] == 0
    assert np.isnan(series["monitor_latency_seconds channel=HHZ station=XX.ABC"])
    assert series["monitor_detections_total origin=backfill state=final station=XX.ABC"] == 0
    assert series[f"monitor_reconnects_total reason=stall server={SERVER}"] == 0
    assert series[f"monitor_connected server={SERVER}"] == 0
    assert series["monitor_queue_dropped_total queue=packets"] == 0
    assert series["monitor_outbox_oldest_age_seconds"] == 0
    assert series["monitor_build_info python=3.13.1 version=1.2.3"] == 1
    assert series[f"monitor_model_info name=small sha256={'ab' * 32} version=1"] == 1
    assert series["monitor_inference_seconds_count"] == 0
    assert series["process_resident_memory_bytes"] > 0
    for result in PUBLISH_RESULTS:
        assert series[f"monitor_publishes_total result={result}"] == 0


def test_what_is_removed_disappears() -> None:
    metrics = complete()
    metrics.add_station(BROAD)  # again: nothing
    one = found(metrics)
    metrics.add_station(ACCELEROMETER)
    assert "monitor_gaps_total channel=00.HNZ station=XX.ABC" in found(metrics)
    metrics.channel_counts(STRONG, ChannelCounts(gaps=3))
    metrics.remove_station(ACCELEROMETER)
    assert found(metrics).keys() == one.keys()
    assert "monitor_frames_total station=XX.ABC" in one  # the station has another instrument
    metrics.add_station(ACCELEROMETER)
    metrics.channel_counts(STRONG, ChannelCounts(gaps=4))
    assert found(metrics)["monitor_gaps_total channel=00.HNZ station=XX.ABC"] == 4
    metrics.remove_station(ACCELEROMETER)
    metrics.remove_station(BROAD)
    metrics.remove_station(BROAD)
    metrics.remove_server(SERVER)
    assert not [name for name in found(metrics) if "station=" in name or "server=" in name]


def test_a_channel_of_two_groups_stays_while_one_has_it() -> None:
    metrics = Metrics()
    pair = StationGroup("XX", "ABC", "", "HH", (Z, N, None))
    other = StationGroup("XX", "ABC", "", "HX", (Z, None, None))
    metrics.add_station(pair)
    metrics.add_station(other)
    metrics.remove_station(pair)
    series = found(metrics)
    assert "monitor_gaps_total channel=HHZ station=XX.ABC" in series
    assert "monitor_gaps_total channel=HHN station=XX.ABC" not in series


def test_what_is_asked_for_by_name_exists_before_it_comes() -> None:
    metrics = Metrics()
    metrics.expect([Z.station_id], [Z])
    owned = {name for name in found(complete()) if "channel=" in name or "station=" in name}
    expected = {name for name in owned if "channel=" not in name or "channel=HHZ" in name}
    assert {name for name in found(metrics) if "channel=" in name or "station=" in name} == expected
    metrics.add_station(BROAD)
    assert {name for name in found(metrics) if "channel=" in name or "station=" in name} == owned
    metrics.remove_station(BROAD)
    assert {name for name in found(metrics) if "channel=" in name or "station=" in name} == expected
    metrics.expect([], [])
    assert not any("channel=" in name or "station=" in name for name in found(metrics))


def test_a_packet() -> None:
    metrics = complete()
    before = found(metrics)
    metrics.packet(packet())
    channel = "channel=HHZ station=XX.ABC"
    assert moved(metrics, before) == {
        f"monitor_packets_total server={SERVER}": 1,
        f"monitor_packet_bytes_total server={SERVER}": 512,
        f"monitor_server_last_packet_timestamp_seconds server={SERVER}": 1.7e9,
        f"monitor_last_packet_timestamp_seconds {channel}": 1.7e9,
        f"monitor_latency_seconds {channel}": pytest.approx(2.01),
    }


def test_what_a_server_sends_adds_no_series() -> None:
    metrics = complete()
    before = found(metrics)
    for number in range(50):
        stranger = ChannelId("YY", f"S{number}", "", "HHZ")
        metrics.packet(packet(stranger, server=f"s{number}"))
        metrics.channel_counts(stranger, ChannelCounts(samples=100))
        metrics.inference(stranger.station_id, frames=1, seconds=0.1)
        metrics.ring_fill(stranger, 0.5)
    metrics.disconnected(SERVER, "a reason nobody thought of")
    metrics.irregular_packet(SERVER, "another")
    after = found(metrics)
    assert after.keys() == before.keys()
    assert after[f"monitor_reconnects_total reason=other server={SERVER}"] == 1
    assert metrics._samples._totals == {}


def test_counters_of_others_are_followed() -> None:
    metrics = complete()
    before = found(metrics)
    counts = ChannelCounts(samples=500, gaps=2, gap_ns=3 * NS_PER_SECOND, overlap_samples=7)
    counts.invalid_samples, counts.flat_samples, counts.rate_changes = 5, 6, 1
    metrics.channel_counts(Z, counts)
    metrics.channel_counts(Z, counts)
    channel = "channel=HHZ station=XX.ABC"
    expected = {
        f"monitor_samples_total {channel}": 500,
        f"monitor_gaps_total {channel}": 2,
        f"monitor_gap_seconds_total {channel}": 3,
        f"monitor_overlap_samples_total {channel}": 7,
        f"monitor_invalid_samples_total {channel}": 5,
        f"monitor_flat_samples_total {channel}": 6,
        f"monitor_sampling_rate_changes_total {channel}": 1,
    }
    assert moved(metrics, before) == expected
    # The pipeline was made anew: a counter never falls.
    metrics.channel_counts(Z, ChannelCounts(samples=100))
    assert moved(metrics, before) == {**expected, f"monitor_samples_total {channel}": 600}


def test_quality() -> None:
    metrics = complete()
    quality = ChannelQuality(QualitySettings(), Z, opened_ns=NOW_NS - 60 * NS_PER_SECOND)
    flat = Segment(Z, NOW_NS - 60 * NS_PER_SECOND, 100.0, np.full(6000, 5, np.int32))
    quality.push(flat, received_ns=NOW_NS, timing_quality=90)
    metrics.quality(Z, quality.report(NOW_NS))
    series = found(metrics)
    states = {state: series[f"monitor_channel_state channel=HHZ state={state} station=XX.ABC"] for state in STATES}
    assert states == {"ok": 0, "dead": 0, "flat": 1, "clipped": 0}
    expected = {"availability_ratio": 1, "offset": 5, "rms": 0, "flat_seconds": 60, "timing_quality_ratio": 0.9}
    for name, value in {**expected, "sampling_rate_hertz": 100, "window_gaps": 0}.items():
        assert series[f"monitor_channel_{name} channel=HHZ station=XX.ABC"] == value


def test_connections_holes_and_odd_packets() -> None:
    metrics = complete()
    before = found(metrics)
    metrics.connected(SERVER)
    metrics.disconnected(SERVER, "stall")
    metrics.connected(SERVER)
    metrics.hole(SERVER, 90 * NS_PER_SECOND)
    metrics.irregular_packet(SERVER, "future")
    metrics.broker_disconnected("auth")
    metrics.broker_connected()
    assert moved(metrics, before) == {
        f"monitor_connected server={SERVER}": 1,
        f"monitor_reconnects_total reason=stall server={SERVER}": 1,
        f"monitor_resume_holes_total server={SERVER}": 1,
        f"monitor_resume_hole_seconds_total server={SERVER}": 90,
        f"monitor_packets_irregular_total reason=future server={SERVER}": 1,
        "monitor_broker_connected": 1,
        "monitor_broker_reconnects_total reason=auth": 1,
    }


def test_inferences_and_detections() -> None:
    metrics = complete()
    before = found(metrics)
    metrics.inference("XX.ABC", frames=4, seconds=0.003)
    metrics.inference("XX.ABC", frames=6, seconds=30.0)
    metrics.detection(detection(station="XX.ABC"))
    metrics.ring_fill(Z, 0.25)
    series = moved(metrics, before)
    assert series["monitor_frames_total station=XX.ABC"] == 10
    assert series["monitor_inferences_total station=XX.ABC"] == 2
    assert series["monitor_inference_seconds_sum"] == pytest.approx(30.003)
    assert series["monitor_inference_seconds_bucket le=0.005"] == 1
    assert series["monitor_last_inference_timestamp_seconds station=XX.ABC"] == 1.7e9
    assert series["monitor_ring_fill_ratio channel=HHZ station=XX.ABC"] == 0.25
    assert [value for name, value in series.items() if name.startswith("monitor_detections_total")] == [1]


def test_output_side() -> None:
    metrics = complete()
    before = found(metrics)
    metrics.queue("packets", 12)
    metrics.queue_dropped("packets", 3)
    metrics.published("acknowledged")
    metrics.published("failed")
    metrics.outbox(depth=5, held=1, nbytes=999, oldest_ns=NOW_NS - 42 * NS_PER_SECOND, dropped={"size": 2, "damage": 1})
    assert moved(metrics, before) == {
        "monitor_queue_items queue=packets": 12,
        "monitor_queue_dropped_total queue=packets": 3,
        "monitor_publishes_total result=acknowledged": 1,
        "monitor_publishes_total result=failed": 1,
        "monitor_last_publish_timestamp_seconds": 1.7e9,
        "monitor_outbox_messages": 5,
        "monitor_outbox_held_messages": 1,
        "monitor_outbox_bytes": 999,
        "monitor_outbox_oldest_age_seconds": 42,
        "monitor_outbox_dropped_total reason=size": 2,
        "monitor_outbox_dropped_total reason=other": 1,
    }


def test_the_monitor_itself() -> None:
    metrics = complete()
    before = found(metrics)
    metrics.log("warning", suppressed=False)
    metrics.log("error", suppressed=True)
    metrics.clock(Discipline(synchronised=True, offset_ns=-1_500_000, error_ns=1, max_error_ns=20_000_000))
    metrics.reloaded(ok=True)
    metrics.reloaded(ok=False)
    metrics.state_saved()
    metrics.model(ModelRef("other", "2", "cd" * 32))
    assert moved(metrics, before) == {
        "monitor_log_messages_total level=warning": 1,
        "monitor_log_suppressed_total level=error": 1,
        "monitor_clock_synchronised": 1,
        "monitor_clock_offset_seconds": -0.0015,
        "monitor_clock_error_seconds": 0.02,
        "monitor_config_last_reload_successful": 0,
        "monitor_config_last_reload_success_timestamp_seconds": 1.7e9,
        "monitor_last_state_save_timestamp_seconds": 1.7e9,
        f"monitor_model_info name=other sha256={'cd' * 32} version=2": 1,
    }
    assert not [name for name in found(metrics) if "name=small" in name]
    metrics.clock(None)
    assert np.isnan(found(metrics)["monitor_clock_synchronised"])


def test_two_registries_do_not_meet() -> None:
    one, other = complete(), complete()
    one.packet(packet())
    assert found(other)[f"monitor_packets_total server={SERVER}"] == 0


def test_labels_are_closed() -> None:
    allowed = {"station", "channel", "server", "queue", "reason", "state", "origin", "result", "level", "device", "le"}
    info = {"name", "version", "sha256", "python"}
    for family in parse_text(complete().exposition()[1].decode()):
        for sample in family.samples:
            assert sample.labels.keys() <= (info if family.name.endswith("_info") else allowed)
            assert "created" not in sample.name
    assert len(set(SERVER_REASONS)) == len(SERVER_REASONS)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/html,*/*;q=0.8", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "application/openmetrics-text; version=1.0.0"),
    ],
)
def test_formats(accept: str, content_type: str) -> None:
    found_type, text = complete().exposition(accept)
    assert found_type.startswith(content_type)
    parse: Any = parse_openmetrics if "openmetrics" in found_type else parse_text
    names = {family.name for family in parse(text.decode())}
    assert {"monitor_packets", "monitor_inference_seconds", "monitor_build_info"} <= {
        name.removesuffix("_total") for name in names
    }


@settings(max_examples=40)
@given(
    st.text(max_size=40)
    | st.from_regex(r"(application/openmetrics-text|text/plain)(; ?version=[^,]*)?", fullmatch=True)
)
def test_no_accept_header_is_too_odd(accept: str) -> None:
    content_type, text = EMPTY.exposition(accept)
    assert content_type.split(";")[0] in {"text/plain", "application/openmetrics-text"}
    assert "\n" not in content_type
    assert text


@pytest.mark.needs("promtool")
def test_names_are_as_prometheus_wants_them() -> None:
    promtool = find_program("promtool")
    assert promtool is not None
    _, text = complete().exposition()
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=60, check=False)
    assert (checked.returncode, checked.stdout.decode(), checked.stderr.decode()) == (0, "", "")


@pytest.mark.needs("prometheus")
def test_a_real_prometheus_scrapes_it(tmp_path: Path) -> None:
    program = find_program("prometheus")
    assert program is not None
    metrics = complete()
    metrics.packet(packet())

    async def scenario() -> dict[str, float]:
        routes = Routes()
        scraped, loop = asyncio.Event(), asyncio.get_running_loop()
        scrapes = 0

        def exposition(accept: str) -> tuple[str, bytes]:
            nonlocal scrapes
            scrapes += 1
            if scrapes == 3:  # the first two are in its database by now
                loop.call_soon_threadsafe(scraped.set)
            return metrics.exposition(accept)

        routes.add("/metrics", metrics_handler(exposition))
        server = HttpServer(routes, host="127.0.0.1", port=0)
        await server.bind()
        serving = asyncio.create_task(server.run())
        target = server.addresses[0][1]
        (tmp_path / "prometheus.yml").write_text(
            "global: {scrape_interval: 100ms, scrape_timeout: 100ms}\n"
            f"scrape_configs: [{{job_name: monitor, static_configs: [{{targets: ['127.0.0.1:{target}']}}]}}]\n"
        )
        try:
            for _ in range(5):
                async with prometheus(program, tmp_path) as (process, port):
                    ended, seen = asyncio.create_task(process.wait()), asyncio.create_task(scraped.wait())
                    await asyncio.wait({ended, seen}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
                    if seen.done():
                        return await asyncio.to_thread(ask, port, '{job="monitor"}')
                    seen.cancel()  # another program was faster to take the port
            pytest.fail((tmp_path / "log").read_text())
        finally:
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving

    series = asyncio.run(scenario())
    assert series["up"] == 1
    assert series["scrape_samples_scraped"] == len(found(metrics))
    assert series["monitor_packets_total"] == 1
    assert series["monitor_server_last_packet_timestamp_seconds"] == 1.7e9
    assert series["monitor_model_info"] == 1


@contextlib.asynccontextmanager
async def prometheus(program: str, folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """One that runs, on a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with (folder / "log").open("a") as log:
        process = await asyncio.create_subprocess_exec(
            program,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=log,
            stderr=log,
        )
        try:
            yield process, port
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


def ask(port: int, query: str) -> dict[str, float]:
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        results = json.load(answer)["data"]["result"]
    return {result["metric"]["__name__"]: float(result["value"][1]) for result in results}


def test_nothing_heavy_is_imported() -> None:
    heavy = "obspy scipy matplotlib pandas tensorflow twisted"
    code = (
        "import sys, monitor.metrics, monitor.http, monitor.logs, monitor.sdnotify\n"
        f"print(*({{name.partition('.')[0] for name in sys.modules}} & set({heavy.split()!r})))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.strip() == ""


def test_the_reasons_of_the_broker_are_those_that_mqtt_gives() -> None:
    from monitor.metrics import BROKER_REASONS
    from monitor.mqtt import LINK_REASONS

    assert set(BROKER_REASONS) == {*LINK_REASONS, "other"}


def test_the_last_detection_is_told_by_its_probability() -> None:
    metrics = Metrics(now_ns=lambda: 5 * NS_PER_SECOND)
    (group,) = group_channels([ChannelId("BW", "UH1", "", "EHZ")])
    metrics.add_station(group)
    metrics.detection(detection(station="BW.UH1", origin="live", state="new", probability=0.97))
    text = metrics.exposition()[1].decode()
    assert 'monitor_last_detection_probability{origin="live",station="BW.UH1"} 0.97' in text
    assert 'monitor_last_detection_timestamp_seconds{origin="live",station="BW.UH1"} 5.0' in text
