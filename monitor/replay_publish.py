"""A replay's detections to a broker, marked `replay`: to try what listens to them."""

import asyncio
import platform
import tempfile
import threading
import time
from collections.abc import Coroutine
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from monitor.delivery import detection_messages
from monitor.messages import Status
from monitor.outbox_message import OutboxMessage
from monitor.outbox_thread import OutboxThread
from monitor.publisher import Connected, Disconnected, Publisher, PublisherEvent, Rejected
from monitor.records import Detection, ModelRef
from monitor.settings import MqttSettings, OutboxSettings
from monitor.timebase import format_time
from monitor.topics import Topics, default_client_id

T = TypeVar("T")

# For the broker to take the last of it.
_FLUSH_S = 30.0


class PublishError(Exception):
    """The broker did not take everything; the message says what is known."""


class ReplayPublisher:
    """Publishes in a thread of its own while the replay goes on, a context manager.

    Args:
        settings: The broker's; `host` is set.
        model: Which model decides.
        flush_s: How long to wait for the broker at the end.
    """

    def __init__(self, settings: MqttSettings, model: ModelRef, *, flush_s: float = _FLUSH_S) -> None:
        # Not the service's own name: a broker would end its connection.
        client_id = f"{settings.client_id or default_client_id(platform.node())}-replay"
        self._settings = msgspec.structs.replace(settings, client_id=client_id, session_expiry_s=0)
        self._topics = Topics(settings.root, client_id, settings.home_assistant_prefix)
        self._flush_s, self._model = flush_s, model
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="publish", daemon=True)
        self._publisher: Publisher | None = None
        self._trouble = "no connection"
        self._rejected = 0

    def __enter__(self) -> "ReplayPublisher":
        self._thread.start()
        self._wait(self._open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            waiting = self._wait(self._close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
        if kind is not None:
            return
        if waiting:
            raise PublishError(f"{waiting} messages were not published: {self._trouble}")
        if self._rejected:
            raise PublishError(f"the broker refused {self._rejected} messages: {self._trouble}")

    def put(self, detection: Detection) -> None:
        """Publish a revision."""
        messages = detection_messages(detection, topics=self._topics, settings=self._settings, now_ns=time.time_ns())
        assert self._publisher is not None
        self._wait(self._put(messages))

    async def _open(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="monitor-replay-")
        self._outbox = OutboxThread(
            Path(self._folder.name) / "outbox.sqlite", OutboxSettings(), clock=time.time_ns, on_notice=lambda _: None
        )
        await self._outbox.open()
        status = Status(
            state="online",
            reason=None,
            client=self._topics.client_id,
            version=metadata.version("seismic-monitor"),
            model=self._model,
            stations=[],
            since=None,
            started=format_time(time.time_ns()),
        )
        self._publisher = Publisher(
            self._settings,
            topics=self._topics,
            outbox=self._outbox,
            status=status,
            on_event=self._on_event,
            lateness_s=1e6,
        )
        self._task = asyncio.ensure_future(self._publisher.run())

    async def _put(self, messages: list[OutboxMessage]) -> None:
        assert self._publisher is not None
        await self._publisher.put(messages)

    async def _close(self) -> int:
        assert self._publisher is not None
        await self._publisher.flush(self._flush_s)
        waiting = self._outbox.stats.depth
        self._publisher.stop()
        await self._task
        await self._outbox.close()
        self._folder.cleanup()
        return waiting

    def _on_event(self, event: PublisherEvent) -> None:
        match event:
            case Connected():
                self._trouble = "the connection was lost"
            case Disconnected(reason, detail):
                self._trouble = f"{reason}: {detail}"
            case Rejected(topic, reason):
                self._rejected += 1
                self._trouble = f"{topic}: {reason}"

    def _wait(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()
