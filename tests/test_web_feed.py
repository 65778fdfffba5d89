"""What the page remembers: rings of rows, bins, feeds of instruments; and that looking on changes nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.detector import DetectorSettings
from monitor.pipeline import StationPipeline
from monitor.ringbuffer import RingBuffer
from monitor.stations import group_channels
from monitor.timebase import NS_PER_SECOND, parse_time
from monitor.web.bins import decimate, read_bins, read_swings
from monitor.web.drumfile import DRUM_FILE, read_drums, write_drums
from monitor.web.events import AFTER_S, BEFORE_S, MOST_EVENTS, MOST_PICTURE_BYTES, Events
from monitor.web.feed import DRUM_BIN_S, LIVE_S
from monitor.web.hub import MOST_FEEDS, Hub
from monitor.web.rowring import RowRing
from tests.detections import detection
from tests.station_page import MODEL, Player, quake
from tests.waveforms import T0, split

writes = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 25)), max_size=12)


@given(writes, st.integers(1, 20))
def test_a_row_ring_is_a_table_of_which_the_newest_rows_are_kept(pieces: list[tuple[int, int]], capacity: int) -> None:
    ring = RowRing(capacity, 1, dtype=np.uint8, missing=0)
    table: dict[int, int] = {}
    value = 0
    for index, count in pieces:
        if table and index < max(table) + 1:  # time goes back: what was behind is forgotten
            oldest = max(table) + 1 - capacity
            table = {} if index <= oldest else {at: kept for at, kept in table.items() if oldest <= at < index}
        rows = (np.arange(value, value + count) % 255 + 1).astype(np.uint8)
        value += count
        ring.write(index, rows[:, None])
        table |= {index + at: int(row) for at, row in enumerate(rows)}
        end = index + count
        table = {at: kept for at, kept in table.items() if at >= end - capacity}
        assert ring.end == end
        assert ring.read(end - 2 * capacity, end + 3)[:, 0].tolist() == [
            table.get(at, 0) for at in range(end - 2 * capacity, end + 3)
        ]
        first, newest = ring.newest(10_000)
        assert first + len(newest) == end
        assert len(newest) <= capacity


def test_a_clock_set_back_by_years_costs_nothing() -> None:
    ring = RowRing(100, 1, dtype=np.uint8, missing=0)
    ring.write(10**11, np.ones((5, 1), np.uint8))
    assert ring.write(10, np.ones((5, 1), np.uint8))
    ring.write(10**11, np.ones((5, 1), np.uint8))
    assert ring.read(10**11 - 3, 10**11 + 5).sum() == 5


@given(
    st.lists(st.integers(-1000, 1000), min_size=1, max_size=200),
    st.integers(0, 50),
    st.integers(1, 12),
    st.sets(st.integers(0, 199)),
)
@settings(max_examples=50)
def test_bins_are_the_extremes_of_what_is_real(values: list[int], start: int, length: int, holes: set[int]) -> None:
    ring = RingBuffer(400)
    for at, value in enumerate(values):
        if at not in holes:
            ring.write(start + at, np.array([float(value)]))
    stop = -(-(start + len(values)) // length) + 1
    bins = read_bins(ring, 0, stop, length=length)
    swings = read_swings(ring, 0, stop, length=length)
    for number in range(stop):
        real = [
            float(values[at - start])
            for at in range(number * length, (number + 1) * length)
            if 0 <= at - start < len(values) and at - start not in holes
        ]
        if not real:
            assert np.isnan(bins[number]).all()
            assert np.isnan(swings[number]).all()
            continue
        assert bins[number].tolist() == [min(real), max(real)]
        mean = sum(real) / len(real)
        np.testing.assert_allclose(swings[number], [min(real) - mean, max(real) - mean], atol=1e-3)


def test_decimated_bins_are_the_extremes_of_bins() -> None:
    bins = np.array([[1, 2], [0, 5], [np.nan, np.nan], [np.nan, np.nan], [-3, 1]], np.float32)
    np.testing.assert_array_equal(decimate(bins, 2), np.array([[0, 5], [np.nan, np.nan], [-3, 1]], np.float32))
    assert decimate(bins[:0], 2).shape == (0, 2)


@pytest.fixture(scope="module")
def player() -> Player:
    player = Player(quake(seconds=120.0), Hub(MODEL))
    player.play(120.0)
    return player


def test_looking_on_changes_nothing(player: Player) -> None:
    recordings = quake(seconds=120.0)
    (group,) = group_channels({segment.channel_id for segment in recordings})
    alone = StationPipeline(group, MODEL, DetectorSettings(), origin="live")
    pieces = sorted((p for s in recordings for p in split(s, [100])), key=lambda piece: piece.next_ns)
    assert [d for piece in pieces for d in alone.push(piece)] == player.detections
    assert player.detections[-1].state == "final"


def test_history_holds_what_was_recorded_and_seen(player: Player) -> None:
    history = player.hub.history("XX.ABC..HH")
    assert history is not None
    (recording,) = [s for s in quake(seconds=120.0) if s.channel_id.channel == "HHZ"]
    waves = history["waves"]
    assert isinstance(waves, dict)
    assert list(waves) == ["XX.ABC..HHZ", "XX.ABC..HHN", "XX.ABC..HHE"]
    first, rows = waves["XX.ABC..HHZ"]
    bins = np.frombuffer(rows, np.float32).reshape(-1, 2)
    assert len(bins) == LIVE_S * 20
    # The grid of 100 Hz is three thousandths of a second off the recording's.
    onset = round((T0 + 60 * NS_PER_SECOND) / NS_PER_SECOND * 20) - first
    quiet, loud = bins[onset - 100 : onset - 5], bins[onset : onset + 40]
    assert np.abs(quiet).max() < 400
    assert np.abs(loud).max() > 1000
    assert np.abs(loud).max() == pytest.approx(np.abs(recording.samples[6000:6200]).max(), rel=0.1)
    frames = history["frames"]
    levels = np.frombuffer(frames.rows, np.uint8).reshape(-1, 32)  # type: ignore[attr-defined]
    at = round((T0 / NS_PER_SECOND + 60.5) * 10) - frames.first  # type: ignore[attr-defined]
    decibel = -20 + (levels[at].astype(float) - 1) / 254 * 80
    assert decibel[:8].mean() > 10
    steps = history["steps"]
    outputs = np.frombuffer(steps.rows, np.uint8).reshape(-1, 3)  # type: ignore[attr-defined]
    assert (outputs[:, 0].max() - 1) / 254 == pytest.approx(max(d.probability for d in player.detections), abs=0.01)


def test_the_drum_keeps_a_day_of_swings(player: Player) -> None:
    drum = player.hub.drum("XX.ABC..HH")
    assert drum is not None
    bins = (np.frombuffer(drum.rows, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(-1, 2)
    assert 28 <= len(bins) <= 31
    loudest = drum.first + int(np.nanargmax(bins[:, 1] - bins[:, 0]))
    assert loudest * DRUM_BIN_S <= T0 / NS_PER_SECOND + 64.5 < (loudest + 2) * DRUM_BIN_S


def test_news_continue_where_the_last_ended() -> None:
    hub = Hub(MODEL)
    player = Player(quake(), hub)
    player.play(20.0)
    name = "XX.ABC..HH"
    hub.news(watched=frozenset({name}), overview=False)
    received: dict[int, tuple[float, ...]] = {}
    ends = []
    for _ in range(20):
        player.play(1.7)
        news = hub.news(watched=frozenset({name}), overview=False)
        (feed,) = news.feeds.values()
        first, rows = feed["waves"]["XX.ABC..HHN"]  # type: ignore[index]
        for at, row in enumerate(np.frombuffer(rows, np.float32).reshape(-1, 2)):
            assert first + at not in received
            received[first + at] = tuple(row.tolist())
        ends.append(first + at)
    history = hub.history(name)
    first, rows = history["waves"]["XX.ABC..HHN"]  # type: ignore[index]
    whole = np.frombuffer(rows, np.float32).reshape(-1, 2)
    assert sorted(received) == list(range(min(received), max(received) + 1))
    assert len(received) > 600
    for at, values in received.items():
        np.testing.assert_array_equal(whole[at - first], values)
    assert hub.news(watched=frozenset(), overview=False).feeds == {}


def test_who_begins_to_follow_misses_nothing() -> None:
    hub = Hub(MODEL)
    player = Player(quake(), hub)
    player.play(40.0)
    name = "XX.ABC..HH"
    assert hub.recent("none of that name") is None
    for others in (frozenset({name}), frozenset[str]()):
        # What was asked for just before the stream began; what it begins with; what comes then.
        parts: list[Any] = [hub.history(name)]
        player.play(1.0)
        parts.append(hub.recent(name))
        player.play(1.0)
        parts.append(hub.news(watched=frozenset({name}), overview=False).feeds[name])
        for what in ("waves", "frames", "steps"):
            for of in ("XX.ABC..HHZ", "XX.ABC..HHN", "XX.ABC..HHE") if what == "waves" else (None,):
                pieces = [part[what] if of is None else part[what][of] for part in parts]
                width = {"waves": 8, "frames": MODEL.metadata.spectrogram.n_freq, "steps": 3}[what]
                spans = [(first, first + len(rows) // width) for first, rows in pieces]
                assert spans[1][0] < spans[0][1] < spans[1][1]
                assert spans[2][0] <= spans[1][1] < spans[2][1]
        assert parts[1]["drum"][1]
        hub.news(watched=others, overview=False)


def test_a_detection_has_a_picture_once_all_is_there(player: Player) -> None:
    hub = Hub(MODEL)
    again = Player(quake(seconds=120.0), hub)
    pictures = []
    while not again.is_over:
        again.play(1.0)
        pictures += [(event.detection.state, event.complete, event.picture) for event in hub.news(
            watched=frozenset(), overview=False
        ).events]  # fmt: skip
    assert [state for state, *_ in pictures] == ["new", *(d.state for d in again.detections[1:]), "final"]
    assert pictures[-1][1]
    assert not hub.has_work
    (event,) = hub.events
    assert event.picture is not None
    onset_s = parse_time(event.detection.onset) / NS_PER_SECOND
    assert event.detection.end is not None
    end_s = parse_time(event.detection.end) / NS_PER_SECOND
    waves = event.picture["waves"]
    assert isinstance(waves, dict)
    samples = np.frombuffer(waves["XX.ABC..HHZ"], np.float32)
    assert len(samples) == pytest.approx((end_s - onset_s + BEFORE_S + AFTER_S) * 100, abs=3)
    assert np.isfinite(samples).all()
    assert len(event.thumb) == 240
    assert max(abs(v) for v in event.thumb if v is not None) == 100


def test_events_are_bounded_in_number_and_bytes() -> None:
    events = Events()
    for number in range(3 * MOST_EVENTS):
        event = events.tell(detection(id=f"id{number}", onset=f"2024-05-06T07:{number // 60:02d}:{number % 60:02d}Z"))
        event.picture, event.picture_bytes = {}, 100_000
    events.tell(detection(id="id0", onset="2024-05-06T09:00:00Z"))
    assert len(events) == MOST_EVENTS
    kept = [event for event in events if event.picture is not None]
    assert sum(event.picture_bytes for event in kept) <= MOST_PICTURE_BYTES
    assert next(iter(events)).detection.id == "id0"
    older = events.tell(detection(id="id0", revision=1))
    assert older.detection.onset == "2024-05-06T09:00:00Z"


def test_more_instruments_than_can_be_shown_are_not() -> None:
    hub = Hub(MODEL)
    recordings = [s for n in range(MOST_FEEDS + 2) for s in quake(f"S{n}", seconds=1.5)[:1]]
    player = Player(recordings, hub)
    player.play(10.0)
    assert len(hub.stations()) == MOST_FEEDS
    assert len(hub.hidden) == 2
    hub.keep_only(["XX.S1..HH"])
    assert [line["name"] for line in hub.sparks()] == ["XX.S1..HH"]


def test_a_recorder_whose_clock_is_set_back_begins_a_new_epoch() -> None:
    hub = Hub(MODEL)
    player = Player(quake(), hub)
    player.play(50.0)
    before = hub.history("XX.ABC..HH")
    back_ns = 3600 * NS_PER_SECOND
    earlier = Player([replace(s, starttime_ns=s.starttime_ns - back_ns) for s in quake()], hub)
    earlier.play(50.0)
    after = hub.history("XX.ABC..HH")
    assert before is not None
    assert after is not None
    assert (before["epoch"], after["epoch"]) == (0, 1)
    drum = hub.drum("XX.ABC..HH")
    assert drum is not None
    assert drum.first * DRUM_BIN_S < T0 / NS_PER_SECOND - 3000


def test_the_drum_survives_a_restart(player: Player, tmp_path: Path) -> None:
    write_drums(tmp_path, player.hub.saved(), bin_s=DRUM_BIN_S)
    assert read_drums(tmp_path, bin_s=DRUM_BIN_S + 1) == {}
    saved = read_drums(tmp_path, bin_s=DRUM_BIN_S)
    assert saved == player.hub.saved()
    before = player.hub.drum("XX.ABC..HH")
    assert before is not None
    hour_ns = 3600 * NS_PER_SECOND
    later = Player([replace(s, starttime_ns=s.starttime_ns + hour_ns) for s in quake(seconds=20.0)], Hub(MODEL))
    later.hub.restore(saved)
    assert later.hub.saved() == player.hub.saved()  # nothing has come yet
    later.play(20.0)
    after = later.hub.drum("XX.ABC..HH")
    assert after is not None
    assert after.first == before.first
    assert after.rows.startswith(before.rows)
    assert 900 <= len(after.rows) / 4 <= 910
    # What is received again replaces what was saved, and nothing else.
    again = Player(quake(seconds=120.0), Hub(MODEL))
    again.hub.restore(read_drums(tmp_path, bin_s=DRUM_BIN_S))
    again.play(120.0)
    assert again.hub.drum("XX.ABC..HH") == before


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 100, b"\x82\xa5bin_s\x04\xa5drums\x81\xa1\xff\x80"])
def test_a_drum_file_that_is_none_is_passed_over(tmp_path: Path, content: bytes) -> None:
    assert read_drums(tmp_path, bin_s=DRUM_BIN_S) == {}
    (tmp_path / DRUM_FILE).write_bytes(content)
    assert read_drums(tmp_path, bin_s=DRUM_BIN_S) == {}
    write_drums(tmp_path / "absent", {}, bin_s=DRUM_BIN_S)  # a disk that takes nothing is no fault
