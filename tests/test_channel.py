"""One channel: whatever packets bring, the ring holds the same samples, and only real ones."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.channel import FLAT_S, Channel, ChannelCounts
from monitor.records import ChannelId, Segment
from monitor.timebase import NS_PER_SECOND, parse_time

ID = ChannelId("XX", "ABC", "", "HHZ")
T0 = parse_time("2024-05-06T07:08:09Z")
OUT = 100
FIRST = T0 * OUT // NS_PER_SECOND
F64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


def segment(samples: npt.ArrayLike, *, at: float = 0, rate: float = 100.0, start_ns: int | None = None) -> Segment:
    """Samples whose first one is `at` samples after `T0`."""
    start_ns = T0 + round(at * NS_PER_SECOND / rate) if start_ns is None else start_ns
    return Segment(ID, start_ns, rate, np.asarray(samples))


def channel_of(*segments: Segment, capacity_s: float = 60.0, flush: bool = True) -> Channel:
    channel = Channel(output_rate=OUT, capacity_s=capacity_s)
    for each in segments:
        channel.push(each)
    if flush:
        channel.flush()
    return channel


def held(channel: Channel, first: int = 0, stop: int = 3000) -> tuple[F64, Bool]:
    return channel.ring.read(FIRST + first, FIRST + stop)


def noise(n: int, seed: int = 1) -> npt.NDArray[np.int32]:
    return np.random.default_rng(seed).integers(-1000, 1000, n, np.int32)


def same(a: Channel, b: Channel) -> None:
    # Times of packets are rounded to nanoseconds.
    assert abs(a.counts.gap_ns - b.counts.gap_ns) <= 2 * max(1, a.counts.gaps)
    assert replace(a.counts, gap_ns=0) == replace(b.counts, gap_ns=0)
    assert (a.ring.end, a.first_sample) == (b.ring.end, b.first_sample)
    for one, other in zip(held(a, -50, 5000), held(b, -50, 5000), strict=True):
        assert one.tobytes() == other.tobytes()
    assert a.rates(FIRST, FIRST + 5000) == b.rates(FIRST, FIRST + 5000)
    assert [a.offset_ns(FIRST + i) for i in range(0, 5000, 50)] == [b.offset_ns(FIRST + i) for i in range(0, 5000, 50)]


def cut(whole: Segment, cuts: list[int]) -> list[Segment]:
    edges = [0, *sorted({min(cut, whole.npts) for cut in cuts}), whole.npts]
    return [
        segment(
            whole.samples[a:b],
            rate=whole.sampling_rate,
            start_ns=whole.starttime_ns + round(a * NS_PER_SECOND / whole.sampling_rate),
        )
        for a, b in pairwise(edges)
    ]


@st.composite
def recordings(draw: st.DrawFn) -> list[Segment]:
    """Segments in order of arrival with everything that can be wrong with them."""
    result, at_ns = [], T0 + draw(st.integers(0, 10_000_000))
    rate = draw(st.sampled_from([100.0, 40.0, 250.0, 75.19]))
    dtype = draw(st.sampled_from([np.int32, np.float32, np.float64]))
    for number in range(draw(st.integers(1, 4))):
        n = draw(st.integers(1, 1000))
        samples = noise(n, draw(st.integers(0, 99))).astype(dtype)
        for _ in range(draw(st.integers(0, 3))):
            first, length = draw(st.integers(0, n - 1)), draw(st.integers(1, 700))
            kind = draw(st.sampled_from(["flat", "nan", "inf", "huge"]))
            if kind == "flat":
                samples[first : first + length] = samples[first]
            elif samples.dtype.kind == "f":
                samples[first : first + length % 5] = {"nan": np.nan, "inf": np.inf, "huge": 1e30}[kind]
        if number:
            # Jitter, gaps and overlaps; not half a sample, where a nanosecond of rounding decides.
            late = draw(st.one_of(st.just(0), st.integers(-750, 350))) + draw(st.sampled_from([0.0, 0.3, -0.3]))
            if draw(st.integers(0, 5)) == 0:
                rate = draw(st.sampled_from([100.0, 40.0, 200.0]))
            at_ns += round(late * NS_PER_SECOND / rate)
        result.append(segment(samples, rate=rate, start_ns=at_ns))
        at_ns = result[-1].next_ns
    return result


@settings(max_examples=60)
@given(recording=recordings(), data=st.data())
def test_packets_change_nothing(recording: list[Segment], data: st.DataObject) -> None:
    whole = channel_of(*recording)
    packets = [
        packet for each in recording for packet in cut(each, data.draw(st.lists(st.integers(0, 1000), max_size=5)))
    ]
    same(channel_of(*packets), whole)


@settings(max_examples=10)
@given(recording=recordings())
def test_one_sample_packets_change_nothing(recording: list[Segment]) -> None:
    short = [segment(each.samples[:250], rate=each.sampling_rate, start_ns=each.starttime_ns) for each in recording]
    same(channel_of(*(packet for each in short for packet in cut(each, list(range(250))))), channel_of(*short))


@settings(max_examples=25)
@given(recording=recordings(), watermarks=st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_a_watermark_only_says_earlier_what_is_known_later(recording: list[Segment], watermarks: list[int]) -> None:
    """Told or not that nothing more comes before a segment: the same samples; what is complete stays complete."""
    told = Channel(output_rate=OUT, capacity_s=60)
    expected_ns = recording[0].starttime_ns
    for each, how in zip(recording, watermarks, strict=False):
        if how and each.starttime_ns >= expected_ns:
            told.advance(each.starttime_ns)
            complete = told.complete_until(each.starttime_ns * OUT // NS_PER_SECOND)
            assert complete is not None
            before = told.ring.read(complete - 3000, complete)
            told.push(each)
            after = told.ring.read(complete - 3000, complete)
            assert before[0].tobytes() == after[0].tobytes()
            assert before[1].tolist() == after[1].tolist()
        else:
            told.push(each)
        expected_ns = max(expected_ns, each.next_ns)
    told.flush()
    same(told, channel_of(*recording))


def test_plain_data_arrive_as_they_are() -> None:
    samples = noise(500)
    channel = channel_of(segment(samples[:200]), segment(samples[200:], at=200), flush=False)
    found, valid = held(channel, -1, 501)
    assert valid.tolist() == [False] + [True] * 500 + [False]
    assert found[1:-1].tolist() == samples.tolist()
    assert channel.counts == ChannelCounts(samples=500)
    assert channel.first_sample == FIRST
    assert channel.complete_until(None) == FIRST + 500


def test_a_gap_is_masked_and_counted() -> None:
    channel = channel_of(segment(noise(100)), segment(noise(100, 2), at=150))
    _, valid = held(channel, 0, 250)
    assert valid.tolist() == [True] * 100 + [False] * 50 + [True] * 100
    assert channel.counts == ChannelCounts(samples=200, gaps=1, gap_ns=NS_PER_SECOND // 2)


def test_first_received_wins() -> None:
    first, second = noise(100), noise(100, 2)
    channel = channel_of(segment(first), segment(second, at=40), segment(first, at=10))
    found, valid = held(channel, 0, 140)
    assert valid.all()
    assert found.tolist() == [*first.tolist(), *second[60:].tolist()]
    assert channel.counts == ChannelCounts(samples=140, overlap_samples=160)


@pytest.mark.parametrize("overlap", [0.5, 1.5, 2.5, 3.5, 4.5])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_half_a_sample_of_overlap_is_the_same_however_it_is_cut(overlap: float, size: int) -> None:
    late = segment(noise(20, 2), at=100 - overlap)
    whole = channel_of(segment(noise(100)), late)
    assert whole.counts.overlap_samples == overlap - 0.5
    same(channel_of(segment(noise(100)), *cut(late, list(range(0, 20, size)))), whole)


def test_back_in_time_at_another_rate_disturbs_nothing() -> None:
    samples = noise(2000)
    late = segment(noise(50, 3), rate=50.0, start_ns=T0)
    plain = channel_of(segment(samples[:1000], rate=200.0), segment(samples[1000:], at=1000, rate=200.0))
    disturbed = channel_of(segment(samples[:1000], rate=200.0), late, segment(samples[1000:], at=1000, rate=200.0))
    assert disturbed.counts == replace(plain.counts, overlap_samples=50)
    assert held(disturbed)[0].tobytes() == held(plain)[0].tobytes()
    assert held(disturbed)[1].tobytes() == held(plain)[1].tobytes()


@pytest.mark.parametrize("at", [0, 100, 5000, -700])
@pytest.mark.parametrize("rate", [100.0, 50.0])
def test_an_empty_segment_disturbs_nothing(at: int, rate: float) -> None:
    samples = noise(200)
    packets = (segment(samples[:100]), segment(samples[100:], at=100))
    empty = segment(np.empty(0, np.int32), at=at, rate=rate)
    same(channel_of(packets[0], empty, packets[1]), channel_of(*packets))
    same(channel_of(empty, *packets), channel_of(*packets))


def test_a_changed_rate_is_followed() -> None:
    time = np.arange(2000) / 200
    tone = 1000 * np.cos(2 * np.pi * 4 * time)
    channel = channel_of(segment(tone[::2][:500]), segment(tone[1000:], at=1000, rate=200.0))
    found, valid = held(channel, 0, 1000)
    assert channel.counts == ChannelCounts(samples=1500, rate_changes=1)
    assert valid.all()
    inside = np.r_[0:500, 515:985]
    np.testing.assert_allclose(found[inside], 1000 * np.cos(2 * np.pi * 4 * np.arange(1000) / 100)[inside], atol=1.5)
    assert channel.recording_rate == 200.0
    assert channel.rates(FIRST + 100, FIRST + 900) == [
        (FIRST + 100, FIRST + 500, 100.0),
        (FIRST + 500, FIRST + 900, 200.0),
    ]
    assert channel.rates(FIRST + 600, FIRST + 601) == [(FIRST + 600, FIRST + 601, 200.0)]
    assert channel.rates(FIRST + 600, FIRST + 600) == []


def test_a_rate_within_the_tolerance_is_the_same_rate() -> None:
    samples = noise(2000)
    channel = channel_of(
        *(segment(samples[i : i + 100], at=i, rate=100.0 if i % 200 else 100.003) for i in range(0, 2000, 100))
    )
    assert channel.counts == ChannelCounts(samples=2000)
    # The last sample lies before the last grid point by what the first packet's rate is too high.
    assert held(channel, 0, 1999)[1].all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("rate", [100.0, 200.0])
def test_what_is_no_number_is_masked(bad: float, rate: float) -> None:
    samples = noise(1000).astype(float)
    samples[300:304] = bad
    samples[700] = bad
    channel = channel_of(segment(samples, rate=rate))
    found, valid = held(channel, 0, round(1000 * OUT / rate))
    assert channel.counts.invalid_samples == 5
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 2000
    bad_at = {round(i * OUT / rate) for i in (300, 302, 700)} if rate == 200.0 else {300, 301, 302, 303, 700}
    assert set(np.flatnonzero(~valid)) == bad_at


@pytest.mark.parametrize("value", [0, 5, -(2**31)])
@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 37, 2000])
def test_constant_data_are_not_real_after_two_seconds(value: int, dtype: type[Any], size: int) -> None:
    samples = np.full(2000, value, dtype)
    channel = channel_of(*(segment(samples[i : i + size], at=i) for i in range(0, 2000, size)))
    _, valid = held(channel, 0, 2000)
    limit = round(FLAT_S * 100)
    assert valid[:limit].all()
    assert not valid[limit:].any()
    assert channel.counts.flat_samples == 2000 - limit


@given(
    lengths=st.lists(st.sampled_from([1, 1, 2, 5, 90, 99, 100, 101, 150, 198, 199, 200, 201, 202, 350]), max_size=12),
    cuts=st.lists(st.integers(0, 3000), max_size=4),
)
def test_flat_is_what_repeats_too_often_however_it_is_cut(lengths: list[int], cuts: list[int]) -> None:
    samples = np.repeat(np.arange(len(lengths) + 1, dtype=np.int32), [*lengths, 1])
    channel = channel_of(*cut(segment(samples), cuts))
    limit = round(FLAT_S * 100)
    expected = np.concatenate([np.arange(length) < limit for length in (*lengths, 1)])
    assert channel.counts.flat_samples == int((~expected).sum())
    assert held(channel, 0, len(samples))[1].tolist() == expected.tolist()


def test_data_are_real_again_as_soon_as_they_change() -> None:
    samples = noise(1500)
    samples[400:900] = samples[400]
    samples[900] += 5000
    _, valid = held(channel_of(segment(samples)), 0, 1500)
    assert set(np.flatnonzero(~valid)) == set(range(600, 900))


def test_a_value_is_not_flat_across_a_gap() -> None:
    constant = np.full(150, 7, np.int32)
    channel = channel_of(segment(constant), segment(constant, at=200))
    assert channel.counts.flat_samples == 0


@pytest.mark.parametrize("rate", [100.0, 40.0])
@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
def test_read_only_samples_of_any_type(rate: float, dtype: type[Any]) -> None:
    samples = noise(1000)
    given_samples = samples.astype(dtype)
    given_samples.flags.writeable = False
    found = held(channel_of(segment(given_samples, rate=rate)))
    wanted = held(channel_of(segment(samples.astype(float), rate=rate)))
    assert found[0].tobytes() == wanted[0].tobytes()
    assert found[1].tolist() == wanted[1].tolist()
    assert given_samples.tolist() == samples.astype(dtype).tolist()


@pytest.mark.parametrize("ppm", [40.0, -40.0])
@pytest.mark.parametrize("rate", [100.0, 40.0, 200.0])
def test_a_clock_that_drifts_is_followed(ppm: float, rate: float) -> None:
    """Headers say the nominal rate and the true start: samples end up within half a sample of their true time."""
    true_rate = rate * (1 + ppm * 1e-6)
    n, seconds = round(rate) * 20, 2000
    frequency = 1.0
    channel = Channel(output_rate=OUT, capacity_s=60)
    for first in range(0, round(rate) * seconds, n):
        time = np.arange(first, first + n) / true_rate
        start = T0 + round(first * NS_PER_SECOND / true_rate)
        channel.push(segment(1e6 * np.cos(2 * np.pi * frequency * time), rate=rate, start_ns=start))
    assert channel.counts == ChannelCounts(samples=round(rate) * seconds)
    assert channel.ring.end is not None
    start_index = channel.ring.end - 5500
    found, valid = channel.ring.read(start_index, channel.ring.end)
    assert (~valid).sum() <= 5, "at most one new start within the minute"
    time = (np.arange(5500) + start_index - FIRST) / OUT
    offset_s = np.array([channel.offset_ns(start_index + i) for i in range(5500)]) / NS_PER_SECOND
    error = found - 1e6 * np.cos(2 * np.pi * frequency * (time + offset_s))
    largest_s = 0.5 / min(rate, OUT) + 20 * abs(ppm) * 1e-6
    assert np.abs(error[valid]).max() < 1e6 * 2 * np.pi * frequency * largest_s + 2e3


def test_offsets_belong_to_the_samples_that_have_them() -> None:
    channel = channel_of(
        segment(noise(300), start_ns=T0 + 3_000_000), segment(noise(300), start_ns=T0 + 6 * NS_PER_SECOND - 4_000_000)
    )
    assert channel.offset_ns(FIRST) == channel.offset_ns(FIRST + 299) == 3_000_000
    assert channel.offset_ns(FIRST + 600) == channel.offset_ns(FIRST + 10_000) == -4_000_000


def test_memory_of_runs_is_bounded_by_the_ring() -> None:
    channel = Channel(output_rate=OUT, capacity_s=10)
    for i in range(400):
        channel.push(segment(noise(50), at=100 * i))
    assert len(channel._runs) <= 12
    assert channel.counts.gaps == 399


@pytest.mark.parametrize("n", [1, 2, 10, 30])
@pytest.mark.parametrize("rate", [20.0, 50.0, 250.0])
def test_a_run_shorter_than_the_filter_is_looked_at(rate: float, n: int) -> None:
    channel = channel_of(segment(noise(n), rate=rate))
    assert channel.first_sample == FIRST
    assert held(channel)[1].sum() == (n - 1) * OUT // rate + 1


def test_complete_until() -> None:
    channel = Channel(output_rate=OUT, capacity_s=60)
    assert channel.complete_until(None) is None
    assert channel.complete_until(FIRST + 7) == FIRST + 7
    channel.push(segment(noise(400), rate=200.0))
    stands = channel.complete_until(FIRST + 10_000)
    assert stands is not None
    assert FIRST + 180 < stands < FIRST + 200, "an unbroken run is known up to its resampler's look-ahead"
    channel.advance(T0 + 2 * NS_PER_SECOND)
    assert channel.complete_until(FIRST + 200) == stands, "the run may go on from there"
    channel.advance(T0 + 2 * NS_PER_SECOND + 3_000_000)
    assert channel.complete_until(FIRST + 200) == FIRST + 200
    assert channel.complete_until(FIRST + 300) == FIRST + 300
    assert channel.complete_until(None) == FIRST + 200


@pytest.mark.parametrize("jump_s", [1e4, 1e8])
def test_a_jump_into_the_future_and_back_is_counted(jump_s: float) -> None:
    channel = channel_of(segment(noise(100)), segment(noise(100), at=jump_s * 100), segment(noise(100), at=100))
    assert channel.counts.gaps == 1
    assert channel.counts.overlap_samples == 100
