"""The page as people see it, in a real browser: it moves, it tells, it opens, in both themes and on a phone."""

import io
import json
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import msgspec
import numpy as np
import obspy
import pytest
from PIL import Image

from monitor.records import ChannelId, Detection, Segment
from monitor.timebase import NS_PER_SECOND, format_time, parse_time
from tests.chromium import Browser, Tab, chromium
from tests.detections import detection
from tests.station_page import Served, quake, serving
from tests.test_web_files import ID, archive_with
from tests.test_web_page import until

pytestmark = pytest.mark.needs("chromium")

RECORDINGS = sorted((Path(obspy.__file__).parent / "signal/tests/data").glob("BW.UH[34]*.cut.slist.gz"))
UH3 = "BW.UH3..SH"
CANVAS = "document.querySelector('canvas.live')"
# A number that tells one picture on the canvas from another; 0 where it is clear.
PRINT = f"""(() => {{
    const canvas = {CANVAS};
    if (!canvas?.width) return 0;
    const clear = document.createElement('canvas');
    [clear.width, clear.height] = [canvas.width, canvas.height];
    const [drawn, nothing] = [canvas.toDataURL(), clear.toDataURL()];
    if (drawn === nothing) return 0;
    let sum = 1;
    for (let i = 0; i < drawn.length; i++) sum = (sum * 31 + drawn.charCodeAt(i)) >>> 0;
    return sum;
}})()"""
HOSTILE = "<img src=x onerror=\"document.title='broken'\">"


def recorded(paths: list[Path]) -> list[Segment]:
    """Traces as segments."""
    traces = [trace for path in paths for trace in obspy.read(str(path))]
    return [
        Segment(
            ChannelId(trace.stats.network, trace.stats.station, trace.stats.location, trace.stats.channel),
            trace.stats.starttime.ns,
            trace.stats.sampling_rate,
            trace.data,
        )
        for trace in traces
    ]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Two stations, of which the first earthquake is still to come."""
    with serving(recorded(RECORDINGS), tmp_path_factory.mktemp("state")) as served:
        served.play(24.0)
        yield served


@pytest.fixture
def tab(browser: Browser) -> Iterator[Tab]:
    with browser.tab() as tab:
        tab.look(width=1280)
        yield tab
        assert tab.complaints == []


def shown(tab: Tab) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A screenshot's pixels."""
    picture = tab.picture()
    folder = os.environ.get("MONITOR_TESTS_PICTURES")
    if folder:
        name = f"page-{tab.evaluate('innerWidth')}-{abs(hash(picture)) % 10**6}.png"
        Path(folder, name).write_bytes(picture)
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


def seen(served: Served, *, state: str = "new") -> Detection:
    """The earthquake at the first station; played until it is told in this state."""
    while not (told := [d for d in served.station.player.detections if (d.station, d.state) == ("BW.UH3", state)]):
        served.play(1.0)
    return told[0]


def test_waveforms_move_and_a_detection_appears_by_itself(served: Served, tab: Tab) -> None:
    tab.go(f"{served.url}#/station/{quote(UH3)}")
    tab.wait_for(f"{PRINT} !== 0", why="nothing is drawn")
    assert tab.evaluate("document.querySelector('h1').textContent") == "BW.UH3"
    tab.evaluate("window.same = true")  # gone after a reload
    prints = [tab.evaluate(PRINT)]
    for _ in range(3):
        served.play(1.0)
        tab.wait_for(f"{PRINT} !== {prints[-1]}", why="the plot stands still")
        prints.append(tab.evaluate(PRINT))
    assert all(a != b for a, b in pairwise(prints))
    assert "None yet." in tab.text()
    seen(served)
    tab.wait_for("document.querySelectorAll('.events li[data-id]').length === 1", why="the detection is not listed")
    # All stations are heard; one whose detection came in the same second may have the last word.
    said = tab.evaluate("document.getElementById('said').textContent")
    told = {(detection.station, detection.onset[11:19]) for detection in served.station.player.detections}
    assert any(f"Earthquake detected at {station}: P wave at {onset} UTC." in said for station, onset in told)
    assert tab.evaluate("document.getElementById('said').getAttribute('aria-live')") == "assertive"
    assert not tab.evaluate("document.getElementById('banner').hidden")
    assert tab.evaluate("window.same")
    assert "live" in tab.text()


def test_an_event_page_opens(served: Served, tab: Tab) -> None:
    seen(served, state="final")
    served.play(25.0)
    tab.go(f"{served.url}#/station/{quote(UH3)}")
    tab.wait_for("document.querySelector('.events a')")
    tab.evaluate("document.querySelector('.events a').click()")
    tab.wait_for("document.querySelector('table.reason')", why="no event page")
    text = tab.text()
    for said in ("Earthquake", "2010-05-27 16:24:33", "A P wave was seen", "Above the threshold for", "SHZ", "km away"):
        assert said in text, said
    tab.wait_for(f"{PRINT} !== 0", why="nothing is drawn")
    # Two hours ahead in Berlin in May.
    assert "local: May 27, 2010" in tab.evaluate("document.querySelector('.head time').title")
    assert "6:24:33 PM" in tab.evaluate("document.querySelector('.head time').title").replace("\u202f", " ")
    href = tab.evaluate("document.querySelector('.files a').getAttribute('href')")
    assert served.get(f"/{href}")[0] == 200
    tab.evaluate("document.querySelector('.crumbs a').click()")
    tab.wait_for("document.querySelector('canvas.drum')", why="the way back is missing")
    assert tab.evaluate("document.activeElement.id") == "main"


def explanation_of(found: Detection) -> bytes:
    """As it is written for an event, with a region that spoke for an earthquake and one that spoke against it."""
    start_ns = parse_time(found.onset) - 5 * NS_PER_SECOND
    change: list[list[float | None]] = [[0.0] * 16 for _ in range(20)]
    change[13][3], change[4][8], change[0][0] = 6.0, -2.0, None
    occlusion = {
        "time": format_time(start_ns + 6 * NS_PER_SECOND),
        "probability": 0.98,
        "silence": 0.1,
        "cell_s": 0.4,
        "cell_hz": 3.125,
        "starttime": format_time(start_ns),
        "first_hz": 1.5625,
        "change": {"all": change, "Z": change},
        "regions": [{}, {}],
        "without": {"Z": 0.5},
    }
    return json.dumps({"words": [f"Said of {HOSTILE}."], "occlusion": occlusion}).encode()


def test_what_the_model_looked_at(served: Served, tab: Tab) -> None:
    found = seen(served, state="final")
    served.play(25.0)
    tab.go(f"{served.url}#/event/{quote(found.id)}")
    tab.wait_for("document.querySelector('table.reason')", why="no event page")
    assert "What the model looked at" not in tab.text()
    tab.evaluate("document.querySelector('details').open = true")
    # The explanation is made when there is nothing better to do; who has the page open by then is shown it.
    event = archive_with(served.station.folder / "events", found.id)
    (event / "explanation.json").write_bytes(explanation_of(found))
    served.do(lambda: served.station.page.archived(found.id))
    tab.wait_for("document.querySelector('canvas.map')", why="no map")
    assert tab.evaluate("document.querySelector('details').open")
    assert f"Said of {HOSTILE}." in tab.text()
    assert "without vertical 0.500" in tab.text()
    # What spoke for it is orange, what spoke against it blue.
    balance = """(() => {
        const canvas = document.querySelector('canvas.map');
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        const found = [];
        for (let i = 0; i < pixels.length; i += 4) found.push(pixels[i] - pixels[i + 2]);
        return [found.reduce((a, b) => Math.max(a, b)), found.reduce((a, b) => Math.min(a, b))];
    })()"""
    most, least = tab.evaluate(balance)
    assert most > 100
    assert least < -40


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_view_fits_and_is_not_blank(served: Served, tab: Tab, width: int, dark: bool) -> None:
    served.play(5.0)
    tab.look(width=width, dark=dark)
    identifier = seen(served).id
    for view, there in (
        ("#/", "document.querySelector('.station-card path')?.getAttribute('d')"),
        (f"#/station/{quote(UH3)}", f"{PRINT} !== 0"),
        (f"#/event/{quote(identifier)}", f"{PRINT} !== 0"),
    ):
        tab.go(f"{served.url}{view}")
        tab.wait_for(there, why=f"{view} is not drawn")
        pixels = shown(tab)
        assert len(np.unique(pixels.astype(np.uint32) @ np.array([1, 256, 65536], np.uint32))) > 200
        assert (pixels.mean() < 90) == dark, pixels.mean()
        assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_everything_has_a_name_for_who_does_not_see_it(served: Served, tab: Tab) -> None:
    identifier = seen(served).id
    for view in ("#/", f"#/station/{quote(UH3)}", f"#/event/{quote(identifier)}"):
        tab.go(f"{served.url}{view}")
        tab.wait_for("document.querySelector('main h1')")
        assert tab.evaluate("document.documentElement.lang") == "en"
        assert tab.evaluate("document.querySelectorAll('main h1').length") == 1
        nameless = """[...document.querySelectorAll('a, button, canvas, meter, [role=img]')]
            .filter((e) => !(e.hidden || e.textContent.trim() || e.getAttribute('aria-label') || e.title))
            .map((e) => e.outerHTML)"""
        assert tab.evaluate(nameless) == []
        assert tab.evaluate("[...document.images].filter((i) => i.getAttribute('alt') === null).length") == 0
        assert tab.evaluate("[...document.querySelectorAll('section')].every((s) => s.getAttribute('aria-labelledby'))")


def test_by_keyboard_and_at_will(served: Served, tab: Tab) -> None:
    tab.go(f"{served.url}#/station/{quote(UH3)}")
    tab.wait_for(f"{PRINT} !== 0")
    tab.evaluate("document.body.focus()")
    reached = []
    for _ in range(12):
        for kind in ("keyDown", "keyUp"):
            tab.send("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        reached.append(tab.evaluate("document.activeElement.textContent.trim() || document.activeElement.id"))
    assert reached[0] == "Skip to the content"
    assert {"Overview", "1 min", "5 min", "Pause"} <= set(reached)
    press = "[...document.querySelectorAll('button')].find((b) => b.textContent === '%s').click()"
    tab.evaluate(press % "Pause")
    tab.wait_for("document.querySelector('.now').textContent.startsWith('held at')")
    tab.evaluate(press % "Resume")
    tab.evaluate(press % "1 min")
    tab.wait_for("document.querySelector('.now').textContent === ''")
    backgrounds = []
    for _ in range(3):
        tab.evaluate("document.getElementById('theme').click()")
        backgrounds.append(tab.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
    assert len(set(backgrounds)) == 2


def test_after_a_loss_it_goes_on(served: Served, tab: Tab) -> None:
    tab.go(f"{served.url}#/station/{quote(UH3)}")
    tab.wait_for(f"{PRINT} !== 0")
    served.do(lambda: served.station.page.viewers.send([b"event: lost\ndata: {}\n\n"]))
    tab.evaluate("new Promise((done) => requestAnimationFrame(done))")
    before = tab.evaluate(PRINT)
    served.play(2.0)
    tab.wait_for(f"![0, {before}].includes({PRINT})", why="it does not go on")


def test_a_page_that_was_left_is_no_viewer(served: Served, tab: Tab) -> None:
    def viewers() -> int:
        return served.do(lambda: len(served.station.page.viewers))

    for _ in range(7):  # one more than a browser opens connections to a server
        tab.go(f"{served.url}#/")
        tab.wait_for("document.querySelector('.station-card')")
    until(lambda: viewers() == 1)
    tab.go("about:blank")
    until(lambda: viewers() == 0)
    tab.back()
    until(lambda: viewers() == 1)
    tab.wait_for("document.querySelector('#link').textContent === 'live'")


def test_what_is_hostile_is_text(browser: Browser, tmp_path: Path) -> None:
    event = archive_with(tmp_path / "events")
    (event / "detection.json").write_bytes(msgspec.json.encode(detection(id=ID, station=HOSTILE, seed_ids=[HOSTILE])))
    (event / "event.png").write_bytes(b"not a picture")
    with serving([*quake(HOSTILE, seconds=80.0), *quake(seconds=5.0)], tmp_path) as served, browser.tab() as tab:
        served.play(80.0)
        tab.look(width=1280)
        for view in (
            "#/",
            f"#/station/{quote(f'XX.{HOSTILE}..HH')}",
            f"#/event/{ID}",
            "#/event/%FF",
            f"#/event/{quote(HOSTILE)}",
        ):
            tab.go(f"{served.url}{view}")
            tab.wait_for("document.querySelector('main h1')")
            assert tab.evaluate("document.querySelectorAll('img[src=x], script:not([src])').length") == 0
        tab.go(f"{served.url}#/")
        tab.wait_for("document.querySelectorAll('.events li[data-id]').length >= 2")
        assert HOSTILE in tab.text()
        assert "broken" not in tab.evaluate("document.title").replace(HOSTILE, "")
        # The picture that is none, and the detection that is not there, are all that is complained of.
        assert all("event.png" in one or "404" in one for one in tab.complaints), tab.complaints


def test_who_comes_while_the_monitor_is_away_is_told(browser: Browser, tmp_path: Path) -> None:
    with browser.tab() as tab:
        with serving(quake(seconds=10.0), tmp_path) as served:
            served.play(5.0)
            tab.go(served.url)
            tab.wait_for("document.querySelector('#link').textContent === 'live'")
        tab.wait_for("document.querySelector('#link').textContent === 'reconnecting'")
