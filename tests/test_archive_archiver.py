"""The archives' place in the service: never waited for, told once when they stop, and back by themselves."""

import asyncio
import errno
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from monitor.archive import archiver as archiver_module
from monitor.archive import drawing, pictures
from monitor.archive.archiver import RETRY_S, Archiver
from monitor.archive.drawing import Drawing
from monitor.archive.events import EventArchive
from monitor.archive.layout import event_directories
from monitor.archive.record import RawRecord
from monitor.clock import Discipline, FixedClock
from monitor.metrics import Metrics
from monitor.playback.packets import encode
from monitor.records import Packet, Segment
from monitor.settings import ArchiveSettings, Settings
from monitor.timebase import format_time
from tests.archive_records import ONSET_NS, FaultyDisk, files, records, seconds, told
from tests.detections import detection
from tests.waveforms import earthquake, segments

PATIENCE_S = 120.0
NOTHING = np.empty(0, np.int32)
SOURCE = records(-100, 300, codes=["HHZ", "HHN", "HHE"])


def packet(record: RawRecord, *, received_ns: int = ONSET_NS + seconds(1000)) -> Packet:
    """Of its samples the archives want to know nothing."""
    span = record.span
    segment = Segment(span.channel, span.start_ns, 100.0, NOTHING)
    return Packet(
        "one", span.channel.station_id, 1, (segment,), len(record.data), received_ns, None, b"".join([record.data])
    )


class Trial:
    """An archiver that runs, on a disk that fails when told to."""

    def __init__(self, folder: Path, settings: ArchiveSettings | None = None) -> None:
        self.disk, self.metrics = FaultyDisk(), Metrics()
        self.disk.free = 10**12
        self.clock = FixedClock(ONSET_NS, discipline=Discipline(True, 0, 0, 0))
        self.folder = folder
        archive = settings or ArchiveSettings(pictures=False, sds=True)
        self.kept: list[str] = []
        self.archiver = Archiver(
            Settings(archive=archive),
            directory=folder,
            clock=self.clock,
            metrics=self.metrics,
            on_kept=self.kept.append,
            disk=self.disk,
        )

    async def settle(self, condition: Callable[[], bool]) -> None:
        """Let it work until something is true."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self.archiver._wake.set()
                await asyncio.sleep(0.001)

    async def all_written(self) -> None:
        assert await self.archiver.caught_up(self.archiver.offered, PATIENCE_S)

    def run(self, what: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run it while something is done to it."""

        async def together() -> None:
            task = asyncio.create_task(self.archiver.run())
            try:
                await what()
            finally:
                task.cancel()
                await asyncio.wait([task])
                await self.archiver.close()

        asyncio.run(together())

    def metric(self, name: str, **labels: str) -> float:
        _, text = self.metrics.exposition()
        for family in parse_text(text.decode()):
            for sample in family.samples:
                if sample.name == f"monitor_{name}" and sample.labels == labels:
                    return float(sample.value)
        raise AssertionError(name)


def test_what_is_offered_is_kept(tmp_path: Path) -> None:
    trial = Trial(tmp_path)

    async def work() -> None:
        for first in range(0, len(SOURCE), 20):
            trial.archiver.offer(map(packet, SOURCE[first : first + 20]))
            if first == 160:
                trial.archiver.offer((), [told("new", 0), told("final", 1, end_s=9.0)])
        await trial.all_written()
        assert trial.archiver.health.ok
        assert trial.archiver.health.reason.startswith("1 events")

    trial.run(work)
    (folder,) = event_directories(tmp_path / "events")
    assert {path.name for path in folder.iterdir()} == {"detection.json", "waveforms.mseed"}
    assert trial.kept == [folder.name]
    kept = sum(map(len, files(tmp_path / "sds").values()))
    assert kept == sum(len(record.data) for record in SOURCE)
    assert trial.metric("archived_events_total") == trial.metric("archive_events") == 1
    assert trial.metric("archive_sds_bytes") >= kept
    assert trial.metric("archive_events_bytes") > (folder / "waveforms.mseed").stat().st_size
    assert trial.metric("queue_dropped_total", queue="archive") == 0


def test_killed_ahead_of_the_waveforms_they_come_with_the_first_batch(tmp_path: Path) -> None:
    """Its last revision was on disk, so that nobody tells of it again; what comes first is longer than the memory."""

    class Dies(FaultyDisk):
        def write_at(self, path: Path, offset: int, data: bytes) -> None:
            if path.name == "waveforms.mseed":
                raise SystemError("killed")
            super().write_at(path, offset, data)

    before = EventArchive(tmp_path / "events", Settings(archive=ArchiveSettings(pictures=False)), disk=Dies())
    before.start(0)
    before.take(SOURCE[:330])
    before.tell(told("final", 1, end_s=9.0), now_ns=ONSET_NS, monotonic_ns=0)
    with pytest.raises(SystemError):
        before.flush(0)
    (folder,) = event_directories(tmp_path / "events")
    assert {path.name for path in folder.iterdir()} == {"detection.json", "open.json"}
    trial = Trial(tmp_path)

    async def work() -> None:
        trial.archiver.offer(map(packet, SOURCE))
        await trial.all_written()
        trial.archiver.offer((), [told("new", 0), told("final", 1, end_s=9.0)])
        await trial.all_written()

    trial.run(work)
    assert not (folder / "open.json").exists()
    wanted = [
        r for r in SOURCE if r.span.next_ns > ONSET_NS - seconds(60) and r.span.start_ns < ONSET_NS + seconds(120)
    ]
    assert len((folder / "waveforms.mseed").read_bytes()) == sum(len(record.data) for record in wanted)


def test_who_waits_for_pictures_is_told_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[str]] = []

    async def draw(_: Drawing, folder: Path) -> None:
        drawn.append([*trial.kept, folder.name])

    monkeypatch.setattr(Drawing, "_draw", draw)
    trial = Trial(tmp_path, ArchiveSettings(pictures=True))

    async def work() -> None:
        trial.archiver.offer(map(packet, SOURCE[:180]), [told("new", 0), told("final", 1, end_s=9.0)])
        trial.archiver.offer(map(packet, SOURCE[180:]))
        await trial.settle(lambda: len(trial.kept) == 2)

    trial.run(work)
    (folder,) = event_directories(tmp_path / "events")
    assert drawn == [[folder.name] * 2]
    assert trial.kept == [folder.name] * 2
    assert not (folder / "undrawn.json").exists()


def test_a_full_disk_is_told_once_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trial = Trial(tmp_path)
    third = len(SOURCE) // 3

    async def work() -> None:
        trial.archiver.offer(map(packet, SOURCE[:third]), [told("new", 0), told("final", 1, end_s=9.0)])
        await trial.all_written()
        trial.disk.number = errno.ENOSPC
        for first in range(third, 2 * third, 30):
            trial.archiver.offer(map(packet, SOURCE[first : min(first + 30, 2 * third)]))
            await trial.settle(lambda: not trial.archiver._queue)
            # Whoever saves positions does not wait for it.
            assert await trial.archiver.caught_up(trial.archiver.offered, 0.0) or not trial.archiver.problem
        await trial.settle(lambda: trial.metric("archive_working") == 0)
        assert "ENOSPC" in trial.archiver.health.reason
        assert not trial.archiver.health.ok
        failures = trial.metric("archive_failures_total", reason="full")
        trial.disk.number = None
        trial.archiver.offer(map(packet, SOURCE[2 * third :]))
        await trial.settle(lambda: not trial.archiver._queue)
        assert trial.archiver.problem is not None
        assert trial.metric("archive_working") == 0
        trial.clock.advance(seconds(RETRY_S))
        await trial.settle(lambda: trial.metric("archive_working") == 1)
        await trial.all_written()
        assert trial.metric("archive_failures_total", reason="full") == failures == 1

    with caplog.at_level(logging.INFO):
        trial.run(work)
    said = [record.getMessage() for record in caplog.records]
    assert [text.split(":")[1].strip() for text in said] == ["stopped", "works again"]
    assert sum(map(len, files(tmp_path / "sds").values())) == sum(len(record.data) for record in SOURCE)
    assert trial.archiver.health.reason.startswith("1 events")


def test_a_reserve_is_kept_free(tmp_path: Path) -> None:
    trial = Trial(tmp_path, ArchiveSettings(sds=True, free_bytes=1000))

    async def work() -> None:
        trial.disk.free = 999
        trial.archiver.offer(map(packet, SOURCE[:50]))
        await trial.settle(lambda: trial.metric("archive_working") == 0)
        assert "free_bytes" in trial.archiver.health.reason
        assert trial.metric("archive_failures_total", reason="reserve") == 1
        assert not files(tmp_path)
        trial.disk.free = 1000
        trial.clock.advance(seconds(RETRY_S))
        await trial.settle(lambda: trial.archiver.problem is None)

    trial.run(work)
    assert files(tmp_path)


def test_a_disk_that_hangs_costs_the_newest_packets_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiver_module, "MOST_QUEUED_BYTES", 10_000)
    trial = Trial(tmp_path)
    trial.archiver.offer(map(packet, SOURCE), [told("new", 0)])
    kept = 10_000 // (512 + 200)
    assert len(trial.archiver._queue) == kept + 1

    async def work() -> None:
        assert not await trial.archiver.caught_up(trial.archiver.offered, 0.0)
        await trial.all_written()

    trial.run(work)
    assert trial.metric("queue_dropped_total", queue="archive") == len(SOURCE) - kept
    assert len(list(event_directories(tmp_path / "events"))) == 1


def test_records_from_the_future_are_left_out_unless_the_clock_is_wrong(tmp_path: Path) -> None:
    for name, synchronised, kept in (("right", True, 0), ("wrong", False, 1)):
        trial = Trial(tmp_path / name)
        trial.folder.mkdir()
        trial.clock = FixedClock(ONSET_NS, discipline=Discipline(synchronised, 0, 0, 0))
        trial.archiver._clock = trial.clock

        async def work(trial: Trial = trial) -> None:
            trial.archiver.offer([packet(SOURCE[-1], received_ns=SOURCE[-1].span.next_ns - seconds(61))])
            await trial.all_written()

        trial.run(work)
        assert len(files(trial.folder)) == kept


def test_switched_off_it_does_nothing(tmp_path: Path) -> None:
    trial = Trial(tmp_path, ArchiveSettings(events=False))
    trial.archiver.offer(map(packet, SOURCE), [told("new", 0)])
    assert asyncio.run(trial.archiver.caught_up(1, 0.0))
    asyncio.run(trial.archiver.close())
    assert trial.archiver.health == (True, "off")
    assert not files(tmp_path)


def event(folder: Path) -> Path:
    """A folder as the archive leaves it, with an earthquake of the tests' own."""
    wave = earthquake(rate=100.0, p_s=60.0, s_minus_p=4.0, seconds=120.0, snr=15.0, seed=1)
    pieces = segments(wave, rate=100.0)
    folder.mkdir(parents=True)
    content = b"".join(packet.record for piece in pieces for packet in encode(piece))
    (folder / "waveforms.mseed").write_bytes(content)
    start = pieces[0].starttime_ns
    found = detection(
        station="XX.ABC",
        seed_ids=[piece.channel_id.seed_id for piece in pieces],
        onset=format_time(start + seconds(60)),
        s_onset=format_time(start + seconds(64)),
        end=format_time(start + seconds(75)),
    )
    (folder / "detection.json").write_bytes(msgspec.json.encode(found))
    return folder


def test_pictures(tmp_path: Path) -> None:
    folder = event(tmp_path / "event")
    assert pictures.draw(folder, None) == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {"detection.json", "waveforms.mseed", "event.png", "explanation.json", "explanation.png"}
    assert (folder / "event.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_drawn_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = event(tmp_path / "event")
    (folder / "waveforms.mseed").write_bytes(b"no records")
    assert pictures.draw(folder, None) == 1
    assert "event.png" in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == {"detection.json", "waveforms.mseed"}


def test_pictures_are_made_by_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[tuple[Path, str | None]] = []

    async def draw(*folders: Path) -> None:
        made = Drawing(None)
        done = asyncio.Event()

        async def ended(path: Path, trouble: str | None) -> None:
            ends.append((path, trouble))
            if len(ends) == len(folders):
                done.set()

        for folder in folders:
            made.put(folder)
        task = asyncio.create_task(made.run(ended))
        try:
            async with asyncio.timeout(PATIENCE_S):
                await done.wait()
        finally:
            task.cancel()
            await asyncio.wait([task])

    empty, bare = tmp_path / "empty", tmp_path / "bare"
    empty.mkdir()
    bare.mkdir()
    (bare / "waveforms.mseed").touch()
    asyncio.run(draw(empty, bare))
    assert [path for path, _ in ends] == [empty, bare]
    assert "No such file" in str(ends[0][1])
    assert "not there or damaged" in str(ends[1][1])
    ends.clear()
    monkeypatch.setattr(drawing, "LIMIT_S", 0.0)
    asyncio.run(draw(empty))
    assert ends == [(empty, "not done within 0 s")]
    ends.clear()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    asyncio.run(draw(empty))
    assert "cannot be started" in str(ends[0][1])


def test_the_service_loads_neither_pillow_nor_the_pictures() -> None:
    code = (
        "import sys, monitor.archive.archiver; sys.exit(any(m in sys.modules for m in ('PIL', 'monitor.drawing.event', "
        "'monitor.explain.explanation', 'obspy', 'scipy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=PATIENCE_S).returncode == 0


def test_pictures_are_not_made_for_one_who_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pictures.main([str(tmp_path), "--parent", str(os.getpid())]) == 1
    assert "who wanted it is gone" in capsys.readouterr().err


def test_who_draws_ends_with_who_wanted_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "detection.json")
    script = (
        "import os, subprocess, sys\n"
        "command = [sys.executable, '-m', 'monitor.archive.pictures', sys.argv[1], '--parent', str(os.getpid())]\n"
        "subprocess.Popen(command, stdin=subprocess.DEVNULL)\n"
        "sys.stdin.read()\n"
        "os._exit(0)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        # Opens when it has come to read, and keeps it reading.
        with (tmp_path / "detection.json").open("w"):
            # The pipe is closed when both have ended.
            parent.communicate(timeout=120)
        assert parent.returncode == 0
