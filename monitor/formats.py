"""Writers for `monitor replay --format`: a table to read, JSON lines, CSV and QuakeML to process.

Each detection is written and flushed by itself, while the recording is still being read.
"""

import csv
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO, get_args

import msgspec

from monitor.output import OutputClosedError, OutputError, open_output, printable, write_now
from monitor.quakeml import QuakeMLWriter
from monitor.records import Detection
from monitor.schema import detection_schema
from monitor.timebase import NS_PER_SECOND, format_time, parse_time
from monitor.usgs import to_usgs_pick

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "FORMATS",
    "DetectionWriter",
    "Format",
    "OutputClosedError",
    "OutputError",
    "detection_schema",
    "open_output",
    "open_writer",
    "to_usgs_pick",
]

Format = Literal["table", "jsonl", "csv", "quakeml"]
FORMATS: tuple[str, ...] = get_args(Format)


class DetectionWriter(Protocol):
    """Takes detections one by one; nothing is held back."""

    def write(self, detection: Detection) -> None:
        """Write one detection and flush.

        Raises:
            OutputError: It could not be written.
        """

    def close(self) -> None:
        """Complete the output, without closing the stream; may be called more than once.

        Raises:
            OutputError: It could not be written.
        """


def open_writer(
    format: str,  # noqa: A002 - the name of the option
    stream: TextIO,
    *,
    color: bool | None = None,
    all_states: bool = False,
) -> DetectionWriter:
    """Start writing detections in a format; headers are written at once.

    Args:
        format: `table`, `jsonl`, `csv` or `quakeml`.
        stream: Where to; left open.
        color: Colour the table; by default on a terminal unless `NO_COLOR` is set (https://no-color.org).
        all_states: Not only final revisions come: the table says which.

    Returns:
        A writer; close it also when interrupted, or QuakeML stays incomplete.

    Raises:
        ValueError: The format is none of those.
        OutputError: The header could not be written.
    """
    match format:
        case "table":
            if color is None:
                color = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
            return TableWriter(stream, color=color, all_states=all_states)
        case "jsonl":
            return JsonLinesWriter(stream)
        case "csv":
            return CsvWriter(stream)
        case "quakeml":
            return QuakeMLWriter(stream)
    raise ValueError(f"format is {format!r}; accepted: {', '.join(FORMATS)}")


class JsonLinesWriter:
    """Writes the contract `monitor.detection/1`, one JSON object a line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, detection: Detection) -> None:
        """Write one detection as a line of JSON.

        Raises:
            OutputError: It could not be written.
        """
        write_now(self._stream, msgspec.json.encode(detection).decode() + "\n")

    def close(self) -> None:
        """Do nothing: every line is complete."""


class CsvWriter:
    """Writes RFC 4180 with one header line.

    The columns are the fields of the JSON contract in their order, `model` and `reason` flattened (`model_name`,
    `reason_threshold`, …). `seed_ids` is separated by spaces, `reason_checks` is a JSON object since its keys vary,
    null is empty.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._row(CSV_COLUMNS)

    def write(self, detection: Detection) -> None:
        """Write one detection as a row.

        Raises:
            OutputError: It could not be written.
        """
        self._row(tuple(_flat(detection).values()))

    def close(self) -> None:
        """Do nothing: every row is complete."""

    def _row(self, values: tuple[Any, ...]) -> None:
        row = io.StringIO()
        csv.writer(row).writerow(values)
        write_now(self._stream, row.getvalue())


def _flat(detection: Detection) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in msgspec.to_builtins(detection).items():
        if name in ("model", "reason"):
            flat |= {f"{name}_{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    flat["seed_ids"] = " ".join(detection.seed_ids)
    flat["reason_checks"] = msgspec.json.encode(detection.reason.checks).decode()
    return flat


def _csv_columns() -> tuple[str, ...]:
    columns: list[str] = []
    for field in msgspec.structs.fields(Detection):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            columns += [f"{field.encode_name}_{inner.encode_name}" for inner in msgspec.structs.fields(field.type)]
        else:
            columns.append(field.encode_name)
    return tuple(columns)


CSV_COLUMNS = _csv_columns()


@dataclass(frozen=True, slots=True)
class _Column:
    """One column of the table; its width is fixed because rows are printed before the next one is known."""

    title: str
    width: int
    text: Callable[[Detection], str]
    style: str = ""
    left: bool = False

    def cell(self, text: str) -> str:
        return text.ljust(self.width) if self.left else text.rjust(self.width)


class TableWriter:
    """Writes aligned rows to read; a code that is wider than its column shifts its own row only."""

    def __init__(self, stream: TextIO, *, color: bool, all_states: bool) -> None:
        self._stream = stream
        self._columns = (*_COLUMNS, _STATE) if all_states else _COLUMNS
        self._console = _console(stream) if color else None
        self._row([column.title for column in self._columns], ["bold"] * len(self._columns))

    def write(self, detection: Detection) -> None:
        """Write one detection as a row.

        Raises:
            OutputError: It could not be written.
            ValueError: A time of the detection is not ISO 8601.
        """
        styles = ["dim" if detection.state == "retracted" else column.style for column in self._columns]
        self._row([column.text(detection) for column in self._columns], styles)

    def close(self) -> None:
        """Do nothing: every row is complete."""

    def _row(self, texts: list[str], styles: list[str]) -> None:
        cells = [column.cell(text) for column, text in zip(self._columns, texts, strict=True)]
        if self._console is None:
            write_now(self._stream, "  ".join(cells).rstrip() + "\n")
            return
        from rich.text import Text  # noqa: PLC0415 - only a coloured table pays for Rich

        # Text, not a string: a station called [red] must stay text.
        row = Text("  ").join(Text(cell, style=style) for cell, style in zip(cells, styles, strict=True))
        row.rstrip()
        with self._console.capture() as captured:
            self._console.print(row, soft_wrap=True)
        write_now(self._stream, captured.get())


def _console(stream: TextIO) -> "Console":
    from rich.console import Console  # noqa: PLC0415 - only a coloured table pays for Rich

    return Console(file=stream, force_terminal=True, highlight=False, markup=False, emoji=False)


def _onset(detection: Detection) -> str:
    return format_time(parse_time(detection.onset), digits=3).replace("T", " ").rstrip("Z")


def _channels(detection: Detection) -> str:
    # EHZ, EHN and EHE of one instrument read as EH[ZNE], the pattern that SeedLink and FDSN tools take.
    codes = [seed_id.split(".", 2)[-1].removeprefix(".") for seed_id in detection.seed_ids]
    stems = {code[:-1] for code in codes}
    if len(codes) > 1 and len(stems) == 1:
        return printable(f"{stems.pop()}[{''.join(code[-1:] for code in codes)}]")
    return printable(",".join(codes))


def _phases(detection: Detection) -> str:
    first = {"unknown": "?"}.get(detection.phase, detection.phase)
    return f"{first} S" if detection.s_onset is not None and detection.phase != "S" else first


def _seconds_after_onset(time: str | None, detection: Detection) -> str:
    if time is None:
        return "-"
    return f"{(parse_time(time) - parse_time(detection.onset)) / NS_PER_SECOND:.2f}"


def _peak(detection: Detection) -> str:
    # Counts in full, as every other program shows them; physical units are small numbers.
    peak = detection.peak_counts
    return f"{peak:.0f}" if 1000 <= abs(peak) < 1e9 else f"{peak:.4g}"


def _s_minus_p(detection: Detection) -> str:
    return _seconds_after_onset(detection.s_onset, detection) if detection.phase == "P" else "-"


_COLUMNS = (
    _Column("onset (UTC)", 23, _onset, "cyan", left=True),
    _Column("station", 8, lambda detection: printable(detection.station), "bold", left=True),
    _Column("channels", 10, _channels, left=True),
    _Column("phase", 5, _phases, left=True),
    _Column("S-P s", 6, _s_minus_p),
    _Column("dur. s", 6, lambda detection: _seconds_after_onset(detection.end, detection)),
    _Column("prob.", 5, lambda detection: f"{detection.probability:.2f}", "green"),
    _Column("SNR dB", 6, lambda detection: "-" if detection.snr_db is None else f"{detection.snr_db:.1f}"),
    _Column("Hz", 5, lambda detection: f"{detection.dominant_hz:.1f}"),
    _Column("peak", 9, _peak),
)
_STATE = _Column("state", 9, lambda detection: f"{detection.state} r{detection.revision}", "yellow", left=True)
