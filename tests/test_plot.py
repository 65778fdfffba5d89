"""Figures: that they are drawn from whatever comes, and where their files land."""

import subprocess
import sys
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image
from matplotlib.figure import Figure

from monitor import plot
from monitor.output import OutputError
from monitor.plot import DetectionView, OverviewTrace, plot_detection, plot_overview, plot_path
from monitor.records import Detection
from monitor.timeaxis import utc_ticks
from monitor.timebase import NS_PER_SECOND, format_time, parse_time
from tests.detections import HOSTILE, detection

SPAN_S, LEAD_S = 40, 12


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    # matplotlib warns of missing glyphs, empty slices and axes without extent: each would be a flaw in the figure.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(autouse=True)
def _coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    # The same layout with fewer pixels: most of the time goes into those.
    monkeypatch.setattr(plot, "_DPI", 40)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Collect what is saved, to look into."""
    saved: list[Figure] = []
    original = Figure.savefig

    def savefig(self: Figure, *args: Any, **kwargs: Any) -> None:
        saved.append(self)
        original(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return saved


def view(one: Detection | None = None, **changes: Any) -> DetectionView:
    one = detection() if one is None else one
    start_ns = parse_time(one.onset) - LEAD_S * NS_PER_SECOND
    rng = np.random.default_rng(1)
    n_frames = SPAN_S * 10
    fields: dict[str, Any] = {
        "detection": one,
        "starttime_ns": start_ns,
        "sampling_rate": 100.0,
        "waveforms": {seed_id: rng.normal(1300, 50, SPAN_S * 100) for seed_id in one.seed_ids},
        "spectrogram": rng.normal(0, 4, (n_frames, 31)).astype(np.float32),
        "frame_starttime_ns": start_ns,
        "frame_interval_s": 0.1,
        "frequencies_hz": np.linspace(1.5, 48.4, 31),
        "probability": {name: rng.random(n_frames) for name in ("earthquake", "P", "S")},
        "probability_starttime_ns": start_ns,
        "probability_interval_s": 0.1,
        "threshold": 0.5,
    }
    return DetectionView(**(fields | changes))


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [text.get_text() for text in figure.texts]


def test_a_figure_has_the_size_of_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "_DPI", 150)
    plot_detection(view(), tmp_path / "one.png")
    assert image.imread(tmp_path / "one.png").shape[:2] == (1305, 1800)


def test_it_says_what_was_found_and_why(tmp_path: Path, figures: list[Figure]) -> None:
    plot_detection(view(), tmp_path / "one.png")
    shown = "\n".join(texts(figures[0]))
    for expected in (
        "BW.UH1   2010-05-27 16:24:33.315 UTC",
        "probability 0.97",
        "SNR 21.3 dB",
        "P onset ± 0.12 s",
        "S−P 2.31 s",
        "unet-small 1.2.0",
        "failed band",
        "decided 2.8 s after the onset",
        "BW.UH1..EHN",
    ):
        assert expected in shown
    assert {"P", "S", "end"} <= set(texts(figures[0]))


@pytest.mark.parametrize(
    "changes",
    [
        {"seed_ids": ["BW.UH1..EHZ"]},
        {"seed_ids": ["BW.UH1..EHZ", "BW.UH1..EHN"], "end": None, "state": "update"},
        {"phase": "S", "s_onset": None},
        {"phase": "unknown", "snr_db": None, "s_onset": None},
        {"s_onset": "2010-05-27T16:24:33.315001Z", "end": "2010-05-27T16:24:33.315002Z", "onset_uncertainty_s": 0.0},
        {"end": "2010-05-27T23:00:00Z"},
        {"onset": "2010-05-27T23:59:58Z", "s_onset": None},
        {"station": HOSTILE, "seed_ids": [f"{HOSTILE}.{HOSTILE}..EHZ"], "class_": HOSTILE, "id": HOSTILE},
    ],
    ids=",".join,
)
def test_any_detection_can_be_drawn(changes: dict[str, Any], tmp_path: Path) -> None:
    plot_detection(view(detection(**changes)), tmp_path / "one.png")


@pytest.mark.parametrize("masked", [slice(0, 150), slice(100, 101), slice(None)], ids=["start", "one frame", "all"])
def test_masked_data_leaves_a_gap(masked: slice, tmp_path: Path) -> None:
    whole = view()
    samples = slice(*(None if edge is None else edge * 10 for edge in (masked.start, masked.stop)))
    for waveform in whole.waveforms.values():
        waveform[samples] = np.nan
    whole.spectrogram[masked] = np.nan
    for values in whole.probability.values():
        values[masked] = np.nan
    plot_detection(whole, tmp_path / "one.png")


def test_constant_and_empty_parts_can_be_drawn(tmp_path: Path) -> None:
    nothing = np.zeros((0, 31), dtype=np.float32)
    flat = {"BW.UH1..EHZ": np.full(4000, 7.0)}
    plot_detection(view(waveforms=flat, spectrogram=nothing, probability={}), tmp_path / "one.png")


def test_texts_stay_inside_and_apart(tmp_path: Path, figures: list[Figure], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "_DPI", 150)
    long = detection(
        end="2010-05-28T00:00:05Z",
        onset="2010-05-27T23:59:50Z",
        s_onset="2010-05-27T23:59:50.9Z",
        reason=detection().reason.__class__(
            0.5, 0.9, 0.1, 0.2, 3.0, {f"a long name of check {n}": False for n in range(9)}
        ),
    )
    loud = {seed_id: 1e8 * np.sin(np.arange(4000.0)) for seed_id in long.seed_ids}
    plot_detection(view(long, waveforms=loud), tmp_path / "one.png")
    figure = figures[0]
    boxes = [text.get_window_extent() for text in figure.texts]
    for panel in figure.axes:
        low, high = panel.get_ylim()
        ticks = zip(panel.get_yticks(), panel.get_yticklabels(), strict=True)
        boxes += [label.get_window_extent() for at, label in ticks if low <= at <= high and label.get_text()]
        boxes += [label.get_window_extent() for label in (panel.xaxis.label, panel.yaxis.label) if label.get_text()]
        boxes += [text.get_window_extent() for text in panel.texts]
    for box in boxes:
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
    overlaps = [
        (i, j)
        for i, one in enumerate(boxes)
        for j, other in enumerate(boxes[:i])
        if min(one.x1, other.x1) - max(one.x0, other.x0) > 1 and min(one.y1, other.y1) - max(one.y0, other.y0) > 1
    ]
    assert overlaps == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"waveforms": {}}, "0 waveforms; accepted: 1 to 3"),
        ({"waveforms": {"A.B..Z": np.zeros((2, 2))}}, r"A\.B\.\.Z has shape \(2, 2\)"),
        ({"spectrogram": np.zeros((5, 30), dtype=np.float32)}, r"shape \(5, 30\); accepted: \(n_frames, 31\)"),
        ({"frequencies_hz": np.ones(1), "spectrogram": np.zeros((5, 1))}, "1 frequencies; accepted: 2 or more"),
        ({"frame_interval_s": 0.0}, "frame_interval_s is 0.0; accepted: positive"),
    ],
)
def test_a_view_that_does_not_fit_together_cannot_be_built(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        view(**changes)


def trace(seed_id: str = "BW.UH1..EHZ", *, start: str = "2010-05-27T16:00:00Z", n_bins: int = 600) -> OverviewTrace:
    high = np.abs(np.random.default_rng(2).normal(0, 100, n_bins))
    return OverviewTrace(seed_id, parse_time(start), 5.0, -high, high)


class TestOverview:
    def test_a_row_tells_how_many_detections_its_station_has(self, tmp_path: Path, figures: list[Figure]) -> None:
        found = [
            detection(id="a", revision=0, state="new", end=None),
            detection(id="a", revision=1),
            detection(id="b", phase="unknown"),
            detection(id="c", revision=2, state="retracted"),
            detection(id="d", station="BW.UH3"),
        ]
        plot_overview([trace(), trace("BW.UH2..EHZ")], found, tmp_path / "all.png")
        first, second = figures[0].axes
        assert any(text.get_text().startswith("2 detections\n") for text in first.texts)
        assert any(text.get_text().startswith("0 detections\n") for text in second.texts)
        assert "2 detections" in texts(figures[0])

    def test_gaps_and_hostile_codes_are_drawn(self, tmp_path: Path) -> None:
        gappy, dead = trace(f"{HOSTILE}.{HOSTILE}..EHZ"), trace("BW.UH2..EHZ")
        for values in (gappy.minimum, gappy.maximum):
            values[100:200] = np.nan
        dead.minimum[:] = dead.maximum[:] = np.nan
        plot_overview([gappy, dead, trace("BW.X..Z", n_bins=0)], [], tmp_path / "all.png")

    def test_a_long_and_a_short_replay(self, tmp_path: Path) -> None:
        plot_overview([trace(), trace(start="2011-05-27T16:00:00Z")], [], tmp_path / "long.png")
        plot_overview([trace(n_bins=1)], [], tmp_path / "short.png")

    def test_many_stations_do_not_make_an_endless_figure(
        self, figures: list[Figure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(plot, "_MAX_OVERVIEW_HEIGHT_INCHES", 4.0)
        plot_overview([trace(f"BW.S{number}..EHZ", n_bins=2) for number in range(5)], [], tmp_path / "all.png")
        assert figures[0].get_figheight() == 4

    def test_nothing_to_draw_is_an_error(self, tmp_path: Path) -> None:
        for traces in ([], [trace(n_bins=0)]):
            with pytest.raises(ValueError, match="nothing to draw"):
                plot_overview(traces, [], tmp_path / "all.png")

    def test_an_envelope_that_does_not_fit_cannot_be_built(self) -> None:
        with pytest.raises(ValueError, match=r"minimum has shape \(2,\) and maximum \(3,\)"):
            OverviewTrace("A.B..Z", 0, 1.0, np.zeros(2), np.zeros(3))
        with pytest.raises(ValueError, match="interval_s is -1"):
            OverviewTrace("A.B..Z", 0, -1.0, np.zeros(2), np.zeros(2))


@pytest.mark.parametrize(
    "code", ["../../etc/passwd", "/etc/passwd", "..", ".", "", "a\0b", "C:\\x", HOSTILE, "x" * 999]
)
def test_a_file_name_stays_in_its_directory(code: str, tmp_path: Path) -> None:
    path = plot_path(tmp_path, detection(station=code, id=code))
    assert path.resolve().parent == tmp_path.resolve()
    assert not path.name.startswith((".", "-"))
    path.write_bytes(b"")


def test_a_file_name_tells_station_time_and_id() -> None:
    assert plot_path(Path("out"), detection()) == Path("out/BW.UH1_2010-05-27T162433_3f2a9c1be07d.png")


def test_an_unwritable_file_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write to .*one\.png: No such file"):
        plot_detection(view(), tmp_path / "none" / "one.png")


def test_without_matplotlib_the_way_to_get_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(plot.PlotUnavailableError, match=r"pip install 'seismic-monitor\[plot\]'"):
        plot_detection(view(), tmp_path / "one.png")


def test_importing_does_not_load_matplotlib() -> None:
    program = "import sys, monitor.plot; print('matplotlib' in sys.modules)"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


class TestTimeAxis:
    @pytest.mark.parametrize("span_s", [0.004, 0.3, 2, 7, 45, 300, 4000, 30_000, 200_000, 3e6, 4e7])
    def test_ticks_are_round_few_and_inside(self, span_s: float) -> None:
        start_ns = parse_time("2010-05-27T16:24:33.315Z")
        end_ns = start_ns + round(span_s * NS_PER_SECOND)
        ticks = utc_ticks(start_ns, end_ns)
        assert 2 <= len(ticks.times_ns) <= 11
        assert start_ns <= ticks.times_ns[0]
        assert ticks.times_ns[-1] <= end_ns
        assert all(earlier != later for earlier, later in pairwise(ticks.labels))
        assert all(time_ns % 1_000_000 == 0 for time_ns in ticks.times_ns)

    def test_midnight_carries_the_new_date(self) -> None:
        start_ns = parse_time("2010-05-27T23:59:55Z")
        ticks = utc_ticks(start_ns, start_ns + 10 * NS_PER_SECOND)
        assert [label for label in ticks.labels if "\n" in label] == ["00:00:00\n2010-05-28"]
        assert ticks.title == "Time (UTC), 2010-05-27 to 2010-05-28"

    def test_labels_have_the_digits_of_their_step(self) -> None:
        start_ns = parse_time("2010-05-27T16:24:33Z")
        ticks = utc_ticks(start_ns, start_ns + NS_PER_SECOND)
        assert ticks.labels[1] == "16:24:33.1"
        assert format_time(ticks.times_ns[1], digits=1)[11:-1] == ticks.labels[1]

    def test_an_empty_span_is_refused(self) -> None:
        with pytest.raises(ValueError, match="ends at 5 ns, not after its start 5 ns"):
            utc_ticks(5, 5)
