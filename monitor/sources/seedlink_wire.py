"""SeedLink 3 and 4 on the wire: bytes in, lines and frames out. No sockets; the only importer of `seedlink_client`.

The library's own clients are not used: their TLS knows only the system's authorities, and the rest of a frame is read
without a timeout. Its parsers of headers, replies and INFO are.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

from seedlink_client import mseed
from seedlink_client.protocol import (
    HEADSIZE_V3,
    HEADSIZE_V4,
    MIN_PAYLOAD_DETECT,
    Protocol,
    SeedLinkError,
    parse_header_v3,
    parse_header_v4,
    parse_hello,
    parse_info_xml,
    parse_reply,
    select_protocol,
)

from monitor.sources.shallow import check_xml, read_json

# Records are of 512 bytes, seldom of more than 64 KiB; the library bounds a version 4 frame to 16 MiB.
MAX_RECORD_BYTES = 1024 * 1024
MAX_LINE_BYTES = 8192
MAX_RESYNC_BYTES = 64 * 1024

# What a version 3 packet is where its payload does not tell: the one size that the protocol began with.
LEGACY_RECORD_BYTES = 512

_HEADER_3 = re.compile(rb"SL(?:[0-9A-Fa-f]{6}|INFO..)(?:MS\x03|[0-9 \0]{6}[DRQM][ \0])")
_AUTH_CODES = frozenset({"AUTH", "UNAUTHORIZED"})


class WireError(Exception):
    """The server said something that is no SeedLink; the message shows what."""


@dataclass(frozen=True, slots=True)
class Hello:
    """How a server introduces itself.

    Attributes:
        software: Such as `SeedLink v4.0 (RingServer/4.5.3)`.
        organization: Who runs it.
        capabilities: What it can do, in its words, in capitals.
        protocol: The version to speak with it.
    """

    software: str
    organization: str
    capabilities: frozenset[str]
    protocol: Literal["3", "4"]

    @property
    def shares_sequence(self) -> bool:
        """Whether all stations have one sequence, as in ringserver, and resuming is done for all of them together."""
        return "ringserver" in self.software.lower()


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to a command.

    Attributes:
        ok: Whether it was accepted.
        code: Version 4's word for what was wrong, such as `AUTH`, or empty.
        message: What the server says of it, or empty.
    """

    ok: bool
    code: str
    message: str

    @property
    def is_auth(self) -> bool:
        """Whether a login is missing or not good."""
        return not self.ok and self.code in _AUTH_CODES

    @property
    def text(self) -> str:
        """What to show a person."""
        return " ".join(part for part in (self.code, self.message) if part) or "ERROR"


@dataclass(frozen=True, slots=True)
class DataFrame:
    """A packet of data.

    Attributes:
        sequence: Its number; None where it is not known.
        station_id: `NET.STA`; None in version 3, where only the payload tells.
        payload: miniSEED, if all is well.
        fault: What is wrong with it, or None.
    """

    sequence: int | None
    station_id: str | None
    payload: bytes
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class InfoFrame:
    """A part of an answer to INFO.

    Attributes:
        text: XML in version 3, JSON in version 4.
        more: Whether another part follows.
        is_error: Whether the server refuses to answer.
    """

    text: str
    more: bool = False
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class EndFrame:
    """The server has no more data to send."""


ServerFrame = DataFrame | InfoFrame | EndFrame | Reply


def read_hello(first: str, second: str, wanted: Literal["auto", "3", "4"]) -> Hello:
    """Understand the two lines of the answer to HELLO.

    Raises:
        WireError: The server does not speak the wanted version.
    """
    software, organization, capabilities, majors = parse_hello(first, second)
    # A server of the time before the capability was invented says so in its name, if at all.
    requested = {"auto": None, "3": Protocol.V3, "4": Protocol.V4}[wanted]
    try:
        chosen = select_protocol(majors, requested)
    except SeedLinkError as error:
        raise WireError(f"{error}; it is {software!r}") from error
    return Hello(software, organization, frozenset(key.upper() for key in capabilities), chosen.value)


def read_reply(line: str) -> Reply:
    """Understand an OK or ERROR.

    Raises:
        WireError: It is neither.
    """
    response = parse_reply(line)
    if response.status not in ("OK", "ERROR"):
        raise WireError(f"answered {line[:80]!r}; expected OK or ERROR")
    code, message = response.code or "", response.message or ""
    if not code and response.status == "ERROR" and message.split(" ")[0].isupper():
        # Version 3 with extended replies has the word in the message.
        code, _, message = message.partition(" ")
    return Reply(response.status == "OK", code, message)


class WireReader:
    """What a server sends, cut into lines (before the data) and frames.

    Feed it bytes as they come, in any pieces; take out what has become complete.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0
        self.protocol: Literal["3", "4"] = "3"

    @property
    def pending(self) -> int:
        """Bytes of something that is not complete yet."""
        return len(self._buffer) - self._at

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def next_line(self) -> str | None:
        """Take out a line, without its end; None while there is no complete one.

        Raises:
            WireError: The line is too long, or not text.
        """
        end = self._buffer.find(b"\r\n", self._at, self._at + MAX_LINE_BYTES)
        if end < 0:
            if self.pending >= MAX_LINE_BYTES:
                raise WireError(f"sent {self.pending} bytes without the end of a line; accepted: {MAX_LINE_BYTES}")
            return None
        line = bytes(self._buffer[self._at : end])
        self._at = end + 2
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise WireError(f"sent a line that is not text: {line[:40]!r}") from error

    def next_frame(self) -> ServerFrame | None:
        """Take out a frame; None while there is no complete one.

        Raises:
            WireError: What comes is no frame, and where the next begins cannot be told.
        """
        if self.pending < 3:
            return None
        start = bytes(self._buffer[self._at : self._at + 2])
        if start == b"SE" and self.protocol == "4":
            return self._frame_4()
        if start == b"SL" and self.protocol == "3":
            return self._frame_3()
        if self._begins(b"END"):
            self._at += 3
            return EndFrame()
        if start == b"ER" and b"ERROR".startswith(bytes(self._buffer[self._at : self._at + 5])):
            line = self.next_line()
            return read_reply(line) if line is not None else None
        if self.protocol == "3":
            return self._resync("no packet begins with")
        raise WireError(f"sent {bytes(self._buffer[self._at : self._at + 16])!r} where a packet should begin")

    def _begins(self, prefix: bytes) -> bool:
        return self._buffer.startswith(prefix, self._at)

    def _frame_4(self) -> ServerFrame | None:
        if self.pending < HEADSIZE_V4:
            return None
        try:
            header = parse_header_v4(bytes(self._buffer[self._at : self._at + HEADSIZE_V4]))
        except (SeedLinkError, UnicodeDecodeError) as error:
            raise WireError(f"sent an unusable packet header: {error}") from error
        total = HEADSIZE_V4 + header.station_id_length + header.payload_length
        if self.pending < total:
            return None
        at = self._at + HEADSIZE_V4
        station = bytes(self._buffer[at : at + header.station_id_length])
        payload = bytes(self._buffer[at + header.station_id_length : self._at + total])
        self._at += total
        if header.payload_format in "JX":
            return InfoFrame(payload.decode("utf-8", "replace"), is_error=header.payload_subformat == "E")
        # NET_STA, and stations of the field have no underscore in their codes.
        station_id = station.decode("ascii", "replace").replace("_", ".", 1)
        known = header.payload_format in "23"
        fault = None if known else f"payload format {header.payload_format!r}; accepted: '2' and '3'"
        return DataFrame(header.seqnum, station_id, payload, fault)

    def _frame_3(self) -> ServerFrame | None:
        if self.pending < HEADSIZE_V3 + MIN_PAYLOAD_DETECT:
            return None
        try:
            header = parse_header_v3(bytes(self._buffer[self._at : self._at + HEADSIZE_V3]))
        except SeedLinkError:
            return self._resync("no packet has the header")
        at = self._at + HEADSIZE_V3
        try:
            length = self._record_length(at)
        except SeedLinkError:
            return self._undetected(header.seqnum)
        if length is None or len(self._buffer) < at + length:
            return None
        payload = bytes(self._buffer[at : at + length])
        self._at = at + length
        if not header.is_info:
            return DataFrame(header.seqnum, None, payload)
        try:
            return InfoFrame(mseed.extract_info_text(payload), header.info_continues)
        except SeedLinkError as error:
            raise WireError(f"sent an unusable answer to INFO: {error}") from error

    def _record_length(self, at: int) -> int | None:
        """Length of the record that begins there; None while it cannot be told.

        Raises:
            SeedLinkError: It is no record.
        """
        size = MIN_PAYLOAD_DETECT
        while True:
            window = bytes(self._buffer[at : at + size])
            found = mseed.detect_record_length(window)
            if found is not None:
                return found[0]
            if size >= MAX_RECORD_BYTES:
                raise SeedLinkError(f"record without a length in {size} bytes")
            if at + size > len(self._buffer):
                return None
            size *= 2

    def _undetected(self, sequence: int | None) -> DataFrame | None:
        """Step over a packet whose payload is no record."""
        follower = self._at + HEADSIZE_V3 + LEGACY_RECORD_BYTES
        if len(self._buffer) < follower + 2:
            return None
        if self._buffer[follower : follower + 2] != b"SL":
            return self._resync("no miniSEED follows")
        payload = bytes(self._buffer[self._at + HEADSIZE_V3 : follower])
        self._at = follower
        return DataFrame(sequence, None, payload, "payload is not miniSEED")

    def _resync(self, what: str) -> DataFrame | None:
        """Find the next packet in a stream that carries no lengths."""
        shown = bytes(self._buffer[self._at : self._at + 16])
        found = _HEADER_3.search(self._buffer, self._at + 1)
        if found is None:
            if self.pending < MAX_RESYNC_BYTES:
                return None
            raise WireError(f"{what} {shown!r}, and no other begins within {self.pending} bytes")
        skipped = bytes(self._buffer[self._at : found.start()])
        self._at = found.start()
        return DataFrame(None, None, skipped, f"{what} {shown!r}; skipped {len(skipped)} bytes")


def parse_info(text: str, protocol: Literal["3", "4"]) -> dict[str, Any]:
    """Understand an answer to INFO.

    Args:
        text: All parts of it.
        protocol: Version: 3 is XML, 4 is JSON.

    Returns:
        Version 3: attributes, and children in lists by their tags, of the outermost element. Version 4: the object.

    Raises:
        WireError: It is not well-formed.
    """
    try:
        if protocol == "4":
            content = read_json(text)
        else:
            check_xml(text)
            content = next(iter(parse_info_xml(text).values()))
    except (SeedLinkError, ValueError, AttributeError) as error:
        # AttributeError: what the library makes of an element within one that has an attribute of its name.
        raise WireError(f"sent an unusable answer to INFO: {error}") from error
    if not isinstance(content, dict):
        raise WireError(f"sent an unusable answer to INFO: {text[:40]!r}; expected an object")
    return content
