"""Noise with disturbances laid over it: each kind over each window, the same each time, counted where it belongs."""

import numpy as np
import pytest

from tests.train_store import write_store
from train.benchmark import Detect
from train.dataset import Store
from train.disturb_unseen import UNSEEN
from train.disturbed import SEEN, DisturbedStore, Kind, disturb_noise, disturbed_figures
from train.outputs import Found
from train.report import disturbed_text, unseen_text


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("disturbed") / "store")


NAMES = [kind.__name__ for kind in SEEN]


@pytest.fixture(scope="module")
def disturbed(store: Store) -> DisturbedStore:
    return disturb_noise(store, store.select(split="dev"), seed=1)


@pytest.mark.parametrize("kinds", [SEEN, UNSEEN], ids=["seen", "unseen"])
def test_each_kind_is_over_each_window_of_noise(store: Store, kinds: tuple[Kind, ...]) -> None:
    disturbed = disturb_noise(store, store.select(split="dev"), kinds, seed=1)
    noise = store.select(split="dev", kind="noise")
    assert noise
    assert len(disturbed) == len(noise) * len(kinds)
    for kind in [kind.__name__ for kind in kinds]:
        of = [i for i, name in enumerate(disturbed.kinds) if name == kind]
        assert [disturbed.traces[i].npts for i in of] == [store.traces[i].npts for i in noise]
        changed = [not np.array_equal(disturbed.waveform(i), store.waveform(j)) for i, j in zip(of, noise, strict=True)]
        assert any(changed), kind


def test_a_piece_is_a_piece_of_the_whole(disturbed: DisturbedStore) -> None:
    whole = disturbed.waveform(0)
    np.testing.assert_array_equal(disturbed.waveform(0, 1000, 1200), whole[:, 1000:1200])
    assert whole.dtype == np.float32


def test_an_absent_component_stays_absent(disturbed: DisturbedStore) -> None:
    for index, info in enumerate(disturbed.traces):
        assert not disturbed.waveform(index)[~np.array(info.components)].any()


def test_false_alarms_are_counted_by_kind(disturbed: DisturbedStore) -> None:
    def of(kind: str) -> Detect:
        def at(index: int, threshold: float) -> list[Found]:
            score = 0.9 if disturbed.kinds[index] == kind else 0.1
            return [Found(2000.0, 2100.0, score)] if score >= threshold else []

        return at

    figures = disturbed_figures(
        disturbed, {"a": (of("wind"), {"1 /h": 0.5}), "b": (of("steps"), {"1 /h": 0.5, "its default": 0.95})}
    )
    windows = figures["windows_each"]
    assert windows == len(disturbed) / len(SEEN)
    assert 0 < figures["hours_each"] <= sum(info.npts for info in disturbed.traces) / len(SEEN) / 360_000
    assert figures["false_alarms"]["a"]["1 /h"] == [windows if kind == "wind" else 0 for kind in NAMES]
    assert figures["false_alarms"]["b"]["1 /h"] == [windows if kind == "steps" else 0 for kind in NAMES]
    assert figures["false_alarms"]["b"]["its default"] == [0] * len(NAMES)
    text = disturbed_text(figures)
    assert f"| wind | {windows} | 0 | 0 |" in text
    assert "| gain change | 0 | 0 | 0 |" in text
    assert unseen_text(figures).endswith(text[text.index("| disturbance") :])


def test_without_noise_there_is_none(store: Store) -> None:
    assert len(disturb_noise(store, store.select(split="dev", kind="event"), seed=1)) == 0
