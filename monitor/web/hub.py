"""What the page knows: one feed for each instrument, and the recent detections.

Everything here runs in the engine's thread, so that nothing is read while it is written; `monitor.web.page` asks.
"""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from monitor.model import Model
from monitor.pipeline import StationPipeline
from monitor.records import Detection
from monitor.spectrogram import F32, Bool
from monitor.web.drumfile import SavedDrum
from monitor.web.events import Event, Events, is_ripe
from monitor.web.feed import Feed, Piece

# Further ones are not shown: 0.3 MB each, and a page of hundreds of lines is none.
MOST_FEEDS = 128


class News(NamedTuple):
    """What is new since the last look.

    Attributes:
        stations: Descriptions of all instruments; None where none came, went or changed.
        feeds: Name -> its news, of those that were asked for.
        sparks: Lines of the overview; None where not asked for.
        events: Whose detection or picture changed.
    """

    stations: list[dict[str, object]] | None
    feeds: dict[str, dict[str, object]]
    sparks: list[dict[str, object]] | None
    events: list[Event]


class Hub:
    """Looks on while the pipelines work.

    Args:
        model: Which model judges.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._feeds: dict[str, Feed] = {}
        self.events = Events()
        # Instruments that there is no room for.
        self.hidden: set[str] = set()
        self._described: tuple[object, ...] = ()
        self._told: set[str] = set()
        # A picture is to be taken while what it shows is still held.
        self.has_work = False
        self._watched: frozenset[str] = frozenset()
        self._restored: dict[str, SavedDrum] = {}

    # -- as an observer ------------------------------------------------------------------------------------------------

    def saw_frames(
        self, pipeline: StationPipeline, first_frame: int, frames: npt.NDArray[np.int8], judged: Bool
    ) -> None:
        """Remember frames of the spectrogram."""
        feed = self._feed(pipeline)
        if feed is not None:
            feed.saw_frames(pipeline, first_frame, frames, judged)

    def saw_outputs(self, pipeline: StationPipeline, first_step: int, probabilities: F32, judged: Bool) -> None:
        """Remember what the model said."""
        feed = self._feed(pipeline)
        if feed is not None:
            feed.saw_outputs(first_step, probabilities, judged)

    def tell(self, detections: Iterable[Detection]) -> None:
        """Detections were made; their pictures are taken with the next `news`."""
        for detection in detections:
            self.events.tell(detection)
            self._told.add(detection.id)
            self.has_work = True

    # -- for viewers ---------------------------------------------------------------------------------------------------

    def keep_only(self, names: Iterable[str]) -> None:
        """Only these instruments are followed any more."""
        kept = set(names)
        self.hidden &= kept
        for gone in set(self._feeds) - kept:
            del self._feeds[gone]

    def news(self, *, watched: frozenset[str], overview: bool) -> News:
        """What is new.

        Args:
            watched: Instruments that somebody looks at.
            overview: Somebody looks at all of them.
        """
        for name in self._watched - watched:
            if name in self._feeds:
                self._feeds[name].forget_viewers()
        self._watched = watched
        described = tuple((n, f.group, f.threshold, f.epoch, f.n_shown) for n, f in sorted(self._feeds.items()))
        changed = described != self._described
        self._described = described
        return News(
            stations=self.stations() if changed else None,
            feeds={name: self._feeds[name].news() for name in sorted(watched) if name in self._feeds},
            sparks=self.sparks() if overview else None,
            events=self._draw(),
        )

    def stations(self) -> list[dict[str, object]]:
        """Descriptions of all instruments."""
        return [feed.description() for _, feed in sorted(self._feeds.items())]

    def sparks(self) -> list[dict[str, object]]:
        """Lines of the overview."""
        return [feed.spark() for _, feed in sorted(self._feeds.items())]

    def history(self, name: str) -> dict[str, object] | None:
        """The last minutes of an instrument; None where there is none of that name."""
        feed = self._feeds.get(name)
        return None if feed is None else feed.history()

    def recent(self, name: str) -> dict[str, object] | None:
        """What the stream of one who looks at an instrument begins with; None where there is none of that name."""
        feed = self._feeds.get(name)
        return None if feed is None else feed.recent()

    def drum(self, name: str) -> Piece | None:
        """The last day of an instrument; None where there is none of that name."""
        feed = self._feeds.get(name)
        return None if feed is None else feed.drum()

    def restore(self, drums: dict[str, SavedDrum]) -> None:
        """Take the drum plots that an earlier process left, for instruments that are yet to come."""
        for name in drums.keys() & self._feeds.keys():
            self._feeds[name].restore_drum(Piece(*msgspec.structs.astuple(drums.pop(name))))
        self._restored = drums

    def saved(self) -> dict[str, SavedDrum]:
        """The drum plots for a later process."""
        drums = {name: feed.drum() for name, feed in self._feeds.items()}
        return {**self._restored, **{name: SavedDrum(drum.first, drum.rows) for name, drum in drums.items()}}

    # -- inside --------------------------------------------------------------------------------------------------------

    def _feed(self, pipeline: StationPipeline) -> Feed | None:
        name = pipeline.group.name
        feed = self._feeds.get(name)
        if feed is not None and feed.group == pipeline.group:
            return feed
        if feed is None and len(self._feeds) >= MOST_FEEDS:
            self.hidden.add(name)
            return None
        feed = self._feeds[name] = Feed(pipeline.group, self._model)
        saved = self._restored.pop(name, None)
        if saved is not None:
            feed.restore_drum(Piece(*msgspec.structs.astuple(saved)))
        return feed

    def _draw(self) -> list[Event]:
        changed = []
        for event in self.events.incomplete():
            told = event.detection.id in self._told
            feed = self._feed_of(event.detection)
            if feed is None:
                event.complete = True
            elif told or is_ripe(event.detection, feed):
                self.events.draw(event, feed)
            if told or event.complete:
                changed.append(event)
        self._told.clear()
        self.has_work = bool(self.events.incomplete())
        return changed

    def _feed_of(self, detection: Detection) -> Feed | None:
        return next((f for f in self._feeds.values() if set(detection.seed_ids) & set(f.group.seed_ids)), None)
