"""What is played: segments from files or from memory, cut to what a recorder would send at a time."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from monitor.playback.packets import RECORD_BYTES, WirePacket, encode
from monitor.records import ChannelId, Segment
from monitor.sources.files import FileSource, every_channel
from monitor.sources.problems import Problem
from monitor.sources.runs import sample_time_ns
from monitor.timebase import NS_PER_SECOND


class NoDataError(Exception):
    """There is nothing to play."""


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """Segments in order of time, as often as they are asked for.

    Attributes:
        segments: Iterated anew for each round; sorted by start time.
        channels: Sorted.
        first_ns: Time of the first sample of all, nanoseconds since the epoch.
        end_ns: When the sample after the last one would come.
    """

    segments: Iterable[Segment]
    channels: tuple[ChannelId, ...]
    first_ns: int
    end_ns: int

    @classmethod
    def from_segments(cls, segments: Iterable[Segment]) -> "Recording":
        """Make a recording of segments in any order.

        Raises:
            NoDataError: No sample in them.
        """
        ordered = sorted((segment for segment in segments if segment.npts), key=lambda segment: segment.starttime_ns)
        if not ordered:
            raise NoDataError("no samples to play")
        channels = tuple(sorted({segment.channel_id for segment in ordered}))
        return cls(ordered, channels, ordered[0].starttime_ns, max(segment.next_ns for segment in ordered))

    @classmethod
    def from_files(
        cls,
        paths: Sequence[str | Path],
        *,
        select: Callable[[ChannelId], bool] = every_channel,
        on_problem: Callable[[Problem], None],
    ) -> "Recording":
        """Open files or directories, in constant memory.

        Args:
            paths: Whatever `monitor replay` reads.
            select: Whether a channel is wanted.
            on_problem: Called with each thing wrong in the input.

        Raises:
            NoDataError: No sample in them.
        """
        source = FileSource([str(path) for path in paths], select=select, on_problem=on_problem)
        contents = source.scan()
        if contents.first_ns is None or contents.last_ns is None:
            raise NoDataError("no samples to play")
        slowest = min(rate for channel in contents.channels.values() for rate in channel.sampling_rates)
        end_ns = contents.last_ns + round(NS_PER_SECOND / slowest)
        return cls(source, tuple(contents.channels), contents.first_ns, end_ns)

    def pieces(self, packet_s: float) -> Iterator[Segment]:
        """Cut each segment to pieces of `packet_s` seconds and give all pieces in order of their start.

        A piece has one sample at least.
        """
        waiting: list[tuple[int, int, Segment]] = []
        number = 0
        for segment in self.segments:
            while waiting and waiting[0][0] <= segment.starttime_ns:
                yield heapq.heappop(waiting)[2]
            step = max(1, round(packet_s * segment.sampling_rate))
            for first in range(0, segment.npts, step):
                start_ns = sample_time_ns(segment.starttime_ns, first, segment.sampling_rate)
                piece = Segment(
                    segment.channel_id, start_ns, segment.sampling_rate, segment.samples[first : first + step]
                )
                number += 1
                heapq.heappush(waiting, (start_ns, number, piece))
        while waiting:
            yield heapq.heappop(waiting)[2]

    def packets(self, packet_s: float, *, shift_ns: int = 0, record_bytes: int = RECORD_BYTES) -> Iterator[WirePacket]:
        """Encode all of it, in the order of the last sample: that in which recorders can send it.

        Args:
            packet_s: At most so many seconds in a packet.
            shift_ns: Added to all times.
            record_bytes: Size of a record.

        Raises:
            ValueError: A channel does not fit miniSEED 2.
        """
        waiting: list[tuple[int, int, WirePacket]] = []
        number = 0
        for piece in self.pieces(packet_s):
            moved = replace(piece, starttime_ns=piece.starttime_ns + shift_ns)
            while waiting and waiting[0][0] <= moved.starttime_ns:
                yield heapq.heappop(waiting)[2]
            for packet in encode(moved, record_bytes=record_bytes):
                number += 1
                heapq.heappush(waiting, (packet.next_ns, number, packet))
        while waiting:
            yield heapq.heappop(waiting)[2]
