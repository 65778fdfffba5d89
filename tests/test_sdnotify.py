"""sd_notify datagrams as systemd would receive them, and the watchdog that wants proof."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.sdnotify import Notifier, Watchdog
from monitor.timebase import NS_PER_SECOND


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """The service manager's end, and what NOTIFY_SOCKET says of it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@monitor-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind("\0" + name[1:] if name[0] == "@" else name)
        end.setblocking(False)
        yield end, name


def test_what_systemd_receives(manager: tuple[socket.socket, str]) -> None:
    end, address = manager
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address})
    assert notifier.active
    sent = [
        (notifier.ready("2 stations,\nwaiting"), b"READY=1\nSTATUS=2 stations, waiting"),
        (notifier.status("a\r\nWATCHDOG=trigger"), b"STATUS=a WATCHDOG=trigger"),
        (notifier.watchdog(), b"WATCHDOG=1"),
        (notifier.reloading(12_345_678), b"RELOADING=1\nMONOTONIC_USEC=12345"),
        (notifier.stopping("saving"), b"STOPPING=1\nSTATUS=saving"),
    ]
    for taken, expected in sent:
        assert taken
        assert end.recv(4096) == expected


def test_a_manager_that_does_not_read_does_not_block(manager: tuple[socket.socket, str]) -> None:
    _, address = manager
    notifier = Notifier(address)
    answers = [notifier.watchdog() for _ in range(5000)]
    assert answers[0]
    assert not answers[-1]


def test_a_manager_that_has_gone_is_no_error(tmp_path: Path) -> None:
    assert not Notifier(str(tmp_path / "gone")).watchdog()


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234", "relative"])
def test_nobody_listens(address: str | None) -> None:
    environment = {} if address is None else {"NOTIFY_SOCKET": address}
    notifier = Notifier.from_environment(environment)
    assert not notifier.active
    assert not notifier.ready("up")


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [
        ("30000000", None, 30 * NS_PER_SECOND),
        ("30000000", "77", 30 * NS_PER_SECOND),
        ("30000000", "78", None),
        ("0", None, None),
        ("-5", None, None),
        ("soon", None, None),
        ("²", None, None),
        (None, "77", None),
    ],
)
def test_the_watchdogs_interval(usec: str | None, pid: str | None, expected: int | None) -> None:
    given_values = {"WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}
    environment = {name: value for name, value in given_values.items() if value is not None}
    assert Notifier.from_environment(environment, pid=77).watchdog_ns == expected


def test_watchdog_wants_proof_from_every_task() -> None:
    dog = Watchdog(10 * NS_PER_SECOND, now_ns=0)
    dog.watch("live", limit_s=4.0, now_ns=0)
    dog.watch("outbox", limit_s=60.0, now_ns=0)
    assert not dog.due(4 * NS_PER_SECOND)  # too early
    dog.beat("live", 4 * NS_PER_SECOND)
    assert dog.due(5 * NS_PER_SECOND)
    assert not dog.due(6 * NS_PER_SECOND)  # was just sent
    assert not dog.due(11 * NS_PER_SECOND)
    assert dog.late(11 * NS_PER_SECOND) == {"live": 7.0}
    dog.beat("live", 12 * NS_PER_SECOND)
    assert dog.due(12 * NS_PER_SECOND)
    dog.forget("live")
    assert dog.due(60 * NS_PER_SECOND)
    assert not dog.due(66 * NS_PER_SECOND)
    assert dog.late(66 * NS_PER_SECOND) == {"outbox": 66.0}
    assert dog.check_interval_s == 2.5


def test_watchdog_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="interval is 0 ns; accepted: more than 0"):
        Watchdog(0, now_ns=0)
    dog = Watchdog(1, now_ns=0)
    with pytest.raises(ValueError, match=r"limit of live is 0\.0 s; accepted: more than 0"):
        dog.watch("live", limit_s=0.0, now_ns=0)
    with pytest.raises(KeyError, match="live is not watched; watched: none"):
        dog.beat("live", 0)


@given(beats=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5)), max_size=60))
def test_no_sign_without_recent_beats_of_all(beats: list[tuple[str, int]]) -> None:
    dog, now, last = Watchdog(4 * NS_PER_SECOND, now_ns=0), 0, {"a": 0, "b": 0}
    for name in last:
        dog.watch(name, limit_s=6.0, now_ns=0)
    for name, wait in beats:
        now += wait * NS_PER_SECOND
        if dog.due(now):
            assert all(now - at <= 6 * NS_PER_SECOND for at in last.values())
        dog.beat(name, now)
        last[name] = now
