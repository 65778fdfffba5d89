"""The whole path from samples to detections, with the shipped model."""

import jsonschema
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.detector import DetectorSettings
from monitor.model import Model
from monitor.pipeline import LIVE_BATCH_S, REPLAY_BATCH_S, StationPipeline
from monitor.records import Detection, Segment
from monitor.schema import detection_schema
from monitor.stations import group_channels
from monitor.timebase import NS_PER_SECOND, parse_time
from tests.waveforms import T0, earthquake, segments, split

SETTINGS = DetectorSettings()


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


def detect(
    model: Model,
    packets: list[Segment],
    *,
    batch_s: float = REPLAY_BATCH_S,
    settings: DetectorSettings = SETTINGS,
) -> list[Detection]:
    """Feed packets in order of time, as a source does."""
    packets = sorted(packets, key=lambda packet: packet.starttime_ns)
    (group,) = group_channels(packet.channel_id for packet in packets)
    pipeline = StationPipeline(group, model, settings, origin="replay", batch_s=batch_s)
    found = []
    for packet in packets:
        found += pipeline.advance(packet.starttime_ns)
        found += pipeline.push(packet)
    return found + pipeline.finish()


def finals(found: list[Detection]) -> list[Detection]:
    return [detection for detection in found if detection.state == "final"]


QUAKE = earthquake(rate=100.0, p_s=40.0, s_minus_p=3.0, seconds=75.0, snr=12.0, seed=1)
P_NS = T0 + 40 * NS_PER_SECOND


def test_an_earthquake_is_one_detection_with_its_p_and_s(model: Model) -> None:
    found = detect(model, segments(QUAKE, rate=100.0))
    (final,) = finals(found)
    assert abs(parse_time(final.onset) - P_NS) < 0.15 * NS_PER_SECOND
    assert final.phase == "P"
    assert final.s_onset is not None
    assert abs(parse_time(final.s_onset) - P_NS - 3 * NS_PER_SECOND) < 0.4 * NS_PER_SECOND
    assert final.end is not None
    assert parse_time(final.s_onset) < parse_time(final.end)
    assert final.seed_ids == ["XX.ABC..HHZ", "XX.ABC..HHN", "XX.ABC..HHE"]
    assert final.data_complete == 1.0
    assert final.snr_db is not None
    assert final.snr_db > 15
    states = [detection.state for detection in found]
    assert states[0] == "new"
    assert states[-1] == "final"
    assert [detection.revision for detection in found] == list(range(len(found)))
    assert len({detection.id for detection in found}) == 1
    decided = [parse_time(detection.decided_at) for detection in found]
    assert decided == sorted(decided)
    assert found[0].latency_s == pytest.approx((decided[0] - parse_time(found[0].onset)) / NS_PER_SECOND, abs=2e-3)
    assert 0 < found[0].latency_s < 5


def test_every_revision_fits_the_published_schema(model: Model) -> None:
    for detection in detect(model, segments(QUAKE, rate=100.0)):
        jsonschema.validate(msgspec.to_builtins(detection), detection_schema())


def test_a_vertical_alone_is_enough(model: Model) -> None:
    quake = earthquake(rate=100.0, p_s=40.0, s_minus_p=3.0, seconds=75.0, snr=12.0, seed=3)
    (final,) = finals(detect(model, segments(quake[:1], rate=100.0, band="EH")))
    assert abs(parse_time(final.onset) - P_NS) < 0.15 * NS_PER_SECOND
    assert final.seed_ids == ["XX.ABC..EHZ"]


@pytest.mark.parametrize("rate", [31.25, 40.0, 50.0, 75.19, 100.0, 125.0, 200.0, 250.0, 1000.0])
def test_any_sampling_rate(model: Model, rate: float) -> None:
    wave = earthquake(rate=rate, p_s=40.0, s_minus_p=4.0, seconds=75.0, snr=14.0, seed=2)
    (final,) = finals(detect(model, segments(wave, rate=rate)))
    assert abs(parse_time(final.onset) - P_NS) < 0.3 * NS_PER_SECOND


@settings(max_examples=12, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 900), min_size=1, max_size=6),
    rate=st.sampled_from([100.0, 31.25, 250.0]),
    batch_s=st.sampled_from([LIVE_BATCH_S, 1.0, 7.3, REPLAY_BATCH_S]),
)
def test_packets_and_batches_change_nothing(sizes: list[int], rate: float, batch_s: float) -> None:
    model = Model()
    wave = earthquake(rate=rate, p_s=25.0, s_minus_p=3.0, seconds=45.0, snr=8.0, seed=3)
    whole = segments(wave, rate=rate)
    packets = [packet for segment in whole for packet in split(segment, sizes)]
    assert detect(model, packets, batch_s=batch_s) == detect(model, whole)


@pytest.mark.parametrize("gain", [2.0**-20, 1e-9, 1e-3, 7.0, 1e4])
def test_the_unit_of_the_recording_does_not_matter(model: Model, gain: float) -> None:
    (expected,) = finals(detect(model, segments(QUAKE, rate=100.0)))
    scaled = [
        Segment(s.channel_id, s.starttime_ns, s.sampling_rate, s.samples.astype(np.float64) * gain)
        for s in segments(QUAKE, rate=100.0)
    ]
    (found,) = finals(detect(model, scaled))
    assert (found.onset, found.s_onset, found.id) == (expected.onset, expected.s_onset, expected.id)
    assert found.probability == pytest.approx(expected.probability, abs=0.01)
    assert found.peak_counts == pytest.approx(expected.peak_counts * gain, rel=1e-4)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_gap_is_no_earthquake(data: st.DataObject) -> None:
    """Noise with holes, constant fill, NaN, offsets after a restart and overlaps gives nothing."""
    model = Model()
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    n, rate = 9000, 100.0
    packets = []
    noise = 80.0 * rng.standard_normal((3, n))
    at, offset = 0, 0.0
    while at < n:
        length = data.draw(st.integers(300, 4000))
        piece = noise[:, at : at + length] + offset
        start = T0 + at * 10_000_000
        packets += segments(piece, rate=rate, start_ns=start)
        kind = data.draw(st.sampled_from(["gap", "restart", "nan", "fill", "overlap"]))
        at += length
        if kind == "gap":
            at += data.draw(st.integers(1, 1500))
        elif kind == "restart":
            at += data.draw(st.integers(30, 500))
            offset = data.draw(st.floats(-1e5, 1e5))
        elif kind == "nan":
            hole = data.draw(st.integers(1, 400))
            for template in segments(np.zeros((3, hole)), rate=rate, start_ns=T0 + at * 10_000_000):
                packets.append(
                    Segment(template.channel_id, template.starttime_ns, rate, np.full(hole, np.nan, np.float32))
                )
            at += hole
        elif kind == "fill":
            packets += segments(np.full((3, 700), round(offset)), rate=rate, start_ns=T0 + at * 10_000_000)
            at += 700
        else:
            at -= data.draw(st.integers(1, 200))
    assert detect(model, packets) == []


@pytest.mark.parametrize("rates", [(100.0, 50.0), (50.0, 100.0), (100.0, 200.0), (200.0, 100.0)])
def test_another_sampling_rate_with_another_gain_is_no_earthquake(model: Model, rates: tuple[float, float]) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        before, after = (1000.0 * rng.standard_normal((3, round(90 * rate))) for rate in rates)
        later = T0 + 90 * NS_PER_SECOND
        packets = segments(before, rate=rates[0]) + segments(10 * after, rate=rates[1], start_ns=later)
        assert detect(model, packets, settings=DetectorSettings(threshold=0.9)) == []


@pytest.mark.parametrize("sizes", [[100], [33, 250, 7]])
def test_packets_change_nothing_where_the_rate_changes(model: Model, sizes: list[int]) -> None:
    parts = segments(QUAKE, rate=100.0)
    later = T0 + round(QUAKE.shape[1] / 100 * NS_PER_SECOND)
    parts += segments(8 * QUAKE[:, ::2], rate=50.0, start_ns=later)
    whole = detect(model, parts)
    assert len(finals(whole)) == 2
    pieces = [piece for part in parts for piece in split(part, sizes)]
    assert detect(model, pieces, batch_s=LIVE_BATCH_S) == whole


def test_an_earthquake_is_found_after_a_gap_and_across_a_missing_horizontal(model: Model) -> None:
    z, n, e = segments(QUAKE, rate=100.0)
    with_gap = [*split(z, [100]), *split(n, [100])]
    del with_gap[10:14]
    broken = [packet for i, packet in enumerate(split(e, [100])) if not 30 <= i < 60]
    (final,) = finals(detect(model, with_gap + broken))
    assert abs(parse_time(final.onset) - P_NS) < 0.15 * NS_PER_SECOND


def test_an_earthquake_at_the_very_end_is_seen(model: Model) -> None:
    cut = QUAKE[:, : 40 * 100 + 250]
    (final,) = finals(detect(model, segments(cut, rate=100.0)))
    assert abs(parse_time(final.onset) - P_NS) < 0.2 * NS_PER_SECOND


@pytest.mark.parametrize("value", [0, 7, -(2**31)])
def test_constant_data_give_nothing(model: Model, value: int) -> None:
    assert detect(model, segments(np.full((3, 6000), value), rate=100.0)) == []


def test_tiny_and_empty_input(model: Model) -> None:
    for n in (0, 1, 2, 64, 65, 66, 500):
        assert detect(model, segments(QUAKE[:, :n], rate=100.0)) == []


def test_threshold_and_id(model: Model) -> None:
    lower = DetectorSettings(threshold=0.3)
    (a,) = finals(detect(model, segments(QUAKE, rate=100.0)))
    (b,) = finals(detect(model, segments(QUAKE, rate=100.0), settings=lower))
    assert b.reason.threshold == 0.3
    assert a.id != b.id, "other settings are another detection"


def test_a_component_that_lags_is_waited_for(model: Model) -> None:
    (group,) = group_channels(segment.channel_id for segment in segments(QUAKE, rate=100.0))
    pipeline = StationPipeline(group, model, SETTINGS, origin="live")
    z, n, e = (split(segment, [100]) for segment in segments(QUAKE, rate=100.0))
    found: list[Detection] = []
    for i in range(len(z) + 8):
        for component, late in ((z, 0), (n, 3), (e, 8)):
            if 0 <= i - late < len(component):
                found += pipeline.push(component[i - late])
    found += pipeline.finish()
    expected = detect(model, segments(QUAKE, rate=100.0))
    assert [msgspec.structs.replace(d, origin="replay") for d in found] == expected


def test_a_component_that_never_comes_is_given_up_by_the_watermark(model: Model) -> None:
    z, n, _ = segments(QUAKE, rate=100.0)
    (group,) = group_channels(segment.channel_id for segment in segments(QUAKE, rate=100.0))
    pipeline = StationPipeline(group, model, SETTINGS, origin="live")
    found: list[Detection] = []
    for a, b in zip(split(z, [100]), split(n, [100]), strict=True):
        found += pipeline.push(a)
        found += pipeline.push(b)
        found += pipeline.advance(a.starttime_ns - 2 * NS_PER_SECOND)
    assert found, "told while the third component is still awaited"
    assert abs(parse_time(found[0].onset) - P_NS) < 0.15 * NS_PER_SECOND


def test_long_gap_and_long_segment(model: Model) -> None:
    """An hour without data, and a segment longer than any ring."""
    rng = np.random.default_rng(5)
    long = np.concatenate(
        (60 * rng.standard_normal((3, 70_000)), 60 * QUAKE / 50, 60 * rng.standard_normal((3, 900))), 1
    )
    start = T0 + 3600 * NS_PER_SECOND
    packets = segments(QUAKE, rate=100.0) + segments(long, rate=100.0, start_ns=start)
    onsets = [parse_time(d.onset) for d in finals(detect(model, packets))]
    expected = [P_NS, start + 740 * NS_PER_SECOND]
    assert len(onsets) == 2
    assert np.abs(np.array(onsets) - expected).max() < 0.2 * NS_PER_SECOND


def test_an_outage_of_any_length_costs_nothing_and_changes_nothing(model: Model) -> None:
    """Ten thousand years in one step: a record with a wrong clock must not stop the program."""
    weeks, aeon = 3 * 7 * 86400 * NS_PER_SECOND, 100 * 366 * 86400 * NS_PER_SECOND
    parts = [segments(QUAKE, rate=100.0, start_ns=T0 + shift) for shift in (0, weeks, aeon)]
    found = finals(detect(model, [segment for part in parts for segment in part]))
    assert len(found) == 3
    for shift, detection in zip((0, weeks, aeon), found, strict=True):
        (alone,) = finals(detect(model, segments(QUAKE, rate=100.0, start_ns=T0 + shift)))
        assert detection == alone


@pytest.mark.parametrize("outage_s", [20, 31, 45, 90, 400])
def test_an_outage_is_skipped_as_if_it_were_looked_at(
    model: Model, outage_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shift = (75 + outage_s) * NS_PER_SECOND
    packets = segments(QUAKE, rate=100.0) + segments(QUAKE, rate=100.0, start_ns=T0 + shift)
    skipped = detect(model, packets)
    monkeypatch.setattr("monitor.pipeline._silence_frames", lambda *_: 10**9)
    assert detect(model, packets) == skipped
    assert len(finals(skipped)) == 2
