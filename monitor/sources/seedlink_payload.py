"""The payload of a SeedLink packet: miniSEED records to segments."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from monitor.records import ChannelId, Segment
from monitor.sources.index import parse_sourceid
from monitor.sources.miniseed import RecordHeader, RecordParser, fault_of, is_log
from monitor.sources.timing import timing_quality

# A server cannot make us remember names without end.
_MAX_KNOWN = 100_000


class Payload(NamedTuple):
    """What a packet held.

    Attributes:
        station_id: `NET.STA` of its first record; None where there is none.
        segments: The wanted samples.
        timing_quality: The lowest of the records', percent; None where none tells.
        faults: What was not usable.
    """

    station_id: str | None
    segments: tuple[Segment, ...]
    timing_quality: int | None
    faults: tuple[str, ...]


class PayloadDecoder:
    """Decodes packets, one after another.

    Args:
        select: Whether a channel is wanted; others are not decoded.
    """

    def __init__(self, select: Callable[[ChannelId], bool]) -> None:
        self._select = select
        self._parser = RecordParser()
        self._known: dict[bytes, tuple[ChannelId | None, bool]] = {}

    def decode(self, payload: bytes) -> Payload:
        """Decode one packet's payload: miniSEED 2 or 3, one record or several."""
        faults: list[str] = []
        segments: list[Segment] = []
        qualities: list[int] = []
        station_id: str | None = None

        def report(_offset: int, message: str) -> None:
            faults.append(message)

        def read_at(offset: int, size: int) -> bytes:
            return payload[offset : offset + size]

        for header in self._parser.headers(read_at, len(payload), report):
            channel_id, wanted = self._channel(header)
            if channel_id is None:
                faults.append(f"source identifier {header.sourceid.decode('latin-1')!r}")
                continue
            station_id = station_id or channel_id.station_id
            if is_log(header) or not wanted:
                continue
            fault = fault_of(header)
            if fault is not None:
                faults.append(fault)
                continue
            record = payload[header.offset : header.offset + header.length]
            for decoded in self._parser.decode(record, 0, self._wanted, report):
                samples = np.frombuffer(decoded.content, decoded.dtype)
                segments.append(Segment(channel_id, header.starttime_ns, header.sampling_rate, samples))
                quality = timing_quality(record)
                if quality is not None:
                    qualities.append(quality)
        return Payload(station_id, tuple(segments), min(qualities, default=None), tuple(faults))

    def _wanted(self, header: RecordHeader) -> ChannelId | None:
        return self._channel(header)[0]

    def _channel(self, header: RecordHeader) -> tuple[ChannelId | None, bool]:
        known = self._known.get(header.sourceid)
        if known is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            channel_id = parse_sourceid(header.sourceid)
            known = self._known[header.sourceid] = channel_id, channel_id is not None and self._select(channel_id)
        return known
