"""The `prepare` step: turn folders of seismograms into one store that training maps into memory.

A store is a folder:

    samples.f32     float32, little-endian; trace after trace, each [3, npts] in C order, Z N E, 100 Hz
    traces.json     list of TraceInfo in the same order
    manifest.json   settings, counts, what was left out and why, fingerprint; written last

Only one trace is in memory while preparing, and only the labels while training.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
import numpy.typing as npt

from train.reviewed import read_reviewed, with_reviewed
from train.sources import Progress, SourceSpec, Tally, discover, distinct, first_match, source_spec
from train.sources_continuous import read_continuous
from train.sources_seisbench import read_seisbench
from train.traceinfo import RATE_HZ, Kind, Pick, Split, TraceInfo

__all__ = ["Pick", "SourceSpec", "Store", "TraceInfo", "discover", "distinct", "prepare", "source_spec", "summary"]

SCHEMA = "train.store/1"

Samples = npt.NDArray[np.float32]


class Store:
    """A prepared store, opened for reading.

    Attributes:
        path: Its folder.
        manifest: As written by `prepare`.
        traces: What is known about each trace, in the order of the file.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], traces: list[TraceInfo]) -> None:
        self.path = path
        self.manifest = manifest
        self.traces = traces
        lengths = np.array([info.npts for info in traces], np.int64)
        self._offsets = np.concatenate(([0], np.cumsum(3 * lengths)))
        file = path / "samples.f32"
        expected = int(self._offsets[-1]) * 4
        if file.stat().st_size != expected:
            raise ValueError(
                f"{file}: {file.stat().st_size} bytes; expected {expected} from traces.json: prepare again"
            )
        self._samples: npt.NDArray[np.float32] = np.memmap(file, "<f4", "r")

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open a store.

        Raises:
            ValueError: It is not a store of this version, or not complete.
        """
        path = Path(path)
        try:
            manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ValueError(f"{path}: not a prepared store (no manifest.json); run prepare first") from error
        if manifest.get("schema") != SCHEMA:
            raise ValueError(f"{path}: schema is {manifest.get('schema')!r}; accepted: {SCHEMA}: prepare again")
        return cls(path, manifest, msgspec.json.decode((path / "traces.json").read_bytes(), type=list[TraceInfo]))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all samples and labels; the order of files, rows and traces does not change it."""
        return str(self.manifest["fingerprint"])

    def __len__(self) -> int:
        return len(self.traces)

    def waveform(self, index: int, start: int = 0, stop: int | None = None) -> Samples:
        """Copy samples [start, stop) of a trace.

        Returns:
            [shape=(3, stop - start), dtype float32] Z, N, E.

        Raises:
            ValueError: The range is not within the trace.
            IndexError: There is no such trace.
        """
        info = self.traces[index]
        stop = info.npts if stop is None else stop
        if not 0 <= start <= stop <= info.npts:
            raise ValueError(f"{info.name}: samples {start} to {stop}; accepted: within 0 to {info.npts}")
        offset = int(self._offsets[index % len(self.traces)])
        block = self._samples[offset : offset + 3 * info.npts].reshape(3, info.npts)
        return np.array(block[:, start:stop], np.float32)

    def select(
        self,
        *,
        split: Split | None = None,
        kind: Kind | Collection[Kind] | None = None,
        datasets: Collection[str] | None = None,
        exclude_datasets: Collection[str] = (),
    ) -> list[int]:
        """List the indices of the traces that match all conditions.

        Args:
            split: `train` or `dev`.
            kind: One kind or several.
            datasets: Shell patterns; a trace is in if one matches its data set or its source.
            exclude_datasets: The same, for leaving out.
        """
        kinds = {kind} if isinstance(kind, str) else None if kind is None else set(kind)
        inside = None if datasets is None else dict.fromkeys(datasets, True)
        outside = dict.fromkeys(exclude_datasets, True)
        return [
            index
            for index, info in enumerate(self.traces)
            if (split is None or info.split == split)
            and (kinds is None or info.kind in kinds)
            and (inside is None or first_match(inside, info.dataset, info.source))
            and not first_match(outside, info.dataset, info.source)
        ]


def prepare(sources: Sequence[SourceSpec], out: Path, *, seed: int = 0, progress: Progress | None = None) -> Store:
    """Convert sources into a store, replacing the one in `out`.

    Args:
        sources: Where from; see `discover` for the default.
        out: Folder to write.
        seed: For `cap` and for splits that nothing else decides.
        progress: Told how far it is.

    Returns:
        The store, opened.

    Raises:
        ValueError: Two sources have one name, a source is not usable, or nothing was.
    """
    names = [spec.name for spec in sources]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"sources: name {twice[0]!r} is used twice; accepted: unique names")
    out.mkdir(parents=True, exist_ok=True)
    traces: list[TraceInfo] = []
    digests: list[bytes] = []
    tallies = {spec.name: Tally() for spec in sources}
    unfinished = out / "samples.f32.part"
    with unfinished.open("wb") as file:
        for spec in sources:
            for info, samples in _read(spec, seed=seed, tally=tallies[spec.name], progress=progress):
                stored = np.ascontiguousarray(samples, "<f4")
                file.write(stored.data)
                traces.append(info)
                digests.append(_digest(info, stored))
    if not traces:
        unfinished.unlink()
        raise ValueError(f"no usable trace in {', '.join(str(spec.path) for spec in sources) or 'no sources'}")
    # Without a manifest it is not a store: nobody opens half an old and half a new one.
    (out / "manifest.json").unlink(missing_ok=True)
    unfinished.replace(out / "samples.f32")
    (out / "traces.json").write_bytes(msgspec.json.encode(traces))
    manifest = {
        "schema": SCHEMA,
        "fingerprint": hashlib.sha256(b"".join(sorted(digests))).hexdigest(),
        "seed": seed,
        "sampling_rate_hz": RATE_HZ,
        "component_order": "ZNE",
        "traces": len(traces),
        "samples": sum(info.npts for info in traces),
        "sources": [_described(spec, tallies[spec.name]) for spec in sources],
        "counts": table(traces),
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return Store.open(out)


def table(traces: Sequence[TraceInfo]) -> list[dict[str, Any]]:
    """Count traces, hours, picks and masked time for each data set, split and kind."""
    groups: dict[tuple[str, str, str], list[TraceInfo]] = defaultdict(list)
    for info in traces:
        groups[info.dataset, info.split, info.kind].append(info)
    per_hour = RATE_HZ * 3600
    return [
        {
            "dataset": dataset,
            "split": split,
            "kind": kind,
            "traces": len(members),
            "hours": round(sum(info.npts for info in members) / per_hour, 2),
            "p": sum(pick.phase == "P" for info in members for pick in info.picks),
            "s": sum(pick.phase == "S" for info in members for pick in info.picks),
            "pairs": sum(None not in pair for info in members for pair in info.events),
            "unknown_min": round(60 * sum(b - a for info in members for a, b in info.unknown) / per_hour, 1),
            "gap_min": round(60 * sum(b - a for info in members for a, b in info.gaps) / per_hour, 1),
        }
        for (dataset, split, kind), members in sorted(groups.items())
    ]


def summary(store: Store) -> str:
    """Format the counts, and what was left out, for a person."""
    rows = store.manifest["counts"]
    columns = list(rows[0])
    totals = [{"dataset": "total", "split": split, "kind": ""} for split in ("train", "dev")]
    for total in totals:
        for column in columns[3:]:
            total[column] = round(sum(row[column] for row in rows if row["split"] == total["split"]), 2)
    cells = [columns, *([str(row[column]) for column in columns] for row in (*rows, *totals))]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = [
        "  ".join(
            cell.ljust(width) if i < 3 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    for source in store.manifest["sources"]:
        for reason, count in source["skipped"].items():
            lines.append(f"{source['name']}: {count} skipped: {reason}, such as {source['examples'][reason][0]}")
    return "\n".join([*lines, f"fingerprint {store.fingerprint}"])


def _read(
    spec: SourceSpec, *, seed: int, tally: Tally, progress: Progress | None
) -> Iterator[tuple[TraceInfo, Samples]]:
    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(spec.name, done, total)

    if not spec.path.is_dir():
        raise ValueError(f"{spec.path}: no such folder")
    reader = read_seisbench if spec.format == "seisbench" else read_continuous
    reviewed = read_reviewed()
    for info, samples in reader(spec, seed=seed, tally=tally, progress=tell):
        yield with_reviewed(info, reviewed), samples


def _described(spec: SourceSpec, tally: Tally) -> dict[str, Any]:
    settings = {key: getattr(spec, key) for key in ("format", "name", "weight", "cap", "dev_share")}
    return {
        **settings,
        "path": str(spec.path),
        "weights": dict(spec.weights),
        "splits": dict(spec.splits),
        "skipped": dict(sorted(tally.counts.items())),
        "examples": tally.examples,
    }


def _digest(info: TraceInfo, samples: Samples) -> bytes:
    """Hash the samples and labels of a trace; what says only where it lies or how often to draw it does not count."""
    elsewhere = {"name": "", "source": "", "weight": 0.0}
    labels = json.dumps(msgspec.to_builtins(info) | elsewhere, sort_keys=True)
    return hashlib.sha256(labels.encode() + hashlib.sha256(samples.data).digest()).digest()
