"""The server's side of SeedLink 3 and 4 as a state machine: bytes in, what to do out; no sockets.

Sources: FDSN SeedLink 4.0; for version 3, which was never specified, what SeisComP and ringserver 4.5 answer.
"""

import hmac
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import metadata

from monitor.playback.selection import Request, Selection, parse_seedlink_time, parse_selector, parse_station

# The specification says 255; a token of AUTH JWT is longer, and ringserver and libslink take that much.
MAX_COMMAND_BYTES = 4096
# Memory of one connection; ringserver takes 10,000 stations.
MAX_STATIONS = 1000
MAX_SELECTORS = 100

SOFTWARE = f"SeedLink v4.0 (seismic-monitor/{metadata.version('seismic-monitor')})"

_LINE_END = re.compile(rb"[\r\n]")


@dataclass(frozen=True, slots=True)
class Reply:
    """Send these bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Info:
    """Answer INFO.

    Attributes:
        version: Of SeedLink.
        item: Such as STREAMS, upper case.
        stations: Pattern of `NET_STA`.
        streams: Pattern of `LOC_B_S_SS`.
    """

    version: int
    item: str
    stations: str = "*"
    streams: str = "*"


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Answer CAT of SeedLink 3."""


@dataclass(frozen=True, slots=True)
class Start:
    """The negotiation is over: send data."""

    request: Request


@dataclass(frozen=True, slots=True)
class Close:
    """Send what is pending, then close the connection."""


Event = Reply | Info | Catalogue | Start | Close


@dataclass(frozen=True, slots=True)
class Access:
    """Who may have data.

    Attributes:
        users: Name -> password, for AUTH USERPASS.
        tokens: For AUTH JWT; compared as they are, not verified.
    """

    users: tuple[tuple[str, str], ...] = ()
    tokens: tuple[str, ...] = ()

    @property
    def required(self) -> bool:
        """Whether a client has to say who it is before it gets data."""
        return bool(self.users or self.tokens)

    def allows(self, kind: str, words: list[str]) -> bool:
        """Whether the arguments of AUTH name a user or a token."""
        known = [" ".join(user) for user in self.users] if kind == "USERPASS" else self.tokens
        given = " ".join(words).encode()
        return any(hmac.compare_digest(given, entry.encode()) for entry in known)


class CommandError(Exception):
    """A command is refused.

    Attributes:
        code: Of the specification, such as ARGUMENTS.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ServerProtocol:
    """One connection, as far as commands go.

    Args:
        organization: Second line of HELLO.
        access: Who may have data.
        versions: Of SeedLink, 3, 4 or both.
        refused: Patterns of stations to refuse.
        unanswered: Commands that get no answer.
    """

    def __init__(
        self,
        *,
        organization: str = "",
        access: Access | None = None,
        versions: Iterable[int] = (3, 4),
        refused: Iterable[str] = (),
        unanswered: Iterable[str] = (),
    ) -> None:
        self._organization = organization
        self._access = access or Access()
        self._versions = frozenset(versions)
        self._refused = tuple(refused)
        self._unanswered = frozenset(command.upper() for command in unanswered)
        self.version = 3 if 3 in self._versions else 4
        self.started = False
        self.user_agent = ""
        self._buffer = bytearray()
        self._negotiated = False
        self._extended = self._batch = self._authenticated = self._fetch = False
        self._closed = False
        self._selections: dict[str, Selection] = {}
        self._current: str | None = None
        self._whole = Selection("*")  # SeedLink 3 without STATION
        self._answers: dict[str, Callable[[list[str]], list[Event]]] = {
            "HELLO": self._hello,
            "BYE": lambda _: [Close()],
            "INFO": self._info,
            "STATION": self._station,
            "SELECT": self._select,
            "DATA": self._data,
            "FETCH": self._fetch_data,
            "TIME": self._time,
            "END": self._end,
            "ENDFETCH": self._end_fetch,
            "CAT": lambda _: [Catalogue()],
            "BATCH": self._start_batch,
            "CAPABILITIES": self._capabilities,
            "SLPROTO": self._slproto,
            "USERAGENT": self._useragent,
            "AUTH": self._auth,
        }

    def receive(self, data: bytes) -> list[Event]:
        """Take what came from the client.

        Returns:
            What to do, in order; after `Close` nothing more.
        """
        self._buffer += data
        events: list[Event] = []
        while not self._closed and (end := _LINE_END.search(self._buffer)):
            line = bytes(self._buffer[: end.start()])
            del self._buffer[: end.end()]
            if line.decode("ascii", errors="replace").split():
                events += self._command(line)
            self._closed = Close() in events
        if len(self._buffer) > MAX_COMMAND_BYTES and not self._closed:
            self._closed = True
            events += [self._error(CommandError("LIMIT", f"command of more than {MAX_COMMAND_BYTES} bytes")), Close()]
        return events

    def _command(self, line: bytes) -> list[Event]:
        words = line.decode("ascii", errors="replace").split()
        command, arguments = words[0].upper(), words[1:]
        try:
            events = self._answer(command, arguments)
        except CommandError as error:
            events = [self._error(error)]
            if error.code == "AUTH" and self.started:
                events.append(Close())
        if command in self._unanswered:
            events = [event for event in events if not isinstance(event, Reply | Info | Catalogue)]
        return events

    def _answer(self, command: str, arguments: list[str]) -> list[Event]:
        if self.started and command not in {"INFO", "BYE"}:
            return []  # in the data phase there is nobody to read an answer
        only = {3: {"FETCH", "TIME", "CAT", "BATCH", "CAPABILITIES"}, 4: {"AUTH", "ENDFETCH"}}
        answer = self._answers.get(command)
        if answer is None or command in only[7 - self.version]:
            raise CommandError("UNSUPPORTED", f"unknown command: {command[:50]}")
        if self.version == 4 and not self._negotiated and command not in {"HELLO", "SLPROTO", "BYE"}:
            raise CommandError("UNEXPECTED", "SLPROTO must come first")
        return answer(arguments)

    def _ok(self) -> list[Event]:
        return [] if self._batch else [Reply(b"OK\r\n")]

    def _error(self, error: CommandError) -> Reply:
        if self.version == 4:
            return Reply(f"ERROR {error.code} {error}\r\n".encode())
        if self._extended:
            return Reply(f"ERROR\r{error.code} {error}\r\n".encode())
        return Reply(b"ERROR\r\n")

    def _hello(self, _arguments: list[str]) -> list[Event]:
        # Clients older than libslink 2 want less than 100 characters in a line.
        newest = "4.0" if 4 in self._versions else "3.1"
        protocols = " ".join(f"SLPROTO:{name}" for name in ("4.0", "3.1") if int(name[0]) in self._versions)
        legacy = " CAP EXTREPLY NSWILDCARD BATCH" if 3 in self._versions else ""
        first = SOFTWARE.replace("v4.0", f"v{newest}")
        return [Reply(f"{first} :: {protocols}{legacy}\r\n{self._organization}\r\n".encode())]

    def _slproto(self, arguments: list[str]) -> list[Event]:
        if self._negotiated or self._selections:
            raise CommandError("UNEXPECTED", "SLPROTO comes once and first")
        wanted = {"4.0": 4, "3.0": 3, "3.1": 3}.get(arguments[0] if len(arguments) == 1 else "")
        if wanted not in self._versions:
            raise CommandError("UNSUPPORTED", "unsupported protocol version")
        self.version, self._negotiated = wanted, True
        return self._ok()

    def _useragent(self, arguments: list[str]) -> list[Event]:
        self.user_agent = " ".join(arguments)
        return self._ok()

    def _capabilities(self, arguments: list[str]) -> list[Event]:
        self._extended = self._extended or "EXTREPLY" in (word.upper() for word in arguments)
        return self._ok()

    def _start_batch(self, _arguments: list[str]) -> list[Event]:
        events = self._ok()
        self._batch = True
        return events

    def _auth(self, arguments: list[str]) -> list[Event]:
        kind = arguments[0].upper() if arguments else ""
        count = {"USERPASS": 2, "JWT": 1}.get(kind)
        if count is None or not self._access.required:
            raise CommandError("UNSUPPORTED", "accepted: USERPASS and JWT" if self._access.required else "no AUTH here")
        if len(arguments) != 1 + count:
            raise CommandError("ARGUMENTS", f"AUTH {kind} takes {count} argument(s)")
        if not self._access.allows(kind, arguments[1:]):
            raise CommandError("AUTH", "authentication failed")
        self._authenticated = True
        return self._ok()

    def _info(self, arguments: list[str]) -> list[Event]:
        item = arguments[0].upper() if arguments else ""
        stations, streams = ([*arguments[1:3], "*", "*"])[:2] if len(arguments) < 3 else arguments[1:3]
        return [Info(self.version, item, stations, streams)]

    def _station(self, arguments: list[str]) -> list[Event]:
        self._current = None  # if this one is refused, SELECT and DATA up to the next are ignored
        try:
            if self.version == 4:
                (pattern,) = arguments
            else:
                station, network = [*arguments, "*"][:2] if len(arguments) == 1 else arguments
                pattern = f"{network}_{station}"
            parse_station(pattern)
        except ValueError as error:
            raise CommandError("ARGUMENTS", f"not a station: {error}") from error
        if any(fnmatchcase(pattern, refused) for refused in self._refused):
            raise CommandError("ARGUMENTS", "station not found")
        if len(self._selections) >= MAX_STATIONS:
            raise CommandError("LIMIT", f"more than {MAX_STATIONS} stations")
        self._selections.setdefault(pattern, Selection(pattern))
        self._current = pattern
        return self._ok()

    def _change(self, change: Callable[[Selection], Selection]) -> None:
        """Change the selection that is being negotiated."""
        if self._current is not None:
            self._selections[self._current] = change(self._selections[self._current])
        elif self.version == 3 and not self._selections:
            self._whole = change(self._whole)
        else:
            raise CommandError("UNEXPECTED", "no station is selected")

    def _select(self, arguments: list[str]) -> list[Event]:
        if self.version == 4 and not arguments:
            raise CommandError("ARGUMENTS", "empty SELECT is not allowed in v4")
        if self.version == 3 and len(arguments) > 1:
            raise CommandError("ARGUMENTS", "SELECT takes one argument")
        try:
            added = tuple(parse_selector(text, version=self.version) for text in arguments)
        except ValueError as error:
            raise CommandError("ARGUMENTS", str(error)) from error

        def change(old: Selection) -> Selection:
            selectors = old.selectors + added if added else ()  # in version 3, nothing means everything again
            if len(selectors) > MAX_SELECTORS:
                raise CommandError("LIMIT", f"more than {MAX_SELECTORS} patterns")
            return Selection(old.stations, selectors, old.sequence, old.everything, old.start_ns, old.end_ns)

        self._change(change)
        return self._ok()

    def _data(self, arguments: list[str]) -> list[Event]:
        if len(arguments) > self.version - 1:
            raise CommandError("ARGUMENTS", "too many arguments")
        everything = self.version == 4 and bool(arguments) and arguments[0].upper() == "ALL"
        try:
            sequence = None
            if arguments and not everything:
                sequence = _sequence(arguments[0], version=self.version)
            times = [parse_seedlink_time(text) for text in arguments[1:]]
        except ValueError as error:
            raise CommandError("ARGUMENTS", f"not a sequence number and times: {error}") from error
        start_ns, end_ns = ([*times, None, None])[:2]
        return self._go(lambda old: Selection(old.stations, old.selectors, sequence, everything, start_ns, end_ns))

    def _fetch_data(self, arguments: list[str]) -> list[Event]:
        self._fetch = True
        return self._data(arguments)

    def _time(self, arguments: list[str]) -> list[Event]:
        try:
            start_ns, end_ns = ([*(parse_seedlink_time(text) for text in arguments), None])[:2]
            if len(arguments) > 2:
                raise ValueError("too many arguments")
        except ValueError as error:
            raise CommandError("ARGUMENTS", f"not one or two times: {error}") from error
        return self._go(lambda old: Selection(old.stations, old.selectors, start_ns=start_ns, end_ns=end_ns))

    def _go(self, change: Callable[[Selection], Selection]) -> list[Event]:
        """Take a start; in version 3 without STATION that is the end of the negotiation."""
        self._change(change)
        if self.version == 3 and not self._selections:
            return self._begin((self._whole,))
        return self._ok()

    def _end(self, _arguments: list[str]) -> list[Event]:
        if self.version == 4 and not self._selections:
            raise CommandError("UNEXPECTED", "no station is selected")
        return self._begin(tuple(self._selections.values()) or (self._whole,))

    def _end_fetch(self, arguments: list[str]) -> list[Event]:
        self._fetch = True
        return self._end(arguments)

    def _begin(self, selections: tuple[Selection, ...]) -> list[Event]:
        self.started = True
        if self._access.required and not self._authenticated:
            raise CommandError("AUTH", "authentication required for streaming")
        return [Start(Request(self.version, self._fetch, selections, self.user_agent))]


def _sequence(text: str, *, version: int) -> int:
    """Parse a sequence number: decimal in SeedLink 4, hexadecimal in 3 (where ObsPy writes 0x before it)."""
    value = int(text, 10 if version == 4 else 16)
    if not 0 <= value < 1 << 64:
        raise ValueError(f"{text} is not of 64 bits")
    return value
