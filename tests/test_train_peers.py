"""SeisBench's pickers, by a model that behaves like one: whole paths, no torch."""

import importlib
import json
import types
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from obspy import Stream, Trace
from typer.testing import CliRunner

from tests.train_store import NPTS, TINY, P, write_store
from train.__main__ import EXIT_USAGE, app
from train.benchmark import PEER_THRESHOLDS, make_task, own_residuals, peer_detect, run_curve
from train.dataset import Samples, Store
from train.peers import AbsentError, Peer, all_p_probabilities, load_peers, p_probability, picks
from train.steps import save_settings


class FakePicker:
    """Says P where the vertical first rises: at 50 Hz, without what its window cannot see at both ends."""

    in_samples, sampling_rate = 1500, 50.0
    _annotate_args: ClassVar = {"*_threshold": ("Of each phase.", 0.2)}

    def __init__(self, default_args: dict[str, float] | None = None, phases: tuple[str, ...] = ("P", "S")) -> None:
        self.default_args = default_args or {}
        self.phases = phases
        self.seen: list[Stream] = []

    @classmethod
    def from_pretrained(cls, name: str) -> "FakePicker":
        if name != "original":
            raise ValueError(f"Model weights '{name}' not available.\nMore of it.")
        return cls({"P_threshold": 0.4})

    @classmethod
    def load(cls, path: Path, version_str: str | None = None) -> "FakePicker":
        json.loads(Path(f"{path}.json{f'.v{version_str}' if version_str else ''}").read_text())
        return cls()

    def eval(self) -> None:
        pass

    def annotate(self, stream: Stream) -> Stream:
        self.seen.append(stream.copy())
        vertical = stream.select(component="Z")[0]
        assert vertical.stats.sampling_rate == 100
        half = np.abs(vertical.data[::2])
        blind = 200
        said = np.zeros(len(half))
        first = np.flatnonzero(half > 12 * np.median(half))[:1]
        for at in first.tolist():
            said[max(0, at - 20) : at + 21] = 0.8 * (1 - np.abs(np.arange(-min(20, at), 21)) / 21)
        header = {"sampling_rate": 50.0, "starttime": vertical.stats.starttime + blind / 50}
        inner = said[blind:-blind]
        return Stream([Trace(inner, {**header, "channel": f"FakePicker_{phase}"}) for phase in self.phases])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("peers") / "store")


def pretend(monkeypatch: pytest.MonkeyPatch, models: types.ModuleType | None) -> None:
    """Make `seisbench.models` this module, or absent."""
    real = importlib.import_module

    def fake(name: str, package: str | None = None) -> types.ModuleType:
        if name != "seisbench.models":
            return real(name, package)
        if models is None:
            raise ModuleNotFoundError("No module named 'seisbench'")
        return models

    monkeypatch.setattr(importlib, "import_module", fake)


def picker_models() -> types.ModuleType:
    """What stands in for `seisbench.models`."""
    models: Any = types.ModuleType("seisbench.models")
    models.FakePicker, models.NotAPicker = FakePicker, object
    made: types.ModuleType = models
    return made


def test_picks_are_where_it_is_highest() -> None:
    said = np.zeros(1000, np.float32)
    said[100:111] = [0.1, 0.3, 0.5, 0.7, 0.9, 0.7, 0.5, 0.3, 0.26, 0.24, 0.6]
    said[998:] = 0.6
    found = picks(said, 0.5)
    assert [(f.onset, f.end, round(f.score, 2)) for f in found] == [(104, 109, 0.9), (110, 111, 0.6), (998, 1000, 0.6)]
    assert picks(said, 0.95) == []


def test_what_is_said_of_p_lies_along_the_trace(store: Store) -> None:
    model = FakePicker()
    said = p_probability(Peer("fake", 0.3, model), store, 0)
    assert said.shape == (NPTS,)
    assert said.dtype == np.float32
    assert abs(int(np.argmax(said)) - P) <= 10
    assert said.max() == pytest.approx(0.8, abs=0.03)
    assert {trace.stats.channel for trace in model.seen[0]} == {"HHZ", "HHN", "HHE"}
    assert model.seen[0][0].stats.npts >= NPTS + 3000, "its window reaches the end of the trace"
    p_probability(Peer("fake", 0.3, model), store, 1)
    assert {trace.stats.channel for trace in model.seen[1]} == {"HHZ"}, "absent components are not made up"


def test_the_unit_of_the_samples_does_not_matter(store: Store) -> None:
    class Scaled(Store):
        def waveform(self, index: int, start: int = 0, stop: int | None = None) -> Samples:
            return np.float32(1e-15) * super().waveform(index, start, stop)

    models = [FakePicker(), FakePicker()]
    stores = [store, Scaled(store.path, store.manifest, store.traces)]
    for model, of in zip(models, stores, strict=True):
        p_probability(Peer("fake", 0.3, model), of, 0)
    one, other = ([trace.data for trace in model.seen[0]] for model in models)
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-3)
    assert 10 < np.std(other) < 10_000, "as counts are: beside them what a picker adds to its divisor is nothing"


def test_gaps_and_the_warm_up_say_nothing(store: Store) -> None:
    class Sure(FakePicker):
        def annotate(self, stream: Stream) -> Stream:
            header = {"sampling_rate": 100.0, "starttime": stream[0].stats.starttime, "channel": "Sure_P"}
            return Stream([Trace(np.ones(stream[0].stats.npts), header)])

    traces = list(store.traces)
    traces[0] = replace(traces[0], gaps=((P - 400, P - 300), (8800, NPTS)))
    said = p_probability(Peer("sure", 0.3, Sure()), Store(store.path, store.manifest, traces), 0)
    expected = np.zeros(NPTS)
    expected[500 : P - 400] = expected[P - 300 + 500 : 8800] = 1
    np.testing.assert_array_equal(said, expected)


def test_it_is_judged_by_the_same_rules(store: Store) -> None:
    peer = Peer("fake", 0.4, FakePicker())
    indices = list(range(9))
    along = all_p_probabilities(peer, store, indices)
    task = make_task(store, indices)
    curve = run_curve(task, peer.name, peer_detect(along), PEER_THRESHOLDS)
    assert curve.recalls()[0] == 1.0
    assert curve.recalls()[-1] == 0.0
    assert curve.rates()[0] == 0.0
    onset = own_residuals(task, peer_detect(along), peer.threshold)
    assert onset["picks"] == 5
    assert onset["within_0.1_s"] == 1.0


def test_a_model_without_p_is_refused(store: Store) -> None:
    with pytest.raises(AbsentError, match="fake: gives no P probability"):
        p_probability(Peer("fake", 0.3, FakePicker(phases=("Detection",))), store, 0)


def test_names_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, picker_models())
    (tmp_path / "mine.json").write_text("{}")
    (tmp_path / "mine.pt").write_bytes(b"")
    loaded = load_peers(f"FakePicker:original, FakePicker:{tmp_path / 'mine.pt'}")
    assert [(peer.name, peer.threshold) for peer in loaded] == [("FakePicker original", 0.4), ("FakePicker mine", 0.2)]
    (tmp_path / "other.json.v1.2").write_text("{}")
    for name in ("mine", "mine.json", "other.pt.v1.2"):
        assert load_peers(f"FakePicker:{tmp_path / name}")[0].name == f"FakePicker {name.split('.')[0]}"
    assert load_peers("FakePicker")[0].name == "FakePicker original"
    for names, message in (
        ("FakePicker:best", "FakePicker:best: no weights: Model weights 'best' not available."),
        (f"FakePicker:{tmp_path / 'other.pt'}", "other.pt: no weights: .*No such file"),
        ("NotAPicker:original", "NotAPicker: not a picker of this SeisBench; accepted: such as PhaseNet"),
        ("Nothing", "Nothing: not a picker"),
        (" , ", "names no model"),
    ):
        with pytest.raises(AbsentError, match=message):
            load_peers(names)


def test_without_seisbench_it_is_said_before_anything_is_computed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, None)
    save_settings(TINY, tmp_path)
    (tmp_path / "tiny.tflite").write_bytes(b"")
    common = ["--store", str(store.path), "--out", str(tmp_path), "--seisbench", "PhaseNet:original"]
    for command in (["benchmark"], ["evaluate"], ["all", "--data", str(tmp_path)]):
        result = CliRunner().invoke(app, [*command, *common])
        assert result.exit_code == EXIT_USAGE
        assert "train: seisbench is not installed; it comes with: pip install seisbench" in result.stderr


def test_values_at_another_rate_are_laid_onto_100_hz(store: Store) -> None:
    class Ramp(FakePicker):
        def annotate(self, stream: Stream) -> Stream:
            start = stream[0].stats.starttime
            data: npt.NDArray[np.float64] = np.linspace(0, 1, 101)
            data[50] = np.nan
            return Stream([Trace(data, {"sampling_rate": 50.0, "starttime": start + 10, "channel": "Ramp_P"})])

    said = p_probability(Peer("ramp", 0.3, Ramp()), store, 0)
    np.testing.assert_allclose(said[[999, 1000, 1001, 1002, 1200, 1201]], [0, 0, 0.005, 0.01, 1, 0], atol=1e-6)
    assert np.isfinite(said).all()
