"""The prepare step, on synthetic folders."""

import csv
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pymseed
import pytest

from monitor.timebase import format_time, parse_time
from train.conditioning import bandwidth_hz, ratio_to_100_hz, resampled
from train.dataset import Pick, SourceSpec, Store, discover, distinct, prepare, source_spec, summary
from train.traceinfo import pair_phases, unknown_intervals

RNG = np.random.default_rng(1)
START = parse_time("2024-01-01T00:00:00Z")
Array = npt.NDArray[Any]


def noise(*shape: int) -> npt.NDArray[np.int32]:
    return np.random.default_rng(7).normal(50, 300, shape).astype(np.int32)


def write_seisbench(
    folder: Path,
    rows: list[dict[str, Any]],
    waveforms: Mapping[str, Array],
    facts: Mapping[str, Any] = {"component_order": "ZNE", "dimension_order": "CW"},
) -> Path:
    folder.mkdir(parents=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (folder / "metadata.csv").open("w", newline="") as out:
        writer = csv.DictWriter(out, columns)
        writer.writeheader()
        writer.writerows(rows)
    with h5py.File(folder / "waveforms.hdf5", "w") as file:
        for name, samples in waveforms.items():
            file[f"data/{name}"] = samples
        for key, value in facts.items():
            file[f"data_format/{key}"] = value
    return folder


def row(name: str, **columns: Any) -> dict[str, Any]:
    return {
        "trace_name": name,
        "split": "train",
        "trace_category": "earthquake_local",
        "trace_p_arrival_sample": 1000,
        "trace_s_arrival_sample": "",
        "trace_sampling_rate_hz": 100,
        "station_network_code": "XX",
        "station_code": "AAA",
        "trace_channel": "HH",
        **columns,
    }


def one(tmp_path: Path, columns: dict[str, Any], samples: Array | None = None, **facts: Any) -> Store:
    samples = noise(3, 4000) if samples is None else samples
    given = {"component_order": "ZNE", "dimension_order": "CW", **facts}
    folder = write_seisbench(tmp_path / "set", [row("a", **columns)], {"a": samples}, given)
    return prepare([SourceSpec(path=folder)], tmp_path / "store")


def write_continuous(folder: Path, channels: Mapping[str, list[tuple[float, Array]]], rate: float = 100) -> Path:
    """Write one file a channel; `channels` maps the SEED id to [(seconds after START, samples)]."""
    folder.mkdir(parents=True)
    for seed_id, segments in channels.items():
        traces = pymseed.MS3TraceList()
        for after, samples in segments:
            traces.add_data(
                pymseed.nslc2sourceid(*seed_id.split(".")),
                samples,
                "i",
                rate,
                starttime=START + round(after * 1e9),
            )
        traces.to_file(str(folder / f"{seed_id}.mseed"), format_version=2, overwrite=True)
    return folder


def write_picks(folder: Path, rows: list[tuple[str, float, int]], name: str = "picks.csv", **more: str) -> None:
    """Write (phase, seconds after START, use) of XX.AAA.00.HH."""
    codes = {"network": "XX", "station": "AAA", "location": "00", "channel_band": "HH"}
    with (folder / name).open("w", newline="") as out:
        writer = csv.DictWriter(out, [*codes, "phase", "time", "use", "probability", *more])
        writer.writeheader()
        for phase, after, use in rows:
            time = format_time(START + round(after * 1e9))
            writer.writerow({**codes, "phase": phase, "time": time, "use": use, "probability": "0.9", **more})


# Labels


@pytest.mark.parametrize(
    ("picks", "pairs"),
    [
        ("P10 S12", [(10, 12)]),
        ("P10", [(10, None)]),
        ("S12", [(None, 12)]),
        ("P10 P20 S22", [(10, None), (20, 22)]),
        ("P10 P12 S20 S22", [(10, 20), (12, 22)]),
        ("P10 S12 S13 P20 S25", [(10, 12), (None, 13), (20, 25)]),
        ("P10 S71", [(10, None), (None, 71)]),
        ("P10 P100 S105 S160", [(10, None), (100, 105), (None, 160)]),
    ],
)
def test_phases_pair(picks: str, pairs: list[tuple[float | None, float | None]]) -> None:
    listed = [Pick("P" if text[0] == "P" else "S", float(text[1:]) * 100) for text in picks.split()]
    expected = tuple((p and p * 100, s and s * 100) for p, s in pairs)
    assert pair_phases(reversed(listed)) == expected


def test_unknown_intervals_leave_labelled_picks_free() -> None:
    assert unknown_intervals([1000.0], [], 4000) == ((800, 1201),)
    assert unknown_intervals([1000.0], [Pick("P", 1100.0)], 4000) == ((800, 1050), (1151, 1201))
    assert unknown_intervals([1000.0], [Pick("P", 1040.0)], 4000) == ()
    assert unknown_intervals([1000.0, 1300.0], [], 1400) == ((800, 1400),)


def test_bandwidth_is_measured() -> None:
    white = np.random.default_rng(3).normal(0, 1000, 9000)
    assert bandwidth_hz(white.round().astype(np.int32), 100, step=1) == 50
    upsampled = resampled(white[:4500], ratio_to_100_hz(50))
    assert 20 < bandwidth_hz(upsampled.round().astype(np.int32), 100, step=1) < 27
    assert bandwidth_hz(white, 40, step=0) == 20


# SeisBench folders


def test_seisbench_round_trip(tmp_path: Path) -> None:
    samples = noise(2, 3, 4000)
    folder = write_seisbench(
        tmp_path / "set",
        [
            row("bucket0$0,:3,:4000", trace_s_arrival_sample=1200.5, trace_start_time="2024-01-01T00:00:00Z"),
            row("bucket0$1,:3,:3000", trace_category="noise", trace_p_arrival_sample="", split="dev"),
        ],
        {"bucket0": samples},
    )
    store = prepare([SourceSpec(path=folder)], tmp_path / "store")
    event, quiet = store.traces
    assert (event.kind, event.split, event.station, event.instrument) == ("event", "train", "XX.AAA", "H")
    assert (event.dataset, event.npts, event.starttime_ns, event.components) == ("set", 4000, START, (True,) * 3)
    assert [(pick.phase, pick.sample) for pick in event.picks] == [("P", 1000), ("S", 1200.5)]
    assert list(event.events) == [(1000, 1200.5)]
    assert (quiet.kind, quiet.split, quiet.npts, quiet.picks) == ("noise", "dev", 3000, ())
    expected = samples[0] - np.median(samples[0], axis=1, keepdims=True)
    np.testing.assert_array_equal(store.waveform(0), expected.astype(np.float32))
    np.testing.assert_array_equal(store.waveform(0, 500, 700), expected[:, 500:700].astype(np.float32))
    assert store.waveform(1, 0, 10).shape == (3, 10)
    assert store.select(split="train") == [0]
    assert store.select(kind=("noise", "event")) == [0, 1]
    assert store.select(exclude_datasets=["s*"]) == []
    assert store.select(datasets=["other"]) == []
    assert "set" in summary(store)


def test_waveform_refuses_what_is_outside(tmp_path: Path) -> None:
    store = one(tmp_path, {})
    with pytest.raises(ValueError, match="0 to 4000"):
        store.waveform(0, 0, 4001)
    with pytest.raises(ValueError, match="0 to 4000"):
        store.waveform(0, -1, 10)


def test_all_picks_and_weak_picks(tmp_path: Path) -> None:
    picks = [
        {"phase": "S", "sample": 3100.0, "source": "crosslabel", "prob": 0.7, "n_models": 3},
        {"phase": "P", "sample": 3000.0, "source": "manual", "prob": None, "n_models": None},
        {"phase": "P", "sample": 9999.0},
    ]
    weak = [["P", 1500.0, 0.4], ["S", 3110.0, 0.5]]
    store = one(tmp_path, {"trace_picks": json.dumps(picks), "trace_weak_picks": json.dumps(weak), "trace_scale": 2})
    info = store.traces[0]
    assert info.picks == (Pick("P", 3000.0, "manual", 0.5, 0), Pick("S", 3100.0, "crosslabel", 0.7, 3))
    assert info.unknown == ((1300, 1701),)
    expected = (noise(3, 4000) - np.median(noise(3, 4000), axis=1, keepdims=True)) * 2
    np.testing.assert_array_equal(store.waveform(0), expected.astype(np.float32))


@pytest.mark.parametrize(("agree", "masked"), [(0, False), (1, True)])
def test_rockfall_without_agreement_is_not_masked(tmp_path: Path, agree: int, *, masked: bool) -> None:
    columns = {
        "trace_category": "noise",
        "trace_p_arrival_sample": "",
        "trace_weak_picks": '[["P", 1500, 0.4]]',
        "trace_noise_type": "rockfall",
        "trace_class_original": "lp-rockfall",
        "trace_panel_agree": agree,
    }
    info = one(tmp_path, columns).traces[0]
    assert bool(info.unknown) is masked
    assert info.noise_type == "lp-rockfall"


@pytest.mark.parametrize("rate", [50.0, 200.0, 75.19, 125.0, 100.001])
def test_other_rates_are_resampled_with_their_picks(tmp_path: Path, rate: float) -> None:
    """A pulse stays where the pick is."""
    npts = round(60 * rate)
    at = round(20 * rate)
    samples = noise(3, npts) // 100
    samples[:, at : at + round(0.1 * rate)] += 10_000
    store = one(tmp_path, {"trace_sampling_rate_hz": rate, "trace_p_arrival_sample": at}, samples)
    info = store.traces[0]
    assert abs(info.npts - 6000) <= 2
    assert info.picks[0].sample == pytest.approx(at * 100 / rate, abs=0.3)
    assert info.bandwidth_hz <= rate / 2 + 0.05
    rise = int(np.argmax(store.waveform(0)[0] > 5000))
    assert abs(rise - info.picks[0].sample) <= 2


def test_rate_and_component_order_from_the_hdf5_file(tmp_path: Path) -> None:
    samples = np.stack([noise(4000) * k for k in (1, 2, 4)])
    store = one(tmp_path, {"trace_sampling_rate_hz": ""}, samples, component_order="21Z", sampling_rate=100.0)
    stored = np.abs(store.waveform(0)).sum(axis=1)
    np.testing.assert_allclose(stored / stored.min(), [4, 2, 1], rtol=0.01)  # Z, then 1 as N, then 2 as E


def test_listed_picks_padding_and_weak_picks_at_another_rate(tmp_path: Path) -> None:
    samples = noise(3, 2000)
    samples[:, 1501:] = 9_000
    columns = {
        "trace_sampling_rate_hz": "",
        "trace_dt_s": 0.02,
        "trace_picks": '[{"phase": "P", "sample": 400}]',
        "trace_weak_picks": '[["S", 1000, 0.5]]',
    }
    info = (store := one(tmp_path, columns, samples)).traces[0]
    assert [pick.sample for pick in info.picks] == [800]
    assert info.unknown == ((1800, 2201),)
    assert info.gaps == ((3002, 4000),)
    assert not store.waveform(0, 3002).any()
    assert np.abs(store.waveform(0)).max() < 3000, "the step into the padding does not ring"


def test_dead_and_absent_components_are_zero(tmp_path: Path) -> None:
    samples = noise(3, 4000)
    samples[1] = 77
    info = (store := one(tmp_path, {"trace_missing_components": "E"}, samples)).traces[0]
    assert info.components == (True, False, False)
    assert not store.waveform(0)[1:].any()
    assert store.waveform(0)[0].any()


def test_one_component_without_an_axis(tmp_path: Path) -> None:
    store = one(tmp_path, {"trace_component_order": "Z"}, noise(4000))
    assert store.traces[0].components == (True, False, False)


def test_samples_by_component_order(tmp_path: Path) -> None:
    store = one(tmp_path, {}, noise(3, 4000).T, dimension_order="WC")
    assert store.traces[0].npts == 4000


def test_padding_is_a_gap_but_silence_before_an_onset_is_not(tmp_path: Path) -> None:
    samples = noise(3, 4000)
    live = samples[:, :1500].copy()
    live[:, :990] = 70_000
    samples[:] = 9_000
    samples[:, :1500] = live
    info = (store := one(tmp_path, {}, samples)).traces[0]
    assert info.gaps == ((1500, 4000),)
    assert not store.waveform(0)[:, 1500:].any()
    expected = live - np.median(live, axis=1, keepdims=True)
    np.testing.assert_array_equal(store.waveform(0, 0, 1500), expected.astype(np.float32))


def test_splits(tmp_path: Path) -> None:
    rows = [
        row("a", split="dev"),
        row("b", split="test"),
        row("c", split="train", station_code="BBB"),
        *(row(f"d{i}", split="", source_id=f"event{i // 2}", station_code=f"S{i}") for i in range(40)),
    ]
    folder = write_seisbench(tmp_path / "set", rows, {r["trace_name"]: noise(3, 1500) for r in rows})
    spec = SourceSpec(path=folder, splits={"XX.BBB": "dev"}, dev_share=0.5)
    store = prepare([spec], tmp_path / "store")
    by_name = {info.name.removeprefix("set/"): info.split for info in store.traces}
    assert by_name["a"] == by_name["c"] == "dev"
    assert "b" not in by_name
    assert store.manifest["sources"][0]["skipped"] == {"left out: split is test or none": 1}
    assert all(by_name[f"d{i}"] == by_name[f"d{i + 1}"] for i in range(0, 40, 2)), "an event is on one side"
    assert {by_name[f"d{i}"] for i in range(40)} == {"train", "dev"}
    assert Store.open(tmp_path / "store").traces == store.traces


def test_cap_and_weights_by_data_set(tmp_path: Path) -> None:
    rows = [row(f"t{i}", dataset="one" if i < 10 else "two") for i in range(12)]
    waveforms = {r["trace_name"]: noise(3, 1500) for r in rows}
    first = write_seisbench(tmp_path / "a" / "set", rows, waveforms)
    again = write_seisbench(tmp_path / "b" / "set", rows[::-1], waveforms)
    stores = [
        prepare([SourceSpec(path=path, cap=3, weight=2, weights={"one": 0.25})], tmp_path / f"store{i}", seed=4)
        for i, path in enumerate((first, again))
    ]
    assert [info.name for info in stores[0].traces] == [info.name for info in stores[1].traces]
    assert [info.weight for info in stores[0].traces if info.dataset == "one"] == [0.5] * 3
    assert [info.weight for info in stores[0].traces if info.dataset == "two"] == [2.0] * 2


def test_fingerprint_depends_on_the_data_only(tmp_path: Path) -> None:
    rows = [row("a"), row("b", trace_p_arrival_sample=900)]
    waveforms = {"a": noise(3, 1500), "b": noise(3, 1500) * 2}

    def fingerprint(name: str, rows: list[dict[str, Any]], waveforms: Mapping[str, Array]) -> str:
        folder = write_seisbench(tmp_path / name / "set", rows, waveforms)
        return prepare([SourceSpec(path=folder)], tmp_path / name / "store").fingerprint

    first = fingerprint("first", rows, waveforms)
    assert fingerprint("second", rows[::-1], dict(reversed(waveforms.items()))) == first
    two = [SourceSpec(path=tmp_path / name / "set", name=name) for name in ("first", "second")]
    both = [prepare(order, tmp_path / "store").fingerprint for order in (two, two[::-1])]
    assert both[0] == both[1] != first
    write_seisbench(tmp_path / "third" / "set", [row("a", trace_p_arrival_sample=800)], waveforms)
    other = SourceSpec(path=tmp_path / "third" / "set", name="third", weights={})
    pair = [prepare(order, tmp_path / "store").fingerprint for order in ([two[0], other], [other, two[0]])]
    assert pair[0] == pair[1]
    assert fingerprint("pick moved", [row("a"), row("b", trace_p_arrival_sample=901)], waveforms) != first
    changed = {**waveforms, "a": waveforms["a"].copy()}
    changed["a"][0, 5] += 1
    assert fingerprint("sample changed", rows, changed) != first


def test_bad_rows_are_counted_and_skipped(tmp_path: Path) -> None:
    not_finite = noise(3, 1500).astype(np.float32)
    not_finite[0, 3] = np.nan
    waveforms = {
        "good": noise(3, 1500),
        "nan": not_finite,
        "empty": np.zeros((3, 0), np.int32),
        "dead": np.ones((3, 1500), np.int32),
        "no pick": noise(3, 1500),
        "rate": noise(3, 1500),
    }
    rows = [row(name) for name in ("good", "nan", "empty", "dead", "no waveform")]
    rows += [row("no pick", trace_p_arrival_sample=""), row("rate", trace_sampling_rate_hz=-1)]
    store = prepare(
        [SourceSpec(path=write_seisbench(tmp_path / "set", rows, waveforms))],
        tmp_path / "store",
    )
    assert [info.name for info in store.traces] == ["set/good"]
    skipped = store.manifest["sources"][0]["skipped"]
    assert sum(skipped.values()) == 6
    assert {"samples are not finite", "no samples", "all components are absent or dead", "no waveform of this name"} < {
        *skipped
    }
    assert store.manifest["sources"][0]["examples"]["samples are not finite"] == ["set/nan"]


def test_missing_columns_are_named(tmp_path: Path) -> None:
    folder = write_seisbench(tmp_path / "x", [{"name": "a"}], {})
    with pytest.raises(ValueError, match=r"x/metadata\.csv: column trace_name is missing; accepted"):
        prepare([SourceSpec(path=folder)], tmp_path / "store")
    folder = write_seisbench(tmp_path / "y", [{"trace_name": "a"}], {})
    with pytest.raises(ValueError, match=r"y/metadata\.csv: no labels; accepted: columns trace_p_arrival_sample"):
        prepare([SourceSpec(path=folder)], tmp_path / "store")
    with pytest.raises(ValueError, match=r"trace_sampling_rate_hz or trace_dt_s"):
        one(tmp_path / "rate", {"trace_sampling_rate_hz": ""})
    folder = write_seisbench(tmp_path / "z", [row("a")], {"a": noise(3, 1500)}, {})
    with pytest.raises(ValueError, match="component order is missing; accepted: metadata column trace_component_order"):
        prepare([SourceSpec(path=folder)], tmp_path / "store")
    with pytest.raises(ValueError, match=r"column split.*'evaluation'; accepted: train, dev, test"):
        one(tmp_path / "split", {"split": "evaluation"})
    with pytest.raises(ValueError, match="not a prepared store"):
        Store.open(tmp_path / "store")


# Continuous folders


def test_continuous_round_trip(tmp_path: Path) -> None:
    z, n, e = (noise(20_000) * k for k in (1, 2, 4))
    folder = write_continuous(
        tmp_path / "stream",
        {
            "XX.AAA.00.HHZ": [(0, z[:8000]), (90, z[9000:])],
            "XX.AAA.00.HH1": [(0.004, n)],
            "XX.AAA.00.HH2": [(0, e)],
        },
    )
    write_picks(folder, [("P", 30, 1), ("S", 33.5, 1), ("P", 60, 0), ("P", 85, 1)], dataset="quakes", split="dev")
    write_picks(folder, [("P", 30.2, 1), ("P", 120, 1), ("S", 110, 1)], "model_picks.csv")
    store = prepare(discover(folder), tmp_path / "store")
    (info,) = store.traces
    assert (info.kind, info.split, info.dataset, info.station, info.instrument) == (
        "continuous",
        "dev",
        "quakes",
        "XX.AAA",
        "H",
    )
    assert (info.npts, info.starttime_ns, info.components) == (20_000, START, (True,) * 3)
    assert [(pick.phase, pick.sample) for pick in info.picks] == [("P", 3000), ("S", 3350)], "none in the gap"
    assert list(info.events) == [(3000, 3350)]
    assert info.unknown == ((5800, 6201), (10_800, 11_201), (11_800, 12_201))
    assert info.gaps == ((8000, 9000),)
    stored = store.waveform(0)
    assert not stored[:, 8000:9000].any()
    np.testing.assert_allclose(stored[1, :8000], n[:8000] - np.median(n[:8000]))
    np.testing.assert_allclose(stored[2, 9000:], e[9000:] - np.median(e[9000:]))


def test_overlapping_data_are_taken_once(tmp_path: Path) -> None:
    z = noise(20_000)
    folder = write_continuous(tmp_path / "stream", {"XX.AAA.00.HHZ": [(0, z[:12_000]), (100, z[10_000:] + 5_000)]})
    write_picks(folder, [])
    store = prepare(discover(tmp_path), tmp_path / "store")
    assert (store.traces[0].npts, store.traces[0].gaps) == (20_000, ())
    stored = store.waveform(0)[0]
    assert np.ptp(stored[:12_000] - z[:12_000]) == 0, "the first wins"
    assert np.ptp(stored[12_000:] - z[12_000:]) == 0


def test_constant_fill_is_a_gap(tmp_path: Path) -> None:
    z = noise(20_000)
    z[5000:5300] = 12
    z[7000:7100] = 12
    folder = write_continuous(tmp_path / "stream", {"XX.AAA.00.HHZ": [(0, z)]})
    write_picks(folder, [])
    store = prepare(discover(tmp_path), tmp_path / "store")
    assert store.traces[0].gaps == ((5000, 5300),)
    assert not store.waveform(0, 5000, 5300).any()
    assert store.traces[0].components == (True, False, False)


def test_long_recordings_are_cut_where_no_pick_is(tmp_path: Path) -> None:
    z = noise(500_000)
    folder = write_continuous(tmp_path / "stream", {"XX.AAA.00.HHZ": [(0, z)]})
    write_picks(folder, [("P", 2400, 1), ("P", 2499, 1), ("S", 2502, 1), ("P", 2580, 1)])
    store = prepare(discover(folder), tmp_path / "store")
    assert len(store.traces) == 2
    assert sum(info.npts for info in store.traces) == 500_000
    ends = store.traces[0].npts / 100
    assert 2410 < ends < 2490
    assert [len(info.picks) for info in store.traces] == [1, 3]
    second = store.traces[1]
    assert second.starttime_ns is not None
    assert second.starttime_ns / 1e9 + second.picks[0].sample / 100 == pytest.approx(START / 1e9 + 2499, abs=1e-3)
    whole = np.concatenate([store.waveform(0)[0], store.waveform(1)[0]])
    assert np.abs(np.diff(whole - z)).max() <= 100, "no sample lost or doubled: only the two medians differ"


def test_continuous_at_another_rate(tmp_path: Path) -> None:
    z = noise(20_000) // 100
    z[10_000:10_020] += 30_000
    folder = write_continuous(tmp_path / "stream", {"XX.AAA.00.HHZ": [(0, z)]}, rate=200)
    write_picks(folder, [("P", 50, 1)])
    store = prepare(discover(folder), tmp_path / "store")
    assert abs(int(np.argmax(store.waveform(0)[0] > 15_000)) - store.traces[0].picks[0].sample) <= 2


def test_location_codes_are_text_and_inventory_decides(tmp_path: Path) -> None:
    folder = write_continuous(
        tmp_path / "stream", {"XX.AAA.00.HHZ": [(0, noise(20_000))], "XX.AAA.10.HHZ": [(0, noise(20_000))]}
    )
    write_picks(folder, [("P", 50, 1)])
    (folder / "inventory.csv").write_text(
        "network,station,location,band,start,end,dataset,split\n"
        "XX,AAA,00,HH,2020-01-01T00:00:00Z,2020-01-02T00:00:00Z,old,train\n"
        "XX,AAA,00,HH,2024-01-01T00:00:00Z,2024-01-02T00:00:00Z,mine,dev\n"
        "XX,AAA,10,HH,,,other,train\n"
    )
    store = prepare(discover(folder), tmp_path / "store")
    assert [(info.dataset, info.split, len(info.picks)) for info in store.traces] == [
        ("mine", "dev", 1),
        ("other", "train", 0),
    ]
    spec = SourceSpec(path=folder, format="continuous", splits={"*.10.HHZ.mseed": "none"})
    assert [info.dataset for info in prepare([spec], tmp_path / "store").traces] == ["mine"]


def test_continuous_errors_name_file_and_column(tmp_path: Path) -> None:
    folder = write_continuous(tmp_path / "stream", {"XX.AAA.00.HHZ": [(0, noise(20_000))]})
    spec = SourceSpec(path=folder, format="continuous")
    with pytest.raises(ValueError, match=r"picks\.csv: missing; accepted: a CSV file with columns network, station"):
        prepare([spec], tmp_path / "store")
    (folder / "picks.csv").write_text("network,station,location,phase,time\n")
    with pytest.raises(ValueError, match=r"picks\.csv: column channel_band is missing"):
        prepare([spec], tmp_path / "store")
    write_picks(folder, [("X", 50, 1), ("P", 60, 1)])
    (folder / "broken.mseed").write_bytes(b"not miniSEED" * 100)
    store = prepare([spec], tmp_path / "store")
    assert sum(store.manifest["sources"][0]["skipped"].values()) == 2


# Sources


def test_discover_finds_both_formats(tmp_path: Path) -> None:
    write_seisbench(tmp_path / "windows", [row("a")], {"a": noise(3, 1500)})
    write_picks(write_continuous(tmp_path / "stream", {"XX.AAA.00.HHZ": [(0, noise(20_000))]}), [])
    (tmp_path / "empty").mkdir()
    found = discover(tmp_path)
    assert [(spec.name, spec.format) for spec in found] == [("stream", "continuous"), ("windows", "seisbench")]
    told: list[tuple[str, int, int]] = []
    store = prepare(found, tmp_path / "store", progress=lambda *step: told.append(step))
    assert told == [("stream", 1, 1), ("windows", 1, 1)]
    assert store.select(exclude_datasets=["stream"]) == [1]
    with pytest.raises(ValueError, match="no training data; accepted"):
        discover(tmp_path / "empty")
    with pytest.raises(ValueError, match="used twice"):
        prepare([*found, found[0]], tmp_path / "store")


def test_settings_tables(tmp_path: Path) -> None:
    spec = source_spec({"path": "stead", "cap": 10, "splits": {"XX.*": "dev"}}, root=tmp_path)
    assert (spec.path, spec.name, spec.cap) == (tmp_path / "stead", "stead", 10)
    for table, message in (
        ({"path": "x", "wieght": 1}, "unknown key 'wieght'; accepted: path, format"),
        ({"format": "seisbench"}, "path is missing"),
        ({"path": "x", "format": "sac"}, "'sac'; accepted: seisbench, continuous"),
        ({"path": "x", "weight": -1}, "weight is -1; accepted: 0 or more"),
        ({"path": "x", "splits": {"a": "test"}}, "'test'; accepted: train, dev, none"),
        ({"path": "x", "dev_share": 2}, "dev_share is 2"),
        ({"path": "x", "cap": -2}, "cap is -2"),
    ):
        with pytest.raises(ValueError, match=message):
            source_spec(table, root=tmp_path)


def test_a_cut_store_is_refused(tmp_path: Path) -> None:
    one(tmp_path, {})
    file = tmp_path / "store" / "samples.f32"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ValueError, match="47996 bytes; expected 48000"):
        Store.open(tmp_path / "store")


def test_samples_are_mapped_not_loaded(tmp_path: Path) -> None:
    store = one(tmp_path, {})
    assert isinstance(vars(store)["_samples"], np.memmap)
    store.waveform(0)[:] = 1
    assert store.waveform(0).std() > 1, "what is handed out is a copy"


def test_monitor_does_not_import_train() -> None:
    code = (
        "import sys, monitor.records, monitor.timebase; assert not any(m.split('.')[0] == 'train' for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# What public data sets look like: STEAD, INSTANCE, ETHZ, LenDB, OBS, PNW, CEED


def write_chunk(folder: Path, chunk: str, rows: list[dict[str, Any]], data: Mapping[str, Array], **facts: Any) -> Path:
    """Write metadata{chunk}.csv and waveforms{chunk}.hdf5; `data` are the HDF5 data sets under data/."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (folder / f"metadata{chunk}.csv").open("w", newline="") as out:
        writer = csv.DictWriter(out, columns)
        writer.writeheader()
        writer.writerows(rows)
    with h5py.File(folder / f"waveforms{chunk}.hdf5", "w") as file:
        for name, samples in data.items():
            file[f"data/{name}"] = samples
        for key, value in facts.items():
            file[f"data_format/{key}"] = value
    return folder


def prepared(tmp_path: Path, *folders: Path) -> dict[str, Any]:
    """Prepare as `python -m train prepare --data` does; traces by name."""
    specs = [spec for folder in folders for spec in discover(folder)]
    store = prepare(specs, tmp_path / "store")
    return {info.name: (info, store.waveform(i)) for i, info in enumerate(store.traces)}


def test_chunks_of_buckets_with_other_rates_and_orders(tmp_path: Path) -> None:
    # ETHZ, Iquique, PNW: buckets [trace, component, sample], padded to the longest; a rate and an order for each trace.
    bucket = noise(2, 3, 3000)
    rows = [
        {
            "trace_name": "bucket0$0,:3,:3000",
            "trace_Pg_arrival_sample": 1000,
            "trace_Sg_arrival_sample": 1400,
            "trace_Pn_arrival_sample": "",
            "trace_pP_arrival_sample": 300,
            "trace_sampling_rate_hz": 200.0,
            "trace_component_order": "ENZ",
            "station_network_code": "CH",
            "station_code": "AAA",
            "station_channels": "HG",
            "trace_start_time": "2020-01-01T00:00:00.000000Z",
            "source_id": "one",
        },
        {
            "trace_name": "bucket0$1,:3,:2500",
            "trace_Pn_arrival_sample": 800.5,
            "trace_Sg_arrival_sample": "nan",
            "trace_sampling_rate_hz": 120.0,
            "trace_component_order": "Z21",
            "station_network_code": "CH",
            "station_code": "BBB",
            "trace_channel": "EH",
            "source_id": "one",
        },
    ]
    folder = write_chunk(tmp_path / "ethz", "_A", rows, {"bucket0": bucket}, dimension_order="NCW", measurement="v")
    plain = [{**row("one"), "trace_p_arrival_sample": 500}]
    write_chunk(folder, "_B", plain, {"one": noise(3, 1500)}, component_order="ZNE", dimension_order="CW")
    traces = prepared(tmp_path, tmp_path)
    first, samples = traces["ethz/A/bucket0$0,:3,:3000"]
    assert [(pick.phase, pick.sample) for pick in first.picks] == [("P", 500), ("S", 700)]
    assert (first.kind, first.instrument, first.npts) == ("event", "G", 1500)
    z = bucket[0, 2] - np.median(bucket[0, 2])
    np.testing.assert_allclose(samples[0], resampled(z, ratio_to_100_hz(200)), rtol=1e-4, atol=1e-2)
    second, samples = traces["ethz/A/bucket0$1,:3,:2500"]
    assert second.picks[0].sample == pytest.approx(800.5 / 1.2)
    assert len(second.picks) == 1
    assert second.npts == int(np.ceil(2500 / 1.2))
    east = bucket[1, 2, :2500] - np.median(bucket[1, 2, :2500])
    np.testing.assert_allclose(samples[1], resampled(east, ratio_to_100_hz(120)), rtol=1e-4, atol=1e-2)
    assert "ethz/B/one" in traces


def test_slow_data_in_metres_per_second(tmp_path: Path) -> None:
    # LenDB: 20 Hz, km/s, P at a fixed sample; the rate is the HDF5 file's.
    facts = {"component_order": "ZNE", "dimension_order": "CW", "sampling_rate": 20, "unit": "km/s"}
    quake = {"trace_name": "q$0,:3,:540", "trace_category": "earthquake", "trace_p_arrival_sample": 80}
    quiet = {"trace_name": "q$1,:3,:540", "trace_category": "noise", "trace_p_arrival_sample": ""}
    folder = write_chunk(tmp_path / "lendb", "", [quake, quiet], {"q": noise(2, 3, 540) * 1e-12}, **facts)
    traces = prepared(tmp_path, folder)
    info, samples = traces["lendb/q$0,:3,:540"]
    assert info.picks[0].sample == 400
    assert info.npts == 2700
    assert info.bandwidth_hz <= 10
    assert 1e-11 < float(np.std(samples[0])) < 1e-9
    assert traces["lendb/q$1,:3,:540"][0].kind == "noise"


def test_ocean_bottom_and_vertical_only(tmp_path: Path) -> None:
    # OBS: Z12 and a hydrophone; SCEDC: one vertical, an axis of one or none.
    obs = write_chunk(
        tmp_path / "obs", "", [row("a", trace_component_order="Z12H")], {"a": noise(4, 2000)}, dimension_order="CW"
    )
    vertical = write_chunk(
        tmp_path / "scedc",
        "",
        [row("b$0,:1,:2000"), row("c")],
        {"b": noise(1, 1, 2000), "c": noise(2000)},
        component_order="Z",
        sampling_rate=100,
    )
    traces = prepared(tmp_path, obs, vertical)
    assert traces["obs/a"][0].components == (True, True, True)
    for name in ("scedc/b$0,:1,:2000", "scedc/c"):
        info, samples = traces[name]
        assert info.components == (True, False, False)
        assert samples.shape == (3, 2000)
        assert not samples[1:].any()


def test_kinds_by_source_type_and_by_name(tmp_path: Path) -> None:
    # PNW: exotic events have picks and are no earthquakes. INSTANCE: a folder of noise has no label column at all.
    rows = [
        {**row(name), "trace_category": "", "source_type": kind}
        for name, kind in (("a", "earthquake"), ("b", "surface event"), ("c", "noise"), ("d", "None"))
    ]
    exotic = write_chunk(
        tmp_path / "pnw", "", rows, {r["trace_name"]: noise(3, 1500) for r in rows}, component_order="ZNE"
    )
    bare = [{"trace_name": "a", "trace_sampling_rate_hz": 100, "station_network_code": "IV", "station_code": "X"}]
    quiet = write_chunk(tmp_path / "instance_noise", "", bare, {"a": noise(3, 1500)}, component_order="ENZ")
    kinds = {name: info.kind for name, (info, _) in prepared(tmp_path, exotic, quiet).items()}
    assert kinds == {
        "pnw/a": "event",
        "pnw/b": "other",
        "pnw/c": "noise",
        "pnw/d": "event",
        "instance_noise/a": "noise",
    }


def test_the_file_chunks_decides(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for chunk in ("_A", "_B"):
        write_chunk(folder, chunk, [row("a")], {"a": noise(3, 1500)}, component_order="ZNE")
    (folder / "chunks").write_text("_B\n")
    assert set(prepared(tmp_path, folder)) == {"set/B/a"}
    (folder / "chunks").write_text("_B\n_C\n")
    with pytest.raises(ValueError, match=r"metadata_C\.csv: missing, though chunks lists it"):
        prepared(tmp_path, folder)


def test_without_a_split_regions_stay_together_then_events_then_stations(tmp_path: Path) -> None:
    def place(number: int) -> dict[str, Any]:
        match number % 3:
            case 0:  # aftershocks: other events, the same place
                here = {
                    "source_id": f"e{number}",
                    "source_latitude_deg": 40.01 + number // 30,
                    "source_longitude_deg": 9.1,
                }
            case 1:
                here = {"source_id": f"e{number // 30}", "source_latitude_deg": "nan", "source_longitude_deg": ""}
            case _:
                here = {"source_id": "None", "station_code": f"N{number // 30}", "trace_category": "noise"}
        return {**row(f"w{number}", split=""), **here}

    rows = [place(number) for number in range(300)]
    data = {"b": np.broadcast_to(noise(1, 3, 800), (300, 3, 800)).copy()}
    for number, each in enumerate(rows):
        each["trace_name"] = f"b${number},:3,:800"
        each["trace_p_arrival_sample"] = "" if number % 3 == 2 else 300
    folder = write_chunk(tmp_path / "set", "", rows, data, component_order="ZNE")
    store = prepare([SourceSpec(path=folder, dev_share=0.5)], tmp_path / "store")
    split = {int(info.name.split("$")[1].split(",")[0]): info.split for info in store.traces}
    assert len(split) == 300
    sides: dict[tuple[int, int], set[str]] = {}
    for number, side in split.items():
        sides.setdefault((number % 3, number // 30), set()).add(side)
    assert all(len(of) == 1 for of in sides.values()), "no region, event or noisy station is on both sides"
    for what in range(3):
        assert {side for (of, _), each in sides.items() if of == what for side in each} == {"train", "dev"}


def test_data_sets_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folders = [
        write_chunk(tmp_path / part / "stead", "", [row("a")], {"a": noise(3, 1500)}, component_order="ZNE")
        for part in ("old", "new")
    ]
    specs = distinct([spec for folder in folders for spec in discover(folder)])
    assert [spec.name for spec in specs] == ["old/stead", "new/stead"]
    assert len(prepare(specs, tmp_path / "store")) == 2
    with pytest.raises(ValueError, match="is given twice"):
        distinct([*specs, *specs])
