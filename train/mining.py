"""What a model itself finds in the training split's noise: what to learn from, and what not to insist on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monitor.detector import DetectorSettings
from monitor.model import Model
from train import benchmark as bench
from train.dataset import Store
from train.outputs import Progress, all_outputs
from train.settings import Settings
from train.traceinfo import RATE_HZ, TraceInfo

# An active sequence has more earthquakes than anybody picks.
_QUIET_PICKS_PER_HOUR = 3.0
_THRESHOLD = 0.3
# What is less sure there may as well be the noise that it was taken for.
_DOUBT_THRESHOLD = 0.8
_MOST_HARD = 1000
# Of what is doubtful: ahead of its onset, and after its end, where an S that nobody picked may be.
_AHEAD, _BEHIND = round(1.5 * RATE_HZ), round(5 * RATE_HZ)


@dataclass(frozen=True, slots=True)
class Mined:
    """What was found.

    Attributes:
        hard: (trace index, sample) of what is no earthquake and was taken for one, the surest first.
        doubtful: (trace index, first sample, end sample) of what may be an earthquake that nobody picked.
    """

    hard: list[tuple[int, int]] = field(default_factory=list)
    doubtful: list[tuple[int, int, int]] = field(default_factory=list)

    def __add__(self, later: "Mined") -> "Mined":
        """All that was ever hard, since it is to stay learned; of what is doubtful, what the later model says."""
        return Mined(list(dict.fromkeys(self.hard + later.hard)), later.doubtful)

    def named(self, store: Store) -> dict[str, Any]:
        """The same with the names of the traces, for a file."""
        name = [trace.name for trace in store.traces]
        return {
            "places": [[name[index], sample] for index, sample in self.hard],
            "doubtful": [[name[index], first, end] for index, first, end in self.doubtful],
        }


def mine(store: Store, settings: Settings, path: Path, progress: Progress) -> Mined:
    """Find where a model gives false alarms on the training split's noise.

    In an active sequence what nobody picked may be an earthquake all the same: doubtful there, hard elsewhere.

    Args:
        store: The recordings.
        settings: The run.
        path: The int8 model.
        progress: Told how many traces are done.
    """
    indices = [
        index
        for index in store.select(split="train", kind=("noise", "continuous"), exclude_datasets=settings.data.exclude)
        if store.traces[index].noise_type != "lp-rockfall"
    ]
    outputs = all_outputs(store, indices, Model(path), progress=progress)
    task = bench.make_task(store, indices)
    found = bench.false_alarms(task, bench.model_detect(outputs, DetectorSettings()), _THRESHOLD)
    return sort_out(store.traces, found)


def sort_out(traces: Sequence[TraceInfo], found: Sequence[bench.FalseAlarm]) -> Mined:
    """Tell what is hard from what is doubtful."""
    active = [len(info.picks) > _QUIET_PICKS_PER_HOUR * info.npts / RATE_HZ / 3600 for info in traces]
    ranked = sorted(found, key=lambda alarm: -alarm.score)
    return Mined(
        [(alarm.trace, alarm.sample) for alarm in ranked if not active[alarm.trace]][:_MOST_HARD],
        [
            (alarm.trace, max(0, alarm.sample - _AHEAD), min(traces[alarm.trace].npts, alarm.end + _BEHIND))
            for alarm in ranked
            if active[alarm.trace] and alarm.score >= _DOUBT_THRESHOLD
        ],
    )
