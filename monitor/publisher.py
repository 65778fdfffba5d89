"""Bring messages to the broker: the outbox, the state of this monitor, and what only the latest of counts.

One loop per concern, for as long as a connection lasts: `_drain` sends what is in the outbox, `_tell` what only the
latest of counts, `_listen` waits for Home Assistant to be started.

What the broker does not take (MQTT 5 says why; 3.1.1 cannot):

- quota exceeded: everything waits, with back-off, and is tried again;
- unspecified: likewise, but a message that failed `MAX_TRIES` times is set aside;
- not authorized, too large, invalid: the message is set aside, and the next one sent;
- it closes the connection on a message, `MAX_TRIES` times while nothing else was under way: set aside too.

What was set aside stays in the outbox and is offered again at the next start; where a person may have changed the
broker's mind meanwhile, after `RESTORE_S` too.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from monitor import mqtt
from monitor.backoff import Backoff
from monitor.messages import Status, mark_late
from monitor.mqtt import Link, LinkError, LinkReason, Version, Will
from monitor.outbox_message import OutboxMessage
from monitor.outbox_thread import OutboxThread
from monitor.settings import MqttSettings
from monitor.timebase import NS_PER_SECOND, seconds_to_ns
from monitor.topics import Topics

MAX_TRIES: Final = 5
RESTORE_S: Final = 900.0
# After a refused login or certificate: brokers lock out who tries too often.
AUTH_RETRY_S: Final = 300.0
# A connection that lasted so long was a good one: the next wait begins small again.
GOOD_S: Final = 30.0
# Topics on which something waits of which only the latest counts: about one per station. More is a mistake elsewhere.
MAX_LATEST: Final = 10_000
# At the end, for what is under way and for the goodbye.
GOODBYE_S: Final = 3.0
_RESTORED: Final = ("not_authorized", "closes_connection")

RejectReason = Literal["not_authorized", "too_large", "invalid", "quota", "unspecified", "closes_connection"]
REJECT_REASONS: Final[tuple[RejectReason, ...]] = (
    *("not_authorized", "too_large", "invalid", "quota", "unspecified", "closes_connection"),
)
_REJECTED: Final[dict[int, RejectReason]] = {
    mqtt.NOT_AUTHORIZED: "not_authorized",
    mqtt.TOPIC_NAME_INVALID: "invalid",
    mqtt.PACKET_TOO_LARGE: "too_large",
    mqtt.QUOTA_EXCEEDED: "quota",
    mqtt.PAYLOAD_FORMAT_INVALID: "invalid",
}


@dataclass(frozen=True, slots=True)
class Connected:
    """There is a connection; `session_present`: the broker still knew this client."""

    version: Version
    session_present: bool


@dataclass(frozen=True, slots=True)
class Disconnected:
    """There is no connection, or no longer.

    Attributes:
        reason: One of `monitor.mqtt.LINK_REASONS`.
        detail: For a person.
        retry_in_s: When the next attempt is made.
        was_connected: Was there a connection before?
        repeated: Is it the same as last time? Worth counting, not worth a line in the log.
    """

    reason: LinkReason
    detail: str
    retry_in_s: float
    was_connected: bool
    repeated: bool


@dataclass(frozen=True, slots=True)
class Published:
    """The broker has acknowledged a message of the outbox, `latency_s` after it was made."""

    topic: str
    latency_s: float


@dataclass(frozen=True, slots=True)
class Rejected:
    """The broker does not take a message; `set_aside`: it is no longer offered, else it is tried again."""

    topic: str
    reason: RejectReason
    set_aside: bool


PublisherEvent = Connected | Disconnected | Published | Rejected


@dataclass(slots=True)
class _UnderWay:
    message: OutboxMessage
    ack: "asyncio.Future[int]"
    sent_at: float


class Publisher:
    """What is said to the broker, over as many connections as it takes.

    Args:
        settings: The broker's; `host` is set.
        topics: Where everything goes.
        outbox: Open.
        status: What to say of this monitor; `state`, `reason` and `since` are filled in.
        on_event: Is told what happens, in the event loop's thread; for metrics and log.
        lateness_s: A live detection that is older when it is sent is marked `backfill`, and goes after newer ones.
        clock: This computer's time, nanoseconds since the epoch.
        auth_retry_s: Wait after a refused login.
        backoff: Other waits; by the settings where None.
    """

    def __init__(
        self,
        settings: MqttSettings,
        *,
        topics: Topics,
        outbox: OutboxThread,
        status: Status,
        on_event: Callable[[PublisherEvent], None],
        lateness_s: float,
        clock: Callable[[], int] = time.time_ns,
        auth_retry_s: float = AUTH_RETRY_S,
        backoff: Backoff | None = None,
    ) -> None:
        self._settings = settings
        self._topics = topics
        self._outbox = outbox
        self._status = status
        self._on_event = on_event
        self._lateness_ns = seconds_to_ns(lateness_s)
        self._clock = clock
        self._auth_retry_s = auth_retry_s
        self._backoff = backoff or Backoff(2 * settings.backoff_s, 2 * settings.backoff_max_s)
        self._link: Link | None = None
        self._since_ns = 0
        self._stopping = asyncio.Event()
        self._retry = asyncio.Event()
        # Something may have come into the outbox, or an acknowledgement.
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._latest: dict[str, OutboxMessage] = {}
        self._latest_wake = asyncio.Event()
        # Retained, and told again to a broker that has forgotten us.
        self._announced: dict[str, OutboxMessage] = {}
        self._under_way: dict[int, _UnderWay] = {}
        self._tries: Counter[int] = Counter()
        # One message at a time, after a connection ended with messages under way: which one was it?
        self._probing = False

    @property
    def is_connected(self) -> bool:
        """Is there a connection?"""
        return self._link is not None

    async def put(self, messages: Iterable[OutboxMessage]) -> int:
        """Put messages into the outbox and send them as soon as possible.

        Returns:
            How many are new.

        Raises:
            OutboxError: They are in memory only, and sent all the same.
        """
        try:
            return await self._outbox.put_many(messages)
        finally:
            self._idle.clear()
            self._wake.set()

    def put_latest(self, message: OutboxMessage) -> None:
        """Send a message of which only the latest on its topic counts; kept in memory only.

        Where there is no connection, the latest of each topic waits; beyond `MAX_LATEST` topics the oldest gives way.
        """
        self._latest.pop(message.topic, None)
        self._latest[message.topic] = message
        if len(self._latest) > MAX_LATEST:
            del self._latest[next(iter(self._latest))]
        self._idle.clear()
        self._latest_wake.set()

    def announce(self, topic: str, payload: bytes) -> None:
        """Send a retained message, again whenever the broker may have forgotten it or Home Assistant asks for it.

        Args:
            topic: Where.
            payload: What; empty takes back what was announced.
        """
        message = OutboxMessage(topic=topic, payload=payload, created_ns=self._clock(), retain=True)
        self._announced.pop(topic, None)
        if payload:
            self._announced[topic] = message
        self.put_latest(message)

    def set_status(self, status: Status) -> None:
        """Say something else of this monitor from now on; the last will follows with the next connection."""
        self._status = status
        if self._link is not None:
            self.put_latest(self._status_message(status.online(self._since_ns)))

    def retry_now(self) -> None:
        """Do not wait for the next attempt: something was changed."""
        self._retry.set()

    async def flush(self, timeout_s: float) -> bool:
        """Wait until the broker has everything.

        Returns:
            False where the time did not suffice.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def stop(self) -> None:
        """Say goodbye and let `run` return, within a few seconds."""
        self._stopping.set()
        self._wake.set()
        self._latest_wake.set()
        self._retry.set()

    async def run(self) -> None:
        """Connect, send, and connect again, until `stop`."""
        await self._outbox.restore()
        last: tuple[LinkReason, str] | None = None
        while not self._stopping.is_set():
            began = time.monotonic()
            error, was_connected = await self._connection()
            if error is None:
                return
            await self._find_culprit(error)
            if was_connected and time.monotonic() - began > GOOD_S:
                self._backoff.reset()
            retry_in_s = self._backoff.next_s()
            if error.reason == "auth":
                retry_in_s = self._auth_retry_s
            repeated = (error.reason, error.detail) == last
            last = None if was_connected else (error.reason, error.detail)
            if self._stopping.is_set():
                return
            self._on_event(Disconnected(error.reason, error.detail, retry_in_s, was_connected, repeated))
            self._retry.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(retry_in_s):
                    await self._retry.wait()

    async def _connection(self) -> tuple[LinkError | None, bool]:
        """Serve one connection; say why it ended, None where it was to end, and whether there was one."""
        client_id = self._topics.client_id
        will = Will(self._topics.status, msgspec.json.encode(self._status.lost()))
        was_connected = False
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            async with mqtt.connect(self._settings, client_id=client_id, will=will, stop=stop) as link:
                self._link, self._since_ns, was_connected = link, self._clock(), True
                self._on_event(Connected(link.version, link.session_present))
                await self._serve(link)
                await self._goodbye(link)
        except LinkError as error:
            return error, was_connected
        finally:
            stop.cancel()
            self._link = None
            self._idle.clear()
        return None, was_connected

    async def _serve(self, link: Link) -> None:
        self.put_latest(self._status_message(self._status.online(self._since_ns)))
        if not link.session_present:
            # A broker that lost its memory has lost what it retained, too.
            for message in self._announced.values():
                self.put_latest(message)
        await self._outbox.demote(self._clock() - self._lateness_ns)
        failures: list[LinkError] = []
        try:
            async with asyncio.TaskGroup() as group:
                others: list[asyncio.Task[Any]] = [group.create_task(link.lost(), name="mqtt-lost")]
                others.append(group.create_task(self._tell(link), name="mqtt-tell"))
                if self._settings.home_assistant:
                    others.append(group.create_task(self._listen(link), name="mqtt-listen"))
                await self._drain(link)
                for task in others:
                    task.cancel()
        except* LinkError as errors:
            failures += [error for error in errors.exceptions if isinstance(error, LinkError)]
        if failures:
            raise failures[0]

    async def _goodbye(self, link: Link) -> None:
        status = self._status.stopped(self._clock())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await (await link.send(self._status_message(status)))

    def _status_message(self, status: Status) -> OutboxMessage:
        payload = msgspec.json.encode(status)
        return OutboxMessage(topic=self._topics.status, payload=payload, created_ns=self._clock(), retain=True)

    async def _listen(self, link: Link) -> None:
        await link.subscribe(self._topics.home_assistant_status)
        async for topic, payload in link.messages():
            if topic == self._topics.home_assistant_status and payload == b"online":
                for message in self._announced.values():
                    self.put_latest(message)

    async def _tell(self, link: Link) -> None:
        while True:
            self._latest_wake.clear()
            while self._latest:
                message = next(iter(self._latest.values()))
                if link.is_too_large(message):
                    self._reject(message, "too_large", set_aside=True)
                else:
                    code = await (await link.send(message))
                    if code >= mqtt.UNSPECIFIED:
                        self._reject(message, _REJECTED.get(code, "unspecified"), set_aside=True)
                if self._latest.get(message.topic) is message:
                    del self._latest[message.topic]
            self._wake.set()  # flush waits for this, too
            await self._latest_wake.wait()

    def _reject(self, message: OutboxMessage, reason: RejectReason, *, set_aside: bool) -> None:
        self._on_event(Rejected(message.topic, reason, set_aside))

    # The outbox.

    async def _drain(self, link: Link) -> None:
        """Send what is in the outbox until `stop`, then wait for what is under way."""
        self._under_way.clear()
        pause_until, restore_at, give_up_at = 0.0, time.monotonic() + RESTORE_S, float("inf")
        pauses = Backoff(2 * self._settings.backoff_s, 2 * self._settings.backoff_max_s)
        while True:
            self._wake.clear()
            now = time.monotonic()
            if now >= restore_at:
                restore_at = now + RESTORE_S
                await self._outbox.restore(_RESTORED)
            done = [(number, sent) for number, sent in self._under_way.items() if sent.ack.done()]
            postponed = [number for number, sent in done if self._is_postponed(number, sent)]
            if postponed:
                pause_until = now + pauses.next_s()
            elif done:
                pauses.reset()
            if now >= pause_until and not self._stopping.is_set():
                await self._send_more(link)
            await self._settle(done, postponed)
            if self._stopping.is_set():
                give_up_at = min(give_up_at, now + GOODBYE_S)
                if not self._under_way or now >= give_up_at:
                    return
            self._note_idle()
            wake_at = min(
                restore_at, self._ack_deadline(), give_up_at, pause_until if pause_until > now else restore_at
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, wake_at - time.monotonic())):
                    await self._wake.wait()
            if time.monotonic() >= self._ack_deadline():
                raise LinkError("timeout", f"no acknowledgement within {self._ack_timeout_s:g} s")

    @property
    def _ack_timeout_s(self) -> float:
        # As long as it takes to find out that the other side is dead.
        return 2.0 * self._settings.keepalive_s

    def _ack_deadline(self) -> float:
        waiting = (sent.sent_at for sent in self._under_way.values() if not sent.ack.done())
        return min(waiting, default=float("inf")) + self._ack_timeout_s

    def _note_idle(self) -> None:
        if not self._under_way and not self._latest and self._outbox.stats.depth == 0:
            self._idle.set()
        else:
            self._idle.clear()

    async def _send_more(self, link: Link) -> None:
        open_ = [sent for sent in self._under_way.values() if not sent.ack.done()]
        room = (1 if self._probing else link.window) - len(open_)
        if room <= 0:
            return
        busy = {sent.message.detection_id for sent in open_ if sent.message.detection_id is not None}
        for number, message in await self._outbox.next(room, but=self._under_way.keys(), but_of=busy):
            if link.is_too_large(message):
                await self._set_aside(number, message, "too_large")
                continue
            ack = await link.send(message, payload=self._payload(message))
            self._under_way[number] = _UnderWay(message, ack, time.monotonic())
            ack.add_done_callback(lambda _: self._wake.set())

    def _payload(self, message: OutboxMessage) -> bytes:
        late = self._clock() - message.created_ns > self._lateness_ns
        return mark_late(message.payload) if late else message.payload

    def _is_postponed(self, number: int, sent: _UnderWay) -> bool:
        code = sent.ack.result()
        if code < mqtt.UNSPECIFIED or _REJECTED.get(code, "unspecified") not in ("quota", "unspecified"):
            return False
        self._tries[number] += code != mqtt.QUOTA_EXCEEDED
        return self._tries[number] < MAX_TRIES

    async def _settle(self, done: list[tuple[int, _UnderWay]], postponed: list[int]) -> None:
        """Take what the broker has answered out of the outbox, set it aside, or leave it to be sent again."""
        accepted = []
        refused = []
        # At first what cannot be interrupted: each answer counts once.
        for number, sent in done:
            del self._under_way[number]
            code = sent.ack.result()
            if code < mqtt.UNSPECIFIED:
                accepted.append(number)
                latency_s = (self._clock() - sent.message.created_ns) / NS_PER_SECOND
                self._on_event(Published(sent.message.topic, latency_s))
            elif number in postponed:
                self._reject(sent.message, _REJECTED.get(code, "unspecified"), set_aside=False)
            else:
                refused.append((number, sent.message, _REJECTED.get(code, "unspecified")))
            if number not in postponed:
                self._tries.pop(number, None)
        if accepted:
            self._probing = False
            await self._outbox.remove(accepted)
        for number, message, reason in refused:
            await self._set_aside(number, message, reason)

    async def _set_aside(self, number: int, message: OutboxMessage, reason: RejectReason) -> None:
        await self._outbox.hold(number, reason)
        self._reject(message, reason, set_aside=True)

    async def _find_culprit(self, error: LinkError) -> None:
        """Settle what was under way, and see whether it is a message that makes the broker close the connection."""
        done = [(number, sent) for number, sent in self._under_way.items() if sent.ack.done()]
        await self._settle(done, [number for number, sent in done if self._is_postponed(number, sent)])
        open_ = {number: sent.message for number, sent in self._under_way.items()}
        self._under_way.clear()
        if not open_ or error.reason not in ("closed", "protocol", "quota"):
            return
        self._probing = True
        if len(open_) == 1:
            ((number, message),) = open_.items()
            self._tries[number] += 1
            too_large = error.code == mqtt.PACKET_TOO_LARGE
            if too_large or self._tries[number] >= MAX_TRIES:
                self._tries.pop(number)
                self._probing = False
                await self._set_aside(number, message, "too_large" if too_large else "closes_connection")
