"""Small pictures of detections for the list: 240 numbers from -100 to 100."""

import math

import numpy as np

from monitor.records import Detection
from monitor.sources.memory import read_records
from monitor.timebase import NS_PER_SECOND, parse_time
from monitor.web.bins import F32

BEFORE_S, LENGTH_S = 4.0, 24.0
_BINS = 120

Thumb = list[int | None]


def thumb_of(wave: F32, rate: float) -> Thumb:
    """Draw a wave.

    Args:
        wave: From `BEFORE_S` before the onset on, NaN where there is nothing [shape=(npts,)].
        rate: Samples per second.

    Returns:
        Least and greatest value of each bin, None where there is nothing; empty where there is nothing at all.
    """
    length = max(1, round(LENGTH_S * rate / _BINS))
    part = wave[: length * _BINS]
    part = part[: len(part) // length * length]
    if not np.isfinite(part).any():
        return []
    blocks = part.reshape(-1, length) - np.nanmedian(part)
    low, high = np.fmin.reduce(blocks, axis=1), np.fmax.reduce(blocks, axis=1)
    reach = max(float(np.nanmax(high)), -float(np.nanmin(low))) or 1.0
    return [None if math.isnan(x) else round(100 * x / reach) for pair in zip(low, high, strict=True) for x in pair]


def thumb_of_records(records: bytes, detection: Detection) -> Thumb:
    """Draw the first of a detection's channels that miniSEED records hold; empty where they hold none."""
    segments = read_records(records)
    start_ns = parse_time(detection.onset) - round(BEFORE_S * NS_PER_SECOND)
    for seed_id in detection.seed_ids:
        own = [segment for segment in segments if segment.channel_id.seed_id == seed_id and segment.npts]
        if not own:
            continue
        rate = own[0].sampling_rate
        wave = np.full(round(LENGTH_S * rate), np.nan, np.float32)
        for segment in own:
            at = round((segment.starttime_ns - start_ns) * rate / NS_PER_SECOND)
            first, stop = max(at, 0), min(at + segment.npts, len(wave))
            if first < stop and segment.sampling_rate == rate:
                wave[first:stop] = segment.samples[first - at : stop - at]
        return thumb_of(wave, rate)
    return []
