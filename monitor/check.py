"""What is wrong, or odd, with settings and the files that they name. Opens files, but no connection."""

import ipaddress
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from monitor.config import Reading, state_directory
from monitor.model import ModelError, ModelMetadata, default_model_path, read_metadata
from monitor.secrets import SecretError, exposure, read_secret
from monitor.settings import MqttSettings, PageSettings, SeedLinkSettings, Settings
from monitor.thresholds import ThresholdError, threshold_for
from monitor.toml_lines import KeyPath
from monitor.topics import default_client_id
from monitor.validation import section_name


class Finding(NamedTuple):
    """Something to tell.

    Attributes:
        severity: `problem`: the monitor would not work; `warning`: it may not do what is wanted; `note`: what is so.
        where: The file and line, or the variable.
        text: What it is.
    """

    severity: Literal["problem", "warning", "note"]
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {'' if self.severity == 'problem' else f'{self.severity}: '}{self.text}"


def findings(reading: Reading) -> list[Finding]:
    """Look at settings that are accepted, and at the files that they name; problems first."""
    settings = reading.settings
    found = [*_of_model(reading), *_of_live(reading)]
    for number, server in enumerate(settings.seedlink):
        found += _of_connection(reading, server, ("seedlink", number))
    found += _of_connection(reading, settings.mqtt, ("mqtt",))
    found += _of_page(reading)
    if not settings.seedlink:
        found.append(Finding("note", reading.source, "no [[seedlink]]: `monitor run` has nothing to listen to"))
    if settings.mqtt.host is None:
        found.append(Finding("note", reading.source, "no host in [mqtt]: detections are not published"))
    order = ("problem", "warning", "note")
    return sorted(found, key=lambda finding: order.index(finding.severity))


def described(settings: Settings) -> dict[str, list[str]]:
    """Say in a few words what settings without problems will do, by section; shows no secret."""
    metadata = read_metadata(_model_path(settings).read_bytes(), source="model")
    mqtt = settings.mqtt
    broker = []
    if mqtt.host is not None:
        client = mqtt.client_id or default_client_id(socket.gethostname())
        broker = [f"{mqtt.host}:{mqtt.port_used}{_secured(mqtt)} as {client}, topics below {mqtt.root}"]
    http = settings.http
    return {
        "model": [
            f"{metadata.name} {metadata.version}{'' if settings.model.path else ' (shipped)'}, "
            f"threshold {threshold_for(settings.detector, metadata):.6g}"
        ],
        "seedlink": [f"{server.label}{_secured(server)}: {', '.join(server.stations)}" for server in settings.seedlink],
        "mqtt": broker,
        "http": [] if http.port is None else [f"{http.listen}:{http.port}"],
        "page": [] if settings.page.port is None else [_page_described(settings.page)],
        "state": [str(state_directory(settings))],
    }


def _model_path(settings: Settings) -> Path:
    return Path(settings.model.path) if settings.model.path is not None else default_model_path()


def _of_model(reading: Reading) -> Iterator[Finding]:
    path = _model_path(reading.settings)
    where = reading.where("model", "path")
    try:
        metadata: ModelMetadata = read_metadata(path.read_bytes(), source=str(path))
    except OSError as error:
        yield Finding("problem", where, f"[model] path is {str(path)!r}, which cannot be read: {error.strerror}")
        return
    except ModelError as error:
        yield Finding("problem", where, f"[model] path: {error}")
        return
    try:
        threshold_for(reading.settings.detector, metadata)
    except ThresholdError as error:
        yield Finding("problem", reading.where("detector", "false_alarms_per_day"), f"[detector] {error}")


def _of_live(reading: Reading) -> Iterator[Finding]:
    live = reading.settings.live
    wait_s = live.component_wait_s + live.reorder_wait_s
    if live.lateness_s <= wait_s:
        yield Finding(
            "warning",
            reading.where("live", "lateness_s"),
            f"[live] lateness_s is {live.lateness_s:g}, not more than component_wait_s and reorder_wait_s together "
            f"({wait_s:g}): live detections may be marked backfill",
        )


def _of_connection(reading: Reading, settings: SeedLinkSettings | MqttSettings, path: KeyPath) -> Iterator[Finding]:
    """Look at the files of a login and of TLS."""
    name = section_name(path)
    secret_keys = ("password_file", "token_file") if isinstance(settings, SeedLinkSettings) else ("password_file",)
    for key in secret_keys:
        file = getattr(settings, key)
        if file is None:
            continue
        where = reading.where(*path, key)
        found = list(_of_secret(where, f"{name} {key}", file))
        yield from found
        readable = all(finding.severity != "problem" for finding in found)
        if readable and not settings.tls and not _is_here(settings.host):
            text = f"{name} {key} is set but tls is not: the network carries it in the clear"
            yield Finding("warning", where, text)
    if not settings.tls:
        for key in ("ca_file", "cert_file"):
            if getattr(settings, key, None) is not None:
                text = f"{name} {key} is set but tls is not: it has no effect"
                yield Finding("warning", reading.where(*path, key), text)
    yield from _of_tls_files(reading, settings, path)


def _of_page(reading: Reading) -> Iterator[Finding]:
    """Look at who may see the station page, and whether it can be served."""
    page, http = reading.settings.page, reading.settings.http
    if page.port is None:
        return
    where = f"{page.listen}:{page.port}"
    if page.port == http.port != 0 and _overlap(page.listen, http.listen):
        text = f'[page] port is {page.port}, which [http] has, too; accepted: another one, or "none" for no page'
        yield Finding("problem", reading.where("page", "port"), text)
    if page.password_file is not None:
        yield from _of_secret(reading.where("page", "password_file"), "[page] password_file", page.password_file)
    is_open = page.user is None and page.user_header is None
    if is_open and not _is_here(page.listen):
        text = (
            f"[page] listen is {page.listen!r} and nobody has to log in: whoever reaches {where} sees the waveforms, "
            "detections and state of this station; set user and password_file if that is not meant"
        )
        yield Finding("warning", reading.where("page", "listen"), text)
    if page.password_file is not None and not _is_here(page.listen):
        text = (
            f"[page] password_file is set and listen is {page.listen!r}: the page speaks no TLS, so that the network "
            "carries the password in the clear, unless there is a reverse proxy with TLS and this port is closed"
        )
        yield Finding("warning", reading.where("page", "password_file"), text)
    if page.trusted_proxies is not None and page.user_header is None:
        text = "[page] trusted_proxies is set but user_header is not: it has no effect"
        yield Finding("warning", reading.where("page", "trusted_proxies"), text)
    for proxy in page.trusted_proxies or () if page.user_header is not None else ():
        if ipaddress.ip_network(proxy).prefixlen == 0:
            text = f"[page] trusted_proxies holds {proxy!r}: anybody can send {page.user_header} and is let in"
            yield Finding("warning", reading.where("page", "trusted_proxies"), text)


def _of_secret(where: str, key: str, file: str) -> Iterator[Finding]:
    """Look at a file that holds a password or a token."""
    try:
        read_secret(file)
    except SecretError as error:
        yield Finding("problem", where, f"{key}: {error}")
        return
    if open_to := exposure(file):
        yield Finding("warning", where, f"{key}: {open_to}")


def _page_described(page: PageSettings) -> str:
    lets_in = [f"login as {page.user}"] if page.user is not None else []
    if page.user_header is not None:
        lets_in.append(f"whom a reverse proxy names in {page.user_header}")
    return f"http://{_bracketed(page.listen)}:{page.port}/, {' or '.join(lets_in) or 'no login'}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _overlap(one: str, other: str) -> bool:
    """Tell whether two listeners at one port would be in each other's way; a name is taken as it stands."""
    return one == other or bool({one, other} & {"0.0.0.0", "::", ""})


def _of_tls_files(reading: Reading, settings: SeedLinkSettings | MqttSettings, path: KeyPath) -> Iterator[Finding]:
    name = section_name(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if settings.ca_file is not None:
        try:
            context.load_verify_locations(cafile=settings.ca_file)
        except (OSError, ssl.SSLError) as error:
            text = f"{name} ca_file: {settings.ca_file}: {_tls_fault(error, 'certificates')}"
            yield Finding("problem", reading.where(*path, "ca_file"), text)
    if isinstance(settings, MqttSettings) and settings.cert_file is not None and settings.key_file is not None:
        yield from _of_certificate(reading, context, settings.cert_file, settings.key_file)


def _of_certificate(reading: Reading, context: ssl.SSLContext, cert_file: str, key_file: str) -> Iterator[Finding]:
    unreadable = False
    for key, file in (("cert_file", cert_file), ("key_file", key_file)):
        try:
            Path(file).open("rb").close()
        except OSError as error:
            unreadable = True
            text = f"[mqtt] {key}: {file}: cannot be read: {error.strerror}"
            yield Finding("problem", reading.where("mqtt", key), text)
    if unreadable:
        return
    try:
        # A key that wants a passphrase is refused instead of asked for on the terminal.
        context.load_cert_chain(cert_file, key_file, password="")
    except (OSError, ssl.SSLError) as error:
        fault = _tls_fault(error, "a certificate and its key without a passphrase")
        text = f"[mqtt] cert_file and key_file: {cert_file} and {key_file}: {fault}"
        yield Finding("problem", reading.where("mqtt", "cert_file"), text)
    if open_to := exposure(key_file):
        yield Finding("warning", reading.where("mqtt", "key_file"), f"[mqtt] key_file: {open_to}")


def _tls_fault(error: OSError, accepted: str) -> str:
    # An SSLError is an OSError too, whose number is not that of a file's fault.
    if isinstance(error, ssl.SSLError):
        return f"{error.reason or 'no PEM in it'}; accepted: {accepted} in PEM"
    return f"cannot be read: {error.strerror}"


def _secured(settings: SeedLinkSettings | MqttSettings) -> str:
    return " (TLS)" if settings.tls else ""


def _is_here(host: str | None) -> bool:
    """Tell this computer by its name or address."""
    if host is None or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
