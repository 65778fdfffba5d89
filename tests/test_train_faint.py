"""Earthquakes of known strength over noise: as strong as is said, labelled where they are, found if strong."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from monitor.model import Model, default_model_path
from tests.train_store import NPTS, P, S, write_store
from train.benchmark import make_task, ratio_detect
from train.dataset import Store
from train.faint import RATIOS_DB, FaintStore, faint_figures, lay
from train.outputs import all_outputs
from train.report import faint_text
from train.spectral import in_band
from train.stalta import ENERGY, trace_ratio


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("faint") / "store")


@pytest.fixture(scope="module")
def faint(store: Store) -> FaintStore:
    return lay(store, store.select(split="dev"), seed=1)


def test_the_p_is_as_strong_as_is_said(faint: FaintStore) -> None:
    assert set(faint.ratios_db) == set(RATIOS_DB)
    for index in (i for i, ratio_db in enumerate(faint.ratios_db) if ratio_db == 10):
        (p, s) = faint.traces[index].events[0]
        assert (p, s) == (3000, 3000 + S - P)
        vertical = in_band(faint.waveform(index)[0].astype(np.float64))
        noise, with_p = np.mean(vertical[1000:2700] ** 2), np.mean(vertical[3000:3150] ** 2)
        assert with_p / noise == pytest.approx(11, rel=0.5)


def test_a_piece_is_a_piece_of_the_whole(faint: FaintStore) -> None:
    whole = faint.waveform(2)
    assert whole.shape == (3, faint.traces[2].npts)
    np.testing.assert_array_equal(faint.waveform(2, 2900, 3100), whole[:, 2900:3100])


def test_the_stronger_the_more_are_found(faint: FaintStore) -> None:
    """A ratio of powers finds what is stronger than its threshold and nothing else: recall is a step."""
    at = ratio_detect({index: trace_ratio(faint, index, ENERGY) for index in range(len(faint))}, ENERGY)
    figures = faint_figures(faint, {"energy": (at, {"low": 5.0, "high": 8.0, "of nothing": 1e6})})
    assert figures["p_arrivals_each"] == len(make_task(faint, range(len(faint))).all_wanted) / len(RATIOS_DB) > 0
    of = figures["recall"]["energy"]
    assert of == {
        "low": [0.0, 0.0, 0.0, 0.0, 1.0, 1.0],
        "high": [0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        "of nothing": [0.0] * len(RATIOS_DB),
    }
    assert "| energy, at low | 0.00 | 0.00 | 0.00 | 0.00 | 1.00 | 1.00 |" in faint_text(figures)


def test_the_model_that_ships_is_surer_of_the_strongest_than_of_the_faintest(faint: FaintStore) -> None:
    outputs = all_outputs(faint, range(len(faint)), Model(default_model_path()))
    surest: dict[int, list[float]] = {ratio_db: [] for ratio_db in RATIOS_DB}
    for index, ratio_db in enumerate(faint.ratios_db):
        surest[ratio_db].append(float(outputs[index].probabilities[:, 0].max()))
    assert min(surest[RATIOS_DB[-1]]) > max(surest[RATIOS_DB[0]])


def test_without_noise_or_clear_earthquakes_there_are_none(store: Store) -> None:
    assert len(lay(store, store.select(split="dev", kind="event"), seed=1)) == 0
    assert len(lay(store, store.select(split="dev", kind="noise"), seed=1)) == 0
    traces = [replace(info, events=((NPTS - 100.0, None),)) if info.kind == "event" else info for info in store.traces]
    late = Store(Path(store.path), store.manifest, traces)
    assert len(lay(late, late.select(split="dev"), seed=1)) == 0
