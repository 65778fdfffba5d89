"""The last packets, bounded in bytes: what a client can still ask for."""

from typing import NamedTuple

from monitor.playback.packets import WirePacket
from monitor.records import ChannelId
from monitor.timebase import NS_PER_SECOND

# What a packet takes in memory besides its record, roughly: the objects around it.
_OVERHEAD_BYTES = 400

V3_SEQUENCES = 1 << 24


class StreamSpan(NamedTuple):
    """What the ring holds of one channel."""

    channel_id: ChannelId
    start_ns: int
    end_ns: int
    first_sequence: int
    last_sequence: int


class Ring:
    """Packets by index; the index counts all packets ever, the sequence number is what clients see of it.

    Args:
        max_bytes: When more is held, the oldest packets go.
        first_sequence: Sequence number of the first packet.
    """

    def __init__(self, max_bytes: int, *, first_sequence: int = 1) -> None:
        self._max_bytes = max_bytes
        self._packets: dict[int, WirePacket] = {}
        self._nbytes = 0
        self._offset = first_sequence
        self.first = 0
        self.end = 0

    def append(self, packet: WirePacket) -> None:
        """Take one packet; the oldest make room."""
        self._packets[self.end] = packet
        self.end += 1
        self._nbytes += len(packet.record) + _OVERHEAD_BYTES
        while self._nbytes > self._max_bytes and self.first < self.end - 1:
            self.forget_before(self.first + 1)

    def get(self, index: int) -> WirePacket | None:
        """The packet, None when the ring does not hold it."""
        return self._packets.get(index)

    def sequence(self, index: int) -> int:
        """The sequence number of an index, 64 bits."""
        return index + self._offset

    def renumber(self, first_sequence: int) -> None:
        """Number anew: the oldest packet held gets this sequence number."""
        self._offset = first_sequence - self.first

    def forget_before(self, index: int) -> None:
        """Forget the packets before this one."""
        while self.first < min(index, self.end):
            self._nbytes -= len(self._packets.pop(self.first).record) + _OVERHEAD_BYTES
            self.first += 1

    def index_of(self, sequence: int, *, version: int) -> int | None:
        """Find a sequence number a client asks for.

        Args:
            sequence: 64 bits; in SeedLink 3 the lowest 24.
            version: Of SeedLink.

        Returns:
            Its index, the end of the ring for the packet that comes next; None when it has left the ring or is in
            the future.
        """
        if version == 3:
            index = self.end - (self.sequence(self.end) - sequence) % V3_SEQUENCES
        else:
            index = sequence - self._offset
        return index if self.first <= index <= self.end else None

    def index_after(self, time_ns: int) -> int:
        """Index of the first packet that ends after a time; the end of the ring when there is none."""
        return next(
            (index for index in range(self.first, self.end) if self._packets[index].next_ns > time_ns), self.end
        )

    def starts_near(self, index: int, time_ns: int) -> bool:
        """Whether the packet is held and starts within the same whole second, the resolution of SeedLink 3."""
        packet = self.get(index)
        return packet is not None and packet.starttime_ns // NS_PER_SECOND == time_ns // NS_PER_SECOND

    def spans(self) -> list[StreamSpan]:
        """What is held, by channel."""
        found: dict[ChannelId, StreamSpan] = {}
        for index, packet in self._packets.items():
            sequence = self.sequence(index)
            span = found.get(packet.channel_id)
            if span is None:
                span = StreamSpan(packet.channel_id, packet.starttime_ns, packet.next_ns, sequence, sequence)
            found[packet.channel_id] = span._replace(
                start_ns=min(span.start_ns, packet.starttime_ns),
                end_ns=max(span.end_ns, packet.next_ns),
                last_sequence=sequence,
            )
        return [found[channel] for channel in sorted(found)]
