"""The command line: `monitor replay` and `monitor model`."""

import contextlib
import enum
import os
import signal
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer

from monitor.check_cli import check
from monitor.config import ConfigError, read_settings
from monitor.formats import open_writer
from monitor.model import Model, ModelError
from monitor.output import OutputClosedError, OutputError, open_output
from monitor.progress import ReplayProgress
from monitor.records import Detection
from monitor.replay import Replay, station_filter
from monitor.run_cli import run
from monitor.serve import serve
from monitor.settings import Settings
from monitor.sources.files import FileSource, Problem
from monitor.streams_cli import streams
from monitor.thresholds import ThresholdError, threshold_for
from monitor.timebase import parse_time
from monitor.views import DetectionView

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_MODEL = 3
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="monitor",
    help="Says whether a seismometer's signal is an earthquake.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
model_app = typer.Typer(help="What the model is, whether it runs here, and how fast.", no_args_is_help=True)
app.add_typer(model_app, name="model")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"monitor {metadata.version('seismic-monitor')}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Says whether a seismometer's signal is an earthquake."""


class Format(enum.StrEnum):
    """What detections are printed as."""

    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"
    QUAKEML = "quakeml"


def main() -> None:
    """Run the command line."""
    try:
        app()
    except BrokenPipeError:
        # The reader of the output has gone, as `| head` does; what Python flushes at exit would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _fail(message: str, code: int) -> NoReturn:
    print(f"monitor: {message}", file=sys.stderr)
    raise typer.Exit(code)


def _settings(config: Path | None, model_path: Path | None) -> Settings:
    try:
        settings = read_settings(config)
    except ConfigError as error:
        _fail(str(error), EXIT_USAGE)
    if model_path is not None:
        settings = msgspec.structs.replace(
            settings, model=msgspec.structs.replace(settings.model, path=str(model_path))
        )
    return settings


def _model(settings: Settings) -> Model:
    try:
        return Model(Path(settings.model.path) if settings.model.path is not None else None)
    except ModelError as error:
        _fail(str(error), EXIT_MODEL)


def _with_threshold(settings: Settings, threshold: float | None, false_alarms_per_day: float | None) -> Settings:
    """Let the command line win over the file, which may have said it the other way."""
    if threshold is None and false_alarms_per_day is None:
        return settings
    if threshold is not None and false_alarms_per_day is not None:
        _fail("--threshold and --false-alarms-per-day are both given; accepted: one of them", EXIT_USAGE)
    if threshold is not None and not 0 < threshold < 1:
        _fail(f"--threshold is {threshold}; accepted: between 0 and 1", EXIT_USAGE)
    try:
        detector = msgspec.structs.replace(
            settings.detector, threshold=threshold, false_alarms_per_day=false_alarms_per_day
        )
    except ValueError as error:
        _fail(str(error), EXIT_USAGE)
    return msgspec.structs.replace(settings, detector=detector)


def _time_option(text: str | None, name: str) -> int | None:
    if text is None:
        return None
    try:
        return parse_time(text)
    except ValueError as error:
        _fail(f"{name}: {error}", EXIT_USAGE)


ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="TOML", help="Settings file; without one the defaults apply.")
]
ModelOption = Annotated[
    Path | None, typer.Option("--model", metavar="TFLITE", help="Another model than the shipped one.")
]


@app.command()
def replay(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help="Recordings (miniSEED 2 or 3), directories, or - for standard input."),
    ],
    output_format: Annotated[Format, typer.Option("--format", help="What to print detections as.")] = Format.TABLE,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write there instead of standard output.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw each detection, and an overview, there.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(metavar="P", help="Event probability that starts a detection, between 0 and 1.")
    ] = None,
    false_alarms_per_day: Annotated[
        float | None,
        typer.Option(metavar="X", help="Instead: the threshold that has at most X false alarms per station and day."),
    ] = None,
    start: Annotated[str | None, typer.Option(metavar="TIME", help="Leave out what is before; ISO 8601, UTC.")] = None,
    end: Annotated[str | None, typer.Option(metavar="TIME", help="Leave out what is from then on.")] = None,
    stations: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Only these, such as UH1, 'BW.UH*' or 'BW.UH3..SH?'; may be repeated."),
    ] = None,
    speed: Annotated[
        float | None, typer.Option(metavar="X", help="Multiple of real time; as fast as possible without it.")
    ] = None,
    all_states: Annotated[bool, typer.Option("--all-states", help="Each revision, not only the final ones.")] = False,
    config: ConfigOption = None,
    model: ModelOption = None,
) -> None:
    """Find earthquakes in recordings.

    Prints each detection as it is found. Exit codes: 0 done, 1 something could not be read (what could was processed),
    2 wrong usage, 3 model refused, 130 interrupted.
    """
    settings = _settings(config, model)
    settings = _with_threshold(settings, threshold, false_alarms_per_day)
    if speed is not None and not 0 < speed < float("inf"):
        _fail(f"--speed is {speed}; accepted: more than 0", EXIT_USAGE)
    start_ns, end_ns = _time_option(start, "--start"), _time_option(end, "--end")
    if start_ns is not None and end_ns is not None and start_ns >= end_ns:
        _fail(f"--start {start} is not before --end {end}", EXIT_USAGE)
    patterns = [part for option in stations or [] for part in option.split(",") if part]
    loaded = _model(settings)
    try:
        threshold_for(settings.detector, loaded.metadata)
    except ThresholdError as error:
        _fail(str(error), EXIT_USAGE)
    figures = _Figures(plot) if plot is not None else None
    problems: list[Problem] = []
    progress = ReplayProgress(0.0)
    stderr = progress.guard(sys.stderr)

    def on_problem(problem: Problem) -> None:
        problems.append(problem)
        print(f"monitor: {problem}", file=stderr, flush=True)

    source = FileSource(files, select=station_filter(patterns), start_ns=start_ns, end_ns=end_ns, on_problem=on_problem)
    with _stop_on_signal(), _output_failures():
        try:
            run = Replay(
                source,
                loaded,
                settings.detector,
                speed=speed,
                on_view=figures.draw if figures is not None else None,
                on_notice=lambda text: print(f"monitor: {text}", file=stderr, flush=True),
            )
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_INTERRUPTED) from None
        if not run.groups and not problems:
            chosen = any(option is not None for option in (start, end)) or bool(patterns)
            _fail(
                "no data to look at" + (": nothing matches --stations, --start and --end" if chosen else ""),
                EXIT_FAILED,
            )
        interrupted = _run(run, output, output_format, all_states, figures)
        if figures is not None:
            figures.finish(run)
    if interrupted:
        print("monitor: interrupted; what was found so far is above", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED)
    if problems:
        raise typer.Exit(EXIT_FAILED)


def _run(run: Replay, output: Path | None, output_format: Format, all_states: bool, figures: "_Figures | None") -> bool:
    """Replay; True if a person interrupted it."""
    progress = ReplayProgress(run.contents.span_s)
    with open_output(output) as stream:
        writer = open_writer(output_format.value, progress.guard(stream), all_states=all_states)
        with contextlib.closing(writer):
            try:
                with progress:
                    for detection in run:
                        if detection is None:
                            progress.update(run.stream_ns, run.done_s, run.detections)
                            continue
                        if detection.state == "final" and figures is not None:
                            figures.detections.append(detection)
                        if all_states or detection.state == "final":
                            writer.write(detection)
            except KeyboardInterrupt:
                return True
    return False


@contextlib.contextmanager
def _output_failures() -> Iterator[None]:
    try:
        yield
    except OutputClosedError:
        raise typer.Exit(0) from None
    except OutputError as error:
        _fail(str(error), EXIT_FAILED)


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[None]:
    """A termination request ends a replay as Ctrl-C does: with everything found so far written out."""

    def interrupt(_number: int, _frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Figures:
    """Draws detections into a directory."""

    def __init__(self, directory: Path) -> None:
        # matplotlib is loaded only by those who asked for figures.
        from monitor import plot  # noqa: PLC0415

        self._plot, self._directory = plot, directory
        self.detections: list[Detection] = []
        try:
            plot.require_matplotlib()
            directory.mkdir(parents=True, exist_ok=True)
        except plot.PlotUnavailableError as error:
            _fail(str(error), EXIT_USAGE)
        except OSError as error:
            _fail(f"--plot {directory}: cannot be made: {error.strerror}", EXIT_FAILED)

    def draw(self, view: DetectionView) -> None:
        """Draw one detection."""
        self._plot.plot_detection(view, self._plot.plot_path(self._directory, view.detection))

    def finish(self, run: Replay) -> None:
        """Draw the overview."""
        traces = [envelope.trace() for envelope in run.envelopes.values()]
        if traces:
            self._plot.plot_overview(traces, self.detections, self._directory / "overview.png")


@model_app.command("info")
def model_info(
    config: ConfigOption = None,
    model: ModelOption = None,
    calibration: Annotated[
        bool, typer.Option("--calibration", help="False alarms per day against threshold, on held-out noise.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The metadata as JSON.")] = False,
) -> None:
    """Say what the model is."""
    loaded = _model(_settings(config, model))
    about = loaded.metadata
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(about)).decode())
        return
    if calibration:
        if about.calibration is None:
            _fail(f"{loaded.path}: this model has no calibration", EXIT_FAILED)
        table = about.calibration
        print(f"False alarms on {table.station_hours:.1f} station-hours of held-out noise")
        print("threshold  per station-day")
        for value, rate in zip(table.thresholds, table.false_alarms_per_day, strict=True):
            print(f"{value:9.4f}  {rate:15.2f}")
        return
    problems = loaded.accelerator_problems()
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
        "operators": ", ".join(f"{name} {count}" for name, count in sorted(loaded.operators().items())),
        "Edge TPU": "every operator can be mapped" if not problems else f"not mapped: {', '.join(problems)}",
    }
    for name, text in rows.items():
        print(f"{name:14s}{text}")


@model_app.command("verify")
def model_verify(config: ConfigOption = None, model: ModelOption = None) -> None:
    """Check that the model runs here and gives its reference answers."""
    loaded = _model(_settings(config, model))
    differences = loaded.verify()
    if differences:
        _fail(f"{loaded.path}: {'; '.join(differences)}", EXIT_MODEL)
    print(f"{loaded.path}: runs here and gives its reference answers")


@model_app.command("bench")
def model_bench(
    config: ConfigOption = None,
    model: ModelOption = None,
    repeats: Annotated[int, typer.Option(min=1, max=100_000, help="Inferences of each kind.")] = 100,
) -> None:
    """Time inference on this machine, one thread."""
    loaded = _model(_settings(config, model))
    interval_s = loaded.metadata.output_stride * loaded.metadata.spectrogram.frame_interval_s
    for name, n_outputs in (("one output, as live", 1), ("five minutes, as in replay", round(300 / interval_s))):
        seconds = sorted(loaded.bench(n_outputs, repeats=repeats if n_outputs == 1 else max(1, repeats // 10)))
        median = seconds[len(seconds) // 2]
        print(
            f"{name:28s}median {1000 * median:8.3f} ms  fastest {1000 * seconds[0]:8.3f} ms  "
            f"slowest {1000 * seconds[-1]:8.3f} ms  {n_outputs * interval_s / median:10,.0f} times real time"
        )


app.command("run")(run)
app.command("check")(check)
app.command("serve")(serve)
app.command("streams")(streams)


if __name__ == "__main__":
    main()
