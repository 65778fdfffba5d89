"""The service's side of the broker: what is said goes into the outbox, and from there out, in its own time."""

import logging
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import msgspec

from monitor.clock import Clock
from monitor.delivery import detection_messages
from monitor.homeassistant import discovery
from monitor.http import Health
from monitor.messages import Status, station_quality
from monitor.metrics import Metrics
from monitor.outbox import OutboxError, OutboxStats
from monitor.outbox_message import Key, OutboxMessage
from monitor.outbox_thread import OutboxThread
from monitor.publisher import Publisher
from monitor.quality import QualityReport
from monitor.records import Detection, ModelRef
from monitor.settings import Settings
from monitor.tell import tell_broker
from monitor.timebase import format_time
from monitor.topics import Topics, default_client_id

# At the end, for the broker to take what is waiting.
_FLUSH_S = 5.0

log = logging.getLogger("monitor")


class Broker:
    """Tells detections durably, and quality, status and Home Assistant's discovery as they are.

    Args:
        settings: The service's; `mqtt.host` is set.
        directory: For the outbox; exists.
        model: Which model decides.
        clock: This computer's.
        metrics: Told how it goes.
    """

    def __init__(self, settings: Settings, *, directory: Path, model: ModelRef, clock: Clock, metrics: Metrics) -> None:
        self._settings, self._model, self._clock, self._metrics = settings.mqtt, model, clock, metrics
        client_id = settings.mqtt.client_id or default_client_id(platform.node())
        self._topics = Topics(settings.mqtt.root, client_id, settings.mqtt.home_assistant_prefix)
        self._version = metadata.version("seismic-monitor")
        self._status = Status(
            state="online",
            reason=None,
            client=client_id,
            version=self._version,
            model=model,
            stations=[],
            since=None,
            started=format_time(clock.now_ns()),
        )
        self._outbox = OutboxThread(
            directory / "outbox.sqlite",
            settings.outbox,
            clock=clock.now_ns,
            on_notice=lambda text: log.error("%s", text),
        )
        self._publisher = Publisher(
            settings.mqtt,
            topics=self._topics,
            outbox=self._outbox,
            status=self._status,
            on_event=lambda event: tell_broker(log, metrics, event),
            lateness_s=settings.live.lateness_s,
            clock=clock.now_ns,
        )

    async def open(self) -> None:
        """Open the outbox.

        Raises:
            OutboxBusyError: Another process uses it.
        """
        await self._outbox.open()

    async def run(self) -> None:
        """Connect and send until `stop`."""
        await self._publisher.run()

    async def stop(self) -> None:
        """Let the broker take what it can in a few seconds, then say goodbye; `run` returns soon after."""
        if not await self._publisher.flush(_FLUSH_S):
            log.warning("the broker did not take everything; the rest is sent after the next start")
        self._publisher.stop()

    async def close(self) -> None:
        """Close the outbox."""
        await self._outbox.close()

    async def put(self, detections: Iterable[Detection]) -> list[Detection]:
        """Put detections where they cannot be lost, and on their way.

        Returns:
            Those that were not told before, as they were by whoever ran before a restart.
        """
        now = self._clock.now_ns()
        new = [d for d in detections if not await self._outbox.already_told(Key(d.id, d.revision))]
        messages = [
            message
            for detection in new
            for message in detection_messages(detection, topics=self._topics, settings=self._settings, now_ns=now)
        ]
        if messages:
            try:
                await self._publisher.put(messages)
            except OutboxError as error:
                log.error("%s", error)
        return new

    def put_quality(self, station_id: str, reports: Sequence[QualityReport]) -> None:
        """Tell how a station's channels are."""
        now = self._clock.now_ns()
        payload = msgspec.json.encode(station_quality(station_id, reports, time_ns=now))
        topic = self._topics.quality(station_id)
        self._publisher.put_latest(OutboxMessage(topic=topic, payload=payload, created_ns=now, retain=True))

    def announce(self, stations: Mapping[str, Sequence[str]], *, gone: Iterable[str]) -> None:
        """Tell which stations are followed.

        Args:
            stations: `NET.STA` -> its channels, `NET.STA.LOC.CHA`.
            gone: Those that are no longer.
        """
        self._publisher.set_status(msgspec.structs.replace(self._status, stations=sorted(stations)))
        if not self._settings.home_assistant:
            return
        for station in gone:
            self._publisher.announce(self._topics.discovery(station), b"")
        for station, seed_ids in stations.items():
            payload = discovery(
                station,
                topics=self._topics,
                version=self._version,
                model=self._model.name,
                quality_interval_s=self._settings.quality_interval_s,
                channels=seed_ids,
            )
            self._publisher.announce(self._topics.discovery(station), payload)

    @property
    def is_durable(self) -> bool:
        """Is everything that was put on disk?"""
        return self._outbox.stats.problem is None

    @property
    def health(self) -> Health:
        """Does the broker take what is said?"""
        stats = self._outbox.stats
        waiting = f"{stats.depth} messages wait" if stats.depth else "nothing waits"
        if stats.problem is not None:
            return Health(False, f"the outbox cannot be written: {stats.problem}")
        if not self._publisher.is_connected:
            return Health(False, f"not connected; {waiting}")
        return Health(True, f"connected; {waiting}")

    @property
    def outbox_stats(self) -> OutboxStats:
        """How full the outbox was after its last call."""
        return self._outbox.stats

    def measure(self) -> None:
        """Put how full the outbox is into the metrics."""
        stats = self._outbox.stats
        self._metrics.outbox(
            depth=stats.depth,
            held=stats.held,
            nbytes=stats.nbytes,
            oldest_ns=stats.oldest_ns,
            dropped={str(reason): total for reason, total in stats.dropped.items()},
        )
