"""Long runs of the engine, their clock running with the data: memory, descriptors and detections."""

import gc
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from monitor.clock import FixedClock
from monitor.detector import DetectorSettings
from monitor.engine import Engine
from monitor.model import Model
from monitor.outbox import Outbox
from monitor.outbox_message import Key, OutboxMessage
from monitor.pipeline import REPLAY_BATCH_S, StationPipeline
from monitor.records import ChannelId, Detection, Packet, Segment
from monitor.settings import Settings
from monitor.state import write_state
from monitor.stations import group_channels
from monitor.timebase import NS_PER_SECOND, parse_time
from tests.chaos import recording
from tests.chaos.outcome import Options, Outcome

# Copies of the recordings that are played again and again.
_COPIES = 10
_PACKET_S = 10.0
_PAGE_BYTES = 4096
# What a Python process of this size may still grow by in a month, as a straight line through what was measured.
MOST_MIB_A_DAY = 1.0
# Replay judges in long batches, and what is under way at the end the one or the other may have told already.
_UNSETTLED_NS = 600 * NS_PER_SECOND
# When it could be decided, the moment in its id, its revision.
Said = tuple[int, str, int]
# Until everything that is kept has been filled once.
_WARM_SHARE = 0.3


def run(options: Options) -> list[Outcome]:
    """One station for long, many for a while."""
    one = Outcome(
        "soak", f"one station, {options.soak_hours:g} h of data",
        f"memory grows by less than {MOST_MIB_A_DAY:g} MiB a day, descriptors and queues stay, detections as in a"
        " replay", unit="h of data",
    )  # fmt: skip
    many = Outcome(
        "soak", f"{options.soak_stations} stations, {3 * options.soak_stations} channels,"
        f" {options.soak_minutes:g} min of data", "likewise", unit="h of data",
    )  # fmt: skip
    _soak(options.room("soak one"), one, stations=1, seconds=options.soak_hours * 3600)
    if not options.short:
        _soak(options.room("soak many"), many, stations=options.soak_stations, seconds=options.soak_minutes * 60)
    return [one] if options.short else [one, many]


def _endless(begin_ns: int) -> Iterator[Segment]:
    """The three components of one station, in order of time, without an end."""
    whole = recording.make(_COPIES, end_ns=begin_ns, stations="UH3")
    first_ns = min(segment.starttime_ns for segment in whole)
    length_ns = max(segment.next_ns for segment in whole) - first_ns
    pieces = recording.cut(whole, _PACKET_S)
    for number in range(10**9):
        for piece in pieces:
            yield replace(piece, starttime_ns=piece.starttime_ns - first_ns + begin_ns + number * length_ns)


def _soak(folder: Path, outcome: Outcome, *, stations: int, seconds: float) -> None:
    begin_ns = time.time_ns() // NS_PER_SECOND * NS_PER_SECOND - round(seconds) * NS_PER_SECOND
    clock, model = FixedClock(begin_ns), Model()
    engine = Engine(model, Settings(), clock=clock)
    outbox = Outbox(folder / "outbox.sqlite", Settings().outbox, clock=clock.now_ns)
    names = [f"S{number:03d}" for number in range(stations)]
    (group,) = group_channels(ChannelId("XX", names[0], "", f"SH{code}") for code in "ZNE")
    replay = StationPipeline(group, model, DetectorSettings(), origin="replay", batch_s=REPLAY_BATCH_S)
    live: dict[str, list[Said]] = {name: [] for name in names}
    expected: list[Said] = []
    measured: list[tuple[float, float]] = []
    depth, began = 0, time.monotonic()
    for number, piece in enumerate(_endless(begin_ns)):
        if piece.starttime_ns >= begin_ns + round(seconds) * NS_PER_SECOND:
            break
        clock.advance(max(0, piece.next_ns - clock.now_ns()))
        told: list[Detection] = []
        for name in names:
            own = replace(piece, channel_id=ChannelId("XX", name, "", piece.channel_id.channel))
            told += engine.take(Packet("one", f"XX.{name}", number, (own,), 512, clock.now_ns()))
        told += engine.tick()
        for detection in told:
            live[detection.station[3:]].append(_said(detection))
        if told:
            outbox.put_many(_message(detection, clock.now_ns()) for detection in told)
            depth = max(depth, outbox.stats().depth)
            outbox.remove([queued.number for queued in outbox.next(100)])
        own = replace(piece, channel_id=ChannelId("XX", names[0], "", piece.channel_id.channel))
        expected += [_said(d) for d in [*replay.advance(own.starttime_ns), *replay.push(own)]]
        if number % 36 == 0:
            engine.happened()
            write_state(folder, engine.saved())
        if number % 180 == 0:
            gc.collect()
            measured.append(((clock.now_ns() - begin_ns) / NS_PER_SECOND / 86400, _resident_mib()))
    outcome.runs = round(seconds / 3600 * stations)
    _judge(outcome, measured, live, expected, settled_ns=clock.now_ns() - _UNSETTLED_NS)
    outcome.note += (
        f"; {_descriptors()} descriptors; at most {depth} messages waited;"
        f" {len(expected)} revisions a station; {seconds * stations / (time.monotonic() - began):.0f} times real time"
    )
    outbox.close()


def _message(detection: Detection, now_ns: int) -> OutboxMessage:
    key = Key(detection.id, detection.revision)
    return OutboxMessage(topic="a/b", payload=msgspec.json.encode(detection), created_ns=now_ns, key=key)


def _judge(
    outcome: Outcome,
    measured: list[tuple[float, float]],
    live: dict[str, list[Said]],
    expected: list[Said],
    *,
    settled_ns: int,
) -> None:
    warm = np.array(measured[round(_WARM_SHARE * len(measured)) :])
    slope = float(np.polyfit(warm[:, 0], warm[:, 1], 1)[0]) if len(warm) > 2 else 0.0
    outcome.note = f"{warm[0, 1]:.0f} to {warm[-1, 1]:.0f} MiB, {slope:+.2f} MiB a day of data"
    # Over less than some hours the line is noise.
    if warm[-1, 0] > 0.4 and slope > MOST_MIB_A_DAY:
        outcome.fail(f"memory grows by {slope:.2f} MiB a day")
    wanted = {said for said in expected if said[0] < settled_ns}
    for station, told in live.items():
        found = {said for said in told if said[0] < settled_ns}
        outcome.losses += len(wanted - found)
        outcome.duplicates += len(told) - len(set(told))
        if found != wanted:
            outcome.fail(f"{station}: lacks {sorted(wanted - found)[:3]}, has {sorted(found - wanted)[:3]} beside")


def _said(detection: Detection) -> Said:
    return parse_time(detection.decided_at), detection.id.split("-", 1)[1].rsplit("-", 1)[0], detection.revision


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES / 2**20


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
