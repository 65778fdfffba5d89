"""What moved a score is found where it was put."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from monitor.explain.occlusion import log_odds, occlude
from monitor.model import Model
from monitor.spectrogram import SpectrogramParams

I8 = npt.NDArray[np.int8]
MODEL = Model()
SILENCE = -7


class Linear:
    """A network whose log-odds are a sum over a part of its input, less one half of one over another."""

    metadata = SimpleNamespace(spectrogram=SpectrogramParams())
    silence = SILENCE

    def __init__(self, wanted: Any, unwanted: Any = None) -> None:
        self.wanted, self.unwanted = wanted, unwanted

    def run(self, frames: I8) -> Any:
        level = frames.astype(float) - SILENCE
        total = level[self.wanted].mean() / 10
        if self.unwanted is not None:
            total -= level[self.unwanted].mean() / 20
        return np.array([[total - 2.0, 0.0, 0.0]])

    def probabilities(self, output: Any) -> Any:
        return 1 / (1 + np.exp(-output))


def loud(*parts: Any, level: int = 40) -> I8:
    frames = np.full((129, 32, 3), SILENCE, np.int8)
    for part in parts:
        frames[part] = level
    return frames


def occluded(model: Linear, frames: I8) -> Any:
    return occlude(cast(Model, model), frames)


@pytest.mark.parametrize("row", [0, 1, 2])
@pytest.mark.parametrize(("first", "first_bin"), [(80, 8), (4, 20), (117, 0)])
def test_a_patch_is_found_where_it_was_put(row: int, first: int, first_bin: int) -> None:
    patch = np.s_[first : first + 8, first_bin : first_bin + 6, row]
    found = occluded(Linear(patch), loud(patch, np.s_[40:60, :, 0]))
    (region,) = (region for region in found.regions if region.row == row)
    assert abs(region.first_frame - first) <= found.cell_frames
    assert abs(region.stop_frame - (first + 8)) <= found.cell_frames
    assert abs(region.first_bin - first_bin) <= found.cell_bins
    assert abs(region.stop_bin - (first_bin + 6)) <= found.cell_bins
    # Its 4.7 are gone without it, all but what sticks out of the cells that are mostly its own.
    assert 4.4 < region.change <= 4.7001
    assert float(log_odds(region.probability)) == pytest.approx(found.log_odds - region.change)
    peak = np.unravel_index(np.argmax(found.change[row]), found.change[row].shape)
    assert first - found.cell_frames <= peak[0] * found.cell_frames < first + 8


def test_what_speaks_against_an_earthquake_has_the_other_sign() -> None:
    good, bad = np.s_[80:88, 8:14, 0], np.s_[20:28, 20:26, 1]
    found = occluded(Linear(good, bad), loud(good, bad))
    signs = {region.row: np.sign(region.change) for region in found.regions if region.row is not None}
    assert signs == {0: 1, 1: -1}
    assert [abs(region.change) for region in found.regions] == sorted(
        (abs(region.change) for region in found.regions), reverse=True
    )
    assert found.without[0] < found.probability < found.without[1]
    assert found.only[0] == pytest.approx(found.without[1])
    assert found.change[-1].min() < 0 < found.change[-1].max()


def test_sums_are_right() -> None:
    rng = np.random.default_rng(5)
    frames = rng.integers(-100, 60, (MODEL.frames_for(1), 32, 3)).astype(np.int8)
    found = occlude(MODEL, frames)
    assert found.probability == MODEL.probabilities(MODEL.run(frames))[-1, 0]
    nothing = np.full_like(frames, MODEL.silence)
    assert found.silence == MODEL.probabilities(MODEL.run(nothing))[-1, 0]
    assert found.log_odds == pytest.approx(float(log_odds(found.probability)))
    for row in range(3):
        alone = nothing.copy()
        alone[:, :, row] = frames[:, :, row]
        assert found.only[row] == MODEL.probabilities(MODEL.run(alone))[-1, 0]
    again = occlude(MODEL, frames)
    np.testing.assert_array_equal(found.change, again.change)
    assert (again.regions, again.without) == (found.regions, found.without)


def test_nothing_moves_silence() -> None:
    silence = np.full((MODEL.frames_for(1), 32, 3), MODEL.silence, np.int8)
    found = occlude(MODEL, silence)
    assert found.probability == found.silence
    assert not found.change.any()
    assert (found.regions, found.without, found.only) == ((), {}, {})


def test_a_vertical_alone_is_all_that_there_is() -> None:
    patch = np.s_[80:88, 8:14, 0]
    found = occluded(Linear(patch), loud(patch))
    assert {region.row for region in found.regions} == {0}
    np.testing.assert_array_equal(found.change[0], found.change[-1])
    assert found.only == {0: found.probability}
