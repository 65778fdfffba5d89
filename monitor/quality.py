"""Per-channel data quality, after SeisComP's scqc: is this channel worth listening to?

Delay and latency are scqc's (https://seiscomp.de/doc/apps/scqc.html): delay is the age of the newest sample, latency
the time since the last packet. What is said of the samples (flat, clipped, RMS, offset, spikes) depends on the samples
alone, not on how they were cut into packets.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from monitor.coverage import Coverage
from monitor.records import ChannelId, Segment
from monitor.samplestats import BLOCK_S, WINDOW_S, SampleStatistics
from monitor.settings import QualitySettings
from monitor.timebase import NS_PER_SECOND, format_time, seconds_to_ns

QUALITY_SCHEMA = "monitor.quality/1"
# Data that are no more than this on their way do not count as missing.
IN_TRANSIT_S = 30
_BLOCK_NS = BLOCK_S * NS_PER_SECOND
_BLOCKS = WINDOW_S // BLOCK_S
# As `monitor.channel` has it: libmseed's tolerances, and what no recorder writes.
_TIME_TOLERANCE_SAMPLES = 0.5
_RATE_TOLERANCE = 1e-4
_LARGEST = 1e15

QualityState = Literal["ok", "dead", "flat", "clipped"]


class QualityReport(msgspec.Struct, frozen=True, kw_only=True):
    """The quality of one channel; the JSON contract `monitor.quality/1`.

    Attributes:
        schema: Always `monitor.quality/1`.
        station: `NET.STA`.
        seed_id: `NET.STA.LOC.CHA`.
        time: When this was so, by the clock of the monitor's computer, ISO 8601 UTC with microseconds and Z.
        state: `ok`, or why it cannot trigger: `dead` (no data), `flat` (one value only) or `clipped`.
        reasons: Everything that is wrong, in words; empty when `ok`.
        window_s: Counts and shares below are of the last so many seconds, seconds.
        sampling_rate: As the last packet says, hertz; null before any.
        availability: Share of the window that has samples, 0 to 1; null where the window is still empty.
        gaps: Holes within the window that nothing has filled since.
        gap_s: Their length together, seconds.
        overlaps: Packets that brought again what was there.
        overlap_s: Their overlaps together, seconds.
        latency_s: Time since the last packet arrived, seconds; null before any.
        delay_s: Age of the newest sample, seconds; null before any.
        transfer_s: Mean age of a packet's last sample when it arrived, seconds; null where the window has none.
        last_sample: Time of the newest sample, ISO 8601 UTC with microseconds and Z; null before any.
        timing_quality: What the recorder last said of its clock, percent; null where it says nothing.
        timing_quality_min: The lowest within the window, percent; null where it said nothing.
        rms: Root mean square about the mean of each ten seconds, in the recording's unit; null without samples.
        offset: Mean, in the recording's unit; null without samples.
        minimum: Lowest sample, in the recording's unit; null without samples.
        maximum: Highest sample, in the recording's unit; null without samples.
        flat_s: For how long the newest samples have had one value, seconds of data.
        clipped_share: Share of the last minute at the limits of what the digitizer can say, 0 to 1.
        spikes: Lone samples that stick out.
        invalid_samples: Samples that are no numbers, or beyond what any recorder writes.
        rate_changes: How often the sampling rate changed since the monitor was started.
    """

    schema: Literal["monitor.quality/1"] = "monitor.quality/1"
    station: str
    seed_id: str
    time: str
    state: QualityState
    reasons: list[str]
    window_s: float
    sampling_rate: float | None
    availability: float | None
    gaps: int
    gap_s: float
    overlaps: int
    overlap_s: float
    latency_s: float | None
    delay_s: float | None
    transfer_s: float | None
    last_sample: str | None
    timing_quality: int | None
    timing_quality_min: int | None
    rms: float | None
    offset: float | None
    minimum: float | None
    maximum: float | None
    flat_s: float
    clipped_share: float
    spikes: int
    invalid_samples: int
    rate_changes: int

    @property
    def usable(self) -> bool:
        """May it trigger?"""
        return self.state == "ok"


@dataclass(slots=True, eq=False)
class _Tally:
    """What packets, rather than samples, did within ten seconds of arrival."""

    number: int
    overlaps: int = 0
    overlap_ns: int = 0
    invalid_samples: int = 0
    packets: int = 0
    transfer_ns: int = 0
    timing_quality: int | None = None


class ChannelQuality:
    """Watches one channel; synchronous, no clock.

    Args:
        settings: When a channel is bad.
        channel_id: Which channel.
        opened_ns: Since when it has been waited for, nanoseconds since the epoch.
    """

    def __init__(self, settings: QualitySettings, channel_id: ChannelId, *, opened_ns: int) -> None:
        self.channel_id = channel_id
        self._settings, self._opened_ns = settings, opened_ns
        self._statistics = SampleStatistics(clip_share=settings.clip_share, full_scale=_full_scale(settings))
        self._coverage = Coverage(keep_ns=(WINDOW_S + IN_TRANSIT_S) * NS_PER_SECOND)
        self._tallies: deque[_Tally] = deque(maxlen=_BLOCKS + 1)
        self._rate: float | None = None
        self._first_ns: int | None = None
        self._expected_ns = 0
        self._received_ns: int | None = None
        self._timing_quality: int | None = None
        self._rate_changes = 0

    @property
    def usable(self) -> bool:
        """May what this channel shows trigger? Not while it is flat or clipped; who is dead shows nothing."""
        return not self._is_flat and not self._is_clipped

    @property
    def _is_flat(self) -> bool:
        return self._statistics.flat_s >= self._settings.flat_after_s

    @property
    def _is_clipped(self) -> bool:
        return self._statistics.clipped_share >= self._settings.clip_share

    def reconfigure(self, settings: QualitySettings) -> None:
        """Judge by other limits from now on."""
        self._settings = settings
        self._statistics.clip_share, self._statistics.full_scale = settings.clip_share, _full_scale(settings)

    def push(self, segment: Segment, *, received_ns: int, timing_quality: int | None) -> None:
        """Take samples of this channel, in the order of arrival.

        Args:
            segment: The samples.
            received_ns: When they arrived by this computer's clock, nanoseconds since the epoch.
            timing_quality: What the recorder says of its clock, percent; None where it says nothing.
        """
        if not segment.npts:
            return
        tally = self._tally(received_ns)
        samples: npt.NDArray[np.generic] = segment.samples
        rate = segment.sampling_rate
        runs = [(0, len(samples))]
        if samples.dtype.kind == "f":
            real = np.abs(samples) <= _LARGEST  # NaN is not
            tally.invalid_samples += int(len(samples) - np.count_nonzero(real))
            edges = np.flatnonzero(np.diff(np.concatenate(([False], real, [False])).astype(np.int8)))
            runs = [(int(first), int(stop)) for first, stop in edges.reshape(-1, 2)]
        if not runs:
            return
        tally.packets += 1
        tally.transfer_ns += received_ns - segment.next_ns + round(NS_PER_SECOND / rate)
        if timing_quality is not None:
            self._timing_quality = timing_quality
            lowest = tally.timing_quality
            tally.timing_quality = timing_quality if lowest is None else min(lowest, timing_quality)
        self._received_ns = max(received_ns, self._received_ns or received_ns)
        if self._rate is not None and abs(rate / self._rate - 1) > _RATE_TOLERANCE:
            self._rate_changes += 1
            self._statistics.restart()
        self._rate = rate
        for first, stop in runs:
            start_ns = segment.starttime_ns + round(first * NS_PER_SECOND / rate)
            self._push_run(samples[first:stop], start_ns, rate, tally)

    def report(self, now_ns: int) -> QualityReport:
        """Say how the channel is.

        Args:
            now_ns: This computer's clock, nanoseconds since the epoch.
        """
        state, reasons = self._verdict(now_ns)
        newest_ns = self._newest_ns
        availability, gaps, gap_ns = self._completeness(now_ns)
        tallies = [t for t in self._tallies if t.number > now_ns // _BLOCK_NS - _BLOCKS]
        packets = sum(tally.packets for tally in tallies)
        qualities = [tally.timing_quality for tally in tallies if tally.timing_quality is not None]
        statistics = self._statistics
        return QualityReport(
            station=self.channel_id.station_id,
            seed_id=self.channel_id.seed_id,
            time=format_time(now_ns),
            state=state,
            reasons=reasons,
            window_s=float(WINDOW_S),
            sampling_rate=self._rate,
            availability=availability,
            gaps=gaps,
            gap_s=_seconds(gap_ns),
            overlaps=sum(tally.overlaps for tally in tallies),
            overlap_s=_seconds(sum(tally.overlap_ns for tally in tallies)),
            latency_s=None if self._received_ns is None else _seconds(now_ns - self._received_ns),
            delay_s=None if newest_ns is None else _seconds(now_ns - newest_ns),
            transfer_s=_seconds(sum(tally.transfer_ns for tally in tallies) / packets) if packets else None,
            last_sample=None if newest_ns is None else format_time(newest_ns),
            timing_quality=self._timing_quality,
            timing_quality_min=min(qualities, default=None),
            rms=_figures(statistics.rms),
            offset=_figures(statistics.offset),
            minimum=statistics.minimum,
            maximum=statistics.maximum,
            flat_s=round(statistics.flat_s, 3),
            clipped_share=round(statistics.clipped_share, 6),
            spikes=statistics.spikes,
            invalid_samples=sum(tally.invalid_samples for tally in tallies),
            rate_changes=self._rate_changes,
        )

    @property
    def _newest_ns(self) -> int | None:
        if self._first_ns is None or self._rate is None:
            return None
        return self._expected_ns - round(NS_PER_SECOND / self._rate)

    def _verdict(self, now_ns: int) -> tuple[QualityState, list[str]]:
        """The state, the worst first, and all that is wrong."""
        settings, statistics = self._settings, self._statistics
        found: list[tuple[QualityState, str]] = []
        silent_ns = now_ns - (self._opened_ns if self._received_ns is None else self._received_ns)
        if silent_ns > seconds_to_ns(settings.dead_after_s):
            silence = f"no data for {silent_ns / NS_PER_SECOND:.0f} s"
            found.append(("dead", f"{silence}; accepted: up to {settings.dead_after_s:g} s"))
        if self._is_flat:
            flat = f"one value, {statistics.held_value:g}, for {statistics.flat_s:.1f} s"
            found.append(("flat", f"{flat}; accepted: less than {settings.flat_after_s:g} s"))
        if self._is_clipped:
            share = f"{100 * statistics.clipped_share:.3g} % of the last minute at the digitizer's limits"
            found.append(("clipped", f"{share}; accepted: less than {100 * settings.clip_share:g} %"))
        return (found[0][0] if found else "ok"), [reason for _, reason in found]

    def _completeness(self, now_ns: int) -> tuple[float | None, int, int]:
        """Availability, gaps, and their length in nanoseconds."""
        end_ns = now_ns - IN_TRANSIT_S * NS_PER_SECOND
        if self._coverage.end_ns is not None:
            end_ns = max(end_ns, self._coverage.end_ns)
        since_ns = self._opened_ns if self._first_ns is None else min(self._opened_ns, self._first_ns)
        start_ns = max(end_ns - WINDOW_S * NS_PER_SECOND, since_ns)
        if start_ns >= end_ns:
            return None, 0, 0
        availability = self._coverage.covered_ns(start_ns, end_ns) / (end_ns - start_ns)
        return round(availability, 4), *self._coverage.gaps(start_ns, end_ns)

    def _tally(self, received_ns: int) -> _Tally:
        number = received_ns // _BLOCK_NS
        if not self._tallies or self._tallies[-1].number != number:
            self._tallies.append(_Tally(number))
        return self._tallies[-1]

    def _push_run(self, samples: npt.NDArray[np.generic], start_ns: int, rate: float, tally: _Tally) -> None:
        end_ns = start_ns + round(len(samples) * NS_PER_SECOND / rate)
        tolerance_ns = round(_TIME_TOLERANCE_SAMPLES * NS_PER_SECOND / rate)
        overlap_ns = self._coverage.add(start_ns, end_ns, tolerance_ns=tolerance_ns)
        if overlap_ns:
            tally.overlaps += 1
            tally.overlap_ns += overlap_ns
        continues = self._first_ns is not None
        if self._first_ns is None:
            self._first_ns = start_ns
        else:
            late = (start_ns - self._expected_ns) * rate / NS_PER_SECOND
            if late < -_TIME_TOLERANCE_SAMPLES:
                # What lies before the newest sample fills a gap at most: it says nothing of how the channel is now.
                known = min(len(samples), math.ceil(-late - _TIME_TOLERANCE_SAMPLES))
                samples, start_ns = samples[known:], start_ns + round(known * NS_PER_SECOND / rate)
            elif late > _TIME_TOLERANCE_SAMPLES:
                continues = False
        if not len(samples):
            return
        self._expected_ns = end_ns
        self._statistics.push(samples, start_ns, rate, continues=continues)


def _full_scale(settings: QualitySettings) -> float:
    return math.inf if settings.full_scale_counts is None else settings.full_scale_counts


def _seconds(ns: float) -> float:
    return round(ns / NS_PER_SECOND, 3)


def _figures(value: float | None) -> float | None:
    """Six significant figures."""
    return None if value is None else float(f"{value:.6g}")
