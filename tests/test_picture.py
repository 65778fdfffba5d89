"""Pictures: what is drawn is where it should be, and the same every time."""

import io
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from monitor.detector import DetectorSettings
from monitor.drawing.canvas import LEFT, RIGHT, Box, Lines, Sheet, smooth
from monitor.drawing.colours import BLUE, VERMILLION, Colour, even_map, mapped
from monitor.drawing.event import PictureError, draw_event, event_png
from monitor.drawing.traces import read_traces
from monitor.explain.explanation import explain_moment, instruments
from monitor.explain.moment import Span
from monitor.model import Model
from monitor.sources.files import FileSource
from monitor.timebase import NS_PER_SECOND, format_time
from tests.detections import HOSTILE, detection
from tests.test_explain import MODEL, P_S, S_MINUS_P, WAVE, at, no_problem, packed

RECORDS = packed(WAVE[:, :12000])
EVENT = detection(
    station="XX.ABC",
    seed_ids=["XX.ABC..HHZ", "XX.ABC..HHN", "XX.ABC..HHE"],
    onset=format_time(at(P_S)),
    s_onset=format_time(at(P_S + S_MINUS_P)),
    end=format_time(at(P_S + 12)),
)
Pixels = npt.NDArray[np.uint8]


def pixels(png: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def columns_of(image: Pixels, colour: Colour, rows: slice) -> list[int]:
    """Columns in which most of the rows have a colour, or nearly so."""
    near = (np.abs(image[rows].astype(int) - colour).sum(axis=2) < 40).mean(axis=0)
    return [int(x) for x in np.flatnonzero(near > 0.6)]


def test_an_event(tmp_path: Path) -> None:
    path = tmp_path / "event.png"
    draw_event(EVENT, RECORDS, path)
    image = pixels(path.read_bytes())
    assert image.shape == (800, 1200, 3)
    # From 10 s before the onset to 12 s after the end, 34 s; marks are where their times are, in the first panel.
    per_s = (RIGHT - LEFT) / 34.1
    for colour, since_s in ((VERMILLION, 10.0), (BLUE, 10.0 + S_MINUS_P)):
        found = columns_of(image, colour, slice(115, 150))
        assert found
        assert abs(np.mean(found) - (LEFT + since_s * per_s)) < 3, colour
    # The waveform is calm before the P and not after it; the spectrogram is dark before it and bright after it.
    ink = (image[112:236].sum(axis=2) < 250).sum(axis=0)
    p = round(LEFT + 10 * per_s)
    assert ink[LEFT + 5 : p - 30].max() < 20 < ink[p + 5 : p + 40].max()
    spectrum = image[530:730].mean(axis=(0, 2))
    assert spectrum[p + 10 : p + 30].mean() > 1.5 * spectrum[LEFT + 20 : p - 30].mean()


def test_the_same_every_time() -> None:
    assert event_png(EVENT, RECORDS) == event_png(EVENT, RECORDS)


@pytest.mark.parametrize("channels", ["Z", "ZN"])
def test_fewer_components(channels: str) -> None:
    image = pixels(event_png(EVENT, packed(WAVE[: len(channels), :12000], channels=channels)))
    assert image.shape == (800, 1200, 3)


def test_a_gap_is_shaded_and_not_bridged() -> None:
    gappy = packed(WAVE[:1, :7300], channels="Z") + packed(WAVE[:1, 7800:12000], first_s=78.0, channels="Z")
    image = pixels(event_png(EVENT, gappy))
    per_s = (RIGHT - LEFT) / 34.1
    gap = image[120:480, round(LEFT + 13.3 * per_s) : round(LEFT + 17.7 * per_s)]
    assert len(np.unique(gap[:150].reshape(-1, 3), axis=0)) <= 4, "shade and the S mark only"
    traces = read_traces(gappy, EVENT.seed_ids, Span(at(60), at(95)))
    missing = np.isnan(traces.waveforms["XX.ABC..HHZ"])
    assert abs(missing.sum() - 500) <= 10
    assert np.isnan(traces.spectrogram[140:175]).all()


def test_the_spectrogram_is_the_models_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "quake.mseed"
    path.write_bytes(RECORDS)
    source = FileSource([str(path)], on_problem=no_problem)
    (group,) = instruments(source)
    moment = explain_moment(source, group, MODEL, DetectorSettings(confirm_s=30.0), time_ns=at(2.0)).moment
    traces = read_traces(RECORDS, EVENT.seed_ids, Span(at(60), at(80)))
    first = traces.span.start_ns // (moment.frame_ns(1) - moment.frame_ns(0)) - moment.first_frame
    frames = moment.frames[first : first + len(traces.spectrogram), :, 0]
    np.testing.assert_array_equal(Model().quantize(traces.spectrogram.copy()), frames)


def test_hostile_codes_are_drawn_as_text() -> None:
    hostile = detection(
        station=HOSTILE,
        seed_ids=[HOSTILE, *EVENT.seed_ids],
        onset=EVENT.onset,
        s_onset=None,
        end=None,
        snr_db=None,
        class_=HOSTILE,
    )
    assert pixels(event_png(hostile, RECORDS)).shape == (800, 1200, 3)


def test_failures_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PictureError, match=r"the records hold no samples of XX\.ABC\.\.HHZ"):
        draw_event(EVENT, b"", tmp_path / "x.png")
    with pytest.raises(PictureError, match="cannot be written: No such file"):
        draw_event(EVENT, RECORDS, tmp_path / "nowhere" / "x.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(PictureError, match="need Pillow"):
        draw_event(EVENT, RECORDS, tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_an_explanation(tmp_path: Path) -> None:
    path = tmp_path / "quake.mseed"
    path.write_bytes(packed(WAVE[:1, :10000], channels="Z"))
    orange = {}
    for seconds, kind in ((P_S, "detection"), (25.0, "below_threshold"), (1.0, "warming_up")):
        source = FileSource([str(path)], on_problem=no_problem)
        (group,) = instruments(source)
        explanation = explain_moment(source, group, MODEL, DetectorSettings(), time_ns=at(seconds))
        assert explanation.verdict.kind == kind
        explanation.draw(tmp_path / "x.png")
        content = (tmp_path / "x.png").read_bytes()
        image = pixels(content)
        assert image.shape[1] == 1200
        # The panel of what moved the score, without the names above it.
        panel = image[430:540].astype(int)
        orange[kind] = int((panel[..., 0] - panel[..., 2] > 100).sum())
        if kind == "detection":
            assert explanation.picture() == content
    assert orange["detection"] > 500
    assert orange["below_threshold"] < orange["detection"] / 4
    assert orange["warming_up"] == 0


def test_colours_grow_lighter_evenly() -> None:
    colours = even_map().astype(float) / 255
    assert colours.shape == (256, 3)
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    # CIE 1976 lightness.
    lightness = np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)
    steps = np.diff(lightness[::15])
    assert (steps > 0).all()
    assert steps.max() < 2.2 * steps.min()


def test_masked_values_have_a_colour_of_their_own() -> None:
    assert mapped(np.array([[np.nan, 5.0, -99.0, 99.0]]), 0.0, 10.0)[0].tolist() == [
        [232, 233, 235],
        even_map()[128].tolist(),
        even_map()[0].tolist(),
        even_map()[255].tolist(),
    ]
    values = np.zeros((4, 10))
    values[:, :5] = np.nan
    larger = smooth(values, 100, 40)
    assert np.isnan(larger[:, :50]).all()
    assert not np.isnan(larger[:, 50:]).any()


def test_lines_do_not_bridge_what_is_missing() -> None:
    sheet = Sheet(100, Span(0, 10 * NS_PER_SECOND))
    panel = Lines(sheet, Box(LEFT, 10, RIGHT, 90), 0.0, 1.0)
    values = np.full(11, 0.5)
    values[4:7] = np.nan
    panel.curve(np.arange(11, dtype=np.int64) * NS_PER_SECOND, values, VERMILLION, width=2)
    panel.close()
    drawn = (pixels(sheet.png())[10:90].min(axis=(0, 2)) < 200).astype(int)
    seconds = [round((x - LEFT) / (RIGHT - LEFT) * 10, 1) for x in np.flatnonzero(np.diff(drawn))]
    assert seconds[:4] == pytest.approx([0.0, 3.0, 7.0, 10.0], abs=0.1)
