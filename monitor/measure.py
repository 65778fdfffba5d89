"""What a detection's waveform shows: onset to the sample, signal-to-noise ratio, peak, dominant frequency."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.channel import Channel
from monitor.onset import refine
from monitor.spectrogram import SpectrogramParams, complete_frames, power_db
from monitor.timebase import NS_PER_SECOND

F64 = npt.NDArray[np.float64]

# The network's arrival times scatter by about this; see the model card.
_P_SIGMA_S = 0.25
_S_SIGMA_S = 0.3
_ONSET_BEFORE_S = 1.6
_ONSET_LEAST_BEFORE_S = 0.2
_ONSET_AFTER_S = 1.0
_LEAST_S_MINUS_P_S = 0.3
_NOISE_S = 5.0
_NOISE_GUARD_S = 0.5
_SIGNAL_S = 2.0
_MIN_NOISE_FRAMES = 5
_PEAK_MEAN_S = 10.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured; see the fields of the same names in `Detection`."""

    onset_ns: int
    onset_uncertainty_s: float
    s_onset_ns: int | None
    snr_db: float | None
    peak_counts: float
    dominant_hz: float
    data_complete: float


def measure(
    rows: Sequence[Channel | None],
    params: SpectrogramParams,
    *,
    onset_sample: int,
    s_sample: int | None,
    end_sample: int,
    until: int,
) -> Measurement | None:
    """Measure a detection on the samples before `until`.

    Args:
        rows: The channels Z, N, E; None for an absent one.
        params: The model's rate and bins.
        onset_sample, s_sample, end_sample: Where the network sees them, absolute sample indices.
        until: Nothing from here on is looked at, so that live and replay measure the same.

    Returns:
        The measurement; None if no channel holds samples there.
    """
    rate = params.sampling_rate
    vertical = next((row for row in rows if row is not None and _has_data(row, onset_sample, until, rate)), None)
    if vertical is None:
        return None
    onset, uncertainty = _refined(vertical, params, onset_sample, until, _P_SIGMA_S)
    s_ns = None
    if s_sample is not None:
        horizontals = [row for row in rows[1:] if row is not None and _has_data(row, s_sample, until, rate)]
        s_channel = horizontals[0] if horizontals else vertical
        # Behind the P onset, which would stand out far more.
        after_p = math.ceil(onset) + round(_LEAST_S_MINUS_P_S * rate)
        s_onset, _ = _refined(s_channel, params, max(s_sample, after_p), until, _S_SIGMA_S, not_before=after_p)
        s_ns = _time_ns(s_channel, s_onset, rate)
    snr_db, dominant_hz = _signal_to_noise(vertical, params, round(onset), until)
    stop = min(max(end_sample, round(onset) + round(_SIGNAL_S * rate)), until)
    peak, complete = 0.0, 0.0
    for row in rows:
        if row is None:
            continue
        samples, valid = row.ring.read(round(onset) - round(_PEAK_MEAN_S * rate), stop)
        complete = max(complete, float(valid[round(_PEAK_MEAN_S * rate) :].mean()) if stop > onset + 1 else 0.0)
        if valid.any():
            real = samples[valid]
            peak = max(peak, float(np.max(np.abs(real - np.median(real)))))
    return Measurement(
        onset_ns=_time_ns(vertical, onset, rate),
        onset_uncertainty_s=uncertainty,
        s_onset_ns=s_ns,
        snr_db=snr_db,
        peak_counts=float(f"{peak:.6g}"),
        dominant_hz=dominant_hz,
        data_complete=complete,
    )


def _time_ns(channel: Channel, sample: float, rate: int) -> int:
    return round(sample * NS_PER_SECOND / rate) + channel.offset_ns(math.floor(sample))


def _has_data(channel: Channel, sample: int, until: int, rate: int) -> bool:
    _, valid = channel.ring.read(sample - rate // 2, max(sample - rate // 2, min(sample + rate // 2, until)))
    return bool(valid.any())


def _refined(
    channel: Channel, params: SpectrogramParams, sample: int, until: int, sigma_s: float, *, not_before: int = 0
) -> tuple[float, float]:
    """Onset as an absolute, fractional sample, and its uncertainty in seconds."""
    rate = params.sampling_rate
    start = max(sample - round(_ONSET_BEFORE_S * rate), not_before)
    if sample - start < round(_ONSET_LEAST_BEFORE_S * rate):
        return float(sample), sigma_s
    samples, valid = channel.ring.read(start, min(sample + round(_ONSET_AFTER_S * rate), until))
    if len(samples) < rate // 2 or not valid.all():
        # Only what is connected to the onset counts.
        return float(sample), sigma_s
    # The difference whitens what most sites' noise and most earthquakes' long periods would hide.
    onset = refine(np.diff(samples), sampling_rate=rate, guess_s=(sample - start - 1) / rate, guess_sigma_s=sigma_s)
    return start + 1 + onset.offset_s * rate, onset.uncertainty_s


def _signal_to_noise(channel: Channel, params: SpectrogramParams, onset: int, until: int) -> tuple[float | None, float]:
    """Signal-to-noise ratio, dB, over the usable bins, and the frequency where it is highest, Hz."""
    rate = params.sampling_rate
    noise = _mean_power(
        channel, params, onset - round((_NOISE_S + _NOISE_GUARD_S) * rate), onset - round(_NOISE_GUARD_S * rate)
    )
    signal = _mean_power(channel, params, onset - params.nperseg // 4, min(onset + round(_SIGNAL_S * rate), until))
    recorded_at = channel.rates(onset, onset + 1)
    usable = params.usable_bins(recorded_at[0][2] if recorded_at else rate)
    if signal is None:
        return None, 0.0
    # The frames are of the difference: divided by its response, the power is that of the samples.
    response = np.sin(np.pi * params.frequencies_hz / rate) ** 2
    if noise is None:
        return None, float(params.frequencies_hz[usable][int(np.argmax((signal / response)[usable]))])
    ratio = signal / np.maximum(noise, 1e-300)
    total = float(np.sum((signal / response)[usable]) / max(float(np.sum((noise / response)[usable])), 1e-300))
    return 10 * float(np.log10(max(total, 1e-30))), float(params.frequencies_hz[usable][int(np.argmax(ratio[usable]))])


def _mean_power(channel: Channel, params: SpectrogramParams, start: int, stop: int) -> F64 | None:
    samples, valid = channel.ring.read(start, stop)
    good = complete_frames(valid, params)
    if good.sum() < _MIN_NOISE_FRAMES:
        return None
    power: F64 = np.mean(10.0 ** (power_db(samples, params)[good].astype(np.float64) / 10.0), axis=0)
    return power
