"""The last minutes of every channel as records, so that an event's past is there when it is found."""

from collections import deque
from dataclasses import dataclass, field

from monitor.archive.record import RawRecord
from monitor.records import ChannelId

# What a record takes besides its bytes: the objects around it.
_OVERHEAD_BYTES = 400
# Of one channel: two minutes at 1000 Hz, not compressed. Of all: where they want more, a channel that brings a record
# gives up its own oldest ones for it.
MOST_CHANNEL_BYTES = 512 * 1024
MOST_BYTES = 64 * 1024 * 1024
# As many as the engine follows.
MOST_CHANNELS = 6000


@dataclass(slots=True)
class ChannelRing:
    """One channel.

    Attributes:
        records: In the order in which they came.
        nbytes: What they take.
        start_ns, next_ns: Of the newest record.
        span_ns: How long its records are.
    """

    records: deque[RawRecord] = field(default_factory=deque)
    nbytes: int = 0
    start_ns: int = 0
    next_ns: int = 0
    span_ns: int = 0


class RecordRing:
    """Keeps the newest records of each channel.

    Args:
        keep_ns: How far back, from each channel's newest sample.
        channel_bytes, max_bytes, max_channels: Most of it.
    """

    def __init__(
        self,
        keep_ns: int,
        *,
        channel_bytes: int = MOST_CHANNEL_BYTES,
        max_bytes: int = MOST_BYTES,
        max_channels: int = MOST_CHANNELS,
    ) -> None:
        self.nbytes = 0
        self._keep_ns, self._channel_bytes = keep_ns, channel_bytes
        self._max_bytes, self._max_channels = max_bytes, max_channels
        self._stations: dict[str, dict[ChannelId, ChannelRing]] = {}
        self._count = 0

    def add(self, record: RawRecord) -> bool:
        """Take a record.

        Returns:
            False where it is of one channel too many.
        """
        channel = record.span.channel
        rings = self._stations.setdefault(channel.station_id, {})
        ring = rings.get(channel)
        if ring is None:
            if self._count >= self._max_channels:
                return False
            self._count += 1
            ring = rings[channel] = ChannelRing()
        _, start_ns, next_ns, *_ = record.span
        # The recorder's clock was set: what came before is of no use, and what comes is not old.
        if ring.records and abs(next_ns - ring.next_ns) > self._keep_ns:
            self._drop(ring, len(ring.records))
            ring.next_ns = 0
        if next_ns >= ring.next_ns:
            ring.start_ns, ring.next_ns, ring.span_ns = start_ns, next_ns, next_ns - start_ns
        size = len(record.data) + _OVERHEAD_BYTES
        ring.records.append(record)
        ring.nbytes += size
        self.nbytes += size
        while ring.records and (
            ring.records[0].span.next_ns < ring.next_ns - self._keep_ns
            or ring.nbytes > self._channel_bytes
            or self.nbytes > self._max_bytes
        ):
            self._drop(ring, 1)
        return True

    def channels(self, station_id: str) -> dict[ChannelId, ChannelRing]:
        """A station's channels."""
        return self._stations.get(station_id, {})

    def records(self, station_id: str) -> list[RawRecord]:
        """What is held of a station, in order of time."""
        found = [record for ring in self.channels(station_id).values() for record in ring.records]
        return sorted(found, key=lambda record: (record.span.start_ns, record.span.channel))

    def _drop(self, ring: ChannelRing, count: int) -> None:
        for _ in range(count):
            size = len(ring.records.popleft().data) + _OVERHEAD_BYTES
            ring.nbytes -= size
            self.nbytes -= size
