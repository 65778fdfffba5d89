"""The archives within the real service: what a server sent is there, to the byte, whatever happens to the process."""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import obspy
import pytest

from monitor.archive.event import AFTER_END_S
from monitor.archive.layout import event_directories
from monitor.archive.record import RawRecord, RecordSplitter
from monitor.clock import HostClock
from monitor.daemon import Parts, Service
from monitor.metrics import Metrics
from monitor.model import Model
from monitor.playback.recording import Recording
from monitor.playback.server import PlaybackServer
from monitor.records import Segment
from monitor.sdnotify import Notifier
from monitor.settings import Settings
from monitor.stations import group_channels
from monitor.timebase import NS_PER_SECOND, parse_time
from tests.service import Monitor, running, wait_for
from tests.test_archive_events import same
from tests.test_resume import SETTINGS, packets, run
from tests.test_service import playing

ARCHIVE = "[archive]\npictures = false\nfree_bytes = 0\nsds = true\n"
RECORDINGS = sorted((Path(obspy.__file__).parent / "signal/tests/data").glob("BW.UH[13].*.cut.slist.gz"))


def recent(pieces: list[Segment]) -> list[Segment]:
    """The same, ending five minutes ago: a server is asked for the last days."""
    late_s = (time.time_ns() - max(piece.next_ns for piece in pieces)) // NS_PER_SECOND - 300
    return [replace(piece, starttime_ns=piece.starttime_ns + late_s * NS_PER_SECOND) for piece in pieces]


def service(folder: Path, port: int, *, archive: str = ARCHIVE, detector: str = "") -> Monitor:
    """Without a broker: what is told stands in the log, and nothing waits for it at the end."""
    monitor = Monitor(folder, seedlink=port, mqtt=1)
    text = monitor.config.read_text()
    begin, end = text.index("[mqtt]"), text.index("[http]")
    monitor.config.write_text(text[:begin] + text[end:] + archive + detector)
    return monitor


def sent(server: PlaybackServer) -> list[RawRecord]:
    """What the server has, as it sends it."""
    splitter, found = RecordSplitter(), []
    for index in range(server.ring.first, server.ring.end):
        packet = server.ring.get(index)
        assert packet is not None
        found += splitter.split(packet.record, {packet.channel_id})
    return found


def check_events(state: Path, source: list[RawRecord], *, complete: bool) -> list[str]:
    """Compare each event's records with what was sent; the ids of those that are complete."""
    found = []
    for folder in event_directories(state / "events"):
        detection = json.loads((folder / "detection.json").read_bytes())
        onset, end = parse_time(detection["onset"]), parse_time(detection["end"])
        until = max(onset + 120 * NS_PER_SECOND, end + round(AFTER_END_S * NS_PER_SECOND))
        of_station = [r for r in source if r.span.channel.station_id == detection["station"]]
        wanted = [r for r in of_station if r.span.next_ns > onset - 60 * NS_PER_SECOND and r.span.start_ns < until]
        same((folder / "waveforms.mseed").read_bytes(), wanted)
        if not (folder / "open.json").exists():
            found.append(detection["id"])
    return found


def replayed(paths: Iterable[Path], *options: str) -> dict[str, str]:
    command = [sys.executable, "-m", "monitor.cli", "replay", *map(str, paths), "--format", "jsonl", *options]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    return {d["id"]: d["onset"] for d in map(json.loads, done.stdout.splitlines())}


def kept(state: Path) -> dict[str, str]:
    detections = [json.loads((f / "detection.json").read_bytes()) for f in event_directories(state / "events")]
    return {d["id"]: d["onset"] for d in detections if d["state"] == "final"}


def test_real_earthquakes_are_archived_as_they_were_sent(tmp_path: Path) -> None:
    recording = list(Recording.from_files(RECORDINGS, on_problem=lambda _: None).segments)
    with playing(recent(recording)) as server:
        monitor = service(tmp_path, server.port, detector="[live]\nend_of_data_s = 10\n")
        source = sent(server)
        with running(monitor):
            wait_for(lambda: monitor.log.count("final earthquake") >= 4, why="missing", or_if=monitor.has_ended)
            assert monitor.stop() == 0
    assert source
    state = tmp_path / "state"
    assert len(kept(state)) >= 4
    check_events(state, source, complete=False)
    assert replayed([state / "sds"]).items() >= kept(state).items()


def written(state: Path) -> int:
    """Events whose waveforms are there, while others are being written."""
    # A directory gets its name when it is complete: one that was listed can be gone.
    with contextlib.suppress(FileNotFoundError):
        return len(list((state / "events").rglob("waveforms.mseed")))
    return 0


@pytest.fixture(scope="module")
def source() -> list[Segment]:
    """Nine minutes of earthquakes of the last half hour, and quiet behind them until the last is complete."""
    pieces = packets(100.0)
    quiet_s = 40
    end_ns = pieces[-1].next_ns
    more = [p for p in pieces if p.next_ns <= pieces[0].starttime_ns + quiet_s * NS_PER_SECOND]
    shifts = [end_ns - pieces[0].starttime_ns + k * quiet_s * NS_PER_SECOND for k in range(3)]
    pieces += [replace(piece, starttime_ns=piece.starttime_ns + shift) for shift in shifts for piece in more]
    return recent(pieces)


def test_killed_again_and_again_nothing_is_missing_or_twice(source: list[Segment], tmp_path: Path) -> None:
    (group,) = group_channels(piece.channel_id for piece in source)
    told, _ = run(Model(), group, source, None, kill_after=None, outputs={})
    events = len({detection.id for detection in told})
    assert events > 5
    with playing(source) as server:
        detector = f"[detector]\nthreshold = {SETTINGS.threshold}\n"
        monitor = service(tmp_path, server.port, detector=detector)
        state = tmp_path / "state"
        for count in (1, 3, 5):
            with running(monitor):
                wait_for(
                    lambda n=count: written(state) >= n,  # type: ignore[misc]
                    why="no event",
                    or_if=monitor.has_ended,
                )
        with running(monitor):
            wait_for(lambda: monitor.log.count("listening to") == 4, why="not started", or_if=monitor.has_ended)
            for count in range(1, events + 1):
                wait_for(
                    lambda n=count: monitor.metric("monitor_archive_events ") >= n,  # type: ignore[misc]
                    why="not complete",
                    or_if=monitor.has_ended,
                )
            assert monitor.metric('monitor_queue_dropped_total{queue="archive"}') == 0
            assert monitor.metric("monitor_archive_working") == 1
            assert f"{events} events" in json.loads(monitor.get("/readyz")[1])["checks"]["archive"]["reason"]
            assert monitor.stop() == 0
        assert len(check_events(state, sent(server), complete=True)) == events
        found: dict[str, list[RawRecord]] = {}
        for record in sent(server):
            found.setdefault(record.span.channel.channel, []).append(record)
        for code, records in found.items():
            # One file, two around midnight.
            days = sorted((state / "sds").rglob(f"*{code}.D.*"), key=lambda path: path.name)
            same(b"".join(path.read_bytes() for path in days), records)
    assert kept(state) == replayed([state / "sds"], "--threshold", str(SETTINGS.threshold))


def test_without_room_it_detects_all_the_same(source: list[Segment], tmp_path: Path) -> None:
    with playing(source) as server:
        monitor = service(tmp_path, server.port, archive="[archive]\nfree_bytes = 1125899906842624\n")
        with running(monitor):
            wait_for(lambda: "archive: stopped" in monitor.log, why="not told", or_if=monitor.has_ended)
            wait_for(lambda: "final earthquake" in monitor.log, why="missing", or_if=monitor.has_ended)
            code, ready = monitor.get("/readyz")
            assert code == 503
            assert "stopped" in json.loads(ready)["checks"]["archive"]["reason"]
            assert monitor.get("/healthz")[0] == 200
            assert monitor.metric("monitor_archive_working") == 0
            assert monitor.metric('monitor_archive_failures_total{reason="reserve"}') >= 1
            assert monitor.log.count("archive: stopped") == 1
            assert monitor.stop() == 0
    assert (tmp_path / "state" / "positions.json").exists()
    assert not list(event_directories(tmp_path / "state" / "events"))


def test_who_looks_on_is_told_what_has_been_kept(tmp_path: Path) -> None:
    parts = Parts(
        settings=Settings(),
        model=Model(),
        clock=HostClock(),
        directory=tmp_path,
        saved=None,
        metrics=Metrics(),
        notifier=Notifier(None),
        reload=lambda: None,
    )

    async def look() -> bytes:
        service = Service(parts)
        assert service._page is not None
        viewer = service._page.viewers.open("")
        service._archive._on_kept("XX.ABC-1")
        async with contextlib.aclosing(viewer.messages()) as messages:
            return b"".join([await anext(messages), await anext(messages)])

    assert b'event: archived\ndata: "XX.ABC-1"\n\n' in asyncio.run(look())
