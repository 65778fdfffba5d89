"""An explanation for a terminal: the spectrogram and what moved the score in coloured blocks, and the words."""

import os
import textwrap
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import numpy.typing as npt

from monitor.drawing.colours import BLUE, MASKED, Colour, even_map
from monitor.explain.words import clock
from monitor.output import printable, write_now
from monitor.timeaxis import utc_ticks
from monitor.timebase import NS_PER_SECOND, format_time, parse_time

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from monitor.explain.explanation import Explanation

F64 = npt.NDArray[np.float64]

_ROWS = 8
_MARGIN = 7
_MOST_COLUMNS = 110
_SHADES, _PLAIN_SHADES = " ░▒▓█", " .:*#"
_BARS, _PLAIN_BARS = " ▁▂▃▄▅▆▇█", " ._-=+*%#"
_HIGH_DB = 25.0
# Change of log-odds by a cell that is shown at full strength, at least: noise must not look like a signal.
_LEAST_SCALE = 2.0
_ORANGE: Colour = (226, 88, 0)


def write_text(explanation: "Explanation", stream: TextIO, *, width: int | None = None) -> None:
    """Write an explanation to read.

    Args:
        explanation: What.
        stream: Where to; colours only on a terminal, and unless `NO_COLOR` is set (https://no-color.org).
        width: Columns; those of the terminal, or 100, if None.

    Raises:
        OutputError: It could not be written.
    """
    from rich.console import Console  # noqa: PLC0415 - a tenth of a second that JSON and pictures need not wait for

    colour = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    columns = width or (None if stream.isatty() else 100)
    console = Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True, width=columns)
    if not colour:
        console = Console(
            file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True, color_system=None, width=columns
        )
    with console.capture() as captured:
        _Page(explanation, console, colour=colour, plain=not _carries(stream, _SHADES + _BARS)).write()
    write_now(stream, captured.get())


def _carries(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


class _Page:
    """What is written, as wide as the terminal."""

    def __init__(self, explanation: "Explanation", console: "Console", *, colour: bool, plain: bool) -> None:
        self._explanation, self._console, self._colour = explanation, console, colour
        self._shades, self._bars = (_PLAIN_SHADES, _PLAIN_BARS) if plain else (_SHADES, _BARS)
        self._halves = colour and not plain
        self._columns = max(20, min(console.width - _MARGIN - 1, _MOST_COLUMNS))
        span = explanation.shown
        self._edges = np.linspace(span.start_ns, span.end_ns, self._columns + 1)

    def write(self) -> None:
        """Write it all."""
        moment, verdict = self._explanation.moment, self._explanation.verdict
        ids = " ".join(printable(seed_id) for seed_id in moment.group.seed_ids)
        self._line("", f"{ids}  {format_time(moment.time_ns, digits=2)}", bold=True)
        self._line("", "")
        row = self._row()
        name = moment.model.metadata.components[row]
        self._line("", f"spectrogram of {name}, 0 to {_HIGH_DB:g} dB above background")
        self._marks()
        used = moment.filled_bins(row)
        self._image(self._decibel(row)[:, used], self._spectrum_colour, 1 / _HIGH_DB)
        if self._explanation.occlusion is not None:
            change = self._change()[:, used]
            scale = max(float(np.nanmax(np.abs(change), initial=0.0)), _LEAST_SCALE)
            said = "orange for an earthquake, blue against one" if self._halves else "what spoke for an earthquake"
            self._line("", f"what moved the score at {clock(moment.step_ns(verdict.step), 1)}: {said}")
            self._image(change, self._change_colour, 1 / scale)
        self._axis()
        self._curves()
        self._line("", "")
        for sentence in self._explanation.words:
            for line in textwrap.wrap(sentence, min(self._console.width - 1, 110)):
                self._console.print(line)

    def _line(self, label: str, text: "str | Text", *, bold: bool = False) -> None:
        from rich.text import Text  # noqa: PLC0415

        whole = Text(label.rjust(_MARGIN - 1) + " ", end="")
        whole.append(text if isinstance(text, Text) else Text(text, style="bold" if bold else ""))
        whole.rstrip()
        self._console.print(whole)

    def _row(self) -> int:
        occlusion = self._explanation.occlusion
        regions = () if occlusion is None else occlusion.regions
        first = next(iter(self._explanation.moment.components()))
        return next((region.row for region in regions if region.row is not None), first)

    def _per_column(self, first_ns: int, interval_ns: int, values: F64) -> F64:
        """Mean of values [shape=(n, m)] along time in each column [shape=(columns, m)]; NaN where there is none."""
        at = (np.arange(len(values)) * float(interval_ns) + (first_ns - self._edges[0])) // np.diff(self._edges)[0]
        result = np.full((self._columns, values.shape[1]), np.nan)
        for column in range(self._columns):
            seen = values[at == column]
            seen = seen[np.isfinite(seen).all(axis=1)]
            if len(seen):
                result[column] = seen.mean(axis=0)
        return result

    def _decibel(self, row: int) -> F64:
        moment = self._explanation.moment
        decibel = moment.model.dequantize(moment.frames[:, :, row]).astype(np.float64)
        decibel[~moment.judged[:, row]] = np.nan
        interval_ns = moment.frame_ns(1) - moment.frame_ns(0)
        return self._per_column(moment.frame_ns(moment.first_frame), interval_ns, decibel)

    def _change(self) -> F64:
        moment, occlusion = self._explanation.moment, self._explanation.occlusion
        assert occlusion is not None
        first_frame, frames = moment.input(self._explanation.verdict.step)
        cells = np.repeat(np.repeat(occlusion.change[-1], occlusion.cell_frames, 0), occlusion.cell_bins, 1)
        interval_ns = moment.frame_ns(1) - moment.frame_ns(0)
        whole = cells[: len(frames), : frames.shape[1]].astype(np.float64)
        return self._per_column(moment.frame_ns(first_frame), interval_ns, whole)

    def _image(self, values: F64, colour_of: Any, scale: float) -> None:
        """Blocks, highest frequency on top; two rows to a line where there are colours."""
        from rich.text import Text  # noqa: PLC0415

        params = self._explanation.moment.model.metadata.spectrogram
        rows = 2 * _ROWS if self._halves else _ROWS
        bands = [band for band in np.array_split(np.arange(values.shape[1]), rows) if len(band)]
        seen = np.stack([values[:, band].mean(axis=1) for band in bands], axis=1) * scale
        per_line = 2 if self._halves else 1
        for top in range(len(bands) - 1, -1, -per_line):
            line = Text()
            for column in range(self._columns):
                upper = seen[column, top]
                if self._halves:
                    line.append("▀", style=f"{colour_of(upper)} on {colour_of(seen[column, max(top - 1, 0)])}")
                else:
                    level = 0 if np.isnan(upper) else int(np.clip(np.rint(upper * 4), 0, 4))
                    line.append(" " if np.isnan(upper) else self._shades[level])
            hertz = params.frequencies_hz[bands[max(top - per_line + 1, 0)][0]]
            self._line(f"{hertz:.0f} Hz", line)

    @staticmethod
    def _spectrum_colour(share: float) -> str:
        if np.isnan(share):
            return _rgb(MASKED)
        red, green, blue = even_map()[int(np.clip(255 * share, 0, 255))].tolist()
        return _rgb((red, green, blue))

    @staticmethod
    def _change_colour(share: float) -> str:
        if np.isnan(share):
            return _rgb(MASKED)
        strength = float(np.clip(abs(share), 0, 1)) ** 0.7
        tone = _ORANGE if share > 0 else BLUE
        red, green, blue = (round(255 + strength * (part - 255)) for part in tone)
        return _rgb((red, green, blue))

    def _column(self, time_ns: int) -> int | None:
        at = int((time_ns - self._edges[0]) // np.diff(self._edges)[0])
        return at if 0 <= at < self._columns else None

    def _marks(self) -> None:
        cells = [" "] * self._columns
        moment, found = self._explanation.moment, self._explanation.verdict.detection
        marks = [(moment.time_ns, "v")]
        if found is not None:
            marks.append((parse_time(found.onset), "P" if found.phase == "P" else "S" if found.phase == "S" else "|"))
            if found.s_onset is not None:
                marks.append((parse_time(found.s_onset), "S"))
        for time_ns, text in marks:
            column = self._column(time_ns)
            if column is not None:
                cells[column] = text
        self._line("", "".join(cells))

    def _axis(self) -> None:
        cells = [" "] * self._columns
        ticks = utc_ticks(*self._explanation.shown, at_most=max(2, self._columns // 14))
        for time_ns, label in zip(ticks.times_ns, ticks.labels, strict=True):
            column = self._column(time_ns)
            text = "|" + label.split("\n", maxsplit=1)[0]
            if column is not None and column + len(text) <= self._columns:
                cells[column : column + len(text)] = text
        self._line("UTC", "".join(cells))

    def _curves(self) -> None:
        moment = self._explanation.moment
        first, outputs, real = moment.outputs(*self._explanation.shown)
        shown = np.where(real[:, None], outputs, np.nan)
        if not len(shown):
            return
        interval_ns = moment.step_ns(1) - moment.step_ns(0)
        at = (moment.step_ns(first) + np.arange(len(shown)) * float(interval_ns) - self._edges[0]) // np.diff(
            self._edges
        )[0]
        for index, label in enumerate(("quake", "P", "S")):
            cells = []
            for column in range(self._columns):
                # Where a column is narrower than an output, the one before goes on.
                seen = shown[at == column, index]
                if not len(seen):
                    before = shown[at <= column, index]
                    seen = before[-1:] if len(before) and column <= at[-1] + interval_ns / NS_PER_SECOND else seen
                seen = seen[np.isfinite(seen)]
                level = int(np.rint(seen.max() * (len(self._bars) - 1))) if len(seen) else 0
                cells.append(self._bars[max(level, 1)] if len(seen) else " ")
            self._line(label, "".join(cells))


def _rgb(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
