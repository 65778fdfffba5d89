"""What the page remembers of one instrument, bounded: spectrogram, outputs and a day's drum plot.

Waveforms are not among it: the pipeline's own rings hold the last six minutes, and what is shown is read from there.
About 0.3 MB for an instrument.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from monitor.model import Model
from monitor.pipeline import StationPipeline
from monitor.records import ChannelId
from monitor.spectrogram import F32, Bool, SpectrogramParams
from monitor.stations import StationGroup
from monitor.timebase import NS_PER_SECOND
from monitor.web.bins import decimate, read_bins, read_swings
from monitor.web.rowring import RowRing

U8 = npt.NDArray[np.uint8]
I8 = npt.NDArray[np.int8]

# Shown live; a picture of a detection reaches further back.
LIVE_S = 300.0
# What a stream begins with: more than passes between what a viewer asks for and the beginning of its stream.
RECENT_S = 10.0
HISTORY_S = 360.0
DAY_S = 86400
# Two pixels or so of five minutes on a wide screen, one of a minute.
BINS_PER_S = 20
# A line of an hour has 900 of them.
DRUM_BIN_S = 4
# In the overview.
SPARK_S, SPARK_BIN_S = 60.0, 0.5
# 0 is for what was not judged.
_LEVELS = 254


class Piece(NamedTuple):
    """Consecutive rows from an absolute index on; as bytes, so that JSON carries them in base64."""

    first: int
    rows: bytes


class Feed:
    """Follows one instrument's pipeline.

    Args:
        group: Its channels.
        model: Which model judges.
    """

    def __init__(self, group: StationGroup, model: Model) -> None:
        self.group = group
        metadata = model.metadata
        self.params: SpectrogramParams = metadata.spectrogram
        self.step_s = metadata.output_stride * self.params.frame_interval_s
        # Where output 0 lies, seconds since the epoch.
        self.step_origin_s = (metadata.output_stride - 1 - metadata.look_ahead_frames) * self.params.frame_interval_s
        self.row, self.shown = next((n, c) for n, c in enumerate(group.channels) if c is not None)
        self.bin_length = max(1, round(self.params.sampling_rate / BINS_PER_S))
        self._drum_length = DRUM_BIN_S * self.params.sampling_rate
        self._levels = _levels(model)
        self._frames = RowRing(
            round(HISTORY_S / self.params.frame_interval_s), self.params.n_freq, dtype=np.uint8, missing=0
        )
        self._steps = RowRing(round(HISTORY_S / self.step_s), 3, dtype=np.uint8, missing=0)
        self._drum = RowRing(DAY_S // DRUM_BIN_S, 2, dtype=np.float32, missing=np.nan)
        self.pipeline: StationPipeline | None = None
        self.threshold = metadata.threshold
        # Goes up where time went back: what viewers hold is of another time.
        self.epoch = 0
        # Of a slow recording there are no high frequencies to be shown.
        self.n_shown = self.params.n_freq
        self._rate: float | None = None
        self._sent: dict[str, int] = {}

    # -- what the pipeline computes ------------------------------------------------------------------------------------

    def saw_frames(self, pipeline: StationPipeline, first: int, frames: I8, judged: Bool) -> None:
        """Remember the spectrogram of the component that is shown, and complete bins of the drum plot."""
        self.pipeline, self.threshold = pipeline, pipeline.threshold
        rows = self._levels[frames[:, :, self.row].view(np.uint8)]
        rows[~judged[:, self.row]] = 0
        rate = pipeline.channels[self.shown].recording_rate
        if rate is not None and rate != self._rate:
            self._rate, self.n_shown = rate, max(2, int(np.count_nonzero(self.params.usable_bins(rate))))
        if self._frames.write(first, rows):
            self.epoch += 1
            self._sent.clear()
        self._draw(pipeline, (first + len(rows)) * self.params.hop)

    def saw_outputs(self, first: int, probabilities: F32, judged: Bool) -> None:
        """Remember the outputs."""
        rows = (np.rint(probabilities * _LEVELS) + 1).astype(np.uint8)
        rows[~judged] = 0
        self._steps.write(first, rows)

    def _draw(self, pipeline: StationPipeline, until: int) -> None:
        stop = until // self._drum_length
        ring = pipeline.channels[self.shown].ring
        if self._drum.end is not None and self._drum.end >= stop >= self._drum.end - 1:
            return  # most calls: no bin is complete
        if ring.end is None:
            return
        oldest = -(-(ring.end - ring.capacity) // self._drum_length)
        drawn = self._drum.end
        first = stop - 1 if drawn is None or stop < drawn - 1 else drawn
        # Up to the oldest sample there was nothing, or nothing is known any more.
        first = max(first, oldest)
        if first < stop:
            self._drum.write(first, read_swings(ring, first, stop, length=self._drum_length))

    # -- what viewers get ----------------------------------------------------------------------------------------------

    @property
    def newest_ns(self) -> int | None:
        """Time of the newest sample of any channel; None before any."""
        if self.pipeline is None:
            return None
        ends = [c.ring.end for c in self.pipeline.channels.values() if c.ring.end is not None]
        return None if not ends else max(ends) * NS_PER_SECOND // self.params.sampling_rate

    @property
    def judged_until_s(self) -> float:
        """Stream time up to which everything was judged, seconds since the epoch; 0 before any."""
        return 0.0 if self._steps.end is None else self._steps.end * self.step_s + self.step_origin_s

    def description(self) -> dict[str, object]:
        """What the browser needs to know to draw it."""
        frequencies = self.params.frequencies_hz
        return {
            "name": self.group.name,
            "station": self.group.station_id,
            "channels": self.group.seed_ids,
            "shown": self.shown.seed_id,
            "bin_s": self.bin_length / self.params.sampling_rate,
            "frame_s": self.params.frame_interval_s,
            "step_s": self.step_s,
            "step_origin_s": self.step_origin_s,
            "drum_bin_s": DRUM_BIN_S,
            "spark_bin_s": SPARK_BIN_S,
            "n_freq": self.params.n_freq,
            "n_shown": self.n_shown,
            "low_hz": float(frequencies[0]),
            "high_hz": float(frequencies[self.n_shown - 1]),
            "low_db": self.params.clip_low_db,
            "high_db": self.params.clip_high_db,
            "threshold": self.threshold,
            "epoch": self.epoch,
        }

    def history(self, seconds: float = LIVE_S) -> dict[str, object]:
        """The last minutes, for a viewer who comes now; the drum plot has its own call."""
        waves = {}
        for channel_id, stop in self._bin_ends():
            first = stop - round(seconds * BINS_PER_S)
            waves[channel_id.seed_id] = self._wave(channel_id, first, stop)
        frames = self._frames.newest(round(seconds / self.params.frame_interval_s))
        steps = self._steps.newest(round(seconds / self.step_s))
        return {
            "epoch": self.epoch,
            "waves": waves,
            "frames": Piece(frames[0], frames[1].tobytes()),
            "steps": Piece(steps[0], steps[1].tobytes()),
        }

    def drum(self) -> Piece:
        """The last day; bfloat16: the upper half of each float32, three digits."""
        first, bins = self._drum.newest(self._drum.capacity)
        return Piece(first, _bfloat16(bins))

    def restore_drum(self, saved: Piece) -> None:
        """Begin with the drum plot that an earlier process left; what comes for the same time replaces it."""
        bins = (np.frombuffer(saved.rows[: len(saved.rows) // 4 * 4], np.uint16).astype(np.uint32) << 16).view(
            np.float32
        )
        self._drum.write(saved.first, bins.reshape(-1, 2))

    def news(self) -> dict[str, object]:
        """What came since the last call."""
        waves = {}
        for channel_id, stop in self._bin_ends():
            first = self._sent_until(channel_id.seed_id, stop, most=round(LIVE_S * BINS_PER_S))
            if first < stop:
                waves[channel_id.seed_id] = self._wave(channel_id, first, stop)
        return {
            "epoch": self.epoch,
            "waves": waves,
            "frames": self._rows_since("frames", self._frames),
            "steps": self._rows_since("steps", self._steps),
            "drum": self._drum_since(),
        }

    def recent(self) -> dict[str, object]:
        """The last seconds, as news for a viewer who begins to follow; what comes later are news for all."""
        if not self._sent:
            self.news()
        drum = self._drum.newest(1 + round(RECENT_S / DRUM_BIN_S))
        return {**self.history(RECENT_S), "drum": Piece(drum[0], _bfloat16(drum[1]))}

    def forget_viewers(self) -> None:
        """Nobody follows: what comes now is sent to nobody."""
        self._sent.clear()

    def spark(self) -> dict[str, object]:
        """One line of the overview: the last minute, and how likely an earthquake is now."""
        newest = self.newest_ns
        wave = Piece(0, b"")
        if newest is not None and self.pipeline is not None:
            factor = round(SPARK_BIN_S * BINS_PER_S)
            ring = self.pipeline.channels[self.shown].ring
            stop = (ring.end or 0) // self.bin_length // factor
            first = stop - round(SPARK_S / SPARK_BIN_S)
            bins = read_bins(ring, first * factor, stop * factor, length=self.bin_length)
            wave = Piece(first, decimate(bins, factor).tobytes())
        _, steps = self._steps.newest(round(2.0 / self.step_s))
        judged = steps[:, 0].astype(np.float64)
        judged = judged[judged > 0]
        return {
            "name": self.group.name,
            "newest": None if newest is None else newest / NS_PER_SECOND,
            "probability": float(judged.max() - 1) / _LEVELS if len(judged) else None,
            "wave": wave,
        }

    # -- parts for the picture of a detection --------------------------------------------------------------------------

    def frames_between(self, start_s: float, end_s: float) -> Piece:
        """The spectrogram of a span of time."""
        first, stop = (round(s / self.params.frame_interval_s) for s in (start_s, end_s))
        return Piece(first, self._frames.read(first, stop).tobytes())

    def steps_between(self, start_s: float, end_s: float) -> Piece:
        """The outputs of a span of time."""
        first, stop = (round((s - self.step_origin_s) / self.step_s) for s in (start_s, end_s))
        return Piece(first, self._steps.read(first, stop).tobytes())

    # -- inside --------------------------------------------------------------------------------------------------------

    def _bin_ends(self) -> list[tuple[ChannelId, int]]:
        if self.pipeline is None:
            return []
        ends = [(c, channel.ring.end) for c, channel in self.pipeline.channels.items()]
        return [(c, end // self.bin_length) for c, end in ends if end is not None]

    def _wave(self, channel_id: ChannelId, first: int, stop: int) -> Piece:
        assert self.pipeline is not None
        ring = self.pipeline.channels[channel_id].ring
        return Piece(first, read_bins(ring, first, stop, length=self.bin_length).tobytes())

    def _sent_until(self, what: str, stop: int, *, most: int) -> int:
        """From where on `what` is news, and that it will have been sent."""
        first = self._sent.get(what, stop)
        self._sent[what] = stop
        return max(min(first, stop), stop - most)

    def _rows_since(self, what: str, ring: RowRing) -> Piece:
        stop = ring.end or 0
        first = self._sent_until(what, stop, most=ring.capacity)
        return Piece(first, ring.read(first, stop).tobytes())

    def _drum_since(self) -> Piece:
        stop = self._drum.end or 0
        first = self._sent_until("drum", stop, most=900)
        return Piece(first, _bfloat16(self._drum.read(first, stop)))


def _levels(model: Model) -> U8:
    """Quantised input, taken as unsigned -> 1 to 255 over the spectrogram's range of decibel [shape=(256,)]."""
    params = model.metadata.spectrogram
    decibel = model.dequantize(np.arange(256, dtype=np.uint8).view(np.int8))
    share = (decibel - params.clip_low_db) / (params.clip_high_db - params.clip_low_db)
    levels: U8 = (np.rint(np.clip(share, 0, 1) * _LEVELS) + 1).astype(np.uint8)
    return levels


def _bfloat16(values: npt.NDArray[np.generic]) -> bytes:
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
