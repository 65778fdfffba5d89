"""`monitor explain`: why a moment of a recording was a detection, or was not."""

import enum
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from monitor.commands.common import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    ConfigOption,
    ModelOption,
    fail,
    model_of,
    settings_of,
)
from monitor.drawing.event import PictureError
from monitor.explain.explanation import Explanation, explain_moment, instruments
from monitor.explain.moment import MomentError
from monitor.explain.text import write_text
from monitor.model import Model
from monitor.output import OutputClosedError, OutputError, open_output, printable, write_now
from monitor.settings import Settings
from monitor.sources.files import FileSource, Problem
from monitor.stations import StationGroup, station_filter
from monitor.thresholds import ThresholdError, threshold_for
from monitor.timebase import parse_time


class Format(enum.StrEnum):
    """What an explanation is written as."""

    TEXT = "text"
    JSON = "json"
    PNG = "png"


_BY_SUFFIX = {".png": Format.PNG, ".json": Format.JSON}


def explain(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help="Recordings (miniSEED 2 or 3), directories, or - for standard input."),
    ],
    time: Annotated[str, typer.Option(metavar="TIME", help="Which moment; ISO 8601, UTC.")],
    stations: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Only these, such as UH1, 'BW.UH*' or 'BW.UH3..SH?'; may be repeated."),
    ] = None,
    output_format: Annotated[
        Format | None, typer.Option("--format", help="What to write; by the name of --output, else text.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write there instead of standard output; .png is a picture.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(metavar="P", help="Event probability that starts a detection, between 0 and 1.")
    ] = None,
    config: ConfigOption = None,
    model: ModelOption = None,
) -> None:
    """Say why a moment of a recording was a detection, or was not.

    Shows what the model saw, what it said, which part of the spectrogram moved it, and what STA/LTA says. The recording
    is judged from its beginning on, so that the numbers are those of `monitor replay`. Exit codes: 0 explained,
    1 something could not be read or nothing was recorded then, 2 wrong usage, 3 model refused.
    """
    written = _format(output_format, json=json, output=output)
    try:
        time_ns = parse_time(time)
    except ValueError as error:
        fail(f"--time: {error}", EXIT_USAGE)
    settings = _with_threshold(settings_of(config, model), threshold)
    loaded = model_of(settings)
    try:
        threshold_for(settings.detector, loaded.metadata)
    except ThresholdError as error:
        fail(str(error), EXIT_USAGE)
    problems: list[Problem] = []

    def on_problem(problem: Problem) -> None:
        problems.append(problem)
        print(f"monitor: {problem}", file=sys.stderr, flush=True)

    patterns = [part for option in stations or [] for part in option.split(",") if part]
    source = FileSource(files, select=station_filter(patterns), on_problem=on_problem)
    try:
        explanation = _explained(source, loaded, settings, time_ns, chosen=bool(patterns), problems=problems)
        _write(explanation, written, output)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if problems:
        raise typer.Exit(EXIT_FAILED)


def _format(asked: Format | None, *, json: bool, output: Path | None) -> Format:
    if json and asked not in (None, Format.JSON):
        fail(f"--json and --format {asked} are both given; accepted: one of them", EXIT_USAGE)
    if json:
        asked = Format.JSON
    if asked is None:
        asked = Format.TEXT if output is None else _BY_SUFFIX.get(output.suffix.lower(), Format.TEXT)
    if asked is Format.PNG and output is None:
        fail("--format png: a picture needs a file; accepted: --output FILE.png", EXIT_USAGE)
    return asked


def _with_threshold(settings: Settings, threshold: float | None) -> Settings:
    if threshold is None:
        return settings
    if not 0 < threshold < 1:
        fail(f"--threshold is {threshold}; accepted: between 0 and 1", EXIT_USAGE)
    try:
        detector = msgspec.structs.replace(settings.detector, threshold=threshold, false_alarms_per_day=None)
    except ValueError as error:
        fail(str(error), EXIT_USAGE)
    return msgspec.structs.replace(settings, detector=detector)


def _explained(
    source: FileSource, model: Model, settings: Settings, time_ns: int, *, chosen: bool, problems: list[Problem]
) -> Explanation:
    groups = instruments(source)
    if not groups:
        what = "no data to look at"
        if chosen and not problems:
            what += ": nothing matches --stations"
        fail(what, EXIT_FAILED)
    if len(groups) > 1:
        names = "".join(f"\n  {_pattern(group)}" for group in groups)
        fail(f"{len(groups)} instruments in there; accepted: one, by --stations, of{names}", EXIT_USAGE)
    try:
        return explain_moment(source, groups[0], model, settings.detector, time_ns=time_ns)
    except MomentError as error:
        fail(printable(str(error)), EXIT_FAILED)


def _pattern(group: StationGroup) -> str:
    """What chooses an instrument."""
    ids = group.seed_ids
    return printable(ids[0] if len(ids) == 1 else f"{group.name}?")


def _write(explanation: Explanation, written: Format, output: Path | None) -> None:
    try:
        if written is Format.PNG and output is not None:
            explanation.draw(output)
            return
        with open_output(output) as stream:
            if written is Format.JSON:
                write_now(stream, explanation.json().decode() + "\n")
            else:
                write_text(explanation, stream)
    except OutputClosedError:
        raise typer.Exit(0) from None
    except (OutputError, PictureError) as error:
        fail(str(error), EXIT_FAILED)
