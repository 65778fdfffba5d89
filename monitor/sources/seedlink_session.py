"""One SeedLink connection: made, greeted, logged in, asked, and read, with a limit to every wait."""

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from importlib import metadata
from typing import Any

from monitor.secrets import SecretError, read_secret
from monitor.settings import SeedLinkSettings
from monitor.sources.seedlink_events import Reason
from monitor.sources.seedlink_wire import (
    DataFrame,
    EndFrame,
    Hello,
    InfoFrame,
    Reply,
    ServerFrame,
    WireError,
    WireReader,
    parse_info,
    read_hello,
    read_reply,
)
from monitor.tls import client_context

READ_BYTES = 64 * 1024

# The largest public servers list some ten thousand streams, 150 bytes each.
MAX_INFO_BYTES = 64 * 1024 * 1024

# ringserver takes no longer command; a token must fit.
MAX_COMMAND_BYTES = 4096

# A healthy server has this many chances to answer before a silence counts as a stall.
_KEEPALIVES_A_STALL = 3

_LOGIN = re.compile(r"(AUTH +(?:USERPASS|JWT)).*", re.DOTALL)


class ConnectionLostError(Exception):
    """A connection could not be made or has ended.

    Attributes:
        reason: One of a few words.
        detail: What happened, for a person; never holds a secret.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


class Session:
    """A connection to one server, from the greeting on; `open_session` makes it."""

    def __init__(
        self, settings: SeedLinkSettings, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secret: str
    ) -> None:
        self._settings = settings
        self._reader = reader
        self._writer = writer
        self._secret = secret
        self._wire = WireReader()
        self._loop = asyncio.get_running_loop()
        self._alive_s = self._loop.time()
        self._asked_s = self._alive_s
        # What came last was no whole packet: answers to INFO are no sign that the data go on.
        self._torn = False
        self.hello = Hello("", "", frozenset(), "3")

    async def greet(self, login: str | None) -> None:
        """Exchange HELLO, agree on a version, and log in.

        Raises:
            ConnectionLostError: The server does not take part.
        """
        self._send("HELLO")
        with _faults():
            self.hello = read_hello(await self._line(), await self._line(), self._settings.version)
        if self.hello.protocol == "4":
            await self._require("SLPROTO 4.0")
            # Nothing hangs on it, and not every server knows it.
            await self.command(f"USERAGENT seismic-monitor/{metadata.version('seismic-monitor')}")
        elif "CAP" in self.hello.capabilities:
            await self.command("CAPABILITIES EXTREPLY")
        self._wire.protocol = self.hello.protocol
        if login is not None:
            reply = await self.command(login)
            if not reply.ok:
                raise ConnectionLostError("auth", self._redacted(reply.text))

    async def command(self, text: str) -> Reply:
        """Send a command and wait for its answer.

        Raises:
            ConnectionLostError: None came in time.
        """
        self._send(text)
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                with _faults():
                    return read_reply(await self._line())
        except TimeoutError as error:
            word = text.split(" ", 1)[0]
            message = f"no answer to {word} within {self._settings.connect_timeout_s:g} s"
            raise ConnectionLostError("timeout", message) from error

    def start(self) -> None:
        """Ask the server to begin to send what has been asked for."""
        self._send("END")
        self.touch()

    async def info(self, level: str) -> dict[str, Any]:
        """Ask INFO, before data flow.

        Returns:
            As `parse_info`.

        Raises:
            ConnectionLostError: The server does not answer, or refuses.
        """
        self._send(f"INFO {level}")
        parts: list[str] = []
        size = 0
        try:
            async with asyncio.timeout(self._settings.stall_timeout_s):
                while True:
                    frame = await self._frame()
                    if isinstance(frame, DataFrame | EndFrame):
                        raise ConnectionLostError("protocol", f"sent data in answer to INFO {level}")
                    if isinstance(frame, Reply) or frame.is_error:
                        text = frame.text
                        raise ConnectionLostError("protocol", f"INFO {level} refused: {self._redacted(text)}")
                    parts.append(frame.text)
                    size += len(frame.text)
                    if size > MAX_INFO_BYTES:
                        raise ConnectionLostError("protocol", f"INFO {level} is longer than {MAX_INFO_BYTES} bytes")
                    if not frame.more:
                        with _faults():
                            return parse_info("".join(parts), self.hello.protocol)
        except TimeoutError as error:
            message = f"no answer to INFO {level} within {self._settings.stall_timeout_s:g} s"
            raise ConnectionLostError("timeout", message) from error

    async def packet(self) -> DataFrame:
        """Read the next packet, for which the server is asked for signs of life while there is none.

        Call `touch` when a packet has been dealt with, so that the time it took is not held against the server.

        Raises:
            ConnectionLostError: The connection has ended, or nothing came for too long.
        """
        while True:
            frame = await self._live_frame()
            match frame:
                case DataFrame():
                    self._torn = frame.fault is not None
                    return frame
                case Reply() if frame.is_auth:
                    raise ConnectionLostError("auth", self._redacted(frame.text))
                case Reply():
                    raise ConnectionLostError("protocol", f"server says {self._redacted(frame.text)}")
                case EndFrame():
                    raise ConnectionLostError("closed", "the server says that it has no more data")
                case InfoFrame():
                    pass

    def touch(self) -> None:
        """Begin to wait for the server anew."""
        self._alive_s = self._asked_s = self._loop.time()

    def close(self) -> None:
        """End the connection, at once."""
        self._writer.transport.abort()

    async def _live_frame(self) -> ServerFrame:
        """Read a frame; a frame that is not complete in time, however far it got, is a stall."""
        stall_s = self._settings.stall_timeout_s
        keepalive_s = min(self._settings.keepalive_s, stall_s / _KEEPALIVES_A_STALL)
        while True:
            try:
                frame = self._wire.next_frame()
            except WireError as error:
                raise ConnectionLostError("protocol", str(error)) from error
            if frame is not None:
                if not (self._torn and isinstance(frame, InfoFrame)):
                    self._alive_s = self._loop.time()
                return frame
            due_s = min(self._alive_s + stall_s, max(self._alive_s, self._asked_s) + keepalive_s)
            try:
                async with asyncio.timeout_at(due_s):
                    await self._fill()
            except TimeoutError:
                now_s = self._loop.time()
                if now_s >= self._alive_s + stall_s:
                    where = f", {self._wire.pending} bytes into a packet" if self._wire.pending else ""
                    raise ConnectionLostError("stall", f"nothing for {stall_s:g} s{where}") from None
                self._asked_s = now_s
                self._send("INFO ID")

    async def _frame(self) -> ServerFrame:
        while True:
            with _faults():
                frame = self._wire.next_frame()
            if frame is not None:
                return frame
            await self._fill()

    async def _line(self) -> str:
        while True:
            line = self._wire.next_line()
            if line is not None:
                return line
            await self._fill()

    async def _fill(self) -> None:
        try:
            data = await self._reader.read(READ_BYTES)
        except OSError as error:
            raise ConnectionLostError("closed", f"connection lost: {error.strerror or error}") from error
        if not data:
            where = f", {self._wire.pending} bytes into a packet" if self._wire.pending else ""
            raise ConnectionLostError("closed", f"closed by the server{where}")
        self._wire.feed(data)

    def _send(self, text: str) -> None:
        # Commands are few and short: what the transport buffers of them is bounded without waiting for it.
        wire = text.encode("utf-8") + b"\r\n"
        if len(wire) > MAX_COMMAND_BYTES:
            word = text.split(" ", 1)[0]
            raise ConnectionLostError("protocol", f"{word} of {len(wire)} bytes; accepted: {MAX_COMMAND_BYTES}")
        if not self._writer.is_closing():
            self._writer.write(wire)

    async def _require(self, text: str) -> None:
        reply = await self.command(text)
        if not reply.ok:
            raise ConnectionLostError("protocol", f"{text} refused: {reply.text}")

    def _redacted(self, text: str) -> str:
        """A server may repeat the command that it does not understand."""
        if self._secret:
            text = text.replace(self._secret, "***")
        # Cut off, it might show the first half of a secret.
        return _LOGIN.sub(r"\1 ***", text) if self._secret else text


@contextlib.contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except WireError as error:
        raise ConnectionLostError("protocol", str(error)) from error


@contextlib.asynccontextmanager
async def open_session(settings: SeedLinkSettings) -> AsyncIterator[Session]:
    """Connect, greet and log in; the connection is closed at the end.

    Raises:
        ConnectionLostError: It cannot be done, or not in time, which covers the name, TCP, TLS and the handshake.
    """
    login, secret = _login(settings)
    context = _tls_context(settings) if settings.tls else None
    session: Session | None = None
    try:
        try:
            async with asyncio.timeout(settings.connect_timeout_s):
                reader, writer = await _connect(settings, context)
                session = Session(settings, reader, writer, secret)
                await session.greet(login)
        except TimeoutError as error:
            what = "no connection" if session is None else "no handshake"
            message = f"{what} within {settings.connect_timeout_s:g} s"
            raise ConnectionLostError("timeout", message) from error
        yield session
    finally:
        if session is not None:
            session.close()


async def _connect(
    settings: SeedLinkSettings, context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        return await asyncio.open_connection(
            settings.host,
            settings.port_used,
            ssl=context,
            server_hostname=settings.host if context is not None else None,
            limit=READ_BYTES,
        )
    except socket.gaierror as error:
        raise ConnectionLostError("dns", str(error.strerror or error)) from error
    except ssl.SSLCertVerificationError as error:
        raise ConnectionLostError("tls", f"certificate not accepted: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise ConnectionLostError("tls", str(error.reason or error)) from error
    except ConnectionResetError as error:
        raise ConnectionLostError("closed", "closed by the server") from error
    except OSError as error:
        raise ConnectionLostError("refused", str(error.strerror or error)) from error
    except UnicodeError as error:  # of a name that is no host name
        raise ConnectionLostError("dns", str(error)) from error


def _tls_context(settings: SeedLinkSettings) -> ssl.SSLContext:
    # Anew for each connection: files of authorities are renewed while we run.
    try:
        return client_context(settings.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConnectionLostError("tls", f"ca_file {settings.ca_file}: {error}") from error


def _login(settings: SeedLinkSettings) -> tuple[str | None, str]:
    """The command to log in with, and what of it is secret."""
    if settings.user is not None and settings.password_file is not None:
        password = _secret(settings.password_file)
        if any(char.isspace() for char in settings.user) or not settings.user:
            raise ConnectionLostError("auth", f"user is {settings.user!r}; accepted: text without spaces")
        return f"AUTH USERPASS {settings.user} {password}", password
    if settings.token_file is not None:
        token = _secret(settings.token_file)
        return f"AUTH JWT {token}", token
    return None, ""


def _secret(path: str) -> str:
    try:
        secret = read_secret(path).reveal()
    except SecretError as error:
        raise ConnectionLostError("auth", str(error)) from error
    if any(char.isspace() for char in secret):
        raise ConnectionLostError("auth", f"{path}: its first line has spaces in it, which SeedLink cannot carry")
    return secret
