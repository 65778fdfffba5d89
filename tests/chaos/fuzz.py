"""Everything that reads bytes of others, fed with bytes that nobody should send."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.chaos.outcome import Options, Outcome
from tests.chaos.targets import TARGETS

_TRIED = re.compile(r"stat::number_of_executed_units: (\d+)")
# Models that are damaged and then loaded, each in a process of its own: the interpreter is not ours to guard.
_MODELS = 40
_LOAD = """
import sys
from pathlib import Path
from monitor.model import Model, ModelError
try:
    sys.exit(0 if not Model(Path(sys.argv[1])).verify() else 3)
except ModelError:
    sys.exit(3)
"""


def run(options: Options) -> list[Outcome]:
    """Each target for its share of the time; then damaged models."""
    targets = {name: target for name, target in TARGETS.items() if options.only in {"", name}}
    seconds = max(1, round(60 * options.minutes / len(targets)))
    guided = importlib.util.find_spec("atheris") is not None
    outcomes = []
    for name, target in targets.items():
        corpus = options.room(f"fuzz {name}")
        outcome = Outcome("fuzz", f"any bytes to {name}", target.promise, unit="inputs")
        command = [sys.executable, "-m", "tests.chaos.fuzz_one", name, str(corpus), str(seconds), str(options.seed)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
        tried = _TRIED.search(done.stdout + done.stderr)
        outcome.runs = int(tried[1]) if tried else 0
        outcome.note = f"{seconds} s, {'guided by coverage (atheris)' if guided else 'by chance'}"
        if done.returncode:
            outcome.fail(f"exit code {done.returncode}: {(done.stdout + done.stderr)[-1500:]}")
        outcomes.append(outcome)
    return outcomes if options.only else [*outcomes, models(options)]


def models(options: Options) -> Outcome:
    """Load models with damaged bytes."""
    outcome = Outcome(
        "fuzz", "a damaged model file, loaded and run", "refused with exit code 3, or its reference answers are right",
        unit="files",
    )  # fmt: skip
    rng = np.random.default_rng(options.seed)
    (good,) = TARGETS["model"].seeds()
    path = options.room("models") / "model.tflite"
    refused = 0
    for number in range(_MODELS):
        content = bytearray(good)
        for _ in range(int(rng.integers(1, 5))):
            at = int(rng.integers(0, len(content)))
            match number % 3:
                case 0:
                    content[at] ^= 1 << int(rng.integers(0, 8))
                case 1:
                    content[at : at + 64] = rng.bytes(len(content[at : at + 64]))
                case _:
                    del content[at:]
                    content.extend(b"\0")
        path.write_bytes(content)
        done = subprocess.run([sys.executable, "-c", _LOAD, str(path)], capture_output=True, text=True, check=False)
        outcome.runs += 1
        refused += done.returncode == 3
        if done.returncode not in {0, 3}:
            outcome.fail(f"file {number}: exit code {done.returncode}: {done.stderr[-300:]}")
    outcome.note = f"{refused} refused"
    return outcome
