"""Files of the page and of the archive: what is served, and that nothing else ever is."""

import asyncio
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymseed import DataEncoding, MS3Record

from monitor.timebase import NS_PER_SECOND, format_time
from monitor.web.files import ARCHIVE_FILES, EventArchive, read_pieces, static_files
from monitor.web.thumb import thumb_of
from tests.detections import detection
from tests.station_page import quake
from tests.waveforms import T0

ID = "BW.UH3-20100527T162434.5-1a2b3c4d"


def archive_with(folder: Path, identifier: str = ID, day: str = "2010/05/27") -> Path:
    event = folder / day / identifier
    event.mkdir(parents=True)
    (event / "detection.json").write_bytes(msgspec.json.encode(detection(id=identifier)))
    (event / "waveforms.mseed").write_bytes(bytes(range(256)) * 1000)
    (event / "secret.txt").write_text("secret")
    return event


def read(archive: EventArchive, identifier: str, name: str) -> bytes | None:
    found = archive.find(identifier, name)
    if found is None:
        return None

    async def pieces() -> bytes:
        return b"".join([piece async for piece in read_pieces(found)])

    return asyncio.run(pieces())


@pytest.mark.parametrize("day", ["2010/05/27", "2010/05/26", "2010/05/28"])
def test_a_detection_is_found_by_its_id(tmp_path: Path, day: str) -> None:
    archive_with(tmp_path, day=day)
    archive = EventArchive(tmp_path)
    assert archive.files(ID) == {"detection.json": archive.find(ID, "detection.json").size, "waveforms.mseed": 256_000}  # type: ignore[union-attr]
    assert read(archive, ID, "waveforms.mseed") == bytes(range(256)) * 1000
    assert archive.detection(ID) == detection(id=ID)
    assert [d.id for d in archive.newest(10)] == [ID]


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        (ID, "secret.txt"),
        (ID, "../waveforms.mseed"),
        (ID, ""),
        (ID + "/..", "detection.json"),
        ("../" + ID, "detection.json"),
        ("..", "detection.json"),
        ("", "detection.json"),
        (ID.replace("1a2b", "xxxx"), "detection.json"),
        (ID.replace("20100527", "20101399"), "detection.json"),
        (ID.replace("20100527", "00000000"), "detection.json"),
        (ID + "\n", "detection.json"),
        (ID.replace("UH3", "UH3%2e"), "detection.json"),
        ("B\x00.UH3-20100527T162434.5-1a2b3c4d", "detection.json"),
    ],
)
def test_nothing_else_is_served(tmp_path: Path, identifier: str, name: str) -> None:
    archive_with(tmp_path)
    assert EventArchive(tmp_path).find(identifier, name) is None


def test_links_are_not_followed(tmp_path: Path) -> None:
    event = archive_with(tmp_path / "events")
    (tmp_path / "outside").write_text("secret")
    (event / "event.png").symlink_to(tmp_path / "outside")
    other = ID.replace("UH3", "UH4")
    (event.parent / other).symlink_to(event)
    archive = EventArchive(tmp_path / "events")
    assert archive.find(ID, "event.png") is None
    assert archive.find(other, "detection.json") is None


@given(st.text(max_size=60), st.sampled_from(sorted(ARCHIVE_FILES)))
def test_no_text_leads_out_of_the_archive(identifier: str, name: str) -> None:
    assert EventArchive(Path("/proc/self")).find(identifier, name) is None


def test_damaged_and_strange_folders_are_passed_over(tmp_path: Path) -> None:
    archive_with(tmp_path)
    damaged = archive_with(tmp_path, ID.replace("1a2b3c4d", "deadbeef"))
    (damaged / "detection.json").write_text("{")
    swapped = archive_with(tmp_path, ID.replace("1a2b3c4d", "12345678"))
    (swapped / "detection.json").write_bytes(msgspec.json.encode(detection(id="another")))
    (tmp_path / "2010" / "99").mkdir()
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "2010" / "05" / "27" / "<img src=x>").mkdir()
    assert [d.id for d in EventArchive(tmp_path).newest(10)] == [ID]
    assert EventArchive(tmp_path / "absent").newest(10) == []


def test_the_newest_come_first(tmp_path: Path) -> None:
    ids = [
        f"BW.UH{n}-2010{month}27T16{minute}34.5-1a2b3c4d"
        for n, month, minute in ((1, "04", 10), (2, "05", 11), (1, "05", 12))
    ]
    for identifier, day in zip(ids, ("2010/04/27", "2010/05/27", "2010/05/27"), strict=True):
        archive_with(tmp_path, identifier, day)
    assert [d.id for d in EventArchive(tmp_path).newest(10)] == ids[::-1]
    assert [d.id for d in EventArchive(tmp_path).newest(1)] == ids[2:]


def test_a_file_that_goes_away_is_empty(tmp_path: Path) -> None:
    event = archive_with(tmp_path)
    archive = EventArchive(tmp_path)
    found = archive.find(ID, "waveforms.mseed")
    (event / "waveforms.mseed").unlink()
    assert found is not None
    assert asyncio.run(_all(found)) == []


async def _all(found: object) -> list[bytes]:
    return [piece async for piece in read_pieces(found)]  # type: ignore[arg-type]


def test_the_page_is_small_and_stands_alone() -> None:
    files = static_files()
    assert sum(len(file.plain) for file in files.values()) < 200_000
    for name, file in files.items():
        text = file.plain.decode()
        for foreign in ("http://", "https://", "//cdn", "@import"):
            left = text.replace("http://www.w3.org/2000/svg", "")
            assert foreign not in left, (name, foreign)
        for unsafe in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert unsafe not in text, (name, unsafe)
    index = files["index.html"].plain.decode()
    assert "style=" not in index
    assert "<style" not in index
    assert 'script type="module" src=' in index
    assert " onclick" not in index


def test_small_pictures_come_from_the_records(tmp_path: Path) -> None:
    (vertical, *_) = recording = quake(p_s=40.0, seconds=80.0)
    found = detection(
        id=ID, seed_ids=["XX.ABC..HHX", "XX.ABC..HHZ"], onset=format_time(T0 + 40 * NS_PER_SECOND), station="XX.ABC"
    )
    event = archive_with(tmp_path)
    archive = EventArchive(tmp_path)
    assert archive.thumb(found) == []  # what is there is no record
    with (event / "waveforms.mseed").open("wb") as file:
        for segment in recording:
            record = MS3Record()
            record.sourceid = f"FDSN:XX_ABC__H_H_{segment.channel_id.channel[-1]}"
            record.samprate, record.starttime = 100.0, segment.starttime_ns
            record.encoding = DataEncoding.STEIM2
            file.writelines(bytes(piece) for piece in record.generate(segment.samples, "i"))
    thumb = archive.thumb(found)
    wave = vertical.samples[3600:6000].astype(np.float32)
    assert thumb == thumb_of(wave, 100.0)
    assert len(thumb) == 240
    strongest = max(range(0, 240, 2), key=lambda at: thumb[at + 1] or 0)
    assert 38 <= strongest <= 60  # a sixth into it, or the S four seconds later
    assert archive.thumb(detection(id=ID, seed_ids=[])) == []
    assert archive.thumb(detection(id="another")) == []
