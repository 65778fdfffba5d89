"""Long runs of the service, as fast as it takes what a server has: memory, descriptors, queues and detections."""

import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from monitor.detector import DetectorSettings
from monitor.model import Model
from monitor.pipeline import REPLAY_BATCH_S, StationPipeline
from monitor.playback.server import PlaybackServer, PlaybackSettings
from monitor.records import Detection
from monitor.state import SavedPosition, SavedState, write_state
from monitor.stations import group_channels
from monitor.timebase import NS_PER_SECOND
from tests.chaos import recording
from tests.chaos.outcome import Options, Outcome
from tests.chaos.proxy import in_thread
from tests.chaos.service import PATIENCE_S, Listener, start, unexpected
from tests.chaos.waves import PIECE_S, Waves
from tests.mosquitto import Mosquitto
from tests.service import Monitor

# What the service may still grow by, as a straight line through what was measured once it is warm.
MOST_MIB_A_DAY = 0.5
# What it may have at most, however short the run: without stations, and more for each of three channels.
MOST_MIB, MOST_MIB_A_STATION = 140.0, 2.5
# Until everything that is kept has been filled once: the archive's files, the page's history, the libraries' caches.
_WARM_SHARE = 0.3
# Until then the service fills what it keeps: a day of drums, some hundred events of the page and the archive.
_LEAST_HOURS = 72
_LOOK_S = 5.0
# As recorders send them that fill a record before they send it: some ten seconds each. Packets of a second cost several
# times as much, most of it for being a packet.
RECORD_BYTES = 4096
# Connections of whoever asks for metrics, a file that is being written.
_MORE_DESCRIPTORS = 8
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_QUEUES = re.compile(r'^(monitor_queue_items\{queue="packets"\}|monitor_outbox_messages) (\S+)$', re.MULTILINE)
_DROPPED = re.compile(r"^monitor_(?:queue|outbox|archive)_dropped_total(?:\{[^}]*\})? (\S+)$", re.MULTILINE)

PROMISE = (
    f"memory stays under {MOST_MIB:g} MiB and {MOST_MIB_A_STATION:g} for each station and, once it is filled, grows by"
    f" less than {MOST_MIB_A_DAY:g} a day, descriptors and queues stay, the detections heard are"
    " those of a replay"
)

# Station, the moment in its id, revision -> the rest, as far as stations with the same data say the same.
Said = dict[tuple[str, str, int], dict[str, Any]]


@dataclass
class _Seen:
    """What was measured, look by look.

    Attributes:
        days: Of data that the server had sent.
        mib: Resident memory of the service.
        descriptors: That it had open.
        packets: That waited in its queue.
        messages: That waited in its outbox.
    """

    days: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    packets: list[float] = field(default_factory=list)
    messages: list[float] = field(default_factory=list)
    dropped: float = 0.0

    def warm(self) -> slice:
        """The looks that count."""
        return slice(sum(day < _WARM_SHARE * self.days[-1] for day in self.days), None)

    @property
    def slope(self) -> float:
        """Growth of memory, MiB a day of data."""
        days, mib = np.array(self.days[self.warm()]), np.array(self.mib[self.warm()])
        return float(np.polyfit(days, mib, 1)[0]) if len(days) > 2 else 0.0


def run(options: Options) -> list[Outcome]:
    """One station for long."""
    outcome = Outcome("soak", f"one station, {span(options.soak_hours)} of data", PROMISE, "hours")
    soak(options.room("one"), outcome, stations=1, hours=options.soak_hours)
    return [outcome]


def span(hours: float) -> str:
    """In words."""
    return f"{hours:g} h" if hours < 48 else f"{hours / 24:g} days"


def soak(folder: Path, outcome: Outcome, *, stations: int, hours: float) -> None:
    """Let the service take what so many stations have recorded in so many hours."""
    seconds = round(hours * 3600)
    begin_ns = (time.time_ns() // NS_PER_SECOND - seconds) * NS_PER_SECOND
    waves = Waves(stations, begin_ns, seconds)
    expected = _replayed(waves)
    playing = PlaybackSettings(
        speed=None, packet_s=float(PIECE_S), record_bytes=RECORD_BYTES, versions=(4,), ring_bytes=64 << 20
    )
    with (
        Mosquitto(folder / "broker") as broker,
        Listener(broker.port) as listener,
        in_thread(lambda: PlaybackServer(waves.recording(), playing)) as server,
    ):
        monitor = Monitor(folder, seedlink=server.port, mqtt=broker.port)
        _begin_with_the_first(folder, monitor, waves, server)
        start(monitor)
        began = time.monotonic()
        try:
            finals = sum(body["state"] == "final" for body in expected.values())
            seen = _watch(monitor, listener, server, waves, finals)
            took_s, cost_s = time.monotonic() - began, _processor_s(monitor)
            code = monitor.stop()
        finally:
            monitor.kill()
        heard = list(listener.detections)
    outcome.runs = round(hours * stations)
    _judge(outcome, seen, heard, expected, stations=stations, code=code, log=monitor.log)
    outcome.note += (
        f"; {len(expected)} revisions; {seconds * stations / took_s:.0f} times real time,"
        f" {cost_s / (hours * stations):.2f} processor seconds an hour of a station"
    )


def _begin_with_the_first(folder: Path, monitor: Monitor, waves: Waves, server: PlaybackServer) -> None:
    """Let it ask for all: settings go back by a week at most, saved positions as far as they say."""
    # The archive is filled, and has to delete.
    text = monitor.config.read_text().replace('[page]\nport = "none"', "[page]\nport = 0")
    monitor.config.write_text(text + "[archive]\npictures = false\nmax_bytes = 20_000_000\n")
    step_s = Model().metadata.output_stride * Model().metadata.spectrogram.frame_interval_s
    positions = [
        SavedPosition(server=f"127.0.0.1:{server.port}", station=f"XX.{name}", sequence=1, time_ns=waves.begin_ns)
        for name in waves.names
    ]
    (folder / "state").mkdir()
    write_state(folder / "state", SavedState(step_s=step_s, saved_ns=waves.begin_ns, positions=positions))


def _replayed(waves: Waves) -> Said:
    """What a replay says of each station; those with the same data are judged once."""
    model, said = Model(), Said()
    for variant in range(min(waves.variants, waves.stations)):
        names = [name for name in waves.names if waves.variant(name) == variant]
        (group,) = group_channels(waves.channels(names[0]))
        pipeline = StationPipeline(group, model, DetectorSettings(), origin="replay", batch_s=REPLAY_BATCH_S)
        found: list[Detection] = []
        for piece in waves.of(names[:1], PIECE_S):
            found += pipeline.push(piece)
        for detection in [*found, *pipeline.finish()]:
            (_, moment, revision), body = _said(msgspec.to_builtins(detection))
            said |= {(f"XX.{name}", moment, revision): body for name in names}
    return said


def _said(body: dict[str, Any]) -> tuple[tuple[str, str, int], dict[str, Any]]:
    rest = {key: value for key, value in recording.plain(body).items() if key not in {"id", "station", "seed_ids"}}
    moment = body["id"].removeprefix(body["station"] + "-").rpartition("-")[0]
    return (body["station"], moment, body["revision"]), rest


def _watch(monitor: Monitor, listener: Listener, server: PlaybackServer, waves: Waves, finals: int) -> _Seen:
    """Look again and again until all is heard, or nothing moves any more."""
    seen, moved = _Seen(), (0.0, time.monotonic())
    assert monitor.process is not None
    process = Path(f"/proc/{monitor.process.pid}")
    while (seen.days[-1:] or [0.0])[0] * 86400 < waves.seconds - 2 * PIECE_S or listener.final_count < finals:
        newest = server.ring.get(server.ring.end - 1)
        at_ns = waves.begin_ns if newest is None else newest.next_ns
        seen.days.append((at_ns - waves.begin_ns) / NS_PER_SECOND / 86400)
        seen.mib.append(int((process / "statm").read_text().split()[1]) * _PAGE_BYTES / 2**20)
        seen.descriptors.append(len(list((process / "fd").iterdir())))
        metrics = monitor.get("/metrics")[1]
        waiting = {name: float(value) for name, value in _QUEUES.findall(metrics)}
        seen.packets.append(next(value for name, value in waiting.items() if "packets" in name))
        seen.messages.append(waiting["monitor_outbox_messages"])
        seen.dropped = sum(float(value) for value in _DROPPED.findall(metrics))
        now, before = (seen.days[-1], float(listener.final_count)), moved[0]
        if sum(now) > before:
            moved = (sum(now), time.monotonic())
        if time.monotonic() - moved[1] > PATIENCE_S or monitor.has_ended():
            break
        wait_until = time.monotonic() + _LOOK_S
        while time.monotonic() < wait_until and listener.final_count < finals:
            time.sleep(0.1)
    return seen


def _judge(
    outcome: Outcome,
    seen: _Seen,
    heard: list[dict[str, Any]],
    expected: Said,
    *,
    stations: int,
    code: int,
    log: str,
) -> None:
    warm = seen.warm()
    mib, descriptors = seen.mib[warm], seen.descriptors[warm]
    outcome.note = (
        f"{mib[0]:.0f} to {mib[-1]:.0f} MiB, {max(seen.mib):.0f} at most, {seen.slope:+.3f} MiB a day of data"
        f"{'' if _is_long(seen) else ' (that is not judged: it still fills what it keeps)'};"
        f" {min(descriptors)} to {max(descriptors)} descriptors; at most {max(seen.packets):.0f} packets and"
        f" {max(seen.messages):.0f} messages waited, {seen.dropped:.0f} dropped"
    )
    if code or unexpected(log):
        outcome.fail(f"exit code {code}: {log[-2000:]}")
    if _is_long(seen) and seen.slope > MOST_MIB_A_DAY:
        outcome.fail(f"memory grows by {seen.slope:.2f} MiB a day")
    if max(seen.mib) > (most := MOST_MIB + MOST_MIB_A_STATION * stations):
        outcome.fail(f"{max(seen.mib):.0f} MiB, more than {most:.0f}")
    if max(descriptors) > descriptors[0] + _MORE_DESCRIPTORS:
        outcome.fail(f"{max(descriptors)} descriptors, {descriptors[0]} once warm")
    if seen.dropped:
        outcome.fail(f"{seen.dropped:.0f} dropped")
    found: Said = {}
    for body in heard:
        key, rest = _said(body)
        outcome.duplicates += key in found
        found[key] = rest
    outcome.losses = len(expected.keys() - found.keys())
    strange = found.keys() - expected.keys()
    other = [key for key in found.keys() & expected.keys() if found[key] != expected[key]]
    if outcome.losses or strange or other:
        lost = sorted(expected.keys() - found.keys())
        outcome.fail(f"lacks {lost[:3]}, has {sorted(strange)[:3]} beside, other {sorted(other)[:3]}")


def _is_long(seen: _Seen) -> bool:
    return seen.days[-1] * 24 >= _LEAST_HOURS - 1


def _processor_s(monitor: Monitor) -> float:
    assert monitor.process is not None
    fields = Path(f"/proc/{monitor.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
