"""How the service is: kept in one place, for the metrics, for `/readyz`, and for who asks systemd."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from monitor.broker import Broker
from monitor.clock import Clock
from monitor.engine import ChannelLook, Happened
from monitor.http import Health
from monitor.metrics import Metrics
from monitor.quality import QualityReport
from monitor.records import ChannelId, ModelRef, Packet
from monitor.settings import MqttSettings
from monitor.sources.seedlink import SourceEvent
from monitor.sources.seedlink_request import Selection
from monitor.stations import StationGroup
from monitor.tell import tell_source
from monitor.timebase import NS_PER_SECOND

NO_BROKER: Final = Health(True, "no broker is set")

log = logging.getLogger("monitor")


class Outlook:
    """Sees what happens and what there is.

    Args:
        metrics: Told everything.
        clock: This computer's.
        broker: Told of stations and their quality; None where there is none.
        model: Which model decides.
        silent_s: Without data for so long is too long; may be set anew.
        settings: How often quality is told.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        clock: Clock,
        broker: Broker | None,
        model: ModelRef,
        silent_s: float,
        settings: MqttSettings,
    ) -> None:
        self._metrics, self._clock, self._broker, self._model = metrics, clock, broker, model
        self.silent_s, self._quality_interval_s = silent_s, settings.quality_interval_s
        self._groups: dict[str, StationGroup] = {}
        self._reports: list[QualityReport] = []
        self._servers: dict[str, str | None] = {}
        self._expected: frozenset[ChannelId] = frozenset()
        self._last_packet_ns: int | None = None
        self._last_quality_ns = 0

    def expect(self, selections: Iterable[Selection]) -> None:
        """This is what is asked of the servers; what is named without wildcards has series from now on."""
        wanted = list(selections)
        self._expected = frozenset(channel for selection in wanted for channel in selection.named_channels)
        stations = {station for selection in wanted for station in selection.named_stations}
        self._metrics.expect(stations, self._expected)

    def add_server(self, label: str) -> None:
        """A server is to be connected."""
        self._metrics.add_server(label)
        self._servers[label] = "not connected yet"

    def remove_server(self, label: str) -> None:
        """A server is no longer wanted."""
        self._metrics.remove_server(label)
        del self._servers[label]

    def on_source(self, event: SourceEvent) -> None:
        """Something happened to a server's connection."""
        for label, trouble in tell_source(log, self._metrics, event).items():
            if label in self._servers:
                self._servers[label] = trouble

    def packet(self, packet: Packet) -> None:
        """A packet was received."""
        self._metrics.packet(packet)
        self._last_packet_ns = packet.received_ns

    def follow(self, groups: Sequence[StationGroup]) -> None:
        """These are the instruments that are followed now."""
        new = {group.name: group for group in groups}
        if new == self._groups:
            return
        for name, group in self._groups.items():
            if new.get(name) != group:
                self._metrics.remove_station(group)
        for name, group in new.items():
            if self._groups.get(name) != group:
                self._metrics.add_station(group)
                log.info("%s: following %s", group.station_id, ", ".join(group.seed_ids))
        stations: dict[str, list[str]] = {}
        for group in groups:
            stations.setdefault(group.station_id, []).extend(group.seed_ids)
        if self._broker is not None:
            self._broker.announce(stations, gone={g.station_id for g in self._groups.values()} - set(stations))
        self._groups = new

    def look(self, looks: Sequence[ChannelLook]) -> None:
        """This is how the channels are; told to the broker where it is due or a state changed."""
        before = {report.seed_id: report.state for report in self._reports}
        self._reports = [look.report for look in looks]
        changed: set[str] = set()
        for look in looks:
            report = look.report
            if before.get(report.seed_id) != report.state:
                changed.add(report.station)
                self._tell_state(report, known=report.seed_id in before)
            if look.counts is not None or look.channel_id in self._expected:  # else it has no series yet
                self._metrics.quality(look.channel_id, report)
            if look.counts is not None:
                self._metrics.channel_counts(look.channel_id, look.counts)
                self._metrics.ring_fill(look.channel_id, look.ring_fill)
        now = self._clock.now_ns()
        if not 0 <= now - self._last_quality_ns < self._quality_interval_s * NS_PER_SECOND:
            self._last_quality_ns = now
            changed = {report.station for report in self._reports}
        if self._broker is not None:
            for station in sorted(changed):
                self._broker.put_quality(station, [r for r in self._reports if r.station == station])

    def _tell_state(self, report: QualityReport, *, known: bool) -> None:
        if not report.usable:
            log.warning("%s: %s: %s", report.seed_id, report.state, "; ".join(report.reasons))
        elif known:
            log.info("%s: ok again", report.seed_id)

    def measure(self, happened: Happened, *, queued: int) -> None:
        """This happened since the last time."""
        for irregular, count in happened.irregular.items():
            self._metrics.irregular_packet(irregular.server, irregular.reason, count=count)
        for judged in happened.judged:
            self._metrics.inference(judged.station_id, frames=judged.frames, seconds=judged.seconds)
        self._metrics.queue("packets", queued)
        self._metrics.clock(self._clock.discipline())
        if self._broker is not None:
            self._broker.measure()

    def ready(self) -> dict[str, Health]:
        """Does the service do what it is for?"""
        return {
            "model": Health(True, f"{self._model.name} {self._model.version} is loaded"),
            "data": self._data(),
            "broker": NO_BROKER if self._broker is None else self._broker.health,
        }

    def _data(self) -> Health:
        down = [f"{label}: {why}" for label, why in self._servers.items() if why is not None]
        trouble = f" ({'; '.join(down)})" if down else ""
        if self._last_packet_ns is None:
            return Health(False, f"no data yet{trouble}")
        age_s = (self._clock.now_ns() - self._last_packet_ns) / NS_PER_SECOND
        if age_s > self.silent_s:
            return Health(False, f"no data for {age_s:.0f} s{trouble}")
        return Health(True, f"last packet {max(0.0, age_s):.1f} s ago{trouble}")

    @property
    def reports(self) -> Sequence[QualityReport]:
        """How the channels were when they were last looked at."""
        return self._reports

    @property
    def servers(self) -> Mapping[str, str | None]:
        """Label of each server -> what is wrong with its connection; None where nothing is."""
        return self._servers

    def line(self) -> str:
        """One line for `systemctl status`."""
        ready = self.ready()
        wrong = [f"{name}: {health.reason}" for name, health in ready.items() if not health.ok]
        bad = sum(not report.usable for report in self._reports)
        stations = {group.station_id for group in self._groups.values()}
        text = f"{_count(len(stations), 'station')}, {_count(len(self._reports), 'channel')}"
        text += f", {bad} of them bad" if bad else ""
        return f"{text}; {'; '.join(wrong) if wrong else ready['data'].reason}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
