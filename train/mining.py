"""What a model itself finds in the training split's noise, for the next training to learn from."""

from collections.abc import Sequence
from pathlib import Path

from monitor.detector import DetectorSettings
from monitor.model import Model
from train import benchmark as bench
from train.dataset import Store
from train.outputs import Progress, all_outputs
from train.settings import Settings
from train.traceinfo import RATE_HZ, Place, TraceInfo

# An active sequence has more earthquakes than anybody picks: what is found there may be one.
_QUIET_PICKS_PER_HOUR = 3.0
_THRESHOLD = 0.3
_MOST = 1000


def mine(store: Store, settings: Settings, path: Path, progress: Progress) -> list[Place]:
    """Find where a model gives false alarms on the training split's noise, the surest first.

    Args:
        store: The recordings.
        settings: The run.
        path: The int8 model.
        progress: Told how many traces are done.
    """
    indices = [
        index
        for index in store.select(split="train", kind=("noise", "continuous"), exclude_datasets=settings.data.exclude)
        if store.traces[index].noise_type != "lp-rockfall" and is_quiet(store.traces[index])
    ]
    outputs = all_outputs(store, indices, Model(path), progress=progress)
    task = bench.make_task(store, indices)
    return surest(bench.false_alarms(task, bench.model_detect(outputs, DetectorSettings()), _THRESHOLD))


def is_quiet(info: TraceInfo) -> bool:
    """Tell whether so little was picked that what nobody picked can be taken for no earthquake."""
    return len(info.picks) <= _QUIET_PICKS_PER_HOUR * info.npts / RATE_HZ / 3600


def surest(found: Sequence[bench.FalseAlarm]) -> list[Place]:
    """The places of the false alarms that the model was surest of."""
    ranked = sorted(found, key=lambda alarm: -alarm.score)
    return [(alarm.trace, alarm.sample) for alarm in ranked[:_MOST]]
