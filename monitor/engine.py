"""All instruments of a live monitor: packets in, detections out, and what a restart needs.

Synchronous, without sockets; the clock is given. One thread at a time.
"""

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from monitor.channel import ChannelCounts
from monitor.clock import Clock
from monitor.instrument import Following, Instrument
from monitor.latest import LatestTime
from monitor.model import Model
from monitor.observer import Observer
from monitor.quality import ChannelQuality, QualityReport
from monitor.records import ChannelId, Detection, Origin, Packet, Segment
from monitor.settings import Settings
from monitor.sources.seedlink_request import Selection
from monitor.state import SavedInstrument, SavedPosition, SavedState
from monitor.stations import MAX_SAMPLING_RATE, MIN_SAMPLING_RATE, StationGroup, group_channels, measures_ground_motion
from monitor.timebase import NS_PER_SECOND, parse_time

# A recorder that trusts its clock less than this says so; digitizers report percent, 100 is best.
_GOOD_TIMING_PERCENT = 50
# A channel that has been flat or clipped for so long before an onset shows no earthquake.
_UNUSABLE_S = 30.0
# Detections whose origin is remembered for their later revisions.
_MOST_OPEN = 4096
# Packets of a server and station whose sequence numbers are remembered, for positions.
_MOST_SEQUENCES = 20_000
# Instruments that one process follows; a wildcard may offer more than it can bear.
MOST_INSTRUMENTS = 2000


class Irregular(NamedTuple):
    """A server sent a packet out of the ordinary; the reasons are those of `monitor.metrics.PACKET_REASONS`."""

    server: str
    reason: str


class Judged(NamedTuple):
    """So many frames of a station were judged in so many seconds."""

    station_id: str
    frames: int
    seconds: float


class ChannelLook(NamedTuple):
    """How a channel is.

    Attributes:
        channel_id: Which.
        report: Its quality.
        counts: What its pipeline has counted; None where nothing follows it yet.
        ring_fill: Share of its ring that holds samples, 0 to 1.
    """

    channel_id: ChannelId
    report: QualityReport
    counts: ChannelCounts | None
    ring_fill: float


@dataclass(slots=True)
class Happened:
    """What happened since the last look, for the metrics."""

    irregular: Counter[Irregular] = field(default_factory=Counter)
    judged: list[Judged] = field(default_factory=list)


@dataclass(slots=True)
class _ChannelWatch:
    quality: ChannelQuality
    seen_ns: int | None = None  # monotonic: the clock may be set meanwhile
    timing_quality: int | None = None
    unusable_since_ns: int | None = None


@dataclass(slots=True)
class _Gathering:
    """An instrument of which not all channels may be known yet."""

    since_ns: int  # monotonic
    waiting: list[tuple[Segment, int]] = field(default_factory=list)

    def channels(self) -> set[ChannelId]:
        return {segment.channel_id for segment, _ in self.waiting}

    def span_ns(self) -> int:
        return max(s.next_ns for s, _ in self.waiting) - min(s.starttime_ns for s, _ in self.waiting)

    def longest_ns(self) -> int:
        """Of a segment: so long a component may need to fill its first one."""
        return max(s.next_ns - s.starttime_ns for s, _ in self.waiting)


_Key = tuple[str, str, str, str]


class Engine:
    """Follows every instrument that packets come from.

    Args:
        model: The loaded model.
        settings: The service's.
        clock: This computer's.
        saved: What an earlier process left.
        on_instruments: Told of all instruments' groups when there is a new one or one changes.
        observer: Looks on.
    """

    def __init__(
        self,
        model: Model,
        settings: Settings,
        *,
        clock: Clock,
        saved: SavedState | None = None,
        on_instruments: Callable[[list[StationGroup]], None] = lambda _: None,
        observer: Observer | None = None,
    ) -> None:
        self._model, self._settings, self._clock = model, settings, clock
        self._latest = LatestTime(clock)
        self._on_instruments = on_instruments
        metadata = model.metadata
        self._step_s = metadata.output_stride * metadata.spectrogram.frame_interval_s
        self._following = Following(model, settings.detector, settings.live, observer)
        self._instruments: dict[_Key, list[Instrument]] = {}
        self._of_channel: dict[ChannelId, Instrument] = {}
        self._gathering: dict[_Key, _Gathering] = {}
        self._watches: dict[ChannelId, _ChannelWatch] = {}
        self._origins: OrderedDict[str, Origin] = OrderedDict()
        self._sequences: dict[tuple[str, str], deque[tuple[int, int | None]]] = {}
        self._saved_positions: dict[tuple[str, str], SavedPosition] = {}
        self._happened = Happened()
        self.suppressed = 0
        if saved is not None:
            self._restore(saved)
        self._expect()

    # -- data --------------------------------------------------------------------------------------------------------

    def take(self, packet: Packet) -> list[Detection]:
        """Take a packet."""
        detections: list[Detection] = []
        useful = False
        for segment in packet.segments:
            if segment.npts and self._admit(segment, packet):
                useful = True
                detections += self._route(segment, packet)
        if useful:
            end = max(segment.next_ns for segment in packet.segments)
            trail = self._sequences.setdefault((packet.server, packet.station_id), deque(maxlen=_MOST_SEQUENCES))
            trail.append((end, packet.sequence))
            self._saved_positions.pop((packet.server, packet.station_id), None)
        return detections

    def tick(self) -> list[Detection]:
        """See what the passing of time alone changes; to be called every second or so."""
        now, live = self._clock.monotonic_ns(), self._settings.live
        self._latest.now_ns()
        detections: list[Detection] = []
        for key, gathering in list(self._gathering.items()):
            if now - gathering.since_ns > live.component_wait_s * NS_PER_SECOND + gathering.longest_ns():
                detections += self._begin(key)
        for instrument in self._of_channel.values():
            # Where nothing goes on, data that come after a long outage go on from where they stopped, as in a replay.
            if not instrument.pipeline.is_detecting:
                continue
            received = [self._watches[c].seen_ns for c in instrument.channels if c in self._watches]
            newest = max((ns for ns in received if ns is not None), default=None)
            if newest is not None and now - newest > live.end_of_data_s * NS_PER_SECOND:
                detections += self._told(instrument, instrument.end())
        return detections

    def reconfigure(self, settings: Settings, wanted: Callable[[ChannelId], bool]) -> list[Detection]:
        """Take other settings over without a restart: those of detector, live, quality and what is asked for.

        Args:
            settings: The new ones.
            wanted: Whether a channel is still to be followed.
        """
        detections: list[Detection] = []
        self._settings = settings
        self._following = Following(self._model, settings.detector, settings.live, self._following.observer)
        for key, instruments in list(self._instruments.items()):
            if not any(wanted(channel) for instrument in instruments for channel in instrument.channels):
                for instrument in instruments:
                    detections += self._told(instrument, instrument.end())
                    for channel in instrument.channels:
                        del self._of_channel[channel], self._watches[channel]
                del self._instruments[key]
                continue
            for instrument in instruments:
                detections += self._told(instrument, instrument.reconfigure(self._following))
        for channel in [c for c in self._watches if c not in self._of_channel and not wanted(c)]:
            del self._watches[channel]
        for watch in self._watches.values():
            watch.quality.reconfigure(settings.quality)
        self._expect()
        self._on_instruments(self.groups)
        return detections

    # -- what is known of it -----------------------------------------------------------------------------------------

    @property
    def groups(self) -> list[StationGroup]:
        """The instruments that are followed."""
        return sorted(i.group for i in set(self._of_channel.values()))

    @property
    def instruments(self) -> list[Instrument]:
        """The same, with what follows them."""
        return sorted(set(self._of_channel.values()), key=lambda instrument: instrument.group.name)

    def happened(self) -> Happened:
        """What happened since this was last asked."""
        happened, self._happened = self._happened, Happened()
        return happened

    def look(self) -> list[ChannelLook]:
        """Look at each channel."""
        now = self._clock.now_ns()
        looks = []
        for channel_id, watch in sorted(self._watches.items()):
            instrument = self._of_channel.get(channel_id)
            channel = None if instrument is None else instrument.pipeline.channels[channel_id]
            looks.append(
                ChannelLook(
                    channel_id,
                    watch.quality.report(now),
                    None if channel is None else channel.counts,
                    0.0 if channel is None else channel.ring.fill,
                )
            )
        return looks

    def saved(self) -> SavedState:
        """What a restart needs."""
        instruments = [saved for i in self.instruments if (saved := i.saved()) is not None]
        return SavedState(
            step_s=self._step_s, saved_ns=self._clock.now_ns(), instruments=instruments, positions=self.positions()
        )

    def positions(self) -> list[SavedPosition]:
        """From where each server's stations are needed."""
        needed: dict[str, int] = {}
        for instrument in self.instruments:
            at = instrument.needed_from_ns
            if at is not None:
                station = instrument.group.station_id
                needed[station] = min(at, needed.get(station, at))
        for (network, station, *_), gathering in self._gathering.items():
            at = min(segment.starttime_ns for segment, _ in gathering.waiting)
            name = f"{network}.{station}"
            needed[name] = min(at, needed.get(name, at))
        positions = list(self._saved_positions.values())
        for (server, station), trail in self._sequences.items():
            if station not in needed:
                continue
            # What the front of the trail brought is no longer needed.
            while len(trail) > 1 and trail[0][0] <= needed[station]:
                trail.popleft()
            # A full trail may have lost its front: then only the time is known.
            sequence = trail[0][1] if len(trail) < _MOST_SEQUENCES else None
            positions.append(SavedPosition(server=server, station=station, sequence=sequence, time_ns=needed[station]))
        return positions

    # -- inside ------------------------------------------------------------------------------------------------------

    def _expect(self) -> None:
        """Watch the channels that are asked for by name: one that never sends is dead, not unknown."""
        now = self._clock.now_ns()
        for server in self._settings.seedlink:
            for channel in Selection(server.stations).named_channels:
                self._watch(channel, now)

    def _watch(self, channel: ChannelId, opened_ns: int) -> _ChannelWatch | None:
        """How a channel is watched, from now on where it is new; None where there are too many."""
        watch = self._watches.get(channel)
        if watch is None and len(self._watches) < 3 * MOST_INSTRUMENTS:
            quality = ChannelQuality(self._settings.quality, channel, opened_ns=opened_ns)
            watch = self._watches[channel] = _ChannelWatch(quality)
        return watch

    def _admit(self, segment: Segment, packet: Packet) -> bool:
        """Count a segment and say whether it is of use."""
        channel = segment.channel_id
        if not measures_ground_motion(channel) or not MIN_SAMPLING_RATE <= segment.sampling_rate <= MAX_SAMPLING_RATE:
            self._note(packet, "unwanted")
            return False
        watch = self._watch(channel, packet.received_ns)
        if watch is None:
            self._note(packet, "unwanted")
            return False
        ahead_ns = segment.next_ns - max(packet.received_ns, self._latest.now_ns())
        # A computer that knows its own clock to be wrong is no judge.
        if (
            ahead_ns > self._settings.live.future_tolerance_s * NS_PER_SECOND
            and self._clock.synchronised() is not False
        ):
            self._note(packet, "future")
            return False
        watch.seen_ns = self._clock.monotonic_ns()
        watch.timing_quality = packet.timing_quality
        watch.quality.push(segment, received_ns=packet.received_ns, timing_quality=packet.timing_quality)
        if watch.quality.usable:
            watch.unusable_since_ns = None
        elif watch.unusable_since_ns is None:
            watch.unusable_since_ns = segment.starttime_ns
        return True

    def _note(self, packet: Packet, reason: str) -> None:
        self._happened.irregular[Irregular(packet.server, reason)] += 1

    def _route(self, segment: Segment, packet: Packet) -> list[Detection]:
        instrument = self._of_channel.get(segment.channel_id)
        if instrument is not None:
            counts = instrument.reorder(segment.channel_id).counts
            before = counts.duplicates, counts.out_of_order, counts.clock_set_back
            detections = self._push(instrument, segment, self._clock.monotonic_ns())
            after = counts.duplicates, counts.out_of_order, counts.clock_set_back
            for reason, more in zip(
                ("duplicate", "out_of_order", "back_in_time"), map(int.__gt__, after, before), strict=True
            ):
                if more:
                    self._note(packet, reason)
            return detections
        key = _key(segment.channel_id)
        known = key in self._gathering or key in self._instruments
        if not known and len(self._instruments) + len(self._gathering) >= MOST_INSTRUMENTS:
            self._note(packet, "unwanted")
            return []
        now = self._clock.monotonic_ns()
        gathering = self._gathering.setdefault(key, _Gathering(now))
        gathering.waiting.append((segment, now))
        wait_ns = round(self._settings.live.component_wait_s * NS_PER_SECOND) + gathering.longest_ns()
        if len(gathering.channels()) < 3 and gathering.span_ns() < wait_ns and key not in self._instruments:
            return []
        return self._begin(key)

    def _push(self, instrument: Instrument, segment: Segment, received_ns: int) -> list[Detection]:
        began, before = time.perf_counter(), instrument.pipeline.frames_judged
        detections = instrument.push(segment, received_ns=received_ns)
        frames = instrument.pipeline.frames_judged - before
        if frames > 0:
            seconds = time.perf_counter() - began
            self._happened.judged.append(Judged(instrument.group.station_id, frames, seconds))
        return self._told(instrument, detections)

    def _begin(self, key: _Key) -> list[Detection]:
        """Follow an instrument whose channels are known now, or with a channel more than before."""
        gathering = self._gathering.pop(key)
        detections: list[Detection] = []
        channels = gathering.channels()
        for before in self._instruments.get(key, []):
            detections += self._told(before, before.end())
            channels.update(before.channels)
        self._follow(key, [Instrument(group, self._following) for group in group_channels(channels)])
        for segment, received_ns in gathering.waiting:
            instrument = self._of_channel[segment.channel_id]
            detections += self._push(instrument, segment, received_ns)
        return detections

    def _follow(self, key: _Key, instruments: list[Instrument]) -> None:
        self._instruments[key] = instruments
        for instrument in instruments:
            for channel in instrument.channels:
                self._of_channel[channel] = instrument
        self._on_instruments(self.groups)

    def _restore(self, saved: SavedState) -> None:
        self._saved_positions = {(p.server, p.station): p for p in saved.positions}
        if saved.step_s != self._step_s:
            return
        by_key: dict[_Key, list[SavedInstrument]] = {}
        for one in saved.instruments:
            channels = [ChannelId(*seed_id.split(".")) for seed_id in one.seed_ids if seed_id.count(".") == 3]
            if channels:
                by_key.setdefault(_key(channels[0]), []).append(one)
        now = self._clock.now_ns()
        for key, of_key in by_key.items():
            known = [ChannelId(*seed_id.split(".")) for one in of_key for seed_id in one.seed_ids]
            names = {one.name: one for one in of_key}
            self._follow(key, [Instrument(g, self._following, saved=names.get(g.name)) for g in group_channels(known)])
            for channel in known:
                self._watch(channel, now)

    def _told(self, instrument: Instrument, detections: Iterable[Detection]) -> list[Detection]:
        """Mark what is late, add what is known of the time, leave out what a broken channel shows."""
        told = []
        for detection in detections:
            origin = self._origins.get(detection.id)
            if origin is None:
                if detection.revision == 0 and self._is_broken(instrument, detection):
                    self.suppressed += 1
                    continue
                if detection.revision != 0:
                    continue  # a later revision of what was left out
                late_ns = self._clock.now_ns() - parse_time(detection.decided_at)
                origin = "backfill" if late_ns > self._settings.live.lateness_s * NS_PER_SECOND else "live"
                self._origins[detection.id] = origin
                while len(self._origins) > _MOST_OPEN:
                    self._origins.popitem(last=False)
            if detection.state == "final":
                del self._origins[detection.id]
            checks = dict(detection.reason.checks)
            qualities = [self._watches[c].timing_quality for c in instrument.channels if c in self._watches]
            known = [quality for quality in qualities if quality is not None]
            if known:
                checks["timing_good"] = min(known) >= _GOOD_TIMING_PERCENT
            reason = msgspec.structs.replace(detection.reason, checks=checks)
            told.append(msgspec.structs.replace(detection, origin=origin, reason=reason))
        return told

    def _is_broken(self, instrument: Instrument, detection: Detection) -> bool:
        limit_ns = parse_time(detection.onset) - round(_UNUSABLE_S * NS_PER_SECOND)
        since = [self._watches[c].unusable_since_ns for c in instrument.channels if c in self._watches]
        return bool(since) and all(ns is not None and ns < limit_ns for ns in since)


def _key(channel: ChannelId) -> _Key:
    return (*channel[:3], channel.channel[:2])
