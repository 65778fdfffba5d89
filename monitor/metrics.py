"""Every Prometheus series, declared once; nothing else imports prometheus_client.

The rest of the program says what happened (`packet`, `inference`, `detection`); which series that moves is decided
here. Labels come from closed lists or from what was added by name, so nothing that a server sends can add a series.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, get_args

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from monitor.channel import ChannelCounts
from monitor.clock import Discipline
from monitor.edgetpu import FALLBACK_REASONS
from monitor.quality import QualityReport, QualityState
from monitor.records import ChannelId, Detection, ModelRef, Origin, Packet, State
from monitor.series import OTHER, UNKNOWN, Counters, Gauges
from monitor.sources.seedlink_events import Reason
from monitor.stations import StationGroup
from monitor.timebase import NS_PER_SECOND

SERVER_REASONS: Final = (*get_args(Reason), OTHER)
# As `monitor.mqtt.LINK_REASONS`; whoever only shows metrics need not load MQTT.
BROKER_REASONS: Final = (
    *("refused", "auth", "tls", "dns", "timeout", "closed", "quota", "protocol", "network", "taken_over", OTHER),
)
PACKET_REASONS: Final = ("duplicate", "out_of_order", "future", "back_in_time", "undecodable", "unwanted", OTHER)
PUBLISH_RESULTS: Final = ("acknowledged", "refused", "failed", OTHER)
DEVICES: Final = ("cpu", "edgetpu")
DROP_REASONS: Final = ("size", "age", "memory", OTHER)
ARCHIVE_REASONS: Final = ("full", "reserve", "read_only", "denied", "io", "picture", OTHER)
PAGE_REASONS: Final = ("login", "full", OTHER)
LEVELS: Final = ("debug", "info", "warning", "error", "critical", OTHER)
# From what one frame costs a fast computer to what no longer keeps up.
_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

# A counter's birth would be a second series for each.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

Families = list[Counters | Gauges]


class Metrics:
    """All series, in a registry of their own.

    Args:
        now_ns: UTC, nanoseconds since the epoch; for what is the newest of its kind.
    """

    def __init__(self, *, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._registry = CollectorRegistry()
        self._now_ns = now_ns
        ProcessCollector(registry=self._registry)
        self._groups: dict[str, StationGroup] = {}
        self._expected_stations: frozenset[str] = frozenset()
        self._expected_channels: frozenset[ChannelId] = frozenset()
        self._of_servers: Families = []
        self._of_stations: Families = []
        self._of_channels: Families = []
        self._of_queues: Families = []
        self._outbox_oldest_ns: int | None = None
        self._declare_input()
        self._declare_channels()
        self._declare_decisions()
        self._declare_output()
        self._declare_self()

    def _declare_input(self) -> None:
        servers = (("server",), self._of_servers)
        self._packets = self._counter("packets", "SeedLink packets received.", *servers)
        self._packet_bytes = self._counter("packet_bytes", "Payloads of the SeedLink packets received.", *servers)
        self._packets_odd = self._counter(
            "packets_irregular", "Packets that were dropped or out of the ordinary.", *servers, reason=PACKET_REASONS
        )
        self._server_packet = self._time("server_last_packet", "When the server last sent a packet.", *servers)
        self._connected = self._gauge("connected", "1 while the SeedLink server is connected.", *servers, first=0)
        self._reconnects = self._counter(
            "reconnects",
            "Connections to a SeedLink server that ended or could not be made.",
            *servers,
            reason=SERVER_REASONS,
        )
        self._holes = self._counter("resume_holes", "Holes that the server could not fill on resuming.", *servers)
        self._hole_seconds = self._counter(
            "resume_hole_seconds", "Lengths of the holes that the server could not fill.", *servers
        )

    def _declare_channels(self) -> None:
        channels = (("station", "channel"), self._of_channels)
        self._samples = self._counter("samples", "Samples received, overlaps not counted.", *channels)
        self._gaps = self._counter("gaps", "Gaps, those filled in time not counted.", *channels)
        self._gap_seconds = self._counter("gap_seconds", "Lengths of the gaps together.", *channels)
        self._overlaps = self._counter("overlap_samples", "Samples that came again and were dropped.", *channels)
        self._invalid = self._counter("invalid_samples", "Samples that are no numbers.", *channels)
        self._flat = self._counter("flat_samples", "Samples masked for never changing.", *channels)
        self._rate_changes = self._counter("sampling_rate_changes", "Changes of the sampling rate.", *channels)
        self._channel_packet = self._time("last_packet", "When the channel's last packet came.", *channels)
        self._latency = self._gauge("latency_seconds", "Age of a packet's last sample when it came.", *channels)
        self._ring_fill = self._gauge("ring_fill_ratio", "Share of the ring that holds samples.", *channels)
        self._state = self._gauge(
            "channel_state",
            "1 for the state that the channel is in, 0 for the others.",
            *channels,
            first=0,
            state=get_args(QualityState),
        )
        texts = {
            "delay_seconds": "Age of the newest sample.",
            "availability_ratio": "Share of the last ten minutes that has samples.",
            "window_gaps": "Gaps within the last ten minutes.",
            "window_gap_seconds": "Lengths of the gaps within the last ten minutes together.",
            "window_overlaps": "Packets of the last ten minutes that brought again what was there.",
            "window_spikes": "Lone samples that stick out, in the last ten minutes.",
            "rms": "Root mean square about the mean, in the recording's unit.",
            "offset": "Mean of the samples, in the recording's unit.",
            "flat_seconds": "For how long the value has not changed.",
            "clipped_ratio": "Share of the last minute at the digitizer's limits.",
            "timing_quality_ratio": "What the recorder says of its clock, 0 to 1.",
            "sampling_rate_hertz": "Sampling rate, as the recorder states it.",
        }
        self._quality = {
            name: self._gauge(f"channel_{name}", help_text, *channels) for name, help_text in texts.items()
        }

    def _declare_decisions(self) -> None:
        stations = (("station",), self._of_stations)
        self._frames = self._counter("frames", "Windows of data that were judged.", *stations)
        self._inferences = self._counter("inferences", "Runs of the model.", *stations)
        self._inference_time = self._time("last_inference", "When the model last ran.", *stations)
        self._detections = self._counter(
            "detections",
            "Detections told, by revision's state and by origin.",
            *stations,
            state=get_args(State),
            origin=get_args(Origin),
        )
        # 0, not unknown: what has never happened is as old as can be, and as unlikely.
        self._detection_time = self._gauge(
            "last_detection_timestamp_seconds",
            "When a detection was last told. 0: never.",
            *stations,
            first=0,
            origin=get_args(Origin),
        )
        self._detection_probability = self._gauge(
            "last_detection_probability",
            "Probability of the detection that was last told. 0: none, or it was retracted.",
            *stations,
            first=0,
            origin=get_args(Origin),
        )
        self._inference_seconds = Histogram(
            "monitor_inference_seconds",
            "Time that a run of the model takes.",
            registry=self._registry,
            buckets=_SECONDS,
        )
        self._device = self._gauge(
            "inference_device", "1 for what runs the model now, 0 for what does not.", first=0, device=DEVICES
        )
        self._fallbacks = self._counter(
            "inference_fallbacks", "The CPU took over what the Edge TPU was to do.", reason=FALLBACK_REASONS
        )

    def _declare_output(self) -> None:
        queues = (("queue",), self._of_queues)
        self._queue_items = self._gauge("queue_items", "What waits in a queue.", *queues, first=0)
        self._queue_dropped = self._counter("queue_dropped", "What did not fit into a queue.", *queues)
        self._published = self._counter("publishes", "Messages offered to the broker.", result=PUBLISH_RESULTS)
        self._publish_time = self._time("last_publish", "When the broker last acknowledged a message.")
        self._broker = self._gauge("broker_connected", "1 while the broker is connected.", first=0)
        self._broker_reconnects = self._counter(
            "broker_reconnects", "Connections to the broker that ended or could not be made.", reason=BROKER_REASONS
        )
        self._outbox_messages = self._gauge("outbox_messages", "Messages that wait for the broker.", first=0)
        self._outbox_held = self._gauge("outbox_held_messages", "Messages that the broker does not take.", first=0)
        self._outbox_bytes = self._gauge("outbox_bytes", "Size of the messages in the outbox.", first=0)
        self._outbox_dropped = self._counter(
            "outbox_dropped", "Messages that were given up before the broker had them.", reason=DROP_REASONS
        )
        age = Gauge(
            "monitor_outbox_oldest_age_seconds",
            "Age of the message that has waited longest, 0 where none waits.",
            registry=self._registry,
        )
        age.set_function(self._outbox_age_s)

    def _declare_self(self) -> None:
        self._log_messages = self._counter("log_messages", "Log messages that were written.", level=LEVELS)
        self._log_suppressed = self._counter(
            "log_suppressed", "Log messages that were not written, being too many of a kind.", level=LEVELS
        )
        self._clock_synchronised = self._gauge("clock_synchronised", "1 while something keeps this computer's clock.")
        self._clock_offset = self._gauge("clock_offset_seconds", "What is to be corrected, by the kernel.")
        self._clock_error = self._gauge("clock_error_seconds", "Largest error of the clock, by the kernel.")
        self._reload_ok = self._gauge(
            "config_last_reload_successful", "1 if the settings were taken when they were last read.", first=1
        )
        self._reload_time = self._time("config_last_reload_success", "When settings were last taken.")
        self._state_time = self._time("last_state_save", "When the positions were last saved.")
        self._archive_working = self._gauge("archive_working", "1 while what is to be kept is written.", first=1)
        self._archived = self._counter("archived_events", "Events that were archived completely.")
        self._archive_events = self._gauge("archive_events", "Complete events in the archive.", first=0)
        self._archive_bytes = self._gauge("archive_events_bytes", "What the events take of the disk.", first=0)
        self._archive_sds_bytes = self._gauge("archive_sds_bytes", "What the SDS archive takes of the disk.", first=0)
        self._archive_failures = self._counter(
            "archive_failures", "Attempts to write to an archive that failed.", reason=ARCHIVE_REASONS
        )
        self._page_viewers = self._gauge("page_viewers", "Browsers that follow the station page.", first=0)
        self._page_dropped = self._counter("page_events_dropped", "Messages that a browser was too slow to take.")
        self._page_refused = self._counter(
            "page_refused", "Requests for the station page that were refused.", reason=PAGE_REASONS
        )
        self._build_info = Gauge(
            "monitor_build_info", "Which monitor this is.", ["version", "python"], registry=self._registry
        )
        self._model_info = Gauge(
            "monitor_model_info", "Which model decides.", ["name", "version", "sha256"], registry=self._registry
        )

    # What there is -------------------------------------------------------------------------------

    def add_server(self, server: str) -> None:
        """Let the series of a SeedLink server exist, by its label."""
        for family in self._of_servers:
            family.add(server)

    def remove_server(self, server: str) -> None:
        """Let them disappear."""
        for family in self._of_servers:
            family.remove(server)

    def expect(self, stations: Iterable[str], channels: Iterable[ChannelId]) -> None:
        """Let the series of these stations, `NET.STA`, and channels exist before anything came of them.

        Those that were expected before and are neither now nor followed disappear.
        """
        stations_before, self._expected_stations = self._expected_stations, frozenset(stations)
        channels_before, self._expected_channels = self._expected_channels, frozenset(channels)
        for station in self._expected_stations:
            self._add_owner(self._of_stations, station)
        for channel_id in self._expected_channels:
            self._add_owner(self._of_channels, *_labels(channel_id))
        self._remove_unless_kept(stations_before, channels_before)

    def add_station(self, group: StationGroup) -> None:
        """Let the series of an instrument and its channels exist."""
        self._groups[group.name] = group
        self._add_owner(self._of_stations, group.station_id)
        for channel_id in group.channels:
            if channel_id is not None:
                self._add_owner(self._of_channels, *_labels(channel_id))

    def remove_station(self, group: StationGroup) -> None:
        """Let them disappear; those of the station stay while it has another instrument or is expected."""
        if self._groups.pop(group.name, None) is None:
            return
        self._remove_unless_kept([group.station_id], [c for c in group.channels if c is not None])

    def _add_owner(self, families: Families, *owner: str) -> None:
        for family in families:
            family.add(*owner)

    def _remove_unless_kept(self, stations: Iterable[str], channels: Iterable[ChannelId]) -> None:
        followed = self._groups.values()
        for station in set(stations) - self._expected_stations - {group.station_id for group in followed}:
            for family in self._of_stations:
                family.remove(station)
        kept = {_labels(c) for group in followed for c in group.channels if c is not None}
        kept |= {_labels(c) for c in self._expected_channels}
        for labels in {_labels(c) for c in channels} - kept:
            for family in self._of_channels:
                family.remove(*labels)

    def add_queue(self, queue: str) -> None:
        """Let the series of a queue exist."""
        for family in self._of_queues:
            family.add(queue)

    def build(self, *, version: str, python: str) -> None:
        """Say which program this is."""
        self._build_info.labels(version, python).set(1)

    def model(self, model: ModelRef) -> None:
        """Say which model decides; an earlier one is forgotten."""
        self._model_info.clear()
        self._model_info.labels(model.name, model.version, model.sha256).set(1)

    # What happens --------------------------------------------------------------------------------

    def packet(self, packet: Packet) -> None:
        """A packet was received."""
        received_s = packet.received_ns / NS_PER_SECOND
        self._packets.rise(packet.server)
        self._packet_bytes.rise(packet.server, by=packet.nbytes)
        self._server_packet.put(packet.server, value=received_s)
        for segment in packet.segments:
            labels = _labels(segment.channel_id)
            self._channel_packet.put(*labels, value=received_s)
            last_ns = segment.next_ns - round(NS_PER_SECOND / segment.sampling_rate)
            self._latency.put(*labels, value=(packet.received_ns - last_ns) / NS_PER_SECOND)

    def irregular_packet(self, server: str, reason: str, *, count: int = 1) -> None:
        """Packets were dropped or out of the ordinary; `reason` as in `PACKET_REASONS`."""
        self._packets_odd.rise(server, reason, by=count)

    def channel_counts(self, channel_id: ChannelId, counts: ChannelCounts) -> None:
        """Take over what the pipeline has counted on a channel."""
        labels = _labels(channel_id)
        self._samples.follow(*labels, total=counts.samples)
        self._gaps.follow(*labels, total=counts.gaps)
        self._gap_seconds.follow(*labels, total=counts.gap_ns / NS_PER_SECOND)
        self._overlaps.follow(*labels, total=counts.overlap_samples)
        self._invalid.follow(*labels, total=counts.invalid_samples)
        self._flat.follow(*labels, total=counts.flat_samples)
        self._rate_changes.follow(*labels, total=counts.rate_changes)

    def ring_fill(self, channel_id: ChannelId, ratio: float) -> None:
        """So much of the ring holds samples, 0 to 1."""
        self._ring_fill.put(*_labels(channel_id), value=ratio)

    def quality(self, channel_id: ChannelId, report: QualityReport) -> None:
        """A channel was looked at."""
        labels = _labels(channel_id)
        for state in get_args(QualityState):
            self._state.put(*labels, state, value=float(state == report.state))
        timing = report.timing_quality
        values = {
            "delay_seconds": report.delay_s,
            "availability_ratio": report.availability,
            "window_gaps": report.gaps,
            "window_gap_seconds": report.gap_s,
            "window_overlaps": report.overlaps,
            "window_spikes": report.spikes,
            "rms": report.rms,
            "offset": report.offset,
            "flat_seconds": report.flat_s,
            "clipped_ratio": report.clipped_share,
            "timing_quality_ratio": None if timing is None else timing / 100,
            "sampling_rate_hertz": report.sampling_rate,
        }
        for name, family in self._quality.items():
            family.put(*labels, value=values[name])

    def connected(self, server: str) -> None:
        """A SeedLink server is connected."""
        self._connected.put(server, value=1)

    def disconnected(self, server: str, reason: str) -> None:
        """It is not, or could not be; `reason` as in `SERVER_REASONS`."""
        self._connected.put(server, value=0)
        self._reconnects.rise(server, reason)

    def hole(self, server: str, length_ns: int) -> None:
        """A server could not fill a hole on resuming."""
        self._holes.rise(server)
        self._hole_seconds.rise(server, by=max(0, length_ns) / NS_PER_SECOND)

    def inference(self, station_id: str, *, frames: int, seconds: float) -> None:
        """The model ran once, on so many new frames, in so much time."""
        self._frames.rise(station_id, by=frames)
        self._inferences.rise(station_id)
        self._inference_seconds.observe(seconds)
        self._inference_time.put(station_id, value=self._now_ns() / NS_PER_SECOND)

    def device(self, device: str, fallbacks: Mapping[str, int]) -> None:
        """Take over what runs the model, and how often the CPU had to since the start, by reason."""
        for known in DEVICES:
            self._device.put(known, value=float(known == device))
        for reason, total in fallbacks.items():
            self._fallbacks.follow(reason, total=total)

    def detection(self, detection: Detection) -> None:
        """A revision of a detection was told."""
        self._detections.rise(detection.station, detection.state, detection.origin)
        probability = 0.0 if detection.state == "retracted" else detection.probability
        self._detection_probability.put(detection.station, detection.origin, value=probability)
        self._detection_time.put(detection.station, detection.origin, value=self._now_ns() / NS_PER_SECOND)

    def queue(self, queue: str, items: int) -> None:
        """So much waits in a queue."""
        self._queue_items.put(queue, value=items)

    def queue_dropped(self, queue: str, items: int = 1) -> None:
        """So much did not fit."""
        self._queue_dropped.rise(queue, by=items)

    def broker_connected(self) -> None:
        """The broker is connected."""
        self._broker.put(value=1)

    def broker_disconnected(self, reason: str) -> None:
        """It is not, or could not be; `reason` as in `BROKER_REASONS`."""
        self._broker.put(value=0)
        self._broker_reconnects.rise(reason)

    def published(self, result: str) -> None:
        """A message was offered to the broker; `result` as in `PUBLISH_RESULTS`."""
        self._published.rise(result)
        if result == "acknowledged":
            self._publish_time.put(value=self._now_ns() / NS_PER_SECOND)

    def outbox(self, *, depth: int, held: int, nbytes: int, oldest_ns: int | None, dropped: Mapping[str, int]) -> None:
        """Take over how full the outbox is, and what it dropped since the start, by reason."""
        self._outbox_messages.put(value=depth)
        self._outbox_held.put(value=held)
        self._outbox_bytes.put(value=nbytes)
        self._outbox_oldest_ns = oldest_ns
        for reason, total in dropped.items():
            self._outbox_dropped.follow(reason, total=total)

    def log(self, level: str, suppressed: bool) -> None:
        """Something was logged, or was too much of its kind."""
        (self._log_suppressed if suppressed else self._log_messages).rise(level)

    def clock(self, discipline: Discipline | None) -> None:
        """How well this computer's clock is kept; None where it is not known."""
        self._clock_synchronised.put(value=None if discipline is None else float(discipline.synchronised))
        self._clock_offset.put(value=None if discipline is None else discipline.offset_ns / NS_PER_SECOND)
        self._clock_error.put(value=None if discipline is None else discipline.max_error_ns / NS_PER_SECOND)

    def reloaded(self, *, ok: bool) -> None:
        """Settings were read again, and taken or not."""
        self._reload_ok.put(value=float(ok))
        if ok:
            self._reload_time.put(value=self._now_ns() / NS_PER_SECOND)

    def state_saved(self) -> None:
        """The positions in the streams were saved."""
        self._state_time.put(value=self._now_ns() / NS_PER_SECOND)

    def archive(
        self,
        *,
        working: bool,
        completed: int,
        kept: int,
        nbytes: int,
        sds_bytes: int,
        lost: int,
        failures: Mapping[str, int],
    ) -> None:
        """Take over how the archives stand; `lost` records and `failures` by reason since the start."""
        self._archive_working.put(value=float(working))
        self._archived.follow(total=completed)
        self._archive_events.put(value=kept)
        self._archive_bytes.put(value=nbytes)
        self._archive_sds_bytes.put(value=sds_bytes)
        self._queue_dropped.follow("archive", total=lost)
        for reason, total in failures.items():
            self._archive_failures.follow(reason, total=total)

    def page(self, *, viewers: int, dropped: int) -> None:
        """So many browsers follow the station page; so many messages they were too slow for, since the start."""
        self._page_viewers.put(value=viewers)
        self._page_dropped.follow(total=dropped)

    def page_refused(self, reason: str) -> None:
        """A request for the station page was refused; `reason` as in `PAGE_REASONS`."""
        self._page_refused.rise(reason)

    # What is told --------------------------------------------------------------------------------

    def exposition(self, accept: str = "") -> tuple[str, bytes]:
        """Write down all series.

        Args:
            accept: The client's Accept header.

        Returns:
            Content type and text: OpenMetrics for who asks for it, else Prometheus' text format.
        """
        # Not the header itself: what a client makes up is no business of the encoder.
        wants_openmetrics = "application/openmetrics-text" in accept
        encode, content_type = choose_encoder(
            "application/openmetrics-text; version=1.0.0" if wants_openmetrics else ""
        )
        return content_type, encode(self._registry)

    def _outbox_age_s(self) -> float:
        if self._outbox_oldest_ns is None:
            return 0.0
        return max(0, self._now_ns() - self._outbox_oldest_ns) / NS_PER_SECOND

    def _counter(
        self,
        name: str,
        help_text: str,
        owner: tuple[str, ...] = (),
        families: Families | None = None,
        **closed: tuple[str, ...],
    ) -> Counters:
        metric = Counter(f"monitor_{name}_total", help_text, [*owner, *closed], registry=self._registry)
        family = Counters(metric, closed)
        self._keep(family, families)
        return family

    def _gauge(
        self,
        name: str,
        help_text: str,
        owner: tuple[str, ...] = (),
        families: Families | None = None,
        *,
        first: float = UNKNOWN,
        **closed: tuple[str, ...],
    ) -> Gauges:
        metric = Gauge(f"monitor_{name}", help_text, [*owner, *closed], registry=self._registry)
        family = Gauges(metric, closed, first=first)
        self._keep(family, families)
        return family

    def _time(
        self,
        name: str,
        help_text: str,
        owner: tuple[str, ...] = (),
        families: Families | None = None,
    ) -> Gauges:
        # 0, not unknown: what has never happened is as old as can be, and an alarm on its age goes off.
        return self._gauge(f"{name}_timestamp_seconds", f"{help_text} 0: never.", owner, families, first=0)

    def _keep(self, family: Counters | Gauges, families: Families | None) -> None:
        """What has an owner waits for it; the rest exists from the start."""
        if families is None:
            family.add()
        else:
            families.append(family)


def _labels(channel_id: ChannelId) -> tuple[str, str]:
    """Station and channel, the latter with its location code where it has one: `00.HHZ`, `HHZ`."""
    _, _, location, channel = channel_id
    return channel_id.station_id, f"{location}.{channel}" if location else channel
