"""How the service is, for the page: what `/readyz` and the metrics say, in one message for people."""

import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from monitor.archive.archiver import Archiver
from monitor.broker import Broker
from monitor.clock import Clock
from monitor.model import Model
from monitor.outlook import Outlook
from monitor.quality import QualityReport
from monitor.timebase import NS_PER_SECOND

_TEMPERATURE = Path("/sys/class/thermal/thermal_zone0/temp")
_MEMORY = Path("/proc/self/statm")


class Server(msgspec.Struct, frozen=True):
    """A SeedLink server, and what is wrong with its connection; null where nothing is."""

    label: str
    trouble: str | None


class BrokerLook(msgspec.Struct, frozen=True):
    """The broker and what waits for it; `host` is null where none is set."""

    host: str | None
    ok: bool
    text: str
    waiting: int
    held: int
    nbytes: int
    oldest_s: float | None


class ClockLook(msgspec.Struct, frozen=True):
    """This computer's clock; null where it does not say."""

    synchronised: bool | None
    offset_s: float | None
    max_error_s: float | None


class ModelLook(msgspec.Struct, frozen=True):
    """Which model decides, and where it runs."""

    name: str
    version: str
    sha256: str
    device: str


class Computer(msgspec.Struct, frozen=True):
    """This computer; null where it does not say."""

    name: str
    machine: str
    memory_mb: float | None
    load: float | None
    temperature_c: float | None
    disk_free_mb: float | None
    up_s: float


class HealthLook(msgspec.Struct, frozen=True):
    """All of it."""

    data_ok: bool
    data: str
    servers: list[Server]
    broker: BrokerLook
    archive_ok: bool
    archive: str
    clock: ClockLook
    model: ModelLook
    computer: Computer


class HealthSource:
    """Looks at the service.

    Args:
        outlook: Knows of data and servers.
        broker: None where there is none.
        broker_host: As it is set.
        archive: Of detections.
        clock: This computer's.
        model: Which model decides.
        directory: Of the state; its disk is looked at.
    """

    def __init__(
        self,
        outlook: Outlook,
        *,
        broker: Broker | None,
        broker_host: str | None,
        archive: Archiver,
        clock: Clock,
        model: Model,
        directory: Path,
    ) -> None:
        self._outlook, self._broker, self._broker_host = outlook, broker, broker_host
        self._archive = archive
        self._clock, self._model, self._directory = clock, model, directory
        self._started_ns = clock.monotonic_ns()

    def look(self) -> HealthLook:
        """How it is now."""
        ready = self._outlook.ready()
        discipline = self._clock.discipline()
        ref = self._model.ref
        return HealthLook(
            data_ok=ready["data"].ok,
            data=ready["data"].reason,
            servers=[Server(label, trouble) for label, trouble in self._outlook.servers.items()],
            broker=self._look_at_broker(),
            archive_ok=self._archive.health.ok,
            archive=self._archive.health.reason,
            clock=ClockLook(
                self._clock.synchronised(),
                None if discipline is None else discipline.offset_ns / NS_PER_SECOND,
                None if discipline is None else discipline.max_error_ns / NS_PER_SECOND,
            ),
            model=ModelLook(ref.name, ref.version, ref.sha256, self._model.device),
            computer=self._look_at_computer(),
        )

    @property
    def reports(self) -> Sequence[QualityReport]:
        """How the channels are; another object when they were looked at again."""
        return self._outlook.reports

    def _look_at_broker(self) -> BrokerLook:
        if self._broker is None:
            return BrokerLook(None, True, "no broker is set", 0, 0, 0, None)
        health, stats = self._broker.health, self._broker.outbox_stats
        oldest_s = None if stats.oldest_ns is None else (self._clock.now_ns() - stats.oldest_ns) / NS_PER_SECOND
        return BrokerLook(self._broker_host, health.ok, health.reason, stats.depth, stats.held, stats.nbytes, oldest_s)

    def _look_at_computer(self) -> Computer:
        return Computer(
            name=platform.node(),
            machine=platform.machine(),
            memory_mb=_resident_mb(),
            load=os.getloadavg()[0],
            temperature_c=_temperature_c(),
            disk_free_mb=_free_mb(self._directory),
            up_s=(self._clock.monotonic_ns() - self._started_ns) / NS_PER_SECOND,
        )


def _resident_mb() -> float | None:
    try:
        return int(_MEMORY.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6
    except (OSError, ValueError, IndexError):
        return None


def _temperature_c() -> float | None:
    try:
        return int(_TEMPERATURE.read_text(encoding="ascii")) / 1000
    except (OSError, ValueError):
        return None


def _free_mb(directory: Path) -> float | None:
    try:
        return shutil.disk_usage(directory).free / 1e6
    except OSError:
        return None
