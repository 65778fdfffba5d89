"""What a model says of stored traces, by the very pipeline that runs at the station."""

import math
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from monitor.detector import Detector as StepDetector
from monitor.detector import DetectorSettings, Event
from monitor.model import Model, to_probabilities
from monitor.pipeline import REPLAY_BATCH_S, StationPipeline
from monitor.records import ChannelId, Detection, Segment
from monitor.spectrogram import Bool
from monitor.stations import StationGroup
from monitor.timebase import NS_PER_SECOND, parse_time
from train.conditioning import ratio_to_100_hz, resampled
from train.dataset import Store
from train.traceinfo import RATE_HZ, Interval, TraceInfo

F32 = npt.NDArray[np.float32]

_SAMPLE_NS = round(NS_PER_SECOND / RATE_HZ)
# Where a trace without a time is put, and seconds after it by the trace's name: the arrivals of many data sets are at
# the same sample of every trace, which must not be the same place of the output grid.
_EPOCH_NS = parse_time("2000-01-01T00:00:00Z")

Progress = Callable[[int, int], None]
"""Told how many of how many are done."""


@dataclass(frozen=True, slots=True)
class TraceOutputs:
    """A model's outputs along one trace; samples count from its start at 100 Hz.

    Attributes:
        index: Of the trace in the store.
        first_step: Absolute index of the first output.
        first_sample: The sample it speaks of; may lie before the trace.
        per_step: Samples from output to output.
        probabilities: [shape=(n, 3), dtype=float32] earthquake, P, S.
        judged: [shape=(n,), dtype=bool] whether there was data to judge.
    """

    index: int
    first_step: int
    first_sample: int
    per_step: int
    probabilities: F32
    judged: Bool

    @property
    def samples(self) -> npt.NDArray[np.int64]:
        """The sample that each output speaks of [shape=(n,), dtype=int64]."""
        return self.first_sample + self.per_step * np.arange(len(self.judged))

    def sample_of(self, step: int) -> int:
        """The sample that the output of an absolute index speaks of."""
        return self.first_sample + (step - self.first_step) * self.per_step


@dataclass(frozen=True, slots=True)
class Found:
    """A detection on a trace: onset and end as samples from its start, and its highest score."""

    onset: float
    end: float
    score: float


@dataclass(frozen=True, slots=True)
class Told:
    """A detection as the monitor publishes it: what was found, and the sample at which it was first told."""

    found: Found
    decided: float


class FloatModel(Model):
    """The float network behind the interface of the int8 model, to see what quantisation costs.

    Args:
        path: `NAME.float.tflite`, as `quantize` writes it.
        int8: The int8 model of the same network: metadata are its own.
    """

    def __init__(self, path: Path, int8: Model) -> None:
        self.path = path
        self._content = path.read_bytes()
        self.metadata = int8.metadata
        self.ref = int8.ref
        self._interpreters = {}

    @property
    def silence(self) -> int:
        """The input value of 0 dB above background."""
        return 0

    def quantize(self, decibel: F32) -> F32:  # type: ignore[override]
        """Leave the frames as they are."""
        return decibel

    def dequantize(self, frames: npt.NDArray[np.number]) -> F32:
        """Leave the frames as they are."""
        return frames.astype(np.float32)

    def run(self, frames: npt.NDArray[np.number]) -> F32:  # type: ignore[override]
        """Judge consecutive frames, as `Model.run`."""
        return super().run(frames.astype(np.float32))  # type: ignore[return-value]

    def probabilities(self, output: npt.NDArray[np.number]) -> F32:
        """Turn outputs into probabilities."""
        return to_probabilities(output.astype(np.float64), self.metadata)


def real_runs(info: TraceInfo) -> list[Interval]:
    """The [start, end) of a trace's stretches without a gap."""
    runs, at = [], 0
    for start, end in (*info.gaps, (info.npts, info.npts)):
        if start > at:
            runs.append((at, start))
        at = max(at, end)
    return runs


def trace_outputs(store: Store, index: int, model: Model, *, rate_hz: float = RATE_HZ) -> TraceOutputs | None:
    """Run a trace through the station's pipeline and keep what its detector is told; None where that is nothing.

    Args:
        store: The recordings.
        index: The trace.
        model: The network.
        rate_hz: As if it had been recorded at this rate: it is resampled to it ahead of the pipeline.
    """
    blocks: list[tuple[int, F32, Bool]] = []
    # Nothing reaches this threshold: only the outputs are wanted here, the detector runs on them later.
    never = DetectorSettings(threshold=1 - 1e-6)
    pipeline, start, _ = _run(store, index, model, never, lambda *block: blocks.append(block), rate_hz=rate_hz)
    if not blocks:
        return None
    first_step = blocks[0][0]
    n = blocks[-1][0] + len(blocks[-1][2]) - first_step
    # The pipeline leaves out what it need not compute: an outage longer than the network's context.
    probabilities, judged = np.zeros((n, blocks[0][1].shape[1]), np.float32), np.zeros(n, bool)
    for step, said, real in blocks:
        at = slice(step - first_step, step - first_step + len(real))
        probabilities[at], judged[at] = said, real
    first_sample = pipeline.spoken_sample(first_step)
    return TraceOutputs(
        index=index,
        first_step=first_step,
        first_sample=first_sample - start,
        per_step=pipeline.spoken_sample(first_step + 1) - first_sample,
        probabilities=probabilities,
        judged=judged,
    )


def all_outputs(
    store: Store,
    indices: Iterable[int],
    model: Model,
    *,
    rate_hz: float = RATE_HZ,
    progress: Progress | None = None,
) -> dict[int, TraceOutputs]:
    """Run traces through the pipeline, each by itself; by index, without those that gave nothing."""
    chosen = list(indices)
    result = {}
    for done, index in enumerate(chosen):
        outputs = trace_outputs(store, index, model, rate_hz=rate_hz)
        if outputs is not None:
            result[index] = outputs
        if progress is not None:
            progress(done + 1, len(chosen))
    return result


def detect(outputs: TraceOutputs, settings: DetectorSettings, threshold: float) -> list[Found]:
    """Run the monitor's detector over a trace's outputs; onsets are the network's own, to the output step."""
    detector = StepDetector(settings, threshold=threshold, step_s=outputs.per_step / RATE_HZ)
    changes = detector.push(outputs.first_step, outputs.probabilities, outputs.judged) + detector.finish()
    events: list[Event] = [change.event for change in changes if change.kind == "final"]
    return [
        Found(outputs.sample_of(e.onset_step), outputs.sample_of(max(e.last_active_step, e.onset_step)), e.peak)
        for e in events
    ]


def publish(store: Store, index: int, model: Model, settings: DetectorSettings, threshold: float) -> list[Told]:
    """Run a trace through the whole pipeline, waveform refinement included, as `monitor replay` does."""
    _, start, detections = _run(
        store, index, model, msgspec.structs.replace(settings, threshold=threshold), lambda *_: None
    )

    def sample(text: str) -> float:
        return parse_time(text) / _SAMPLE_NS - start

    decided = {d.id: sample(d.decided_at) for d in detections if d.state == "new"}
    return [
        Told(Found(sample(d.onset), sample(d.end or d.onset), d.probability), decided[d.id])
        for d in detections
        if d.state == "final"
    ]


def _run(
    store: Store,
    index: int,
    model: Model,
    settings: DetectorSettings,
    on_output: Callable[[int, F32, Bool], None],
    *,
    rate_hz: float = RATE_HZ,
) -> tuple[StationPipeline, int, list[Detection]]:
    """The pipeline after the trace, the trace's absolute first sample, and the detections."""
    info = store.traces[index]
    network, _, station = info.station.partition(".")
    code = f"H{info.instrument or 'H'}"
    channels = [
        ChannelId(network, station, "", code + letter) if present else None
        for letter, present in zip("ZNE", info.components, strict=True)
    ]
    group = StationGroup(network, station, "", code, (channels[0], channels[1], channels[2]))
    # On the grid: a shift of less than a sample, so that labels and outputs count the same samples.
    start = _EPOCH_NS // _SAMPLE_NS + zlib.crc32(info.name.encode()) % 10_000
    if info.starttime_ns is not None:
        start = info.starttime_ns // _SAMPLE_NS
    # No longer than the trace: a batch is computed when it is full.
    batch_s = min(REPLAY_BATCH_S, math.ceil(info.npts / RATE_HZ))
    pipeline = StationPipeline(group, model, settings, origin="replay", batch_s=batch_s, on_output=on_output)
    detections: list[Detection] = []
    # Piece by piece over all channels, as a recording's records come.
    piece = round(60 * rate_hz)
    for first, stop in real_runs(info):
        samples = as_recorded_at(rate_hz, store.waveform(index, first, stop))
        for at in range(0, samples.shape[1], piece):
            time_ns = (start + first) * _SAMPLE_NS + round(at * NS_PER_SECOND / rate_hz)
            for row, channel in enumerate(channels):
                if channel is not None:
                    detections += pipeline.push(Segment(channel, time_ns, rate_hz, samples[row, at : at + piece]))
    detections += pipeline.finish()
    return pipeline, start, detections


def as_recorded_at(rate_hz: float, samples: F32) -> F32:
    """Resample 100 Hz to another rate, anti-aliased, sample 0 staying at sample 0 [shape=(3, n), dtype=float32].

    Raises:
        ValueError: The rate has no simple ratio to 100 Hz.
    """
    if rate_hz == RATE_HZ:
        return samples
    return np.asarray(resampled(samples.astype(np.float64), 1 / ratio_to_100_hz(rate_hz)), np.float32)
