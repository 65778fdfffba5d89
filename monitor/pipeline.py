"""One instrument at one station: Segments in, Detections out. Synchronous, no clock, no files.

    Segment -> Channel (ring at the model's rate) -> spectrogram frames -> model -> Detector -> Detection

Frames are computed once each, in order, as soon as every component either has the samples or can no longer get
them. All that decides is a function of the absolute sample index, so neither packets nor batches change a result.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from monitor.channel import Channel
from monitor.detector import Change, Detector, DetectorSettings, Settled
from monitor.measure import Measurement, measure
from monitor.model import Model
from monitor.observer import Observer
from monitor.records import ChannelId, Detection, Origin, Reason, Segment
from monitor.spectrogram import F32, Background, Bool, complete_frames, power_db
from monitor.stations import StationGroup
from monitor.thresholds import threshold_for
from monitor.timebase import NS_PER_SECOND, format_time, parse_time
from monitor.views import DetectionView

I8 = npt.NDArray[np.int8]

# Live: the finest grid that the model's outputs have. Replay: long enough that a batch's own costs vanish.
LIVE_BATCH_S = 0.2
REPLAY_BATCH_S = 1200.0
# Frames judged at once where more wait than a batch: few lengths, since an interpreter is kept for each.
_CHUNKS = (2, 10, 50, 300, 3000)
# A detection's noise window, look-back and longest duration lie within this behind the newest frame.
_HISTORY_S = 260.0
# One write to a ring; longer segments are taken in pieces.
_PIECE_S = 120.0
# More than what one batch needs at once.
_WORK_BYTES = 16 << 20
# At a change of the sampling rate, at most.
_BLOCKS_LEFT_OUT = 2
# Before what the background needs: resampling, and knowing that a value does not change.
_RESUME_MARGIN_S = 5.0


class ResumePoint(NamedTuple):
    """Where a pipeline that was stopped is taken up again.

    Attributes:
        needed_from_ns: Samples from here on are needed to be where it was.
        settled: What it had decided.
    """

    needed_from_ns: int
    settled: Settled


class StationPipeline:
    """Detects earthquakes at one instrument.

    Args:
        group: Its channels; frames wait for all of them.
        model: The loaded model; may be shared between pipelines of one thread.
        settings: How to decide.
        origin: What the detections say they come from.
        batch_s: Seconds of frames that are waited for; no influence on results, only on cost and delay.
        keep_views: Keep what `view` needs.
        on_output: Told what the detector is: first step, probabilities [shape=(n, 3)], judged [shape=(n,)].
        observer: Looks on.
        resume: From another pipeline's `resume_point`, whose data are pushed again from `needed_from_ns` on: nothing
            that was decided is decided again, and all that follows is the same.
    """

    def __init__(
        self,
        group: StationGroup,
        model: Model,
        settings: DetectorSettings,
        *,
        origin: Origin,
        batch_s: float = LIVE_BATCH_S,
        keep_views: bool = False,
        on_output: Callable[[int, F32, Bool], None] | None = None,
        observer: Observer | None = None,
        resume: Settled | None = None,
    ) -> None:
        self.group = group
        self.detections_made = 0
        self.frames_judged = 0
        self._model, self._origin = model, origin
        self._on_output, self._observer = on_output, observer
        self._params = params = model.metadata.spectrogram
        stride = model.metadata.output_stride
        self._stride = stride
        self._decide_by(settings)
        if resume is not None:
            self._detector.resume(resume)
        self._batch = max(1, round(batch_s / params.frame_interval_s))
        self._chunks = [n for n in _CHUNKS if n > self._batch] if batch_s <= LIVE_BATCH_S else []
        # After this many silent frames nothing remembers what was before: background, network and detector are as new.
        self._silence = _silence_frames(model, settings)
        self._capacity_s = batch_s + _HISTORY_S + _PIECE_S
        self.channels: dict[ChannelId, Channel] = {}
        self._rows: list[Channel | None] = []
        for channel_id in group.channels:
            channel = None
            if channel_id is not None:
                channel = Channel(output_rate=params.sampling_rate, capacity_s=self._capacity_s)
                self.channels[channel_id] = channel
            self._rows.append(channel)
        self._backgrounds: list[Background | None] = [None, None, None]
        self._frame: int | None = None  # the next frame to compute
        self._watermark: int | None = None  # output sample before which nothing more comes
        self._held: I8 = np.zeros((0, params.n_freq, 3), np.int8)
        self._held_judged: npt.NDArray[np.bool_] = np.zeros((0, 3), bool)
        self._next_last = 0  # the last frame that the next output needs
        self._told: dict[int, Detection] = {}
        self._views: _ViewHistory | None = _ViewHistory(self._capacity_s) if keep_views else None

    def _decide_by(self, settings: DetectorSettings) -> None:
        self._settings = settings
        self._threshold = threshold_for(settings, self._model.metadata)
        step_s = self._stride * self._params.frame_interval_s
        self._detector = Detector(settings, threshold=self._threshold, step_s=step_s)
        self._settings_digest = msgspec.json.encode([settings, self._threshold])
        # The C library of GNU gives what a batch frees back to the operating system, and asks for it again with the
        # next, until an array as large as this has been freed (mallopt(3), M_MMAP_THRESHOLD): a tenth of a replay.
        np.empty(_WORK_BYTES, np.uint8)

    @property
    def computed_until_ns(self) -> int | None:
        """Stream time up to which everything was judged, nanoseconds since the epoch; None before any data."""
        if self._frame is None:
            return None
        return self._sample_ns(self._frame * self._params.hop)

    def reconfigure(self, settings: DetectorSettings) -> list[Detection]:
        """Decide by other settings from the next output on; what is going on is ended."""
        if settings == self._settings:
            return []
        detections = self._told_of(self._detector.finish())
        self._decide_by(settings)
        self._detector.resume(Settled((self._next_last - (self._stride - 1)) // self._stride, 0))
        return detections

    @property
    def threshold(self) -> float:
        """Probability that starts a detection."""
        return self._threshold

    @property
    def is_detecting(self) -> bool:
        """Is an earthquake going on?"""
        return bool(self._told)

    @property
    def look_back_steps(self) -> int:
        """Outputs before the first undecided one that a decision may rest on."""
        return self._detector.depth

    @property
    def resume_point(self) -> "ResumePoint | None":
        """From where another pipeline can go on; None before any decision."""
        settled, params, metadata = self._detector.settled, self._params, self._model.metadata
        if not settled.step:
            return None
        last_frame = (settled.step - self.look_back_steps) * self._stride + self._stride - 1
        first_block = (last_frame - metadata.context_frames) // params.block
        # And what tells of a change of the sampling rate that these blocks leave out.
        told_from = first_block - params.lag_blocks - params.background_blocks - 2 * _BLOCKS_LEFT_OUT
        background_from = told_from * params.block
        return ResumePoint(
            needed_from_ns=self._sample_ns(params.first_sample(background_from))
            - round(_RESUME_MARGIN_S * NS_PER_SECOND),
            settled=settled,
        )

    def push(self, segment: Segment) -> list[Detection]:
        """Take samples of one of the group's channels.

        Raises:
            KeyError: The channel is not one of the group's.
        """
        channel = self.channels[segment.channel_id]
        piece = max(1, round(_PIECE_S * segment.sampling_rate))
        detections: list[Detection] = []
        for first in range(0, max(segment.npts, 1), piece):
            part = segment
            if segment.npts > piece:
                start_ns = segment.starttime_ns + round(first * NS_PER_SECOND / segment.sampling_rate)
                part = Segment(
                    segment.channel_id, start_ns, segment.sampling_rate, segment.samples[first : first + piece]
                )
            detections += self._make_room(self._sample_at(part.next_ns))
            channel.push(part)
            detections += self._process(at_least=self._batch)
        return detections

    def advance(self, watermark_ns: int) -> list[Detection]:
        """Say that no channel of the group will get samples of before `watermark_ns` any more."""
        self._watermark = max(self._sample_at(watermark_ns), self._watermark or 0)
        for channel in self.channels.values():
            channel.advance(watermark_ns)
        return self._process(at_least=self._batch)

    def finish(self) -> list[Detection]:
        """The stream is over: judge its tail, end what is going on."""
        for channel in self.channels.values():
            channel.flush()
        ends = [channel.ring.end for channel in self.channels.values() if channel.ring.end is not None]
        if not ends:
            return []
        metadata, params = self._model.metadata, self._params
        # The last samples are spoken of by outputs that look past them, at nothing.
        tail = (metadata.look_ahead_frames + self._stride + 1) * params.hop + params.nperseg
        self._watermark = max(max(ends) + tail, self._watermark or 0)
        detections = self._process(at_least=1)
        return detections + self._told_of(self._detector.finish())

    def view(self, detection: Detection, *, before_s: float = 15.0, after_s: float = 20.0) -> DetectionView | None:
        """What a figure of a detection shows, while its data are still held; None when they are not."""
        if self._views is None:
            return None
        return self._views.view(self, detection, before_s=before_s, after_s=after_s)

    # -- from samples to frames --------------------------------------------------------------------------------------

    def _sample_at(self, time_ns: int) -> int:
        return time_ns * self._params.sampling_rate // NS_PER_SECOND

    def _sample_ns(self, sample: int) -> int:
        return sample * NS_PER_SECOND // self._params.sampling_rate

    def _make_room(self, end_sample: int) -> list[Detection]:
        """Judge what a ring would lose by a write up to `end_sample`, complete or not."""
        oldest = end_sample - round(self._capacity_s * self._params.sampling_rate)
        needed = oldest + round(_HISTORY_S * self._params.sampling_rate)
        if self._frame is None or self._params.first_sample(self._frame) >= needed:
            return []
        newest = max((c.ring.end for c in self.channels.values() if c.ring.end is not None), default=0)
        return self._process(at_least=1, force_until=min(needed, newest))

    def _ready_until(self) -> int | None:
        """Output sample up to which every component is known."""
        known = []
        for channel in self.channels.values():
            until = channel.complete_until(self._watermark)
            if until is None:
                return None
            known.append(until)
        return min(known)

    def _process(self, *, at_least: int, force_until: int | None = None) -> list[Detection]:
        ready = self._ready_until()
        if force_until is not None:
            ready = max(force_until, ready or force_until)
        if ready is None:
            return []
        params = self._params
        stop = params.frames_before(ready)
        if self._frame is None:
            self._start(stop)
        if self._frame is None or stop - self._frame < at_least:
            return []
        detections: list[Detection] = []
        # What does not fill a batch waits for the next call, unless it was asked for.
        while stop - self._frame >= at_least:
            end = min(stop, self._frame + self._chunk(stop - self._frame))
            if stop - self._frame > 2 * self._silence:
                silent_until = self._silent_until(stop)
                if silent_until - self._frame > 2 * self._silence:
                    end = self._frame + self._silence
                    detections += self._judge_to(end)
                    self._begin_at(silent_until)
                    continue
            detections += self._judge_to(end)
        return detections

    def _chunk(self, waiting: int) -> int:
        return max((n for n in self._chunks if n <= waiting), default=self._batch)

    def _judge_to(self, stop: int) -> list[Detection]:
        assert self._frame is not None
        frames, judged = self._frames(self._frame, stop)
        self.frames_judged += stop - self._frame
        if self._observer is not None:
            self._observer.saw_frames(self, self._frame, frames, judged)
        self._frame = stop
        return self._judge(frames, judged)

    def _silent_until(self, stop: int) -> int:
        """Frame up to which, `stop` at most, no component holds a sample from the next frame on."""
        assert self._frame is not None
        start = self._params.first_sample(self._frame)
        following = [channel.ring.next_real(start) for channel in self.channels.values()]
        first = min((sample for sample in following if sample is not None), default=None)
        if first is None:
            return stop
        return min(stop, max(self._frame, first // self._params.hop - self._params.nperseg // self._params.hop))

    def _start(self, stop: int) -> None:
        """Begin with the first frame that the first sample allows."""
        starts = [c.first_sample for c in self.channels.values() if c.first_sample is not None]
        if not starts:
            return
        first = -(-(min(starts) + self._params.nperseg // 2 + 1) // self._params.hop)
        if first <= stop:
            self._begin_at(first)

    def _begin_at(self, first: int) -> None:
        """Make `first` the next frame, with nothing known of what was before it."""
        params, metadata = self._params, self._model.metadata
        self._frame = first
        self._backgrounds = [None if row is None else Background(params, first) for row in self._rows]
        # The first output ends on the grid at or after the first frame; before it the model sees nothing.
        self._next_last = first + (self._stride - 1 - first) % self._stride
        silent = first - (self._next_last - metadata.context_frames)
        self._held = np.full((silent, params.n_freq, 3), self._model.silence, np.int8)
        self._held_judged = np.zeros((silent, 3), bool)

    def _frames(self, first: int, stop: int) -> tuple[I8, Bool]:
        """Quantised frames [shape=(n, n_freq, 3)] and which components are judged [shape=(n, 3)]."""
        params = self._params
        start, end = params.first_sample(first), params.end_sample(stop - 1)
        judged = np.zeros((stop - first, 3), bool)
        planes = []
        for row, (channel, background) in enumerate(zip(self._rows, self._backgrounds, strict=True)):
            plane: F32 = np.zeros((stop - first, params.n_freq), np.float32)
            if channel is not None and background is not None:
                samples, valid = channel.ring.read(start, end)
                if valid.any():
                    complete = complete_frames(valid, params)
                    self._leave_out_rate_changes(channel, first, complete)
                    plane, judged[:, row] = background.push(power_db(samples, params), complete)
                    for begin, end_, rate in channel.rates(first * params.hop, stop * params.hop):
                        usable = params.usable_bins(rate)
                        if not usable.all():
                            rows = slice(-(-begin // params.hop) - first, -(-end_ // params.hop) - first)
                            plane[rows, ~usable] = 0.0
                else:
                    background.push(plane, judged[:, row])
            planes.append(self._model.quantize(plane))
        return np.stack(planes, axis=-1), judged

    def _leave_out_rate_changes(self, channel: Channel, first: int, complete: Bool) -> None:
        """Take a change of the sampling rate for an outage that makes the background forget.

        Another rate is another filter and often another gain: measured against the background of before, noise would
        be a signal. A block without a complete frame is what forgets; where the data stopped for so long there is one.

        Args:
            channel: Of one component.
            first: Frame of the first of `complete`.
            complete: Which frames hold real samples only; changed.
        """
        params = self._params
        left_out = _BLOCKS_LEFT_OUT * params.block * params.hop
        begin = params.first_sample(first) - left_out - params.span
        for change in channel.rate_changes(begin, params.end_sample(first + len(complete) - 1), within=left_out):
            # Up to the end of the first whole block after it, and of those that hold a frame of both rates.
            mixed = params.frames_before(change)
            pure = -(-(change + params.nperseg // 2 + 1) // params.hop)
            until = max(-(-mixed // params.block) + 1, -(-pure // params.block)) * params.block
            complete[max(0, mixed - first) : max(0, until - first)] = False

    # -- from frames to detections -----------------------------------------------------------------------------------

    def _judge(self, frames: I8, judged: Bool) -> list[Detection]:
        metadata, stop = self._model.metadata, self._frame
        assert stop is not None
        held_from = stop - len(frames) - len(self._held)
        self._held = np.concatenate((self._held, frames))
        self._held_judged = np.concatenate((self._held_judged, judged))
        n = (stop - 1 - self._next_last) // self._stride + 1
        if n <= 0:
            return []
        begin = self._next_last - metadata.context_frames - held_from
        window = self._held[begin : begin + self._model.frames_for(n)]
        spoken = self._next_last - metadata.look_ahead_frames - held_from + np.arange(n) * self._stride
        real: Bool = np.asarray(self._held_judged[spoken].any(axis=1))
        probabilities = np.zeros((n, 3), np.float32)
        if self._held_judged[begin : begin + len(window)].any():
            output = self._model.probabilities(self._model.run(window))
            probabilities[:, : output.shape[1]] = output
        first_step = (self._next_last - (self._stride - 1)) // self._stride
        self._next_last += n * self._stride
        if self._views is not None:
            newest = slice(begin + len(window) - n * self._stride, begin + len(window))
            vertical = self._model.dequantize(self._held[newest, :, 0])
            vertical[~self._held_judged[newest, 0]] = np.nan
            self._views.add(self, first_step, probabilities, real, vertical)
        keep = self._next_last - metadata.context_frames - held_from
        self._held, self._held_judged = self._held[keep:].copy(), self._held_judged[keep:].copy()
        if self._on_output is not None:
            self._on_output(first_step, probabilities, real)
        if self._observer is not None:
            self._observer.saw_outputs(self, first_step, probabilities, real)
        return self._told_of(self._detector.push(first_step, probabilities, real))

    def spoken_sample(self, step: int) -> int:
        """The sample that output `step` speaks of: the middle of its frame."""
        frame = step * self._stride + self._stride - 1 - self._model.metadata.look_ahead_frames
        return frame * self._params.hop

    def _decided_sample(self, step: int) -> int:
        """The last sample that output `step` needs."""
        return self._params.end_sample(step * self._stride + self._stride - 1) - 1

    def _told_of(self, changes: Sequence[Change]) -> list[Detection]:
        detections = []
        for change in changes:
            detection = self._detection(change)
            if detection is not None:
                detections.append(detection)
        return detections

    def _detection(self, change: Change) -> Detection | None:
        event, params = change.event, self._params
        decided = self._decided_sample(change.step)
        found = measure(
            self._rows,
            params,
            onset_sample=self.spoken_sample(event.onset_step),
            s_sample=None if event.s_step is None or event.onset_is_s else self.spoken_sample(event.s_step),
            end_sample=self.spoken_sample(event.last_active_step),
            until=decided + 1,
        )
        if found is None:
            return None
        previous = self._told.get(event.trigger_step)
        if previous is None:
            self.detections_made += 1
        elif change.kind == "update" and not _worth_telling(previous, found):
            return None
        detection = self._compose(change, found, previous, decided)
        self._told[event.trigger_step] = detection
        if change.kind == "final":
            del self._told[event.trigger_step]
        return detection

    def _compose(self, change: Change, found: Measurement, previous: Detection | None, decided: int) -> Detection:
        event, step_s = change.event, self._stride * self._params.frame_interval_s
        state: Literal["new", "update", "final"] = change.kind
        decided_ns = self._sample_ns(decided)
        latency_s = (decided_ns - found.onset_ns) / NS_PER_SECOND if previous is None else previous.latency_s
        end_ns = max(self._sample_ns(self.spoken_sample(event.last_active_step)), found.onset_ns)
        return Detection(
            id=previous.id if previous is not None else self._id(event.trigger_step),
            revision=0 if previous is None else previous.revision + 1,
            state=state,
            station=self.group.station_id,
            seed_ids=self.group.seed_ids,
            onset=format_time(found.onset_ns),
            onset_uncertainty_s=round(found.onset_uncertainty_s, 3),
            end=format_time(end_ns) if state == "final" else None,
            phase="P" if event.p_step is not None else "S" if event.onset_is_s else "unknown",
            s_onset=format_time(found.onset_ns) if event.onset_is_s else _time_or_none(found.s_onset_ns),
            probability=round(event.peak, 4),
            snr_db=None if found.snr_db is None else round(found.snr_db, 1),
            peak_counts=found.peak_counts,
            dominant_hz=round(found.dominant_hz, 2),
            data_complete=round(found.data_complete, 4),
            origin=self._origin,
            decided_at=format_time(decided_ns),
            latency_s=round(latency_s, 3),
            model=self._model.ref,
            reason=Reason(
                threshold=round(self._threshold, 6),
                peak_score=round(event.peak, 4),
                peak_p=round(event.p_probability, 4),
                peak_s=round(event.s_probability, 4),
                above_threshold_s=round(event.steps_above * step_s, 3),
                checks={
                    "p_seen": event.p_step is not None,
                    "s_seen": event.s_step is not None,
                    "rises_above_noise": found.snr_db is not None and found.snr_db >= 3.0,
                    "data_complete": found.data_complete >= 0.99,
                },
            ),
        )

    def _id(self, trigger_step: int) -> str:
        """Station, trigger time and a digest of all that decides: the same data give the same id."""
        text = f"{self.group.name}|{self._model.ref.sha256}|{trigger_step}".encode() + self._settings_digest
        moment = format_time(self._sample_ns(self.spoken_sample(trigger_step)), digits=1)
        stamp = "".join(ch for ch in moment if ch.isdigit() or ch in "T.")
        return f"{self.group.station_id}-{stamp}-{hashlib.sha256(text).hexdigest()[:8]}"


def _time_or_none(time_ns: int | None) -> str | None:
    return None if time_ns is None else format_time(time_ns)


def _silence_frames(model: Model, settings: DetectorSettings) -> int:
    """Frames without data after which the pipeline is as it was before any."""
    metadata = model.metadata
    spectrogram = metadata.spectrogram
    wait_s = max(settings.hold_s, settings.wait_for_s_s)
    return metadata.context_frames + 2 * spectrogram.block + round(wait_s / spectrogram.frame_interval_s) + 10


def _worth_telling(previous: Detection, found: Measurement) -> bool:
    """An update says something new: another onset, or an S."""
    return format_time(found.onset_ns) != previous.onset or (found.s_onset_ns is None) != (previous.s_onset is None)


class _ViewHistory:
    """Outputs and vertical frames of the last minutes, for figures."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._blocks: deque[tuple[int, F32, Bool, F32]] = deque()

    def add(self, pipeline: StationPipeline, first_step: int, probabilities: F32, judged: Bool, frames: F32) -> None:
        self._blocks.append((first_step, probabilities, judged, frames))
        newest = first_step + len(probabilities)
        step_s = pipeline._stride * pipeline._params.frame_interval_s
        while self._blocks and (newest - self._blocks[0][0] - len(self._blocks[0][1])) * step_s > self._seconds:
            self._blocks.popleft()

    def view(
        self, pipeline: StationPipeline, detection: Detection, *, before_s: float, after_s: float
    ) -> DetectionView | None:
        if not self._blocks:
            return None
        params, stride = pipeline._params, pipeline._stride
        onset = pipeline._sample_at(parse_time(detection.onset))
        end = pipeline._sample_at(parse_time(detection.end)) if detection.end else onset
        rate = params.sampling_rate
        start, stop = onset - round(before_s * rate), end + round(after_s * rate)
        first_step = self._blocks[0][0]
        probabilities = np.concatenate([block[1] for block in self._blocks])
        judged = np.concatenate([block[2] for block in self._blocks])
        frames = np.concatenate([block[3] for block in self._blocks])
        spoken = pipeline.spoken_sample(first_step)
        per_step = stride * params.hop
        a = max(0, (start - spoken) // per_step)
        b = max(a + 2, min(len(probabilities), (stop - spoken) // per_step + 1))
        shown = np.where(judged[a:b, None], probabilities[a:b], np.nan)
        frame0 = first_step * stride
        fa = max(0, -(-start // params.hop) - frame0)
        fb = max(fa + 2, min(len(frames), stop // params.hop - frame0 + 1))
        waveforms = {}
        for channel_id, channel in pipeline.channels.items():
            samples, valid = channel.ring.read(start, stop)
            waveforms[channel_id.seed_id] = np.where(valid, samples, np.nan)
        return DetectionView(
            detection=detection,
            starttime_ns=pipeline._sample_ns(start),
            sampling_rate=rate,
            waveforms=waveforms,
            spectrogram=frames[fa:fb],
            frame_starttime_ns=pipeline._sample_ns((frame0 + fa) * params.hop),
            frame_interval_s=params.frame_interval_s,
            frequencies_hz=params.frequencies_hz,
            probability={"earthquake": shown[:, 0], "P": shown[:, 1], "S": shown[:, 2]},
            probability_starttime_ns=pipeline._sample_ns(spoken + a * per_step),
            probability_interval_s=stride * params.frame_interval_s,
            threshold=pipeline._threshold,
        )
