"""The continuous archive: every record once, in its day's file, within its limits."""

import errno
from datetime import UTC, datetime
from pathlib import Path

import pytest

from monitor.archive import sds as sds_module
from monitor.archive.layout import sds_day, sds_path
from monitor.archive.record import RawRecord, RecordSplitter
from monitor.archive.sds import SdsArchive
from monitor.records import ChannelId
from monitor.settings import ArchiveSettings
from tests.archive_records import ONSET_NS, FaultyDisk, files, records, seconds

# Midnight comes 89.75 s after the onset.
SOURCE = records(-200, 400)
SETTINGS = ArchiveSettings(sds=True)


def started(root: Path, settings: ArchiveSettings = SETTINGS, disk: FaultyDisk | None = None) -> SdsArchive:
    archive = SdsArchive(root, settings, disk=disk or FaultyDisk())
    archive.start(0)
    return archive


def give(archive: SdsArchive, source: list[RawRecord], *, now_ns: int | None = ONSET_NS) -> None:
    for first in range(0, len(source), 50):
        archive.take(source[first : first + 50])
        archive.flush(now_ns)


def expected(source: list[RawRecord]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for record in source:
        network, station, location, code = record.span.channel
        day = datetime.fromtimestamp(record.span.start_ns // 10**9, UTC)
        name = f"{network}.{station}.{location}.{code}.D.{day:%Y.%j}"
        path = f"{day:%Y}/{network}/{station}/{code}.D/{name}"
        found[path] = found.get(path, b"") + record.data
    return found


def test_each_record_is_in_the_file_of_the_day_in_which_it_starts(tmp_path: Path) -> None:
    archive = started(tmp_path)
    give(archive, SOURCE)
    assert files(tmp_path) == expected(SOURCE)
    assert "2024/XX/ABC/HHZ.D/XX.ABC..HHZ.D.2024.127" in expected(SOURCE)
    assert "2024/XX/ABC/HHZ.D/XX.ABC..HHZ.D.2024.128" in expected(SOURCE)
    assert "2024/XX/ABC/HNZ.D/XX.ABC.00.HNZ.D.2024.127" in expected(SOURCE)
    crossing = [r for r in SOURCE if r.span.start_ns < ONSET_NS + seconds(89.75) < r.span.next_ns]
    assert len({r.span.channel for r in crossing}) == 5
    assert (archive.records, archive.lost, archive.deleted) == (len(SOURCE), 0, 0)


@pytest.mark.parametrize("tail_bytes", [64 * 1024, 4096, 700])
def test_after_a_restart_what_comes_again_is_left_out(
    tmp_path: Path, tail_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sds_module, "_TAIL_BYTES", tail_bytes)
    half = len(SOURCE) // 2
    give(started(tmp_path), SOURCE[:half])
    for path in tmp_path.rglob("*.D.*"):
        with path.open("ab") as stream:
            stream.write(SOURCE[0].data[:-1])  # torn off
    give(started(tmp_path), SOURCE[half - 200 :])
    assert files(tmp_path) == expected(SOURCE)
    give(started(tmp_path), SOURCE)
    assert files(tmp_path) == expected(SOURCE)


def test_late_records_are_appended_as_they_arrive(tmp_path: Path) -> None:
    late = SOURCE[100:120]
    archive = started(tmp_path)
    arrived = [*SOURCE[:100], *SOURCE[120:], *late]
    give(archive, arrived)
    give(archive, late)
    assert files(tmp_path) == expected(arrived)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_nothing_for_a_while(tmp_path: Path, number: int) -> None:
    disk = FaultyDisk()
    archive = started(tmp_path, disk=disk)
    give(archive, SOURCE[:200])
    disk.number = number
    archive.take(SOURCE[200:300])
    for _ in range(3):
        with pytest.raises(OSError, match=errno.errorcode[number]):
            archive.flush(ONSET_NS)
    disk.number = None
    give(archive, SOURCE[250:])
    assert files(tmp_path) == expected(SOURCE)
    assert archive.lost == 0


def test_what_waits_for_the_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sds_module, "MOST_PENDING_BYTES", 20_000)
    archive = started(tmp_path)
    for record in SOURCE[:100]:
        archive.take([record])
        archive.limit_pending()
        assert archive._pending_bytes <= 20_000
    assert archive.lost > 50


def day(root: Path, number: int, *, nbytes: int = 260_000) -> Path:
    path = sds_path(root, ChannelId("XX", "ABC", "", "HHZ"), ONSET_NS + seconds(number * 86400))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(nbytes))
    return path


def test_the_oldest_days_are_deleted(tmp_path: Path) -> None:
    days = [day(tmp_path, number) for number in (-130, -4, -3, -2, -1)]
    archive = started(tmp_path, ArchiveSettings(sds=True, sds_max_bytes=1024 * 1024, sds_max_age_s=86400.0))
    give(archive, SOURCE[:50], now_ns=None)
    assert [path.exists() for path in days] == [False, False, True, True, True]
    assert not (tmp_path / "2023").exists()
    assert archive.nbytes <= 1024 * 1024
    give(archive, SOURCE[50:60])
    assert [path.exists() for path in days] == [False] * 4 + [True]
    # What is too old already is not begun.
    give(archive, SOURCE[:60], now_ns=ONSET_NS + seconds(3 * 86400))
    assert files(tmp_path) == {}


def test_where_one_day_is_too_much_the_rest_of_it_is_given_up(tmp_path: Path) -> None:
    day(tmp_path, 0, nbytes=1024 * 1024)
    before = files(tmp_path)
    archive = started(tmp_path, ArchiveSettings(sds=True, sds_max_bytes=1024 * 1024))
    give(archive, SOURCE[:50])
    assert files(tmp_path) == before
    assert archive.lost == 50


def test_a_file_that_somebody_removes_is_begun_anew(tmp_path: Path) -> None:
    one = [record for record in SOURCE if record.span.channel.channel == "HHZ"][:60]
    archive = started(tmp_path)
    give(archive, one[:30])
    for path in tmp_path.rglob("*.D.*"):
        path.unlink()
    archive.take(one[30:])
    with pytest.raises(FileNotFoundError):
        archive.flush(ONSET_NS)
    archive.flush(ONSET_NS)
    assert files(tmp_path) == expected(one[30:])


@pytest.mark.parametrize("code", ["..", "/etc", "a/b", ".", "", "*", "A.B"])
def test_codes_from_outside_do_not_leave_the_folder(tmp_path: Path, code: str) -> None:
    path = sds_path(tmp_path, ChannelId(code, code, code, code), ONSET_NS)
    assert len(path.relative_to(tmp_path).parts) == 5
    assert ".." not in path.parts
    assert "/" not in path.name
    assert path.name.count(".") == 6
    assert sds_day(path) == (2024, 127)


def test_bytes_that_are_no_records_are_left_out() -> None:
    splitter = RecordSplitter()
    wanted = {SOURCE[0].span.channel}
    damaged = bytearray(SOURCE[0].data)
    damaged[0:8] = b"\xff" * 8
    assert splitter.split(bytes(damaged), wanted) == []
    assert splitter.split(b"", wanted) == []
    (found,) = splitter.split(SOURCE[0].data + bytes(damaged), wanted)
    assert found.data == SOURCE[0].data
    assert splitter.split(SOURCE[0].data, set()) == []
