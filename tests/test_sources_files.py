"""Files to segments: any layout gives the same samples, and bad input is told, never fatal."""

import bz2
import gzip
import io
import os
import random
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import obspy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from obspy import Stream, Trace, UTCDateTime
from pymseed import DataEncoding, MS3Record

from monitor.records import ChannelId, Segment
from monitor.sources import foreign, inputs
from monitor.sources.files import Contents, FileSource, Problem
from monitor.sources.index import MAX_CHUNK_BYTES, MAX_CHUNK_SPAN_NS
from monitor.sources.miniseed import RecordParser
from monitor.sources.runs import MAX_SEGMENT_NS
from monitor.timebase import NS_PER_SECOND, parse_time

# The user with no rights on Debian and elsewhere.
_NOBODY = 65534

START_NS = parse_time("2010-05-27T16:24:03Z")
Z, N, E = (ChannelId("BW", "UH1", "", f"EH{code}") for code in "ZNE")
DESCRIPTORS = Path("/proc/self/fd")
SLIST = Path(obspy.__file__).parent / "signal/tests/data"


def counts(npts: int, seed: int = 0) -> npt.NDArray[np.int32]:
    return np.cumsum(np.random.default_rng(seed).integers(-90, 90, npts)).astype(np.int32)


def records(
    samples: "npt.NDArray[Any] | str",
    channel: ChannelId = Z,
    *,
    starttime_ns: int = START_NS,
    rate: float = 100.0,
    encoding: int = DataEncoding.STEIM2,
    length: int = 512,
    version: int = 2,
) -> list[bytes]:
    record = MS3Record()
    record.sourceid = "FDSN:{}_{}_{}_{}_{}_{}".format(*channel[:3], *channel.channel)
    record.starttime, record.samprate = starttime_ns, rate
    record.encoding, record.reclen, record.formatversion = encoding, length, version
    kind = "t" if isinstance(samples, str) else {"i4": "i", "f4": "f", "f8": "d"}[samples.dtype.str[1:]]
    return list(record.generate(data_samples=samples, sample_type=kind))


def with_obspy(samples: npt.NDArray[Any], path: Path, **options: Any) -> Path:
    trace = Trace(samples, {"network": "BW", "station": "UH1", "channel": "EHZ", "sampling_rate": 100.0})
    trace.stats.starttime = UTCDateTime(ns=START_NS)
    trace.write(str(path), **{"format": "MSEED", **options})
    return path


class Reading:
    """What came out of some files."""

    def __init__(self, *paths: "Path | str", **options: Any) -> None:
        self.problems: list[Problem] = []
        self.source = FileSource([str(path) for path in paths], on_problem=self.problems.append, **options)
        self.contents: Contents = self.source.scan()
        self.segments: list[Segment] = list(self.source)
        starts = [segment.starttime_ns for segment in self.segments]
        assert starts == sorted(starts)

    @property
    def messages(self) -> list[str]:
        return [str(problem) for problem in self.problems]

    def samples(self, channel: ChannelId = Z) -> npt.NDArray[Any]:
        parts = [segment.samples for segment in self.segments if segment.channel_id == channel]
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)


def write(path: Path, parts: Iterable[bytes]) -> Path:
    path.write_bytes(b"".join(parts))
    return path


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("byteorder", [">", "<"])
@pytest.mark.parametrize("length", [256, 512, 4096])
@pytest.mark.parametrize(
    ("encoding", "dtype"),
    [
        ("STEIM1", np.int32),
        ("STEIM2", np.int32),
        ("INT16", np.int32),
        ("INT32", np.int32),
        ("FLOAT32", np.float32),
        ("FLOAT64", np.float64),
    ],
)
def test_miniseed_2_of_any_encoding_record_length_and_byte_order(
    tmp_path: Path, encoding: str, dtype: Any, length: int, byteorder: str
) -> None:
    samples = counts(3000).astype(np.int16 if encoding == "INT16" else dtype)
    path = with_obspy(samples, tmp_path / "x", encoding=encoding, reclen=length, byteorder=byteorder)
    reading = Reading(path)
    assert reading.problems == []
    assert reading.samples().dtype == dtype
    np.testing.assert_array_equal(reading.samples(), samples)
    assert reading.contents.channels[Z].first_ns == START_NS
    assert reading.contents.channels[Z].last_ns == START_NS + 2999 * 10_000_000
    assert reading.contents.channels[Z].sampling_rates == (100.0,)
    assert reading.contents.channels[Z].npts == 3000
    assert reading.contents.record_bytes == path.stat().st_size


@pytest.mark.parametrize(("encoding", "dtype"), [(11, np.int32), (4, np.float32), (5, np.float64)])
def test_miniseed_3(tmp_path: Path, encoding: int, dtype: Any) -> None:
    samples = counts(5000).astype(dtype)
    reading = Reading(write(tmp_path / "x", records(samples, encoding=encoding, version=3)))
    assert reading.problems == []
    assert reading.samples().dtype == dtype
    np.testing.assert_array_equal(reading.samples(), samples)


def test_both_versions_and_all_record_lengths_in_one_file(tmp_path: Path) -> None:
    samples = counts(9000)
    parts = [
        *records(samples[:3000], length=128),
        *records(samples[3000:6000], starttime_ns=START_NS + 30 * NS_PER_SECOND, version=3, length=4096),
        *records(samples[6000:], starttime_ns=START_NS + 60 * NS_PER_SECOND, length=512),
    ]
    reading = Reading(write(tmp_path / "x", parts))
    assert reading.problems == []
    np.testing.assert_array_equal(reading.samples(), samples)


def test_a_record_longer_than_a_block(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(size=700_000)
    (record,) = records(samples, encoding=DataEncoding.FLOAT64, length=8_000_000, version=3)
    first = records(counts(100), starttime_ns=START_NS - NS_PER_SECOND, encoding=DataEncoding.INT32)
    reading = Reading(write(tmp_path / "x", [*first, record]))
    assert reading.problems == []
    np.testing.assert_array_equal(reading.segments[-1].samples, samples)


def test_continuing_records_are_joined_up_to_a_minute(tmp_path: Path) -> None:
    reading = Reading(write(tmp_path / "x", records(counts(60_000), length=128)))
    lengths = [segment.npts for segment in reading.segments]
    assert max(lengths) * NS_PER_SECOND <= MAX_SEGMENT_NS * 100
    assert len(lengths) < 30


def test_gaps_overlaps_and_rate_changes_are_kept_apart(tmp_path: Path) -> None:
    samples = counts(200)
    second = NS_PER_SECOND
    parts = [
        *records(samples, starttime_ns=START_NS),
        *records(samples, starttime_ns=START_NS + 3 * second),  # a gap of 1 s
        *records(samples, starttime_ns=START_NS + 4 * second),  # an overlap of 1 s
        *records(samples, starttime_ns=START_NS + 6 * second, rate=50.0),
    ]
    reading = Reading(write(tmp_path / "x", parts))
    assert [segment.sampling_rate for segment in reading.segments] == [100.0, 100.0, 100.0, 50.0]
    assert [segment.starttime_ns - START_NS for segment in reading.segments] == [0, 3 * second, 4 * second, 6 * second]
    assert reading.contents.channels[Z].sampling_rates == (100.0, 50.0)


def test_a_drifting_clock_reaches_the_pipeline_record_by_record(tmp_path: Path) -> None:
    parts = [records(counts(100), starttime_ns=START_NS + k * (NS_PER_SECOND + 300_000))[0] for k in range(5)]
    assert len(Reading(write(tmp_path / "x", parts)).segments) == 5


def test_rates_below_one_hertz(tmp_path: Path) -> None:
    reading = Reading(write(tmp_path / "x", records(counts(300), rate=0.1)))
    assert reading.segments[0].sampling_rate == pytest.approx(0.1)
    assert sum(segment.npts for segment in reading.segments) == 300


def test_nan_and_infinity_pass(tmp_path: Path) -> None:
    samples = np.array([1.0, np.nan, np.inf, -np.inf] * 50, np.float32)
    reading = Reading(write(tmp_path / "x", records(samples, encoding=DataEncoding.FLOAT32)))
    np.testing.assert_array_equal(reading.samples(), samples)
    assert reading.problems == []


def test_location_and_long_codes(tmp_path: Path) -> None:
    channel = ChannelId("NETWORK", "STATION", "LOC", "HHZ")
    reading = Reading(write(tmp_path / "x", records(counts(10), channel, version=3)))
    assert reading.segments[0].channel_id == channel


# --- the same data, however it lies in files --------------------------------------------------------------------------

LAYOUT_SAMPLES = {channel: counts(4000, seed) for seed, channel in enumerate((Z, N, E))}
LAYOUT_RECORDS = [
    record for channel, samples in LAYOUT_SAMPLES.items() for record in records(samples, channel, length=256)
]


@given(seed=st.integers(0, 2**32), files=st.integers(1, 5), disorder=st.sampled_from(["none", "channels", "all"]))
def test_any_layout_gives_the_same_samples(
    tmp_path_factory: pytest.TempPathFactory, seed: int, files: int, disorder: str
) -> None:
    rng, parts = random.Random(seed), list(LAYOUT_RECORDS)
    if disorder == "all":
        rng.shuffle(parts)
    elif disorder == "channels":  # multiplexed: each channel in order of time
        places = sorted(range(len(parts)), key=lambda place: (place % (len(parts) // 3), rng.random()))
        parts = [parts[place] for place in places]
    top = tmp_path_factory.mktemp("layout")
    for number in range(files):
        write(top / f"{rng.random()}-{number}", parts[number::files] if rng.random() < 0.5 else [])
    left = [record for record in parts if not any(record in path.read_bytes() for path in top.iterdir())]
    write(top / "rest", left)
    reading = Reading(*(path for path in top.iterdir() if path.stat().st_size))
    assert reading.problems == []
    for channel, samples in LAYOUT_SAMPLES.items():
        np.testing.assert_array_equal(reading.samples(channel), samples)
    assert sum(channel.records for channel in reading.contents.channels.values()) == len(parts)


@given(seed=st.integers(0, 2**32))
def test_contradicting_overlaps_come_in_the_same_order_from_any_layout(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    first = records(counts(3000, 1), length=256)
    shifted = records(counts(3000, 2), starttime_ns=START_NS + 1_230_000_000, length=256)
    expected = None
    top, rng = tmp_path_factory.mktemp("overlap"), random.Random(seed)
    mixed = [*first, *shifted]
    rng.shuffle(mixed)
    for parts in ([*first, *shifted], [*shifted, *first], mixed):
        samples = Reading(write(top / "x", parts)).samples()
        expected = samples if expected is None else expected
        np.testing.assert_array_equal(samples, expected)
    half = len(mixed) // 2
    samples = Reading(write(top / "a", mixed[:half]), write(top / "b", mixed[half:])).samples()
    np.testing.assert_array_equal(samples, expected)


def test_channel_after_channel_files_come_aligned_in_time(tmp_path: Path) -> None:
    parts = [record for channel in (Z, N, E) for record in records(counts(100_000), channel)]
    reading = Reading(write(tmp_path / "x", parts))
    latest: dict[ChannelId, int] = {}
    for segment in reading.segments:
        latest[segment.channel_id] = segment.starttime_ns
        assert max(latest.values()) - min(latest.values()) <= 3 * MAX_SEGMENT_NS
    assert len(latest) == 3


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak_bytes(repeats: int) -> int:
        path = tmp_path / f"{repeats}"
        with path.open("wb") as file:
            for channel in (Z, N, E):
                for number in range(repeats):
                    start_ns = START_NS + number * 300 * NS_PER_SECOND
                    file.writelines(records(counts(30_000), channel, starttime_ns=start_ns))
        tracemalloc.start()
        for _ in FileSource([str(path)], on_problem=print):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    small, large = peak_bytes(24), peak_bytes(72)
    assert large - small < 1_000_000  # the file grew by some 6 MB, its samples by 17 MB
    assert large < 8_000_000


def test_more_files_than_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "MAX_OPEN_FILES", 2)
    pieces = [records(counts(50, k), starttime_ns=START_NS + k * NS_PER_SECOND) for k in range(9)]
    for number, piece in enumerate(pieces):
        write(tmp_path / str(number), piece)
    before = len(list(DESCRIPTORS.iterdir())) if DESCRIPTORS.exists() else 0
    source = FileSource([str(tmp_path)], on_problem=print)
    source.scan()
    most = 0
    for _ in source:
        most = max(most, len(source._reader._files))
    assert most <= 2
    assert sum(segment.npts for segment in source) == 450
    if before:
        assert len(list(DESCRIPTORS.iterdir())) <= before


# --- what is selected -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset_ns", [0, 1, -1, 3_333_333])
def test_time_span_is_exact_to_the_sample(tmp_path: Path, offset_ns: int) -> None:
    samples = counts(60_000)
    path = write(tmp_path / "x", records(samples))
    times = START_NS + np.arange(60_000) * 10_000_000
    start_ns, end_ns = START_NS + 200 * NS_PER_SECOND + offset_ns, START_NS + 333 * NS_PER_SECOND + offset_ns
    reading = Reading(path, start_ns=start_ns, end_ns=end_ns)
    wanted = (times >= start_ns) & (times < end_ns)
    np.testing.assert_array_equal(reading.samples(), samples[wanted])
    assert reading.segments[0].starttime_ns == times[wanted][0]
    assert reading.contents.channels[Z].first_ns == times[wanted][0]
    assert reading.contents.channels[Z].last_ns == times[wanted][-1]
    assert reading.contents.channels[Z].npts == wanted.sum()


def test_time_span_between_two_samples(tmp_path: Path) -> None:
    path = write(tmp_path / "x", records(counts(100)))
    reading = Reading(path, start_ns=START_NS + 1, end_ns=START_NS + 2)
    assert (reading.segments, reading.contents.channels, reading.problems) == ([], {}, [])
    assert reading.contents.span_s == 0.0


def test_chunks_and_channels_that_are_not_wanted_are_not_decoded(tmp_path: Path) -> None:
    good = records(counts(60_000))
    spoiled = [record[:64] + b"\xff" * (len(record) - 64) for record in good]
    other = records(counts(60_000), N)
    spoiled_other = [record[:64] + b"\xff" * (len(record) - 64) for record in other]
    half = len(good) // 2
    path = write(tmp_path / "x", [*good[:half], *spoiled[half:], *spoiled_other])
    reading = Reading(path, end_ns=START_NS + 200 * NS_PER_SECOND, select=lambda channel: channel == Z)
    assert reading.problems == []
    np.testing.assert_array_equal(reading.samples(), counts(60_000)[:20_000])
    assert list(reading.contents.channels) == [Z]


# --- where it comes from ----------------------------------------------------------------------------------------------


def test_directories_are_searched_in_order_without_hidden_and_side_files(tmp_path: Path) -> None:
    (tmp_path / "2010/BW/UH1/EHZ.D").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    write(tmp_path / ".git/x", records(counts(100)))
    write(tmp_path / ".hidden", records(counts(100)))
    write(tmp_path / "2010/BW/UH1/EHZ.D/BW.UH1..EHZ.D.2010.147", records(counts(100)))
    write(tmp_path / "2010/recording.csv", records(counts(100), N))  # miniSEED, whatever its name
    for name in ("README.txt", "station.xml", "catalog.json", "notes.csv"):
        (tmp_path / name).write_text("no waveform\n")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "2010/again").symlink_to(tmp_path)
    reading = Reading(tmp_path)
    assert reading.problems == []
    assert sorted(reading.contents.channels) == [N, Z]
    assert [segment.npts for segment in reading.segments] == [100, 100]


def test_the_same_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x", records(counts(100)))
    (tmp_path / "link").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    reading = Reading(path, "x", "./x", "link", tmp_path, ".")
    assert reading.problems == []
    assert reading.contents.channels[Z].records == len(records(counts(100)))


def test_names_that_look_like_patterns_and_addresses(tmp_path: Path) -> None:
    path = with_obspy(counts(200), tmp_path / "a[1]*?: é.sac", format="SAC")
    reading = Reading(path)
    assert reading.problems == []
    np.testing.assert_array_equal(reading.samples(), counts(200).astype(np.float32))


STDIN_PROGRAM = """
import sys
from monitor.sources.files import FileSource
source = FileSource(["-", "-"], on_problem=lambda problem: print("problem:", problem))
print(sum(segment.npts for segment in source))
print([name for name in ("obspy", "scipy", "pandas", "matplotlib") if name in sys.modules])
"""


@pytest.mark.parametrize("pipe", [True, False])
def test_standard_input_as_pipe_and_as_redirected_file(tmp_path: Path, pipe: bool) -> None:
    path = write(tmp_path / "x", [*records(counts(5000)), *records(counts(5000), N), b"tail"])
    arguments = [sys.executable, "-c", STDIN_PROGRAM]
    if pipe:
        done = subprocess.run(arguments, input=path.read_bytes(), capture_output=True, check=True)
    else:
        with path.open("rb") as file:
            done = subprocess.run(arguments, stdin=file, capture_output=True, check=True)
    end = path.stat().st_size - 4
    fault = f"problem: <stdin>: byte {end}: skipped 4 bytes that are not intact miniSEED records"
    assert done.stdout.decode().splitlines() == [fault, "10000", "[]"]
    assert done.stderr == b""


def test_standard_input_without_a_descriptor() -> None:
    stdin: BinaryIO = io.BytesIO(b"".join(records(counts(5000))))
    np.testing.assert_array_equal(Reading("-", stdin=stdin).samples(), counts(5000))


def test_a_named_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(b"".join(records(counts(5000)))))
    writer.start()
    reading = Reading(path)
    writer.join()
    np.testing.assert_array_equal(reading.samples(), counts(5000))


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_compressed_miniseed(
    tmp_path: Path, compress: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "read_foreign", None)  # needs no ObsPy
    path = write(tmp_path / "x", [compress(b"".join(records(counts(5000))))])
    reading = Reading(path, write(tmp_path / "y", records(counts(5000), N)))
    assert reading.problems == []
    np.testing.assert_array_equal(reading.samples(), counts(5000))
    np.testing.assert_array_equal(reading.samples(N), counts(5000))


def test_compressed_file_that_is_cut_off(tmp_path: Path) -> None:
    content = gzip.compress(b"".join(records(counts(50_000))))
    reading = Reading(write(tmp_path / "x.gz", [content[: len(content) // 2]]))
    assert "compressed data are damaged or cut off" in reading.messages[0]
    npts = len(reading.samples())
    assert npts > 10_000
    np.testing.assert_array_equal(reading.samples(), counts(50_000)[:npts])


def test_spool_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "MAX_SPOOL_BYTES", 1000)
    reading = Reading("-", stdin=io.BytesIO(b"".join(records(counts(5000)))))
    assert "needs more than 1000 bytes of temporary space" in reading.messages[0]


# --- other formats ----------------------------------------------------------------------------------------------------


def test_other_formats_come_in_the_same_order(tmp_path: Path) -> None:
    samples = counts(20_000)
    mseed = write(tmp_path / "n", records(counts(20_000, 1), N))
    reading = Reading(with_obspy(samples, tmp_path / "z", format="GSE2"), mseed)
    assert reading.problems == []
    np.testing.assert_array_equal(reading.samples(), samples)
    assert reading.samples().dtype == np.int32
    np.testing.assert_array_equal(reading.samples(N), counts(20_000, 1))
    start_ns, end_ns = START_NS + 5 * NS_PER_SECOND + 1, START_NS + 100 * NS_PER_SECOND
    reading = Reading(tmp_path / "z", start_ns=start_ns, end_ns=end_ns)
    np.testing.assert_array_equal(reading.samples(), samples[501:10_000])
    assert Reading(tmp_path / "z", select=lambda channel: channel == N).segments == []


def test_the_gzipped_slist_files_that_obspy_ships() -> None:
    paths = sorted(SLIST.glob("BW.UH*.slist.gz"))
    assert len(paths) == 8
    reading = Reading(*paths)
    assert reading.problems == []
    expected: dict[str, int] = defaultdict(int)
    for path in paths:
        for trace in obspy.read(str(path)):
            expected[trace.id] += len(trace)
    assert {channel.seed_id: contents.npts for channel, contents in reading.contents.channels.items()} == expected
    assert sum(segment.npts for segment in reading.segments) == sum(expected.values())


def test_masked_samples_are_gaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.ma.masked_array(np.arange(10, dtype=np.int64), mask=np.isin(np.arange(10), (2, 6, 7)))
    stream = Stream([Trace(data, {"network": "BW", "station": "UH1", "channel": "EHZ", "sampling_rate": 1.0})])
    monkeypatch.setattr(foreign, "_read_stream", lambda path: stream)
    segments = foreign.read_foreign("any")
    assert [(segment.starttime_ns // NS_PER_SECOND, list(segment.samples)) for segment in segments] == [
        (0, [0, 1]),
        (3, [3, 4, 5]),
        (8, [8, 9]),
    ]
    assert segments[0].samples.dtype == np.int32


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [(np.array([2**40]), np.float64), (np.array([3], np.int16), np.int32), (np.array([0.5], "<f4"), np.float32)],
)
def test_foreign_samples_become_int32_or_floats(stored: npt.NDArray[Any], dtype: Any) -> None:
    values = foreign._native(stored, Z)
    assert values.dtype == dtype
    assert values[0] == stored[0]


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "exploded",)

    import pickle

    reading = Reading(write(tmp_path / "x", [pickle.dumps(Bomb())]))
    assert reading.messages == [f"{tmp_path}/x: {foreign.NOT_RECOGNISED}"]
    assert not (tmp_path / "exploded").exists()


def win(samples: int, *, kept: int | None = None) -> bytes:
    """A second of one channel in the WIN format: 2024-01-02 03:04:05, differences of one byte each."""
    differences = bytes(1 + number % 3 for number in range(samples - 1))
    block = bytes((0x24, 0x01, 0x02, 0x03, 0x04, 0x05, 0x00, 0x01, 0x10, samples)) + (7).to_bytes(4, "big")
    whole = (4 + len(block) + len(differences)).to_bytes(4, "big") + block + differences
    return whole[: len(whole) if kept is None else kept]


def test_no_samples_are_made_up_where_a_win_file_is_cut_short(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.write_bytes(win(100))
    cut.write_bytes(win(100, kept=80))
    reading = Reading(whole)
    assert sum(segment.npts for segment in reading.segments) == 100
    assert reading.messages == []
    reading = Reading(cut)
    assert reading.segments == []
    assert reading.messages == [f"{cut}: {foreign.CUT_SHORT}"]


def test_without_obspy_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    path = with_obspy(counts(200), tmp_path / "x.gse", format="GSE2")
    (message,) = Reading(path).messages
    assert message.startswith(f"{path}: is not miniSEED; with pip install 'seismic-monitor[obspy]'")


def test_large_files_in_other_formats_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.sources.files.MAX_FOREIGN_BYTES", 10)
    (message,) = Reading(write(tmp_path / "x", [b"not a waveform"])).messages
    assert "has 14 bytes; other formats: at most 10" in message


# --- what is wrong ----------------------------------------------------------------------------------------------------

GOOD = records(counts(5000), length=512)


def only_problem(*paths: "Path | str") -> str:
    reading = Reading(*paths)
    (problem,) = reading.problems
    return str(problem)


def test_nothing_there(tmp_path: Path) -> None:
    good = write(tmp_path / "good", GOOD)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/notes.txt").write_text("hello")
    (tmp_path / "empty").touch()
    (tmp_path / "text.txt").write_text("hello, this is no waveform\n" * 100)
    reading = Reading(
        tmp_path / "missing",
        tmp_path / "folder",
        tmp_path / "empty",
        tmp_path / "text.txt",
        "/dev/null",
        "\0",
        "",
        good,
    )
    assert set(reading.messages) == {
        f"{tmp_path}/missing: no such file or directory",
        f"{tmp_path}/empty: is empty",
        f"{tmp_path}/text.txt: {foreign.NOT_RECOGNISED}",
        "/dev/null: is neither a file nor a directory; accepted: files, directories, pipes and -",
        "\\x00: not a file name: embedded null byte",
        ": an empty file name",
        f"{tmp_path}/folder: no waveform files in this directory",
    }
    np.testing.assert_array_equal(reading.samples(), counts(5000))


@pytest.mark.parametrize("closed", ["x", "."], ids=["file", "directory"])
def test_no_permission(closed: str) -> None:
    # Not in tmp_path, which is closed to everyone else: root may read everything, and reads as nobody here.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = write(Path(folder) / "x", GOOD)
        (Path(folder) / closed).chmod(0)
        as_root = os.geteuid() == 0
        if as_root:
            os.seteuid(_NOBODY)
        try:
            problem = only_problem(path)
        finally:
            if as_root:
                os.seteuid(0)
            Path(folder).chmod(0o700)  # to remove it
    assert problem == f"{path}: cannot be read: Permission denied"


def test_a_file_that_cannot_be_opened_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = write(tmp_path / "bad", GOOD), write(tmp_path / "good", GOOD)
    open_path = Path.open

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if path == bad:
            raise PermissionError(13, "Permission denied")
        return open_path(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    reading = Reading(bad, good)
    assert reading.messages == [f"{bad}: cannot be read: Permission denied"]
    np.testing.assert_array_equal(reading.samples(), counts(5000))


@pytest.mark.parametrize("garbage", [b"\0" * 700, b"garbage " * 100, os.urandom(3000), b"MS\x03" * 50, b"000001D " * 9])
def test_garbage_between_records(tmp_path: Path, garbage: bytes) -> None:
    path = write(tmp_path / "x", [*GOOD[:3], garbage, *GOOD[3:]])
    reading = Reading(path)
    assert reading.messages == [f"{path}: byte 1536: skipped {len(garbage)} bytes that are not intact miniSEED records"]
    np.testing.assert_array_equal(reading.samples(), counts(5000))


def test_garbage_before_the_first_record(tmp_path: Path) -> None:
    path = write(tmp_path / "x", [b"header!\n" * 1000, *GOOD])
    reading = Reading(path)
    assert reading.messages == [f"{path}: byte 0: skipped 8000 bytes that are not intact miniSEED records"]
    np.testing.assert_array_equal(reading.samples(), counts(5000))


def test_garbage_longer_than_a_block(tmp_path: Path) -> None:
    path = write(tmp_path / "x", [*GOOD[:3], b"x" * 2_500_001, *GOOD[3:]])
    reading = Reading(path)
    assert reading.messages == [f"{path}: byte 1536: skipped 2500001 bytes that are not intact miniSEED records"]
    np.testing.assert_array_equal(reading.samples(), counts(5000))


@pytest.mark.parametrize("left", [20, 45, 300, 511])
def test_last_record_cut_off(tmp_path: Path, left: int) -> None:
    path = write(tmp_path / "x", [*GOOD[:3], GOOD[3][:left]])
    reading = Reading(path)
    assert reading.messages == [f"{path}: byte 1536: last record is cut off after {left} bytes; record skipped"]
    np.testing.assert_array_equal(reading.samples(), Reading(write(tmp_path / "y", GOOD[:3])).samples())


def test_payload_that_does_not_decode(tmp_path: Path) -> None:
    broken = GOOD[2][:64] + b"\xff" * 448
    reading = Reading(write(tmp_path / "x", [*GOOD[:2], broken, *GOOD[3:]]))
    (message,) = reading.messages
    assert message.startswith(f"{tmp_path}/x: byte 1024: samples do not decode (")
    assert message.endswith("; record skipped")
    expected = Reading(write(tmp_path / "y", [*GOOD[:2], *GOOD[3:]]))
    np.testing.assert_array_equal(reading.samples(), expected.samples())


def test_steim_check_value(tmp_path: Path) -> None:
    changed = bytearray(GOOD[1])
    changed[72:76] = b"\0\0\7\7"
    reading = Reading(write(tmp_path / "x", [GOOD[0], bytes(changed), *GOOD[2:]]))
    assert "byte 512: samples do not decode (the last sample is not the one noted" in reading.messages[0]
    changed[72:76] = b"\0\0\0\0"  # of recorders that do not note it
    reading = Reading(write(tmp_path / "y", [GOOD[0], bytes(changed), *GOOD[2:]]))
    assert reading.problems == []
    np.testing.assert_array_equal(reading.samples(), counts(5000))


def test_checksum_of_miniseed_3(tmp_path: Path) -> None:
    good = records(counts(5000), version=3)
    offset = len(good[0]) + len(good[1])
    broken = bytearray(good[2])
    broken[200] ^= 1
    path = write(tmp_path / "x", [*good[:2], bytes(broken), *good[3:]])
    reading = Reading(path)
    assert reading.messages == [f"{path}: byte {offset}: record skipped: checksum (CRC) is wrong"]
    expected = Reading(write(tmp_path / "y", [*good[:2], *good[3:]]))
    np.testing.assert_array_equal(reading.samples(), expected.samples())


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (20, b"\0\0", "header is unusable (Cannot convert start time to internal time stamp)"),
        (30, b"\xff\xff", "claims 65535 samples in 512 bytes; accepted: at most 2 a byte"),
        (8, b"\x01\x02\x1b[2", "records of '"),
        (32, b"\x7f\xff\x7f\xff", "sampling rate 1.07368e+09 Hz; accepted: 0.0001 to 1e+06"),
    ],
)
def test_headers_that_cannot_be_true(tmp_path: Path, at: int, value: bytes, message: str) -> None:
    broken = GOOD[1][:at] + value + GOOD[1][at + len(value) :]
    reading = Reading(write(tmp_path / "x", [GOOD[0], broken, *GOOD[2:]]))
    (problem,) = reading.problems
    assert problem.offset == 512
    assert message in problem.message
    assert problem.message.isprintable()
    assert list(reading.contents.channels) == [Z]


LOG = records("hello there", ChannelId("BW", "UH1", "", "LOG"), rate=0.0, encoding=DataEncoding.TEXT)


def test_logs_are_passed_over(tmp_path: Path) -> None:
    no_samples = GOOD[1][:30] + b"\0\0" + GOOD[1][32:]
    no_rate = GOOD[1][:32] + b"\0\0\0\0" + GOOD[1][36:]
    text = records("state of health", rate=1.0, encoding=DataEncoding.TEXT, version=3)
    reading = Reading(write(tmp_path / "x", [*LOG, GOOD[0], no_samples, no_rate, *text, *GOOD[1:]]))
    assert reading.problems == []
    np.testing.assert_array_equal(reading.samples(), counts(5000))


def test_only_logs(tmp_path: Path) -> None:
    path = write(tmp_path / "x", LOG * 3)
    assert only_problem(path) == f"{path}: holds only log records, no waveform"
    assert only_problem(tmp_path) == f"{tmp_path}: no waveform files in this directory"


def test_a_file_that_shrinks_or_goes_after_the_scan(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, GOOD) for name in ("shrinks", "goes")]
    problems: list[Problem] = []
    source = FileSource([str(path) for path in paths], on_problem=problems.append)
    source.scan()
    os.truncate(paths[0], 700)
    paths[1].unlink()
    assert sum(segment.npts for segment in source) > 0
    assert [str(problem) for problem in problems] == [
        f"{paths[0]}: byte 512: file changed while it was read",
        f"{paths[1]}: byte 0: cannot be read: No such file or directory",
    ]


def test_problems_are_bounded(tmp_path: Path) -> None:
    path = write(tmp_path / "x", [part for record in records(counts(50_000)) for part in (record, b"garbage")])
    reading = Reading(path)
    number = len(records(counts(50_000)))
    assert len(reading.problems) == 21
    assert reading.messages[-1] == f"{path}: {number - 20} more problems in this file"
    np.testing.assert_array_equal(reading.samples(), counts(50_000))


@given(seed=st.integers(0, 2**32))
def test_damage_never_raises(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng = random.Random(seed)
    content = bytearray(b"".join([*GOOD, *records(counts(2000), N, version=3), *LOG]))
    for _ in range(rng.randrange(1, 40)):
        at = rng.randrange(len(content))
        change = rng.choice(["byte", "header", "remove", "insert"])
        if change == "byte":
            content[at] = rng.randrange(256)
        elif change == "header":
            content[min(at // 512 * 512 + rng.randrange(64), len(content) - 1)] = rng.randrange(256)
        elif change == "remove":
            del content[at : at + rng.randrange(600)]
        else:
            content[at:at] = rng.randbytes(rng.randrange(100))
    path = write(tmp_path_factory.mktemp("damage") / "x", [bytes(content)])
    reading = Reading(path)
    assert all(problem.source == str(path) for problem in reading.problems)
    assert all(problem.message.isprintable() for problem in reading.problems)


def test_problem_text_is_printable() -> None:
    assert str(Problem("a\n\x1b[31m\udcff", 7, "is empty")) == "a\\n\\x1b[31m\\udcff: byte 7: is empty"


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    broken = GOOD[2][:64] + b"\xff" * 448
    path = write(tmp_path / "x", [*GOOD[:2], broken, b"garbage", *GOOD[3:], GOOD[0][:99]])
    seen: list[Reading] = []
    thread = threading.Thread(target=lambda: seen.append(Reading(path)))  # libmseed's logging is per thread
    thread.start()
    thread.join()
    assert len(seen[0].problems) == 3
    problems: list[Problem] = []
    source = FileSource([str(path)], on_problem=problems.append)
    source.scan()
    thread = threading.Thread(target=lambda: list(source))
    thread.start()
    thread.join()
    assert len(problems) == 3
    assert capfd.readouterr() == ("", "")


def test_chunks_are_bounded(tmp_path: Path) -> None:
    source = FileSource([str(write(tmp_path / "x", records(counts(400_000), rate=1000.0)))], on_problem=print)
    source.scan()
    chunks: Sequence[Any] = list(source._index.chunks())
    assert max(chunk.length for chunk in chunks) <= MAX_CHUNK_BYTES
    assert sum(chunk.length for chunk in chunks) == source.scan().record_bytes


def test_chunks_cover_little_time(tmp_path: Path) -> None:
    # Constant samples take few bytes: only the time span bounds what is decoded at once.
    path = write(tmp_path / "x", records(np.zeros(400_000, np.int32), length=256))
    source = FileSource([str(path)], on_problem=print)
    source.scan()
    parser, one_record = RecordParser(), 2 * 256
    for chunk in source._index.chunks():
        npts = sum(run.segment.npts for run in source._open(chunk, parser))
        assert npts <= MAX_CHUNK_SPAN_NS // 10_000_000 + one_record
    source._reader.close_files()
