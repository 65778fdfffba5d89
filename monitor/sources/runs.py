"""Runs of samples: which belong to a time span, and which records continue one another."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from monitor.records import ChannelId, Segment
from monitor.sources.alike import I64, Alike
from monitor.sources.miniseed import DecodedRecord
from monitor.timebase import NS_PER_SECOND

# libmseed's tolerances for "the next record continues this one" (mstl3_addmsr): half a sample, 1e-4 of the rate.
TIME_TOLERANCE_SAMPLES = 0.5
RATE_TOLERANCE = 1e-4

# Tighter still, the resolution of time in miniSEED 2 headers: what differs by more is a clock that drifts, and each
# record's own time has to reach the pipeline as it would live, however the records lie in files.
TIME_TOLERANCE_NS = 100_000

MAX_SEGMENT_NS = 120 * NS_PER_SECOND


def sample_time_ns(starttime_ns: int, index: int, sampling_rate: float) -> int:
    """Return the time of a sample, nanoseconds since the epoch."""
    return starttime_ns + round(index * NS_PER_SECOND / sampling_rate)


def clip(
    starttime_ns: int, npts: int, sampling_rate: float, *, start_ns: int | None, end_ns: int | None
) -> tuple[int, int]:
    """Find the samples with `start_ns` <= time < `end_ns`.

    Args:
        starttime_ns: Time of the first sample.
        npts: Number of samples.
        sampling_rate: Hertz.
        start_ns: Start of the span; None: open.
        end_ns: End of the span, excluded; None: open.

    Returns:
        Index of the first such sample and of the first one after them; equal when there is none.
    """

    def first_at_or_after(time_ns: int) -> int:
        if time_ns <= starttime_ns:
            return 0
        if time_ns > sample_time_ns(starttime_ns, npts - 1, sampling_rate):
            return npts
        index = max(0, int((time_ns - starttime_ns) * sampling_rate / NS_PER_SECOND) - 1)
        while sample_time_ns(starttime_ns, index, sampling_rate) < time_ns:
            index += 1
        return index

    if npts <= 0:
        return 0, 0
    first = 0 if start_ns is None else first_at_or_after(start_ns)
    stop = npts if end_ns is None else first_at_or_after(end_ns)
    return first, max(first, stop)


def continues(expected_ns: int, expected_rate: float, starttime_ns: int, sampling_rate: float) -> bool:
    """Tell whether a record goes on where another ended, within the tolerances above."""
    tolerance_ns = min(TIME_TOLERANCE_NS, TIME_TOLERANCE_SAMPLES * NS_PER_SECOND / expected_rate)
    return (
        abs(starttime_ns - expected_ns) <= tolerance_ns
        and abs(sampling_rate - expected_rate) <= RATE_TOLERANCE * expected_rate
    )


class Run(NamedTuple):
    """A segment and where the first of its records lies, which orders segments that start together."""

    segment: Segment
    offset: int


class _OpenRun:
    """Records of one channel that continue one another; gathers their samples."""

    __slots__ = ("channel_id", "contents", "dtype", "npts", "offset", "sampling_rate", "starttime_ns")

    def __init__(self, record: DecodedRecord, starttime_ns: int, contents: list[bytes | memoryview], npts: int) -> None:
        self.channel_id = record.channel_id
        self.starttime_ns = starttime_ns
        self.sampling_rate = record.header.sampling_rate
        self.offset = record.header.offset
        self.dtype = record.dtype
        self.npts = npts
        self.contents = contents

    def takes(self, record: DecodedRecord, starttime_ns: int, npts: int) -> bool:
        """Tell whether a record continues this run and leaves it short enough."""
        return (
            record.dtype == self.dtype
            and continues(
                sample_time_ns(self.starttime_ns, self.npts, self.sampling_rate),
                self.sampling_rate,
                starttime_ns,
                record.header.sampling_rate,
            )
            and (self.npts + npts) * NS_PER_SECOND <= MAX_SEGMENT_NS * self.sampling_rate
        )

    def takes_alike(self, record: DecodedRecord, starttimes_ns: I64, npts: I64) -> int:
        """Tell how many of some records alike continue this run and leave it short enough."""
        if not self.takes(record, int(starttimes_ns[0]), int(npts[0])):
            return 0
        stops = self.npts + np.cumsum(npts)
        since_ns = np.rint((stops - npts) * NS_PER_SECOND / self.sampling_rate).astype(np.int64)
        tolerance_ns = min(TIME_TOLERANCE_NS, TIME_TOLERANCE_SAMPLES * NS_PER_SECOND / self.sampling_rate)
        fits = np.abs(starttimes_ns - self.starttime_ns - since_ns) <= tolerance_ns
        fits &= stops * NS_PER_SECOND <= MAX_SEGMENT_NS * self.sampling_rate
        return len(fits) if fits.all() else int(fits.argmin())

    def close(self) -> Run:
        content = self.contents[0] if len(self.contents) == 1 else b"".join(self.contents)
        samples = np.frombuffer(content, self.dtype)
        return Run(Segment(self.channel_id, self.starttime_ns, self.sampling_rate, samples), self.offset)


def join_records(
    records: Iterable[DecodedRecord], *, start_ns: int | None, end_ns: int | None, coalesce: bool
) -> Iterator[Run]:
    """Cut records to a time span and join those that continue one another.

    Args:
        records: In file order; some of them may stand for many that are alike, where all of those are wanted.
        start_ns: Start of the span; None: open.
        end_ns: End of the span, excluded; None: open.
        coalesce: False keeps every record apart.

    Yields:
        Segments of at most `MAX_SEGMENT_NS` (or one record); their samples are read-only.
    """
    open_runs: dict[ChannelId, _OpenRun] = {}
    for record in records:
        channel_id, header, dtype, content = record
        if header.alike is not None:
            yield from _join_alike(open_runs, record, header.alike)
            continue
        starttime_ns, npts = header.starttime_ns, header.npts
        if start_ns is not None or end_ns is not None:
            first, stop = clip(starttime_ns, npts, header.sampling_rate, start_ns=start_ns, end_ns=end_ns)
            if first == stop:
                continue
            starttime_ns, npts = sample_time_ns(starttime_ns, first, header.sampling_rate), stop - first
            content = content[first * dtype.itemsize : stop * dtype.itemsize]
        run = open_runs.get(channel_id)
        if run is not None:
            if coalesce and run.takes(record, starttime_ns, npts):
                run.contents.append(content)
                run.npts += npts
                continue
            yield run.close()
        open_runs[channel_id] = _OpenRun(record, starttime_ns, [content], npts)
    for run in open_runs.values():
        yield run.close()


def _join_alike(open_runs: dict[ChannelId, _OpenRun], record: DecodedRecord, alike: Alike) -> Iterator[Run]:
    """The same of records alike, all wanted: yield the runs that they end."""
    starts, npts = alike
    borders = [0, *(np.cumsum(npts) * record.dtype.itemsize).tolist()]
    run, at = open_runs.get(record.channel_id), 0
    while at < len(npts):
        more = 0 if run is None else run.takes_alike(record, starts[at:], npts[at:])
        if run is None or not more:
            if run is not None:
                yield run.close()
            run = open_runs[record.channel_id] = _OpenRun(record, int(starts[at]), [], 0)
            run.offset += at * record.header.length
            more = max(1, run.takes_alike(record, starts[at:], npts[at:]))
        run.contents.append(record.content[borders[at] : borders[at + more]])
        run.npts += int(npts[at : at + more].sum())
        at += more


def cut(segment: Segment) -> Iterator[Segment]:
    """Cut a segment into pieces of at most `MAX_SEGMENT_NS` (or one sample)."""
    size = max(1, int(MAX_SEGMENT_NS * segment.sampling_rate / NS_PER_SECOND))
    for first in range(0, segment.npts, size):
        starttime_ns = sample_time_ns(segment.starttime_ns, first, segment.sampling_rate)
        piece = segment.samples[first : first + size]
        yield Segment(segment.channel_id, starttime_ns, segment.sampling_rate, piece)
