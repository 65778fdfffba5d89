"""How many false alarms what is not the Earth brings: noise of the data with a synthetic disturbance laid over each.

A few hours of recorded noise hold few of the things that make detectors cry wolf, and one station's fault may decide
the figure. Here each kind of `train.disturb`, or of `train.disturb_unseen`, is over all the noise there is.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from train import benchmark as bench
from train.dataset import Samples, Store
from train.disturb import F64, KINDS, Rng

Kind = Callable[[F64, Rng], None]
SEEN: tuple[Kind, ...] = tuple(kind for kind, _ in KINDS)
"""What training lays over noise, too."""


class DisturbedStore(Store):
    """Recordings of noise that are disturbed when they are asked for.

    Attributes:
        kinds: Of each trace, the name of its disturbance.
    """

    def __init__(self, of: Store, indices: Sequence[int], kinds: Sequence[Kind], *, seed: int) -> None:
        self.path, self.manifest = of.path, of.manifest
        self._of, self._seed = of, seed
        self._laid = [(index, kind) for kind in kinds for index in indices]
        self.kinds = [kind.__name__ for _, kind in self._laid]
        self.traces = [
            replace(of.traces[index], name=f"{of.traces[index].name} with {kind.__name__}")
            for index, kind in self._laid
        ]

    def waveform(self, index: int, start: int = 0, stop: int | None = None) -> Samples:
        """As `Store.waveform`."""
        of, kind = self._laid[index]
        wave = self._of.waveform(of).astype(np.float64)
        kind(wave, np.random.default_rng([self._seed, index]))
        wave[~np.array(self.traces[index].components)] = 0.0
        return wave[:, start:stop].astype(np.float32)


def disturb_noise(store: Store, indices: Sequence[int], kinds: Sequence[Kind] = SEEN, *, seed: int) -> DisturbedStore:
    """Lay each kind of disturbance once over each window of noise without gaps among these traces."""
    noise = [i for i in indices if store.traces[i].kind == "noise" and not store.traces[i].gaps]
    return DisturbedStore(store, noise, kinds, seed=seed)


def disturbed_figures(disturbed: DisturbedStore, detectors: bench.Detectors) -> dict[str, Any]:
    """False alarms in disturbed noise.

    Args:
        disturbed: The recordings.
        detectors: What finds something in them.

    Returns:
        For each detector and threshold the false alarms for each of `kinds`, the windows of each and their hours.
    """
    of = bench.curves_by(disturbed, disturbed.kinds, detectors)
    task, _ = next(iter(of.values()))
    return {
        "kinds": list(of),
        "windows_each": len(task.indices),
        "hours_each": round(sum(task.noise_hours.values()), 3),
        "false_alarms": {
            name: {
                key: [int(curves[name].false[:, column].sum()) for _, curves in of.values()]
                for column, key in enumerate(thresholds)
            }
            for name, (_, thresholds) in detectors.items()
        },
    }
