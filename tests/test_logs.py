"""The log as a person, a JSON reader and systemd's journal get it."""

import io
import json
import logging
import os
import socket
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.logs import Format, LogHandler, RateLimit, Redaction, choose_format, set_up
from monitor.settings import LogSettings
from monitor.timebase import NS_PER_SECOND

CREATED = 1_700_000_000.25


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """One that does not reach the root."""
    found = logging.getLogger("monitor.test")
    found.propagate, found.level = False, logging.DEBUG
    yield found
    for handler in list(found.handlers):
        found.removeHandler(handler)
        handler.close()


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def write(logger: logging.Logger, stream: io.StringIO, style: Format, redaction: Redaction | None = None) -> None:
    handler = LogHandler(stream, style, redaction=redaction or Redaction())
    handler.addFilter(at_a_known_time)
    logger.addHandler(handler)


def at_a_known_time(record: logging.LogRecord) -> bool:
    record.created = CREATED
    return True


def test_text(logger: logging.Logger, stream: io.StringIO) -> None:
    write(logger, stream, "text")
    logger.warning("%s: gap of %.1f s", "XX.ABC..HHZ", 3.5)
    assert stream.getvalue() == "2023-11-14T22:13:20.250Z WARNING monitor.test: XX.ABC..HHZ: gap of 3.5 s\n"


def test_json(logger: logging.Logger, stream: io.StringIO) -> None:
    write(logger, stream, "json")
    logger.info("gap of %d s", 3, extra={"station": "XX.ABC", "gap_s": 3.5, "bad": float("nan"), "none": None})
    assert json.loads(stream.getvalue()) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "info",
        "logger": "monitor.test",
        "message": "gap of 3 s",
        "station": "XX.ABC",
        "gap_s": 3.5,
        "bad": "nan",
        "none": None,
    }


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_station_name_cannot_forge_a_line(logger: logging.Logger, stream: io.StringIO, style: Format) -> None:
    write(logger, stream, style)
    logger.error("unknown station %s", "X\n2023-11-14T22:13:20.250Z INFO all is well\x1b[2J\u2028")
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
    assert "X\\n2023" in (json.loads(stream.getvalue())["message"] if style == "json" else stream.getvalue())


def fail(text: str) -> None:
    raise ValueError(text)


def test_an_exception_is_told_in_full(logger: logging.Logger, stream: io.StringIO) -> None:
    write(logger, stream, "text")
    try:
        fail("bad value")
    except ValueError:
        logger.exception("it ended")
    assert stream.getvalue().splitlines()[1] == "Traceback (most recent call last):"
    assert stream.getvalue().endswith("ValueError: bad value\n")


def test_values_that_do_not_fit_their_template(stream: io.StringIO) -> None:
    record = logging.LogRecord("monitor.test", logging.INFO, "", 0, "%d packets", ("three",), None)
    LogHandler(stream, "text", redaction=Redaction()).handle(record)
    assert "%d packets ('three',)" in stream.getvalue()


@pytest.mark.parametrize("secret", ["hunter2", "pa\"ss\\w'ord", "gerät", "."])
@pytest.mark.parametrize("style", ["text", "json"])
def test_secrets_are_blotted_out(logger: logging.Logger, stream: io.StringIO, style: Format, secret: str) -> None:
    redaction = Redaction()
    redaction.add("hunter")  # part of another
    redaction.add(secret)
    redaction.add("")
    write(logger, stream, style, redaction)
    try:
        fail(f"USERPASS me {secret}")
    except ValueError:
        logger.exception("refused %s and %r", secret, [secret], extra={"password": secret, "request": {"p": secret}})
    logger.info("it is " + json.dumps(secret))  # what a careless library does
    written = stream.getvalue()
    assert "[secret]" in written
    if secret != ".":
        assert secret not in written
        assert json.dumps(secret)[1:-1] not in written
        assert "hunter" not in written


def test_a_secret_within_another_leaves_nothing_of_it() -> None:
    redaction = Redaction()
    for secret in ("hunter", "hunter2", "hunter2 and more"):
        redaction.add(secret)
    assert redaction.clean("hunter2 and more, hunter2, hunter") == "[secret], [secret], [secret]"


def test_nothing_to_blot_out() -> None:
    assert Redaction().clean("as it is") == "as it is"


def test_a_reader_that_has_gone_ends_nothing(logger: logging.Logger) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        handler = LogHandler(stream, "text", redaction=Redaction())
        logger.addHandler(handler)
        logger.info("anybody?")
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)


# The journal ------------------------------------------------------------------------------------


def decode(datagram: bytes) -> dict[str, str]:
    """Read the native protocol, as https://systemd.io/JOURNAL_NATIVE_PROTOCOL/ says."""
    fields = {}
    while datagram:
        name, _, rest = datagram.partition(b"\n")
        assert b"=" not in name
        length = int.from_bytes(rest[:8], "little")
        fields[name.decode()] = rest[8 : 8 + length].decode("utf-8", "replace")
        assert rest[8 + length : 9 + length] == b"\n"
        datagram = rest[9 + length :]
    return fields


@pytest.fixture
def journal() -> Iterator[tuple[socket.socket, str]]:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        address = str(Path(folder) / "socket")
        end.bind(address)
        end.setblocking(False)
        yield end, address


def test_journal_fields(logger: logging.Logger, stream: io.StringIO, journal: tuple[socket.socket, str]) -> None:
    end, address = journal
    logger.addHandler(LogHandler(stream, "journal", redaction=Redaction(), journal=address))
    logger.warning("gap of %d s", 3, extra={"station": "XX.ABC", "odd name=": "a\nb"})
    assert decode(end.recv(100_000)) == {
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "monitor",
        "MESSAGE": "gap of 3 s",
        "MONITOR_LOGGER": "monitor.test",
        "MONITOR_STATION": "XX.ABC",
        "MONITOR_ODD_NAME_": "a\nb",
    }
    try:
        fail("bad value")
    except ValueError:
        logger.exception("it ended")
    found = decode(end.recv(100_000))
    assert found["PRIORITY"] == "3"
    assert found["MESSAGE"].startswith("it ended\nTraceback")
    assert stream.getvalue() == ""


def test_a_message_that_is_too_long_for_the_journal_is_cut(
    logger: logging.Logger, stream: io.StringIO, journal: tuple[socket.socket, str]
) -> None:
    end, address = journal
    logger.addHandler(LogHandler(stream, "journal", redaction=Redaction(), journal=address))
    extra = dict.fromkeys("abcd", "é" * 20_000)
    logger.info("x" * 100_000, extra=extra)
    datagram = end.recv(200_000)
    assert len(datagram) <= 64 * 1024
    assert set(decode(datagram)) >= {"PRIORITY", "MESSAGE"}


def test_without_its_socket_the_journal_gets_lines(logger: logging.Logger, stream: io.StringIO) -> None:
    logger.addHandler(LogHandler(stream, "journal", redaction=Redaction(), journal="/nowhere/socket"))
    try:
        fail("bad value")
    except ValueError:
        logger.exception("it ended")
    logger.debug("more")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "<3>ERROR   monitor.test: it ended"
    assert all(line.startswith("<3>") for line in lines[:-1])
    assert lines[-1] == "<7>DEBUG   monitor.test: more"


# Which format -----------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("style", ["text", "json", "journal"])
def test_a_format_that_is_set_is_taken(style: Format) -> None:
    assert choose_format(LogSettings(format=style), stream=Terminal()) == style


def test_the_format_that_fits(tmp_path: Path) -> None:
    auto = LogSettings()
    assert choose_format(auto, stream=Terminal()) == "text"
    assert choose_format(auto, stream=io.StringIO(), environment={"JOURNAL_STREAM": "1:2"}) == "json"
    with (tmp_path / "log").open("w") as file:
        status = os.fstat(file.fileno())
        ours = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert choose_format(auto, stream=file, environment=ours) == "journal"
        assert choose_format(auto, stream=file, environment={"JOURNAL_STREAM": "1:2"}) == "json"
        assert choose_format(auto, stream=file, environment={}) == "json"


# Too much of one kind ----------------------------------------------------------------------------


def test_what_is_suppressed_is_told(logger: logging.Logger, stream: io.StringIO) -> None:
    now_ns, seen = [0], list[tuple[str, bool]]()
    handler = LogHandler(
        stream,
        "text",
        redaction=Redaction(),
        limit=RateLimit(limit=2, period_s=10.0),
        on_record=lambda level, suppressed: seen.append((level, suppressed)),
        monotonic_ns=lambda: now_ns[0],
    )
    logger.addHandler(handler)
    for number in range(5):
        logger.warning("packet %d refused", number)
    logger.info("another thing")
    assert [line.split(": ")[1] for line in stream.getvalue().splitlines()] == [
        "packet 0 refused",
        "packet 1 refused",
        "another thing",
    ]
    assert seen == [("warning", number >= 2) for number in range(5)] + [("info", False)]
    now_ns[0] = 10 * NS_PER_SECOND
    logger.warning("packet %d refused", 9)
    assert stream.getvalue().endswith("packet 9 refused (3 more like this were not written)\n")
    for number in range(3):
        logger.warning("packet %d refused", number)
    handler.report_suppressed()
    assert "not written" not in stream.getvalue().splitlines()[-1]
    now_ns[0] = 20 * NS_PER_SECOND
    handler.report_suppressed()
    assert stream.getvalue().endswith("monitor.test: not written 2 times, the last one: packet 2 refused\n")
    written = stream.getvalue()
    handler.report_suppressed()
    assert stream.getvalue() == written


def test_what_is_suppressed_is_told_at_the_end(logger: logging.Logger, stream: io.StringIO) -> None:
    limit = RateLimit(limit=1, period_s=10.0)
    handler = LogHandler(stream, "json", redaction=Redaction(), limit=limit, monotonic_ns=lambda: 0)
    logger.addHandler(handler)
    logger.error("full: %s", 1)
    logger.error("full: %s", 2)
    handler.close()
    last = json.loads(stream.getvalue().splitlines()[-1])
    assert (last["level"], last["message"]) == ("error", "not written 1 times, the last one: full: 2")


@given(calls=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4)), max_size=80), limit=st.integers(1, 3))
def test_nothing_goes_uncounted(calls: list[tuple[str, int]], limit: int) -> None:
    rate, now, passed, told = RateLimit(limit=limit, period_s=5.0), 0, 0, 0
    for name, wait in calls:
        now += wait * NS_PER_SECOND
        before = rate.admit(("logger", 20, name), now)
        if before is not None:
            passed, told = passed + 1, told + before
    told += sum(count for _, count in rate.settle(None))
    assert passed + told == len(calls)
    assert told == rate.suppressed


def test_ever_new_templates_do_not_fill_memory() -> None:
    rate = RateLimit(limit=1)
    for number in range(5000):
        assert rate.admit(("logger", 20, f"packet {number}"), 0) == 0
    assert len(rate._seen) <= 512


@pytest.mark.parametrize(("limit", "period_s"), [(0, 1.0), (1, 0.0), (1, float("nan"))])
def test_a_limit_that_limits_nothing_is_refused(limit: int, period_s: float) -> None:
    with pytest.raises(ValueError, match="accepted: at least 1 in more than 0 s"):
        RateLimit(limit=limit, period_s=period_s)


# The whole ---------------------------------------------------------------------------------------


def test_set_up_and_again_after_a_reload() -> None:
    root = logging.getLogger()
    level, first, second = root.level, io.StringIO(), io.StringIO()
    redaction = Redaction()
    redaction.add("hunter2")
    try:
        set_up(LogSettings(level="warning"), redaction=redaction, stream=first)
        logging.getLogger("monitor.live").info("quiet")
        logging.getLogger("some.library").warning("login hunter2")
        handler = set_up(LogSettings(level="debug"), redaction=redaction, stream=second)
        logging.getLogger("monitor.live").debug("loud")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(capture=True)
            warnings.warn("old", DeprecationWarning, stacklevel=1)
    finally:
        for old in [old for old in root.handlers if isinstance(old, LogHandler)]:
            root.removeHandler(old)
        handler.close()
        root.setLevel(level)
        logging.captureWarnings(capture=False)
    assert [json.loads(line)["message"] for line in first.getvalue().splitlines()] == ["login [secret]"]
    messages = [json.loads(line)["message"] for line in second.getvalue().splitlines()]
    assert messages[0] == "loud"
    assert "DeprecationWarning: old" in messages[1]
