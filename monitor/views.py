"""What a figure shows, gathered by a replay without loading matplotlib."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.records import Detection
from monitor.timebase import NS_PER_SECOND

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class DetectionView:
    """Everything that is drawn of one detection.

    Attributes:
        detection: Which.
        starttime_ns: Time of the first sample of every waveform, nanoseconds since the epoch.
        sampling_rate: Samples per second of the waveforms.
        waveforms: seed_id -> [shape=(npts,), dtype float64], in the recording's unit, NaN where masked; one to three.
        spectrogram: [shape=(n_frames, n_freq), dtype float32], dB above the background of the vertical component, NaN
            where masked.
        frame_starttime_ns: Time of the middle of the first frame, nanoseconds since the epoch.
        frame_interval_s: Between frames, seconds.
        frequencies_hz: [shape=(n_freq,)], ascending, hertz.
        probability: "earthquake", "P" and "S" -> [shape=(n_steps,)], 0 to 1, NaN where not judged.
        probability_starttime_ns: Time of the first step, nanoseconds since the epoch.
        probability_interval_s: Between steps, seconds.
        threshold: Probability that starts a detection.

    Raises:
        ValueError: There is nothing to draw, an array's shape does not fit, or an interval is not positive.
    """

    detection: Detection
    starttime_ns: int
    sampling_rate: float
    waveforms: dict[str, FloatArray]
    spectrogram: npt.NDArray[np.float32]
    frame_starttime_ns: int
    frame_interval_s: float
    frequencies_hz: npt.NDArray[np.floating]
    probability: dict[str, npt.NDArray[np.floating]]
    probability_starttime_ns: int
    probability_interval_s: float
    threshold: float

    def __post_init__(self) -> None:
        name = f"detection {self.detection.id}"
        if not 1 <= len(self.waveforms) <= 3:
            raise ValueError(f"{name}: {len(self.waveforms)} waveforms; accepted: 1 to 3")
        for seed_id, samples in self.waveforms.items():
            if samples.ndim != 1 or len(samples) < 2:
                raise ValueError(f"{name}: {seed_id} has shape {samples.shape}; accepted: (npts,) with npts >= 2")
        if self.spectrogram.ndim != 2 or self.spectrogram.shape[1:] != self.frequencies_hz.shape:
            raise ValueError(
                f"{name}: spectrogram has shape {self.spectrogram.shape};"
                f" accepted: (n_frames, {len(self.frequencies_hz)}), one column per frequency"
            )
        if len(self.frequencies_hz) < 2:
            raise ValueError(f"{name}: {len(self.frequencies_hz)} frequencies; accepted: 2 or more")
        for field in ("sampling_rate", "frame_interval_s", "probability_interval_s"):
            if not 0 < getattr(self, field) < float("inf"):
                raise ValueError(f"{name}: {field} is {getattr(self, field)}; accepted: positive and finite")

    @property
    def endtime_ns(self) -> int:
        """Time of the last sample of the longest waveform, nanoseconds since the epoch."""
        npts = max(len(samples) for samples in self.waveforms.values())
        return self.starttime_ns + round((npts - 1) / self.sampling_rate * NS_PER_SECOND)


@dataclass(frozen=True, slots=True, eq=False)
class OverviewTrace:
    """A waveform of hours as its envelope.

    Attributes:
        seed_id: Whose, `NET.STA.LOC.CHA`.
        starttime_ns: Time at which the first bin begins, nanoseconds since the epoch.
        interval_s: Length of a bin, seconds.
        minimum: [shape=(n_bins,)], smallest sample of each bin, in the recording's unit, NaN in gaps.
        maximum: [shape=(n_bins,)], largest sample of each bin.

    Raises:
        ValueError: The two arrays' shapes differ, or the interval is not positive.
    """

    seed_id: str
    starttime_ns: int
    interval_s: float
    minimum: FloatArray
    maximum: FloatArray

    def __post_init__(self) -> None:
        if self.minimum.shape != self.maximum.shape or self.minimum.ndim != 1:
            raise ValueError(
                f"{self.seed_id}: minimum has shape {self.minimum.shape} and maximum {self.maximum.shape};"
                " accepted: the same (n_bins,)"
            )
        if not 0 < self.interval_s < float("inf"):
            raise ValueError(f"{self.seed_id}: interval_s is {self.interval_s}; accepted: positive and finite")

    @property
    def station(self) -> str:
        """`NET.STA`."""
        return ".".join(self.seed_id.split(".")[:2])

    @property
    def end_ns(self) -> int:
        """Time at which the last bin ends, nanoseconds since the epoch."""
        return self.starttime_ns + round(len(self.minimum) * self.interval_s * NS_PER_SECOND)
