"""Days of made-up noise with a recorded earthquake now and then, as long as is asked for, in little memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from monitor.playback.recording import Recording
from monitor.records import ChannelId, Segment
from monitor.timebase import NS_PER_SECOND
from tests.chaos import recording

RATE = 100
# After that it is the same again; a whole number of periods of the noise, so that there is no seam.
LOOP_S = 3600
# Earthquakes within it.
QUAKES = 2
# Given at a time; cut to records later.
PIECE_S = 60
# Of the recording of one station: its first large earthquake with some seconds before it.
_FROM_S, _LENGTH_S, _FADE_S = 15.0, 60.0, 5.0
# Half the rate of that recording.
_HIGHEST_HZ = 25.0
_COMPONENTS = "ZNE"

I32 = npt.NDArray[np.int32]


@lru_cache(maxsize=1)
def _quake() -> npt.NDArray[np.float64]:
    """Three components at `RATE`, faded in and out [shape=(3, n)], in units of the noise before it."""
    parts = []
    recorded = recording.make(1, end_ns=0, stations="UH3")
    for segment in sorted(recorded, key=lambda segment: _COMPONENTS.index(segment.channel_id.channel[-1])):
        first = round(_FROM_S * segment.sampling_rate)
        wave = segment.samples[first : first + round(_LENGTH_S * segment.sampling_rate)].astype(np.float64)
        wave = wave - np.median(wave)
        wave /= np.std(segment.samples[:first])
        n = round(_LENGTH_S * RATE)
        # What is above the recording's own frequencies stays empty.
        parts.append(np.fft.irfft(np.fft.rfft(wave), n) * (n / len(wave)))
    fade = round(_FADE_S * RATE)
    ramp = np.concatenate([np.linspace(0, 1, fade), np.ones(len(parts[0]) - 2 * fade), np.linspace(1, 0, fade)])
    faded: npt.NDArray[np.float64] = np.asarray(parts) * ramp
    return faded


def _loop(variant: int) -> I32:
    """An hour [shape=(3, LOOP_S * RATE)]: noise that goes on where it began, and earthquakes in its middle."""
    rng = np.random.default_rng(variant)
    n = LOOP_S * RATE
    frequency = np.fft.rfftfreq(n, 1 / RATE)
    # Falls off as the noise of a vault does between the microseism and the traffic, and has what the earthquake has.
    shape = (frequency < _HIGHEST_HZ) / np.sqrt(1 + (frequency / 2.0) ** 2)
    spectrum = np.fft.rfft(rng.standard_normal((3, n))) * shape
    noise = np.fft.irfft(spectrum, n)
    level = float(rng.uniform(10, 40))
    wave = level * noise / noise.std(axis=1, keepdims=True)
    quake = _quake()
    for number in range(QUAKES):
        share = (number + float(rng.uniform(0.2, 0.7))) / QUAKES
        at = round(share * (LOOP_S - _LENGTH_S) * RATE)
        wave[:, at : at + quake.shape[1]] += level * float(rng.uniform(0.5, 1.5)) * quake
    counts: I32 = np.rint(wave).astype(np.int32)
    return counts


@dataclass(frozen=True)
class Waves:
    """What some stations record.

    Attributes:
        stations: How many, of three components each.
        begin_ns: Time of the first samples.
        seconds: How long.
        variants: Different hours; stations share them.
    """

    stations: int
    begin_ns: int
    seconds: int
    variants: int = 10

    @property
    def names(self) -> list[str]:
        """Of the stations."""
        return [f"S{number:03d}" for number in range(self.stations)]

    def variant(self, name: str) -> int:
        """Whose hours a station records."""
        return int(name[1:]) % self.variants

    def channels(self, name: str) -> list[ChannelId]:
        """Of a station, vertical first."""
        return [ChannelId("XX", name, "", f"HH{code}") for code in _COMPONENTS]

    def of(self, names: list[str], piece_s: int) -> Iterator[Segment]:
        """What these record, in pieces, in order of time."""
        hours = {number: _loop(number) for number in {self.variant(name) for name in names}}
        for second in range(0, self.seconds, piece_s):
            first = second % LOOP_S * RATE
            last = first + min(piece_s, self.seconds - second) * RATE
            start_ns = self.begin_ns + second * NS_PER_SECOND
            for name in names:
                hour = hours[self.variant(name)]
                for row, channel in enumerate(self.channels(name)):
                    yield Segment(channel, start_ns, float(RATE), hour[row, first:last])

    def recording(self) -> Recording:
        """All of it, to be played, made as it is played."""
        channels = tuple(channel for name in self.names for channel in self.channels(name))
        return Recording(_Again(self), channels, self.begin_ns, self.begin_ns + self.seconds * NS_PER_SECOND)


@dataclass(frozen=True)
class _Again:
    """Iterated anew each time."""

    waves: Waves

    def __iter__(self) -> Iterator[Segment]:
        return self.waves.of(self.waves.names, PIECE_S)
