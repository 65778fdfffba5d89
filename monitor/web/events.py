"""The recent detections, with what was recorded around each: bounded in number and in bytes."""

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from monitor.records import Detection
from monitor.timebase import NS_PER_SECOND, parse_time
from monitor.web.feed import Feed, Piece
from monitor.web.thumb import BEFORE_S as THUMB_BEFORE_S
from monitor.web.thumb import Thumb, thumb_of

# In the list; with pictures while they fit.
MOST_EVENTS = 50
MOST_PICTURE_BYTES = 2 * 1024 * 1024
# Around a detection.
BEFORE_S, AFTER_S, LONGEST_S = 15.0, 20.0, 180.0


@dataclass(slots=True)
class Event:
    """A detection as the page shows it.

    Attributes:
        detection: The newest revision.
        instrument: Name of the instrument that saw it; None where it is not followed any more.
        thumb: Least and greatest value of each bin of a small picture, -100 to 100, None where it is not known.
        picture: What was recorded around it, for `picture_json`; None where it is not remembered.
        archived: It has a folder in the archive.
        complete: The picture holds all that it can.
    """

    detection: Detection
    instrument: str | None = None
    thumb: Thumb = field(default_factory=list)
    picture: dict[str, object] | None = None
    picture_bytes: int = 0
    archived: bool = False
    complete: bool = False

    def summary(self) -> dict[str, object]:
        """What the list shows."""
        return {
            "detection": self.detection,
            "instrument": self.instrument,
            "thumb": self.thumb,
            "picture": self.picture is not None,
            "archived": self.archived,
        }


class Events:
    """Remembers the newest detections by id."""

    def __init__(self) -> None:
        self._events: OrderedDict[str, Event] = OrderedDict()

    def __iter__(self) -> Iterator[Event]:
        """Newest first, by onset."""
        return iter(sorted(self._events.values(), key=lambda e: e.detection.onset, reverse=True))

    def __len__(self) -> int:
        return len(self._events)

    def get(self, identifier: str) -> Event | None:
        """The event of that id."""
        return self._events.get(identifier)

    def tell(self, detection: Detection) -> Event:
        """Take a revision; an older one than is known changes nothing."""
        event = self._events.get(detection.id)
        if event is None:
            event = self._events[detection.id] = Event(detection)
        elif detection.revision >= event.detection.revision:
            event.detection = detection
        self._shrink()
        return event

    def remember(self, archived: Iterable[tuple[Detection, Thumb]]) -> None:
        """Take what an archive holds; what is known already stays."""
        for detection, thumb in archived:
            event = self._events.setdefault(detection.id, Event(detection, thumb=thumb, complete=True))
            event.archived = True
        self._shrink()

    def incomplete(self) -> list[Event]:
        """Those whose picture is still to grow."""
        return [event for event in self._events.values() if not event.complete]

    def draw(self, event: Event, feed: Feed) -> None:
        """Take the picture of an event from what the feed holds now; in the engine's thread."""
        onset_s = parse_time(event.detection.onset) / NS_PER_SECOND
        stop_s = min(_wanted_until_s(event.detection), (feed.newest_ns or 0) / NS_PER_SECOND)
        event.instrument = feed.group.name
        event.complete = is_ripe(event.detection, feed)
        pipeline = feed.pipeline
        if pipeline is None or stop_s <= onset_s:
            return
        rate = feed.params.sampling_rate
        first, stop = math.floor((onset_s - BEFORE_S) * rate), math.floor(stop_s * rate)
        waves = {}
        for channel_id, channel in pipeline.channels.items():
            samples, valid = channel.ring.read(first, stop)
            samples[~valid] = np.nan
            waves[channel_id.seed_id] = samples.astype(np.float32)
        event.thumb = thumb_of(waves[feed.shown.seed_id][round((BEFORE_S - THUMB_BEFORE_S) * rate) :], rate)
        event.picture = {
            "feed": feed.description(),
            "rate": rate,
            "first_sample": first,
            "waves": {name: wave.tobytes() for name, wave in waves.items()},
            "frames": feed.frames_between(onset_s - BEFORE_S, stop_s),
            "steps": feed.steps_between(onset_s - BEFORE_S, stop_s),
        }
        event.picture_bytes = sum(wave.nbytes for wave in waves.values()) + sum(
            len(piece.rows) for piece in event.picture.values() if isinstance(piece, Piece)
        )
        self._shrink()

    def _shrink(self) -> None:
        """Forget the oldest events, and the pictures of older ones while all together are too large."""
        by_onset = sorted(self._events.values(), key=lambda e: e.detection.onset)
        while len(by_onset) > MOST_EVENTS:
            del self._events[by_onset.pop(0).detection.id]
        total = sum(event.picture_bytes for event in by_onset)
        for event in by_onset:
            if total <= MOST_PICTURE_BYTES:
                break
            total -= event.picture_bytes
            event.picture, event.picture_bytes = None, 0


def is_ripe(detection: Detection, feed: Feed) -> bool:
    """Is everything there that a picture of a detection shows?"""
    return detection.state in {"final", "retracted"} and feed.judged_until_s >= _wanted_until_s(detection)


def _wanted_until_s(detection: Detection) -> float:
    onset_s = parse_time(detection.onset) / NS_PER_SECOND
    end_s = onset_s if detection.end is None else parse_time(detection.end) / NS_PER_SECOND
    return min(end_s + AFTER_S, onset_s - BEFORE_S + LONGEST_S)
