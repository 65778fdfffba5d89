"""Reader of SeisBench-format folders: metadata*.csv with waveforms*.hdf5.

Format: https://seisbench.readthedocs.io, "Data format". Only a name, a sampling rate, a component order and arrivals
(or a category) are needed; our own extra columns (`trace_picks`, `trace_weak_picks`, …, see data/README.md) are used
where present.
"""

import math
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from train.conditioning import (
    bandwidth_hz,
    constant_runs,
    is_dead,
    looks_clipped,
    ratio_to_100_hz,
    resampled,
    rounding_step,
    snr_db,
    true_runs,
)
from train.seisbench_metadata import (
    Row,
    UnusableError,
    instrument,
    is_pure_rockfall,
    kind_of,
    label_source,
    labelled_picks,
    noise_type,
    number,
    read_rows,
    starttime_ns,
    station,
    together,
    weak_samples,
)
from train.sources import SourceSpec, Tally, capped
from train.traceinfo import (
    LABEL_KEEP_S,
    RATE_HZ,
    Interval,
    Pick,
    Split,
    TraceInfo,
    merge_intervals,
    pair_phases,
    unknown_intervals,
)

Samples = npt.NDArray[np.float32]

# ASCII's unit separator: in no metadata.
_CELL_END = "\x1f"
_COMPONENTS = ({"Z"}, {"N", "1"}, {"E", "2"})


@dataclass(frozen=True, slots=True)
class _Job:
    """One row that was chosen, with what is decided from the metadata alone.

    A table of a million rows is held until its traces are read: the cells of a row as one text are a fifth of a dict.
    """

    columns: tuple[str, ...]
    cells: str
    waveforms: Path
    name: str
    dataset: str
    split: Split

    @property
    def row(self) -> Row:
        """The row as it was read."""
        return dict(zip(self.columns, self.cells.split(_CELL_END), strict=True))


@dataclass(frozen=True, slots=True)
class _Defaults:
    """What the HDF5 file says for all its traces, "" where it does not."""

    component_order: str
    dimension_order: str
    sampling_rate: str


def read_seisbench(
    spec: SourceSpec, *, seed: int, tally: Tally, progress: Callable[[int, int], None]
) -> Iterator[tuple[TraceInfo, Samples]]:
    """Yield each usable trace of a folder, 100 Hz, [shape=(3, npts), dtype float32], Z N E.

    The order depends on the trace names only. Rows that cannot be used are counted in `tally` and skipped.

    Raises:
        ValueError: A file or a column that all rows need is missing; the message names it and what is accepted.
    """
    jobs = _choose(spec, seed=seed, tally=tally)
    by_file: dict[Path, list[_Job]] = defaultdict(list)
    for job in jobs:
        by_file[job.waveforms].append(job)
    done, total = 0, len(jobs)
    del jobs
    for waveforms in sorted(by_file):
        with h5py.File(waveforms, "r") as file:
            if "data" not in file:
                raise ValueError(f"{waveforms}: no group 'data'; accepted: the SeisBench waveform format")
            defaults = _defaults(file)
            for job in by_file.pop(waveforms):
                done += 1
                progress(done, total)
                try:
                    trace = _read(spec, job, file["data"], defaults)
                except UnusableError as error:
                    tally.add(str(error), job.name)
                    continue
                yield trace


def _choose(spec: SourceSpec, *, seed: int, tally: Tally) -> list[_Job]:
    groups: dict[tuple[str, Split], list[tuple[str, _Job]]] = defaultdict(list)
    for table in _tables(spec.path):
        chunk = table.stem.removeprefix("metadata")
        waveforms = table.with_name(f"waveforms{chunk}.hdf5")
        if not waveforms.is_file():
            raise ValueError(
                f"{waveforms}: missing; accepted: one waveforms file for each metadata file ({table.name})"
            )
        columns: tuple[str, ...] = ()
        for row in read_rows(table, of_noise="noise" in spec.path.resolve().name.lower()):
            columns = columns or tuple(row)
            name = f"{spec.name}/{chunk.lstrip('_') + '/' if chunk else ''}{row['trace_name']}"
            dataset = sys.intern(row.get("dataset") or spec.name)
            try:
                split = spec.split_of(
                    row.get("split", ""), (dataset, station(row), table.name, row["trace_name"]), together(row), seed
                )
            except ValueError as error:
                raise ValueError(f"{table}, column split, trace {row['trace_name']}: {error}") from error
            if split is None:
                tally.add("left out: split is test or none", name)
            else:
                job = _Job(columns, _CELL_END.join(row.values()), waveforms, name, dataset, split)
                groups[dataset, split].append((name, job))
    jobs = [job for members in groups.values() for job in capped(members, cap=spec.cap, seed=seed)]
    return sorted(jobs, key=lambda job: _natural(job.name))


def _tables(folder: Path) -> list[Path]:
    """The metadata tables of a folder: of the chunks that a file `chunks` lists, else all that are there."""
    listed = folder / "chunks"
    chunks = [line.strip() for line in listed.read_text("utf-8").splitlines()] if listed.is_file() else []
    if chunks := [chunk for chunk in chunks if chunk]:
        tables = [folder / f"metadata{chunk}.csv" for chunk in sorted(chunks)]
        if missing := [table for table in tables if not table.is_file()]:
            raise ValueError(f"{missing[0]}: missing, though {listed.name} lists it; accepted: a SeisBench folder")
        return tables
    tables = sorted(folder.glob("metadata*.csv"))
    if not tables:
        raise ValueError(f"{folder}: no metadata.csv; accepted: a SeisBench folder (metadata.csv, waveforms.hdf5)")
    return tables


def _natural(name: str) -> list[str | int]:
    """A key that puts 9 before 10; text and number always alternate."""
    parts: list[str | int] = [*re.split(r"(\d+)", name)]
    parts[1::2] = [int(part) for part in parts[1::2]]
    return parts


def _defaults(file: Any) -> _Defaults:
    facts = file.get("data_format", {})

    def text(key: str) -> str:
        if key not in facts:
            return ""
        value = facts[key][()]
        return value.decode() if isinstance(value, bytes) else str(value)

    return _Defaults(text("component_order"), text("dimension_order") or "CW", text("sampling_rate"))


def _rate(row: Row, defaults: _Defaults, job: _Job) -> float:
    if rate := number(row, "trace_sampling_rate_hz"):
        return rate
    if interval := number(row, "trace_dt_s"):
        return 1 / interval
    if defaults.sampling_rate:
        return float(defaults.sampling_rate)
    raise ValueError(
        f"{job.waveforms}, trace {job.name}: sampling rate is missing; accepted: metadata column "
        "trace_sampling_rate_hz or trace_dt_s, or data_format/sampling_rate in the HDF5 file"
    )


def _block(data: Any, trace_name: str) -> npt.NDArray[Any]:
    """Return what a SeisBench trace name points at: `name` or `bucket3$17,:3,:9000`."""
    name, _, index = trace_name.partition("$")
    try:
        if not index:
            return np.asarray(data[name][()])
        parts = [re.fullmatch(r"(\d*):?(\d*)", part.strip()) for part in index.split(",")]
        where = []
        for part, match in zip(index.split(","), parts, strict=True):
            if match is None:
                raise UnusableError("trace name not understood")
            first, last = match.groups()
            where.append(slice(int(first or 0), int(last) if last else None) if ":" in part else int(first))
        return np.asarray(data[name][tuple(where)])
    except (KeyError, ValueError, IndexError) as error:
        raise UnusableError("no waveform of this name") from error


def _zne(
    block: npt.NDArray[Any], order: str, dimension_order: str, job: _Job
) -> tuple[npt.NDArray[Any], tuple[int | None, ...]]:
    """Return [component, sample] and the row of Z, N and E in it, None where absent."""
    if block.ndim == 1:
        block = block[np.newaxis]
    elif dimension_order.replace("N", "") == "WC":
        block = block.T
    if not order:
        raise ValueError(
            f"{job.waveforms}, trace {job.name}: component order is missing; accepted: metadata column "
            "trace_component_order or data_format/component_order in the HDF5 file, such as ZNE or Z12"
        )
    rows = []
    for letters in _COMPONENTS:
        rows.append(next((i for i, c in enumerate(order.upper()) if c in letters and i < len(block)), None))
    if rows == [None, None, None]:
        raise UnusableError(f"component order {order} has none of Z, N or 1, E or 2")
    return block, tuple(rows)


def _read(spec: SourceSpec, job: _Job, data: Any, defaults: _Defaults) -> tuple[TraceInfo, Samples]:
    row = job.row
    rate_hz = _rate(row, defaults, job)
    try:
        ratio = ratio_to_100_hz(rate_hz)
    except ValueError as error:
        raise UnusableError(str(error)) from error
    order = row.get("trace_component_order") or defaults.component_order
    block, rows = _zne(_block(data, row["trace_name"]), order, defaults.dimension_order, job)
    if block.shape[-1] == 0:
        raise UnusableError("no samples")
    if not np.all(np.isfinite(block)):
        raise UnusableError("samples are not finite")
    absent = row.get("trace_missing_components", "").upper()
    live = tuple(
        at is not None and not set(absent) & letters & set("ZNE") and not is_dead(block[at])
        for at, letters in zip(rows, _COMPONENTS, strict=True)
    )
    if not any(live):
        raise UnusableError("all components are absent or dead")
    raw = [block[at] for at, alive in zip(rows, live, strict=True) if alive and at is not None]
    picks = labelled_picks(row, ratio, math.ceil(block.shape[-1] * ratio))
    if kind_of(row, has_picks=bool(picks)) == "event" and not picks:
        raise UnusableError("event without a usable P or S pick")
    fill = _fill(raw, rate_hz, ratio, picks)
    if fill.all():
        raise UnusableError("nothing but constant fill")
    scale = number(row, "trace_scale") or 1.0
    # The fill must not shift the median, nor ring into the data when resampled.
    centred = [resampled(np.where(fill, 0.0, (x - np.median(x[~fill]).astype(np.float64)) * scale), ratio) for x in raw]
    samples = np.zeros((3, len(centred[0])), np.float32)
    samples[[i for i, alive in enumerate(live) if alive]] = np.stack(centred)
    gaps = tuple((int(a * ratio), min(math.ceil(b * ratio), samples.shape[1])) for a, b in true_runs(fill))
    for start, end in gaps:
        samples[:, start:end] = 0
    return _describe(spec, job, raw, rate_hz=rate_hz, live=live, samples=samples, picks=picks, gaps=gaps, ratio=ratio)


def _fill(
    raw: list[npt.NDArray[Any]], rate_hz: float, ratio: Fraction, picks: tuple[Pick, ...]
) -> npt.NDArray[np.bool_]:
    """Mark the samples, at their own rate, where a component holds nothing but one value for 2 s or more."""
    fill = np.zeros(len(raw[0]), bool)
    for component in raw:
        for a, b in constant_runs(component, rate_hz):
            # A coarse recorder is silent until the wave comes: that is data, and an onset worth learning.
            if not any(a * ratio <= pick.sample <= b * ratio + LABEL_KEEP_S * RATE_HZ for pick in picks):
                fill[a:b] = True
    return fill


def _describe(
    spec: SourceSpec,
    job: _Job,
    raw: list[npt.NDArray[Any]],
    *,
    rate_hz: float,
    ratio: Fraction,
    live: tuple[bool, ...],
    samples: Samples,
    picks: tuple[Pick, ...],
    gaps: tuple[Interval, ...],
) -> tuple[TraceInfo, Samples]:
    row = job.row
    npts = samples.shape[1]
    weak = () if is_pure_rockfall(row) else weak_samples(row, ratio)
    clipped = row.get("trace_clipped", "")
    raw_rate_hz = number(row, "trace_raw_sampling_rate_hz") or rate_hz
    bandwidth = bandwidth_hz(raw[0], rate_hz, step=rounding_step(raw[0]))
    given_snr = number(row, "trace_snr_db")
    first_p = next((pick.sample for pick in picks if pick.phase == "P"), None)
    if given_snr is None and first_p is not None:
        given_snr = snr_db(samples[live.index(True)], first_p)
    info = TraceInfo(
        name=job.name,
        dataset=job.dataset,
        source=spec.name,
        kind=kind_of(row, has_picks=bool(picks)),
        split=job.split,
        station=station(row),
        instrument=instrument(row),
        label_source=label_source(row),
        noise_type=noise_type(row),
        npts=npts,
        components=(live[0], live[1], live[2]),
        starttime_ns=starttime_ns(row),
        bandwidth_hz=round(min(bandwidth, raw_rate_hz / 2, RATE_HZ / 2), 1),
        clipped=clipped in ("1", "1.0", "True") if clipped else any(looks_clipped(x) for x in raw),
        snr_db=given_snr,
        weight=spec.weight_of(job.dataset),
        picks=picks,
        unknown=unknown_intervals(weak, picks, npts),
        gaps=merge_intervals(gaps),
        events=pair_phases(picks),
    )
    return info, samples
