"""What the tests of the archives are made of: records, detections around them, and a disk that fails."""

import errno
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np

from monitor.archive.disk import Disk
from monitor.archive.record import RawRecord, RecordSplitter
from monitor.playback.packets import encode
from monitor.records import ChannelId, Detection, Segment
from monitor.timebase import NS_PER_SECOND, format_time, parse_time
from tests.detections import detection

ONSET_NS = parse_time("2024-05-06T23:58:30.25Z")
STATION = ("HHZ", "HHN", "HHE", "00.HNZ", "LHZ")


def seconds(value: float) -> int:
    return round(value * NS_PER_SECOND)


def records(
    from_s: float, to_s: float, *, codes: Iterable[str] = STATION, station: str = "ABC", step_s: float = 2.7
) -> list[RawRecord]:
    """Records of a station's channels, by seconds from the onset, in the order in which they would come."""
    return [record for record in _stream(tuple(codes), station, step_s) if _overlaps(record, from_s, to_s)]


def _overlaps(record: RawRecord, from_s: float, to_s: float) -> bool:
    return record.span.next_ns > ONSET_NS + seconds(from_s) and record.span.next_ns <= ONSET_NS + seconds(to_s)


@cache
def _stream(codes: tuple[str, ...], station: str, step_s: float) -> list[RawRecord]:
    splitter, found = RecordSplitter(), []
    rng = np.random.default_rng(len(codes))
    for code in codes:
        location, _, channel_code = code.rpartition(".")
        channel = ChannelId("XX", station, location, channel_code)
        slow = channel_code[0] == "L"
        rate, step = (1.0, 50.0) if slow else (100.0, step_s)
        for k in range(int(-300 // step), int(800 // step)):
            samples = rng.integers(-900, 900, round(step * rate)).astype(np.int32)
            segment = Segment(channel, ONSET_NS + seconds(k * step), rate, samples)
            for packet in encode(segment):
                found += splitter.split(packet.record, {channel})
    return sorted(found, key=lambda record: record.span.next_ns)


def told(state: str, revision: int, *, end_s: float | None = None, onset_s: float = 0.0, **more: object) -> Detection:
    fields = {
        "id": "XX.ABC-20240506T235830.2-0123abcd",
        "station": "XX.ABC",
        "state": state,
        "revision": revision,
        "onset": format_time(ONSET_NS + seconds(onset_s)),
        "end": None if end_s is None else format_time(ONSET_NS + seconds(end_s)),
    }
    return detection(**fields | more)


class FaultyDisk(Disk):
    """Fails with `number` while it is set; a write has then half succeeded."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.free: int | None = None

    def free_bytes(self, path: Path) -> int:
        return super().free_bytes(path) if self.free is None else self.free

    def make_directory(self, path: Path) -> None:
        self._fail(path)
        super().make_directory(path)

    def write_at(self, path: Path, offset: int, data: bytes) -> None:
        if self.number is not None:
            super().write_at(path, offset, data[: len(data) // 2])
        self._fail(path)
        super().write_at(path, offset, data)

    def _fail(self, path: Path) -> None:
        if self.number is not None:
            raise OSError(self.number, errno.errorcode[self.number], str(path))


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
