"""Which part of the spectrogram moved the score: patches of it are replaced by background, and the network asked again.

Zeiler and Fergus (2014), "Visualizing and understanding convolutional networks", ECCV. A patch of background, 0 dB, is
what the network gets where nothing stands out, so that it is told nothing that could not have been.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from monitor.model import Model

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int8]
Bool = npt.NDArray[np.bool_]

# A cell of the map; a patch is two by two of them, and they overlap by half. No longer than S minus P of what is near,
# and some 1900 inferences for three components.
_CELL_S = 0.4
_CELL_HZ = 3.2
# A region is what moves the score at least half as much as its strongest cell does.
_REGION_SHARE = 0.5
# Below this change of log-odds two outputs are the same to a person: at 0.5 it is a change to 0.56.
LEAST_CHANGE = 0.25
# Outputs are clipped: a probability of 1 has log-odds too.
_EDGE = 1e-6


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the spectrogram that moved the score.

    Attributes:
        row: Component, of the model's input; None: all at once.
        first_frame, stop_frame: Frames of the input, `stop_frame` excluded.
        first_bin, stop_bin: Bins, counted from the lowest one of the input.
        change: Log-odds of the output minus those without the region: above 0 it spoke for an earthquake.
        probability: Of the output without the region.
    """

    row: int | None
    first_frame: int
    stop_frame: int
    first_bin: int
    stop_bin: int
    change: float
    probability: float


@dataclass(frozen=True, slots=True, eq=False)
class Occlusion:
    """What moved one output.

    Attributes:
        probability, log_odds: Of the output, as it is.
        silence: Its probability if nothing stood out from the background.
        cell_frames, cell_bins: Size of a cell of the map.
        change: [shape=(4, n_times, n_freqs), dtype=float32] log-odds that an occlusion takes away, mean of the patches
            over each cell: of each component, and of all at once; cells are counted from the input's first frame and
            lowest bin.
        regions: What moved it most, strongest first; one of either sign for each component, and for all at once where
            there are several, at most.
        without: Row -> probability without that component, for those with anything in them.
        only: Row -> probability with nothing but that component.
    """

    probability: float
    log_odds: float
    silence: float
    cell_frames: int
    cell_bins: int
    change: F32
    regions: tuple[Region, ...]
    without: dict[int, float]
    only: dict[int, float]


def log_odds(probability: npt.ArrayLike) -> F64:
    """Log-odds of probabilities."""
    p = np.clip(np.asarray(probability, np.float64), _EDGE, 1 - _EDGE)
    return np.asarray(np.log(p / (1 - p)))


class _Asked:
    """A network and one of its inputs, with parts of it occluded."""

    def __init__(self, model: Model, frames: I8) -> None:
        self._model, self.frames = model, frames
        self.silence = np.int8(model.silence)
        self.probability = self._ask(frames)
        self.log_odds = float(log_odds(self.probability))

    def _ask(self, frames: I8) -> float:
        return float(self._model.probabilities(self._model.run(frames))[-1, 0])

    def without(self, *parts: Any) -> float:
        """Probability with parts of the input, given as indices, replaced by background."""
        occluded = self.frames.copy()
        for part in parts:
            occluded[part] = self.silence
        return self._ask(occluded)


def occlude(model: Model, frames: I8) -> Occlusion:
    """Find what moved an output.

    Args:
        model: The loaded model.
        frames: [shape=(context_frames + 1, n_freq, 3), dtype=int8] the input of one output.
    """
    asked = _Asked(model, frames)
    params = model.metadata.spectrogram
    cell_frames = max(1, round(_CELL_S / params.frame_interval_s))
    cell_bins = max(1, round(_CELL_HZ * params.nperseg / params.sampling_rate))
    rows = [row for row in range(frames.shape[2]) if (frames[:, :, row] != asked.silence).any()]
    change = [_map(asked, row, cell_frames, cell_bins) for row in range(frames.shape[2])]
    change.append(_map(asked, None, cell_frames, cell_bins) if len(rows) > 1 else np.sum(change, axis=0))
    regions = []
    for row in (*rows, None) if len(rows) > 1 else rows:
        for sign in (1, -1):
            cells = _strongest(sign * change[-1 if row is None else row])
            if cells is not None:
                regions.append(_measured(asked, row, cells, cell_frames, cell_bins))
    regions = [region for region in regions if abs(region.change) >= LEAST_CHANGE]
    whole = np.s_[:, :, :]
    return Occlusion(
        probability=asked.probability,
        log_odds=asked.log_odds,
        silence=asked.without(whole),
        cell_frames=cell_frames,
        cell_bins=cell_bins,
        change=np.stack(change),
        regions=tuple(sorted(regions, key=lambda region: -abs(region.change))),
        without={row: asked.without(np.s_[:, :, row]) for row in rows},
        only={row: asked.without(*(np.s_[:, :, other] for other in rows if other != row)) for row in rows},
    )


def _map(asked: _Asked, row: int | None, cell_frames: int, cell_bins: int) -> F32:
    """Mean change of log-odds of the patches over each cell [shape=(n_times, n_freqs)]."""
    rows = slice(None) if row is None else row
    n_frames, n_bins = asked.frames.shape[:2]
    shape = (-(-n_frames // cell_frames), -(-n_bins // cell_bins))
    total, count = np.zeros(shape), np.zeros(shape)
    for at in range(max(1, shape[0] - 1)):
        for bin_at in range(max(1, shape[1] - 1)):
            part = np.s_[at * cell_frames : (at + 2) * cell_frames, bin_at * cell_bins : (bin_at + 2) * cell_bins, rows]
            # Where there is only background, occluding changes nothing.
            if (asked.frames[part] != asked.silence).any():
                total[at : at + 2, bin_at : bin_at + 2] += asked.log_odds - float(log_odds(asked.without(part)))
            count[at : at + 2, bin_at : bin_at + 2] += 1
    return np.asarray(total / count, np.float32)


def _strongest(change: F32) -> list[tuple[int, int]] | None:
    """The cells that hang together with the one of the largest change and are at least half as large."""
    peak = np.unravel_index(int(np.argmax(change)), change.shape)
    # A patch's change is spread over four cells; a fraction of what is worth telling is worth asking about.
    if change[peak] < LEAST_CHANGE / 4:
        return None
    strong = change >= _REGION_SHARE * change[peak]
    start = (int(peak[0]), int(peak[1]))
    found, waiting = {start}, deque([start])
    while waiting:
        i, j = waiting.popleft()
        for near in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
            inside = 0 <= near[0] < change.shape[0] and 0 <= near[1] < change.shape[1]
            if inside and strong[near] and near not in found:
                found.add(near)
                waiting.append(near)
    return sorted(found)


def _measured(
    asked: _Asked, row: int | None, cells: Sequence[tuple[int, int]], cell_frames: int, cell_bins: int
) -> Region:
    """Ask the network without all of a region's cells at once."""
    rows = slice(None) if row is None else row
    parts = [
        np.s_[i * cell_frames : (i + 1) * cell_frames, j * cell_bins : (j + 1) * cell_bins, rows] for i, j in cells
    ]
    probability = asked.without(*parts)
    n_frames, n_bins = asked.frames.shape[:2]
    times, bins = [i for i, _ in cells], [j for _, j in cells]
    return Region(
        row=row,
        first_frame=min(times) * cell_frames,
        stop_frame=min((max(times) + 1) * cell_frames, n_frames),
        first_bin=min(bins) * cell_bins,
        stop_bin=min((max(bins) + 1) * cell_bins, n_bins),
        change=asked.log_odds - float(log_odds(probability)),
        probability=probability,
    )
