"""A short part of the fault suite; `make chaos` runs all of it."""

import asyncio
import contextlib
import random
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.clock import FixedClock
from monitor.engine import Engine
from monitor.latest import LatestTime
from monitor.model import Model
from monitor.mqtt import LinkError, Will, connect
from monitor.outbox import Outbox
from monitor.records import ChannelId, Packet, Segment
from monitor.settings import MqttSettings, OutboxSettings, Settings
from monitor.state import STATE_FILE, StateError, read_state, write_state
from monitor.timebase import NS_PER_SECOND
from tests.chaos import data, kill, network, outage, power, resources, soak
from tests.chaos.data import HOUR_NS, SteppedClock
from tests.chaos.fuzz_one import changed
from tests.chaos.outcome import Ledger, Options, Outcome
from tests.chaos.report import write_report
from tests.chaos.targets import SLOW, TARGETS
from tests.chaos.writer import T0, message, state


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(folder=tmp_path, short=True, kills=3, crash_points=40, soak_hours=0.6)


def held(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        assert outcome.held, f"{outcome.fault}: {outcome.losses} lost, {outcome.note}, {outcome.details}"


@pytest.mark.needs("mosquitto")
def test_killed_nothing_is_lost(options: Options) -> None:
    held(kill.run(options))


@pytest.mark.needs("strace")
def test_a_power_cut_leaves_what_was_said_to_be_on_disk(options: Options) -> None:
    held([power.cuts(options)])


def test_damaged_files_are_reported_and_replaced(options: Options) -> None:
    held([power.damage(options)])


@pytest.mark.needs("mosquitto")
def test_connections_that_break(options: Options) -> None:
    held(network.run(options))


@pytest.mark.needs("mosquitto")
def test_hours_without_a_broker(options: Options) -> None:
    held([outage.run(options, hours=0.2)])


def test_clocks_and_packets_that_are_wrong(options: Options) -> None:
    held(data.run(options))


@pytest.mark.needs("strace")
def test_a_disk_that_is_full_at_any_write(options: Options) -> None:
    held([resources.full_at_each_write(options)])


def test_a_processor_that_is_too_slow(options: Options) -> None:
    held([resources.starved(options)])


def test_hours_of_data(options: Options) -> None:
    held(soak.run(options))


@pytest.mark.parametrize("name", [name for name in TARGETS if name not in SLOW])
@settings(max_examples=60)
@given(arbitrary=st.binary(max_size=300), chance=st.randoms(use_true_random=False), which=st.integers(0, 99))
def test_any_bytes_end_in_data_or_in_words(name: str, arbitrary: bytes, chance: random.Random, which: int) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    target.read(arbitrary)
    target.read(changed(seeds[which % len(seeds)], chance))


@pytest.mark.parametrize("name", [name for name in SLOW if name != "page"])
def test_whatever_the_other_side_says_ends_the_connection(name: str) -> None:
    chance = random.Random(1)
    for seed in TARGETS[name].seeds():
        TARGETS[name].read(seed)
        TARGETS[name].read(changed(seed, chance))


def test_the_report_tells_what_did_not_hold(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "results.json")
    broken = Outcome("kill", "kill -9", "all is heard", runs=3)
    broken.fail("lost one")
    about = {"seed": "1", "machine": "x"}
    ledger.put("kill", [Outcome("kill", "none", "all is heard", runs=2), broken], seconds=1.0, about=about)
    write_report(tmp_path / "report.md", Ledger(tmp_path / "results.json"))
    text = (tmp_path / "report.md").read_text()
    assert "| none | all is heard | 2 runs | 0 | 0 | yes |" in text
    assert "| kill -9 | all is heard | 3 runs | 0 | 0 | no: 1 of 3 |" in text
    assert "Not run." in text


class TestWhatTheSuiteHasFound:
    """Each once broke."""

    def test_a_state_file_that_is_not_text(self, tmp_path: Path) -> None:
        (tmp_path / STATE_FILE).write_bytes(b'{"schema":"\xda\xff"}')
        with pytest.raises(StateError, match="set aside"):
            read_state(tmp_path)
        assert read_state(tmp_path) is None

    def test_a_number_in_the_state_file_that_was_altered(self, tmp_path: Path) -> None:
        write_state(tmp_path, state(7))
        content = (tmp_path / STATE_FILE).read_bytes()
        assert read_state(tmp_path) == state(7)
        (tmp_path / STATE_FILE).write_bytes(content.replace(b'"needed_from_ns":7', b'"needed_from_ns":6'))
        with pytest.raises(StateError, match="checksum"):
            read_state(tmp_path)
        # One of before there were checksums.
        (tmp_path / STATE_FILE).write_bytes(msgspec.json.encode(state(7)))
        assert read_state(tmp_path) == state(7)

    def test_two_saves_at_once(self, tmp_path: Path) -> None:
        states = [state(number) for number in (3, 4)]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda number: write_state(tmp_path, states[number % 2]), range(40)))
        assert read_state(tmp_path) in states

    def test_a_message_that_was_altered_on_disk_is_not_sent(self, tmp_path: Path) -> None:
        path = tmp_path / "outbox.sqlite"
        with contextlib.closing(Outbox(path, OutboxSettings(), clock=lambda: T0)) as outbox:
            outbox.put_many([message(number) for number in range(3)])
            under_way = outbox.next(1)[0].number
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("UPDATE message SET payload = ? WHERE detection_id = 'id1'", (b"x",))
            db.commit()
        with contextlib.closing(Outbox(path, OutboxSettings(), clock=lambda: T0)) as outbox:
            outbox.next(1)
            found = outbox.next(9, but={under_way})
            assert [queued.message for queued in found] == [message(0), message(2)]
            assert "is not what was written" in outbox.notices[0]
            # What is under way from the damaged file is acknowledged under its old number.
            outbox.remove([under_way])
            assert outbox.stats().depth == 2

    def test_an_outbox_without_checksums_is_taken_over(self, tmp_path: Path) -> None:
        path = tmp_path / "outbox.sqlite"
        with contextlib.closing(Outbox(path, OutboxSettings(), clock=lambda: T0)) as outbox:
            outbox.put(message(0))
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.executescript("ALTER TABLE message DROP COLUMN crc; PRAGMA user_version = 1;")
        with contextlib.closing(Outbox(path, OutboxSettings(), clock=lambda: T0)) as outbox:
            outbox.put(message(1))
            assert [queued.message for queued in outbox.next(9)] == [message(0), message(1)]
            assert outbox.notices == []

    def test_a_clock_that_was_set_back_is_not_believed_at_once(self) -> None:
        clock = SteppedClock(T0)
        latest = LatestTime(clock)
        clock.true_ns += NS_PER_SECOND
        assert latest.now_ns() == T0 + NS_PER_SECOND
        clock.wrong_ns = -3 * HOUR_NS
        assert latest.now_ns() == T0 + NS_PER_SECOND
        clock.true_ns += 25 * HOUR_NS
        assert latest.now_ns() == clock.now_ns()
        clock.wrong_ns = HOUR_NS
        assert latest.now_ns() == clock.now_ns()

    def test_no_more_instruments_than_can_be_followed_begin_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("monitor.engine.MOST_INSTRUMENTS", 3)
        engine = Engine(Model(), Settings(), clock=FixedClock(T0))
        for second in (0, 12):
            for number in range(9):
                channel = ChannelId("XX", f"S{number}", "", "HHZ")
                piece = Segment(channel, T0 + second * NS_PER_SECOND, 100.0, np.zeros(1200, np.int32))
                engine.take(Packet("one", channel.station_id, None, (piece,), 512, T0 + second * NS_PER_SECOND))
        assert len(engine.groups) == 3

    def test_a_broker_that_accepts_and_closes(self) -> None:
        async def run() -> None:
            async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.read(200)
                writer.write(b"\x20\x02\0\0")
                writer.close()

            async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
                port = server.sockets[0].getsockname()[1]
                broker = MqttSettings(host="127.0.0.1", port=port, version="3.1.1")
                stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                with pytest.raises(LinkError, match="closed"):
                    async with connect(broker, client_id="a", will=Will("a/b", b""), stop=stop) as link:
                        await link.lost()

        asyncio.run(run())
