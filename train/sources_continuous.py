"""Reader of continuous folders: miniSEED files with picks.csv (and model_picks.csv, inventory.csv)."""

import csv
import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pymseed

from monitor.timebase import NS_PER_SECOND, format_time, parse_time
from train.conditioning import (
    bandwidth_hz,
    constant_runs,
    is_dead,
    looks_clipped,
    ratio_to_100_hz,
    resampled,
    rounding_step,
    true_runs,
)
from train.sources import SourceSpec, Tally, capped, miniseed_files
from train.traceinfo import RATE_HZ, Phase, Pick, Split, TraceInfo, merge_intervals, pair_phases, unknown_intervals

Samples = npt.NDArray[np.float32]
Row = Mapping[str, str]

PIECE_S = 3600.0
"""Nominal longest piece; a cut may move by CUT_SLACK_S to where no pick is near."""

CUT_SLACK_S = 150.0
MODEL_PICK_LEAST = 0.3
LEAST_COVER = 0.5
"""A component with less than this share of the samples of the best one counts as absent in that piece."""

_STEP_NS = round(NS_PER_SECOND / RATE_HZ)
_COMPONENT = {"Z": 0, "N": 1, "1": 1, "E": 2, "2": 2}


class _Sensor(NamedTuple):
    """One instrument of one station: the codes all its components share; `band` is, for example, HH."""

    network: str
    station: str
    location: str
    band: str


@dataclass(frozen=True, slots=True)
class _Span:
    """One contiguous stretch of one channel in a file."""

    path: Path
    sourceid: str
    component: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class _Labels:
    """Labels of one sensor, times in nanoseconds."""

    picks: list[tuple[int, Pick]] = field(default_factory=list)
    weak: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Piece:
    sensor: _Sensor
    spans: tuple[_Span, ...]
    start_ns: int
    npts: int
    dataset: str
    split: Split


def read_continuous(
    spec: SourceSpec, *, seed: int, tally: Tally, progress: Callable[[int, int], None]
) -> Iterator[tuple[TraceInfo, Samples]]:
    """Yield each sensor's recording in pieces of about an hour, 100 Hz, [shape=(3, npts), dtype float32], Z N E.

    Cuts are put in the middle of the longest stretch without picks near the nominal place, so that no event is split
    where that can be avoided. Sub-sample offsets between components are dropped: at most half a sample. Overlaps: the
    first wins.

    Raises:
        ValueError: A file or a column is missing, or a table does not say what it must; the message names it.
    """
    sensors = _scan(spec, tally)
    if not sensors:
        raise ValueError(f"{spec.path}: no readable miniSEED with components Z, N or 1, E or 2")
    labels = _labels(spec, tally)
    inventory = _table(spec.path / "inventory.csv", ("network", "station", "location")) if _has_inventory(spec) else []
    pieces: list[_Piece] = []
    for sensor, spans in sorted(sensors.items()):
        pieces += _cut(spec, sensor, spans, labels[sensor], inventory, seed=seed, tally=tally)
    groups: dict[tuple[str, Split], list[tuple[str, _Piece]]] = defaultdict(list)
    for piece in pieces:
        groups[piece.dataset, piece.split].append((_name(spec, piece), piece))
    chosen = [piece for members in groups.values() for piece in capped(members, cap=spec.cap, seed=seed)]
    for done, piece in enumerate(sorted(chosen, key=lambda piece: (piece.sensor, piece.start_ns)), 1):
        trace = _read(spec, piece, labels[piece.sensor])
        progress(done, len(chosen))
        if trace is None:
            tally.add("piece without data", _name(spec, piece))
        else:
            yield trace


def _has_inventory(spec: SourceSpec) -> bool:
    return (spec.path / "inventory.csv").is_file()


def _name(spec: SourceSpec, piece: _Piece) -> str:
    return f"{spec.name}/{'.'.join(piece.sensor)}/{format_time(piece.start_ns)}"


def _scan(spec: SourceSpec, tally: Tally) -> dict[_Sensor, list[_Span]]:
    sensors: dict[_Sensor, list[_Span]] = defaultdict(list)
    for path in miniseed_files(spec.path):
        try:
            listed = pymseed.MS3TraceList.from_file(str(path))
        except pymseed.PymseedError as error:
            tally.add(f"file not readable as miniSEED: {error}", path.name)
            continue
        for trace in listed:
            network, station, location, channel = pymseed.sourceid2nslc(trace.sourceid)
            if channel[-1:] not in _COMPONENT:
                tally.add(f"component {channel[-1:] or 'unknown'} is none of Z, N, E, 1, 2", path.name)
                continue
            sensor = _Sensor(network, station, location, channel[:-1])
            for segment in trace:
                sensors[sensor].append(
                    _Span(path, trace.sourceid, channel[-1], segment.starttime, segment.endtime + _STEP_NS)
                )
    return sensors


def _table(path: Path, needed: Sequence[str]) -> list[Row]:
    if not path.is_file():
        raise ValueError(f"{path}: missing; accepted: a CSV file with columns {', '.join(needed)}")
    with path.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        if absent := [name for name in needed if name not in (reader.fieldnames or [])]:
            raise ValueError(f"{path}: column {absent[0]} is missing; accepted: {', '.join(needed)}")
        return [{name: value or "" for name, value in row.items() if name} for row in reader]


def _labels(spec: SourceSpec, tally: Tally) -> dict[tuple[str, str, str, str], _Labels]:
    columns = ("network", "station", "location", "channel_band", "phase", "time")
    labels: dict[tuple[str, str, str, str], _Labels] = defaultdict(_Labels)
    for row in _table(spec.path / "picks.csv", columns):
        if (read := _timed(row, "picks.csv", tally)) is None:
            continue
        time_ns, phase, prob = read
        sensor = labels[row["network"], row["station"], row["location"], row["channel_band"]]
        sensor.rows.append(row)
        if row.get("use", "1") in ("1", "1.0", "True", "true", ""):
            n_models = int(row["n_models"]) if row.get("n_models", "").isdigit() else 0
            sensor.picks.append((time_ns, Pick(phase, 0.0, row.get("label_source") or "catalog", prob, n_models)))
        else:
            sensor.weak.append(time_ns)
    if (spec.path / "model_picks.csv").is_file():
        for row in _table(spec.path / "model_picks.csv", (*columns, "probability")):
            read = _timed(row, "model_picks.csv", tally)
            if read is not None and read[2] >= MODEL_PICK_LEAST:
                labels[row["network"], row["station"], row["location"], row["channel_band"]].weak.append(read[0])
    return labels


def _timed(row: Row, file: str, tally: Tally) -> tuple[int, Phase, float] | None:
    try:
        prob = float(row.get("probability") or 1.0)
        if row["phase"] in ("P", "S") and math.isfinite(prob):
            return parse_time(row["time"]), "P" if row["phase"] == "P" else "S", prob
    except ValueError:
        pass
    tally.add(f"{file}: row with a time, phase or probability that is not understood", ",".join(row.values())[:80])
    return None


def _cut(
    spec: SourceSpec,
    sensor: _Sensor,
    spans: Sequence[_Span],
    labels: _Labels,
    inventory: Sequence[Row],
    *,
    seed: int,
    tally: Tally,
) -> Iterator[_Piece]:
    start_ns = min(span.start_ns for span in spans)
    npts = -(-(max(span.end_ns for span in spans) - start_ns) // _STEP_NS)
    times = sorted(time_ns for time_ns, _ in labels.picks)
    marks = [0]
    n_pieces = math.ceil(npts / (PIECE_S * RATE_HZ))
    for i in range(1, n_pieces):
        nominal = start_ns + round(i * npts / n_pieces) * _STEP_NS
        marks.append((_quiet(times, nominal) - start_ns) // _STEP_NS)
    for a, b in zip(marks, [*marks[1:], npts], strict=True):
        first_ns, last_ns = start_ns + a * _STEP_NS, start_ns + b * _STEP_NS
        inside = tuple(span for span in spans if span.start_ns < last_ns and span.end_ns > first_ns)
        if not inside:
            continue
        row = _inventory_row(inventory, sensor, first_ns, last_ns) or (labels.rows[0] if labels.rows else {})
        dataset = row.get("dataset") or spec.name
        station = f"{sensor.network}.{sensor.station}"
        names = (dataset, station, *sorted({span.path.name for span in inside}))
        split = spec.split_of(row.get("split", ""), names, station, seed)
        if split is None:
            tally.add("left out: split is test or none", f"{'.'.join(sensor)} {format_time(first_ns)}")
        else:
            yield _Piece(sensor, inside, first_ns, b - a, dataset, split)


def _quiet(times: Sequence[int], nominal: int) -> int:
    """Return the middle of the longest stretch without picks within 150 s of `nominal`."""
    slack = round(CUT_SLACK_S * NS_PER_SECOND)
    low, high = nominal - slack, nominal + slack
    near = [low, *times[bisect_left(times, low) : bisect_right(times, high)], high]
    length, start = max((b - a, -a) for a, b in pairwise(near))
    return nominal if len(near) == 2 else -start + length // 2


def _inventory_row(inventory: Sequence[Row], sensor: _Sensor, first_ns: int, last_ns: int) -> Row | None:
    for row in inventory:
        same = (row["network"], row["station"], row["location"]) == sensor[:3]
        if same and row.get("band", sensor.band) == sensor.band:
            start, end = row.get("start", ""), row.get("end", "")
            if (not start or parse_time(start) < last_ns) and (not end or parse_time(end) > first_ns):
                return row
    return None


def _read(spec: SourceSpec, piece: _Piece, labels: _Labels) -> tuple[TraceInfo, Samples] | None:
    raw, wholes = _assemble(piece)
    cover = np.isfinite(raw).sum(axis=1)
    live = [
        bool(n and n >= LEAST_COVER * cover.max() and not is_dead(x[np.isfinite(x)]))
        for n, x in zip(cover, raw, strict=True)
    ]
    if not any(live):
        return None
    for i in np.flatnonzero(live):
        for a, b in constant_runs(raw[i], RATE_HZ):
            raw[i, a:b] = np.nan
    good = np.all(np.isfinite(raw[live]), axis=0)
    if not good.any():
        return None
    first, last = int(np.argmax(good)), len(good) - int(np.argmax(good[::-1]))
    raw, good = raw[:, first:last], good[first:last]
    start_ns = piece.start_ns + first * _STEP_NS
    runs = true_runs(good)
    a, b = max(runs, key=lambda run: run[1] - run[0])
    main = raw[live.index(True), a:b]
    step = rounding_step(main) if wholes else 0.0
    clipped = any(looks_clipped(raw[i, good]) for i in np.flatnonzero(live))
    samples = np.zeros(raw.shape, np.float32)
    for i in np.flatnonzero(live):
        for a, b in runs:
            samples[i, a:b] = raw[i, a:b] - np.median(raw[i, a:b])
    npts = len(good)

    def at(time_ns: int) -> float:
        return (time_ns - start_ns) / _STEP_NS

    picks = tuple(
        sorted(
            (
                Pick(pick.phase, at(time_ns), pick.label_source, pick.prob, pick.n_models)
                for time_ns, pick in labels.picks
                if 0 <= at(time_ns) < npts and good[int(at(time_ns))]
            ),
            key=lambda pick: (pick.sample, pick.phase),
        )
    )
    weak = [at(time_ns) for time_ns in labels.weak if -200 <= at(time_ns) < npts + 200]
    info = TraceInfo(
        name=f"{spec.name}/{'.'.join(piece.sensor)}/{format_time(start_ns)}",
        dataset=piece.dataset,
        source=spec.name,
        kind="continuous",
        split=piece.split,
        station=f"{piece.sensor.network}.{piece.sensor.station}",
        instrument=piece.sensor.band[1:2],
        label_source=picks[0].label_source if picks else "none",
        noise_type="",
        npts=npts,
        components=(live[0], live[1], live[2]),
        starttime_ns=start_ns,
        bandwidth_hz=round(bandwidth_hz(main, RATE_HZ, step=step), 1),
        clipped=clipped,
        snr_db=None,
        weight=spec.weight_of(piece.dataset),
        picks=picks,
        unknown=unknown_intervals(weak, picks, npts),
        gaps=merge_intervals(true_runs(~good)),
        events=pair_phases(picks),
    )
    return info, samples


def _assemble(piece: _Piece) -> tuple[npt.NDArray[np.float64], bool]:
    """Lay all segments on the piece's grid, NaN where there is nothing; tell whether all are integers at 100 Hz."""
    raw = np.full((3, piece.npts), np.nan)
    end_ns = piece.start_ns + piece.npts * _STEP_NS
    wholes = True
    # 1 and 2 after N and E: where a sensor has both, the oriented ones count.
    files = sorted({(span.component in "12", span.path, span.sourceid, span.component) for span in piece.spans})
    for _, path, sourceid, component in files:
        listed = pymseed.MS3TraceList.from_file(
            str(path),
            unpack_data=True,
            sourceid=sourceid,
            starttime=format_time(piece.start_ns),
            endtime=format_time(end_ns),
        )
        for segment in (segment for trace in listed for segment in trace):
            samples = np.array(segment.np_datasamples)
            if samples.dtype.kind not in "if" or len(samples) < 2:
                continue
            ratio = ratio_to_100_hz(segment.samprate)
            wholes = wholes and samples.dtype.kind == "i" and ratio == 1
            placed = resampled(samples.astype(np.float64), ratio)
            at = round((segment.starttime - piece.start_ns) / _STEP_NS)
            a, b = max(at, 0), min(at + len(placed), piece.npts)
            if a < b:
                target = raw[_COMPONENT[component], a:b]
                new = np.where(np.isfinite(placed[a - at : b - at]), placed[a - at : b - at], np.nan)
                raw[_COMPONENT[component], a:b] = np.where(np.isfinite(target), target, new)
    return raw, wholes
