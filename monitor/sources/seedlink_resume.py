"""What has been received of a station, so that a new connection goes on where the last one ended. Pure; no sockets."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from monitor.records import ChannelId, Segment
from monitor.sources.seedlink_request import SEQUENCES, Protocol, Start
from monitor.timebase import NS_PER_SECOND

# Asked by time, servers send the packets that reach past it; some leave out one that ends with the sample asked for.
TIME_MARGIN_NS = NS_PER_SECOND // 10

# A channel that ended so long before the others of its station is not waited for when resuming by time.
CHANNEL_SPREAD_NS = 600 * NS_PER_SECOND

# A packet that ends so far ahead of this computer's clock has a wrong time, or the clock has; as the engine's default.
FUTURE_NS = 60 * NS_PER_SECOND

# Enough to recognise what comes again by time: some packets of each channel.
_RECENT = 64

# A step of more than this from one sample to the next is a hole.
_HOLE_SAMPLES = 1.5


@dataclass(frozen=True, slots=True)
class Position:
    """Where to go on with a station after a restart.

    Attributes:
        station_id: `NET.STA`.
        server: Label of the server that gave the number.
        sequence: Number of the first packet, in that server's order, that is needed, or of one before it; None where
            only the time is known.
        time_ns: Data are needed from then on, nanoseconds since the epoch; None where only the number is known.
    """

    station_id: str
    server: str
    sequence: int | None
    time_ns: int | None


class Hole(NamedTuple):
    """Data that the server did not have: from the first time to the second."""

    from_ns: int
    to_ns: int


@dataclass(slots=True)
class _Channel:
    next_ns: int
    start_ns: int
    believed: bool
    recent: deque[int] = field(default_factory=lambda: deque(maxlen=_RECENT))
    catching_up: bool = False

    def has_had(self, starttime_ns: int) -> bool:
        """Whether a segment that starts then has come before, as far as is remembered."""
        return starttime_ns in self.recent or (self.believed and starttime_ns < self.recent[0])


class StationTrail:
    """What has been received of one station from one server.

    Args:
        floor_ns: What ends before it is not needed; None: everything is.
    """

    def __init__(self, floor_ns: int | None = None) -> None:
        self._floor_ns = floor_ns
        self._channels: dict[ChannelId, _Channel] = {}
        self._sequence: int | None = None
        self._start_ns: int | None = None
        self._protocol: Protocol = "4"
        self._told = False

    def resume(self, protocol: Protocol) -> Start | None:
        """Say where a new connection of this version shall begin, and be ready for packets that come again.

        Returns:
            None where nothing has been received.
        """
        self._told = False
        for channel in self._channels.values():
            channel.catching_up = True
        if not self._channels:
            return None
        if self._sequence is not None and self._start_ns is not None and self._protocol == protocol:
            # As all clients of libslink do: servers take the number if the packet before it starts in that second.
            return Start((self._sequence + 1) % SEQUENCES[protocol], self._start_ns)
        return self.by_time()

    def by_time(self) -> Start | None:
        """As `resume`, without a number: where the first of the channels goes on that have not ended."""
        if not self._channels:
            return None
        ends = [c.next_ns for c in self._channels.values() if c.believed or not self._believes]
        next_ns = min(end for end in ends if end >= max(ends) - CHANNEL_SPREAD_NS)
        return Start(None, next_ns - TIME_MARGIN_NS)

    def screen(self, segments: Iterable[Segment]) -> tuple[tuple[Segment, ...], Hole | None]:
        """Leave out what came before the connection was lost, and look for a hole where the data go on.

        Returns:
            What is new, and a hole at most once for each connection.
        """
        kept: list[Segment] = []
        hole: Hole | None = None
        for segment in segments:
            channel = self._channels.get(segment.channel_id)
            expected_ns = self._expected_ns(segment, channel)
            if expected_ns is not None:
                if channel is None:
                    if segment.next_ns <= expected_ns:
                        continue
                elif channel.has_had(segment.starttime_ns):
                    continue
                if segment.starttime_ns - expected_ns > _HOLE_SAMPLES * NS_PER_SECOND / segment.sampling_rate:
                    hole = hole or Hole(expected_ns, segment.starttime_ns)
            kept.append(segment)
        if hole is not None and self._told:
            hole = None
        self._told = self._told or hole is not None
        return tuple(kept), hole

    def advance(
        self, sequence: int | None, segments: Sequence[Segment], protocol: Protocol, *, believed: bool = True
    ) -> None:
        """Note a packet that has been passed on.

        Args:
            sequence: Its number.
            segments: Those that were new, at least one: a packet without any is not worth to be resumed at.
            protocol: Version of the connection that brought it.
            believed: Whether its times may be right. A position is one that is, as soon as there is one: asked for what
                follows a time in the future, a server would leave out all until then.
        """
        if not believed and self._believes:
            return
        self._sequence, self._start_ns, self._protocol = sequence, segments[0].starttime_ns, protocol
        for segment in segments:
            channel = self._channels.get(segment.channel_id)
            if channel is None or (believed and not channel.believed):
                channel = _Channel(segment.next_ns, segment.starttime_ns, believed)
                self._channels[segment.channel_id] = channel
            elif segment.next_ns > channel.next_ns:
                channel.next_ns, channel.start_ns = segment.next_ns, segment.starttime_ns
                channel.catching_up = False
            channel.recent.append(segment.starttime_ns)

    @property
    def _believes(self) -> bool:
        return any(channel.believed for channel in self._channels.values())

    def _expected_ns(self, segment: Segment, channel: _Channel | None) -> int | None:
        """Where this channel should go on, if it is about to."""
        if channel is not None:
            return channel.next_ns if channel.catching_up else None
        if self._floor_ns is None:
            return None
        # A channel that begins when the others have long gone on is a new one.
        newest_ns = max((known.next_ns for known in self._channels.values()), default=self._floor_ns)
        return self._floor_ns if newest_ns <= self._floor_ns + CHANNEL_SPREAD_NS else None


def first_start(
    positions: Sequence[Position],
    *,
    server: str,
    protocol: Protocol,
    shares_sequence: bool,
    backlog_start_ns: int | None,
) -> tuple[Start, int | None]:
    """Say where a station shall begin of which nothing has been received in this run.

    Args:
        positions: Those of the station.
        server: Label of the server that is asked.
        protocol: Version that is spoken with it.
        shares_sequence: Whether it is one like ringserver.
        backlog_start_ns: Where to begin without a position; None: with what is next.

    Returns:
        Where to begin, and the time before which nothing is needed, or None.
    """
    own = next((p for p in positions if p.server == server and p.sequence is not None), None)
    times = [p.time_ns for p in positions if p.time_ns is not None]
    time_ns = own.time_ns if own is not None and own.time_ns is not None else min(times, default=None)
    # ringserver goes on at the highest of all stations' numbers: right for a connection that was lost, as it sent all
    # before it, but of what stations need again after a restart it would leave out the lower ones. By time it begins
    # with the earliest.
    sequence: int | None = None
    if own is not None and own.sequence is not None and not (shares_sequence and time_ns is not None):
        sequence = own.sequence % SEQUENCES[protocol]
    if sequence is None and time_ns is None:
        return Start(None, backlog_start_ns), None
    return Start(sequence, time_ns - TIME_MARGIN_NS if time_ns is not None else None), time_ns
