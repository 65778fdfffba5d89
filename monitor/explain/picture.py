"""The picture of an explanation: what was recorded, what the model saw of it, what moved it, what it said, in words."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from monitor.drawing.canvas import LEFT, RIGHT, WIDTH, Box, Lines, Mark, Sheet, smooth
from monitor.drawing.colours import BLUE, GREEN, GREY, INK, MASKED, VERMILLION, blended, faded, mapped, tinted
from monitor.drawing.event import write_picture
from monitor.drawing.panels import (
    LOW_DB,
    detection_marks,
    draw_colour_bar,
    draw_spectrogram,
    draw_waveforms,
    highest_db,
    runs_of,
    upright_image,
)
from monitor.explain import stalta
from monitor.explain.moment import F32, F64, Moment
from monitor.explain.occlusion import Occlusion
from monitor.explain.verdict import sta_lta_ratio
from monitor.output import printable
from monitor.timebase import NS_PER_SECOND, format_time

if TYPE_CHECKING:
    from monitor.explain.explanation import Explanation

_TOP = 112
_WAVE_HEIGHT, _ALONE_HEIGHT = 74, 130
_SPECTRUM_HEIGHT, _PROBABILITY_HEIGHT, _RATIO_HEIGHT = 132, 104, 58
_TITLE = 26
_WORDS = 15
_LINE = 22
# Change of log-odds by a cell that is shown at full strength, at least: noise must not look like a signal.
_LEAST_SCALE = 2.0
# An asked-for time nearer than this to an onset is that onset.
_APART_NS = 2 * NS_PER_SECOND
_ORANGE = (226, 88, 0)
_TITLES = {
    "detection": "Detection",
    "too_short": "No detection: above the threshold for too short a time",
    "below_threshold": "No detection: below the threshold",
    "gap": "No detection: no data",
    "masked": "No detection: not the ground",
    "warming_up": "No detection: the background is not known yet",
}


def draw_explanation(explanation: "Explanation", path: Path) -> None:
    """Draw an explanation.

    Raises:
        PictureError: Pillow is missing, or the file cannot be written.
    """
    write_picture(explanation_png(explanation), path)


def explanation_png(explanation: "Explanation") -> bytes:
    """Give the PNG that `draw_explanation` writes, 1200 pixels wide.

    Raises:
        PictureError: Pillow is missing.
    """
    moment, verdict = explanation.moment, explanation.verdict
    rows = [row for row in moment.components() if np.isfinite(_shown(explanation, row)).any()] or [
        next(iter(moment.components()))
    ]
    wave = _ALONE_HEIGHT if len(rows) == 1 else _WAVE_HEIGHT
    boxes, y = [], _TOP
    for _ in rows:
        boxes.append(Box(LEFT, y, RIGHT, y + wave - 6))
        y += wave
    others = []
    for height in (_SPECTRUM_HEIGHT, _SPECTRUM_HEIGHT, _PROBABILITY_HEIGHT, _RATIO_HEIGHT):
        y += _TITLE
        others.append(Box(LEFT, y, RIGHT, y + height))
        y += height
    spectrum, moved, probability, ratio = others
    lines = [line for words in explanation.words for line in [*_wrapped(words), ""]]
    sheet = Sheet(y + 62 + sum(_LINE if line else _LINE // 3 for line in lines) + 14, explanation.shown)
    marks = [] if verdict.detection is None else detection_marks(verdict.detection)
    if all(abs(mark.time_ns - moment.time_ns) > _APART_NS for mark in marks):
        marks.append(Mark(moment.time_ns, "asked", GREEN))
    _header(sheet, explanation)
    draw_waveforms(
        sheet,
        boxes,
        [(moment.components()[row], _shown(explanation, row)) for row in rows],
        marks,
        starttime_ns=explanation.shown.start_ns,
        rate=moment.rate,
    )
    telling = _most_telling(explanation, rows)
    _spectrogram(sheet, spectrum, explanation, telling, marks)
    _moved(sheet, moved, explanation, telling, marks)
    _probabilities(sheet, probability, explanation, marks)
    _ratio(sheet, ratio, explanation, marks)
    sheet.time_axis(ratio.bottom, [*boxes, *others])
    y += 66
    for line in lines:
        if line:
            sheet.text(24, y, line, size=_WORDS)
        y += _LINE if line else _LINE // 3
    return sheet.png()


def _wrapped(words: str) -> list[str]:
    return list(Sheet.wrapped(words, _WORDS, WIDTH - 48))


def _header(sheet: Sheet, explanation: "Explanation") -> None:
    moment, verdict = explanation.moment, explanation.verdict
    found = verdict.detection
    shown = format_time(moment.time_ns, digits=2).replace("T", " ").rstrip("Z")
    sheet.text(24, 42, printable(moment.group.station_id), size=28)
    sheet.text(WIDTH - 24, 42, f"{shown} UTC", size=24, anchor="rs")
    title = _TITLES[verdict.kind]
    colour = VERMILLION if found is not None else GREY
    end = sheet.text(24, 70, title, size=17, colour=colour)
    if verdict.kind in ("detection", "too_short", "below_threshold"):
        sheet.text(end, 70, f"  ·  probability {verdict.peak[0]:.3f}", size=17, colour=GREY)
    ref = moment.model.ref
    model = f"{printable(ref.name)} {printable(ref.version)}"[:40]
    sheet.text(WIDTH - 24, 70, f"{model}  ·  threshold {moment.threshold:.3f}", size=14, colour=GREY, anchor="rs")


def _shown(explanation: "Explanation", row: int) -> F64:
    """The samples of a component that are shown; NaN where there are none."""
    moment, span = explanation.moment, explanation.shown
    start = span.start_ns * moment.rate // NS_PER_SECOND - moment.first_sample
    stop = span.end_ns * moment.rate // NS_PER_SECOND - moment.first_sample
    samples = np.full(stop - start, np.nan)
    a, b = max(start, 0), min(stop, moment.samples.shape[1])
    if a < b:
        samples[a - start : b - start] = moment.samples[row, a:b]
    return samples


def _most_telling(explanation: "Explanation", rows: list[int]) -> int:
    """The component whose regions moved the output most; the first where none did."""
    if explanation.occlusion is not None:
        for region in explanation.occlusion.regions:
            if region.row is not None:
                return region.row
    return rows[0]


def _frames(moment: Moment, row: int, span_ns: tuple[int, int]) -> tuple[int, int, F32]:
    """When the frames that cover a span begin and end, and they [shape=(n, n_freq)] in decibel, NaN where masked."""
    interval = moment.frame_ns(1) - moment.frame_ns(0)
    first = max(span_ns[0] // interval - moment.first_frame, 0)
    stop = min(-(-span_ns[1] // interval) + 1 - moment.first_frame, len(moment.frames))
    decibel = moment.model.dequantize(moment.frames[first:stop, :, row])
    decibel[~moment.judged[first:stop, row]] = np.nan
    start_ns = moment.frame_ns(moment.first_frame + first) - interval // 2
    return start_ns, start_ns + (stop - first) * interval, decibel


def _placed(sheet: Sheet, box: Box, start_ns: int, end_ns: int) -> tuple[int, int, slice]:
    """Pixels of the panel from and up to which a span lies, and which part of its own pixels that is."""
    x0, x1 = round(sheet.x(start_ns)) - box.left, round(sheet.x(end_ns)) - box.left
    a, b = max(x0, 0), min(x1, box.right - box.left)
    return a, b, slice(a - x0, b - x0)


def _image(sheet: Sheet, box: Box, start_ns: int, end_ns: int, values: F32) -> F64:
    """Values [shape=(n_times, n_freqs)] of a span as pixels of a box, NaN outside."""
    pixels = np.full((box.bottom - box.top, box.right - box.left), np.nan)
    x0, x1 = round(sheet.x(start_ns)), round(sheet.x(end_ns))
    a, b, part = _placed(sheet, box, start_ns, end_ns)
    if a < b:
        pixels[:, a:b] = upright_image(values, Box(x0, box.top, x1, box.bottom))[:, part]
    return pixels


def _band(explanation: "Explanation", row: int) -> tuple[slice, float]:
    """Bins that the recording fills, and where colours end."""
    _, _, decibel = _frames(explanation.moment, row, explanation.shown)
    return explanation.moment.filled_bins(row), highest_db(decibel)


def _spectrogram(sheet: Sheet, box: Box, explanation: "Explanation", row: int, marks: list[Mark]) -> None:
    moment = explanation.moment
    used, high_db = _band(explanation, row)
    start_ns, end_ns, decibel = _frames(moment, row, explanation.shown)
    pixels = mapped(_image(sheet, box, start_ns, end_ns, decibel[:, used]), LOW_DB, high_db)
    frequencies = moment.model.metadata.spectrogram.frequencies_hz[used]
    seed_id = printable(moment.components()[row])
    draw_spectrogram(sheet, box, pixels, frequencies, f"What the model saw of {seed_id}, decibel above background")
    draw_colour_bar(sheet, box, high_db)
    sheet.upright(marks, box)


def _moved(sheet: Sheet, box: Box, explanation: "Explanation", row: int, marks: list[Mark]) -> None:
    """The spectrogram in grey; over it in orange what spoke for an earthquake, in blue what spoke against one."""
    moment, occlusion = explanation.moment, explanation.occlusion
    used, high_db = _band(explanation, row)
    start_ns, end_ns, decibel = _frames(moment, row, explanation.shown)
    pixels = faded(_image(sheet, box, start_ns, end_ns, decibel[:, used]), LOW_DB, high_db)
    frequencies = moment.model.metadata.spectrogram.frequencies_hz[used]
    title = "What moved the score: nothing was judged here"
    if occlusion is not None:
        names = "all components" if len(moment.components()) > 1 else "this component"
        title = f"What moved the score at {format_time(moment.step_ns(explanation.verdict.step), digits=1)[11:-1]}"
        title += f", {names}: "
        first_frame, frames = moment.input(explanation.verdict.step)
        change = _cells(occlusion, len(frames), used)
        interval = moment.frame_ns(1) - moment.frame_ns(0)
        field_ns = moment.frame_ns(first_frame) - interval // 2
        field_end_ns = field_ns + len(frames) * interval
        overlay = np.nan_to_num(_image(sheet, box, field_ns, field_end_ns, change))
        scale = max(float(np.abs(change).max()), _LEAST_SCALE)
        pixels = blended(pixels, _ORANGE, 0.9 * (np.clip(overlay, 0, None) / scale) ** 0.7)
        pixels = blended(pixels, BLUE, 0.9 * (np.clip(-overlay, 0, None) / scale) ** 0.7)
        a, b, _ = _placed(sheet, box, field_ns, field_end_ns)
        outside = np.ones(pixels.shape[:2])
        outside[:, a:b] = 0.0
        pixels = blended(pixels, MASKED, 0.7 * outside)
    draw_spectrogram(sheet, box, pixels, frequencies, "")
    x = sheet.text(LEFT, box.top - 6, title, size=13, colour=GREY)
    if occlusion is not None:
        x = sheet.text(x, box.top - 6, "for an earthquake", size=13, colour=_ORANGE)
        x = sheet.text(x, box.top - 6, " and ", size=13, colour=GREY)
        x = sheet.text(x, box.top - 6, "against one", size=13, colour=BLUE)
        sheet.text(x, box.top - 6, "; it does not look at what is pale", size=13, colour=GREY)
        _effects(sheet, box, explanation, occlusion)
    sheet.upright(marks, box)


def _cells(occlusion: Occlusion, n_frames: int, used: slice) -> F32:
    """The map of all components at once, a value for each frame and bin that is shown."""
    change = np.repeat(np.repeat(occlusion.change[-1], occlusion.cell_frames, axis=0), occlusion.cell_bins, axis=1)
    width = max(used.stop, 2)
    return np.asarray(smooth(change[:n_frames, :width].astype(np.float64), width, n_frames), np.float32)


def _effects(sheet: Sheet, box: Box, explanation: "Explanation", occlusion: Occlusion) -> None:
    """Beside the panel: what the probability would be without each component."""
    names = explanation.moment.model.metadata.components
    if len(occlusion.without) < 2:
        return
    sheet.text(RIGHT + 8, box.top + 12, "without", size=12, colour=GREY)
    for number, (row, probability) in enumerate(occlusion.without.items()):
        sheet.text(RIGHT + 8, box.top + 32 + 18 * number, f"{names[row]} {probability:.2f}", size=13, colour=INK)


def _probabilities(sheet: Sheet, box: Box, explanation: "Explanation", marks: list[Mark]) -> None:
    moment, verdict = explanation.moment, explanation.verdict
    panel = Lines(sheet, box, -0.03, 1.05)
    if verdict.event is not None:
        start, end = verdict.event.onset_step, verdict.event.last_active_step
        panel.shade(moment.step_ns(start), moment.step_ns(end), tinted(VERMILLION, 0.09))
    panel.upright(marks, faint=True)
    if explanation.occlusion is not None:
        panel.upright([Mark(moment.step_ns(verdict.step), "", INK)], faint=True)
    first, outputs, real = moment.outputs(*explanation.shown)
    if len(outputs) > 1:
        # Where the recording had not begun yet, or is over.
        panel.shade(sheet.span.start_ns, moment.step_ns(first - 1), MASKED)
        panel.shade(moment.step_ns(first + len(outputs)), sheet.span.end_ns, MASKED)
        times = np.array([moment.step_ns(first + n) for n in range(len(outputs))], np.int64)
        shown = np.where(real[:, None], outputs, np.nan).astype(np.float64)
        for missing, stop in runs_of(~real):
            panel.shade(int(times[missing]), int(times[min(stop, len(times) - 1)]), MASKED)
        panel.level(moment.threshold, GREY, dash=5)
        for at, colour, width in ((2, BLUE, 1.4), (1, VERMILLION, 1.4), (0, INK, 2.2)):
            panel.curve(times, shown[:, at], colour, width=width)
    panel.close()
    for value in (0, 0.5, 1):
        y = box.bottom - (value + 0.03) / 1.08 * (box.bottom - box.top)
        sheet.text(LEFT - 9, y + 4, f"{value:g}", size=12, colour=GREY, anchor="rs")
    y = box.bottom - (moment.threshold + 0.03) / 1.08 * (box.bottom - box.top)
    sheet.text(RIGHT + 6, y + 4, f"{moment.threshold:.3f}", size=12, colour=GREY)
    x = sheet.text(LEFT, box.top - 6, "What it said: probability of ", size=13, colour=GREY)
    for text, colour in (("an earthquake", INK), (", ", GREY), ("P", VERMILLION), (" and ", GREY), ("S", BLUE)):
        x = sheet.text(x, box.top - 6, text, size=13, colour=colour)
    if explanation.occlusion is not None:
        what = "decided it" if verdict.event is not None else "is explained"
        sheet.text(x, box.top - 6, f"; the thin grey line is the output that {what}", size=13, colour=GREY)


def _ratio(sheet: Sheet, box: Box, explanation: "Explanation", marks: list[Mark]) -> None:
    moment, span = explanation.moment, explanation.shown
    row, ratio = sta_lta_ratio(moment)
    start = max(0, span.start_ns * moment.rate // NS_PER_SECOND - moment.first_sample)
    stop = min(len(ratio), span.end_ns * moment.rate // NS_PER_SECOND - moment.first_sample)
    shown = ratio[start:stop]
    with np.errstate(divide="ignore", invalid="ignore"):
        decades = np.log10(shown)
    top = max(1.5, np.ceil(2 * float(np.nanmax(decades, initial=1.0))) / 2)
    panel = Lines(sheet, box, -1.0, top)
    panel.upright(marks, faint=True)
    panel.level(float(np.log10(stalta.TRIGGER)), GREY, dash=5)
    if len(decades) > 1:
        times = np.array([moment.sample_ns(moment.first_sample + start), 0], np.int64)
        times = times[0] + np.arange(len(decades), dtype=np.int64) * (NS_PER_SECOND // moment.rate)
        panel.curve(times, np.maximum(decades, -1.5), GREEN, width=1.5)
    panel.close()
    for decade in range(0, int(top) + 1, 2 if top > 3 else 1):
        y = box.bottom - (decade + 1) / (top + 1) * (box.bottom - box.top)
        sheet.text(LEFT - 9, y + 4, f"{10**decade:,}".replace(",", " "), size=12, colour=GREY, anchor="rs")
    y = box.bottom - (np.log10(stalta.TRIGGER) + 1) / (top + 1) * (box.bottom - box.top)
    sheet.text(RIGHT + 6, y + 4, f"{stalta.TRIGGER:g}", size=12, colour=GREY)
    name = f"For comparison: STA/LTA {stalta.STA_S:g} s to {stalta.LTA_S:g} s of"
    name += f" {printable(moment.components()[row])}, {stalta.BAND_HZ[0]:g} to {stalta.BAND_HZ[1]:g} Hz"
    sheet.text(LEFT, box.top - 6, name, size=13, colour=GREY)
