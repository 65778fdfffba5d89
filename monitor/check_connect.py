"""Does everything that the settings name answer: servers, broker, model, this computer. Changes nothing anywhere."""

import asyncio
import difflib
import errno
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from monitor.clock import Clock, HostClock
from monitor.config import state_directory
from monitor.model import Model, ModelError
from monitor.mqtt import LinkError, Will, connect
from monitor.settings import HttpSettings, MqttSettings, PageSettings, SeedLinkSettings, Settings
from monitor.sources.seedlink_request import Selection, matches
from monitor.sources.seedlink_session import ConnectionLostError, open_session
from monitor.streams import StreamRow, parse_streams
from monitor.timebase import NS_PER_SECOND
from monitor.topics import Topics, default_client_id

# Beyond a tenth of a second onsets are off by more than they are uncertain.
_WORST_CLOCK_NS = NS_PER_SECOND // 10
# A recorder sends a packet at least that often; a clock is not off by so much unless it is wrong.
_OLD_S = 300.0
_AHEAD_S = 5.0
_MOST_NAMED = 5


class Outcome(NamedTuple):
    """How one attempt ended.

    Attributes:
        state: `ok`, `warning` (works, but look at it) or `failed`.
        subject: What was tried.
        text: What was found.
    """

    state: Literal["ok", "warning", "failed"]
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.state:8s} {self.subject}: {self.text}"


async def try_everything(
    settings: Settings, *, tell: Callable[[Outcome], None], running: bool = False, clock: Clock | None = None
) -> None:
    """Try all that the settings name, the servers and the broker at once.

    Args:
        settings: Checked settings.
        tell: Called with each outcome, in the order of the settings, as soon as it is known.
        running: A monitor runs with these settings, so that it has its ports.
        clock: This computer's where None.
    """
    clock = clock or HostClock()
    ports = (try_port("http", settings.http, running=running), try_port("page", settings.page, running=running))
    for outcomes in (try_model(settings), try_state(settings), *ports, try_clock(clock)):
        for outcome in outcomes:
            tell(outcome)
    async with asyncio.TaskGroup() as group:
        attempts = [group.create_task(try_seedlink(server, now_ns=clock.now_ns())) for server in settings.seedlink]
        if settings.mqtt.host is not None:
            attempts.append(group.create_task(try_mqtt(settings.mqtt)))
        for attempt in attempts:
            for outcome in await attempt:
                tell(outcome)


async def try_seedlink(server: SeedLinkSettings, *, now_ns: int) -> list[Outcome]:
    """Greet a server, log in, and look whether it has what is wanted."""
    subject = f"seedlink {server.label}"
    # A person waits for this.
    patient_s = min(server.stall_timeout_s, server.connect_timeout_s)
    server = msgspec.structs.replace(server, stall_timeout_s=patient_s)
    try:
        async with open_session(server) as session:
            hello = session.hello
            login = "" if server.user is None and server.token_file is None else ", login accepted"
            found = [Outcome("ok", subject, f"{hello.software}, {hello.organization}, version {hello.protocol}{login}")]
            try:
                rows = parse_streams(await session.info("STREAMS"), hello.protocol)
            except ConnectionLostError as lost:
                text = f"does not tell what it has, so that the stations are not checked ({lost.detail})"
                return [*found, Outcome("warning", subject, text)]
    except ConnectionLostError as lost:
        return [Outcome("failed", subject, str(lost))]
    return [*found, *(_of_pattern(pattern, subject, rows, now_ns) for pattern in server.stations)]


async def try_mqtt(mqtt: MqttSettings) -> list[Outcome]:
    """Connect to the broker and log in, under a name of its own: the monitor's would throw a running one out."""
    subject = f"mqtt {mqtt.host}:{mqtt.port_used}"
    client_id = f"{mqtt.client_id or default_client_id(socket.gethostname())}-check"
    # Nothing of this visit is to stay: no session, and a will that leaves no message behind.
    visit = msgspec.structs.replace(mqtt, session_expiry_s=0, will_delay_s=0)
    will = Will(Topics(mqtt.root, client_id).status, b"")
    never = asyncio.get_running_loop().create_future()
    try:
        async with connect(visit, client_id=client_id, will=will, stop=never) as link:
            login = "" if mqtt.user is None else f", login as {mqtt.user} accepted"
            return [Outcome("ok", subject, f"connected as {client_id} with MQTT {link.version}{login}")]
    except LinkError as error:
        return [Outcome("failed", subject, str(error))]


def _of_pattern(pattern: str, subject: str, rows: Sequence[StreamRow], now_ns: int) -> Outcome:
    """Say what a server has of one wanted pattern."""
    of_station = ".".join(pattern.split(".")[:2])
    there = [row for row in rows if matches(row.channel_id.station_id, of_station)]
    wanted = [row for row in there if Selection([pattern]).wants(row.channel_id)]
    if not there:
        stations = sorted({row.channel_id.station_id for row in rows})
        near = difflib.get_close_matches(of_station, stations, _MOST_NAMED)
        return Outcome("failed", subject, f"has no {of_station}; it has {_listed(near or stations) or 'no data'}")
    if not wanted:
        codes = sorted({row.channel_id.channel for row in there})
        return Outcome("failed", subject, f"has {of_station}, but no channel for {pattern}; it has {_listed(codes)}")
    n_stations = len({row.channel_id.station_id for row in wanted})
    have = f"{pattern}: {_count(len(wanted), 'channel')}"
    have += f" of {_count(n_stations, 'station')}" if n_stations > 1 else f" ({_listed(_codes(wanted))})"
    told = [row.last_ns for row in wanted if row.last_ns is not None]
    if not told:
        return Outcome("ok", subject, have)
    ages_s = [(now_ns - last_ns) / NS_PER_SECOND for last_ns in told]
    late = sum(age_s > _OLD_S for age_s in ages_s)
    if min(ages_s) < -_AHEAD_S:
        text = f"{have}, last data {duration(-min(ages_s))} ahead of this computer's clock: one of the two is wrong"
        return Outcome("warning", subject, text)
    have += f", last data {duration(max(0.0, min(ages_s)))} old"
    if late:
        which = "" if late == len(told) else f"; of {_count(late, 'channel')} up to {duration(max(ages_s))}"
        return Outcome("warning", subject, f"{have}{which}")
    return Outcome("ok", subject, have)


def duration(seconds: float) -> str:
    """Write a time span for people: `3.2 s`, `5 min`, `7.5 h`, `12 d`."""
    for unit_s, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def _codes(rows: Sequence[StreamRow]) -> list[str]:
    return sorted({".".join(part for part in (r.channel_id.location, r.channel_id.channel) if part) for r in rows})


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{', '.join(names[:_MOST_NAMED])}{rest}"


def try_model(settings: Settings) -> Iterator[Outcome]:
    """Load the model and compare its answers with its reference."""
    try:
        path = Path(settings.model.path) if settings.model.path is not None else None
        model = Model(path, device=settings.model.device)
    except ModelError as error:
        yield Outcome("failed", "model", str(error))
        return
    differences = model.verify()
    if differences:
        yield Outcome("failed", "model", f"{model.path}: {'; '.join(differences)}")
    else:
        yield Outcome("ok", "model", f"{model.path} runs here and gives its reference answers")
    if settings.model.device == "edgetpu" and model.edge_tpu_trouble is not None:
        yield Outcome("warning", "model", f"runs on the processor: {model.edge_tpu_trouble}")
    model.close()


def try_state(settings: Settings) -> Iterator[Outcome]:
    """Write a file, which vanishes at once, to the state directory, or to where it will be made."""
    directory = state_directory(settings)
    there = next(folder for folder in (directory, *directory.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
        free = shutil.disk_usage(there).free
    except OSError as error:
        yield Outcome("failed", "state", f"{there}: cannot be written to: {error.strerror}")
        return
    does = "can be written to" if there == directory else f"does not exist yet and can be made in {there}"
    if free < settings.outbox.max_bytes:
        yield Outcome(
            "warning", "state", f"{directory} {does}, but has {free:,} bytes left; [outbox] max_bytes is "
            f"{settings.outbox.max_bytes:,}",
        )  # fmt: skip
    else:
        yield Outcome("ok", "state", f"{directory} {does}, {free // 2**20:,} MiB free")


def try_port(subject: str, settings: HttpSettings | PageSettings, *, running: bool = False) -> Iterator[Outcome]:
    """Listen for a moment where metrics, or the station page, shall be served."""
    if settings.port is None or (running and settings.port == 0):
        return
    where = f"{settings.listen}:{settings.port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.listen, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
    except OSError as error:
        if error.errno == errno.EADDRINUSE and running:
            yield Outcome("ok", subject, f"{where} is in use, by the monitor that runs")
        elif error.errno == errno.EADDRINUSE:
            text = f"{where} is in use; right only if it is this monitor that runs already"
            yield Outcome("warning", subject, text)
        else:
            yield Outcome("failed", subject, f"{where}: {error.strerror or error}")
    else:
        if running:
            yield Outcome("warning", subject, f"{where}: nobody listens, although the monitor runs; its log says why")
        else:
            yield Outcome("ok", subject, f"{where} is free")


def try_clock(clock: Clock) -> Iterator[Outcome]:
    """Ask the kernel whether something keeps the clock on time."""
    discipline = clock.discipline()
    if discipline is None:
        yield Outcome("warning", "clock", "this computer does not say whether something keeps it on time")
    elif not discipline.synchronised:
        yield Outcome("warning", "clock", "nothing keeps it on time: install chrony or enable systemd-timesyncd")
    elif abs(discipline.offset_ns) > _WORST_CLOCK_NS:
        text = f"kept on time, but still {discipline.offset_ns / NS_PER_SECOND:+.3f} s off"
        yield Outcome("warning", "clock", text)
    else:
        text = f"kept on time, at most {discipline.max_error_ns / NS_PER_SECOND:.3f} s off"
        yield Outcome("ok", "clock", text)
