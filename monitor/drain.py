"""Bring what is in the outbox to the broker.

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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from monitor import mqtt
from monitor.backoff import Backoff
from monitor.messages import mark_late
from monitor.mqtt import GOODBYE_S, Link, LinkError
from monitor.outbox_message import OutboxMessage
from monitor.outbox_thread import OutboxThread
from monitor.publisher_events import Published, PublisherEvent, Rejected, RejectReason
from monitor.settings import MqttSettings
from monitor.timebase import NS_PER_SECOND, seconds_to_ns

MAX_TRIES: Final = 5
RESTORE_S: Final = 900.0
_RESTORED: Final[tuple[RejectReason, ...]] = ("not_authorized", "closes_connection")
_REJECTED: Final[dict[int, RejectReason]] = {
    mqtt.NOT_AUTHORIZED: "not_authorized",
    mqtt.TOPIC_NAME_INVALID: "invalid",
    mqtt.PACKET_TOO_LARGE: "too_large",
    mqtt.QUOTA_EXCEEDED: "quota",
    mqtt.PAYLOAD_FORMAT_INVALID: "invalid",
}


def reject_reason(code: int) -> RejectReason | None:
    """Say what a reason code of the broker means for a message; None: it has taken it."""
    return None if code < mqtt.UNSPECIFIED else _REJECTED.get(code, "unspecified")


@dataclass(slots=True)
class _UnderWay:
    message: OutboxMessage
    ack: "asyncio.Future[int]"
    sent_at: float


class Drain:
    """What is under way between the outbox and the broker.

    Args:
        settings: The broker's.
        outbox: Open.
        stopping: Nothing more is sent when set.
        on_event: Is told what happens.
        lateness_s: A live detection that is older when it is sent is marked `backfill`, and goes after newer ones.
        clock: This computer's time, nanoseconds since the epoch.

    Attributes:
        wake: To be set when something came into the outbox.
        idle: Set while nothing waits and nothing is under way.
    """

    def __init__(
        self,
        settings: MqttSettings,
        *,
        outbox: OutboxThread,
        stopping: asyncio.Event,
        on_event: Callable[[PublisherEvent], None],
        lateness_s: float,
        clock: Callable[[], int],
    ) -> None:
        self.wake = asyncio.Event()
        self.idle = asyncio.Event()
        self._settings = settings
        self._outbox = outbox
        self._stopping = stopping
        self._on_event = on_event
        self._lateness_ns = seconds_to_ns(lateness_s)
        self._clock = clock
        self._under_way: dict[int, _UnderWay] = {}
        self._tries: Counter[int] = Counter()
        # One message at a time, after a connection ended with messages under way: which one was it?
        self._probing = False

    async def run(self, link: Link) -> None:
        """Send what is in the outbox until `stopping`, then wait for what is under way.

        Raises:
            LinkError: The connection has ended, or nothing is acknowledged any more; `settle_loss` is to be called.
        """
        await self._outbox.demote(self._clock() - self._lateness_ns)
        pause_until, restore_at, give_up_at = 0.0, time.monotonic() + RESTORE_S, float("inf")
        pauses = Backoff(2 * self._settings.backoff_s, 2 * self._settings.backoff_max_s)
        while True:
            self.wake.clear()
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
                    await self.wake.wait()
            if time.monotonic() >= self._ack_deadline():
                raise LinkError("timeout", f"no acknowledgement within {self._ack_timeout_s:g} s")

    def _reject(self, message: OutboxMessage, reason: RejectReason, *, set_aside: bool) -> None:
        self._on_event(Rejected(message.topic, reason, set_aside))

    @property
    def _ack_timeout_s(self) -> float:
        # As long as it takes to find out that the other side is dead.
        return 2.0 * self._settings.keepalive_s

    def _ack_deadline(self) -> float:
        waiting = (sent.sent_at for sent in self._under_way.values() if not sent.ack.done())
        return min(waiting, default=float("inf")) + self._ack_timeout_s

    def _note_idle(self) -> None:
        if not self._under_way and self._outbox.stats.depth == 0:
            self.idle.set()
        else:
            self.idle.clear()

    async def _send_more(self, link: Link) -> None:
        open_ = [sent for sent in self._under_way.values() if not sent.ack.done()]
        room = (1 if self._probing else link.window) - len(open_)
        if room <= 0:
            return
        busy = {sent.message.detection_id for sent in open_ if sent.message.detection_id is not None}
        for number, message in await self._outbox.next(room, but=set(self._under_way), but_of=busy):
            if link.is_too_large(message):
                await self._set_aside(number, message, "too_large")
                continue
            ack = await link.send(message, payload=self._payload(message))
            self._under_way[number] = _UnderWay(message, ack, time.monotonic())
            ack.add_done_callback(lambda _: self.wake.set())

    def _payload(self, message: OutboxMessage) -> bytes:
        late = self._clock() - message.created_ns > self._lateness_ns
        return mark_late(message.payload) if late else message.payload

    def _is_postponed(self, number: int, sent: _UnderWay) -> bool:
        reason = reject_reason(sent.ack.result())
        if reason == "unspecified":
            self._tries[number] += 1
            return self._tries[number] < MAX_TRIES
        return reason == "quota"

    async def _settle(self, done: list[tuple[int, _UnderWay]], postponed: list[int]) -> None:
        """Take what the broker has answered out of the outbox, set it aside, or leave it to be sent again."""
        accepted = []
        refused = []
        # At first what cannot be interrupted: each answer counts once.
        for number, sent in done:
            del self._under_way[number]
            reason = reject_reason(sent.ack.result())
            if reason is None:
                accepted.append(number)
                latency_s = (self._clock() - sent.message.created_ns) / NS_PER_SECOND
                self._on_event(Published(sent.message.topic, latency_s))
            elif number in postponed:
                self._reject(sent.message, reason, set_aside=False)
            else:
                refused.append((number, sent.message, reason))
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

    async def settle_loss(self, error: LinkError) -> None:
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
