"""Pictures of events as PNG."""

from pathlib import Path

from monitor.drawing.canvas import LEFT, RIGHT, WIDTH, Box, PictureError, Sheet
from monitor.drawing.colours import GREY, mapped
from monitor.drawing.panels import (
    LOW_DB,
    detection_marks,
    draw_colour_bar,
    draw_spectrogram,
    draw_waveforms,
    highest_db,
    upright_image,
    usable_bins,
)
from monitor.drawing.traces import Traces, TracesError, read_traces
from monitor.explain.moment import Span
from monitor.output import printable
from monitor.records import Detection
from monitor.timebase import NS_PER_SECOND, format_time, parse_time, seconds_to_ns

__all__ = ["PictureError", "draw_event", "event_png", "write_picture"]

_SHOWN_BEFORE_S, _SHOWN_AFTER_S, _SHOWN_AT_MOST_S = 10.0, 12.0, 75.0
_HEIGHT = 800


def draw_event(detection: Detection, records: bytes, path: Path) -> None:
    """Draw a detection: waveforms of up to three components, the spectrogram of the first, P and S.

    Args:
        detection: Which.
        records: miniSEED of its channels around it.
        path: PNG to write, 1200 x 800 pixels.

    Raises:
        PictureError: Pillow is missing, the records hold nothing of the detection, or the file cannot be written.
    """
    write_picture(event_png(detection, records), path)


def write_picture(content: bytes, path: Path) -> None:
    """Write a picture.

    Raises:
        PictureError: The file cannot be written.
    """
    try:
        path.write_bytes(content)
    except OSError as error:
        raise PictureError(f"{path}: cannot be written: {error.strerror or error}") from error


def event_png(detection: Detection, records: bytes) -> bytes:
    """Give the PNG that `draw_event` writes.

    Raises:
        PictureError: Pillow is missing, or the records hold nothing of the detection.
    """
    onset_ns = parse_time(detection.onset)
    last_ns = parse_time(detection.end or detection.s_onset or detection.onset)
    start_ns = onset_ns - seconds_to_ns(_SHOWN_BEFORE_S)
    end_ns = min(last_ns + seconds_to_ns(_SHOWN_AFTER_S), start_ns + seconds_to_ns(_SHOWN_AT_MOST_S))
    try:
        traces = read_traces(records, detection.seed_ids, Span(start_ns, end_ns))
    except TracesError as error:
        raise PictureError(f"detection {printable(detection.id)}: {error}") from error
    return _event_sheet(detection, traces).png()


def _event_sheet(detection: Detection, traces: Traces) -> Sheet:
    sheet = Sheet(_HEIGHT, traces.span)
    top, bottom = 112, 500
    each = (bottom - top) // len(traces.waveforms)
    boxes = [Box(LEFT, top + n * each, RIGHT, top + (n + 1) * each - 8) for n in range(len(traces.waveforms))]
    spectrum = Box(LEFT, bottom + 26, RIGHT, 736)
    _event_header(sheet, detection)
    marks = detection_marks(detection)
    draw_waveforms(
        sheet,
        boxes,
        list(traces.waveforms.items()),
        marks,
        starttime_ns=traces.span.start_ns,
        rate=traces.sampling_rate,
    )
    high_db = highest_db(traces.spectrogram)
    used = usable_bins(traces.spectrogram)
    pixels = upright_image(traces.spectrogram[:, used], spectrum)
    first = printable(next(iter(traces.waveforms)))
    draw_spectrogram(
        sheet,
        spectrum,
        mapped(pixels, LOW_DB, high_db),
        traces.frequencies_hz[used],
        f"{first}, decibel above background",
    )
    draw_colour_bar(sheet, spectrum, high_db)
    sheet.upright(marks, spectrum)
    sheet.time_axis(spectrum.bottom, [*boxes, spectrum])
    return sheet


def _event_header(sheet: Sheet, detection: Detection) -> None:
    onset = format_time(parse_time(detection.onset), digits=2).replace("T", " ").rstrip("Z")
    sheet.text(24, 42, printable(detection.station), size=28)
    sheet.text(WIDTH - 24, 42, f"{onset} UTC", size=24, anchor="rs")
    facts = [f"{printable(detection.class_)}, probability {detection.probability:.3f}"]
    if detection.s_onset is not None and detection.phase == "P":
        after_s = (parse_time(detection.s_onset) - parse_time(detection.onset)) / NS_PER_SECOND
        facts.append(f"S {after_s:.2f} s after P")
    if detection.snr_db is not None:
        facts.append(f"{detection.snr_db:.0f} dB above noise")
    facts.append(f"{detection.dominant_hz:.0f} Hz")
    if detection.data_complete < 0.99:
        facts.append(f"{100 * detection.data_complete:.0f} % of the data")
    sheet.text(24, 70, "  ·  ".join(facts), size=16, colour=GREY)
    model = f"{printable(detection.model.name)} {printable(detection.model.version)}"
    sheet.text(WIDTH - 24, 70, model[:40], size=14, colour=GREY, anchor="rs")
