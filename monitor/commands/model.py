"""`monitor model`: what the model is, whether it runs here, and how fast."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from monitor.commands.common import (
    EXIT_FAILED,
    EXIT_MODEL,
    ConfigOption,
    DeviceOption,
    ModelOption,
    fail,
    model_of,
    settings_of,
)
from monitor.edgetpu import compiled_path
from monitor.model import Device, Model
from monitor.operators import Operator
from monitor.pipeline import REPLAY_BATCH_S

app = typer.Typer(help="What the model is, whether it runs here, and how fast.", no_args_is_help=True)


@app.command("info")
def model_info(
    config: ConfigOption = None,
    model: ModelOption = None,
    calibration: Annotated[
        bool, typer.Option("--calibration", help="False alarms per day against threshold, on held-out noise.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The metadata as JSON.")] = False,
) -> None:
    """Say what the model is."""
    loaded = model_of(settings_of(config, model, "cpu"))
    about = loaded.metadata
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(about)).decode())
        return
    if calibration:
        if about.calibration is None:
            fail(f"{loaded.path}: this model has no calibration", EXIT_FAILED)
        table = about.calibration
        print(f"False alarms on {table.station_hours:.1f} station-hours of held-out noise")
        print("threshold  per station-day")
        for value, rate in zip(table.thresholds, table.false_alarms_per_day, strict=True):
            print(f"{value:9.4f}  {rate:15.2f}")
        return
    operators = loaded.edge_tpu_operators()
    compiled = compiled_path(loaded.path)
    spectrogram = about.spectrogram
    rows = {
        "file": str(loaded.path),
        "name": f"{about.name} {about.version}",
        "sha256": loaded.ref.sha256,
        "size": f"{loaded.size_bytes:,} bytes",
        "parameters": f"{loaded.parameters():,}",
        "kind": about.kind,
        "input": (
            f"{spectrogram.n_freq} bins, {spectrogram.frequencies_hz[0]:.2f} to "
            f"{spectrogram.frequencies_hz[-1]:.2f} Hz, every {spectrogram.frame_interval_s:g} s, "
            f"components {''.join(about.components)}, {spectrogram.sampling_rate} Hz"
        ),
        "output": f"{', '.join(about.labels)} every {about.output_stride * spectrogram.frame_interval_s:g} s",
        "looks back": f"{about.context_frames * spectrogram.frame_interval_s:.1f} s",
        "looks ahead": (
            f"{about.look_ahead_frames * spectrogram.frame_interval_s:.1f} s, "
            f"and half a frame of {spectrogram.nperseg / spectrogram.sampling_rate:.2f} s"
        ),
        "threshold": f"{about.threshold:.4f}",
        "training data": about.training_fingerprint,
        "compiled": f"{compiled}" if compiled.is_file() else "not for the Edge TPU (make edgetpu)",
        "Edge TPU": _mapped(operators),
    }
    for name, text in rows.items():
        print(f"{name:14s}{text}")
    kinds = Counter(operators)
    for kind in sorted(kinds, key=lambda kind: (kind.name, kind.obstacle or "")):
        print(f"  {kind.name:24s}{kinds[kind]:3d}  {'mapped' if kind.obstacle is None else f'CPU: {kind.obstacle}'}")


def _mapped(operators: Sequence[Operator]) -> str:
    """What the compiler makes of them together: it goes back to the CPU once, and stays there."""
    first = next((at for at, operator in enumerate(operators) if operator.obstacle is not None), None)
    if first is None:
        return f"by its documentation, each of the {len(operators)} operators is mapped"
    return f"by its documentation, {first} of {len(operators)} operators are mapped; with the next the CPU takes over"


@app.command("verify")
def model_verify(config: ConfigOption = None, model: ModelOption = None, device: DeviceOption = None) -> None:
    """Check that the model runs here and gives its reference answers.

    With --device edgetpu: that the Edge TPU gives them.
    """
    loaded = _loaded(config, model, device)
    differences = loaded.verify()
    if differences:
        fail(f"{loaded.path}: {'; '.join(differences)}", EXIT_MODEL)
    on = "on the Edge TPU" if loaded.device == "edgetpu" else "here"
    print(f"{loaded.path}: runs {on} and gives its reference answers")


@app.command("bench")
def model_bench(
    config: ConfigOption = None,
    model: ModelOption = None,
    device: DeviceOption = None,
    repeats: Annotated[int, typer.Option(min=1, max=100_000, help="Inferences of each kind.")] = 100,
) -> None:
    """Time inference on this machine, one thread."""
    loaded = _loaded(config, model, device)
    interval_s = loaded.metadata.output_stride * loaded.metadata.spectrogram.frame_interval_s
    batch = round(REPLAY_BATCH_S / interval_s)
    for name, n_outputs in (("one output, as live", 1), (f"{REPLAY_BATCH_S:.0f} s, as in replay", batch)):
        seconds = sorted(loaded.bench(n_outputs, repeats=repeats if n_outputs == 1 else max(1, repeats // 10)))
        median = seconds[len(seconds) // 2]
        print(
            f"{name:28s}median {1000 * median:8.3f} ms  fastest {1000 * seconds[0]:8.3f} ms  "
            f"slowest {1000 * seconds[-1]:8.3f} ms  {n_outputs * interval_s / median:10,.0f} times real time"
        )


def _loaded(config: Path | None, path: Path | None, device: Device | None) -> Model:
    """The model; who asks for the stick by name wants no other device's answer."""
    loaded = model_of(settings_of(config, path, device))
    if device == "edgetpu" and loaded.device != "edgetpu":
        raise typer.Exit(EXIT_FAILED)
    return loaded
