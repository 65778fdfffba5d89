"""One connection to an MQTT broker. The only importer of aiomqtt; what is sent over it, `monitor.publisher` decides.

aiomqtt 2 keeps three things to itself that a durable publisher needs: the reason code of an acknowledgement, what the
broker says of itself when it accepts a connection, and that a connection ended before that. `_Client` takes them from
the callbacks of Paho, on which aiomqtt 2 stands. No client is used twice: what was not acknowledged waits in the
outbox, not in Paho.
"""

import asyncio
import contextlib
import errno
import functools
import logging
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn

import aiomqtt
from paho.mqtt.client import ConnectFlags, DisconnectFlags
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from monitor.outbox_message import OutboxMessage
from monitor.secrets import SecretError, read_secret
from monitor.settings import MqttSettings
from monitor.tls import client_context

Version = Literal["5", "3.1.1"]
LinkReason = Literal["refused", "auth", "tls", "dns", "timeout", "closed", "quota", "protocol", "network", "taken_over"]
"""Why there is no connection.

refused: nobody listens, or the broker says it is not available; auth: login or certificate; tls; dns: the host has no
address; timeout; closed: by the other side or on the way; quota: too much or too often for the broker; protocol: it
answers something else than MQTT; network: no way to the host; taken_over: another client uses the same client id.
"""
LINK_REASONS: Final[tuple[LinkReason, ...]] = (
    *("refused", "auth", "tls", "dns", "timeout", "closed", "quota", "protocol", "network", "taken_over"),
)

# Messages under way at a time; enough for a slow link, and mosquitto's own default.
WINDOW: Final = 20
# For the last packet to leave.
GOODBYE_S: Final = 3.0
# Of what Home Assistant says; more are dropped by aiomqtt.
_INCOMING: Final = 100
# Fixed header, packet id and properties of a PUBLISH packet at most, beside topic and payload.
_PUBLISH_OVERHEAD: Final = 64

# MQTT 5.0 section 2.4.
UNSPECIFIED: Final = 0x80
IMPLEMENTATION_SPECIFIC: Final = 0x83
UNSUPPORTED_VERSION: Final = 0x84
NOT_AUTHORIZED: Final = 0x87
TOPIC_NAME_INVALID: Final = 0x90
PACKET_TOO_LARGE: Final = 0x95
QUOTA_EXCEEDED: Final = 0x97
PAYLOAD_FORMAT_INVALID: Final = 0x99
_REASON_OF_CODE: Final[dict[int, LinkReason]] = {
    **dict.fromkeys((0x85, 0x86, 0x87, 0x8A, 0x8C), "auth"),  # client id, login, authorization, banned, method
    **dict.fromkeys((0x88, 0x89), "refused"),  # unavailable, busy
    **dict.fromkeys((0x81, 0x82, 0x84, 0x90, 0x93, 0x94, 0x95, 0x99, 0x9A, 0x9B), "protocol"),
    **dict.fromkeys((0x96, 0x97, 0x9F), "quota"),  # messages, quota, connections
    0x8D: "timeout",  # keep alive
    0x8E: "taken_over",
}
# Alerts of TLS 1.3 (RFC 8446 section 6.2) by which a broker says what it thinks of this client's certificate; they come
# when the handshake is over for the client.
_REFUSED_CERTIFICATE: Final = re.compile(r"ALERT_(\w*CERTIFICATE\w*|UNKNOWN_CA|ACCESS_DENIED)")


class LinkError(Exception):
    """There is no connection, or no longer.

    Attributes:
        reason: One of `LINK_REASONS`.
        detail: For a person.
        code: The broker's reason code (MQTT 5.0 section 2.4), where it gave one.
    """

    def __init__(self, reason: LinkReason, detail: str, code: int | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.code = code


def _chain(error: BaseException) -> Iterator[BaseException]:
    # aiomqtt raises its own errors "from None"; what was behind them stays in the context.
    seen: list[BaseException] = []
    while error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__ or error


def _of_socket(error: BaseException) -> tuple[LinkReason, str] | None:
    match error:
        case ssl.SSLError():
            text = getattr(error, "verify_message", None) or getattr(error, "reason", None) or str(error)
            return "tls", text.replace("_", " ").lower()
        case socket.gaierror():
            return "dns", error.strerror or str(error)
        case ConnectionRefusedError():
            return "refused", "nobody listens there"
        case TimeoutError():
            return "timeout", "no answer"
        case OSError(errno=errno.EHOSTUNREACH | errno.ENETUNREACH | errno.ENETDOWN | errno.EADDRNOTAVAIL):
            return "network", error.strerror or str(error)
        case OSError():
            return "closed", error.strerror or str(error)
        case _:
            return None


def classify(error: BaseException, last_words: str | None = None) -> LinkError:
    """Put what aiomqtt, Paho or the socket raised into one of few reasons.

    Args:
        error: What was raised.
        last_words: What Paho logged of it: of an error while it reads it tells no more.
    """
    for cause in _chain(error):
        if isinstance(cause, LinkError):
            return cause
        if isinstance(cause, aiomqtt.MqttCodeError) and isinstance(cause.rc, ReasonCode):
            code = cause.rc.value
            if code in _REASON_OF_CODE:
                return LinkError(_REASON_OF_CODE[code], f"{cause.rc} (code 0x{code:02X})", code)
        found = _of_socket(cause)
        if found is not None:
            return LinkError(*found)
    if isinstance(error, aiomqtt.MqttError):
        refused = last_words is not None and _REFUSED_CERTIFICATE.search(last_words)
        return LinkError("auth" if refused else "closed", last_words or "the connection ended")
    # What Paho's parser makes of bytes that are no MQTT: errors of many types.
    return LinkError("protocol", f"the other side does not speak MQTT: {type(error).__name__}: {error}")


class _LastWords(logging.Handler):
    """Keeps what was logged last."""

    text: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


class _Client(aiomqtt.Client):
    """aiomqtt's client, telling what it would throw away."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.last_words = _LastWords(logging.ERROR)
        # A logger of its own, in no hierarchy: what it says is told as a `LinkError`.
        logger = logging.Logger("paho")
        logger.addHandler(self.last_words)
        self.acks: dict[int, asyncio.Future[int]] = {}
        self.session_present = False
        self.connack: Properties | None = None
        super().__init__(*args, logger=logger, **kwargs)

    @property
    def paho(self) -> Any:
        return self._client

    @property
    def gone(self) -> asyncio.Future[None]:
        """Done when the connection has ended, with its error."""
        return self._disconnected

    def classified(self, error: BaseException) -> LinkError:
        """Say why this connection ended."""
        return classify(error, self.last_words.text)

    def close_socket(self) -> None:
        """Close at once, whatever state the connection is in."""
        self.paho._sock_close()
        if self.gone.done() and not self.gone.cancelled():
            self.gone.exception()  # seen: asyncio would complain

    def _on_connect(
        self, client: Any, userdata: Any, flags: ConnectFlags, reason_code: ReasonCode, properties: Any = None
    ) -> None:
        self.session_present = flags.session_present
        self.connack = properties
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self, client: Any, userdata: Any, flags: DisconnectFlags, reason_code: ReasonCode, properties: Any = None
    ) -> None:
        if not self._connected.done() and not self._disconnected.done():
            # aiomqtt would wait for its timeout.
            self._disconnected.set_exception(aiomqtt.MqttCodeError(reason_code, "closed before CONNACK"))
            return
        super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def _on_publish(
        self, client: Any, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        ack = self.acks.pop(mid, None)
        if ack is not None and not ack.done():
            ack.set_result(reason_code.value)
        super()._on_publish(client, userdata, mid, reason_code, properties)


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes, retained, when this client has gone without a word."""

    topic: str
    payload: bytes


class Link:
    """An open connection.

    Attributes:
        version: Of the protocol: `5` or `3.1.1`.
        session_present: Did the broker still know this client?
        window: Messages that may be under way at a time.
    """

    def __init__(self, client: _Client, *, version: Version) -> None:
        self._client = client
        self.version: Version = version
        self.session_present = client.session_present
        self.window = min(WINDOW, getattr(client.connack, "ReceiveMaximum", WINDOW))
        self._max_qos: int = getattr(client.connack, "MaximumQoS", 2)
        self._retain_available: bool = bool(getattr(client.connack, "RetainAvailable", 1))
        self._max_bytes: int | None = getattr(client.connack, "MaximumPacketSize", None)
        self._room = asyncio.Semaphore(self.window)

    def is_too_large(self, message: OutboxMessage) -> bool:
        """Say whether the broker has said that it does not take so much; it would close the connection."""
        size = len(message.topic.encode()) + len(message.payload) + _PUBLISH_OVERHEAD
        return self._max_bytes is not None and size > self._max_bytes

    async def send(self, message: OutboxMessage, *, payload: bytes | None = None) -> asyncio.Future[int]:
        """Hand a message to the connection, when there is room in the window.

        Args:
            message: What to publish.
            payload: Instead of the message's own.

        Returns:
            Done with the broker's reason code when it has acknowledged; with 0 at once for QoS 0, and in MQTT 3.1.1,
            which has no way to say no. Cancelled never; it may never be done where the connection ends.

        Raises:
            LinkError: The connection has ended.
        """
        qos = min(message.qos, self._max_qos)
        if qos > 0:
            await self._room.acquire()
        properties = None
        if self.version == "5":
            properties = _properties(PacketTypes.PUBLISH, PayloadFormatIndicator=1, ContentType="application/json")
            if message.expiry_s is not None:
                properties.MessageExpiryInterval = message.expiry_s
        ack: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        retain = message.retain and self._retain_available
        # Not aiomqtt's `publish`, which waits, and forgets what the broker answers.
        info = self._client.paho.publish(
            message.topic, message.payload if payload is None else payload, qos, retain, properties
        )
        if info.rc != 0:
            raise LinkError("closed", "the connection ended")
        if qos == 0:
            ack.set_result(0)
        else:
            ack.add_done_callback(lambda _: self._room.release())
            self._client.acks[info.mid] = ack
        return ack

    async def subscribe(self, topic: str) -> None:
        """Ask for a topic, QoS 0.

        Raises:
            LinkError: The connection has ended, or nobody answers.
        """
        try:
            await self._client.subscribe(topic, qos=0)
        except aiomqtt.MqttError as error:
            raise self._client.classified(error) from error

    async def messages(self) -> AsyncIterator[tuple[str, bytes]]:
        """Give topic and payload of what arrives.

        Raises:
            LinkError: The connection has ended.
        """
        try:
            async for message in self._client.messages:
                yield message.topic.value, message.payload
        except aiomqtt.MqttError as error:
            raise self._client.classified(error) from error

    async def lost(self) -> NoReturn:
        """Wait until the connection ends.

        Raises:
            LinkError: It has.
        """
        await asyncio.wait([self._client.gone])
        error = self._client.gone.exception() or aiomqtt.MqttError()
        raise self._client.classified(error) from error


def _tls_context(settings: MqttSettings) -> ssl.SSLContext | None:
    if not settings.tls:
        return None
    try:
        context = client_context(settings.ca_file)
        if settings.cert_file is not None:
            context.load_cert_chain(settings.cert_file, settings.key_file)
    except ssl.SSLError as error:
        names = ", ".join(name for name in (settings.ca_file, settings.cert_file, settings.key_file) if name)
        raise LinkError("tls", f"{names}: not PEM files that belong together: {error.reason}") from error
    except OSError as error:
        raise LinkError(
            "tls", f"{error.filename or settings.ca_file or settings.cert_file}: {error.strerror}"
        ) from error
    return context


def _password(settings: MqttSettings) -> str | None:
    if settings.password_file is None:
        return None
    try:
        return read_secret(settings.password_file).reveal()
    except SecretError as error:
        raise LinkError("auth", str(error)) from error


def _properties(packet_type: int, **values: int | str) -> Any:
    properties = Properties(packet_type)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


def _client(
    settings: MqttSettings,
    client_id: str,
    will: Will,
    *,
    version: Version,
    password: str | None,
    tls_context: ssl.SSLContext | None,
) -> _Client:
    is_v5 = version == "5"
    testament = _properties(
        PacketTypes.WILLMESSAGE,
        WillDelayInterval=settings.will_delay_s,
        PayloadFormatIndicator=1,
        ContentType="application/json",
    )
    client = _Client(
        str(settings.host),
        settings.port_used,
        identifier=client_id,
        protocol=aiomqtt.ProtocolVersion.V5 if is_v5 else aiomqtt.ProtocolVersion.V311,
        username=settings.user,
        password=password,
        tls_context=tls_context,
        will=aiomqtt.Will(will.topic, will.payload, qos=1, retain=True, properties=testament if is_v5 else None),
        clean_session=None if is_v5 else False,
        clean_start=False if is_v5 else 3,
        properties=_properties(PacketTypes.CONNECT, SessionExpiryInterval=settings.session_expiry_s) if is_v5 else None,
        keepalive=settings.keepalive_s,
        timeout=settings.connect_timeout_s,
        max_queued_incoming_messages=_INCOMING,
    )
    client.paho.connect_timeout = settings.connect_timeout_s
    return client


async def _open(client: _Client, stop: "asyncio.Future[Any]") -> None:
    """Connect and wait for the broker's answer, no longer than until `stop` is done.

    Raises:
        LinkError: There is no connection, and nothing is left of the attempt.
    """
    entering: asyncio.Future[Any] = asyncio.ensure_future(client.__aenter__())
    gone: asyncio.Future[Any] = client.gone
    try:
        await asyncio.wait([entering, gone, stop], return_when=asyncio.FIRST_COMPLETED)
        if not entering.done() and not gone.done():
            raise LinkError("closed", "stopped while connecting")
        failed = entering.exception() if entering.done() else None
        if failed is None and gone.done():
            # Perhaps accepted and closed at once: aiomqtt would forget what ended before it knew that it had begun.
            failed = gone.exception() or aiomqtt.MqttError()
        if failed is not None:
            raise client.classified(failed) from failed
    except BaseException:
        # The thread in which aiomqtt connects cannot be stopped: what it still opens is closed when it comes back.
        entering.add_done_callback(functools.partial(_discard, client))
        if client.paho.socket() is not None:
            entering.cancel()
        client.close_socket()
        raise


def _discard(client: _Client, entering: "asyncio.Future[Any]") -> None:
    if not entering.cancelled():
        entering.exception()  # seen: asyncio would complain
    client.close_socket()


@contextlib.asynccontextmanager
async def connect(
    settings: MqttSettings, *, client_id: str, will: Will, stop: "asyncio.Future[Any]"
) -> AsyncIterator[Link]:
    """Connect to the broker, and say goodbye when the block is left in order.

    Where the version is `auto`, each connection is tried with MQTT 5 first: a broker that was replaced or restarted is
    not stuck with what another one could do.

    Args:
        settings: Where and how; `host` is set.
        client_id: Fixed name of this client.
        will: What the broker publishes when this client is lost.
        stop: When done, connecting is given up; a connection stays.

    Yields:
        The connection.

    Raises:
        LinkError: There is none; or, from within the block, what the block raises.
    """
    # For each connection anew: passwords and certificates are renewed while the monitor runs.
    password, tls_context = await asyncio.to_thread(lambda: (_password(settings), _tls_context(settings)))
    version: Version = "3.1.1" if settings.version == "3.1.1" else "5"
    while True:
        client = _client(settings, client_id, will, version=version, password=password, tls_context=tls_context)
        try:
            await _open(client, stop)
            break
        except LinkError as error:
            # A broker without MQTT 5 says so, or just closes, or answers what Paho cannot read, or (amqtt) nothing.
            too_new = error.code == UNSUPPORTED_VERSION or error.reason in ("closed", "protocol", "timeout")
            if settings.version != "auto" or version == "3.1.1" or not too_new or stop.done():
                raise
            version = "3.1.1"
    try:
        yield Link(client, version=version)
        client.timeout = min(GOODBYE_S, settings.connect_timeout_s)
        with contextlib.suppress(aiomqtt.MqttError, OSError):
            await client.__aexit__(None, None, None)
    finally:
        client.close_socket()
