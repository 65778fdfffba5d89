"""Records told alike by comparing bytes, against parsing each."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymseed import DataEncoding, MS3Record

from monitor.records import ChannelId
from monitor.sources.alike import FEWEST, Alike
from monitor.sources.index import Chunk, Contents, Index
from monitor.sources.miniseed import DecodedRecord, RecordHeader, RecordParser, fault_of, is_log
from monitor.sources.runs import Run, join_records
from monitor.timebase import NS_PER_SECOND, parse_time

START_NS = parse_time("2023-12-30T23:50:00.1234Z")
CHANNEL = ChannelId("BW", "UH1", "", "EHZ")
LENGTH = 256


def make(
    npts: int,
    *,
    start_ns: int = START_NS,
    code: str = "Z",
    encoding: int = DataEncoding.STEIM2,
    dtype: str = "i4",
    version: int = 2,
    length: int = LENGTH,
    seed: int = 0,
) -> list[bytearray]:
    samples = np.cumsum(np.random.default_rng(seed).integers(-900, 900, npts)).astype(dtype)
    record = MS3Record()
    record.sourceid, record.starttime, record.samprate = f"FDSN:BW_UH1__E_H_{code}", start_ns, 100.0
    record.encoding, record.reclen, record.formatversion = encoding, length, version
    kind = {"i4": "i", "f4": "f", "f8": "d"}[dtype]
    return [bytearray(one) for one in record.generate(data_samples=samples, sample_type=kind)]


def headers(content: bytes, *, alike: bool) -> tuple[list[RecordHeader], list[tuple[int, str]]]:
    """Headers and problems; where records are alike, of each of them."""
    problems: list[tuple[int, str]] = []

    def read_at(offset: int, size: int) -> bytes:
        return content[offset : offset + size]

    def report(offset: int, message: str) -> None:
        problems.append((offset, message))

    found = []
    for header in RecordParser().headers(read_at, len(content), report, alike=alike):
        found += apart(header)
    return found, problems


def apart(header: RecordHeader) -> list[RecordHeader]:
    if header.alike is None:
        return [header]
    assert len(header.alike.npts) >= FEWEST
    pairs = zip(header.alike.starttimes_ns.tolist(), header.alike.npts.tolist(), strict=True)
    return [
        header._replace(offset=header.offset + i * header.length, starttime_ns=start, npts=npts, alike=None)
        for i, (start, npts) in enumerate(pairs)
    ]


def runs(content: bytes, *, alike: bool) -> tuple[list[tuple[Any, ...]], list[tuple[int, str]]]:
    """Joined samples and problems."""
    problems: list[tuple[int, str]] = []

    def select(header: RecordHeader) -> ChannelId | None:
        usable = not is_log(header) and fault_of(header) is None
        return ChannelId("BW", "UH1", "", header.sourceid.decode("latin-1")[-5:].replace("_", "")) if usable else None

    def report(offset: int, message: str) -> None:
        problems.append((offset, message))

    decoded = RecordParser().decode(content, 0, select, report, alike=alike)
    found: list[Run] = list(join_records(decoded, start_ns=None, end_ns=None, coalesce=True))
    return [
        (run.offset, run.segment.channel_id, run.segment.starttime_ns, run.segment.samples.tobytes()) for run in found
    ], problems


def given_at_once(content: bytes) -> int:
    """How many records are not parsed one by one."""

    def read_at(offset: int, size: int) -> bytes:
        return content[offset : offset + size]

    given = RecordParser().headers(read_at, len(content), lambda *_: None, alike=True)
    return sum(len(header.alike.npts) for header in given if header.alike)


@pytest.mark.parametrize("length", [256, 512, 4096])
def test_most_records_are_not_parsed_one_by_one(length: int) -> None:
    content = b"".join(make(60_000, length=length))
    assert given_at_once(content) == len(content) // length


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("encoding", "dtype"),
    [
        (DataEncoding.STEIM1, "i4"),
        (DataEncoding.STEIM2, "i4"),
        (DataEncoding.INT16, "i4"),
        (DataEncoding.INT32, "i4"),
        (DataEncoding.FLOAT32, "f4"),
        (DataEncoding.FLOAT64, "f8"),
    ],
)
def test_any_encoding(encoding: int, dtype: str, version: int) -> None:
    samples = 5_000 if encoding != DataEncoding.INT16 else 900
    content = b"".join(make(samples, encoding=encoding, dtype=dtype, version=version))
    assert headers(content, alike=True) == headers(content, alike=False)
    assert runs(content, alike=True) == runs(content, alike=False)


# Any byte of the header may be damaged or unusual: sequence, channel, time, counts, rate, flags, blockettes.
damage = st.lists(st.tuples(st.integers(0, 35), st.integers(0, 70), st.integers(0, 255)), max_size=3)


@settings(max_examples=300, deadline=None)
@given(
    damage=damage,
    sizes=st.lists(st.integers(300, 4000), min_size=1, max_size=3),
    late_ns=st.sampled_from([0, 0, 60_000, 100_000, 900_000, -3_000_000_000, 5_000_000_000]),
    all_of_them=st.booleans(),
)
def test_whatever_is_in_the_headers(
    damage: list[tuple[int, int, int]], sizes: list[int], late_ns: int, all_of_them: bool
) -> None:
    """Runs of several channels, of which bytes are changed in one record, or in all."""
    records: list[bytearray] = []
    for number, size in enumerate(sizes):
        records += make(size, code="ZNE"[number % 2], start_ns=START_NS + number * late_ns, seed=number)
    for at, byte, value in damage:
        for record in records if all_of_them else records[at : at + 1]:
            record[byte] = value
    content = b"".join(records)
    assert headers(content, alike=True) == headers(content, alike=False)
    assert runs(content, alike=True) == runs(content, alike=False)


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 30), byte=st.integers(64, LENGTH - 1), value=st.integers(0, 255), zeroed=st.booleans())
def test_whatever_is_in_the_samples(at: int, byte: int, value: int, zeroed: bool) -> None:
    records = make(4000)
    if zeroed:  # an encoder that does not note the last sample
        for record in records:
            record[72:76] = bytes(4)
    records[at % len(records)][byte] = value
    content = b"".join(records)
    assert runs(content, alike=True) == runs(content, alike=False)


@pytest.mark.parametrize("alike", [True, False])
def test_a_warning_of_the_header_is_not_taken_for_wrong_samples(alike: bool) -> None:
    records = make(4000)
    for record in records:
        record[39] = 3  # claims more blockettes than there are
    ((_, _, _, samples),), problems = runs(b"".join(records), alike=alike)
    assert (len(samples), problems) == (4 * 4000, [])


@pytest.mark.parametrize("microseconds", [-50, 0, 7, 49])
@pytest.mark.parametrize("correction", [0, 5])
def test_blockette_1001_and_a_time_correction(microseconds: int, correction: int) -> None:
    records = make(4000)
    for number, record in enumerate(records):
        record[39] = 2
        record[50:52] = (56).to_bytes(2, "big")
        record[56:60] = (1001).to_bytes(2, "big") + bytes(2)
        record[60:64] = bytes([100, (microseconds - number) % 256, 0, 3])
        record[40:44] = correction.to_bytes(4, "big")
    content = b"".join(records)
    found, problems = headers(content, alike=True)
    assert (found, problems) == headers(content, alike=False)
    assert problems == []
    ends = [header.starttime_ns // 1000 % 100 for header in found]
    assert ends == [(microseconds - number) % 100 for number in range(len(records))]
    assert given_at_once(content) == (len(records) if not correction else 0)


@pytest.mark.parametrize("npts", [0, 1, 2 * LENGTH, 2 * LENGTH + 1, 65_535])
def test_a_record_that_claims_too_many_samples_or_none(npts: int) -> None:
    records = make(8000)
    records[12][30:32] = npts.to_bytes(2, "big")
    content = b"".join(records)
    assert headers(content, alike=True) == headers(content, alike=False)
    assert runs(content, alike=True) == runs(content, alike=False)
    usual = 0 < npts <= 2 * LENGTH
    assert given_at_once(content) == len(records) - (0 if usual else FEWEST)


@pytest.mark.parametrize("year", [1969, 1970, 2000, 2024, 2049, 2050, 2056])
@pytest.mark.parametrize("day", [1, 59, 60, 365, 366])
def test_any_day(year: int, day: int) -> None:
    records = make(4000)
    for record in records:
        record[20:24] = year.to_bytes(2, "big") + day.to_bytes(2, "big")
    content = b"".join(records)
    assert headers(content, alike=True) == headers(content, alike=False)


def contents_and_chunks(index: Index) -> tuple[Contents, list[Chunk], list[list[int]]]:
    index.close_chunk()
    return index.contents(), list(index.chunks()), [list(column) for column in index._extents]


@settings(max_examples=100)
@given(
    blocks=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.lists(
                st.tuples(st.sampled_from([0, 1, 430, 431, 40_000]), st.sampled_from([1, 430, 431])),
                min_size=1,
                max_size=40,
            ),
            st.sampled_from([512, 4096, 65_536]),
        ),
        max_size=5,
    ),
    span=st.sampled_from([(None, None), (10, None), (None, 90), (20, 30)]),
)
def test_an_index_of_records_alike_is_that_of_each(
    blocks: Sequence[tuple[int, list[tuple[int, int]], int]], span: tuple[int | None, int | None]
) -> None:
    start_ns, end_ns = (None if s is None else START_NS + s * NS_PER_SECOND for s in span)
    together, apart = (Index(start_ns=start_ns, end_ns=end_ns) for _ in range(2))
    offset = 0
    for source, (component, steps, length) in enumerate(blocks):
        channel = CHANNEL._replace(channel="EH" + "ZNE"[component])
        starts: npt.NDArray[np.int64] = START_NS + np.cumsum([step for step, _ in steps]) * 10_000_000
        npts = np.array([count for _, count in steps])
        where = {"source": source // 2, "offset": offset, "length": length}
        together.add_alike(channel, Alike(starts, npts), 100.0, **where)
        for start, count in zip(starts.tolist(), npts.tolist(), strict=True):
            apart.add(channel, start, 100.0, count, source=source // 2, offset=offset, length=length)
            offset += length
    assert contents_and_chunks(together) == contents_and_chunks(apart)


def test_one_decoded_record_stands_for_many() -> None:
    content = b"".join(make(4000))
    decoded: list[DecodedRecord] = list(
        RecordParser().decode(content, 0, lambda _: CHANNEL, lambda *_: None, alike=True)
    )
    assert len(decoded) == 1
    assert len(np.frombuffer(decoded[0].content, decoded[0].dtype)) == 4000
