"""The log: for a person on a terminal, as JSON lines, or as fields in systemd's journal; UTC; without secrets.

record -> RateLimit (per message template) -> fields, secrets blotted out -> text | JSON | journal
"""

import contextlib
import json
import logging
import math
import os
import re
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Literal, TextIO

from monitor.settings import LogSettings
from monitor.timebase import NS_PER_SECOND, format_time, seconds_to_ns

Format = Literal["text", "json", "journal"]
Template = tuple[str, int, str]
Value = str | int | float | None

JOURNAL_SOCKET = "/run/systemd/journal/socket"
# So many messages of one template pass in each period: enough to see a pattern, few enough for a memory card.
LIMIT = 5
PERIOD_S = 60.0
# Templates that are remembered; a program has fewer.
_MOST_TEMPLATES = 512
# Larger datagrams need a file of their own in the journal's protocol: a longer message is cut, further fields left out.
_MOST_JOURNAL_BYTES = 64 * 1024
_MOST_VALUE_BYTES = 32 * 1024
_MOST_JOURNAL_NAME = 64
_BLOT = "[secret]"
# syslog(3)
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
# What every record has; the rest came through `extra` and is a field of its own.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_JOURNAL_NAME = re.compile(r"[^A-Z0-9_]")


# A record with this extra is what the program is for: it is never suppressed.
ALWAYS = "always"


class RateLimit:
    """Lets a few messages of one template pass in each period and counts the others; pure.

    Args:
        limit: Messages per period, at least 1.
        period_s: Seconds.
    """

    def __init__(self, *, limit: int = LIMIT, period_s: float = PERIOD_S) -> None:
        if limit < 1 or not period_s > 0:
            raise ValueError(f"limit is {limit} per {period_s} s; accepted: at least 1 in more than 0 s")
        self._limit, self._period_ns = limit, seconds_to_ns(period_s)
        # Template -> when its period began, passed, suppressed; the one that began longest ago first.
        self._seen: OrderedDict[Template, tuple[int, int, int]] = OrderedDict()
        self.suppressed = 0

    def admit(self, template: Template, now_ns: int) -> int | None:
        """Decide on one message.

        Args:
            template: What logs, the level, and the message before its values were put in.
            now_ns: Monotonic time, nanoseconds.

        Returns:
            How many of its kind were suppressed since the last one that passed; None where it is suppressed itself.
        """
        began_ns, passed, suppressed = self._seen.get(template, (now_ns, 0, 0))
        if now_ns - began_ns >= self._period_ns:
            began_ns, passed = now_ns, 0
            self._seen.pop(template, None)
        if passed >= self._limit:
            self._seen[template] = (began_ns, passed, suppressed + 1)
            self.suppressed += 1
            return None
        self._seen[template] = (began_ns, passed + 1, 0)
        if len(self._seen) > _MOST_TEMPLATES:
            self._seen.popitem(last=False)
        return suppressed

    def settle(self, now_ns: int | None) -> list[tuple[Template, int]]:
        """Forget the templates whose period is over, of all of them where `now_ns` is None.

        Returns:
            Those of which something was suppressed, and how often: nothing that comes later will tell.
        """
        over = [
            template
            for template, (began_ns, _, _) in self._seen.items()
            if now_ns is None or now_ns - began_ns >= self._period_ns
        ]
        counted = [(template, self._seen.pop(template)[2]) for template in over]
        return [(template, suppressed) for template, suppressed in counted if suppressed]


class Redaction:
    """What must never be written, wherever a message has it from."""

    def __init__(self) -> None:
        self._pattern: re.Pattern[str] | None = None
        self._known: set[str] = set()

    def add(self, secret: str) -> None:
        """Blot a password or token out of everything that is logged from now on."""
        if secret:
            # As it is, as repr() and as JSON write it.
            self._known |= {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]}
            longest_first = sorted(self._known, key=len, reverse=True)
            self._pattern = re.compile("|".join(re.escape(text) for text in longest_first))

    def clean(self, text: str) -> str:
        """Replace each secret."""
        return text if self._pattern is None else self._pattern.sub(_BLOT, text)


class LogHandler(logging.Handler):
    """Writes records to one place.

    Args:
        stream: Where text and JSON go, and the journal's where its socket fails.
        style: How.
        redaction: What to blot out.
        limit: How much of one kind is too much; None for no limit.
        on_record: Told of each record: its level in lower case, and whether it was suppressed.
        monotonic_ns: The clock of the limit.
        journal: The journal's socket.
    """

    def __init__(
        self,
        stream: TextIO,
        style: Format,
        *,
        redaction: Redaction,
        limit: RateLimit | None = None,
        on_record: Callable[[str, bool], None] | None = None,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        journal: str = JOURNAL_SOCKET,
    ) -> None:
        super().__init__()
        self._turn = threading.RLock()
        self.lock = self._turn  # the one that every handler has, with a type
        self._stream, self._style, self._redaction = stream, style, redaction
        self._limit, self._on_record, self._monotonic_ns = limit, on_record, monotonic_ns
        self._last_suppressed: dict[Template, str] = {}
        self._journal_address, self._journal = journal, None if style != "journal" else _journal_link()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, or count it where there were too many like it."""
        suppressed: int | None = 0
        if self._limit is not None and not getattr(record, ALWAYS, False):
            template = record.name, record.levelno, str(record.msg)
            suppressed = self._limit.admit(template, self._monotonic_ns())
            if suppressed is None:
                self._last_suppressed[template] = record.getMessage()
                if len(self._last_suppressed) > _MOST_TEMPLATES:
                    del self._last_suppressed[next(iter(self._last_suppressed))]
            else:
                self._last_suppressed.pop(template, None)
        if self._on_record is not None:
            self._on_record(record.levelname.lower(), suppressed is None)
        if suppressed is None:
            return
        self._write(record, _fields(record, self._redaction, suppressed))

    def report_suppressed(self, *, everything: bool = False) -> None:
        """Say of what nothing more came to tell how much was suppressed; to be called now and then, and at the end."""
        if self._limit is None:
            return
        with self._turn:
            for template, suppressed in self._limit.settle(None if everything else self._monotonic_ns()):
                name, level, words = template
                text = f"not written {suppressed} times, the last one: {self._last_suppressed.pop(template, words)}"
                record = logging.LogRecord(name, level, "", 0, text, None, None)
                self._write(record, _fields(record, self._redaction, 0))

    def close(self) -> None:
        """Say what is still to be said, and close the journal's socket."""
        self.report_suppressed(everything=True)
        if self._journal is not None:
            self._journal.close()
        super().close()

    def _write(self, record: logging.LogRecord, fields: dict[str, Value]) -> None:
        if self._style == "json":
            line = json.dumps(fields, ensure_ascii=False)
        elif self._style == "text":
            line = _text(fields)
        elif self._journal is not None and _send(self._journal, self._journal_address, _journal_datagram(fields)):
            return
        else:
            # The journal also takes lines, and reads their priority off the front.
            priority = _PRIORITY.get(record.levelno, 6)
            line = "\n".join(f"<{priority}>{part}" for part in _text(fields, with_time=False).split("\n"))
        # Whoever read standard error may have gone: there is nobody left to tell.
        with contextlib.suppress(OSError):
            self._stream.write(line + "\n")
            self._stream.flush()


def choose_format(settings: LogSettings, *, stream: TextIO, environment: Mapping[str, str] = os.environ) -> Format:
    """Decide how to write: as set, or as fits who reads.

    Args:
        settings: What is set.
        stream: Where the log goes.
        environment: Has `JOURNAL_STREAM` under systemd: device and inode of what it connected.
    """
    if settings.format != "auto":
        return settings.format
    if stream.isatty():
        return "text"
    return "journal" if _is_journal(stream, environment.get("JOURNAL_STREAM", "")) else "json"


def set_up(
    settings: LogSettings,
    *,
    redaction: Redaction,
    stream: TextIO | None = None,
    on_record: Callable[[str, bool], None] | None = None,
) -> LogHandler:
    """Send what all of the program logs to one handler, in place of any before; again after a reload.

    Args:
        settings: Level and format.
        redaction: What to blot out.
        stream: Standard error where None.
        on_record: Told of each record: its level in lower case, and whether it was suppressed.

    Returns:
        The handler; its `report_suppressed` wants to be called now and then.
    """
    stream = sys.stderr if stream is None else stream
    style = choose_format(settings, stream=stream)
    handler = LogHandler(stream, style, redaction=redaction, limit=RateLimit(), on_record=on_record)
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, LogHandler)]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(settings.level.upper())
    logging.captureWarnings(capture=True)
    return handler


def report_suppressed() -> None:
    """See `LogHandler.report_suppressed`, of what `set_up` has made."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogHandler):
            handler.report_suppressed()


def _fields(record: logging.LogRecord, redaction: Redaction, suppressed: int) -> dict[str, Value]:
    """What is known of one record, without secrets and without control characters in its message."""
    message = redaction.clean(_message(record))
    if suppressed:
        message += f" ({suppressed} more like this were not written)"
    fields: dict[str, Value] = {
        "time": format_time(round(record.created * NS_PER_SECOND), digits=3),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": _CONTROL.sub(lambda found: ascii(found[0])[1:-1], message),
    }
    for name, value in vars(record).items():
        if name not in _STANDARD and name not in fields:
            number = value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
            fields[name] = value if number else redaction.clean(str(value))
    if record.exc_info and record.exc_info[0] is not None:
        fields["exception"] = redaction.clean(logging.Formatter().formatException(record.exc_info))
    return fields


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):  # values that do not fit their template, in a library perhaps
        return f"{record.msg} {record.args!r}"


def _text(fields: Mapping[str, Value], *, with_time: bool = True) -> str:
    line = f"{str(fields['level']).upper():<8}{fields['logger']}: {fields['message']}"
    if with_time:
        line = f"{fields['time']} {line}"
    return f"{line}\n{fields['exception']}" if "exception" in fields else line


def _journal_datagram(fields: Mapping[str, Value]) -> bytes:
    """Encode for systemd's native journal protocol: `NAME=value`, or name, length and value where it has lines."""
    level = logging.getLevelNamesMapping().get(str(fields["level"]).upper(), logging.INFO)
    message = "\n".join(str(fields[name]) for name in ("message", "exception") if name in fields)
    entries: dict[str, Value] = {
        "PRIORITY": _PRIORITY.get(level, 6),
        "SYSLOG_IDENTIFIER": "monitor",
        "MESSAGE": message,
    }
    for name, value in fields.items():
        if name not in {"time", "level", "message", "exception"} and value is not None:
            entries[f"MONITOR_{_JOURNAL_NAME.sub('_', name.upper())}"[:_MOST_JOURNAL_NAME]] = value
    datagram = b""
    for name, value in entries.items():
        encoded = str(value).encode("utf-8", "backslashreplace")[:_MOST_VALUE_BYTES]
        entry = name.encode() + b"\n" + len(encoded).to_bytes(8, "little") + encoded + b"\n"
        if len(datagram) + len(entry) <= _MOST_JOURNAL_BYTES:
            datagram += entry
    return datagram


def _journal_link() -> socket.socket:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    link.setblocking(False)
    return link


def _send(link: socket.socket, address: str, datagram: bytes) -> bool:
    try:
        link.sendto(datagram, address)
    except OSError:
        return False
    return True


def _is_journal(stream: TextIO, journal_stream: str) -> bool:
    """Tell whether a stream is the one that systemd connected to the journal."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:  # not a file
        return False
    return journal_stream == f"{status.st_dev}:{status.st_ino}"
