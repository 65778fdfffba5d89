"""A moment of a recording as the pipeline saw it: what went into the network, what came out, what was decided."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from monitor.detector import Change, DetectorSettings
from monitor.model import Model
from monitor.records import Detection
from monitor.spectrogram import Bool
from monitor.stations import StationGroup
from monitor.timebase import NS_PER_SECOND

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int8]

# What comes so long after the moment is judged too.
LOOK_AFTER_S = 60.0


class MomentError(Exception):
    """There is nothing to explain; the message says what the recording holds."""


class Decided(NamedTuple):
    """Something became known about an event, and what was told of it; None where nothing was."""

    change: Change
    detection: Detection | None


class Span(NamedTuple):
    """From and up to when, excluded, nanoseconds since the epoch."""

    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """What the pipeline saw and said around a time.

    Attributes:
        time_ns: Which time, nanoseconds since the epoch.
        group: Which instrument.
        model: Which model judged.
        settings: How was decided.
        threshold, threshold_off: In force.
        first_frame: Absolute index of the first frame.
        frames: [shape=(n_frames, n_freq, 3), dtype=int8] as the network got them.
        judged: [shape=(n_frames, 3), dtype=bool] which components of them were judged.
        first_step: Absolute index of the first output.
        probabilities: [shape=(n_steps, 3), dtype=float32] earthquake, P, S; 0 where there was no output.
        real: [shape=(n_steps,), dtype=bool] which outputs had data to judge.
        first_sample: Absolute index of the first sample.
        samples: [shape=(3, n_samples), dtype=float64] Z, N, E at the model's rate, NaN where masked.
        received: For each of the group's channels the time that its records cover, in order, around the moment.
        decided: What became known while the pipeline was watched, in order.
        recorded: From the first to the last sample of the recording.
    """

    time_ns: int
    group: StationGroup
    model: Model
    settings: DetectorSettings
    threshold: float
    threshold_off: float
    first_frame: int
    frames: I8
    judged: Bool
    first_step: int
    probabilities: F32
    real: Bool
    first_sample: int
    samples: F64
    received: dict[str, tuple[Span, ...]]
    decided: tuple[Decided, ...]
    recorded: Span

    @property
    def rate(self) -> int:
        """The model's sampling rate, Hz."""
        return self.model.metadata.spectrogram.sampling_rate

    @property
    def step_s(self) -> float:
        """Seconds from output to output."""
        return self.model.metadata.output_stride * self.model.metadata.spectrogram.frame_interval_s

    def step_ns(self, step: int) -> int:
        """The time that output `step` speaks of."""
        metadata = self.model.metadata
        stride = metadata.output_stride
        return self.frame_ns(step * stride + stride - 1 - metadata.look_ahead_frames)

    def decided_ns(self, step: int) -> int:
        """The time of the last sample that output `step` needs."""
        params, stride = self.model.metadata.spectrogram, self.model.metadata.output_stride
        return self.sample_ns(params.end_sample(step * stride + stride - 1) - 1)

    def frame_ns(self, frame: int) -> int:
        """The time of the middle of a frame."""
        return frame * self.model.metadata.spectrogram.hop * NS_PER_SECOND // self.rate

    def sample_ns(self, sample: int) -> int:
        """The time of a sample on the grid."""
        return sample * NS_PER_SECOND // self.rate

    def step_at(self, time_ns: int) -> int:
        """The output that speaks of the time nearest to this one."""
        interval = self.step_ns(1) - self.step_ns(0)
        return (time_ns - self.step_ns(0) + interval // 2) // interval

    def output(self, step: int) -> F32:
        """Probabilities [shape=(3,)] of an output; 0 where there is none."""
        at = step - self.first_step
        return self.probabilities[at] if 0 <= at < len(self.probabilities) else np.zeros(3, np.float32)

    def outputs(self, start_ns: int, end_ns: int) -> tuple[int, F32, Bool]:
        """The first step, probabilities and whether there was data, of what speaks of a time span that is held."""
        first = min(max(self.step_at(start_ns), self.first_step), self.first_step + len(self.probabilities))
        stop = min(max(self.step_at(end_ns) + 1, first), self.first_step + len(self.probabilities))
        held = slice(first - self.first_step, stop - self.first_step)
        return first, self.probabilities[held], self.real[held]

    def input(self, step: int) -> tuple[int, I8]:
        """The first frame, and the frames [shape=(context_frames + 1, n_freq, 3)] that an output is made of.

        Raises:
            ValueError: They are not held.
        """
        metadata = self.model.metadata
        stop = (step + 1) * metadata.output_stride
        first = stop - metadata.context_frames - 1
        at = first - self.first_frame
        if at < 0 or at + metadata.context_frames + 1 > len(self.frames):
            raise ValueError(f"output {step} needs frames {first} to {stop}, of which not all are held")
        return first, self.frames[at : at + metadata.context_frames + 1]

    def filled_bins(self, row: int) -> slice:
        """The bins up to the highest one that a component's recording fills; all where nothing was judged."""
        # What the recording's rate does not reach is exactly the background everywhere.
        seen = self.frames[self.judged[:, row], :, row]
        filled = np.flatnonzero((seen != self.model.silence).any(axis=0))
        return slice(0, max(int(filled[-1]) + 1, 2) if len(filled) else self.frames.shape[1])

    def components(self) -> dict[int, str]:
        """Row of the model's input -> seed_id, for the components that there are."""
        return {row: channel.seed_id for row, channel in enumerate(self.group.channels) if channel is not None}

    def judges(self, time_ns: int) -> Literal["judged", "warming_up", "masked", "gap", "outside"]:
        """Say what there was to judge at a time, in the component that had most."""
        if not self.recorded.start_ns <= time_ns < self.recorded.end_ns:
            return "outside"
        at = round((time_ns - self.frame_ns(0)) / (self.frame_ns(1) - self.frame_ns(0))) - self.first_frame
        if 0 <= at < len(self.judged) and self.judged[at].any():
            return "judged"
        sample = time_ns * self.rate // NS_PER_SECOND - self.first_sample
        if 0 <= sample < self.samples.shape[1] and np.isfinite(self.samples[:, sample]).any():
            return "warming_up"
        covered = any(span.start_ns <= time_ns < span.end_ns for spans in self.received.values() for span in spans)
        return "masked" if covered else "gap"
