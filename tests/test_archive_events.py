"""The event archive: which records a folder holds, whatever happens meanwhile."""

import errno
import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from monitor.archive import events as events_module
from monitor.archive.disk import Disk
from monitor.archive.event import GIVE_UP_NS
from monitor.archive.events import EventArchive
from monitor.archive.layout import component, event_directories, event_directory, find_event
from monitor.archive.record import RawRecord, RecordSplitter
from monitor.records import Detection
from monitor.settings import ArchiveSettings, Settings
from tests.archive_records import ONSET_NS, FaultyDisk, records, seconds, told
from tests.detections import HOSTILE, detection

PLAIN = ArchiveSettings(pictures=False)
NEW, FINAL = told("new", 0), told("final", 2, end_s=15.0)


class Feed:
    """An archive, what it is given, and its one event."""

    def __init__(self, root: Path, *, settings: ArchiveSettings = PLAIN, disk: Disk | None = None) -> None:
        self.root, self.disk = root, disk or Disk()
        self.archive = EventArchive(root, Settings(archive=settings), disk=self.disk)
        self.archive.start(0)

    def give(self, records: list[RawRecord]) -> None:
        for first in range(0, len(records), 7):
            self.archive.take(records[first : first + 7])
            self.archive.flush(0)

    def tell(self, found: Detection, *, now_ns: int | None = ONSET_NS) -> None:
        self.archive.tell(found, now_ns=now_ns, monotonic_ns=0)
        self.archive.flush(0)

    @property
    def folder(self) -> Path:
        (folder,) = event_directories(self.root)
        return folder

    @property
    def waveforms(self) -> bytes:
        return (self.folder / "waveforms.mseed").read_bytes()


def wanted(source: list[RawRecord], *, until_s: float = 120.0) -> list[RawRecord]:
    """Those that an event holds."""
    first, last = ONSET_NS - seconds(60), ONSET_NS + seconds(until_s)
    return [r for r in source if r.span.next_ns > first and r.span.start_ns < last]


def same(content: bytes, source: list[RawRecord]) -> None:
    """Each record once, to the byte, and each channel's in order."""
    channels = {record.span.channel for record in source}
    found = RecordSplitter().split(content, channels)
    assert b"".join(record.data for record in found) == content
    for channel in channels:
        theirs = sorted((r for r in source if r.span.channel == channel), key=lambda r: r.span.start_ns)
        ours = [r for r in found if r.span.channel == channel]
        assert [r.span.start_ns for r in ours] == [r.span.start_ns for r in theirs]
        assert [r.data for r in ours] == [r.data for r in theirs]


def until_s(source: list[RawRecord], at_s: float) -> int:
    return next(k for k, r in enumerate(source) if r.span.next_ns > ONSET_NS + seconds(at_s))


def play(feed: Feed, source: list[RawRecord], *, end_s: float = 15.0) -> None:
    first, second = until_s(source, 4), until_s(source, end_s + 6)
    feed.give(source[:first])
    feed.tell(NEW)
    feed.give(source[first:second])
    feed.tell(told("final", 2, end_s=end_s))
    feed.give(source[second:])


@pytest.mark.parametrize(("end_s", "last_s"), [(15.0, 120.0), (140.0, 170.0)])
def test_an_event_holds_every_channel_of_its_station_around_it(tmp_path: Path, end_s: float, last_s: float) -> None:
    source = records(-200, 400)
    feed = Feed(tmp_path)
    others = records(-100, 100, station="XYZ")
    feed.give(others)
    play(feed, source, end_s=end_s)
    same(feed.waveforms, wanted(source, until_s=last_s))
    assert {path.name for path in feed.folder.iterdir()} == {"detection.json", "waveforms.mseed"}
    assert feed.folder.relative_to(tmp_path) == Path("2024/05/06/XX.ABC-20240506T235830.2-0123abcd")
    assert json.loads((feed.folder / "detection.json").read_bytes())["state"] == "final"
    assert (feed.archive.completed, feed.archive.kept, feed.archive.lost) == (1, 1, 0)
    assert not feed.archive.is_busy


def test_it_is_there_while_it_goes_on(tmp_path: Path) -> None:
    source = records(-80, 10)
    feed = Feed(tmp_path)
    feed.give(source)
    feed.tell(NEW)
    same(feed.waveforms, wanted(source))
    assert (feed.folder / "open.json").exists()


@pytest.mark.parametrize("killed_at_s", [4, 20, 100, 119])
def test_killed_and_started_again_nothing_is_missing_or_twice(tmp_path: Path, killed_at_s: float) -> None:
    source = records(-200, 400)
    feed = Feed(tmp_path)
    feed.give(source[: until_s(source, 3.5)])
    feed.tell(NEW)
    feed.give(source[until_s(source, 3.5) : until_s(source, killed_at_s)])
    if killed_at_s > 15:
        feed.tell(FINAL)
    with (feed.folder / "waveforms.mseed").open("ab") as stream:
        stream.write(source[0].data[:300])  # torn off
    (feed.folder / "detection.json.new").write_bytes(b"{")
    # As from a resume point: what is told again has been told before.
    again = Feed(tmp_path)
    assert again.archive.is_busy
    rest = source[until_s(source, killed_at_s - 70) :]
    again.give(rest[:300])
    again.tell(NEW)
    again.tell(FINAL)
    again.give(rest[300:])
    same(again.waveforms, wanted(source))
    assert again.archive.completed == 1


def test_what_came_before_it_could_start_belongs_to_what_was_left_open(tmp_path: Path) -> None:
    source = records(-200, 400)
    feed = Feed(tmp_path)
    feed.give(source[: until_s(source, 3.5)])
    feed.tell(NEW)
    feed.tell(FINAL)
    (feed.folder / "waveforms.mseed").unlink()
    again = EventArchive(tmp_path, Settings(archive=PLAIN), disk=Disk())
    again.take(source[: until_s(source, 3.5)])
    again.start(0)
    again.tell(FINAL, now_ns=ONSET_NS, monotonic_ns=0)
    again.take(source[until_s(source, 3.5) :])
    again.flush(0)
    same(feed.waveforms, wanted(source))


@pytest.mark.parametrize(
    ("text", "damage"),
    [(b"2024", b"20x4"), (b"XX.ABC-2", b"\xff"), (b"{", b""), (b'"end":null', b'"end":"never"'), (b"new", b"old")],
)
def test_a_damaged_detection_is_as_none(tmp_path: Path, text: bytes, damage: bytes) -> None:
    source = records(-200, 400)
    feed = Feed(tmp_path)
    feed.tell(NEW)
    path = feed.folder / "detection.json"
    assert text in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(text, damage))
    again = Feed(tmp_path)
    assert not again.archive.is_busy
    play(again, source)
    same(again.waveforms, wanted(source))


def test_killed_before_the_detection_was_written_it_is_told_again(tmp_path: Path) -> None:
    source = records(-200, 400)
    feed = Feed(tmp_path)
    feed.give(source[: until_s(source, 3.5)])
    feed.tell(NEW)
    (feed.folder / "detection.json").write_bytes(b"")  # as a power cut leaves it
    again = Feed(tmp_path)
    play(again, source)
    same(again.waveforms, wanted(source))
    # One of which nobody knows anything any more goes.
    stray = tmp_path / "2024/05/06/stray"
    stray.mkdir()
    (stray / "open.json").write_bytes(b"{}")
    third = Feed(tmp_path)
    third.archive.flush(GIVE_UP_NS)
    assert stray.exists()
    third.archive.flush(GIVE_UP_NS + 1)
    assert not stray.exists()
    assert third.archive.kept == 1


def test_what_comes_late_or_twice(tmp_path: Path) -> None:
    source = records(-200, 400)
    feed = Feed(tmp_path)
    at = until_s(source, 4)
    feed.give(source[:at])
    feed.tell(NEW)
    feed.tell(FINAL)
    rng = np.random.default_rng(1)
    later = source[at : until_s(source, 110)]
    feed.give([later[k] for k in rng.permutation(len(later))])
    feed.give(source[at - 40 : until_s(source, 110)])
    feed.give(source[until_s(source, 110) :])
    same(feed.waveforms, wanted(source))


def test_another_server_that_cuts_records_elsewhere_adds_nothing(tmp_path: Path) -> None:
    source = records(-200, 400, codes=["HHZ"])
    other = [r for r in source if r.span.start_ns % 2]
    feed = Feed(tmp_path)
    feed.give(source[: until_s(source, 4)])
    feed.tell(NEW)
    # One record of it lies within two of ours.
    merged = Feed(tmp_path / "other")
    merged.give(source[: until_s(source, 4)])
    merged.tell(NEW)
    inner = records(-10, 3, codes=["HHZ"], step_s=1.35)
    merged.give(other + inner)
    assert merged.waveforms == feed.waveforms


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_disk_that_takes_nothing_for_a_while(tmp_path: Path, number: int) -> None:
    source = records(-200, 400)
    disk = FaultyDisk()
    feed = Feed(tmp_path, disk=disk)
    feed.give(source[: until_s(source, 4)])
    feed.tell(NEW)
    disk.number = number
    for piece in range(until_s(source, 4), until_s(source, 60), 9):
        feed.archive.take(source[piece : piece + 9])
        with pytest.raises(OSError, match=errno.errorcode[number]):
            feed.archive.flush(0)
    disk.number = None
    feed.tell(FINAL)
    feed.give(source[until_s(source, 60) - 20 :])
    same(feed.waveforms, wanted(source))
    assert feed.archive.lost == 0


def test_what_waits_for_the_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "MOST_PENDING_BYTES", 20_000)
    source = records(-60, 100)
    feed = Feed(tmp_path)
    feed.archive.tell(NEW, now_ns=None, monotonic_ns=0)
    for piece in range(0, len(source), 10):
        feed.archive.take(source[piece : piece + 10])
        feed.archive.limit_pending()
        assert sum(event.pending_bytes for event in feed.archive._open.values()) <= 20_000
    assert feed.archive.lost > 50


def test_an_event_whose_end_is_never_told_is_completed(tmp_path: Path) -> None:
    source = records(-100, 700)
    feed = Feed(tmp_path)
    feed.give(source[: until_s(source, 4)])
    feed.tell(NEW)
    feed.give(source[until_s(source, 4) :])
    assert feed.archive.completed == 1
    same(feed.waveforms, wanted(source))


def test_a_station_that_is_gone_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    feed = Feed(tmp_path)
    feed.give(records(-60, 5))
    feed.tell(NEW)
    feed.archive.flush(GIVE_UP_NS + 1)
    assert feed.archive.completed == 1


def state(feed: Feed) -> str:
    return str(json.loads((feed.folder / "detection.json").read_bytes())["state"])


def test_revisions(tmp_path: Path) -> None:
    feed = Feed(tmp_path)
    play(feed, records(-100, 400))
    feed.tell(told("new", 0))
    assert state(feed) == "final"
    feed.tell(told("retracted", 3))
    assert state(feed) == "retracted"
    assert feed.archive.kept == 1


def test_the_oldest_are_deleted(tmp_path: Path) -> None:
    feed = Feed(tmp_path, settings=ArchiveSettings(pictures=False, max_bytes=1024 * 1024))
    for number in range(6):
        folder = tmp_path / f"2024/0{number + 1}/01/event{number}"
        folder.mkdir(parents=True)
        (folder / "waveforms.mseed").write_bytes(bytes(250_000))
    aside = tmp_path / ".deleted-event9"
    aside.mkdir()
    feed.archive.start(0)
    assert not aside.exists()
    before = feed.archive.nbytes
    feed.archive.keep_limits(None)
    assert [path.name for path in event_directories(tmp_path)] == ["event5", "event4", "event3", "event2"]
    assert feed.archive.deleted == 2
    assert not (tmp_path / "2024/01").exists()
    assert before > 1024 * 1024 >= feed.archive.nbytes
    year_later = ONSET_NS + seconds(365 * 86400 - 7 * 86400)
    feed.archive.keep_limits(year_later)
    assert [path.name for path in event_directories(tmp_path)] == ["event5", "event4"]
    play(feed, records(-100, 400))
    assert feed.archive.kept == 3
    # Of what is too old, nothing is begun.
    feed.tell(told("new", 0, onset_s=-400 * 86400, id="other"), now_ns=ONSET_NS)
    assert not feed.archive.is_busy


def test_an_event_that_somebody_removes_is_no_longer_archived(tmp_path: Path) -> None:
    source = records(-100, 50)
    feed = Feed(tmp_path)
    feed.give(source[: until_s(source, 4)])
    feed.tell(NEW)
    shutil.rmtree(feed.folder)
    feed.give(source[until_s(source, 4) :])
    assert not feed.archive.is_busy
    feed.tell(told("new", 0, id="next"))
    assert feed.archive.is_busy


@pytest.mark.parametrize("code", ["..", "../../x", "/etc", ".", "", "~", "a/../../b", "%2e%2e", "nul\0l", HOSTILE])
def test_codes_from_outside_do_not_leave_the_folder(tmp_path: Path, code: str) -> None:
    name = component(code)
    assert "/" not in name
    assert name[0] != "."
    root = tmp_path / "events"
    feed = Feed(root)
    found = detection(id=f"{code}.{code}-20240506T000000-12345678", station=f"{code}.{code}")
    feed.tell(found, now_ns=None)
    assert [path.name for path in tmp_path.iterdir()] == ["events"]
    folder = feed.folder
    assert folder.parent.relative_to(root) == Path("2010/05/27")
    assert find_event(root, found.id) == folder
    assert event_directory(root, found.id, ONSET_NS).name == folder.name
    assert msgspec.json.decode((folder / "detection.json").read_bytes(), type=Detection) == found


def test_names_that_are_no_events_are_not_found(tmp_path: Path) -> None:
    (tmp_path / "2024/05/06").mkdir(parents=True)
    for name in ("..", "", "x" * 300, "*", "a\0b"):
        assert find_event(tmp_path, name) is None


def test_pictures_are_asked_for_until_they_have_been_tried(tmp_path: Path) -> None:
    feed = Feed(tmp_path, settings=ArchiveSettings())
    play(feed, records(-100, 400))
    assert feed.archive.undrawn == [feed.folder]
    again = Feed(tmp_path, settings=ArchiveSettings())
    assert again.archive.undrawn == [feed.folder]
    (feed.folder / "event.png").write_bytes(bytes(9000))
    before = again.archive.nbytes
    again.archive.drawn(feed.folder)
    assert again.archive.nbytes == before - 4096 + 3 * 4096
    assert Feed(tmp_path, settings=ArchiveSettings()).archive.undrawn == []
