"""The live engine against replay: the same data give the same detections, whatever way they come."""

import itertools
from pathlib import Path

import msgspec
import numpy as np
import pytest

from monitor.clock import Discipline, FixedClock
from monitor.engine import Engine, Irregular
from monitor.model import Model
from monitor.records import ChannelId, Detection, Packet, Segment
from monitor.settings import LiveSettings, QualitySettings, SeedLinkSettings, Settings
from monitor.state import STATE_FILE, SavedState, StateError, read_state, write_state
from monitor.timebase import NS_PER_SECOND
from tests.test_pipeline import detect
from tests.test_resume import SETTINGS, packets
from tests.waveforms import T0, earthquake, segments, split

SERVICE = Settings(detector=SETTINGS)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


class Feed:
    """Packets as a server gives them, one after the other, each received as soon as it is full."""

    def __init__(self, engine: Engine, clock: FixedClock) -> None:
        self.engine, self.clock = engine, clock
        self.numbers = itertools.count(1)
        self.told: list[Detection] = []

    def give(self, piece: Segment, *, server: str = "one", sequence: int | None = None, late_s: float = 0.3) -> None:
        at = piece.next_ns + round(late_s * NS_PER_SECOND)
        self.clock.advance(max(0, at - self.clock.now_ns()))
        number = next(self.numbers) if sequence is None else sequence
        packet = Packet(server, piece.channel_id.station_id, number, (piece,), 512, self.clock.now_ns(), 100)
        self.told += self.engine.take(packet)
        self.told += self.engine.tick()


def feed(model: Model, *, settings: Settings = SERVICE, saved: SavedState | None = None, now_ns: int = T0) -> Feed:
    clock = FixedClock(now_ns, discipline=Discipline(True, 0, 0, 0))
    return Feed(Engine(model, settings, clock=clock, saved=saved), clock)


def alike(found: list[Detection]) -> dict[tuple[str, int], Detection]:
    """By id and revision, without what only a live monitor knows."""
    return {
        (d.id, d.revision): msgspec.structs.replace(
            d,
            origin="replay",
            reason=msgspec.structs.replace(
                d.reason, checks={name: ok for name, ok in d.reason.checks.items() if name != "timing_good"}
            ),
        )
        for d in found
    }


@pytest.fixture(scope="module")
def source() -> list[Segment]:
    return packets(100.0)


@pytest.fixture(scope="module")
def replayed(model: Model, source: list[Segment]) -> dict[tuple[str, int], Detection]:
    return alike(detect(model, source, settings=SETTINGS))


def finish(run: Feed) -> list[Detection]:
    for instrument in run.engine.instruments:
        run.told += run.engine._told(instrument, instrument.end())
    return run.told


def test_live_equals_replay(model: Model, source: list[Segment], replayed: dict[tuple[str, int], Detection]) -> None:
    run = feed(model)
    for piece in source:
        run.give(piece)
    told = finish(run)
    assert alike(told) == replayed
    assert {d.origin for d in told} == {"live"}
    assert all(d.reason.checks["timing_good"] for d in told)


def test_records_of_half_a_minute_that_are_full_at_different_times(model: Model) -> None:
    whole = [
        earthquake(rate=100.0, p_s=p, s_minus_p=3, seconds=100, snr=12, seed=seed)
        for seed, p in enumerate((20, 47, 70, 11, 60))
    ]
    parts = segments(np.concatenate(whole, axis=1), rate=100.0)
    pieces = [piece for part, size in zip(parts, (4700, 3100, 3800), strict=True) for piece in split(part, [size])]
    run = feed(model)
    for piece in sorted(pieces, key=lambda piece: piece.next_ns):
        run.give(piece)
    replayed = alike(detect(model, pieces, settings=SETTINGS))
    assert len({one for one, _ in replayed}) == 5
    assert alike(finish(run)) == replayed


def test_two_servers_out_of_step_and_one_that_dies_are_one_stream(
    model: Model, source: list[Segment], replayed: dict[tuple[str, int], Detection]
) -> None:
    run = feed(model)
    rng = np.random.default_rng(3)
    later: list[Segment] = []
    for number, piece in enumerate(source):
        # The first server loses some packets, then all; the second is a few packets behind. Where the stream begins
        # nobody can know that something is missing: what came before the first packet is too late.
        if number < len(source) // 2 and (rng.random() > 0.1 or number < 3):
            run.give(piece, server="one")
        later.append(piece)
        if len(later) > 4:
            run.give(later.pop(0), server="two")
    for piece in later:
        run.give(piece, server="two")
    assert alike(finish(run)) == replayed
    assert sum(i.reorder(c).counts.duplicates for i in run.engine.instruments for c in i.channels) > 100


def test_killed_and_restarted_from_the_saved_state(
    model: Model, source: list[Segment], replayed: dict[tuple[str, int], Detection], tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    told: list[Detection] = []
    saved, first = None, 0
    for stop in [*sorted(rng.integers(200, len(source), 4).tolist()), len(source)]:
        run = feed(model, saved=saved, now_ns=source[max(0, stop - 1)].next_ns)
        for number in range(first, stop):
            run.give(source[number], sequence=number)
        told += run.told if stop < len(source) else finish(run)
        write_state(tmp_path, run.engine.saved())
        saved = read_state(tmp_path)
        assert saved is not None
        (position,) = saved.positions
        assert position.sequence is not None
        assert position.time_ns > source[0].starttime_ns - 1
        # The server begins with the packet that the position names.
        first = position.sequence
        assert source[first].next_ns > position.time_ns
        assert all(piece.next_ns <= position.time_ns for piece in source[:first])
    assert alike(told) == replayed


def test_a_component_that_stops_is_not_waited_for_long(model: Model) -> None:
    quake = earthquake(rate=100.0, p_s=60.0, s_minus_p=4.0, seconds=90.0, snr=15.0, seed=1)
    pieces = [p for whole in segments(quake, rate=100.0) for p in split(whole, [100])]
    run = feed(model)
    for piece in sorted(pieces, key=lambda piece: piece.starttime_ns):
        if piece.channel_id.channel != "HHE" or piece.starttime_ns < T0 + 30 * NS_PER_SECOND:
            run.give(piece)
    new = next(d for d in run.told if d.state == "new")
    assert abs((run.clock.now_ns() - T0) / NS_PER_SECOND - 90.3) < 1
    assert new.seed_ids == ["XX.ABC..HHZ", "XX.ABC..HHN", "XX.ABC..HHE"]


def test_a_station_with_a_vertical_alone_is_followed_from_its_first_sample(model: Model) -> None:
    quake = earthquake(rate=100.0, p_s=40.0, s_minus_p=4.0, seconds=75.0, snr=15.0, seed=1)
    pieces = segments(quake, rate=100.0, channels="Z")
    run = feed(model)
    for piece in split(pieces[0], [100]):
        run.give(piece)
    assert alike(finish(run)) == alike(detect(model, pieces, settings=SETTINGS))


def test_backlog_is_marked(model: Model, source: list[Segment]) -> None:
    run = feed(model, now_ns=source[-1].next_ns + 600 * NS_PER_SECOND)
    for piece in source:
        run.give(piece)
    assert {d.origin for d in run.told} == {"backfill"}


def test_packets_from_the_future_are_dropped_unless_the_clock_is_wrong(model: Model) -> None:
    ahead = segments(np.zeros((3, 100)), rate=100.0, start_ns=T0 + 3600 * NS_PER_SECOND)[0]
    for synchronised, dropped in ((True, 1), (False, 0)):
        clock = FixedClock(T0, discipline=Discipline(synchronised, 0, 0, 0))
        engine = Engine(model, SERVICE, clock=clock)
        engine.take(Packet("one", "XX.ABC", 1, (ahead,), 512, T0))
        assert engine.happened().irregular[Irregular("one", "future")] == dropped


def test_a_clipped_channel_triggers_nothing(model: Model) -> None:
    quake = earthquake(rate=100.0, p_s=150.0, s_minus_p=4.0, seconds=180.0, snr=3000.0, seed=1)
    # A mass that swings from stop to stop.
    swing = 70_000 * np.sin(2 * np.pi * np.arange(quake.shape[1]) / 400)
    wholes = segments(np.clip(quake + swing, -49_000, 49_000), rate=100.0)
    pieces = sorted((p for whole in wholes for p in split(whole, [100])), key=lambda piece: piece.starttime_ns)
    shown = [d for d in detect(model, pieces, settings=SETTINGS) if d.state == "new"]
    assert shown
    run = feed(model)
    for piece in pieces:
        run.give(piece)
    finish(run)
    assert run.engine.suppressed == len(shown)
    assert run.told == []


def test_after_long_silence_what_goes_on_is_ended(model: Model) -> None:
    quake = earthquake(rate=100.0, p_s=40.0, s_minus_p=4.0, seconds=43.0, snr=15.0, seed=1)
    run = feed(model, settings=Settings(detector=SETTINGS, live=LiveSettings(end_of_data_s=60.0)))
    pieces = [p for whole in segments(quake, rate=100.0) for p in split(whole, [100])]
    for piece in sorted(pieces, key=lambda piece: piece.starttime_ns):
        run.give(piece)
    assert {d.state for d in run.told} <= {"new", "update"}
    run.clock.advance(61 * NS_PER_SECOND)
    assert [d.state for d in run.engine.tick()] == ["final"]
    assert run.engine.tick() == []


def test_a_channel_that_comes_later_joins(model: Model) -> None:
    quake = earthquake(rate=100.0, p_s=90.0, s_minus_p=4.0, seconds=120.0, snr=15.0, seed=1)
    pieces = [p for whole in segments(quake, rate=100.0) for p in split(whole, [100])]
    run = feed(model)
    for piece in sorted(pieces, key=lambda piece: piece.starttime_ns):
        if piece.channel_id.channel == "HHZ" or piece.starttime_ns > T0 + 40 * NS_PER_SECOND:
            run.give(piece)
    (group,) = run.engine.groups
    assert group.seed_ids == ["XX.ABC..HHZ", "XX.ABC..HHN", "XX.ABC..HHE"]
    assert {d.id for d in finish(run)}


def test_nothing_that_is_no_seismometer_is_followed(model: Model) -> None:
    run = feed(model)
    for code in ("LOG", "VM1", "BDF"):
        run.give(Segment(ChannelId("XX", "ABC", "", code), T0, 100.0, np.zeros(100, np.int32)))
    run.give(Segment(ChannelId("XX", "ABC", "", "LHZ"), T0, 1.0, np.zeros(100, np.int32)))
    assert run.engine.groups == []


def test_a_damaged_state_is_set_aside(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    (tmp_path / STATE_FILE).write_bytes(b'{"schema": "monitor.state/1", "step')
    with pytest.raises(StateError, match="damaged"):
        read_state(tmp_path)
    assert read_state(tmp_path) is None
    assert list(tmp_path.glob("*.damaged"))


def test_a_state_that_cannot_be_written_is_told(tmp_path: Path, model: Model) -> None:
    engine = Engine(model, SERVICE, clock=FixedClock(T0))
    with pytest.raises(StateError, match="cannot be written"):
        write_state(tmp_path / "absent", engine.saved())


def test_after_a_long_outage_data_go_on_as_if_there_had_been_none(
    model: Model, source: list[Segment], replayed: dict[tuple[str, int], Detection]
) -> None:
    run = feed(model)
    for number, piece in enumerate(source):
        if number == len(source) // 2:
            assert not any(instrument.pipeline.is_detecting for instrument in run.engine.instruments)
            run.clock.advance(3 * 3600 * NS_PER_SECOND)
            assert run.engine.tick() == []
        run.give(piece)
    assert alike(finish(run)) == replayed


def test_a_channel_that_is_asked_for_by_name_and_never_comes_is_dead(model: Model) -> None:
    named = SeedLinkSettings(host="h", stations=["XX.ABC.00.HHZ", "XX.GONE.00.HHZ", "XX.WILD.00.HH?"])
    settings = msgspec.structs.replace(SERVICE, seedlink=[named])
    run = feed(model, settings=settings)
    assert [look.report.seed_id for look in run.engine.look()] == ["XX.ABC.00.HHZ", "XX.GONE.00.HHZ"]
    run.clock.advance(200 * NS_PER_SECOND)
    assert {look.report.state for look in run.engine.look()} == {"dead"}
    run.engine.reconfigure(SERVICE, lambda channel: False)
    assert run.engine.look() == []


def test_limits_of_quality_can_be_changed_while_it_runs(model: Model) -> None:
    run = feed(model)
    wave = 1000 * np.sin(np.arange(10_000) / 7)[None]
    pieces = split(segments(wave, rate=100.0, channels="Z")[0], [100])
    for piece in pieces[:50]:
        run.give(piece)
    assert run.engine.look()[0].report.state == "ok"
    strict = msgspec.structs.replace(SERVICE, quality=QualitySettings(full_scale_counts=900.0))
    run.engine.reconfigure(strict, lambda channel: True)
    for piece in pieces[50:]:
        run.give(piece)
    assert run.engine.look()[0].report.state == "clipped"
