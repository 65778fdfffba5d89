"""The resampler: exact on what it must pass, silent on what it must not, the same however it is fed."""

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from monitor.resample import Resampler
from monitor.timebase import NS_PER_SECOND, parse_time

F64 = npt.NDArray[np.float64]

RATES = [20.0, 31.25, 40.0, 50.0, 75.19, 80.0, 100.0, 125.0, 200.0, 250.0, 500.0, 1000.0, 99.99, 62.4997, 333.333]
OUT = 100
T0 = parse_time("2024-05-06T07:08:09.123Z")
starts = st.one_of(st.integers(T0, T0 + NS_PER_SECOND), st.just(0), st.just(-5 * NS_PER_SECOND + 3))


def resampled(samples: F64, rate: float, start_ns: int, *, cuts: list[int] | None = None) -> tuple[int, F64]:
    resampler = Resampler(rate, OUT, start_ns)
    first = resampler.next_index
    pieces: list[F64] = []
    edges = [0, *sorted(min(cut, len(samples)) for cut in cuts or []), len(samples)]
    for a, b in pairwise(edges):
        index, output = resampler.push(samples[a:b])
        assert index == first + sum(len(piece) for piece in pieces)
        pieces.append(output)
        assert resampler.next_index == index + len(output)
    index, output = resampler.flush()
    assert index == first + sum(len(piece) for piece in pieces)
    return first, np.concatenate([*pieces, output])


def seconds_after(start_ns: int, first: int, n: int) -> F64:
    """Times of outputs after the first input, computed in integers."""
    return np.array([(first + i) * NS_PER_SECOND - start_ns * OUT for i in range(n)], float) / OUT / NS_PER_SECOND


@settings(max_examples=60)
@given(
    rate=st.one_of(st.sampled_from(RATES), st.floats(20, 1000)),
    start_ns=starts,
    n=st.integers(0, 700),
    cuts=st.lists(st.integers(0, 700), max_size=6),
)
def test_any_split_gives_the_same_bits(rate: float, start_ns: int, n: int, cuts: list[int]) -> None:
    samples = np.random.default_rng(n).normal(0, 1000, n)
    first, whole = resampled(samples, rate, start_ns)
    again, split = resampled(samples, rate, start_ns, cuts=cuts)
    assert first == again
    assert split.tobytes() == whole.tobytes()


def test_sample_by_sample() -> None:
    samples = np.random.default_rng(0).normal(0, 1000, 400)
    for rate in (31.25, 75.19, 250.0):
        whole = resampled(samples, rate, T0)[1]
        assert resampled(samples, rate, T0, cuts=list(range(400)))[1].tobytes() == whole.tobytes()


@settings(max_examples=80)
@given(rate=st.one_of(st.sampled_from(RATES), st.floats(20, 1000)), start_ns=starts, n=st.integers(1, 500))
def test_outputs_are_all_grid_points_within_the_run(rate: float, start_ns: int, n: int) -> None:
    if abs(rate / OUT - 1) < 1e-6:
        return
    first, output = resampled(np.ones(n), rate, start_ns)
    assert first == -(-start_ns * OUT // NS_PER_SECOND)
    last = (start_ns + (n - 1) * NS_PER_SECOND / rate) * OUT / NS_PER_SECOND
    assert abs(first + len(output) - 1 - math.floor(last)) <= (0 if abs(last - round(last)) > 1e-4 else 1)
    np.testing.assert_allclose(output, 1.0, rtol=1e-12)


@pytest.mark.parametrize("rate", [20.0, 40.0, 50.0, 125.0, 200.0, 250.0, 1000.0, 75.19])
def test_an_output_exactly_at_the_last_sample_is_given(rate: float) -> None:
    n = round(7519 * rate / 75.19) + 1 if rate == 75.19 else round(rate) + 1
    seconds = 100 if rate == 75.19 else 1
    _, output = resampled(np.ones(n), rate, 3 * NS_PER_SECOND)
    assert len(output) == seconds * OUT + 1


@settings(max_examples=60)
@given(
    rate=st.one_of(st.sampled_from(RATES), st.floats(20, 1000)),
    start_ns=starts,
    share=st.floats(0.01, 0.36),
    phase=st.floats(0, 6.3),
)
def test_what_is_in_the_band_keeps_amplitude_and_time(rate: float, start_ns: int, share: float, phase: float) -> None:
    """A sinusoid is the same sinusoid at the outputs' own times: no gain, no delay."""
    if abs(rate / OUT - 1) < 1e-6:
        return
    frequency = share * min(rate, OUT)
    n = round(4 * rate)
    samples = np.cos(2 * np.pi * frequency * np.arange(n) / rate + phase)
    first, output = resampled(samples, rate, start_ns)
    time = seconds_after(start_ns, first, len(output))
    edge = Resampler(rate, OUT, start_ns).half_width_s
    inside = (time > edge) & (time < 4 - edge - 1 / rate)
    assert inside.sum() > 100
    wanted = 2 * np.pi * frequency * time[inside] + phase
    np.testing.assert_allclose(output[inside], np.cos(wanted), atol=1.5e-3)
    # In-phase and quadrature parts by least squares: the filter is symmetric, the clock exact.
    basis = np.stack((np.cos(wanted), -np.sin(wanted)), 1)
    (in_phase, quadrature), *_ = np.linalg.lstsq(basis, output[inside], rcond=None)
    assert abs(in_phase - 1) < 6e-4
    assert abs(quadrature) < 2 * np.pi * frequency * 0.5 / 2048 / rate + 4e-4, "the time is off"


@settings(max_examples=40)
@given(
    rate=st.sampled_from([125.0, 200.0, 250.0, 333.333, 500.0, 1000.0]),
    share=st.floats(0.0, 1.0),
    start_ns=starts,
)
def test_what_would_alias_is_attenuated(rate: float, share: float, start_ns: int) -> None:
    frequency = 54.0 + share * (rate / 2 - 54.0)
    samples = np.cos(2 * np.pi * frequency * np.arange(round(3 * rate)) / rate + 0.3)
    first, output = resampled(samples, rate, start_ns)
    time = seconds_after(start_ns, first, len(output))
    inside = (time > 0.2) & (time < 2.8)
    assert 20 * np.log10(np.sqrt(2) * output[inside].std()) < -60


@pytest.mark.parametrize("rate", [125.0, 200.0, 250.0, 500.0])
def test_against_scipy(rate: float) -> None:
    """SciPy's polyphase filter with the kernel as the module's text gives it."""
    up, down = {125.0: (4, 5), 200.0: (1, 2), 250.0: (2, 5), 500.0: (1, 5)}[rate]
    samples = np.random.default_rng(2).normal(0, 1000, round(5 * rate))
    reach = 12 * down  # half width in samples of the common rate, in steps of 1 / (up * rate)
    taps = np.arange(-reach, reach + 1) / (up * rate)
    kernel = np.sinc(0.9 * OUT * taps) * np.i0(
        0.1102 * (70 - 8.7) * np.sqrt(np.maximum(0, 1 - (taps * up * rate / reach) ** 2))
    )
    kernel[[0, -1]] = 0.0
    expected = signal.resample_poly(samples, up, down, window=kernel / kernel.sum())
    _, output = resampled(samples, rate, T0 - T0 % NS_PER_SECOND)
    # Where the position is no multiple of 1/2048 of a sample it is rounded.
    np.testing.assert_allclose(output[20:-20], expected[20 : len(output) - 20], atol=2.0 if up > 1 else 1e-6)


@given(start_ns=starts, n=st.integers(0, 300), rate=st.sampled_from([100.0, 100.0 * (1 + 5e-7)]))
def test_the_models_own_rate_passes_unchanged(start_ns: int, n: int, rate: float) -> None:
    samples = np.random.default_rng(n).normal(0, 1000, n)
    first, output = resampled(samples, rate, start_ns, cuts=[n // 3, n // 2])
    assert output.tobytes() == samples.tobytes()
    resampler = Resampler(rate, OUT, start_ns)
    assert first * (NS_PER_SECOND // OUT) + resampler.offset_ns == start_ns
    assert -5_000_000 <= resampler.offset_ns <= 5_000_000
    assert resampler.half_width_s == 0


def test_other_rates_have_no_offset() -> None:
    assert Resampler(200.0, OUT, T0 + 123).offset_ns == 0


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.int16])
@pytest.mark.parametrize("rate", [100.0, 200.0])
def test_any_dtype_and_read_only(dtype: type[np.generic], rate: float) -> None:
    samples = np.random.default_rng(1).normal(0, 1000, 300).astype(dtype)
    samples.flags.writeable = False
    resampler = Resampler(rate, OUT, T0)
    reference = Resampler(rate, OUT, T0)
    assert resampler.push(samples)[1].tobytes() == reference.push(samples.astype(float))[1].tobytes()
    assert resampler.flush()[1].tobytes() == reference.flush()[1].tobytes()


def test_the_run_may_be_long_and_old() -> None:
    """Positions stay exact a day into a run at an awkward rate, without a day of memory."""
    rate = 75.19
    resampler = Resampler(rate, OUT, T0)
    n = 40_000
    received, worst = 0, 0.0
    for _ in range(20):
        time = (received + np.arange(n)) / rate
        first, output = resampler.push(np.cos(2 * np.pi * 5.0 * time))
        received += n
        expected = np.cos(2 * np.pi * 5.0 * seconds_after(T0, first, len(output)))
        worst = max(worst, float(np.abs(output - expected)[50:].max()))
        assert len(resampler._held) < 100
    assert worst < 1e-3


def test_more_outputs_than_are_made_at_once() -> None:
    samples = np.random.default_rng(1).normal(0, 1000, 30_000)
    whole = resampled(samples, 40.0, T0)[1]
    assert len(whole) > 65_536
    assert resampled(samples, 40.0, T0, cuts=list(range(0, 30_000, 7_001)))[1].tobytes() == whole.tobytes()


def test_an_enormous_ratio_is_no_trap() -> None:
    resampler = Resampler(0.01, OUT, 0)
    first, output = resampler.push(np.ones(16))
    assert first == 0
    np.testing.assert_allclose(output, 1.0)


@pytest.mark.parametrize("rate", [20.0, 75.19, 250.0, 1000.0])
def test_an_output_waits_for_the_look_ahead_and_no_longer(rate: float) -> None:
    resampler = Resampler(rate, OUT, 0)
    resampler.push(np.ones(1000))
    # An output between two samples needs `half_width_s` of samples from the earlier one on.
    known_s = 1000 / rate - resampler.half_width_s
    assert known_s - 1e-9 <= resampler.next_index / OUT <= known_s + 1 / OUT
    assert resampler.half_width_s == pytest.approx(12 / min(rate, OUT), abs=1 / rate)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_an_impossible_rate_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=f"sampling rate {rate} Hz"):
        Resampler(rate, OUT, 0)


def test_flush_before_any_data() -> None:
    for rate in (100.0, 50.0):
        resampler = Resampler(rate, OUT, 0)
        resampler.push(np.empty(0))
        assert len(resampler.flush()[1]) == 0
