"""Everything that can be set, as frozen values; `monitor.config` reads them from TOML and the environment.

Each value is checked when it is built, so that an illegal one cannot exist. What a number may be stands in its type;
the attribute docstrings are what `monitor check --reference` prints.
"""

import re
from collections.abc import Iterable
from ipaddress import ip_network
from typing import Annotated, Literal

from msgspec import field

from monitor.detector import DetectorSettings
from monitor.section import CredentialPath, FilePath, Refusal, Section, example, within

_DAY_S = 86400

Port = Annotated[int, within(1, 65535)]


def _is_host(text: str) -> bool:
    """Tell a name or an address; an IPv6 address has two colons or more, a name with a port one."""
    return bool(text) and not any(ch.isspace() or ch in "/\0" for ch in text) and text.count(":") != 1


class ModelSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which model decides.

    Attributes:
        path: A `.tflite` made by `python -m train`; the shipped one unless set. Relative to the settings file.
        device: What runs it. "auto": a Coral Edge TPU if its library, the stick and the compiled model
            (`*_edgetpu.tflite` beside the model) are there, else the processor; "edgetpu" warns where they are not.
    """

    path: Annotated[FilePath, example("model.tflite")] | None = None
    device: Literal["auto", "cpu", "edgetpu"] = "auto"


class SeedLinkSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One SeedLink server; this table as often as there are servers.

    Attributes:
        host: Name or address.
        port: 18000, or 18500 with TLS, unless set.
        stations: What to ask for: "NET.STA" (* and ? allowed), or "NET.STA.LOC.CHA" patterns. Several servers may offer
            the same station: the first packet wins.
        name: What metrics and logs call it; "host:port" unless set.
        version: Protocol; "auto" takes 4 where the server speaks it.
        tls: Encrypt.
        ca_file: PEM file of the authorities to trust instead of the system's. Relative to the settings file.
        user, password_file: For servers that want a login (USERPASS). The password is the first line of a file: its
            path, relative to the settings file, or the name of a systemd credential.
        token_file: For servers that want a token (JWT) instead; a file as above.
        connect_timeout_s: Longest wait for a connection and its handshake.
        stall_timeout_s: A connection that brings nothing for so long is given up, also in the middle of a packet.
        keepalive_s: After so long without data the server is asked for a sign of life.
        backoff_s, backoff_max_s: First and longest mean wait before a new attempt; doubled each time, with jitter.
        auth_retry_s: Wait after a refused login.
        backlog_s: Without a saved position, how far back to ask for data.
    """

    host: Annotated[str, example("seedlink.example.org")]
    port: Annotated[Port, example(18000)] | None = None
    stations: Annotated[list[str], example(["XX.STA1", "XX.STA2.*.HH?"])]
    name: Annotated[str, example("example")] | None = None
    version: Literal["auto", "3", "4"] = "auto"
    tls: bool = False
    ca_file: Annotated[CredentialPath, example("ca.pem")] | None = None
    user: Annotated[str, example("station")] | None = None
    password_file: Annotated[CredentialPath, example("seedlink-password")] | None = None
    token_file: Annotated[CredentialPath, example("seedlink-token")] | None = None
    connect_timeout_s: Annotated[float, within(0.1, 600.0)] = 10.0
    stall_timeout_s: Annotated[float, within(0.5, 3600.0)] = 60.0
    keepalive_s: Annotated[float, within(0.1, 3600.0)] = 20.0
    backoff_s: Annotated[float, within(0.01, 600.0)] = 1.0
    backoff_max_s: Annotated[float, within(0.01, 3600.0)] = 60.0
    auth_retry_s: Annotated[float, within(0.1, _DAY_S)] = 900.0
    backlog_s: Annotated[float, within(0.0, 7 * _DAY_S)] = 120.0

    def refusals(self) -> Iterable[Refusal]:
        """Refuse names that are none and logins that contradict themselves."""
        if not _is_host(self.host):
            yield Refusal(("host",), f"host is {self.host!r}; accepted: a host name or an address, without a port")
        if not self.stations:
            yield Refusal(("stations",), "stations is empty; accepted: at least one such as 'XX.STA' or 'XX.STA.*.HH?'")
        for pattern in self.stations:
            if len(pattern.split(".")) not in {2, 4} or not all(pattern.split(".")[:2]):
                yield Refusal(("stations",), f"stations holds {pattern!r}; accepted: 'NET.STA' or 'NET.STA.LOC.CHA'")
        if self.name is not None and not self.name.strip():
            yield Refusal(("name",), f"name is {self.name!r}; accepted: text")
        if self.user is not None and self.password_file is None:
            yield Refusal(("user", "password_file"), "user is set but password_file is not; accepted: both or neither")
        if self.user is None and self.password_file is not None:
            yield Refusal(("password_file", "user"), "password_file is set but user is not; accepted: both or neither")
        if self.user is not None and self.token_file is not None:
            yield Refusal(("token_file", "user"), "user and token_file are both set; accepted: one way to log in")

    @property
    def port_used(self) -> int:
        """The port, the protocol's own where none is set."""
        return self.port if self.port is not None else (18500 if self.tls else 18000)

    @property
    def label(self) -> str:
        """What metrics, logs and the state call the server."""
        return self.name or f"{self.host}:{self.port_used}"


class LiveSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How live data are taken.

    Attributes:
        component_wait_s: A component that lags so far behind the others of its instrument, in stream time, and by the
            length of a packet, is no longer waited for.
        reorder_wait_s: After a hole, how long to wait for another server or a late packet to fill it, in stream time.
        lateness_s: A detection decided on data older than this is marked "backfill".
        future_tolerance_s: A packet further ahead of this computer's clock is dropped and counted.
        end_of_data_s: After so long without data from an instrument, what is going on at it is ended.
        queue_bytes: Most bytes of packets that wait to be processed; the servers wait when it is full.
    """

    component_wait_s: Annotated[float, within(0.0, 200.0)] = 10.0
    reorder_wait_s: Annotated[float, within(0.0, 120.0)] = 5.0
    lateness_s: Annotated[float, within(1.0, _DAY_S)] = 60.0
    future_tolerance_s: Annotated[float, within(1.0, _DAY_S)] = 60.0
    end_of_data_s: Annotated[float, within(10.0, _DAY_S)] = 300.0
    queue_bytes: Annotated[int, within(64 * 1024, 8 * 1024**3)] = 64 * 1024 * 1024


class StateSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is kept on disk.

    Attributes:
        directory: For positions in the streams and messages not yet delivered; $STATE_DIRECTORY (systemd) or
            ~/.local/state/monitor unless set. Relative to the settings file.
        save_interval_s: Positions are saved no more often than this: memory cards wear.
    """

    directory: Annotated[FilePath, example("/var/lib/monitor")] | None = None
    save_interval_s: Annotated[float, within(0.1, 3600.0)] = 5.0


class OutboxSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Messages that wait for the broker.

    Attributes:
        max_bytes: Most bytes on disk; the oldest backfill is dropped first, then the oldest, and counted.
        max_age_s: What is older is dropped and counted.
    """

    max_bytes: Annotated[int, within(256 * 1024, 1024**4)] = 64 * 1024 * 1024
    max_age_s: Annotated[float, within(60.0, 10 * 365 * _DAY_S)] = 30.0 * _DAY_S


class ArchiveSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is kept of the data, in the state directory: of each detection (events/), and of everything (sds/).

    Attributes:
        events: Keep each detection's JSON, pictures and the records of all of its station's channels.
        before_s, after_s: From so long before its onset to so long after it, or to 30 s after its end if that is later.
        pictures: Draw each event, by a process of its own.
        max_bytes: Most bytes of events; the oldest are deleted first.
        max_age_s: What is older is deleted.
        sds: Keep all records as they are received, in files by channel and day (SDS).
        sds_max_bytes: Most bytes of them; the oldest days are deleted first.
        sds_max_age_s: Days that ended longer ago are deleted.
        free_bytes: Where the file system has less free than this, archiving stops until there is room.
    """

    events: bool = True
    before_s: Annotated[float, within(0.0, 600.0)] = 60.0
    after_s: Annotated[float, within(0.0, 3600.0)] = 120.0
    pictures: bool = True
    max_bytes: Annotated[int, within(1024 * 1024, 1024**5)] = 1024**3
    max_age_s: Annotated[float, within(3600.0, 100 * 365 * _DAY_S)] = 365.0 * _DAY_S
    sds: bool = False
    sds_max_bytes: Annotated[int, within(1024 * 1024, 1024**5)] = 4 * 1024**3
    sds_max_age_s: Annotated[float, within(float(_DAY_S), 100 * 365 * _DAY_S)] = 30.0 * _DAY_S
    free_bytes: Annotated[int, within(0, 1024**5)] = 256 * 1024 * 1024


class MqttSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The MQTT broker.

    Attributes:
        host: Name or address; no MQTT unless set.
        port: 1883, or 8883 with TLS, unless set.
        version: "auto" takes MQTT 5 and falls back to 3.1.1.
        client_id: The fixed name of this monitor, also in the status topic; "monitor-" and the computer's name unless
            set.
        root: First levels of all topics.
        user, password_file: Login. The password is the first line of a file: its path, relative to the settings file,
            or the name of a systemd credential.
        tls: Encrypt.
        ca_file: PEM file of the authorities to trust instead of the system's. Relative to the settings file.
        cert_file, key_file: PEM files of this client's certificate, for brokers that want one.
        keepalive_s: The broker takes a connection that was silent for one and a half times this for lost.
        connect_timeout_s: Longest wait for a connection and its handshake.
        backoff_s, backoff_max_s: First and longest mean wait before a new attempt; doubled each time, with jitter.
        session_expiry_s: How long the broker keeps the session (MQTT 5).
        message_expiry_s: An alarm that a subscriber has not fetched by then is dropped by the broker (MQTT 5).
        will_delay_s: How long the link may be down before the status turns "offline" (MQTT 5).
        quality_interval_s: How often a channel's quality is published.
        usgs_pick: Also publish each final detection as a USGS Pick on <root>/<NET>/<STA>/pick.
        home_assistant: Announce the stations to Home Assistant.
        home_assistant_prefix: Its discovery prefix.
    """

    host: Annotated[str, example("mqtt.example.org")] | None = None
    port: Annotated[Port, example(1883)] | None = None
    version: Literal["auto", "3.1.1", "5"] = "auto"
    client_id: Annotated[str, example("monitor-sta1")] | None = None
    root: str = "monitor/v1"
    user: Annotated[str, example("monitor")] | None = None
    password_file: Annotated[CredentialPath, example("mqtt-password")] | None = None
    tls: bool = False
    ca_file: Annotated[CredentialPath, example("ca.pem")] | None = None
    cert_file: Annotated[CredentialPath, example("client.pem")] | None = None
    key_file: Annotated[CredentialPath, example("client.key")] | None = None
    keepalive_s: Annotated[int, within(5, 3600)] = 30
    connect_timeout_s: Annotated[float, within(0.1, 600.0)] = 10.0
    backoff_s: Annotated[float, within(0.01, 600.0)] = 1.0
    backoff_max_s: Annotated[float, within(0.01, 3600.0)] = 60.0
    session_expiry_s: Annotated[int, within(0, 2**32 - 1)] = _DAY_S
    message_expiry_s: Annotated[int, within(1, 2**32 - 1)] = _DAY_S
    will_delay_s: Annotated[int, within(0, _DAY_S)] = 30
    quality_interval_s: Annotated[float, within(1.0, _DAY_S)] = 60.0
    usgs_pick: bool = False
    home_assistant: bool = False
    home_assistant_prefix: str = "homeassistant"

    def refusals(self) -> Iterable[Refusal]:
        """Refuse topics that are none and keys that need another one."""
        if self.host is not None and not _is_host(self.host):
            yield Refusal(("host",), f"host is {self.host!r}; accepted: a host name or an address, without a port")
        for name in ("root", "home_assistant_prefix"):
            topic = getattr(self, name)
            if not topic or set("+#\0") & set(topic) or topic[0] in "/$" or topic[-1] == "/":
                yield Refusal(
                    (name,), f"{name} is {topic!r}; accepted: topic levels without wildcards, such as 'monitor/v1'"
                )
        if self.client_id is not None and (not self.client_id or set("+#/\0") & set(self.client_id)):
            yield Refusal(("client_id",), f"client_id is {self.client_id!r}; accepted: text without +, # and /")
        if (self.cert_file is None) != (self.key_file is None):
            there, missing = ("key_file", "cert_file") if self.cert_file is None else ("cert_file", "key_file")
            yield Refusal((there, missing), f"{there} is set but {missing} is not; accepted: both or neither")
        if self.password_file is not None and self.user is None:
            yield Refusal(("password_file", "user"), "password_file is set but user is not; accepted: both or neither")

    @property
    def port_used(self) -> int:
        """The port, the protocol's own where none is set."""
        return self.port if self.port is not None else (8883 if self.tls else 1883)


class HttpSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The listener for /metrics, /healthz and /readyz.

    Attributes:
        listen: Address; only this computer by default.
        port: 0 for any free one, "none" for no listener.
    """

    listen: str = "127.0.0.1"
    port: Annotated[int, within(0, 65535)] | None = 9464


class PageSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The station page: waveforms, spectrogram, detections and health in a browser; read-only.

    Attributes:
        listen: Address; only this computer by default, "0.0.0.0" or "::" for the whole network.
        port: 0 for any free one, "none" for no page.
        user, password_file: Ask for a login (HTTP Basic). The password is the first line of a file: its path, relative
            to the settings file, or the name of a systemd credential.
        user_header: Let in whom a reverse proxy has logged in: the header in which it names the user. Only from
            trusted_proxies; with user also set, either will do.
        trusted_proxies: Addresses or networks whose user_header is believed; this computer unless set.
        max_viewers: Browsers that may follow at a time; one more is told to come later.
    """

    listen: str = "127.0.0.1"
    port: Annotated[int, within(0, 65535)] | None = 9465
    user: Annotated[str, example("station")] | None = None
    password_file: Annotated[CredentialPath, example("page-password")] | None = None
    user_header: Annotated[str, example("Remote-User")] | None = None
    trusted_proxies: Annotated[list[str], example(["127.0.0.1", "10.0.0.0/24"])] | None = None
    max_viewers: Annotated[int, within(1, 1000)] = 50

    def refusals(self) -> Iterable[Refusal]:
        """Refuse addresses that are none and logins that contradict themselves."""
        if not _is_host(self.listen):
            text = f"listen is {self.listen!r}; accepted: a host name or an address, without a port"
            yield Refusal(("listen",), text)
        if (self.user is None) != (self.password_file is None):
            there, missing = ("password_file", "user") if self.user is None else ("user", "password_file")
            yield Refusal((there, missing), f"{there} is set but {missing} is not; accepted: both or neither")
        if self.user is not None and (not self.user.isprintable() or not self.user or ":" in self.user):
            yield Refusal(("user",), f"user is {self.user!r}; accepted: text without a colon")
        if self.user_header is not None and not re.fullmatch(r"[A-Za-z0-9-]+", self.user_header):
            yield Refusal(("user_header",), f"user_header is {self.user_header!r}; accepted: such as 'Remote-User'")
        for proxy in self.trusted_proxies or ():
            try:
                ip_network(proxy)
            except ValueError:
                text = f"trusted_proxies holds {proxy!r}; accepted: addresses and networks, such as '10.0.0.0/24'"
                yield Refusal(("trusted_proxies",), text)


class QualitySettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a channel is called bad.

    Attributes:
        dead_after_s: Without data for so long, by this computer's clock.
        flat_after_s: One value for so long.
        clip_share: Share of the samples of the last minute at the two extreme values that makes a channel clipped.
        full_scale_counts: A sample at or beyond this is clipped; the digitizer's limit, 2^23 counts for 24 bits. Unless
            set, clipping is told by repeated extremes only.
    """

    dead_after_s: Annotated[float, within(1.0, _DAY_S)] = 120.0
    flat_after_s: Annotated[float, within(2.0, 3600.0)] = 10.0
    clip_share: Annotated[float, within(1e-4, 1.0)] = 0.01
    full_scale_counts: Annotated[float, within(1e-12, 1e18), example(8388608.0)] | None = None


class LogSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The log, on standard error.

    Attributes:
        level: Least severity.
        format: "auto" is "text" on a terminal, "journal" under systemd, else "json".
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json", "journal"] = "auto"


class Settings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings file.

    Attributes:
        model: Which model decides.
        detector: How its probabilities become detections.
        seedlink: The servers that live data come from.
        live: How live data are taken.
        quality: When a channel is called bad.
        state: What is kept on disk.
        outbox: Messages that wait for the broker.
        archive: What is kept of the data.
        mqtt: The broker.
        http: Metrics and health.
        page: The station page.
        log: The log.
    """

    model: ModelSettings = ModelSettings()
    detector: DetectorSettings = DetectorSettings()
    seedlink: list[SeedLinkSettings] = field(default_factory=list)
    live: LiveSettings = LiveSettings()
    quality: QualitySettings = QualitySettings()
    state: StateSettings = StateSettings()
    outbox: OutboxSettings = OutboxSettings()
    archive: ArchiveSettings = ArchiveSettings()
    mqtt: MqttSettings = MqttSettings()
    http: HttpSettings = HttpSettings()
    page: PageSettings = PageSettings()
    log: LogSettings = LogSettings()

    def refusals(self) -> Iterable[Refusal]:
        """Refuse servers that metrics, logs and the state could not tell apart."""
        labels = [server.label for server in self.seedlink]
        for label in sorted({label for label in labels if labels.count(label) > 1}):
            yield Refusal(
                ("seedlink",), f"two seedlink servers are called {label!r}; accepted: each with a name of its own"
            )
