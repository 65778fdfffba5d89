"""Watches the pipeline around a moment.

It is the pipeline of a replay, from the recording's first sample on: what is kept is what a replay decides by, bit for
bit.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from monitor.detector import Change, DetectorSettings
from monitor.explain.moment import F32, I8, LOOK_AFTER_S, Decided, Moment, Span
from monitor.model import Model
from monitor.pipeline import REPLAY_BATCH_S, StationPipeline
from monitor.records import ChannelId, Detection, Segment
from monitor.spectrogram import Bool
from monitor.stations import MAX_SAMPLING_RATE, MIN_SAMPLING_RATE, StationGroup, measures_ground_motion
from monitor.timebase import NS_PER_SECOND, seconds_to_ns

# What is kept: before the moment the longest detection, and what its first output and the noise before it need.
_KEEP_BEFORE_S = 260.0
_KEEP_AFTER_S = 90.0


class _Watched(StationPipeline):
    """A pipeline that keeps what it saw of a span of time."""

    def __init__(self, group: StationGroup, model: Model, settings: DetectorSettings, time_ns: int) -> None:
        self.blocks: list[tuple[int, I8, Bool]] = []
        self.outputs: list[tuple[int, F32, Bool]] = []
        self.decided: list[Decided] = []
        super().__init__(group, model, settings, origin="replay", batch_s=REPLAY_BATCH_S, on_output=self._keep_output)
        rate = self._params.sampling_rate
        self.first_sample = (time_ns - seconds_to_ns(_KEEP_BEFORE_S)) * rate // NS_PER_SECOND
        self.stop_sample = (time_ns + seconds_to_ns(_KEEP_AFTER_S)) * rate // NS_PER_SECOND
        self.samples = np.full((3, self.stop_sample - self.first_sample), np.nan)

    @property
    def thresholds(self) -> tuple[float, float]:
        """The one that starts and the one that ends a detection."""
        return self._detector.threshold, self._detector.threshold_off

    def _judge(self, frames: I8, judged: Bool) -> list[Detection]:
        assert self._frame is not None
        first, hop = self._frame - len(frames), self._params.hop
        a = min(max(0, self.first_sample // hop - first), len(frames))
        b = min(max(a, -(-self.stop_sample // hop) - first), len(frames))
        if a < b:
            self.blocks.append((first + a, frames[a:b].copy(), judged[a:b].copy()))
            self._keep_samples(self._params.first_sample(first + a), self._params.end_sample(first + b - 1))
        return super()._judge(frames, judged)

    def _keep_samples(self, start: int, stop: int) -> None:
        start, stop = max(start, self.first_sample), min(stop, self.stop_sample)
        if start >= stop:
            return
        held = slice(start - self.first_sample, stop - self.first_sample)
        for row, channel in zip(self.samples, self._rows, strict=True):
            if channel is not None:
                samples, valid = channel.ring.read(start, stop)
                row[held] = np.where(valid, samples, row[held])

    def _keep_output(self, first_step: int, probabilities: F32, real: Bool) -> None:
        spoken = self.spoken_sample(first_step)
        per_step = self._stride * self._params.hop
        a = min(max(0, (self.first_sample - spoken) // per_step), len(real))
        b = min(max(a, (self.stop_sample - spoken) // per_step), len(real))
        if a < b:
            self.outputs.append((first_step + a, probabilities[a:b].copy(), real[a:b].copy()))

    def _told_of(self, changes: Sequence[Change]) -> list[Detection]:
        detections: list[Detection] = []
        for change in changes:
            told = super()._told_of([change])
            self.decided.append(Decided(change, told[0] if told else None))
            detections += told
        return detections


def usable_channels(rates_of: Mapping[ChannelId, Sequence[float]]) -> list[ChannelId]:
    """Choose the channels that a replay would use, from the rates at which each was sampled."""
    return [
        channel for channel, rates in rates_of.items() if measures_ground_motion(channel) and any(map(_usable, rates))
    ]


def _usable(sampling_rate: float) -> bool:
    return MIN_SAMPLING_RATE <= sampling_rate <= MAX_SAMPLING_RATE


def watch(
    segments: Iterable[Segment],
    group: StationGroup,
    model: Model,
    settings: DetectorSettings,
    *,
    time_ns: int,
    recorded: Span,
) -> Moment:
    """Run the pipeline as a replay does, and keep what it saw around a time.

    Args:
        segments: In order of time, from the recording's first on; of other instruments too. Read no further than
            needed.
        group: The instrument.
        model: The loaded model.
        settings: How to decide.
        time_ns: Which time, nanoseconds since the epoch.
        recorded: From the first to the last sample of the group's channels.
    """
    pipeline = _Watched(group, model, settings, time_ns)
    keep = Span(pipeline._sample_ns(pipeline.first_sample), pipeline._sample_ns(pipeline.stop_sample))
    received: dict[str, list[Span]] = {channel.seed_id: [] for channel in pipeline.channels}
    enough_ns = time_ns + seconds_to_ns(LOOK_AFTER_S)
    for segment in segments:
        if segment.channel_id not in pipeline.channels or not _usable(segment.sampling_rate):
            continue
        if segment.next_ns > keep.start_ns and segment.starttime_ns < keep.end_ns:
            received[segment.channel_id.seed_id].append(Span(segment.starttime_ns, segment.next_ns))
        pipeline.advance(segment.starttime_ns)
        pipeline.push(segment)
        if (pipeline.computed_until_ns or 0) > enough_ns and not pipeline.is_detecting:
            break
    else:
        pipeline.finish()
    return _moment(pipeline, model, settings, time_ns, received, recorded)


def _moment(
    pipeline: _Watched,
    model: Model,
    settings: DetectorSettings,
    time_ns: int,
    received: dict[str, list[Span]],
    recorded: Span,
) -> Moment:
    metadata, hop = model.metadata, model.metadata.spectrogram.hop
    # What the network is given where there is nothing: also before the first frame, and in a long outage.
    first_frame = pipeline.first_sample // hop - metadata.context_frames
    n_frames = -(-pipeline.stop_sample // hop) - first_frame
    frames = np.full((n_frames, metadata.spectrogram.n_freq, 3), model.silence, np.int8)
    judged = np.zeros((n_frames, 3), bool)
    for first, block, ok in pipeline.blocks:
        frames[first - first_frame : first - first_frame + len(block)] = block
        judged[first - first_frame : first - first_frame + len(ok)] = ok
    first_step = min((first for first, _, _ in pipeline.outputs), default=0)
    stop_step = max((first + len(real) for first, _, real in pipeline.outputs), default=0)
    probabilities = np.zeros((stop_step - first_step, 3), np.float32)
    real = np.zeros(stop_step - first_step, bool)
    for first, block_p, block_real in pipeline.outputs:
        probabilities[first - first_step : first - first_step + len(block_p)] = block_p
        real[first - first_step : first - first_step + len(block_real)] = block_real
    threshold, threshold_off = pipeline.thresholds
    return Moment(
        time_ns=time_ns,
        group=pipeline.group,
        model=model,
        settings=settings,
        threshold=threshold,
        threshold_off=threshold_off,
        first_frame=first_frame,
        frames=frames,
        judged=judged,
        first_step=first_step,
        probabilities=probabilities,
        real=real,
        first_sample=pipeline.first_sample,
        samples=pipeline.samples,
        received={seed_id: tuple(spans) for seed_id, spans in received.items()},
        decided=tuple(pipeline.decided),
        recorded=recorded,
    )
