"""`monitor replay`: recordings through the pipeline."""

import contextlib
import enum
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer

from monitor.commands.common import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    ConfigOption,
    DeviceOption,
    ModelOption,
    fail,
    model_of,
    settings_of,
)
from monitor.formats import open_writer
from monitor.model import Model
from monitor.output import OutputClosedError, OutputError, open_output
from monitor.progress import ReplayProgress
from monitor.records import Detection
from monitor.replay import Replay
from monitor.settings import Settings
from monitor.sources.files import FileSource, Problem
from monitor.stations import station_filter
from monitor.thresholds import ThresholdError, threshold_for
from monitor.timebase import parse_time
from monitor.views import DetectionView


class Format(enum.StrEnum):
    """What detections are printed as."""

    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"
    QUAKEML = "quakeml"


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
    publish: Annotated[
        bool, typer.Option("--publish", help="Send each revision to the broker of the settings, marked as a replay's.")
    ] = False,
    config: ConfigOption = None,
    model: ModelOption = None,
    device: DeviceOption = None,
) -> None:
    """Find earthquakes in recordings.

    Prints each detection as it is found. Exit codes: 0 done, 1 something could not be read (what could was processed),
    2 wrong usage, 3 model refused, 130 interrupted.
    """
    settings = settings_of(config, model, device)
    settings = _with_threshold(settings, threshold, false_alarms_per_day)
    if speed is not None and not 0 < speed < float("inf"):
        fail(f"--speed is {speed}; accepted: more than 0", EXIT_USAGE)
    start_ns, end_ns = _time_option(start, "--start"), _time_option(end, "--end")
    if start_ns is not None and end_ns is not None and start_ns >= end_ns:
        fail(f"--start {start} is not before --end {end}", EXIT_USAGE)
    patterns = [part for option in stations or [] for part in option.split(",") if part]
    if publish and settings.mqtt.host is None:
        fail("--publish: no broker is set; accepted: [mqtt] host in the settings", EXIT_USAGE)
    loaded = model_of(settings)
    try:
        threshold_for(settings.detector, loaded.metadata)
    except ThresholdError as error:
        fail(str(error), EXIT_USAGE)
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
            fail(
                "no data to look at" + (": nothing matches --stations, --start and --end" if chosen else ""),
                EXIT_FAILED,
            )
        with _published(settings, loaded) if publish else contextlib.nullcontext(lambda _: None) as tell:
            interrupted = _run(run, output, output_format, all_states, figures, tell)
        if figures is not None:
            figures.finish(run)
    if interrupted:
        print("monitor: interrupted; what was found so far is above", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED)
    if problems:
        raise typer.Exit(EXIT_FAILED)


@contextlib.contextmanager
def _published(settings: Settings, model: Model) -> Iterator[Callable[[Detection], None]]:
    """Give what sends a detection to the broker."""
    # Only who publishes needs MQTT.
    from monitor.replay_publish import PublishError, ReplayPublisher  # noqa: PLC0415

    try:
        with ReplayPublisher(settings.mqtt, model.ref) as publisher:
            yield publisher.put
    except PublishError as error:
        fail(f"--publish: {error}", EXIT_FAILED)


def _run(
    run: Replay,
    output: Path | None,
    output_format: Format,
    all_states: bool,
    figures: "_Figures | None",
    tell: Callable[[Detection], None],
) -> bool:
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
                        tell(detection)
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
        fail(str(error), EXIT_FAILED)


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
            fail(str(error), EXIT_USAGE)
        except OSError as error:
            fail(f"--plot {directory}: cannot be made: {error.strerror}", EXIT_FAILED)

    def draw(self, view: DetectionView) -> None:
        """Draw one detection."""
        self._plot.plot_detection(view, self._plot.plot_path(self._directory, view.detection))

    def finish(self, run: Replay) -> None:
        """Draw the overview."""
        traces = [envelope.trace() for envelope in run.envelopes.values()]
        if traces:
            self._plot.plot_overview(traces, self.detections, self._directory / "overview.png")


def _with_threshold(settings: Settings, threshold: float | None, false_alarms_per_day: float | None) -> Settings:
    """Let the command line win over the file, which may have said it the other way."""
    if threshold is None and false_alarms_per_day is None:
        return settings
    if threshold is not None and false_alarms_per_day is not None:
        fail("--threshold and --false-alarms-per-day are both given; accepted: one of them", EXIT_USAGE)
    if threshold is not None and not 0 < threshold < 1:
        fail(f"--threshold is {threshold}; accepted: between 0 and 1", EXIT_USAGE)
    try:
        detector = msgspec.structs.replace(
            settings.detector, threshold=threshold, false_alarms_per_day=false_alarms_per_day
        )
    except ValueError as error:
        fail(str(error), EXIT_USAGE)
    return msgspec.structs.replace(settings, detector=detector)


def _time_option(text: str | None, name: str) -> int | None:
    if text is None:
        return None
    try:
        return parse_time(text)
    except ValueError as error:
        fail(f"{name}: {error}", EXIT_USAGE)
