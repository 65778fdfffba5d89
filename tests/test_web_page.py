"""The page over HTTP: what browsers get, how many at once, and what slow, vanished and hostile ones cannot do."""

import asyncio
import contextlib
import gzip
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from monitor.records import Detection
from monitor.settings import PageSettings
from monitor.web.page import SECURITY_HEADERS
from tests.detections import HOSTILE, detection
from tests.station_page import PATIENCE_S, Served, quake, serving
from tests.test_web_access import basic
from tests.test_web_files import ID, archive_with
from tests.test_web_viewers import parsed

NAME = "XX.ABC..HH"


def until(what: Callable[[], Any]) -> Any:
    limit = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < limit
        time.sleep(0.005)
    return found


class Stream:
    """A viewer, spoken to over a bare socket."""

    def __init__(self, served: Served, watch: str, *, receive_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(("127.0.0.1", served.port))
        self.socket.sendall(f"GET /api/live?watch={quote(watch)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        self.received = b""

    def events(self) -> list[tuple[str, Any]]:
        """What has come so far, whole messages only."""
        body = self.received.partition(b"\r\n\r\n")[2]
        return parsed(body[: body.rfind(b"\n\n") + 2])

    def wait_for(self, kind: str, count: int = 1) -> list[Any]:
        """Read until so many of a kind have come."""
        mark = f"event: {kind}\n".encode()
        while self.received.count(mark) < count or len(found := self._of(kind)) < count:
            piece = self.socket.recv(65536)
            assert piece, self.received[-500:]
            self.received += piece
        return found

    def _of(self, kind: str) -> list[Any]:
        return [data for name, data in self.events() if name == kind]


@contextlib.contextmanager
def streaming(served: Served, watch: str = NAME, **options: Any) -> Iterator[Stream]:
    stream = Stream(served, watch, **options)
    try:
        yield stream
    finally:
        stream.socket.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("state")
    archive_with(folder / "events")
    with serving([*quake(seconds=130.0), *quake("DEF", p_s=20.0)], folder, max_viewers=25) as served:
        served.play(30.0)
        yield served


def test_every_answer_is_guarded(served: Served) -> None:
    for path in (
        "/",
        "/static/app.js",
        "/static/nothing",
        "/api/events",
        "/api/event?id=x",
        "/archive/x/y",
        "/nothing",
    ):
        _, headers, _ = served.get(path)
        if path == "/nothing":
            continue  # no handler of ours: plain text without anything in it
        for name, value in SECURITY_HEADERS.items():
            assert headers[name.lower()] == value, path
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
    policy = SECURITY_HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


def test_nothing_can_be_changed(served: Served) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert served.ask(method, "/api/events")[0] == 405


def test_files_are_compressed_and_asked_for_once(served: Served) -> None:
    status, headers, body = served.get("/static/app.js", Accept_Encoding="gzip")
    assert (status, headers["content-encoding"]) == (200, "gzip")
    plain = served.get("/static/app.js")[2]
    assert gzip.decompress(body) == plain
    status, headers, body = served.get("/static/app.js", If_None_Match=headers["etag"])
    assert (status, body) == (304, b"")
    assert "content-length" not in headers
    status, headers, body = served.ask("HEAD", "/static/app.js")
    assert (status, int(headers["content-length"]), body) == (200, len(plain), b"")


def test_history_and_drum_of_an_instrument(served: Served) -> None:
    history = served.json(f"/api/history?instrument={NAME}")
    assert list(history["waves"]) == ["XX.ABC..HHZ", "XX.ABC..HHN", "XX.ABC..HHE"]
    assert served.json(f"/api/drum?instrument={NAME}")[0] > 0
    for query in ("instrument=nothing", "", "instrument=%FF", "instrument=" + "x" * 9000, "&".join(["a=b"] * 50)):
        assert served.get(f"/api/history?{query}")[0] == 404
        assert served.get(f"/api/drum?{query}")[0] == 404
        assert served.get(f"/api/event?{query}")[0] == 404
        assert served.get(f"/api/detection?{query}")[0] == 404


def test_who_follows_is_told_what_happens(served: Served) -> None:
    with streaming(served) as stream:
        (stations,) = stream.wait_for("stations")
        assert [one["name"] for one in stations] == [NAME, "XX.DEF..HH"]
        (health, *_) = stream.wait_for("health")
        assert health["servers"] == [{"label": "recorder:18000", "trouble": "not connected yet"}]
        assert health["model"]["device"] in {"cpu", "edgetpu"}
        (reports, *_) = stream.wait_for("quality")
        assert {report["seed_id"] for report in reports} >= {"XX.ABC..HHZ"}
        stream.wait_for("data")
        while not served.station.player.detections or served.station.player.detections[-1].station != "XX.ABC":
            served.play(1.0)
        told = stream.wait_for("detection")
        assert told[-1]["detection"]["station"] in {"XX.ABC", "XX.DEF"}
        assert told[-1]["thumb"]
        (data, *_) = stream.wait_for("data", 2)[-1:]
        assert data["instrument"] == NAME
        head = stream.received.partition(b"\r\n\r\n")[0]
        assert b"Content-Type: text/event-stream" in head
        assert b"Cache-Control: no-store" in head
    until(lambda: served.do(lambda: len(served.station.page.viewers)) == 0)


def test_the_overview_has_a_line_for_each_instrument(served: Served) -> None:
    with streaming(served, "") as stream:
        sparks = stream.wait_for("sparks", 3)[-1]
        assert [line["name"] for line in sparks["lines"]] == [NAME, "XX.DEF..HH"]
        assert not [data for kind, data in stream.events() if kind == "data"]


def test_detections_and_their_files(served: Served) -> None:
    while not served.station.player.is_over:
        served.play(1.0)
    until(lambda: not served.do(lambda: served.station.hub.has_work))

    def listed() -> dict[str, Any] | None:
        # What is archived is recalled in its own time after the start.
        events = {event["detection"]["id"]: event for event in served.json("/api/events")}
        return events if ID in events else None

    events = until(listed)
    assert [identifier for identifier, event in events.items() if event["archived"]] == [ID]
    own = next(event for event in events.values() if event["detection"]["station"] == "XX.ABC")
    event = served.json(f"/api/event?id={quote(own['detection']['id'])}")
    assert event["picture"]["waves"].keys() == {"XX.ABC..HHZ", "XX.ABC..HHN", "XX.ABC..HHE"}
    assert event["files"] == {}
    status, headers, body = served.get(f"/api/detection?id={quote(own['detection']['id'])}")
    assert (status, headers["content-disposition"]) == (200, 'attachment; filename="detection.json"')
    assert msgspec.json.decode(body, type=Detection).id == own["detection"]["id"]

    archived = served.json(f"/api/event?id={ID}")
    assert archived["picture"] is None
    assert archived["files"]["waveforms.mseed"] == 256_000
    status, headers, body = served.get(f"/archive/{ID}/waveforms.mseed")
    assert (status, headers["content-length"], len(body)) == (200, "256000", 256_000)
    assert headers["content-disposition"] == f'attachment; filename="{ID}.mseed"'
    assert headers["content-type"] == "application/vnd.fdsn.mseed"
    assert served.ask("HEAD", f"/archive/{ID}/waveforms.mseed")[2] == b""
    for path in (f"/archive/{ID}/secret.txt", f"/archive/{ID}", f"/archive/{ID}/event.png", "/archive//", "/archive/x"):
        assert served.get(path)[0] == 404


def test_an_answer_is_no_older_than_its_question(tmp_path: Path) -> None:
    with serving(quake(seconds=5.0), tmp_path) as served:
        for number in range(3):
            identifier = f"XX.ABC-20240506T07312{number}-1a2b3c4d"
            told = detection(id=identifier, station="XX.ABC")
            assert served.get(f"/api/event?id={identifier}")[0] == 404
            served.do(partial(served.station.hub.tell, [told]))
            assert [event["detection"]["id"] for event in served.json("/api/events")].count(identifier) == 1
            assert served.json(f"/api/event?id={identifier}")["files"] == {}
            archive_with(tmp_path / "events", identifier, day="2024/05/06")
            assert served.json(f"/api/event?id={identifier}")["files"].keys() == {"detection.json", "waveforms.mseed"}


def test_what_many_ask_for_is_made_once(served: Served) -> None:
    page, made = served.station.page, list[float]()

    third = asyncio.Event()

    async def find() -> int:
        made.append(time.monotonic())
        if (number := len(made)) == 3:
            third.set()
            await asyncio.sleep(0.05)
        return number

    async def ask(times: int) -> list[int]:
        answers = await asyncio.gather(*(page._once("test", "name", find) for _ in range(times)))
        return [json.loads(gzip.decompress(answer or b"")) for answer in answers]

    async def work() -> None:
        assert await ask(100) == [1] * 100
        assert await ask(100) == [2] * 100
        # One who asks while an answer is made gets the next one.
        one = asyncio.ensure_future(ask(1))
        await third.wait()
        assert await ask(2) == [4, 4]
        assert await one == [3]

    asyncio.run_coroutine_threadsafe(work(), served._loop).result(PATIENCE_S)
    assert all(later - earlier > 0.2 for earlier, later in pairwise(made))


def test_viewers_are_told_what_is_archived(served: Served) -> None:
    with streaming(served) as one, streaming(served, "") as other:
        for stream in (one, other):
            stream.wait_for("stations")
        served.do(lambda: served.station.page.archived(ID))
        assert one.wait_for("archived") == other.wait_for("archived") == [ID]


def test_twenty_viewers_get_the_same(served: Served) -> None:
    until(lambda: served.do(lambda: len(served.station.page.viewers)) == 0)
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(streaming(served)) for _ in range(20)]
        for stream in streams:
            stream.wait_for("stations")
        until(lambda: served.do(lambda: len(served.station.page.viewers)) == 20)
        until(lambda: b"monitor_page_viewers 20.0" in served.station.metrics.exposition()[1])
        served.do(lambda: served.station.hub.tell([detection(id="told to all", station="XX.ABC")]))
        for stream in streams:
            told = stream.wait_for("detection")
            assert [one["detection"]["id"] for one in told][-1] == "told to all"
        assert served.do(lambda: served.station.page.viewers.dropped) == 0


def test_one_more_than_are_allowed_is_told_so(served: Served) -> None:
    until(lambda: served.do(lambda: len(served.station.page.viewers)) == 0)
    with contextlib.ExitStack() as stack:
        for _ in range(25):
            stack.enter_context(streaming(served)).wait_for("stations")
        status, headers, _ = served.get("/api/live")
        assert (status, headers["retry-after"]) == (503, "60")
        assert b'monitor_page_refused_total{reason="full"} 1.0' in served.station.metrics.exposition()[1]
        assert served.get("/")[0] == 200  # the page itself, which tries again


def test_who_takes_nothing_loses_the_oldest_and_disturbs_nobody(served: Served) -> None:
    viewers = served.station.page.viewers
    # Those of the test before take a moment to be gone.
    until(lambda: served.do(lambda: len(viewers)) == 0)
    with streaming(served, receive_bytes=4096) as stalled, streaming(served) as attentive:
        attentive.wait_for("stations")
        until(lambda: served.do(lambda: len(viewers)) == 2)
        count = 0
        while not served.do(lambda: viewers.dropped):
            count += 1
            assert count < 1000
            filler = b"event: filler\ndata: %d%s\n\n" % (count, b" " * 60_000)
            served.do(partial(viewers.send, [filler]))
            while attentive.received.count(b"event: filler") < count:
                attentive.received += attentive.socket.recv(65536)
        attentive.wait_for("filler", count)
        assert [data for kind, data in attentive.events() if kind in {"filler", "lost"}] == list(range(1, count + 1))
        until(lambda: b"monitor_page_events_dropped_total 0.0" not in served.station.metrics.exposition()[1])
        # It goes on reading, and is told.
        stalled.wait_for("lost")
    until(lambda: served.do(lambda: len(viewers)) == 0)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    with serving(quake('<"&\u202e', seconds=40.0), tmp_path) as served:
        served.play(40.0)
        served.do(lambda: served.station.hub.tell([detection(id=HOSTILE, station=HOSTILE, seed_ids=[HOSTILE])]))
        until(lambda: not served.do(lambda: served.station.hub.has_work))
        with streaming(served, "") as stream:
            (stations,) = stream.wait_for("stations")
            assert stations[0]["station"] == 'XX.<"&\u202e'
        assert served.json("/api/events")[0]["detection"]["station"] == HOSTILE
        assert served.json(f"/api/event?id={quote(HOSTILE)}")["detection"]["id"] == HOSTILE
        assert served.json(f"/api/history?instrument={quote(stations[0]['name'])}")["waves"]


def test_a_login_guards_everything(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret")
    (tmp_path / "password").chmod(0o600)
    with serving(quake(seconds=5.0), tmp_path, user="me", password_file=str(tmp_path / "password")) as served:
        for path in ("/", "/static/app.js", "/api/live", "/api/events", "/api/history", f"/archive/{ID}/event.png"):
            status, headers, body = served.get(path)
            assert (status, body) == (401, b"user name and password, please\n")
            assert headers["www-authenticate"].startswith("Basic ")
        assert served.get("/", **basic("me:secret"))[0] == 200
        assert b'monitor_page_refused_total{reason="login"} 6.0' in served.station.metrics.exposition()[1]


def test_a_port_that_is_taken_is_no_reason_not_to_detect(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, logger="monitor")
    with serving(quake(seconds=5.0), tmp_path) as first:
        page = first.station.page
        settings = PageSettings(port=first.port)
        first.do(lambda: setattr(page, "_settings", settings))
        again = asyncio.run_coroutine_threadsafe(page._listen(), first._loop).result(PATIENCE_S)
        assert again is None
        assert f"[page] cannot listen on 127.0.0.1:{first.port}: Address already in use" in caplog.text
        assert first.get("/")[0] == 200


def test_what_was_drawn_is_there_after_a_restart(tmp_path: Path) -> None:
    recordings = quake(seconds=60.0)
    with serving(recordings, tmp_path) as served:
        served.play(40.0)
        first, bins = served.json(f"/api/drum?instrument={NAME}")
    with serving([s for s in recordings if s.channel_id.channel == "HHZ"], tmp_path) as served:
        served.play(20.0)
        again = served.json(f"/api/drum?instrument={NAME}")
        assert again[0] == first
        assert 0 < len(again[1]) < len(bins)
        assert bins.startswith(again[1][:-8])


def test_json_is_compressed_for_who_takes_it(served: Served) -> None:
    status, headers, body = served.get("/api/events", Accept_Encoding="gzip, br")
    assert (status, headers["content-encoding"]) == (200, "gzip")
    assert json.loads(gzip.decompress(body)) == served.json("/api/events")
