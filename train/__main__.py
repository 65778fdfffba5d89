"""`python -m train`: from recordings to the int8 model, its report and its card."""

import contextlib
import datetime as dt
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from train.cluster import Cluster
    from train.dataset import Store
    from train.peers import Peer
    from train.settings import Settings

# Heavy imports (TensorFlow, SciPy, matplotlib) are inside the commands: `--help` is quick.

EXIT_FAILED = 1
EXIT_USAGE = 2

app = typer.Typer(
    name="train",
    help="Trains the detector: prepare, fit, quantize, benchmark, evaluate, report; or all of it. Then compare runs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

DataOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--data",
        metavar="DIR",
        envvar="MONITOR_DATA",
        help="Folder of recordings, or of folders of them: SeisBench format, or miniSEED with picks.csv. Repeatable.",
    ),
]
StoreOption = Annotated[
    Path | None, typer.Option("--store", metavar="DIR", help="Prepared recordings; store/ in the output without it.")
]
OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="What comes out goes there.")]
SettingsOption = Annotated[
    Path | None, typer.Option("--settings", metavar="TOML", help="As train/configs/*.toml; the defaults without it.")
]
SeedOption = Annotated[int | None, typer.Option(help="Instead of the settings' seed.")]
StepsOption = Annotated[int | None, typer.Option(min=1, help="Optimiser steps; those of mining follow in proportion.")]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Data sets to leave out of training, * and ? allowed. Repeatable."),
]
StartFromOption = Annotated[
    Path | None,
    typer.Option(
        metavar="TFLITE",
        help="Go on from this model with the rounds of mining alone (fine-tuning; see tuned_share in the settings)."
        " If it has fewer branches than the settings, keep it as it is and train the others beside it.",
    ),
]
SplitOption = Annotated[Literal["dev", "train", "all"], typer.Option(help="Which part of the store.")]
OnlyOption = Annotated[
    list[str] | None, typer.Option(metavar="PATTERN", help="Only these data sets, * and ? allowed. Repeatable.")
]

SeisbenchOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL:WEIGHTS,…",
        help="Judge these pickers of SeisBench too (pip install seisbench), such as "
        "PhaseNet:original,EQTransformer:mine.pt: the name of weights, or a file with its .json next to it.",
    ),
]
RatesOption = Annotated[
    str | None,
    typer.Option(
        metavar="HZ,…", help="Judge the model at these sampling rates too, such as 31.25,50,250; default: 31.25,50."
    ),
]

_DEFAULT_OUT = Path("train-output")


@app.command()
def prepare(
    data: DataOption = None, store: StoreOption = None, out: OutOption = _DEFAULT_OUT, seed: SeedOption = None
) -> None:
    """Turn folders of recordings into one store."""
    with _plain_errors():
        _prepare(data, store or out / "store", seed)


@app.command()
def fit(
    store: StoreOption = None,
    out: OutOption = _DEFAULT_OUT,
    settings: SettingsOption = None,
    seed: SeedOption = None,
    steps: StepsOption = None,
    exclude: ExcludeOption = None,
    start_from: StartFromOption = None,
) -> None:
    """Train the float network.

    On several machines at once: prepare on each, then run this on each with the same settings and TF_CONFIG as
    TensorFlow defines it, such as {"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker",
    "index": 0}} with another index on each. A step then learns from the batches of all of them. The first one's output
    is the result; the others keep theirs in OUT/worker-N. One process uses one accelerator: start one for each.
    """
    with _plain_errors():
        _fit(store or out / "store", out, _read_settings(settings, seed, steps, exclude, start_from), start_from)


@app.command()
def quantize(store: StoreOption = None, out: OutOption = _DEFAULT_OUT) -> None:
    """Turn the float network into the int8 model; its threshold is provisional until `benchmark`."""
    with _plain_errors():
        _quantize(store or out / "store", out)


@app.command()
def evaluate(
    store: StoreOption = None,
    out: OutOption = _DEFAULT_OUT,
    split: SplitOption = "dev",
    only: OnlyOption = None,
    seisbench: SeisbenchOption = None,
) -> None:
    """Judge 30 s windows: accuracy, F1, ROC AUC of float, int8 and STA/LTA."""
    with _plain_errors():
        _judge(store or out / "store", out, split, only or [], ("evaluate",), calibrate=False, peers=_peers(seisbench))


@app.command()
def benchmark(
    store: StoreOption = None,
    out: OutOption = _DEFAULT_OUT,
    split: SplitOption = "dev",
    only: OnlyOption = None,
    calibrate: Annotated[
        bool | None,
        typer.Option(help="Set the model's threshold by this; without it, if it is the whole dev split."),
    ] = None,
    seisbench: SeisbenchOption = None,
    resample_hz: RatesOption = None,
) -> None:
    """Judge continuous data and windows: recall against false alarms per station-hour, onsets, delays, F1, AUC."""
    with _plain_errors():
        whole_dev = split == "dev" and not only
        _judge(
            store or out / "store",
            out,
            split,
            only or [],
            # The benchmark first: the windows are judged at the threshold that it chooses.
            ("benchmark", "evaluate"),
            calibrate=whole_dev if calibrate is None else calibrate,
            peers=_peers(seisbench),
            rates_hz=_rates(resample_hz),
        )


@app.command()
def report(
    store: StoreOption = None,
    out: OutOption = _DEFAULT_OUT,
    install: Annotated[bool, typer.Option("--install", help="Copy all three to monitor/models/.")] = False,
) -> None:
    """Write the report and the model card next to the model."""
    with _plain_errors():
        _report(store or out / "store", out, install=install)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR…", help="Folders that --out named.")],
) -> None:
    """Put runs side by side, such as of different look_ahead_s: a Markdown table, a row for each."""
    from train.compare import compare as compared  # noqa: PLC0415

    with _plain_errors(), _users_part():
        print(compared(runs))


@app.command(name="all")
def everything(
    data: DataOption = None,
    store: StoreOption = None,
    out: OutOption = _DEFAULT_OUT,
    settings: SettingsOption = None,
    seed: SeedOption = None,
    steps: StepsOption = None,
    exclude: ExcludeOption = None,
    start_from: StartFromOption = None,
    seisbench: SeisbenchOption = None,
    install: Annotated[bool, typer.Option("--install", help="Copy the model to monitor/models/.")] = False,
) -> None:
    """Go from recordings to the model, its report and its card."""
    with _plain_errors():
        # What is wrong there should not wait for the data.
        run = _read_settings(settings, seed, steps, exclude, start_from)
        peers = _peers(seisbench)
        if _cluster().size > 1:
            raise _WrongError("all works on one machine; on several, run prepare and fit on each, then the rest on one")
        store = store or out / "store"
        _prepare(data, store, seed)
        _fit(store, out, run, start_from)
        _quantize(store, out)
        _judge(store, out, "dev", [], ("benchmark", "evaluate"), calibrate=True, peers=peers)
        _report(store, out, install=install)


# -- the steps ---------------------------------------------------------------------------------------------------------


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """A user's mistake, or a run that came to nothing, is one line and an exit code."""
    from monitor.model import ModelError  # noqa: PLC0415

    # Only its warnings and errors; TensorFlow reads it when it is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        yield
    except (_WrongError, ModelError) as error:
        _say(f"train: {error}")
        raise typer.Exit(EXIT_USAGE) from None
    except (RuntimeError, OSError) as error:
        _say(f"train: {error}")
        raise typer.Exit(EXIT_FAILED) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


class _WrongError(Exception):
    """What the user gave is not usable; the message says what is."""


@contextlib.contextmanager
def _users_part() -> Iterator[None]:
    """A ValueError from here is about what the user gave, not a fault of the program."""
    try:
        yield
    except ValueError as error:
        raise _WrongError(str(error)) from error


class _Watch:
    """Bars on a terminal, a line for each finished part elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:<32}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, int] = {}
        self._told: dict[str, int] = {}

    def __enter__(self) -> "_Watch":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def part(self, name: str) -> "_Part":
        """Begin to watch a part."""
        return _Part(self, name)

    def show(self, name: str, done: int, total: int, note: str = "") -> None:
        """Show how far a part is."""
        if self._console.is_terminal:
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(name, total=total)
            self._progress.update(
                self._progress.task_ids[self._tasks[name]], completed=done, description=f"{name} {note}"
            )
            return
        # A log gets a line for each tenth.
        tenth = 10 * done // max(total, 1)
        if tenth > self._told.get(name, 0):
            self._told[name] = tenth
            _say(f"{name}: {done} of {total} {note}".rstrip())


class _Part:
    def __init__(self, watch: _Watch, name: str) -> None:
        self._watch, self._name = watch, name

    def __call__(self, done: int, total: int) -> None:
        self._watch.show(self._name, done, total)


def _read_settings(
    path: Path | None, seed: int | None, steps: int | None, exclude: list[str] | None, start_from: Path | None
) -> "Settings":
    import msgspec  # noqa: PLC0415

    from train.restore import check_restorable  # noqa: PLC0415
    from train.settings import read_settings, with_options  # noqa: PLC0415

    with _users_part():
        settings = read_settings(path)
    if settings.start_from:
        raise _WrongError(f"{path}: start_from is written by --start-from; accepted: a file without it")
    settings = with_options(settings, seed=seed, steps=steps, exclude=exclude or ())
    if start_from is not None:
        with _users_part():
            settings = msgspec.structs.replace(settings, start_from=check_restorable(start_from, settings))
    return settings


def _open(path: Path) -> "Store":
    from train.dataset import Store  # noqa: PLC0415

    with _users_part():
        return Store.open(path)


def _rates(text: str | None) -> list[float] | None:
    if text is None:
        return None
    from train.conditioning import ratio_to_100_hz  # noqa: PLC0415

    with _users_part():
        rates = [float(part) for part in text.split(",") if part.strip()]
        for rate in rates:
            ratio_to_100_hz(rate)
    return rates


def _peers(names: str | None) -> "list[Peer]":
    if names is None:
        return []
    from train.peers import AbsentError, load_peers  # noqa: PLC0415

    try:
        return load_peers(names)
    except AbsentError as error:
        raise _WrongError(str(error)) from error


def _prepare(data: list[Path] | None, store: Path, seed: int | None) -> None:
    from train.dataset import discover, distinct, prepare, summary  # noqa: PLC0415

    if not data:
        raise _WrongError("no data: give --data DIR (repeatable), or set MONITOR_DATA")
    with _Watch() as watch, _users_part():
        specs = distinct([spec for folder in data for spec in discover(folder)])
        prepared = prepare(specs, store, seed=seed or 0, progress=watch.show)
    _say(summary(prepared))


def _cluster() -> "Cluster":
    from train.cluster import cluster  # noqa: PLC0415

    with _users_part():
        return cluster()


def _fit(store: Path, out: Path, settings: "Settings", start_from: Path | None) -> None:
    workers = _cluster()
    if not workers.chief:
        out = out / f"worker-{workers.rank}"  # the folder may be shared
    prepared = _open(store)

    from train.augment import ExampleMaker  # noqa: PLC0415
    from train.steps import save_settings, train  # noqa: PLC0415

    with _users_part():
        ExampleMaker(prepared, settings)  # says what is missing before TensorFlow is loaded
    with _Watch() as watch, contextlib.redirect_stdout(sys.stderr):

        def tell(part: str, step: int, steps: int, losses: dict[str, float]) -> None:
            watch.show(part, step, steps, "  ".join(f"{k} {v:.4f}" for k, v in losses.items()))

        train(prepared, settings, out, start_from=start_from, watch=watch.part, report=tell)
    save_settings(settings, out)


def _quantize(store: Path, out: Path) -> None:
    prepared = _open(store)

    from train.steps import saved_settings  # noqa: PLC0415

    with _users_part():
        settings = saved_settings(out)
        if not (out / "model.keras").exists():
            raise ValueError(f"{out / 'model.keras'}: not there; run fit first")
    from train.quantize import quantize  # noqa: PLC0415

    # The converter prints what it saves.
    with contextlib.redirect_stdout(sys.stderr):
        path = quantize(prepared, settings, out / "model.keras", out)
    _say(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def _judge(
    store: Path,
    out: Path,
    split: Literal["dev", "train", "all"],
    only: list[str],
    what: tuple[str, ...],
    *,
    calibrate: bool,
    peers: "Sequence[Peer]" = (),
    rates_hz: Sequence[float] | None = None,
) -> None:
    prepared = _open(store)

    from train import report, steps  # noqa: PLC0415
    from train.figures import write_figures  # noqa: PLC0415

    with _users_part():
        path = steps.model_path(out)
        indices = steps.chosen_traces(prepared, split=split, only=only)
    texts: list[str] = []
    files: list[Path] = []
    drawn: list[Path] = []
    with _Watch() as watch:
        outputs = steps.Outputs(prepared, indices, path, watch.part, peers=peers)
        if "benchmark" in what:
            figures = steps.run_benchmark(
                prepared,
                indices,
                outputs,
                split=split,
                only=only,
                path=path,
                calibrate=calibrate,
                watch=watch.part,
                rates_hz=rates_hz,
            )
            outputs.reload(path)
            steps.write_json(figures, out / steps.BENCHMARK_FILE)
            drawn = write_figures(figures, out)
            texts.append(report.continuous_text(figures))
            files += [out / steps.BENCHMARK_FILE, out / "benchmark.md", *drawn]
        if "evaluate" in what:
            windows = steps.run_evaluation(prepared, indices, outputs, split=split)
            steps.write_json(windows, out / steps.EVALUATION_FILE)
            texts.append(report.windows_text(windows))
            files.append(out / steps.EVALUATION_FILE)
        if "benchmark" in what:
            pictures = "\n".join(f"![{file.stem}]({file.name})" for file in drawn)
            (out / "benchmark.md").write_text("\n\n".join([*texts, pictures]) + "\n", encoding="utf-8")
    print("\n\n".join(texts))
    _say("\n".join(map(str, files)))


def _report(store: Path, out: Path, *, install: bool) -> None:
    prepared = _open(store)

    from monitor.model import Model, default_model_path  # noqa: PLC0415
    from train import steps  # noqa: PLC0415
    from train.report import write_report  # noqa: PLC0415
    from train.restore import shipped_start  # noqa: PLC0415
    from train.settings import Settings, differing, with_options  # noqa: PLC0415

    with _users_part():
        path, settings = steps.model_path(out), steps.saved_settings(out)
    model = Model(path)
    options: dict[str, Any] = {"seed": settings.seed, "steps": settings.fit.steps, "exclude": settings.data.exclude}
    others: dict[str, Any] = {}
    if settings.network.name != "reference" and differing(settings, with_options(Settings(), **options)):
        options["steps"] = None
        others = differing(settings, with_options(Settings(), **options))
    command = ["python", "-m", "train", "all", "--data", "DATA", "--seed", str(settings.seed)]
    if options["steps"] is not None:
        command += ["--steps", str(settings.fit.steps)]
    for pattern in settings.data.exclude:
        command += ["--exclude", pattern]
    if settings.start_from:
        command += ["--start-from", shipped_start(settings.start_from) or "MODEL"]
    if settings.network.name == "reference":
        command += ["--settings", "train/configs/reference.toml"]
    elif others:
        command += ["--settings", "SETTINGS"]
    files = [
        path,
        *write_report(
            model,
            manifest=prepared.manifest,
            evaluation=steps.read_json(out / steps.EVALUATION_FILE),
            benchmark=steps.read_json(out / steps.BENCHMARK_FILE),
            command=shlex.join(command),
            settings_file=others,
            date=dt.datetime.now(tz=dt.UTC).date().isoformat(),
        ),
    ]
    if install:
        folder = default_model_path().parent
        folder.mkdir(parents=True, exist_ok=True)
        files = [Path(shutil.copyfile(file, folder / file.name)) for file in files]
    _say("\n".join(str(file) for file in files))


if __name__ == "__main__":
    app()
