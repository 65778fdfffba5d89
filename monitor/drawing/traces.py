"""Waveforms and a spectrogram out of records, for pictures: at the model's rate, without a model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.channel import Channel
from monitor.explain.moment import Span
from monitor.records import Segment
from monitor.sources.memory import read_records
from monitor.spectrogram import Background, SpectrogramParams, complete_frames, power_db
from monitor.stations import MAX_SAMPLING_RATE, MIN_SAMPLING_RATE
from monitor.timebase import NS_PER_SECOND, seconds_to_ns

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

# What the background of the first frame that is shown needs.
_BEFORE_S = 45.0
_MOST_CHANNELS = 3


class TracesError(Exception):
    """The records hold nothing of what is wanted; the message says what."""


@dataclass(frozen=True, slots=True, eq=False)
class Traces:
    """What a picture shows.

    Attributes:
        span: From and up to when.
        sampling_rate: Of the waveforms, Hz.
        waveforms: seed_id -> [shape=(n_samples,), dtype=float64], NaN where there are none; 1 to 3.
        spectrogram: [shape=(n_frames, n_freq), dtype=float32] decibel above background of the first of them, NaN where
            there is none.
        frequencies_hz: [shape=(n_freq,)]
    """

    span: Span
    sampling_rate: int
    waveforms: dict[str, F64]
    spectrogram: F32
    frequencies_hz: F64


def read_traces(records: bytes, seed_ids: Sequence[str], span: Span) -> Traces:
    """Read what a picture shows.

    Args:
        records: miniSEED; of other channels too.
        seed_ids: The channels, at most three are shown.
        span: From and up to when; widened to whole frames.

    Raises:
        TracesError: None of the channels has samples there.
    """
    params = SpectrogramParams()
    first = span.start_ns * params.sampling_rate // NS_PER_SECOND // params.hop
    stop = -(-span.end_ns * params.sampling_rate // NS_PER_SECOND // params.hop) + 1
    segments = read_records(records)
    waveforms: dict[str, F64] = {}
    spectrogram: F32 | None = None
    for seed_id in list(seed_ids)[:_MOST_CHANNELS]:
        channel = _channel([one for one in segments if one.channel_id.seed_id == seed_id], params, span)
        samples, valid = channel.ring.read(first * params.hop, stop * params.hop)
        if not valid.any():
            continue
        waveforms[seed_id] = np.where(valid, samples, np.nan)
        if spectrogram is None:
            spectrogram = _spectrogram(channel, params, first, stop)
    if spectrogram is None:
        raise TracesError(f"the records hold no samples of {' '.join(seed_ids)}")
    return Traces(
        span=Span(*(frame * params.hop * NS_PER_SECOND // params.sampling_rate for frame in (first, stop))),
        sampling_rate=params.sampling_rate,
        waveforms=waveforms,
        spectrogram=spectrogram,
        frequencies_hz=params.frequencies_hz,
    )


def _channel(segments: Sequence[Segment], params: SpectrogramParams, span: Span) -> Channel:
    before_ns, after_ns = seconds_to_ns(_BEFORE_S), seconds_to_ns(1.0)
    start_ns, end_ns = span.start_ns - before_ns, span.end_ns + after_ns
    channel = Channel(output_rate=params.sampling_rate, capacity_s=(end_ns - start_ns) / NS_PER_SECOND + 5)
    for segment in segments:
        # In pieces of a second: what is far behind the span would push it out of the ring.
        size = max(1, round(segment.sampling_rate))
        if not MIN_SAMPLING_RATE <= segment.sampling_rate <= MAX_SAMPLING_RATE:
            continue
        for at in range(0, segment.npts, size):
            piece_ns = segment.starttime_ns + round(at * NS_PER_SECOND / segment.sampling_rate)
            if start_ns <= piece_ns < end_ns:
                samples = segment.samples[at : at + size]
                channel.push(Segment(segment.channel_id, piece_ns, segment.sampling_rate, samples))
    channel.flush()
    return channel


def _spectrogram(channel: Channel, params: SpectrogramParams, first: int, stop: int) -> F32:
    """Decibel above background of frames `first` to `stop`, NaN where not judged or above the recording's band."""
    begin = first - round(_BEFORE_S / params.frame_interval_s)
    samples, valid = channel.ring.read(params.first_sample(begin), params.end_sample(stop - 1))
    plane, judged = Background(params, begin).push(power_db(samples, params), complete_frames(valid, params))
    plane[~judged] = np.nan
    if channel.recording_rate is not None:
        plane[:, ~params.usable_bins(channel.recording_rate)] = np.nan
    return plane[first - begin :]
