"""Figures for people: one of a detection, one of a whole replay. The one importer of matplotlib (extra `[plot]`).

Colours are those of Okabe and Ito (2008, https://jfly.uni-koeln.de/color/), told apart with any colour vision; the
spectrogram uses viridis, whose lightness grows evenly.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from monitor.output import OutputError, printable
from monitor.records import Detection, Phase
from monitor.timeaxis import utc_ticks
from monitor.timebase import NS_PER_SECOND, format_time, parse_time
from monitor.views import DetectionView, FloatArray, OverviewTrace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

__all__ = [
    "DetectionView",
    "OverviewTrace",
    "PlotUnavailableError",
    "plot_detection",
    "plot_overview",
    "plot_path",
]

_DPI = 150
_SIZE_INCHES = (12.0, 8.7)
# An overview of very many stations becomes dense instead of larger than an image viewer opens.
_MAX_OVERVIEW_HEIGHT_INCHES = 40.0

_BLACK, _GREY, _LIGHT = "#000000", "#595959", "#e4e4e4"
_VERMILLION, _BLUE, _ORANGE = "#D55E00", "#0072B2", "#E69F00"
# Where panels and the texts above and below them begin, as a share of the width.
_LEFT = 0.092

_PHASE_COLORS = {"P": _VERMILLION, "S": _BLUE, "unknown": _ORANGE}

# Any: the type of the keys differs from version to version.
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    # A station code with dollar signs is a code, not a formula.
    "text.parse_math": False,
}


_NO_MATPLOTLIB = "figures need matplotlib, which is not installed: pip install 'seismic-monitor[plot]'"


class PlotUnavailableError(Exception):
    """matplotlib is not installed; the message says how to install it."""


def require_matplotlib() -> None:
    """Check, before an hour of replay, that figures can be drawn.

    Raises:
        PlotUnavailableError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise PlotUnavailableError(_NO_MATPLOTLIB)


def plot_path(directory: Path, detection: Detection) -> Path:
    """Name the figure of a detection.

    Args:
        directory: Where it goes.
        detection: Whose station code, onset and id make the name; each loses whatever a file name should not hold.

    Returns:
        For example `directory/BW.UH1_2010-05-27T162433_3f2a.png`; always directly in the directory.
    """
    onset = format_time(parse_time(detection.onset), digits=0).replace(":", "").rstrip("Z")
    parts = (detection.station, onset, detection.id)
    # Dots inside stay: NET.STA is how a station is called. 64 characters each keep within any file system's limit.
    safe = (re.sub(r"[^A-Za-z0-9.-]", "-", part)[:64].strip(".-") or "x" for part in parts)
    return directory / ("_".join(safe) + ".png")


def plot_detection(view: DetectionView, path: Path) -> None:
    """Draw waveforms, spectrogram and probabilities of a detection over a common time axis.

    Args:
        view: What to draw.
        path: PNG to write, about 1800 x 1300 pixels.

    Raises:
        PlotUnavailableError: matplotlib is not installed.
        OutputError: The file cannot be written.
    """
    with _figure(_SIZE_INCHES) as figure:
        n_waveforms = len(view.waveforms)
        grid = figure.add_gridspec(
            n_waveforms + 2,
            2,
            left=_LEFT,
            right=0.9,
            top=0.868,
            bottom=0.135,
            hspace=0.14,
            wspace=0.02,
            width_ratios=(1, 0.014),
            height_ratios=(*[3.0 / n_waveforms] * n_waveforms, 1.9, 1.5),
        )
        panels = [figure.add_subplot(grid[row, 0]) for row in range(n_waveforms + 2)]
        axis = _TimeAxis(view.starttime_ns, view.endtime_ns)
        for panel, (seed_id, samples) in zip(panels, view.waveforms.items(), strict=False):
            times_s = axis.seconds(view.starttime_ns) + np.arange(len(samples)) / view.sampling_rate
            _draw_waveform(panel, times_s, samples, seed_id)
        middle = panels[n_waveforms // 2]
        middle.set_ylabel("Amplitude (counts)")
        _draw_spectrogram(panels[-2], figure.add_subplot(grid[n_waveforms, 1]), view, axis)
        _draw_probability(panels[-1], view, axis)

        for panel in panels:
            axis.apply(panel, labels=panel is panels[-1])
            _mark_onsets(panel, view.detection, axis, over_image=panel is panels[-2])
        _label_onsets(panels[0], view.detection, axis)
        for panel in panels[:n_waveforms]:
            panel.yaxis.set_label_coords(-0.078, 0.5 if n_waveforms != 2 else 1.0)
        for panel in panels[n_waveforms:]:
            panel.yaxis.set_label_coords(-0.078, 0.5)
        _write_texts(figure, view.detection)
        _save(figure, path, title=f"Detection {printable(view.detection.id)}")


def plot_overview(traces: Sequence[OverviewTrace], detections: Sequence[Detection], path: Path) -> None:
    """Draw a whole replay: a row per trace, with the detections of its station marked.

    Args:
        traces: One per station, in the order of the rows.
        detections: Of these stations; of several revisions the last counts, retracted ones are left out. Those of a
            station without a trace are not drawn.
        path: PNG to write.

    Raises:
        PlotUnavailableError: matplotlib is not installed.
        OutputError: The file cannot be written.
        ValueError: There is no trace, or all are empty.
    """
    start_ns = min((trace.starttime_ns for trace in traces), default=0)
    end_ns = max((trace.end_ns for trace in traces), default=0)
    if end_ns <= start_ns:
        raise ValueError(f"nothing to draw: {len(traces)} traces, none with a sample")
    last = {detection.id: detection for detection in sorted(detections, key=lambda detection: detection.revision)}
    shown = [detection for detection in last.values() if detection.state != "retracted"]

    margins_inches = 1.6
    height = min(margins_inches + 1.15 * max(len(traces), 2), _MAX_OVERVIEW_HEIGHT_INCHES)
    with _figure((_SIZE_INCHES[0], height)) as figure:
        grid = figure.add_gridspec(
            len(traces), 1, left=0.115, right=0.90, top=1 - 0.85 / height, bottom=0.75 / height, hspace=0.18
        )
        axis = _TimeAxis(start_ns, end_ns)
        for row, trace in enumerate(traces):
            panel = figure.add_subplot(grid[row, 0])
            own = [detection for detection in shown if detection.station == trace.station]
            _draw_envelope(panel, trace, own, axis)
            axis.apply(panel, labels=row == len(traces) - 1)
        count = sum(detection.station in {trace.station for trace in traces} for detection in shown)
        stations = len({trace.station for trace in traces})
        figure.text(0.115, 1 - 0.28 / height, _count(count, "detection"), size=13, weight="bold", va="center")
        figure.text(
            0.115,
            1 - 0.53 / height,
            f"{_count(stations, 'station')}, {_minute(start_ns)} to {_minute(end_ns)} UTC",
            color=_GREY,
            va="center",
        )
        gaps = any(np.isnan(trace.minimum).any() for trace in traces)
        _explain_marks(figure, {detection.phase for detection in shown}, gaps=gaps, y=1 - 0.38 / height)
        _save(figure, path, title="Replay")


@dataclass(frozen=True, slots=True)
class _TimeAxis:
    """Maps times to seconds after the left end: exact where dates in days, as matplotlib counts, are not."""

    start_ns: int
    end_ns: int

    def seconds(self, time_ns: int) -> float:
        return (time_ns - self.start_ns) / NS_PER_SECOND

    @property
    def span_s(self) -> float:
        return (self.end_ns - self.start_ns) / NS_PER_SECOND

    def apply(self, panel: "Axes", *, labels: bool) -> None:
        ticks = utc_ticks(self.start_ns, self.end_ns)
        positions = [self.seconds(time_ns) for time_ns in ticks.times_ns]
        panel.set_xlim(0, self.span_s)
        panel.set_xticks(positions, ticks.labels if labels else [""] * len(positions))
        panel.tick_params(axis="x", length=3 if labels else 2)
        if labels:
            panel.set_xlabel(ticks.title)


def _draw_waveform(panel: "Axes", times_s: FloatArray, samples: FloatArray, seed_id: str) -> None:
    real = np.isfinite(samples)
    # Counts ride on an offset of the digitizer that says nothing.
    centred = samples - (np.median(samples[real]) if real.any() else 0.0)
    panel.plot(times_s, centred, color=_BLACK, linewidth=0.5)
    _shade_gaps(panel, times_s, real)
    reach = 1.08 * float(np.max(np.abs(centred[real]))) if real.any() else 0.0
    panel.set_ylim(-(reach or 1.0), reach or 1.0)
    _amplitude_ticks(panel)
    _name_panel(panel, printable(seed_id))


def _draw_spectrogram(panel: "Axes", bar: "Axes", view: DetectionView, axis: _TimeAxis) -> None:
    # A recording too short for a frame gets one that is masked, so that the figure keeps its shape.
    frames = view.spectrogram if len(view.spectrogram) else np.full((1, len(view.frequencies_hz)), np.nan)
    values = np.ma.masked_invalid(frames.T)
    loudest = float(np.percentile(values.compressed(), 99.8)) if values.count() else 0.0
    top_db = max(10.0, 5 * np.ceil(loudest / 5))
    first = axis.seconds(view.frame_starttime_ns) - view.frame_interval_s / 2
    times_s = first + view.frame_interval_s * np.arange(len(frames) + 1)
    inner = (view.frequencies_hz[1:] + view.frequencies_hz[:-1]) / 2
    edges_hz = np.concatenate(
        ([2 * view.frequencies_hz[0] - inner[0]], inner, [2 * view.frequencies_hz[-1] - inner[-1]])
    )
    panel.set_facecolor(_LIGHT)
    # Image pixels are resampled where frames outnumber them; the quads of pcolormesh would be drawn one by one.
    image = panel.pcolorfast(times_s, edges_hz, values, cmap="viridis", vmin=0, vmax=top_db)
    panel.set_ylim(float(edges_hz[0]), float(edges_hz[-1]))
    panel.set_ylabel("Frequency (Hz)")
    colorbar = panel.figure.colorbar(image, cax=bar, extend="both", extendfrac=0.04)
    colorbar.set_label("dB above background")
    colorbar.outline.set_linewidth(0.6)
    vertical = next((seed_id for seed_id in view.waveforms if seed_id.endswith("Z")), next(iter(view.waveforms)))
    _name_panel(panel, printable(vertical))


def _draw_probability(panel: "Axes", view: DetectionView, axis: _TimeAxis) -> None:
    styles = {
        "earthquake": (_BLACK, 1.4, "-"),
        "P": (_VERMILLION, 1.1, "-"),
        "S": (_BLUE, 1.1, (0, (4, 1.5))),
    }
    first = axis.seconds(view.probability_starttime_ns)
    for name, values in view.probability.items():
        color, width, dashes = styles.get(name, (_GREY, 1.0, ":"))
        times_s = first + view.probability_interval_s * np.arange(len(values))
        panel.plot(times_s, values, color=color, linewidth=width, linestyle=dashes, label=printable(name))
    panel.axhline(view.threshold, color=_GREY, linewidth=0.8, linestyle=":", label=f"threshold {view.threshold:g}")
    panel.set_ylim(0, 1.04)
    panel.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    panel.set_ylabel("Probability")
    # Beside the curves, in the column of the colour bar, nothing can be hidden.
    panel.legend(loc="center left", bbox_to_anchor=(1.005, 0.5), handlelength=1.4, borderaxespad=0, labelspacing=0.7)


def _draw_envelope(panel: "Axes", trace: OverviewTrace, detections: list[Detection], axis: _TimeAxis) -> None:
    real = np.isfinite(trace.minimum) & np.isfinite(trace.maximum)
    offset = float(np.median((trace.minimum[real] + trace.maximum[real]) / 2)) if real.any() else 0.0
    bins = np.arange(len(trace.minimum), dtype=np.float64) + 0.5
    times_s: FloatArray = axis.seconds(trace.starttime_ns) + bins * np.float64(trace.interval_s)
    low, high = trace.minimum - offset, trace.maximum - offset
    panel.fill_between(times_s, low, high, color=_BLACK, linewidth=0.4)
    _shade_gaps(panel, times_s, real)
    reach = float(max(np.max(high[real]), -np.min(low[real]))) if real.any() else 0.0
    panel.set_ylim(-(1.08 * reach or 1.0), 1.08 * reach or 1.0)
    panel.set_yticks([])
    panel.spines["left"].set_visible(False)
    for detection in detections:
        color = _PHASE_COLORS[detection.phase]
        onset_s = axis.seconds(parse_time(detection.onset))
        if detection.end is not None:
            panel.axvspan(
                onset_s, axis.seconds(parse_time(detection.end)), color=color, alpha=0.25, linewidth=0, zorder=0
            )
        panel.axvline(onset_s, color=color, linewidth=0.9)
        panel.plot(
            [onset_s], [1.0], "v", color=color, markersize=6, transform=panel.get_xaxis_transform(), clip_on=False
        )
    panel.text(-0.008, 0.5, printable(trace.seed_id), transform=panel.transAxes, ha="right", va="center")
    panel.text(
        1.008,
        0.5,
        f"{_count(len(detections), 'detection')}\npeak {_amplitude(reach)}",
        transform=panel.transAxes,
        va="center",
        size=8,
        color=_GREY,
        linespacing=1.5,
    )


def _explain_marks(figure: "Figure", phases: set[Phase], *, gaps: bool, y: float) -> None:
    from matplotlib.lines import Line2D  # noqa: PLC0415
    from matplotlib.patches import Patch  # noqa: PLC0415

    names: dict[Phase, str] = {"P": "P onset", "S": "S onset", "unknown": "onset, phase unknown"}
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=_PHASE_COLORS[phase], marker="v", linestyle="none", label=name)
        for phase, name in names.items()
        if phase in phases
    ]
    for phase in sorted(phases)[:1]:
        handles.append(Patch(color=_PHASE_COLORS[phase], alpha=0.25, linewidth=0, label="until its end"))
    if gaps:
        handles.append(Patch(color=_LIGHT, linewidth=0, label="no data"))
    if handles:
        place = (0.99, y)
        figure.legend(handles=handles, loc="center right", bbox_to_anchor=place, ncols=len(handles), handletextpad=0.4)


def _mark_onsets(panel: "Axes", detection: Detection, axis: _TimeAxis, *, over_image: bool) -> None:
    from matplotlib.patheffects import withStroke  # noqa: PLC0415

    # Against the colours of an image a line is seen by its white seam.
    seam = [withStroke(linewidth=2.6, foreground="white")] if over_image else []
    for time_ns, color, _ in _moments(detection):
        dashes = (0, (3, 2)) if color == _GREY else "-"
        panel.axvline(axis.seconds(time_ns), color=color, linewidth=1.2, linestyle=dashes, path_effects=seam)
    onset_s = axis.seconds(parse_time(detection.onset))
    half = detection.onset_uncertainty_s
    if half > 0 and not over_image:
        color = _PHASE_COLORS[detection.phase]
        panel.axvspan(onset_s - half, onset_s + half, color=color, alpha=0.22, linewidth=0)


def _label_onsets(panel: "Axes", detection: Detection, axis: _TimeAxis) -> None:
    # Left to right above the panel; a label that would touch the one before moves up instead.
    least_gap_s = 0.035 * axis.span_s
    occupied_s = [-float("inf"), -float("inf")]
    for time_ns, color, label in _moments(detection):
        at_s = axis.seconds(time_ns)
        if not 0 <= at_s <= axis.span_s:
            continue
        level = 0 if at_s - occupied_s[0] >= least_gap_s else 1
        occupied_s[level] = at_s
        panel.annotate(
            label,
            (at_s, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3 + 13 * level),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color="white",
            size=8.5,
            weight="bold",
            bbox={"boxstyle": "round,pad=0.22", "facecolor": color, "edgecolor": "none"},
            annotation_clip=False,
        )


def _moments(detection: Detection) -> list[tuple[int, str, str]]:
    label = "onset" if detection.phase == "unknown" else detection.phase
    moments: list[tuple[int, str, str]] = [(parse_time(detection.onset), _PHASE_COLORS[detection.phase], label)]
    if detection.s_onset is not None and detection.phase != "S":
        moments.append((parse_time(detection.s_onset), _BLUE, "S"))
    if detection.end is not None:
        moments.append((parse_time(detection.end), _GREY, "end"))
    return moments


def _write_texts(figure: "Figure", detection: Detection) -> None:
    onset_ns = parse_time(detection.onset)
    onset = format_time(onset_ns, digits=3).replace("T", " ").rstrip("Z")
    title = f"{printable(detection.station)}   {onset} UTC"
    _fit(figure.text(_LEFT, 0.966, title, size=14, weight="bold", va="center"), figure)
    first = "Onset" if detection.phase == "unknown" else f"{detection.phase} onset"
    facts = [
        f"{printable(detection.class_)}, probability {detection.probability:.2f}",
        "SNR unknown" if detection.snr_db is None else f"SNR {detection.snr_db:.1f} dB",
        f"{first} ± {detection.onset_uncertainty_s:.2f} s",
    ]
    if detection.s_onset is not None and detection.phase == "P":
        facts.append(f"S−P {(parse_time(detection.s_onset) - onset_ns) / NS_PER_SECOND:.2f} s")
    if detection.end is not None:
        facts.append(f"duration {(parse_time(detection.end) - onset_ns) / NS_PER_SECOND:.1f} s")
    facts.append(f"dominant {detection.dominant_hz:.1f} Hz")
    if detection.state != "final":
        facts.append(f"state {detection.state}")
    _fit(figure.text(_LEFT, 0.934, "   |   ".join(facts), size=10, va="center"), figure)

    reason, model = detection.reason, detection.model
    failed = [name for name, good in reason.checks.items() if not good]
    passed = f"all {len(reason.checks)} passed" if reason.checks else "none made"
    checks = f"failed {', '.join(failed)}" if failed else passed
    lines = (
        f"Model {printable(model.name)} {printable(model.version)} ({printable(model.sha256[:12])})   |   "
        f"threshold {reason.threshold:g}, peak {reason.peak_score:.2f}, P {reason.peak_p:.2f}, S {reason.peak_s:.2f}, "
        f"above threshold for {reason.above_threshold_s:.1f} s",
        f"Checks: {printable(checks)}   |   decided {detection.latency_s:.1f} s after the onset   |   "
        f"data complete {detection.data_complete:.0%}   |   {detection.origin}   |   id {printable(detection.id)}",
    )
    for line, y in zip(lines, (0.047, 0.022), strict=True):
        _fit(figure.text(_LEFT, y, line, size=8, color=_GREY, va="center"), figure)


def _fit(text: "Text", figure: "Figure") -> None:
    # Names of models and checks are free; a long line is cut where the figure ends.
    limit = 0.99 * figure.bbox.width
    while text.get_window_extent().x1 > limit and len(text.get_text()) > 8:
        text.set_text(text.get_text()[:-6] + "…")


def _shade_gaps(panel: "Axes", times_s: FloatArray, real: npt.NDArray[np.bool_]) -> None:
    if len(times_s) < 2:
        return
    half = (times_s[1] - times_s[0]) / 2
    steps = np.diff(np.concatenate(([0], (~real).astype(np.int8), [0])))
    for first, end in zip(np.flatnonzero(steps == 1), np.flatnonzero(steps == -1), strict=True):
        panel.axvspan(times_s[first] - half, times_s[end - 1] + half, color=_LIGHT, linewidth=0, zorder=0)


def _amplitude_ticks(panel: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator  # noqa: PLC0415

    panel.yaxis.set_major_locator(MaxNLocator(nbins=4, symmetric=True, min_n_ticks=3, steps=[1, 2, 2.5, 5, 10]))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _amplitude(value)))


def _amplitude(value: float) -> str:
    # The offset that matplotlib would put above the axis is easily overlooked; counts read best in full.
    if value == 0:
        return "0"
    if 1e-2 <= abs(value) < 1e6:
        text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
        return text.replace(",", "\u2009").replace("-", "−")
    mantissa, exponent = f"{value:.1e}".split("e")
    digits = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa.removesuffix('.0').replace('-', '−')}×10{digits}"


def _name_panel(panel: "Axes", name: str) -> None:
    panel.text(
        0.006,
        0.955,
        name,
        transform=panel.transAxes,
        va="top",
        size=8.5,
        weight="bold",
        bbox={"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _minute(time_ns: int) -> str:
    return format_time(time_ns, digits=0)[:16].replace("T", " ")


@contextmanager
def _figure(size_inches: tuple[float, float]) -> Iterator["Figure"]:
    try:
        import matplotlib as mpl  # noqa: PLC0415
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise PlotUnavailableError(_NO_MATPLOTLIB) from error
    with mpl.rc_context(_STYLE):
        # Without pyplot: no global state, no display asked for, nothing kept once the figure is done.
        figure = Figure(figsize=size_inches, dpi=_DPI, facecolor="white")
        FigureCanvasAgg(figure)
        yield figure


def _save(figure: "Figure", path: Path, *, title: str) -> None:
    try:
        figure.savefig(path, format="png", dpi=_DPI, metadata={"Title": title, "Software": "seismic-monitor"})
    except OSError as error:
        raise OutputError(f"cannot write to {path}: {error.strerror or error}") from error
