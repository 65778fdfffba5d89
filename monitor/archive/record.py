"""miniSEED records as they were received: whose, from when to when, and their bytes."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from monitor.coverage import Coverage
from monitor.records import ChannelId
from monitor.sources.index import parse_sourceid
from monitor.sources.miniseed import ReadAt, RecordHeader, RecordParser, fault_of, is_log
from monitor.timebase import NS_PER_SECOND

# A server cannot make us remember names without end.
_MOST_KNOWN = 20_000


class Span(NamedTuple):
    """What a record covers.

    Attributes:
        channel: Whose samples it holds.
        start_ns: Time of the first one, nanoseconds since the epoch.
        next_ns: Time at which the next one would come.
        half_sample_ns: Half the time from one to the next.
        offset, length: Where the record lies in what was parsed, bytes.
    """

    channel: ChannelId
    start_ns: int
    next_ns: int
    half_sample_ns: int
    offset: int
    length: int


class RawRecord(NamedTuple):
    """A record: what it covers, and its bytes."""

    span: Span
    data: bytes


class RecordSplitter:
    """Finds the records in bytes. One thread at a time."""

    def __init__(self) -> None:
        self._parser = RecordParser()
        self._known: dict[bytes, ChannelId | None] = {}

    def split(self, payload: bytes, wanted: Collection[ChannelId]) -> list[RawRecord]:
        """Give the wanted records of a packet's payload, in their order; what is none is left out."""
        spans = self._spans(len(payload), lambda offset, size: payload[offset : offset + size])
        return [
            RawRecord(span, payload[span.offset : span.offset + span.length])
            for span in spans
            if span.channel in wanted
        ]

    def scan(self, path: Path, *, from_offset: int = 0) -> tuple[list[Span], int]:
        """Read what a file of ours holds.

        Args:
            path: The file.
            from_offset: Where to begin; may be in the middle of a record, which is then left out.

        Returns:
            Its records, offsets from the file's start, and where the last whole one ends: what follows was torn off.

        Raises:
            OSError: It cannot be read.
        """
        with path.open("rb") as stream:
            descriptor = stream.fileno()
            size = os.fstat(descriptor).st_size
            spans = self._spans(size - from_offset, lambda offset, n: os.pread(descriptor, n, from_offset + offset))
        spans = [span._replace(offset=span.offset + from_offset) for span in spans]
        return spans, (spans[-1].offset + spans[-1].length if spans else from_offset)

    def _spans(self, size: int, read_at: ReadAt) -> list[Span]:
        spans = []
        for header in self._parser.headers(read_at, size, lambda _offset, _message: None):
            channel = self._channel(header)
            if channel is None or is_log(header) or fault_of(header) is not None:
                continue
            length_ns = round(header.npts * NS_PER_SECOND / header.sampling_rate)
            half_ns = round(NS_PER_SECOND / header.sampling_rate / 2)
            start_ns = header.starttime_ns
            spans.append(Span(channel, start_ns, start_ns + length_ns, half_ns, header.offset, header.length))
        return spans

    def _channel(self, header: RecordHeader) -> ChannelId | None:
        if header.sourceid not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[header.sourceid] = parse_sourceid(header.sourceid)
        return self._known[header.sourceid]


class Held:
    """Which stretches of each channel are there: what comes again is known by it, whatever server it comes from.

    Args:
        keep_ns: How far behind a channel's newest sample is remembered.
    """

    def __init__(self, keep_ns: int) -> None:
        self._keep_ns = keep_ns
        self._channels: dict[ChannelId, Coverage] = {}

    def add(self, span: Span) -> bool:
        """Note a record.

        Returns:
            False where all its samples were there before.
        """
        coverage = self._channels.get(span.channel)
        if coverage is None:
            coverage = self._channels[span.channel] = Coverage(keep_ns=self._keep_ns)
        missing_ns = span.next_ns - span.start_ns - coverage.covered_ns(span.start_ns, span.next_ns)
        if missing_ns <= span.half_sample_ns:
            return False
        coverage.add(span.start_ns, span.next_ns, tolerance_ns=span.half_sample_ns)
        return True
