"""What was heard, put together: revisions to detections, detections to earthquakes. Pure.

What was to be expected follows from the stations themselves: an earthquake that two of them agree on, every station
that had data should have heard.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from monitor.records import Detection
from monitor.timebase import NS_PER_SECOND, parse_time

AGREE_NS = 10 * NS_PER_SECOND
"""Onsets within this are of one earthquake: P waves cross a local network of 60 km in it."""


@dataclass(slots=True, eq=False)
class Heard:
    """One detection: all of its revisions.

    Attributes:
        revisions: In the order of arrival, each once.
        delays_s: From the last packet that a revision needed to its message; where known.
    """

    revisions: list[Detection] = field(default_factory=list)
    delays_s: list[float] = field(default_factory=list)

    @property
    def last(self) -> Detection:
        """The highest revision."""
        return max(self.revisions, key=lambda detection: detection.revision)

    @property
    def onset_ns(self) -> int:
        """As the highest revision has it, nanoseconds since the epoch."""
        return parse_time(self.last.onset)

    @property
    def is_open(self) -> bool:
        """Is another revision to come?"""
        return self.last.state in {"new", "update"}


@dataclass(slots=True, eq=False)
class Earthquake:
    """What several stations heard at about one time.

    Attributes:
        onset_ns: The earliest, nanoseconds since the epoch.
        heard: `NET.STA` -> detection.
    """

    onset_ns: int
    heard: dict[str, Heard] = field(default_factory=dict)

    @property
    def is_confirmed(self) -> bool:
        """Do two stations agree on it?"""
        return len(self.heard) > 1


class Tally:
    """Takes revisions as they arrive."""

    def __init__(self) -> None:
        self._heard: dict[str, Heard] = {}
        self._seen: set[tuple[str, int]] = set()
        self._forgotten = 0
        self.states: dict[str, int] = {}
        self.repeated = 0

    def add(self, detection: Detection, *, delay_s: float | None) -> bool:
        """Take a revision; False where it had come before, as messages may with QoS 1."""
        key = detection.id, detection.revision
        if key in self._seen:
            self.repeated += 1
            return False
        self._seen.add(key)
        heard = self._heard.setdefault(detection.id, Heard())
        heard.revisions.append(detection)
        if delay_s is not None:
            heard.delays_s.append(delay_s)
        self.states[detection.state] = self.states.get(detection.state, 0) + 1
        return True

    @property
    def detections(self) -> int:
        """How many there are, whatever became of them."""
        return len(self._heard)

    @property
    def open(self) -> list[Heard]:
        """Detections of which more is to come."""
        return [heard for heard in self._heard.values() if heard.is_open]

    @property
    def delays_s(self) -> list[float]:
        """Of all revisions, sorted."""
        return sorted(delay for heard in self._heard.values() for delay in heard.delays_s)

    def earthquakes(self) -> list[Earthquake]:
        """What was not taken back, in order of time."""
        found: list[Earthquake] = []
        standing = [heard for heard in self._heard.values() if heard.last.state != "retracted"]
        for heard in sorted(standing, key=lambda heard: heard.onset_ns):
            station = heard.last.station
            for earthquake in found:
                if heard.onset_ns - earthquake.onset_ns <= AGREE_NS and station not in earthquake.heard:
                    earthquake.heard[station] = heard
                    break
            else:
                found.append(Earthquake(heard.onset_ns, {station: heard}))
        return found

    def earthquake_of(self, detection: Detection) -> tuple[int, Earthquake] | None:
        """The earthquake that a detection is of, and its number from 1 on; None where it was taken back."""
        for number, earthquake in enumerate(self.earthquakes(), self._forgotten + 1):
            if any(heard.last.id == detection.id for heard in earthquake.heard.values()):
                return number, earthquake
        return None

    def forget(self, *, before_ns: int) -> None:
        """Forget the earthquakes of before a moment; the others keep their numbers."""
        old = [earthquake for earthquake in self.earthquakes() if earthquake.onset_ns < before_ns]
        self._forgotten += len(old)
        gone = {heard.last.id for earthquake in old for heard in earthquake.heard.values()}
        self._heard = {name: heard for name, heard in self._heard.items() if name not in gone}
        self._seen = {(name, revision) for name, revision in self._seen if name not in gone}


def expected_and_found(earthquakes: Iterable[Earthquake], stations: Iterable[str]) -> tuple[int, int]:
    """Count the detections that the agreement of two stations lets one expect, and those of them that came."""
    confirmed = [earthquake for earthquake in earthquakes if earthquake.is_confirmed]
    return len(confirmed) * len(list(stations)), sum(len(earthquake.heard) for earthquake in confirmed)
