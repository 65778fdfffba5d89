"""Everything that can be set, as frozen values; `monitor.config` reads them from TOML and the environment.

Each value is checked when it is built, so that an illegal one cannot exist. The attribute docstrings are what
`monitor check --reference` prints.
"""

from typing import Literal

import msgspec

from monitor.detector import DetectorSettings


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; accepted: {low:g} to {high:g}")


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One table of the settings file."""


class ModelSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which model decides.

    Attributes:
        path: A `.tflite` made by `python -m train`; the shipped one where null. Relative to the settings file.
    """

    path: str | None = None


class SeedLinkSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One SeedLink server; `[[seedlink]]`, as often as there are servers.

    Attributes:
        host: Name or address.
        port: 18000, or 18500 with TLS, unless set.
        stations: What to ask for: `NET.STA` (`*` and `?` allowed), or `NET.STA.LOC.CHA` patterns. Several servers may
            offer the same station: the first packet wins.
        name: What metrics and logs call it; `host:port` where null.
        version: Protocol; `auto` takes 4 where the server speaks it.
        tls: Encrypt.
        ca_file: PEM file of the authorities to trust instead of the system's.
        user, password_file: For servers that want a login (USERPASS); the password is the file's first line.
        token_file: For servers that want a token (JWT).
        connect_timeout_s: Longest wait for a connection and its handshake.
        stall_timeout_s: A connection that brings nothing for so long is given up, also in the middle of a packet.
        keepalive_s: After so long without data the server is asked for a sign of life.
        backoff_s, backoff_max_s: First and longest mean wait before a new attempt; doubled each time, with jitter.
        auth_retry_s: Wait after a refused login.
        backlog_s: Without a saved position, how far back to ask for data.
    """

    host: str
    port: int | None = None
    stations: list[str]
    name: str | None = None
    version: Literal["auto", "3", "4"] = "auto"
    tls: bool = False
    ca_file: str | None = None
    user: str | None = None
    password_file: str | None = None
    token_file: str | None = None
    connect_timeout_s: float = 10.0
    stall_timeout_s: float = 60.0
    keepalive_s: float = 20.0
    backoff_s: float = 1.0
    backoff_max_s: float = 60.0
    auth_retry_s: float = 900.0
    backlog_s: float = 120.0

    def __post_init__(self) -> None:
        if not self.host.strip() or any(c.isspace() for c in self.host):
            raise ValueError(f"host is {self.host!r}; accepted: a host name or an address")
        if not self.stations:
            raise ValueError("stations is empty; accepted: at least one such as 'XX.STA' or 'XX.STA.*.HH?'")
        for pattern in self.stations:
            if len(pattern.split(".")) not in (2, 4) or not all(pattern.split(".")[:2]):
                raise ValueError(f"stations holds {pattern!r}; accepted: 'NET.STA' or 'NET.STA.LOC.CHA'")
        if self.port is not None:
            _within("port", self.port, 1, 65535)
        if self.user is not None and self.password_file is None:
            raise ValueError("user is set but password_file is not")
        if self.user is not None and self.token_file is not None:
            raise ValueError("user and token_file are both set; accepted: one way to log in")
        for name, low, high in (
            ("connect_timeout_s", 0.1, 600.0),
            ("stall_timeout_s", 0.5, 3600.0),
            ("keepalive_s", 0.1, 3600.0),
            ("backoff_s", 0.01, 600.0),
            ("backoff_max_s", 0.01, 3600.0),
            ("auth_retry_s", 0.1, 86400.0),
            ("backlog_s", 0.0, 7 * 86400.0),
        ):
            _within(name, getattr(self, name), low, high)

    @property
    def port_used(self) -> int:
        """The port, the protocol's own where none is set."""
        return self.port if self.port is not None else (18500 if self.tls else 18000)

    @property
    def label(self) -> str:
        """What metrics, logs and the state call the server."""
        return self.name or f"{self.host}:{self.port_used}"


class LiveSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How live data are taken.

    Attributes:
        component_wait_s: A component that lags so far behind the others of its instrument, in stream time, is no longer
            waited for.
        reorder_wait_s: After a hole, how long to wait for another server or a late packet to fill it, in stream time.
        lateness_s: A detection decided on data older than this is marked `backfill`.
        future_tolerance_s: A packet further ahead of this computer's clock is dropped and counted.
        end_of_data_s: After so long without data from an instrument, what is going on at it is ended.
        queue_bytes: Most bytes of packets that wait to be processed; the servers wait when it is full.
    """

    component_wait_s: float = 10.0
    reorder_wait_s: float = 5.0
    lateness_s: float = 60.0
    future_tolerance_s: float = 60.0
    end_of_data_s: float = 300.0
    queue_bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        _within("component_wait_s", self.component_wait_s, 0.0, 200.0)
        _within("reorder_wait_s", self.reorder_wait_s, 0.0, 120.0)
        _within("lateness_s", self.lateness_s, 1.0, 86400.0)
        _within("future_tolerance_s", self.future_tolerance_s, 1.0, 86400.0)
        _within("end_of_data_s", self.end_of_data_s, 10.0, 86400.0)
        _within("queue_bytes", self.queue_bytes, 64 * 1024, 8 * 1024**3)


class StateSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is kept on disk.

    Attributes:
        directory: For positions in the streams and messages not yet delivered; `$STATE_DIRECTORY` (systemd) or
            `~/.local/state/monitor` where null. Relative to the settings file.
        save_interval_s: Positions are saved no more often than this: memory cards wear.
    """

    directory: str | None = None
    save_interval_s: float = 5.0

    def __post_init__(self) -> None:
        _within("save_interval_s", self.save_interval_s, 0.1, 3600.0)


class OutboxSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Messages that wait for the broker.

    Attributes:
        max_bytes: Most bytes on disk; the oldest backfill is dropped first, then the oldest, and counted.
        max_age_s: What is older is dropped and counted.
    """

    max_bytes: int = 64 * 1024 * 1024
    max_age_s: float = 30 * 86400.0

    def __post_init__(self) -> None:
        _within("max_bytes", self.max_bytes, 256 * 1024, 1024**4)
        _within("max_age_s", self.max_age_s, 60.0, 10 * 365 * 86400.0)


class MqttSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The MQTT broker.

    Attributes:
        host: Name or address; no MQTT where null.
        port: 1883, or 8883 with TLS, unless set.
        version: `auto` takes MQTT 5 and falls back to 3.1.1.
        client_id: The fixed name of this monitor, also in the status topic; `monitor-` and the host's name where null.
        root: First levels of all topics.
        user, password_file: Login; the password is the file's first line.
        tls: Encrypt.
        ca_file, cert_file, key_file: PEM files: authorities to trust, and this client's certificate.
        keepalive_s, connect_timeout_s: Of the connection.
        backoff_s, backoff_max_s: First and longest mean wait before a new attempt; doubled each time, with jitter.
        session_expiry_s: How long the broker keeps the session (MQTT 5).
        message_expiry_s: An alarm that a subscriber has not fetched by then is dropped by the broker (MQTT 5).
        will_delay_s: How long the link may be down before the status turns `offline` (MQTT 5).
        quality_interval_s: How often a channel's quality is published.
        usgs_pick: Also publish each final detection as a USGS Pick on `<root>/<NET>/<STA>/pick`.
        home_assistant: Announce the stations to Home Assistant.
        home_assistant_prefix: Its discovery prefix.
    """

    host: str | None = None
    port: int | None = None
    version: Literal["auto", "3.1.1", "5"] = "auto"
    client_id: str | None = None
    root: str = "monitor/v1"
    user: str | None = None
    password_file: str | None = None
    tls: bool = False
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    keepalive_s: int = 30
    connect_timeout_s: float = 10.0
    backoff_s: float = 1.0
    backoff_max_s: float = 60.0
    session_expiry_s: int = 86400
    message_expiry_s: int = 86400
    will_delay_s: int = 30
    quality_interval_s: float = 60.0
    usgs_pick: bool = False
    home_assistant: bool = False
    home_assistant_prefix: str = "homeassistant"

    def __post_init__(self) -> None:
        if self.port is not None:
            _within("port", self.port, 1, 65535)
        for name in ("root", "home_assistant_prefix"):
            topic = getattr(self, name)
            if not topic or set("+#\0") & set(topic) or topic[0] in "/$" or topic[-1] == "/":
                raise ValueError(f"{name} is {topic!r}; accepted: topic levels without wildcards, such as 'monitor/v1'")
        if self.client_id is not None and (not self.client_id or set("+#/\0") & set(self.client_id)):
            raise ValueError(f"client_id is {self.client_id!r}; accepted: text without +, # and /")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together")
        if self.password_file is not None and self.user is None:
            raise ValueError("password_file is set but user is not")
        for name, low, high in (
            ("keepalive_s", 5, 3600),
            ("connect_timeout_s", 0.1, 600.0),
            ("backoff_s", 0.01, 600.0),
            ("backoff_max_s", 0.01, 3600.0),
            ("session_expiry_s", 0, 2**32 - 1),
            ("message_expiry_s", 1, 2**32 - 1),
            ("will_delay_s", 0, 86400),
            ("quality_interval_s", 1.0, 86400.0),
        ):
            _within(name, getattr(self, name), low, high)

    @property
    def port_used(self) -> int:
        """The port, the protocol's own where none is set."""
        return self.port if self.port is not None else (8883 if self.tls else 1883)


class HttpSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The listener for /metrics, /healthz and /readyz.

    Attributes:
        listen: Address; only this computer by default.
        port: 0 for any free one; null for no listener.
    """

    listen: str = "127.0.0.1"
    port: int | None = 9464

    def __post_init__(self) -> None:
        if self.port is not None:
            _within("port", self.port, 0, 65535)


class QualitySettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a channel is called bad.

    Attributes:
        dead_after_s: Without data for so long, by this computer's clock.
        flat_after_s: One value for so long.
        clip_share: Share of the samples of the last minute at the two extreme values that makes a channel clipped.
        full_scale_counts: A sample at or beyond this is clipped; the digitizer's limit, 2^23 counts for 24 bits; null
            to tell by repeated extremes only.
    """

    dead_after_s: float = 120.0
    flat_after_s: float = 10.0
    clip_share: float = 0.01
    full_scale_counts: float | None = None

    def __post_init__(self) -> None:
        _within("dead_after_s", self.dead_after_s, 1.0, 86400.0)
        _within("flat_after_s", self.flat_after_s, 2.0, 3600.0)
        _within("clip_share", self.clip_share, 1e-4, 1.0)
        if self.full_scale_counts is not None and not self.full_scale_counts > 0:
            raise ValueError(f"full_scale_counts is {self.full_scale_counts}; accepted: more than 0")


class LogSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The log, on standard error.

    Attributes:
        level: Least severity.
        format: `auto` is `text` on a terminal, `journal` under systemd, else `json`.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json", "journal"] = "auto"


class Settings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings file.

    Attributes:
        model: Which model decides.
        detector: How its probabilities become detections.
        seedlink: The servers that live data come from.
        live: How live data are taken.
        quality: When a channel is called bad.
        state: What is kept on disk.
        outbox: Messages that wait for the broker.
        mqtt: The broker.
        http: Metrics and health.
        log: The log.
    """

    model: ModelSettings = ModelSettings()
    detector: DetectorSettings = DetectorSettings()
    seedlink: list[SeedLinkSettings] = []
    live: LiveSettings = LiveSettings()
    quality: QualitySettings = QualitySettings()
    state: StateSettings = StateSettings()
    outbox: OutboxSettings = OutboxSettings()
    mqtt: MqttSettings = MqttSettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()

    def __post_init__(self) -> None:
        labels = [server.label for server in self.seedlink]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"two seedlink servers are called {label!r}; give each a name of its own")
