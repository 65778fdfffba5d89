"""What a part of the suite found, for the report."""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

# Details of failures that are kept of one outcome.
_MOST_DETAILS = 20


@dataclass
class Outcome:
    """One fault, as often as it was tried.

    Attributes:
        part: Of the suite.
        fault: What was broken.
        promise: What was to hold all the same.
        runs: How often it was tried; in what, `unit` says.
        unit: What is counted.
        losses: Detections, messages or samples that were to come and did not.
        duplicates: What came more than once, which is allowed.
        broken: Runs in which the promise did not hold.
        note: What else a reader wants to know.
        details: Of what was broken.
    """

    part: str
    fault: str
    promise: str
    unit: str = "runs"
    runs: int = 0
    losses: int = 0
    duplicates: int = 0
    broken: int = 0
    note: str = ""
    details: list[str] = field(default_factory=list)

    def fail(self, detail: str) -> None:
        """Note that the promise did not hold."""
        self.broken += 1
        if len(self.details) < _MOST_DETAILS:
            self.details.append(detail)

    @property
    def held(self) -> bool:
        """Whether the promise held each time, and there was a time; not every promise is that nothing is lost."""
        return self.runs > 0 and not self.broken


@dataclass(frozen=True)
class Options:
    """How the suite is run.

    Attributes:
        folder: For whatever is written; a folder of its own for each part.
        seed: Of all chance.
        kills: Kills, in all.
        minutes: For fuzzing, in all.
        only: The one target that is fuzzed; what is known of the others stays.
        combinations: Of faults of the network at most; about 70 hold each pair.
        crash_points: Power cuts of the outbox and the state file.
        copies: State directories copied from the running service.
        soak_hours: Of data of one station.
        crowd_stations: Stations followed at once, of three channels each.
        crowd_hours: Of data of all these.
        short: As in `make test`: the least of each.
    """

    folder: Path
    seed: int = 1
    kills: int = 200
    minutes: float = 60.0
    only: str = ""
    combinations: int = 1000
    crash_points: int = 1500
    copies: int = 30
    soak_hours: float = 720.0
    crowd_stations: int = 100
    crowd_hours: float = 24.0
    short: bool = False

    def room(self, name: str) -> Path:
        """Make a folder."""
        path = self.folder / name
        path.mkdir(parents=True)
        return path


class Ledger:
    """The outcomes of all parts that were run, each its last time; in a file, so that parts can be run one by one.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.parts: dict[str, dict[str, Any]] = {}
        if path.exists():
            self.parts = msgspec.json.decode(path.read_bytes())

    def put(
        self, part: str, outcomes: list[Outcome], *, seconds: float, about: dict[str, str], keep: bool = False
    ) -> None:
        """Replace what is known of a part.

        Args:
            part: Which.
            outcomes: Of it.
            seconds: That it took.
            about: How it was run.
            keep: Replace only what is known of the same faults.
        """
        if keep and part in self.parts:
            newer = {outcome.fault: outcome for outcome in outcomes}
            outcomes = [newer.get(outcome.fault, outcome) for outcome in self.outcomes(part)]
            seconds += self.parts[part]["seconds"]
        self.parts[part] = {
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "seconds": round(seconds),
            "about": about,
            "outcomes": [asdict(outcome) for outcome in outcomes],
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_bytes(msgspec.json.format(msgspec.json.encode(self.parts)))

    def outcomes(self, part: str) -> list[Outcome]:
        """Of one part."""
        return [Outcome(**fields) for fields in self.parts[part]["outcomes"]]
