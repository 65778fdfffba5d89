"""What the files hold, and where: the compact index that lets any files be read in order of time."""

from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from pymseed import sourceid2nslc

from monitor.records import ChannelId
from monitor.sources.alike import Alike
from monitor.sources.miniseed import RecordHeader
from monitor.sources.runs import RATE_TOLERANCE, TIME_TOLERANCE_NS, clip, sample_time_ns
from monitor.timebase import NS_PER_SECOND

# A chunk is what is read and decoded at a time, once for each channel-after-channel file whose turn it is. Small
# enough for hundreds of such files on a Raspberry Pi, large enough that opening one costs little per record.
MAX_CHUNK_BYTES = 128 * 1024
MAX_CHUNK_SPAN_NS = 300 * NS_PER_SECOND

# A damaged file can claim a new rate in every record.
MAX_RATES_PER_CHANNEL = 8

# SEED codes are letters and digits; some recorders put other visible characters there. What else a damaged header
# holds must not reach terminals, topics and labels.
_MAX_CODE_CHARACTERS = 15

# A damaged file can claim a new identifier in every record.
_MAX_KNOWN_SOURCEIDS = 100_000


@dataclass(frozen=True, slots=True)
class ChannelContents:
    """What the inputs hold of one channel, within the selected time span.

    Attributes:
        first_ns: Time of the first sample, nanoseconds since the epoch.
        last_ns: Time of the last sample.
        sampling_rates: Hertz, in the order met, at most `MAX_RATES_PER_CHANNEL`.
        records: Number of records (of other formats: of pieces).
        npts: Number of samples.
    """

    first_ns: int
    last_ns: int
    sampling_rates: tuple[float, ...]
    records: int
    npts: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What the inputs hold of the selected channels and time span.

    Attributes:
        channels: Sorted by channel.
        record_bytes: Size of all records.
    """

    channels: Mapping[ChannelId, ChannelContents]
    record_bytes: int

    @property
    def first_ns(self) -> int | None:
        """Time of the first sample of all, nanoseconds since the epoch; None when there is none."""
        return min((channel.first_ns for channel in self.channels.values()), default=None)

    @property
    def last_ns(self) -> int | None:
        """Time of the last sample of all; None when there is none."""
        return max((channel.last_ns for channel in self.channels.values()), default=None)

    @property
    def span_s(self) -> float:
        """Stream time from the first sample to the last, seconds."""
        if self.first_ns is None or self.last_ns is None:
            return 0.0
        return (self.last_ns - self.first_ns) / NS_PER_SECOND


class Chunk(NamedTuple):
    """A range of bytes to be read and decoded at once.

    Attributes:
        number: Position in the index.
        source: Index of the input.
        offset: First byte.
        length: Bytes.
        first_ns: Time of its earliest wanted sample.
        coalesce: Whether records in it may be joined: no other chunk has data of its channels within its times.
    """

    number: int
    source: int
    offset: int
    length: int
    first_ns: int
    coalesce: bool


def parse_sourceid(sourceid: bytes) -> ChannelId | None:
    """Turn an FDSN source identifier into the four SEED codes; None when it is none or holds odd characters."""
    try:
        codes = sourceid2nslc(sourceid.decode("ascii"))
    except (ValueError, UnicodeDecodeError):
        return None
    if any(len(code) > _MAX_CODE_CHARACTERS or not code.isprintable() or " " in code for code in codes):
        return None
    return ChannelId(*codes) if codes[1] and codes[3] else None


@dataclass(slots=True)
class _Tally:
    """One channel's contents while they are being counted."""

    number: int
    first_ns: int = 2**63 - 1
    next_ns: int = -(2**63)
    last: tuple[int, int, float] = (0, 0, 1.0)  # start, index and rate of the last sample
    sampling_rates: list[float] = field(default_factory=list)
    records: int = 0
    npts: int = 0


class Index:
    """Gathers records into chunks while files are scanned, then gives the chunks in order of time.

    Within a chunk each channel's records are in order of time and none starts more than `MAX_CHUNK_SPAN_NS` from the
    earliest. So decoding each chunk when its first time is reached puts all records in order and holds little.

    Args:
        start_ns: Samples before it are not wanted; None: open.
        end_ns: Samples from it on are not wanted; None: open.
    """

    def __init__(self, *, start_ns: int | None, end_ns: int | None) -> None:
        self._start_ns = start_ns
        self._end_ns = end_ns
        self._tallies: dict[ChannelId, _Tally] = {}
        self._record_bytes = 0
        self._sources, self._lengths = array("q"), array("q")
        self._offsets, self._firsts = array("q"), array("q")
        # The time each chunk covers of each of its channels: channel number, first sample, end, chunk.
        self._extents = (array("q"), array("q"), array("q"), array("q"))
        self._source, self._offset, self._end, self._first_ns = -1, 0, 0, 0
        self._open: dict[int, list[int]] = {}  # channel number -> first sample, start of the last record, end

    def add(
        self,
        channel_id: ChannelId,
        starttime_ns: int,
        sampling_rate: float,
        npts: int,
        *,
        source: int,
        offset: int,
        length: int,
    ) -> bool:
        """Add a record; those of an input in the order in which they lie there.

        Args:
            channel_id: Whose samples.
            starttime_ns: Time of the first, nanoseconds since the epoch.
            sampling_rate: Hertz.
            npts: Number of samples.
            source: Index of the input.
            offset: Where it begins, bytes.
            length: Bytes.

        Returns:
            False, and nothing is added, when it has no sample in the time span.
        """
        next_ns = sample_time_ns(starttime_ns, npts, sampling_rate)
        start_ns, end_ns = self._start_ns, self._end_ns
        if (start_ns is not None and starttime_ns < start_ns) or (end_ns is not None and next_ns > end_ns):
            first, stop = clip(starttime_ns, npts, sampling_rate, start_ns=start_ns, end_ns=end_ns)
            if first == stop:
                return False
            next_ns = sample_time_ns(starttime_ns, stop, sampling_rate)
            starttime_ns, npts = sample_time_ns(starttime_ns, first, sampling_rate), stop - first
        last = starttime_ns, npts - 1, sampling_rate
        number = self._count(channel_id, starttime_ns, next_ns, last, records=1, npts=npts, length=length)
        self._place(number, starttime_ns, source=source, offset=offset, length=length)
        self._extend(number, starttime_ns, next_ns, end=offset + length)
        return True

    def add_alike(
        self, channel_id: ChannelId, alike: Alike, sampling_rate: float, *, source: int, offset: int, length: int
    ) -> None:
        """Add records that lie one after another.

        Args:
            channel_id: Whose samples.
            alike: Their times and numbers of samples.
            sampling_rate: Hertz, of all.
            source: Index of the input.
            offset: Where the first begins, bytes.
            length: Bytes of each.
        """
        starts, npts = alike
        ends = starts + np.rint(npts * NS_PER_SECOND / sampling_rate).astype(np.int64)
        if (self._start_ns is not None and starts[0] < self._start_ns) or (
            self._end_ns is not None and ends.max() > self._end_ns
        ):
            for start, count in zip(starts.tolist(), npts.tolist(), strict=True):
                self.add(channel_id, start, sampling_rate, count, source=source, offset=offset, length=length)
                offset += length
            return
        latest = int(ends.argmax())
        last = int(starts[latest]), int(npts[latest]) - 1, sampling_rate
        number = self._count(
            channel_id,
            int(starts[0]),
            int(ends[latest]),
            last,
            records=len(starts),
            npts=int(npts.sum()),
            length=length * len(starts),
        )
        at = 0
        while at < len(starts):
            self._place(number, int(starts[at]), source=source, offset=offset, length=length)
            # As many as the chunk has room for, one at least.
            stop = at + (self._offset + MAX_CHUNK_BYTES - offset) // length
            stop = min(stop, int(np.searchsorted(starts, self._first_ns + MAX_CHUNK_SPAN_NS, "right")))
            stop = max(at + 1, stop)
            offset += length * (min(stop, len(starts)) - at)
            self._extend(number, int(starts[at:stop][-1]), int(ends[at:stop].max()), end=offset)
            at = stop

    def close_chunk(self) -> None:
        """End the current chunk: what follows does not adjoin it, or there is no more."""
        if not self._open:
            return
        channels, firsts, ends, chunks = self._extents
        for channel, (first_ns, _, next_ns) in self._open.items():
            channels.append(channel)
            firsts.append(first_ns)
            ends.append(next_ns)
            chunks.append(len(self._offsets))
        self._sources.append(self._source)
        self._offsets.append(self._offset)
        self._lengths.append(self._end - self._offset)
        self._firsts.append(self._first_ns)
        self._open = {}

    @property
    def next_chunk(self) -> int:
        """Number of the chunk that the next record after `close_chunk` begins."""
        return len(self._offsets)

    def _place(self, number: int, starttime_ns: int, *, source: int, offset: int, length: int) -> None:
        """Make the open chunk one that has room for a record."""
        extent = self._open.get(number)
        if self._open and (
            source != self._source
            or offset + length - self._offset > MAX_CHUNK_BYTES
            or not -MAX_CHUNK_SPAN_NS <= starttime_ns - self._first_ns <= MAX_CHUNK_SPAN_NS
            or (extent is not None and starttime_ns < extent[1])
        ):
            self.close_chunk()
            extent = None
        if not self._open:
            self._source, self._offset, self._first_ns = source, offset, starttime_ns
        elif starttime_ns < self._first_ns:
            self._first_ns = starttime_ns
        if extent is None:
            self._open[number] = [starttime_ns, starttime_ns, starttime_ns]

    def _extend(self, number: int, starttime_ns: int, next_ns: int, *, end: int) -> None:
        """Take records of a channel up to one that starts at `starttime_ns` into the open chunk."""
        extent = self._open[number]
        extent[1], extent[2] = starttime_ns, max(extent[2], next_ns)
        self._end = end

    def contents(self) -> Contents:
        """Return what has been added."""
        return Contents(
            {
                channel_id: ChannelContents(
                    tally.first_ns, sample_time_ns(*tally.last), tuple(tally.sampling_rates), tally.records, tally.npts
                )
                for channel_id, tally in sorted(self._tallies.items())
            },
            self._record_bytes,
        )

    def chunks(self) -> Iterator[Chunk]:
        """Yield all chunks in order of their first time, then of input and offset."""
        order = np.lexsort((_column(self._offsets), _column(self._sources), _column(self._firsts)))
        alone = self._alone()
        for number in map(int, order):
            yield Chunk(
                number,
                self._sources[number],
                self._offsets[number],
                self._lengths[number],
                self._firsts[number],
                bool(alone[number]),
            )

    def _alone(self) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        """Mark the chunks that share no time of a channel with another chunk.

        Where chunks overlap, joined records of one would go ahead of records of the other that start in between, and
        which of two contradicting samples comes first would hang on how records lie in files.
        """
        alone = np.ones(len(self._offsets), np.bool_)
        channels, firsts, ends, chunks = (_column(values) for values in self._extents)
        order = np.lexsort((firsts, channels))
        borders = np.flatnonzero(np.diff(channels[order])) + 1
        for same_channel in np.split(order, borders):
            first, end, chunk = firsts[same_channel], ends[same_channel] - TIME_TOLERANCE_NS, chunks[same_channel]
            alone[chunk[:-1][end[:-1] > first[1:]]] = False
            alone[chunk[1:][np.maximum.accumulate(end)[:-1] > first[1:]]] = False
        return alone

    def _count(
        self,
        channel_id: ChannelId,
        first_ns: int,
        next_ns: int,
        last: tuple[int, int, float],
        *,
        records: int,
        npts: int,
        length: int,
    ) -> int:
        tally = self._tallies.get(channel_id)
        if tally is None:
            tally = self._tallies[channel_id] = _Tally(len(self._tallies))
        tally.first_ns = min(tally.first_ns, first_ns)
        if next_ns > tally.next_ns:
            tally.next_ns = next_ns
            tally.last = last
        tally.records += records
        tally.npts += npts
        self._record_bytes += length
        sampling_rate = last[2]
        rates = tally.sampling_rates
        if (
            sampling_rate not in rates
            and len(rates) < MAX_RATES_PER_CHANNEL
            and all(abs(sampling_rate - rate) > RATE_TOLERANCE * rate for rate in rates)
        ):
            rates.append(sampling_rate)
        return tally.number


class ChannelFilter:
    """Source identifiers to wanted channels, each worked out once.

    Args:
        select: Whether a channel is wanted.
    """

    def __init__(self, select: Callable[[ChannelId], bool]) -> None:
        self._select = select
        self._known: dict[bytes, tuple[ChannelId | None, bool]] = {}

    def channel_of(self, header: RecordHeader) -> ChannelId | None:
        """Return the record's channel, or None when it is not wanted or its identifier is not valid."""
        try:
            return self._known[header.sourceid][0]
        except KeyError:
            return self._learn(header.sourceid)[0]

    def is_valid(self, header: RecordHeader) -> bool:
        """Tell whether the record's source identifier is one."""
        return (self._known.get(header.sourceid) or self._learn(header.sourceid))[1]

    def _learn(self, sourceid: bytes) -> tuple[ChannelId | None, bool]:
        if len(self._known) >= _MAX_KNOWN_SOURCEIDS:
            self._known.clear()
        channel_id = parse_sourceid(sourceid)
        wanted = channel_id if channel_id is not None and self._select(channel_id) else None
        self._known[sourceid] = wanted, channel_id is not None
        return self._known[sourceid]


def _column(values: "array[int]") -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    # A copy: a view of an array would bar it from growing.
    return np.array(values, np.int64)
