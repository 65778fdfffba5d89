"""What the model itself finds in the training noise, what a person found there, and the mean of several models."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monitor.model import default_model_path
from tests.train_store import TINY, P, S, write_store
from train.benchmark import FalseAlarm
from train.dataset import Store
from train.fit import fit, save_mean, weights_of
from train.mining import is_quiet, mine, surest
from train.outputs import TraceOutputs
from train.reviewed import read_reviewed, with_reviewed


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("mining") / "store")


def test_what_is_found_where_nothing_was_picked_is_hard(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    traces = list(store.traces)
    traces[0] = replace(traces[0], kind="noise", picks=(), events=())
    looked_at: list[int] = []

    def sure_of_the_earthquakes(store: Store, indices: list[int], *_: Any, **__: Any) -> dict[int, TraceOutputs]:
        looked_at.extend(indices)
        said = {}
        for index in indices:
            probabilities = np.full((store.traces[index].npts // 20, 3), 0.01, np.float32)
            if index == 0:
                probabilities[P // 20 : S // 20, 0], probabilities[P // 20, 1] = 0.85, 0.9
            said[index] = TraceOutputs(index, 1000, 0, 20, probabilities, np.full(len(probabilities), True))
        return said

    monkeypatch.setattr("train.mining.all_outputs", sure_of_the_earthquakes)
    assert mine(Store(store.path, store.manifest, traces), TINY, default_model_path(), lambda *_: None) == [(0, P)]
    assert looked_at == [0, 4, 5, 6, 7], "the training split's noise, but for the active sequence"


def test_what_nobody_picked_in_an_active_sequence_may_be_an_earthquake(store: Store) -> None:
    active = store.traces[8]
    assert active.picks
    assert not is_quiet(active)
    assert is_quiet(replace(active, picks=active.picks[:1], npts=1_000_000)), "one pick in 2.8 hours"
    assert is_quiet(store.traces[4])


def test_the_surest_come_first() -> None:
    alarms = [FalseAlarm(4, 3000, 3500, 0.4), FalseAlarm(17, 9000, 9100, 0.7)]
    assert surest(alarms) == [(17, 9000), (4, 3000)]
    assert len(surest([FalseAlarm(4, at, at + 10, 0.4) for at in range(1200)])) == 1000


def test_reviewed_stretches_are_unknown_but_for_labelled_arrivals(store: Store, tmp_path: Path) -> None:
    table = tmp_path / "reviewed.csv"
    table.write_text(
        "network,station,start,end,why\n"
        "XX,S1,2023-11-14T23:13:40Z,2023-11-14T23:14:00Z,looks like one\n"
        "XX,S2,2023-11-14T23:13:40Z,2023-11-14T23:14:00Z,another station\n"
    )
    info = store.traces[1]
    assert info.starttime_ns is not None
    seen = with_reviewed(info, read_reviewed(table))
    assert seen.unknown == ((2000, P - 50), (P + 51, S - 50), (S + 51, 4000))
    assert with_reviewed(store.traces[0], read_reviewed(table)) == store.traces[0], "no time is known"
    assert with_reviewed(store.traces[4], read_reviewed(table)) == store.traces[4], "another time"
    table.write_text("network,station,start,end,why\nXX,S1,yesterday,today,\n")
    with pytest.raises(ValueError, match=r"reviewed.csv:2: .*yesterday.*accepted: network,station,start,end,why"):
        read_reviewed(table)


def test_the_table_of_the_project_can_be_read() -> None:
    spans = [span for of in read_reviewed().values() for span in of]
    assert spans
    assert all(0 < end - start <= 60e9 for start, end in spans)


def test_the_mean_of_two_models(store: Store, tmp_path: Path) -> None:
    path = fit(store, TINY, tmp_path)
    one = weights_of(path)
    other = [weight + 2 for weight in one]
    save_mean(path, [one, other])
    for weight, mean in zip(one, weights_of(path), strict=True):
        np.testing.assert_allclose(mean, weight + 1, rtol=1e-5, atol=1e-5)
