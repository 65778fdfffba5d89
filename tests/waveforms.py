"""Made-up recordings: noise with earthquakes in it, the same every time."""

import numpy as np
import numpy.typing as npt

from monitor.records import ChannelId, Segment
from monitor.timebase import NS_PER_SECOND, parse_time

T0 = parse_time("2024-05-06T07:08:09.123Z")
F64 = npt.NDArray[np.float64]


def earthquake(*, rate: float, p_s: float, s_minus_p: float, seconds: float, snr: float, seed: int) -> F64:
    """Counts of three components [shape=(3, npts)]: noise, then P with a decaying coda, then a larger S."""
    rng = np.random.default_rng(seed)
    n = round(seconds * rate)
    time = np.arange(n) / rate
    noise = rng.standard_normal((3, n))
    result = 50.0 * noise
    for at, level, decay in ((p_s, (1.0, 0.4, 0.4), 1.2), (p_s + s_minus_p, (0.8, 2.2, 2.0), 2.0)):
        since = np.clip(time - at, 0, None)
        # The envelope of local earthquakes: at once at its highest, then falling off; 2 to 12 Hz.
        envelope = (time >= at) * np.exp(-since / decay) * np.clip(since / 0.03, 0, 1)
        carrier = sum(np.sin(2 * np.pi * f * time + rng.uniform(0, 6.3, (3, 1))) for f in (2.7, 4.1, 5.9, 8.3, 11.7))
        rough = 0.7 + 0.3 * rng.standard_normal((3, n))
        result += 50.0 * snr * np.array(level)[:, None] * envelope * carrier * rough
    return result


def segments(
    wave: F64, *, rate: float, channels: str = "ZNE", band: str = "HH", start_ns: int = T0, station: str = "ABC"
) -> list[Segment]:
    """One int32 segment for each of the channels."""
    return [
        Segment(ChannelId("XX", station, "", band + code), start_ns, rate, np.rint(row).astype(np.int32))
        for code, row in zip(channels, wave, strict=False)
    ]


def split(segment: Segment, sizes: list[int]) -> list[Segment]:
    """The segment as packets of the sizes, again and again until it is used up."""
    pieces, first, number = [], 0, 0
    while first < segment.npts:
        size = sizes[number % len(sizes)]
        start = segment.starttime_ns + round(first * NS_PER_SECOND / segment.sampling_rate)
        pieces.append(Segment(segment.channel_id, start, segment.sampling_rate, segment.samples[first : first + size]))
        first, number = first + size, number + 1
    return pieces
