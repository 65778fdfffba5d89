"""Bring messages to the broker: the outbox, the state of this monitor, and what only the latest of counts.

One loop per concern, for as long as a connection lasts: `monitor.drain` sends what is in the outbox, `_tell` what only
the latest of counts, `_listen` waits for Home Assistant to be started.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from monitor import mqtt
from monitor.backoff import Backoff
from monitor.drain import Drain, reject_reason
from monitor.messages import Status
from monitor.mqtt import GOODBYE_S, Link, LinkError, LinkReason, Will
from monitor.outbox_message import OutboxMessage
from monitor.outbox_thread import OutboxThread
from monitor.publisher_events import Connected, Disconnected, Published, PublisherEvent, Rejected, RejectReason
from monitor.settings import MqttSettings
from monitor.topics import Topics

__all__ = ["Connected", "Disconnected", "Published", "Publisher", "PublisherEvent", "RejectReason", "Rejected"]

# After a refused login or certificate: brokers lock out who tries too often.
AUTH_RETRY_S: Final = 300.0
# A connection that lasted so long was a good one: the next wait begins small again.
GOOD_S: Final = 30.0
# Topics on which something waits of which only the latest counts: about one per station. More is a mistake elsewhere.
MAX_LATEST: Final = 10_000


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
        self._clock = clock
        self._auth_retry_s = auth_retry_s
        self._backoff = backoff or Backoff(2 * settings.backoff_s, 2 * settings.backoff_max_s)
        self._link: Link | None = None
        self._since_ns = 0
        self._stopping = asyncio.Event()
        self._retry = asyncio.Event()
        self._drain = Drain(
            settings, outbox=outbox, stopping=self._stopping, on_event=on_event, lateness_s=lateness_s, clock=clock
        )
        self._latest: dict[str, OutboxMessage] = {}
        self._latest_wake = asyncio.Event()
        self._latest_sent = asyncio.Event()
        # Retained, and told again to a broker that has forgotten us.
        self._announced: dict[str, OutboxMessage] = {}

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
            self._drain.idle.clear()
            self._drain.wake.set()

    def put_latest(self, message: OutboxMessage) -> None:
        """Send a message of which only the latest on its topic counts; kept in memory only.

        Where there is no connection, the latest of each topic waits; beyond `MAX_LATEST` topics the oldest gives way.
        """
        self._latest.pop(message.topic, None)
        self._latest[message.topic] = message
        if len(self._latest) > MAX_LATEST:
            del self._latest[next(iter(self._latest))]
        self._latest_sent.clear()
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
                while not (self._drain.idle.is_set() and self._latest_sent.is_set()):
                    await self._drain.idle.wait()
                    await self._latest_sent.wait()
        except TimeoutError:
            return False
        return True

    def stop(self) -> None:
        """Say goodbye and let `run` return, within a few seconds."""
        self._stopping.set()
        self._drain.wake.set()
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
            await self._drain.settle_loss(error)
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
            self._drain.idle.clear()
        return None, was_connected

    async def _serve(self, link: Link) -> None:
        self.put_latest(self._status_message(self._status.online(self._since_ns)))
        if not link.session_present:
            # A broker that lost its memory has lost what it retained, too.
            for message in self._announced.values():
                self.put_latest(message)
        failures: list[LinkError] = []
        try:
            async with asyncio.TaskGroup() as group:
                others: list[asyncio.Task[Any]] = [group.create_task(link.lost(), name="mqtt-lost")]
                others.append(group.create_task(self._tell(link), name="mqtt-tell"))
                if self._settings.home_assistant:
                    others.append(group.create_task(self._listen(link), name="mqtt-listen"))
                await self._drain.run(link)
                for task in others:
                    task.cancel()
        except* LinkError as errors:
            failures += [error for error in errors.exceptions if isinstance(error, LinkError)]
        # Where a task of a group fails while the group is cancelled, Python 3.11 and 3.12 forget that it was: to go on
        # after that would keep a service that has failed from ending.
        serving = asyncio.current_task()
        if serving is not None and serving.cancelling():
            raise asyncio.CancelledError
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
                too_large: RejectReason = "too_large"
                ack = None if link.is_too_large(message) else await link.send(message)
                reason = too_large if ack is None else reject_reason(await ack)
                if reason is not None:
                    self._on_event(Rejected(message.topic, reason, set_aside=True))
                if self._latest.get(message.topic) is message:
                    del self._latest[message.topic]
            self._latest_sent.set()
            await self._latest_wake.wait()
