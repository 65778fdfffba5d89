"""The panels that pictures share: waveforms, spectrogram, colours, marks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from monitor.drawing.canvas import F64, LEFT, RIGHT, U8, Box, Lines, Mark, Sheet, smooth
from monitor.drawing.colours import BLUE, GREEN, GREY, INK, MASKED, VERMILLION, even_map
from monitor.output import printable
from monitor.records import Detection
from monitor.timebase import NS_PER_SECOND, parse_time

_PHASES = {"P": VERMILLION, "S": BLUE, "unknown": GREEN}
# Decibel above background that colours span at least; the lowest is a little below it.
LOW_DB, _LEAST_HIGH_DB, _MOST_HIGH_DB = -5.0, 20.0, 50.0


def upright_image(values: npt.NDArray[np.floating[Any]], box: Box) -> F64:
    """Resample times by frequencies to the pixels of a box, the highest frequency on top."""
    return smooth(values.T[::-1].astype(np.float64), box.right - box.left, box.bottom - box.top)


def usable_bins(spectrogram: npt.NDArray[np.floating[Any]]) -> slice:
    """The bins up to the highest one that has a value anywhere; all where none has."""
    used = np.flatnonzero(np.isfinite(spectrogram).any(axis=0))
    return slice(0, max(int(used[-1]) + 1, 2) if len(used) else spectrogram.shape[1])


def draw_waveforms(
    sheet: Sheet,
    boxes: Sequence[Box],
    traces: Sequence[tuple[str, F64]],
    marks: Sequence[Mark],
    *,
    starttime_ns: int,
    rate: float,
) -> None:
    """Draw waveforms [shape=(n,)] with NaN where there are none, each on its own scale, named and with its peak."""
    sheet.names(marks, boxes[0].top - 5)
    for box, (seed_id, samples) in zip(boxes, traces, strict=True):
        times_ns = starttime_ns + np.rint(np.arange(len(samples)) * (NS_PER_SECOND / rate)).astype(np.int64)
        real = np.isfinite(samples)
        centred = samples - (np.median(samples[real]) if real.any() else 0.0)
        peak = float(np.nanmax(np.abs(centred))) if real.any() else 0.0
        panel = Lines(sheet, box, -1.06, 1.06)
        for start, stop in runs_of(~real):
            end_ns = int(times_ns[stop]) if stop < len(times_ns) else sheet.span.end_ns
            panel.shade(int(times_ns[start]), end_ns, MASKED)
        panel.upright(marks)
        panel.curve(times_ns, centred / peak if peak else centred, INK, width=1.1)
        panel.close()
        channel = printable(seed_id).split(".")[-1]
        sheet.text(LEFT - 10, (box.top + box.bottom) / 2 + 1, channel, size=15, anchor="rs")
        sheet.text(LEFT - 10, (box.top + box.bottom) / 2 + 17, f"±{_amount(peak)}", size=12, colour=GREY, anchor="rs")


def draw_spectrogram(sheet: Sheet, box: Box, pixels: U8, frequencies_hz: F64, title: str) -> None:
    """Put a coloured spectrogram [shape=(h, w, 3)], highest frequency on top, into a panel with its axis."""
    sheet.paste(pixels, box)
    sheet.rule(box.left, box.bottom, box.right, box.bottom, colour=GREY)
    half = (frequencies_hz[1] - frequencies_hz[0]) / 2
    low, high = frequencies_hz[0] - half, frequencies_hz[-1] + half
    for hertz in range(0, int(high) + 1, 10):
        if hertz >= low:
            y = box.bottom - (hertz - low) / (high - low) * (box.bottom - box.top)
            sheet.rule(LEFT - 5, round(y), LEFT - 1, round(y), colour=GREY)
            sheet.text(LEFT - 9, y + 4, str(hertz), size=12, colour=GREY, anchor="rs")
    sheet.text(LEFT - 9, box.top - 6, "Hz", size=12, colour=GREY, anchor="rs")
    sheet.text(LEFT, box.top - 6, title, size=13, colour=GREY)


def draw_colour_bar(sheet: Sheet, box: Box, high_db: float) -> None:
    """Say beside a spectrogram which colour is how many decibel."""
    bar = Box(RIGHT + 12, box.top, RIGHT + 24, box.bottom)
    sheet.paste(np.repeat(even_map()[::-1, None], 12, axis=1), bar)
    for decibel in range(0, int(high_db) + 1, 10):
        y = box.bottom - (decibel - LOW_DB) / (high_db - LOW_DB) * (box.bottom - box.top)
        sheet.text(RIGHT + 30, y + 4, str(decibel), size=12, colour=GREY)
    sheet.text(RIGHT + 12, box.top - 6, "dB", size=12, colour=GREY)


def highest_db(spectrogram: npt.NDArray[np.floating[Any]]) -> float:
    """Choose where the colours end, a multiple of 5 dB: some pixels may be above it."""
    real = spectrogram[np.isfinite(spectrogram)]
    top = float(np.quantile(real, 0.995)) if len(real) else 0.0
    return float(min(max(5 * np.ceil(top / 5), _LEAST_HIGH_DB), _MOST_HIGH_DB))


def detection_marks(detection: Detection) -> list[Mark]:
    """The onset and the S, where it is another."""
    names = {"P": "P", "S": "S", "unknown": "onset"}
    marks = [Mark(parse_time(detection.onset), names[detection.phase], _PHASES[detection.phase])]
    if detection.s_onset is not None and detection.phase != "S":
        marks.append(Mark(parse_time(detection.s_onset), "S", BLUE))
    return marks


def _amount(value: float) -> str:
    """A number as short as a margin needs it."""
    if value == 0 or 0.01 <= value < 1e6:
        return f"{value:,.0f}".replace(",", " ") if value >= 100 else f"{value:.3g}"
    return f"{value:.1e}"


def runs_of(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """From and up to where, excluded, flags [shape=(n,)] are set."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]
