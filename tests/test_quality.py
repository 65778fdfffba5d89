"""Per-channel quality: what is dead, flat or clipped is told, a large earthquake or a quiet site is none of them."""

import math
from collections.abc import Iterator

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.coverage import Coverage
from monitor.quality import ChannelQuality, QualityReport
from monitor.records import ChannelId, Samples, Segment
from monitor.settings import QualitySettings
from monitor.timebase import NS_PER_SECOND, format_time

CHANNEL = ChannelId("XX", "ABC", "", "HHZ")
RATE = 100.0
START_NS = 1_700_000_000 * NS_PER_SECOND
LATENCY_NS = 700_000_000


def noise(seconds: float, *, rms: float = 200.0, seed: int = 1) -> npt.NDArray[np.int32]:
    values = np.random.default_rng(seed).normal(0.0, rms, round(seconds * RATE))
    return np.round(values).astype(np.int32)


def quality(opened_ns: int = START_NS, **limits: float) -> ChannelQuality:
    return ChannelQuality(QualitySettings(**limits), CHANNEL, opened_ns=opened_ns)


def packets(samples: Samples, *, seconds: float = 1.0, start_ns: int = START_NS) -> Iterator[Segment]:
    size = round(seconds * RATE)
    for first in range(0, len(samples), size):
        yield Segment(CHANNEL, start_ns + round(first * NS_PER_SECOND / RATE), RATE, samples[first : first + size])


def feed(channel: ChannelQuality, samples: Samples, *, seconds: float = 1.0, start_ns: int = START_NS) -> int:
    """Push samples as packets that arrive when they are complete; returns the last arrival."""
    received_ns = start_ns
    for packet in packets(samples, seconds=seconds, start_ns=start_ns):
        received_ns = packet.next_ns + LATENCY_NS
        channel.push(packet, received_ns=received_ns, timing_quality=None)
    return received_ns


def test_a_good_channel() -> None:
    channel = quality()
    samples = noise(700) + np.int32(5000)
    now_ns = feed(channel, samples) + NS_PER_SECOND // 2
    report = channel.report(now_ns)
    assert (report.state, report.reasons, report.usable, channel.usable) == ("ok", [], True, True)
    assert (report.station, report.seed_id, report.sampling_rate) == ("XX.ABC", "XX.ABC..HHZ", 100.0)
    assert (report.availability, report.gaps, report.overlaps) == (1.0, 0, 0)
    assert report.latency_s == 0.5
    assert report.delay_s == pytest.approx(0.5 + 0.7 + 0.01)
    assert report.transfer_s == pytest.approx(0.7 + 0.01)
    assert report.last_sample == format_time(START_NS + 700 * NS_PER_SECOND - 10_000_000)
    last = samples[-60_000:].astype(float)
    assert report.offset == pytest.approx(last.mean(), rel=1e-5)
    assert report.rms == pytest.approx(last.std(), rel=1e-2)
    assert (report.minimum, report.maximum) == (last.min(), last.max())
    assert (report.spikes, report.invalid_samples, report.rate_changes, report.clipped_share) == (0, 0, 0, 0.0)
    assert report.timing_quality is None


def test_before_any_data() -> None:
    report = quality().report(START_NS + NS_PER_SECOND)
    assert (report.state, report.availability, report.delay_s, report.rms) == ("ok", None, None, None)


def test_a_channel_that_never_came_is_dead() -> None:
    report = quality(dead_after_s=60.0).report(START_NS + 61 * NS_PER_SECOND)
    assert (report.state, report.usable, report.availability) == ("dead", False, 0.0)
    assert report.reasons == ["no data for 61 s; accepted: up to 60 s"]


def test_a_channel_that_stops_is_dead_until_it_comes_back() -> None:
    channel = quality(dead_after_s=60.0)
    last_ns = feed(channel, noise(300))
    assert channel.report(last_ns + 60 * NS_PER_SECOND).state == "ok"
    report = channel.report(last_ns + 61 * NS_PER_SECOND)
    assert (report.state, report.usable) == ("dead", False)
    # 30 s of the silence could still be on its way; the rest is missing.
    assert report.availability == pytest.approx(300 / (361 - 30 + 0.7), abs=1e-3)
    feed(channel, noise(1), start_ns=START_NS + 400 * NS_PER_SECOND)
    report = channel.report(START_NS + 402 * NS_PER_SECOND)
    assert (report.state, report.gaps, report.gap_s) == ("ok", 1, 100.0)


@pytest.mark.parametrize("value", [0, 150, 8_388_607])
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_constant_fill_is_flat(value: int, dtype: npt.DTypeLike) -> None:
    channel = quality(flat_after_s=10.0)
    feed(channel, noise(60).astype(dtype))
    fill = np.full(1000, value, dtype)
    feed(channel, fill[:-2], seconds=0.7, start_ns=START_NS + 60 * NS_PER_SECOND)
    assert channel.usable
    now_ns = feed(channel, fill[-2:], start_ns=START_NS + 60 * NS_PER_SECOND + 9_980_000_000)
    report = channel.report(now_ns)
    assert (report.state, report.flat_s, channel.usable) == ("flat", 10.0, False)
    assert report.reasons[0].startswith(f"one value, {value:g}, for 10.0 s")
    feed(channel, noise(1).astype(dtype), start_ns=START_NS + 70 * NS_PER_SECOND)
    assert channel.usable


def test_gaps_between_its_packets_do_not_make_a_dead_digitizer_alive() -> None:
    channel = quality(flat_after_s=10.0)
    for second in range(0, 40, 2):
        feed(channel, np.zeros(100, np.int32), start_ns=START_NS + second * NS_PER_SECOND)
    assert channel.report(START_NS + 40 * NS_PER_SECOND).state == "flat"


def clipped(samples: npt.NDArray[np.generic], low: float, high: float) -> npt.NDArray[np.int32]:
    return np.asarray(np.round(np.clip(samples.astype(float), low, high)), np.int32)


def strong_motion(seconds: float = 60.0, seed: int = 2) -> npt.NDArray[np.float64]:
    n = round(seconds * RATE)
    t = np.arange(n) / RATE
    smooth = np.convolve(np.random.default_rng(seed).normal(size=n + 20), np.hanning(21), "valid")
    return np.asarray(smooth * 1e6 * np.where(t < 20, 1e-3, np.exp(-(t - 20) / 15)))


def test_clipping_shows_by_repeated_extremes() -> None:
    channel = quality()
    now_ns = feed(channel, clipped(strong_motion(), -1_200_000, 1_200_000))
    report = channel.report(now_ns)
    assert (report.state, report.usable, channel.usable) == ("clipped", False, False)
    share = np.mean(np.abs(strong_motion()) >= 1_200_000)
    assert report.clipped_share == pytest.approx(share, abs=1e-4)
    assert report.clipped_share > 0.01
    assert "of the last minute at the digitizer's limits; accepted: less than 1 %" in report.reasons[0]
    # A minute later it has passed.
    now_ns = feed(channel, noise(70), start_ns=START_NS + 60 * NS_PER_SECOND)
    assert channel.report(now_ns).state == "ok"


def test_clipping_on_one_side() -> None:
    channel = quality()
    feed(channel, clipped(strong_motion(), -1e9, 900_000))
    assert not channel.usable


def test_clipping_by_the_full_scale() -> None:
    # Peaks of 24 bits that are not all alike, as a digitizer with a filter behind the converter gives.
    samples = noise(60, rms=3e6)
    samples[np.abs(samples) > 8_000_000] += noise(60, rms=100.0)[np.abs(samples) > 8_000_000]
    channel = quality(full_scale_counts=7_000_000.0)
    now_ns = feed(channel, samples)
    assert channel.report(now_ns).clipped_share == pytest.approx(np.mean(np.abs(samples) >= 7_000_000), abs=1e-6)
    assert not channel.usable
    channel = quality(full_scale_counts=30_000_000.0)
    feed(channel, samples)
    assert channel.usable


def test_clipping_is_seen_beside_a_fill() -> None:
    samples = clipped(strong_motion(), -1_200_000, 1_200_000)
    samples[300:600] = 3_000_000
    channel = quality()
    feed(channel, samples)
    assert not channel.usable


@pytest.mark.parametrize("value", [0, 8_388_607])
def test_a_short_fill_is_no_clipping(value: int) -> None:
    samples = noise(60) + np.int32(50_000)
    samples[3010:3220] = value  # just longer than what is still believed
    channel = quality()
    now_ns = feed(channel, samples)
    assert channel.report(now_ns).clipped_share == 0.0
    assert channel.usable


T = np.arange(6000) / RATE


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param(strong_motion().astype(np.int32), id="strong motion within the range"),
        pytest.param(noise(60, rms=0.3), id="a quiet site, three levels"),
        pytest.param(noise(60, rms=2.0), id="some ten levels"),
        pytest.param(np.round(5 * np.sin(T)).astype(np.int32), id="sine of 5 counts"),
        pytest.param(np.round(30 * np.sin(1.1 * T)).astype(np.int32), id="sine of 30 counts"),
        pytest.param(np.round(50 * np.sin(2 * T)).astype(np.int32), id="sine of 50 counts"),
        pytest.param(np.round(500 * np.sin(2 * T)).astype(np.int32), id="sine of 500 counts"),
        pytest.param(np.round(10_000 * np.sin(0.8 * T)).astype(np.int32), id="sine of 10000 counts"),
        pytest.param((1e-6 * np.sin(2 * T)).astype(np.float32), id="sine in metres per second"),
        pytest.param(np.round(100 * T % 700).astype(np.int32), id="ramp"),
        pytest.param(noise(60, rms=1.0) * 64, id="a quiet site with a gain of 64"),
        pytest.param((np.arange(6000) % 2).astype(np.int32), id="two levels"),
        pytest.param(np.full(6000, 7, np.int32), id="constant"),
    ],
)
def test_what_is_not_clipped(samples: Samples) -> None:
    channel = quality()
    now_ns = feed(channel, samples, seconds=4.0)
    assert channel.report(now_ns).clipped_share == 0.0
    assert channel.report(now_ns).state in {"ok", "flat"}


def test_the_first_packet_is_not_clipped_for_having_extremes() -> None:
    channel = quality()
    now_ns = feed(channel, noise(1, rms=20.0))
    assert channel.report(now_ns).state == "ok"


def test_gaps_that_are_filled_later_and_overlaps() -> None:
    channel = quality()
    samples = noise(200)
    sent = list(packets(samples, seconds=10.0))
    now_ns = START_NS + 201 * NS_PER_SECOND
    for packet in (sent[0], sent[3], sent[1], sent[1], *sent[4:]):
        channel.push(packet, received_ns=now_ns, timing_quality=90)
    report = channel.report(now_ns)
    assert (report.gaps, report.gap_s) == (1, 10.0)
    assert (report.overlaps, report.overlap_s) == (1, 10.0)
    assert report.availability == pytest.approx(190 / 200, abs=1e-4)


def test_an_overlap_does_not_count_its_samples_twice() -> None:
    channel, plain = quality(), quality()
    samples = noise(20)
    first, second = samples[:1500], samples[500:]
    channel.push(Segment(CHANNEL, START_NS, RATE, first), received_ns=START_NS, timing_quality=None)
    at_ns = START_NS + 5 * NS_PER_SECOND
    channel.push(Segment(CHANNEL, at_ns, RATE, second), received_ns=START_NS, timing_quality=None)
    feed(plain, samples)
    now_ns = START_NS + 21 * NS_PER_SECOND
    assert channel.report(now_ns).rms == plain.report(now_ns).rms
    assert (channel.report(now_ns).overlaps, channel.report(now_ns).overlap_s) == (1, 10.0)


def test_timing_quality_of_the_last_packet_and_the_worst() -> None:
    channel = quality()
    for packet, percent in zip(packets(noise(4)), (100, 30, None, 80), strict=True):
        channel.push(packet, received_ns=packet.next_ns, timing_quality=percent)
    report = channel.report(START_NS + 5 * NS_PER_SECOND)
    assert (report.timing_quality, report.timing_quality_min) == (80, 30)
    assert channel.report(START_NS + 700 * NS_PER_SECOND).timing_quality_min is None


def test_spikes_are_lone_samples() -> None:
    samples = noise(60)
    samples[[2500, 3000, 4000]] += np.array([90_000, -90_000, 90_000], np.int32)
    samples[5000:5002] += 90_000  # two in a row are no spike
    samples[5500:] += 90_000  # nor is a step
    for seconds in (1.0, 10.0, 25.0, 0.03):
        channel = quality()
        now_ns = feed(channel, samples, seconds=seconds)
        assert channel.report(now_ns).spikes == 3


def test_an_earthquake_has_no_spikes() -> None:
    channel = quality()
    now_ns = feed(channel, strong_motion().astype(np.int32))
    assert channel.report(now_ns).spikes == 0


def test_samples_that_are_no_numbers() -> None:
    channel = quality()
    samples = noise(30).astype(np.float32)
    samples[500:700] = np.nan
    samples[900] = np.inf
    samples[901] = 1e20
    now_ns = feed(channel, samples, seconds=5.0)
    report = channel.report(now_ns)
    assert (report.invalid_samples, report.gaps) == (202, 2)
    assert report.availability == pytest.approx(1 - 2.02 / 30, abs=1e-3)
    assert report.rms == pytest.approx(200, rel=0.05)
    nothing = Segment(CHANNEL, START_NS + 30 * NS_PER_SECOND, RATE, np.full(100, np.nan))
    channel.push(nothing, received_ns=now_ns + 500 * NS_PER_SECOND, timing_quality=None)
    assert channel.report(now_ns + 500 * NS_PER_SECOND).state == "dead"


def test_a_new_sampling_rate_and_time_that_jumps_back() -> None:
    channel = quality()
    feed(channel, noise(30))
    later_ns = START_NS + 30 * NS_PER_SECOND
    channel.push(Segment(CHANNEL, later_ns, 20.0, noise(10)), received_ns=later_ns, timing_quality=None)
    report = channel.report(later_ns + NS_PER_SECOND)
    assert (report.sampling_rate, report.rate_changes) == (20.0, 1)
    back_ns = START_NS - 10**15
    channel.push(Segment(CHANNEL, back_ns, 20.0, noise(1)), received_ns=later_ns, timing_quality=None)
    assert channel.report(later_ns + NS_PER_SECOND).state == "ok"
    channel.push(Segment(CHANNEL, back_ns, 20.0, noise(0)), received_ns=later_ns, timing_quality=None)


def test_a_recording_from_years_ago_is_ok_and_late() -> None:
    channel = quality(opened_ns=START_NS + 10**17)
    for packet in packets(noise(60)):
        channel.push(packet, received_ns=START_NS + 10**17, timing_quality=None)
    report = channel.report(START_NS + 10**17)
    assert (report.state, report.availability) == ("ok", 0.0)
    assert report.delay_s is not None
    assert report.delay_s > 9e7


def of_the_samples(report: QualityReport) -> dict[str, object]:
    names = "state reasons flat_s clipped_share spikes minimum maximum gaps availability last_sample".split()
    return {name: getattr(report, name) for name in names}


@settings(max_examples=60)
@given(data=st.data())
def test_packets_change_nothing(data: st.DataObject) -> None:
    parts = data.draw(
        st.lists(
            st.sampled_from(
                [
                    noise(9),
                    np.zeros(700, np.int32),
                    clipped(noise(5, rms=1e6), -5e5, 5e5),
                    np.array([9_000_000], np.int32),
                ]
            ),
            min_size=1,
            max_size=6,
        )
    )
    samples = np.concatenate(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(samples)), max_size=12)))
    whole, cut = quality(full_scale_counts=8e6), quality(full_scale_counts=8e6)
    now_ns = START_NS + 100 * NS_PER_SECOND
    whole.push(Segment(CHANNEL, START_NS, RATE, samples), received_ns=now_ns, timing_quality=None)
    for first, stop in zip([0, *cuts], [*cuts, len(samples)], strict=True):
        at_ns = START_NS + round(first * NS_PER_SECOND / RATE)
        cut.push(Segment(CHANNEL, at_ns, RATE, samples[first:stop]), received_ns=now_ns, timing_quality=None)
        assert isinstance(cut.usable, bool)  # asking in between changes nothing either
    one, other = whole.report(now_ns), cut.report(now_ns)
    assert of_the_samples(one) == of_the_samples(other)
    assert one.rms == pytest.approx(other.rms, rel=1e-5)
    assert one.offset == pytest.approx(other.offset, rel=1e-5, abs=1e-6)


def test_the_report_is_json_without_surprises() -> None:
    channel = quality()
    now_ns = feed(channel, noise(20).astype(np.float64) * 1e300)  # mostly invalid, the rest zero
    found = msgspec.json.decode(msgspec.json.encode(channel.report(now_ns)))
    assert found["schema"] == "monitor.quality/1"
    assert list(found) == list(QualityReport.__struct_fields__)
    assert msgspec.json.decode(msgspec.json.encode(channel.report(now_ns)), type=QualityReport).seed_id == "XX.ABC..HHZ"


def test_offset_does_not_drown_the_rms() -> None:
    channel = quality()
    samples = (noise(60, rms=2.0).astype(np.int64) + 2_147_483_000).astype(np.int32)
    now_ns = feed(channel, samples)
    assert channel.report(now_ns).rms == pytest.approx(noise(60, rms=2.0).std(), rel=1e-2)


def test_memory_is_bounded() -> None:
    channel = quality()
    for hour in range(3):
        long = Segment(CHANNEL, START_NS + hour * 7200 * NS_PER_SECOND, RATE, noise(3600))
        channel.push(long, received_ns=long.next_ns, timing_quality=None)
    statistics = channel._statistics
    assert len(statistics._blocks) <= 61
    assert sum(block.values is not None for block in statistics._blocks) <= 7


@given(
    stretches=st.lists(st.tuples(st.integers(0, 120), st.integers(1, 40)), min_size=1, max_size=15),
    window=st.tuples(st.integers(-10, 170), st.integers(0, 100)),
)
def test_coverage_counts_like_a_set(stretches: list[tuple[int, int]], window: tuple[int, int]) -> None:
    coverage, covered = Coverage(keep_ns=10_000), set[int]()
    for start, length in stretches:
        moments = set(range(start, start + length))
        assert coverage.add(start, start + length, tolerance_ns=0) == len(moments & covered)
        covered |= moments
    assert coverage.end_ns == max(covered) + 1
    start, stop = window[0], window[0] + window[1]
    assert coverage.covered_ns(start, stop) == len(covered & set(range(start, stop)))
    holes = [moment for moment in range(min(covered), max(covered)) if moment not in covered]
    inside = [moment for moment in holes if start <= moment < stop]
    groups = sum(moment - 1 not in inside for moment in inside)
    assert coverage.gaps(start, stop) == (groups, len(inside))


def test_coverage_forgets() -> None:
    coverage = Coverage(keep_ns=1000)
    for start in range(0, 100_000, 10):
        coverage.add(start, start + 5, tolerance_ns=1)
    assert len(coverage._starts) <= 103
    assert coverage.gaps(99_000, 100_000) == (99, 495)
    assert coverage.add(5, 7, tolerance_ns=1) == 0
    assert math.isclose(coverage.covered_ns(99_000, 100_000), 500)
