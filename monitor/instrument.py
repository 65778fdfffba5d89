"""One instrument followed live: segments as they are received in, detections out. No sockets, no clock of its own.

What `monitor.pipeline` leaves to its source is decided here: which channels belong to the instrument, in which order
segments come, and how long a component is waited for.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from monitor.detector import DetectorSettings, Settled
from monitor.model import Model
from monitor.observer import Observer
from monitor.pipeline import LIVE_BATCH_S, StationPipeline
from monitor.records import ChannelId, Detection, Segment
from monitor.reorder import Reorder
from monitor.settings import LiveSettings
from monitor.state import SavedInstrument
from monitor.stations import StationGroup
from monitor.timebase import NS_PER_SECOND


@dataclass(frozen=True, slots=True)
class Following:
    """What following an instrument needs to know.

    Attributes:
        model: The loaded model.
        detector: How to decide.
        live: How long to wait for what.
        observer: Looks on.
    """

    model: Model
    detector: DetectorSettings
    live: LiveSettings
    observer: Observer | None = None


# Segments of a component whose lengths are remembered: recorders that fill records send short ones while the ground
# shakes and long ones again afterwards.
_LENGTHS = 64


@dataclass(slots=True)
class _Component:
    reorder: Reorder
    pushed_until_ns: int | None = None
    lengths_ns: deque[int] = field(default_factory=lambda: deque(maxlen=_LENGTHS))


class Instrument:
    """Follows one instrument whose channels are known.

    Args:
        group: Its channels.
        following: How.
        saved: From where on an earlier process had it, if it did.
    """

    def __init__(self, group: StationGroup, following: Following, *, saved: SavedInstrument | None = None) -> None:
        self.group = group
        self._following = following
        self._settled = None if saved is None else Settled(saved.settled_step, saved.taken_until)
        self._needed_from_ns = None if saved is None else saved.needed_from_ns
        wait_s = following.live.reorder_wait_s
        self._components = {c: _Component(Reorder(wait_s)) for c in group.channels if c is not None}
        self._pipeline = self._new_pipeline(self._settled)
        self._ended = False

    @property
    def channels(self) -> Sequence[ChannelId]:
        """Its channels."""
        return list(self._components)

    @property
    def pipeline(self) -> StationPipeline:
        """What judges it now."""
        return self._pipeline

    def reorder(self, channel: ChannelId) -> Reorder:
        """What orders a channel."""
        return self._components[channel].reorder

    @property
    def newest_ns(self) -> int | None:
        """Time up to which any of its channels has been passed on; None before any."""
        return max(
            (c.pushed_until_ns for c in self._components.values() if c.pushed_until_ns is not None), default=None
        )

    @property
    def needed_from_ns(self) -> int | None:
        """Samples from here on are needed to be where it is; None before any."""
        point = self._pipeline.resume_point
        needed = self._needed_from_ns if point is None else max(point.needed_from_ns, self._needed_from_ns or 0)
        held = [c.reorder.held_from_ns for c in self._components.values() if c.reorder.held_from_ns is not None]
        return needed if needed is None else min([needed, *held])

    def saved(self) -> SavedInstrument | None:
        """What a restart needs; None before any data."""
        needed, point = self.needed_from_ns, self._pipeline.resume_point
        settled = self._settled if point is None else point.settled
        if needed is None:
            return None
        return SavedInstrument(
            name=self.group.name,
            seed_ids=[c.seed_id for c in self._components],
            needed_from_ns=needed,
            settled_step=0 if settled is None else settled.step,
            taken_until=0 if settled is None else settled.taken_until,
        )

    def push(self, segment: Segment, *, received_ns: int) -> list[Detection]:
        """Take a segment as it was received.

        Raises:
            KeyError: The channel is not one of its own.
        """
        component = self._components[segment.channel_id]
        component.lengths_ns.append(segment.next_ns - segment.starttime_ns)
        before = component.reorder.counts.clock_set_back
        ready = component.reorder.push(segment, received_ns=received_ns)
        detections: list[Detection] = []
        if component.reorder.counts.clock_set_back > before:
            # One recorder, one clock: what the other channels bring next is as far back.
            for other in self._components.values():
                if other is not component:
                    other.reorder.forget()
            detections += self.restart()
        if self._ended and ready:
            self._begin_anew(ready[0].starttime_ns)
        for piece in ready:
            if self._needed_from_ns is None:
                self._needed_from_ns = piece.starttime_ns
            detections += self._pipeline.push(piece)
            component.pushed_until_ns = piece.next_ns
        newest = self.newest_ns
        if ready and newest is not None:
            # A record that is still being filled is not late.
            longest_ns = max(max(c.lengths_ns, default=0) for c in self._components.values())
            wait_ns = round(self._following.live.component_wait_s * NS_PER_SECOND) + longest_ns
            detections += self._pipeline.advance(newest - wait_ns)
        return detections

    def reconfigure(self, following: Following) -> list[Detection]:
        """Decide by other settings from now on."""
        self._following = following
        return self._pipeline.reconfigure(following.detector)

    def restart(self) -> list[Detection]:
        """End what is going on and know nothing of what was: the recorder's clock was set, or channels came or went."""
        detections = self.end()
        for component in self._components.values():
            component.pushed_until_ns = None
        self._begin_anew(None)
        return detections

    def end(self) -> list[Detection]:
        """No more data for now: pass on what is held back, judge the tail, end what is going on."""
        if self._ended:
            return []
        detections: list[Detection] = []
        for component in self._components.values():
            for piece in component.reorder.flush():
                detections += self._pipeline.push(piece)
                component.pushed_until_ns = piece.next_ns
        detections += self._pipeline.finish()
        self._ended = True
        return detections

    def _begin_anew(self, from_ns: int | None) -> None:
        self._pipeline, self._settled, self._needed_from_ns = self._new_pipeline(None), None, from_ns
        self._ended = False

    def _new_pipeline(self, settled: Settled | None) -> StationPipeline:
        return StationPipeline(
            self.group,
            self._following.model,
            self._following.detector,
            origin="live",
            batch_s=LIVE_BATCH_S,
            observer=self._following.observer,
            resume=settled,
        )
