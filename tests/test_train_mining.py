"""What the model itself finds in the training noise: hard where nothing happened, doubtful in an active sequence."""

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
from train.mining import Mined, mine, sort_out
from train.outputs import TraceOutputs
from train.reviewed import read_reviewed, with_reviewed
from train.traceinfo import Pick


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("mining") / "store")


def without_labels(store: Store) -> Store:
    """Earthquakes that nobody picked: in a noise trace, and in a continuous one whose picks are elsewhere."""
    traces = list(store.traces)
    traces[0] = replace(traces[0], kind="noise", picks=(), events=())
    traces[8] = replace(traces[8], picks=(Pick("P", 17_000.0),), events=((17_000.0, None),))
    return Store(store.path, store.manifest, traces)


def test_the_model_finds_what_nobody_picked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []

    def sure_of_the_earthquakes(store: Store, indices: list[int], *_: Any, **__: Any) -> dict[int, TraceOutputs]:
        looked_at.extend(indices)
        said = {}
        for index in indices:
            probabilities = np.full((store.traces[index].npts // 20, 3), 0.01, np.float32)
            if index in (0, 8):
                probabilities[P // 20 : S // 20, 0], probabilities[P // 20, 1] = 0.85, 0.9
            said[index] = TraceOutputs(index, 1000, 0, 20, probabilities, np.full(len(probabilities), True))
        return said

    monkeypatch.setattr("train.mining.all_outputs", sure_of_the_earthquakes)
    mined = mine(without_labels(store), TINY, default_model_path(), lambda *_: None)
    assert looked_at == [0, 4, 5, 6, 7, 8], "the training split's noise and continuous traces"
    assert mined.hard == [(0, P)]
    ((index, first, end),) = mined.doubtful
    assert index == 8
    assert first < P < S < end < 17_000


def test_only_where_the_sequence_is_quiet_is_it_hard(store: Store) -> None:
    traces = list(store.traces)
    traces[17] = replace(traces[17], npts=1_000_000)  # one pick in 2.8 hours
    alarms = [FalseAlarm(4, 3000, 3500, 0.4), FalseAlarm(8, 100, 17_900, 0.9), FalseAlarm(17, 9000, 9100, 0.7)]
    alarms.append(FalseAlarm(8, 5000, 6000, 0.7))  # not sure enough to be doubted as noise
    assert sort_out(traces, alarms) == Mined([(17, 9000), (4, 3000)], [(8, 0, 18_000)])


def test_what_was_hard_stays_hard_and_what_is_doubtful_is_the_last_models() -> None:
    earlier, later = Mined([(1, 5), (2, 6)], [(3, 0, 9)]), Mined([(2, 6), (1, 7)], [(4, 0, 9)])
    assert earlier + later == Mined([(1, 5), (2, 6), (1, 7)], [(4, 0, 9)])


def test_doubtful_is_unknown(store: Store) -> None:
    changed = store.with_unknown([(4, 100, 200), (4, 150, 300), (8, 0, 10)])
    assert changed.traces[4].unknown == ((100, 300),)
    assert changed.traces[8].unknown == ((0, 10),)
    assert store.traces[4].unknown == (), "the store itself stays as it is"
    np.testing.assert_array_equal(changed.waveform(4), store.waveform(4))


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
