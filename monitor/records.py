"""The types that flow through the pipeline: Segment in, Detection out."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from monitor.timebase import NS_PER_SECOND

DETECTION_SCHEMA = "monitor.detection/1"

Samples = npt.NDArray[np.int32] | npt.NDArray[np.float32] | npt.NDArray[np.float64]


class ChannelId(NamedTuple):
    """The four SEED codes of one channel, such as BW, UH1, "" and EHZ."""

    network: str
    station: str
    location: str
    channel: str

    @property
    def seed_id(self) -> str:
        """`NET.STA.LOC.CHA`, for example `BW.UH1..EHZ`."""
        return ".".join(self)

    @property
    def station_id(self) -> str:
        """`NET.STA`, for example `BW.UH1`."""
        return f"{self.network}.{self.station}"


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A run of equally spaced samples of one channel.

    Attributes:
        channel_id: Whose samples they are.
        starttime_ns: Time of the first sample, nanoseconds since the epoch.
        sampling_rate: Samples per second, positive and finite.
        samples: [shape=(npts,), dtype int32, float32 or float64], counts or whatever the recorder stores. May be empty.

    Raises:
        ValueError: The rate is not positive and finite, or the samples are not one-dimensional.
    """

    channel_id: ChannelId
    starttime_ns: int
    sampling_rate: float
    samples: Samples

    def __post_init__(self) -> None:
        if not (0 < self.sampling_rate < float("inf")):
            raise ValueError(
                f"{self.channel_id.seed_id}: sampling rate {self.sampling_rate} Hz; accepted: positive and finite"
            )
        if self.samples.ndim != 1:
            raise ValueError(f"{self.channel_id.seed_id}: samples have {self.samples.ndim} dimensions; accepted: 1")

    @property
    def npts(self) -> int:
        """Number of samples."""
        return len(self.samples)

    @property
    def next_ns(self) -> int:
        """Time at which the next sample would come: one sample interval after the last one."""
        return self.starttime_ns + round(len(self.samples) * NS_PER_SECOND / self.sampling_rate)


@dataclass(frozen=True, slots=True, eq=False)
class Packet:
    """What one SeedLink packet brought.

    Attributes:
        server: The label of the server that sent it.
        station_id: `NET.STA`, as the server names the stream.
        sequence: The server's sequence number; None where it has none.
        segments: Decoded samples, usually one.
        nbytes: Size of the payload.
        received_ns: When it was received by this computer's clock, nanoseconds since the epoch.
        timing_quality: What the recorder says of its clock, percent; None where it does not.
        record: The payload as it was received, miniSEED.
    """

    server: str
    station_id: str
    sequence: int | None
    segments: tuple[Segment, ...]
    nbytes: int
    received_ns: int
    timing_quality: int | None = None
    record: bytes = b""


State = Literal["new", "update", "final", "retracted"]
Phase = Literal["P", "S", "unknown"]
Origin = Literal["live", "backfill", "replay"]


class ModelRef(msgspec.Struct, frozen=True):
    """Which model decided."""

    name: str
    version: str
    sha256: str


class Reason(msgspec.Struct, frozen=True):
    """Why this is a detection, in figures a person can check.

    Attributes:
        threshold: Probability that the event score had to reach.
        peak_score: Highest event probability.
        peak_p, peak_s: Highest probability of a P and of an S arrival within the detection.
        above_threshold_s: How long the event score was at or above the threshold, seconds.
        checks: Name of each plausibility check -> whether it passed.
    """

    threshold: float
    peak_score: float
    peak_p: float
    peak_s: float
    above_threshold_s: float
    checks: dict[str, bool]


class Detection(msgspec.Struct, frozen=True, kw_only=True):
    """One revision of one detected earthquake at one station; the JSON contract `monitor.detection/1`.

    Attributes:
        schema: Always `monitor.detection/1`.
        id: The same for all revisions, and for the same data, model and settings.
        revision: 0, 1, 2, …
        state: `new` when first decided, `update` while it goes on, `final` once, or `retracted`.
        station: `NET.STA`.
        seed_ids: The channels that were used.
        onset: P onset (or the first energy), ISO 8601 UTC with microseconds and Z.
        onset_uncertainty_s: Half width of the interval that holds the onset, seconds.
        end: When the signal fell back, or null until final.
        phase: What the onset is.
        s_onset: S onset or null.
        probability: Highest so far, 0 to 1.
        class_: Named `class` in JSON; `earthquake`.
        snr_db: Signal power after the onset over noise power before it, decibel; null where the noise is not known.
        peak_counts: Largest deviation from the mean so far, in the recording's unit.
        dominant_hz: Frequency of the highest signal-to-noise ratio, hertz.
        data_complete: Share of the detection's span that held real samples, 0 to 1.
        origin: `live`, `backfill` or `replay`.
        decided_at: Stream time at which this revision's decision was possible.
        latency_s: `decided_at` of revision 0 minus the onset, seconds.
        model: Which model.
        reason: Why.
    """

    schema: Literal["monitor.detection/1"] = "monitor.detection/1"
    id: str
    revision: int
    state: State
    station: str
    seed_ids: list[str]
    onset: str
    onset_uncertainty_s: float
    end: str | None
    phase: Phase
    s_onset: str | None
    probability: float
    class_: str = msgspec.field(default="earthquake", name="class")
    snr_db: float | None
    peak_counts: float
    dominant_hz: float
    data_complete: float
    origin: Origin
    decided_at: str
    latency_s: float
    model: ModelRef
    reason: Reason
