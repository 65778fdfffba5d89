"""The durable queue: order, bounds, what is remembered, and what happens when the disk fails or the file is damaged."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor import outbox_file, outbox_memory, outbox_rows
from monitor.outbox import TRY_AGAIN_S, Outbox, OutboxBusyError, OutboxError
from monitor.outbox_message import Key, Lane, OutboxMessage
from monitor.outbox_thread import OutboxThread
from monitor.settings import OutboxSettings

NOW_NS = 1_700_000_000 * 10**9
DAY_NS = 86400 * 10**9


class Clock:
    def __init__(self) -> None:
        self.now_ns = NOW_NS

    def __call__(self) -> int:
        return self.now_ns


def message(name: str = "a", revision: int | None = 0, *, lane: Lane = "live", **changes: Any) -> OutboxMessage:
    fields: dict[str, Any] = {
        "topic": "monitor/v1/XX/A/detection",
        "payload": f"{name}{revision}".encode(),
        "created_ns": NOW_NS,
        "key": None if revision is None else Key(name, revision),
        "lane": lane,
    }
    return OutboxMessage(**(fields | changes))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.sqlite"


@pytest.fixture
def outbox(path: Path, clock: Clock) -> Iterator[Outbox]:
    with closing(Outbox(path, OutboxSettings(), clock=clock)) as opened:
        yield opened
        assert opened.notices == []


def reopened(outbox: Outbox, path: Path, clock: Clock) -> Outbox:
    outbox.close()
    return Outbox(path, OutboxSettings(), clock=clock)


def drained(outbox: Outbox) -> list[str]:
    """Send everything, one at a time as a broker without a window would take it."""
    sent = []
    while queued := outbox.next(1):
        sent.append(queued[0].message.payload.decode())
        outbox.remove([queued[0].number])
    return sent


class TestOrder:
    def test_first_in_first_out(self, outbox: Outbox) -> None:
        outbox.put_many([message("a"), message("b"), message("c", None)])
        assert [q.message.payload for q in outbox.next(2)] == [b"a0", b"b0"]
        assert drained(outbox) == ["a0", "b0", "cNone"]

    def test_live_before_backfill(self, outbox: Outbox) -> None:
        outbox.put_many([message("old", lane="backfill"), message("older", lane="backfill"), message("now")])
        assert drained(outbox) == ["now0", "old0", "older0"]

    def test_revisions_keep_their_order_across_lanes(self, outbox: Outbox) -> None:
        outbox.put(message("other", lane="backfill"))
        outbox.put(message("a", 0, lane="backfill"))
        outbox.put(message("a", 1, lane="live"))
        outbox.put(message("a", 2, lane="backfill"))
        assert drained(outbox) == ["a0", "a1", "other0", "a2"]

    def test_one_message_of_a_detection_at_a_time(self, outbox: Outbox) -> None:
        outbox.put_many([message("a", 0), message("a", 1), message("b", 0)])
        assert [q.message.payload for q in outbox.next(10)] == [b"a0", b"b0"]
        assert outbox.next(10, but_of=["a", "b"]) == []

    def test_what_is_under_way_is_not_given_again(self, outbox: Outbox) -> None:
        outbox.put_many([message("a", None), message("b", None)])
        first, second = outbox.next(10)
        assert outbox.next(10, but=[first.number]) == [second]
        outbox.remove([second.number, 12345])
        assert outbox.next(10) == [first]

    @settings(max_examples=40)
    @given(
        messages=st.lists(
            st.tuples(st.sampled_from("abc"), st.sampled_from(["live", "backfill"]), st.booleans()), max_size=12
        ),
        window=st.integers(1, 4),
        failing=st.sets(st.integers(0, 11)),
    )
    def test_revisions_never_overtake_each_other(
        self, messages: list[tuple[str, Lane, bool]], window: int, failing: set[int]
    ) -> None:
        """Whatever the lanes, whether or not the disk takes them, and whatever is removed between."""
        revisions = dict.fromkeys("abc", 0)
        box = Outbox(Path(":memory:"), OutboxSettings(), clock=Clock())
        sent: list[OutboxMessage] = []
        for number, (name, lane, send) in enumerate(messages):
            made = message(name, revisions[name], lane=lane)
            revisions[name] += 1
            if number in failing:
                box._memory.add(made)
            else:
                box.put(made)
            if send:
                under_way = box.next(window)
                sent += [q.message for q in under_way]
                box.remove(q.number for q in under_way)
        while queued := box.next(window):
            sent += [q.message for q in queued]
            box.remove(q.number for q in queued)
        box.close()
        assert len(sent) == len(messages)
        for name in "abc":
            keys = [m.key for m in sent if m.key is not None and m.detection_id == name]
            assert keys == sorted(keys)


class TestDurability:
    def test_everything_survives(self, outbox: Outbox, path: Path, clock: Clock) -> None:
        given = [
            message("a", 3, qos=2, retain=True, expiry_s=60, payload=b"\x00\xff"),
            message("b", None, lane="backfill", created_ns=NOW_NS - 5),
        ]
        outbox.put_many(given)
        with closing(reopened(outbox, path, clock)) as again:
            assert [q.message for q in again.next(10)] == given

    def test_numbers_are_never_used_twice(self, outbox: Outbox, path: Path, clock: Clock) -> None:
        outbox.put(message("a"))
        (first,) = outbox.next(1)
        outbox.remove([first.number])
        with closing(reopened(outbox, path, clock)) as again:
            again.put(message("b"))
            assert again.next(1)[0].number > first.number

    def test_killed_process_loses_nothing_that_put_returned_for(self, path: Path, clock: Clock) -> None:
        code = """
            import sys, time
            from pathlib import Path
            from monitor.outbox import Outbox
            from monitor.outbox_message import OutboxMessage
            from monitor.settings import OutboxSettings
            outbox = Outbox(Path(sys.argv[1]), OutboxSettings(), clock=time.time_ns)
            for number in range(10**6):
                outbox.put(OutboxMessage(topic="t", payload=b"%d" % number, created_ns=time.time_ns()))
                print(number, flush=True)
        """
        command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            told = 0
            for line in process.stdout:
                told = int(line)
                if told == 25:
                    process.send_signal(signal.SIGKILL)
        with closing(Outbox(path, OutboxSettings(), clock=clock)) as outbox:
            kept = [int(q.message.payload) for q in outbox.next(1000)]
            assert kept[: told + 1] == list(range(told + 1))
            # At most the one that was being written.
            assert len(kept) <= told + 2

    def test_written_through_to_the_disk(self, outbox: Outbox) -> None:
        assert outbox._db is not None
        found = [outbox._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
        assert found == ["wal", 2]

    def test_second_process_is_refused(self, outbox: Outbox, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        outbox.put(message("a"))
        monkeypatch.setattr(outbox_file, "LOCK_WAIT_S", 0.0)
        with pytest.raises(OutboxBusyError, match="another process"):
            Outbox(path, OutboxSettings(), clock=Clock())


class TestTold:
    def test_each_revision_is_taken_once(self, outbox: Outbox) -> None:
        assert outbox.put(message("a", 0))
        assert not outbox.put(message("a", 0))
        assert outbox.put_many([message("a", 0), message("a", 1), message("a", 1)]) == 1
        assert outbox.stats().depth == 2

    def test_after_removal_and_restart_too(self, outbox: Outbox, path: Path, clock: Clock) -> None:
        outbox.put(message("a", 0))
        assert drained(outbox) == ["a0"]
        assert outbox.already_told(Key("a", 0))
        assert not outbox.already_told(Key("a", 1))
        with closing(reopened(outbox, path, clock)) as again:
            assert again.already_told(Key("a", 0))
            assert not again.put(message("a", 0))

    def test_each_topic_has_its_own(self, outbox: Outbox) -> None:
        assert outbox.put_many([message("a", 0), message("a", 0, topic="monitor/v1/XX/A/pick")]) == 2

    def test_messages_without_a_key_are_always_taken(self, outbox: Outbox) -> None:
        assert outbox.put_many([message("a", None), message("a", None)]) == 2

    def test_not_for_ever(self, outbox: Outbox, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("monitor.outbox._PRUNE_EVERY", 1)
        outbox.put(message("a", 0))
        clock.now_ns += 8 * DAY_NS
        outbox.put(message("b", 0))
        assert [outbox.already_told(Key(name, 0)) for name in "ab"] == [False, True]

    def test_not_too_many(self, outbox: Outbox, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("monitor.outbox._PRUNE_EVERY", 1)
        monkeypatch.setattr(outbox_rows, "TOLD_MOST", 3)
        for revision in range(5):
            clock.now_ns += 1
            outbox.put(message("a", revision))
        assert [outbox.already_told(Key("a", revision)) for revision in range(5)] == [False, False, True, True, True]


class TestBounds:
    def test_oldest_backfill_goes_first_then_the_oldest(self, path: Path, clock: Clock) -> None:
        with closing(Outbox(path, OutboxSettings(max_bytes=256 * 1024), clock=clock)) as outbox:
            big: dict[str, Any] = {"payload": bytes(60_000)}
            outbox.put_many([message("live1", **big), message("back1", lane="backfill", **big)])
            outbox.put_many([message("back2", lane="backfill", **big), message("live2", **big)])
            outbox.put(message("live3", **big))
            assert [q.message.detection_id for q in outbox.next(9)] == ["live1", "live2", "live3", "back2"]
            outbox.put_many([message("live4", **big), message("live5", **big)])
            assert [q.message.detection_id for q in outbox.next(9)] == ["live2", "live3", "live4", "live5"]
            stats = outbox.stats()
            assert stats.dropped == {"size": 3, "age": 0, "memory": 0}
            assert stats.nbytes <= 256 * 1024

    def test_age(self, path: Path, clock: Clock) -> None:
        with closing(Outbox(path, OutboxSettings(max_age_s=3600), clock=clock)) as outbox:
            outbox.put_many([message("a"), message("b", created_ns=NOW_NS + 1800 * 10**9)])
            clock.now_ns += 4000 * 10**9
            outbox.put(message("c", created_ns=clock.now_ns))
            assert drained(outbox) == ["b0", "c0"]
            assert outbox.stats().dropped["age"] == 1

    def test_a_clock_that_was_not_set_is_no_age(self, path: Path, clock: Clock) -> None:
        """A Raspberry Pi without a battery clock starts in the past."""
        with closing(Outbox(path, OutboxSettings(max_age_s=3600), clock=clock)) as outbox:
            outbox.put(message("a", created_ns=12 * 10**9))
            outbox.put(message("b"))
            assert drained(outbox) == ["a0", "b0"]

    def test_stats(self, outbox: Outbox) -> None:
        assert (outbox.stats().depth, outbox.stats().oldest_ns, outbox.stats().nbytes) == (0, None, 0)
        made = [message("a", created_ns=NOW_NS + 7), message("b", lane="backfill", created_ns=NOW_NS + 3)]
        outbox.put_many(made)
        stats = outbox.stats()
        assert (stats.depth, stats.oldest_ns) == (2, NOW_NS + 3)
        assert stats.nbytes == sum(m.size for m in made)
        drained(outbox)
        assert (outbox.stats().depth, outbox.stats().oldest_ns, outbox.stats().nbytes) == (0, None, 0)


class TestHeldAndDemoted:
    def test_held_messages_are_kept_but_not_offered(self, outbox: Outbox) -> None:
        outbox.put_many([message("a"), message("b")])
        outbox.hold(outbox.next(1)[0].number, "not_authorized")
        assert [q.message.detection_id for q in outbox.next(9)] == ["b"]
        assert (outbox.stats().depth, outbox.stats().held) == (1, 1)
        assert outbox.restore(["too_large"]) == 0
        assert outbox.restore(["not_authorized", "too_large"]) == 1
        assert drained(outbox) == ["a0", "b0"]
        assert outbox.stats().held == 0

    def test_restore_all(self, outbox: Outbox) -> None:
        outbox.put_many([message("a"), message("b")])
        for queued in outbox.next(9):
            outbox.hold(queued.number, queued.message.topic)
        assert outbox.restore() == 2

    def test_held_messages_give_way_first(self, path: Path, clock: Clock) -> None:
        with closing(Outbox(path, OutboxSettings(max_bytes=256 * 1024), clock=clock)) as outbox:
            big: dict[str, Any] = {"payload": bytes(80_000)}
            outbox.put_many([message("back", lane="backfill", **big), message("refused", **big), message("c", **big)])
            outbox.hold(outbox.next(9)[0].number, "too_large")
            outbox.put(message("d", **big))
            assert [q.message.detection_id for q in outbox.next(9)] == ["c", "d", "back"]
            assert outbox.stats().held == 0

    def test_what_was_live_long_ago_goes_after_what_is_live_now(self, outbox: Outbox) -> None:
        outbox.put_many([message("a"), message("b", None), message("c"), message("c", 1, created_ns=NOW_NS + 100)])
        outbox.put(message("d", created_ns=NOW_NS + 100))
        assert outbox.demote(NOW_NS + 50) == 2
        assert drained(outbox) == ["c0", "c1", "d0", "a0", "bNone"]


def fill(path: Path, clock: Clock, count: int = 400) -> None:
    with closing(Outbox(path, OutboxSettings(), clock=clock)) as outbox:
        outbox.put_many(message(f"d{number:03d}", payload=bytes(500)) for number in range(count))


class TestDamage:
    @pytest.mark.parametrize("kept", [0.5, 0.9])
    def test_truncated(self, path: Path, clock: Clock, kept: float) -> None:
        fill(path, clock)
        os.truncate(path, int(path.stat().st_size * kept))
        with closing(Outbox(path, OutboxSettings(), clock=clock)) as outbox:
            (notice,) = outbox.notices
            assert "was damaged" in notice
            assert outbox.put(message("fresh"))
            assert outbox.next(9999)[-1].message.detection_id == "fresh"
        assert len(list(path.parent.glob("outbox.sqlite.corrupt-*Z"))) == 1
        with closing(Outbox(path, OutboxSettings(), clock=clock)) as outbox:
            assert outbox.notices == []

    def test_overwritten_in_the_middle(self, path: Path, clock: Clock) -> None:
        """What can be read is not lost: a stuck block of a memory card takes some pages, not all."""
        fill(path, clock)
        with path.open("r+b") as file:
            file.seek(path.stat().st_size * 3 // 4)
            file.write(os.urandom(8192))
        with closing(Outbox(path, OutboxSettings(), clock=clock)) as outbox:
            assert len(outbox.notices) == 1
            saved = [q.message.detection_id for q in outbox.next(9999)]
            assert 50 < len(saved) < 400
            assert saved == [f"d{number:03d}" for number in range(len(saved))]
            assert outbox.already_told(Key("d000", 0))

    @pytest.mark.parametrize("content", [b"not a database at all, but long enough to be one" * 100, os.urandom(5000)])
    def test_something_else(self, path: Path, clock: Clock, content: bytes) -> None:
        path.write_bytes(content)
        with closing(Outbox(path, OutboxSettings(), clock=clock)) as outbox:
            assert "was damaged" in outbox.notices[0]
            assert outbox.put(message("a"))
        (aside,) = path.parent.glob("outbox.sqlite.corrupt-*")
        assert aside.read_bytes() == content

    def test_database_of_another_program(self, path: Path, clock: Clock) -> None:
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE message (x)")
        with closing(Outbox(path, OutboxSettings(), clock=clock)) as outbox:
            assert "application id" in outbox.notices[0]
            assert outbox.put(message("a"))

    def test_empty_file_is_a_new_one(self, path: Path, clock: Clock) -> None:
        path.touch()
        with closing(Outbox(path, OutboxSettings(), clock=clock)) as outbox:
            assert outbox.put(message("a"))
            assert outbox.notices == []

    def test_no_more_copies_than_needed(self, path: Path, clock: Clock) -> None:
        for number in range(4):
            path.write_bytes(b"%d" % number * 4000)
            Outbox(path, OutboxSettings(), clock=clock).close()
        copies = sorted(path.parent.glob("outbox.sqlite.corrupt-*Z"))
        assert [copy.read_bytes()[:1] for copy in copies] == [b"2", b"3"]

    def test_while_running(self, path: Path, clock: Clock) -> None:
        fill(path, clock)
        with closing(Outbox(path, OutboxSettings(), clock=clock)) as outbox:
            assert outbox._db is not None
            outbox._db.execute("PRAGMA shrink_memory")  # what it has read it would not read again
            with path.open("r+b") as file:
                file.seek(4096)
                file.write(os.urandom(path.stat().st_size - 4096))
            assert outbox.put(message("fresh"))
            assert "was damaged" in outbox.notices[0]
            assert "fresh" in [q.message.detection_id for q in outbox.next(9999)]


def allow_growth(outbox: Outbox, pages: int) -> None:
    """Let the file grow by so many pages and no more: what a full disk does."""
    assert outbox._db is not None
    (now,) = outbox._db.execute("PRAGMA page_count").fetchone()
    outbox._db.execute(f"PRAGMA max_page_count = {now + pages}")


class TestDiskFails:
    def test_full(self, path: Path, clock: Clock) -> None:
        with closing(Outbox(path, OutboxSettings(), clock=clock)) as outbox:
            outbox.put(message("before"))
            allow_growth(outbox, 4)
            big: dict[str, Any] = {"payload": bytes(100_000)}
            with pytest.raises(
                OutboxError, match=r"outbox\.sqlite cannot be .*disk is full; 1 messages wait in memory"
            ):
                outbox.put(message("big", **big))
            assert outbox.already_told(Key("big", 0))
            assert outbox.stats().problem is not None
            assert [q.message.detection_id for q in outbox.next(9)] == ["before", "big"]
            # A message that fits takes what waits in memory along, so it fails too; nothing is lost or doubled.
            with pytest.raises(OutboxError, match="2 messages"):
                outbox.put_many([message("after"), message("big", **big), message("before")])
            assert outbox.stats().depth == 3

            under_way = outbox.next(9)
            allow_growth(outbox, 1000)
            assert outbox.put(message("mended"))
            assert outbox.stats().problem is None
            # Those that were under way are known under the numbers they had in memory.
            assert [q.message.detection_id for q in outbox.next(9, but=[q.number for q in under_way])] == ["mended"]
            outbox.remove([q.number for q in under_way])
            assert [q.message.detection_id for q in outbox.next(9)] == ["mended"]
            assert len(outbox.notices) == 1

    def test_acknowledged_messages_are_not_sent_again(self, path: Path, clock: Clock) -> None:
        with closing(Outbox(path, OutboxSettings(), clock=clock)) as outbox:
            outbox.put_many([message("a"), message("b"), message("c")])
            assert outbox._db is not None
            outbox._db.execute("PRAGMA query_only = ON")
            outbox.remove([outbox.next(1)[0].number])
            outbox.hold(outbox.next(1)[0].number, "too_large")
            assert "readonly" in str(outbox.stats().problem)
            assert [q.message.detection_id for q in outbox.next(9)] == ["b", "c"]
            assert outbox.stats().depth == 2
            outbox._db.execute("PRAGMA query_only = OFF")
            outbox.remove([outbox.next(1)[0].number])
        with closing(Outbox(path, OutboxSettings(), clock=clock)) as outbox:
            assert drained(outbox) == ["c0"]

    def test_folder_cannot_be_written(self, tmp_path: Path, clock: Clock) -> None:
        missing = tmp_path / "later"
        with closing(Outbox(missing / "outbox.sqlite", OutboxSettings(), clock=clock)) as outbox:
            assert "messages wait in memory" in outbox.notices[0]
            with pytest.raises(OutboxError, match="unable to open"):
                outbox.put(message("a"))
            assert [q.message.detection_id for q in outbox.next(9)] == ["a"]
            missing.mkdir()
            assert outbox.put(message("b"))
            assert drained(outbox) == ["a0", "b0"]

    def test_tries_again_without_new_messages(self, tmp_path: Path, clock: Clock) -> None:
        missing = tmp_path / "later"
        with closing(Outbox(missing / "outbox.sqlite", OutboxSettings(), clock=clock)) as outbox:
            with pytest.raises(OutboxError):
                outbox.put(message("a"))
            missing.mkdir()
            outbox.next(1)
            clock.now_ns += int(TRY_AGAIN_S * 1e9)
            assert outbox.next(1)[0].number > 0
            assert outbox.stats().problem is None

    def test_memory_is_bounded(self, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(outbox_memory, "MEMORY_MESSAGES", 3)
        with closing(Outbox(tmp_path / "missing" / "outbox.sqlite", OutboxSettings(), clock=clock)) as outbox:
            for name, lane in (("a", "live"), ("b", "backfill"), ("c", "live"), ("d", "live"), ("e", "live")):
                with pytest.raises(OutboxError):
                    outbox.put(message(name, lane="live" if lane == "live" else "backfill"))
            assert drained(outbox) == ["c0", "d0", "e0"]
            assert outbox.stats().dropped["memory"] == 2


class TestThread:
    def test_serves_an_event_loop(self, path: Path, clock: Clock) -> None:
        async def use() -> None:
            thread = OutboxThread(path, OutboxSettings(), clock=clock, on_notice=notices.append)
            with pytest.raises(RuntimeError, match="not open"):
                await thread.put_many([])
            await thread.open()
            assert await thread.put_many([message("a"), message("b")]) == 2
            assert thread.stats.depth == 2
            first, second = await thread.next(9, but=[], but_of=[])
            await thread.remove([first.number])
            await thread.hold(second.number, "quota")
            assert (thread.stats.depth, thread.stats.held) == (0, 1)
            assert await thread.restore() == 1
            assert await thread.demote(NOW_NS + 1) == 1
            await thread.close()
            await thread.close()

        notices: list[str] = []
        path.write_bytes(b"damaged" * 1000)
        asyncio.run(use())
        assert len(notices) == 1
