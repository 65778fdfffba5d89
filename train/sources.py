"""Where training data come from: settings of one source, and the rules all readers share."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from train.traceinfo import Split

T = TypeVar("T")

Format = Literal["seisbench", "continuous"]
Progress = Callable[[str, int, int], None]
"""Called with the name of the source, how much of it is done, and how much there is."""

MINISEED_SUFFIXES = (".mseed", ".miniseed", ".ms", ".mseed3", ".ms3")

DATASET_WEIGHTS: Mapping[str, float] = {"telica_nicaragua": 0.5}
"""Default weights by data set: one volcano with many similar events must not be a third of the manual picks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    """One folder of training data; the fields are the keys of a `[[sources]]` table in TOML.

    Attributes:
        path: The folder.
        format: `seisbench` (metadata*.csv with waveforms*.hdf5) or `continuous` (miniSEED with picks.csv).
        name: Unique; the folder's name if empty. Also the data set's name where the folder does not tell.
        weight: Relative sampling weight of its traces.
        weights: Pattern of data set -> factor on `weight`; the first that matches counts.
        cap: Most traces per data set and split, 0 for all. Which ones depends on the seed and their names only.
        splits: Pattern -> `train`, `dev` or `none` (leave out), matched against data set, station ("NET.STA")
            and file name. Wins over what the folder says.
        dev_share: Share of events (of stations where events are not named) that become `dev` where nothing else
            decides.

    Raises:
        ValueError: A value is not accepted; the message names it.
    """

    path: Path
    format: Format = "seisbench"
    name: str = ""
    weight: float = 1.0
    weights: Mapping[str, float] = field(default_factory=lambda: DATASET_WEIGHTS)
    cap: int = 0
    splits: Mapping[str, str] = field(default_factory=dict)
    dev_share: float = 0.1

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            raise ValueError(f"source {self.path}: format {self.format!r}; accepted: {', '.join(get_args(Format))}")
        for label, weight in {"weight": self.weight, **{f"weights.{k}": v for k, v in self.weights.items()}}.items():
            if not 0 <= weight < float("inf"):
                raise ValueError(f"source {self.path}: {label} is {weight}; accepted: 0 or more")
        if self.cap < 0:
            raise ValueError(f"source {self.path}: cap is {self.cap}; accepted: 0 (no limit) or more")
        if not 0 <= self.dev_share <= 1:
            raise ValueError(f"source {self.path}: dev_share is {self.dev_share}; accepted: 0 to 1")
        for pattern, split in self.splits.items():
            if split not in ("train", "dev", "none"):
                raise ValueError(f"source {self.path}: splits.{pattern} is {split!r}; accepted: train, dev, none")
        if not self.name:
            object.__setattr__(self, "name", self.path.resolve().name)

    def weight_of(self, dataset: str) -> float:
        """Return the sampling weight of a trace of `dataset`."""
        factor = first_match(self.weights, dataset)
        return self.weight * (1.0 if factor is None else factor)

    def split_of(self, given: str, names: Sequence[str], group: str, seed: int) -> Split | None:
        """Decide the split of a trace.

        Args:
            given: What the source says: train, dev (val, validation), test, or "".
            names: What the patterns of `splits` are matched against.
            group: What must stay on one side: the event, else the station.
            seed: For the random choice where nothing decides.

        Returns:
            The split, or None for a trace to leave out (`test` rows among them).

        Raises:
            ValueError: `given` is none of these.
        """
        chosen = first_match(self.splits, *names) or given.strip().lower()
        match chosen:
            case "train":
                return "train"
            case "dev" | "val" | "valid" | "validation":
                return "dev"
            case "test" | "none":
                return None
            case "":
                return "dev" if rank(seed, "split", self.name, group) < self.dev_share else "train"
        raise ValueError(f"split {chosen!r}; accepted: train, dev, test or empty")


def source_spec(table: Mapping[str, Any], *, root: Path) -> SourceSpec:
    """Build a source from a TOML table; a relative path starts at `root`.

    Raises:
        ValueError: A key is unknown, `path` is missing, or a value is not accepted.
    """
    accepted = [item.name for item in fields(SourceSpec)]
    if unknown := sorted(set(table) - set(accepted)):
        raise ValueError(f"sources: unknown key {unknown[0]!r}; accepted: {', '.join(accepted)}")
    if "path" not in table:
        raise ValueError("sources: path is missing")
    return SourceSpec(**{**table, "path": root / Path(table["path"])})


def discover(data: Path) -> list[SourceSpec]:
    """List the sources in a folder: itself and the folders one level below, by name.

    Raises:
        ValueError: There are none.
    """
    folders = [data, *sorted(path for path in data.iterdir() if path.is_dir())] if data.is_dir() else []
    found = []
    for folder in folders:
        if any(folder.glob("metadata*.csv")) and any(folder.glob("waveforms*.hdf5")):
            found.append(SourceSpec(path=folder, format="seisbench"))
        elif (folder / "picks.csv").is_file() and miniseed_files(folder):
            found.append(SourceSpec(path=folder, format="continuous"))
    if not found:
        raise ValueError(
            f"{data}: no training data; accepted: folders with metadata.csv and waveforms.hdf5 (SeisBench), "
            "or with *.mseed and picks.csv"
        )
    return found


def distinct(specs: Sequence[SourceSpec]) -> list[SourceSpec]:
    """Give sources of one name the names of their parent folders, too.

    Raises:
        ValueError: A folder is given twice.
    """
    paths = [spec.path.resolve() for spec in specs]
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise ValueError(f"{twice}: is given twice")
    names = [spec.name for spec in specs]
    depth = 1
    while len(set(names)) < len(names):
        depth += 1
        often = {name for name in names if names.count(name) > 1}
        names = [
            "/".join(path.parts[-depth:]).lstrip("/") if name in often else name
            for name, path in zip(names, paths, strict=True)
        ]
    return [replace(spec, name=name) for spec, name in zip(specs, names, strict=True)]


def miniseed_files(folder: Path) -> list[Path]:
    """List the miniSEED files of a folder by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in MINISEED_SUFFIXES)


def first_match(patterns: Mapping[str, T], *names: str) -> T | None:
    """Return the value of the first shell pattern that matches one of the names."""
    for pattern, value in patterns.items():
        if any(fnmatchcase(name, pattern) for name in names):
            return value
    return None


def rank(seed: int, *names: str) -> float:
    """Return a number in [0, 1) that depends on the seed and the names only."""
    digest = hashlib.sha256("\x1f".join((str(seed), *names)).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def capped(items: Iterable[tuple[str, T]], *, cap: int, seed: int) -> list[T]:
    """Choose at most `cap` of (name, item), 0 for all, by the rank of the name; their order is kept."""
    listed = list(items)
    if not cap or len(listed) <= cap:
        return [item for _, item in listed]
    chosen = set(sorted((rank(seed, "cap", name), name) for name, _ in listed)[:cap])
    return [item for name, item in listed if (rank(seed, "cap", name), name) in chosen]


class Tally:
    """Counts what was left out and why, with a few examples of each reason."""

    MOST_EXAMPLES = 5

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, reason: str, example: str) -> None:
        """Count one."""
        self.counts[reason] += 1
        shown = self.examples.setdefault(reason, [])
        if len(shown) < self.MOST_EXAMPLES:
            shown.append(example)
