"""Data and clocks as they should not be: the engine alone, its clock and its packets given."""

import resource
import time
from dataclasses import replace

import numpy as np

from monitor.clock import Discipline
from monitor.engine import MOST_INSTRUMENTS, Engine
from monitor.model import Model
from monitor.records import ChannelId, Detection, Packet, Segment
from monitor.settings import Settings
from monitor.timebase import NS_PER_SECOND, parse_time
from tests.chaos import recording
from tests.chaos.outcome import Options, Outcome
from tests.chaos.service import compare, finals

HOUR_NS = 3600 * NS_PER_SECOND
_OFFERED = 10_000


class SteppedClock:
    """A clock that is set now and then, beside one that goes on evenly."""

    def __init__(self, now_ns: int) -> None:
        self.true_ns = now_ns
        self.wrong_ns = 0

    def now_ns(self) -> int:
        return self.true_ns + self.wrong_ns

    def monotonic_ns(self) -> int:
        return self.true_ns

    def discipline(self) -> Discipline | None:
        return Discipline(synchronised=True, offset_ns=0, error_ns=0, max_error_ns=0)

    def synchronised(self) -> bool | None:
        return True


def run(options: Options) -> list[Outcome]:
    """All of it."""
    copies = 1 if options.short else 6
    end_ns = time.time_ns() // NS_PER_SECOND * NS_PER_SECOND
    pieces = recording.cut(recording.make(copies, end_ns=end_ns), 1.0)
    found = [clock_steps(options, pieces), leap_second(pieces), strays(options, pieces)]
    if not options.short:
        found += [other_rate(pieces), renamed(pieces), wildcard()]
    return found


class _Live:
    """An engine that gets each piece when its last sample was taken."""

    def __init__(self, clock: SteppedClock) -> None:
        self.clock = clock
        self.engine = Engine(Model(), Settings(), clock=clock)
        self.told: list[Detection] = []
        self._numbers = 0

    def give(self, piece: Segment, *, now: bool = True) -> None:
        if now:
            self.clock.true_ns = max(self.clock.true_ns, piece.next_ns + 300_000_000)
        self._numbers += 1
        packet = Packet("one", piece.channel_id.station_id, self._numbers, (piece,), 512, self.clock.now_ns(), 100)
        if self._numbers % 5 == 0:
            self.told += self.engine.tick()
        self.told += self.engine.take(packet)

    def end(self) -> None:
        # No data for long enough that what goes on is ended.
        self.clock.true_ns += 400 * NS_PER_SECOND
        self.told += self.engine.tick()

    def counted(self) -> str:
        irregular = self.engine.happened().irregular
        return ", ".join(f"{count} {one.reason}" for one, count in sorted(irregular.items())) or "nothing out of order"


def _bodies(told: list[Detection]) -> list[dict[str, object]]:
    return [recording.plain(detection) for detection in told]


def clock_steps(options: Options, pieces: list[Segment]) -> Outcome:
    """This computer's clock is set by hours, both ways, again and again, while it says that it is right."""
    outcome = Outcome(
        "data", "this computer's clock steps by up to 5 h, both ways, believed to be right",
        "no sample is refused for it, and the detections are those of a replay", unit="steps",
    )  # fmt: skip
    rng = np.random.default_rng(options.seed)
    live = _Live(SteppedClock(pieces[0].starttime_ns))
    steps = set(rng.integers(1, len(pieces), 4 if options.short else 40).tolist())
    for number, piece in enumerate(pieces):
        if number in steps:
            live.clock.wrong_ns = int(rng.uniform(-5, 5) * HOUR_NS)
            outcome.runs += 1
        live.give(piece)
    live.clock.wrong_ns = 0
    live.end()
    _judge(outcome, live, pieces)
    return outcome


def _judge(outcome: Outcome, live: _Live, pieces: list[Segment]) -> None:
    expected = recording.judge(pieces)
    difference = compare(_bodies(live.told), expected)
    outcome.losses += len(difference.missing)
    outcome.duplicates += difference.repeated
    outcome.note = f"{finals(expected)} detections; counted: {live.counted()}"
    if difference:
        outcome.fail(str(difference))


def strays(options: Options, pieces: list[Segment]) -> Outcome:
    """Packets come twice, late, from the far future and from the past, among those that are right."""
    outcome = Outcome(
        "data", "packets twice, in another order, from the past (an hour) and from the future (30 days)",
        "counted, and the detections are those of a replay without them", unit="stray packets",
    )  # fmt: skip
    rng = np.random.default_rng(options.seed)
    live, late = _Live(SteppedClock(pieces[0].starttime_ns)), []
    for piece in pieces:
        if rng.random() < 0.01:
            late.append(piece)
            outcome.runs += 1
        else:
            live.give(piece)
        stray = {0: 0, 1: -HOUR_NS, 2: 720 * HOUR_NS}.get(int(rng.integers(0, 100)))
        if stray is not None:
            live.give(replace(piece, starttime_ns=piece.starttime_ns + stray), now=False)
            outcome.runs += 1
        if late and rng.random() < 0.3:
            live.give(late.pop(0), now=False)
    for piece in late:
        live.give(piece)
    live.end()
    _judge(outcome, live, pieces)
    return outcome


def leap_second(pieces: list[Segment]) -> Outcome:
    """A recorder that does not know the leap second: its clock is a second ahead, then set back while it records."""
    outcome = Outcome(
        "data", "leap second: the recorder's clock is set back by 1 s within the recording",
        "earthquakes before and after are found as in a replay; none is made up", unit="leap seconds",
    )  # fmt: skip
    middle = pieces[len(pieces) // 2].starttime_ns
    moved = [p if p.starttime_ns < middle else replace(p, starttime_ns=p.starttime_ns - NS_PER_SECOND) for p in pieces]
    live = _Live(SteppedClock(pieces[0].starttime_ns))
    for piece in moved:
        live.give(piece)
    live.end()
    before = recording.judge(pieces)
    _near(outcome, live, before, moved, middle, shift_ns=-NS_PER_SECOND)
    return outcome


def _near(
    outcome: Outcome,
    live: _Live,
    expected: dict[recording.Key, Detection],
    given: list[Segment],
    middle: int,
    *,
    shift_ns: int = 0,
) -> None:
    """Compare onsets with those of undisturbed data, but for those that go on while it happens; all with a replay."""
    spans = [
        (d.station, parse_time(d.onset), parse_time(d.end or d.onset))
        for d in expected.values() if d.state == "final"
    ]  # fmt: skip
    found = [(d.station, parse_time(d.onset)) for d in live.told if d.state == "final"]
    outcome.runs += 1
    margin = 40 * NS_PER_SECOND
    wanted = []
    for station, onset, end in spans:
        if end < middle:
            wanted.append((station, onset))
        elif onset > middle + margin:
            wanted.append((station, onset + shift_ns))
    near = 300_000_000
    lost = [w for w in wanted if not any(w[0] == f[0] and abs(w[1] - f[1]) < near for f in found)]
    open_ = [f for f in found if not any(w[0] == f[0] and abs(w[1] - f[1]) < near for w in wanted)]
    outcome.losses += len(lost)
    outcome.note = f"{len(wanted)} detections, {len(open_)} others, near it or the threshold; counted: {live.counted()}"
    if lost:
        outcome.fail(f"lost {lost[:5]}")
    difference = compare(_bodies(live.told), recording.judge(given))
    if difference:
        outcome.fail(f"not as in a replay: {difference}")


def other_rate(pieces: list[Segment]) -> Outcome:
    """A station is set to another sampling rate, and later back."""
    outcome = Outcome("data", "sampling rate doubled within the recording", "found before and after", unit="switches")
    middle = pieces[len(pieces) // 2].starttime_ns
    live = _Live(SteppedClock(pieces[0].starttime_ns))
    given = recording.cut(_resampled(pieces, from_ns=middle), 1.0)
    for piece in given:
        live.give(piece)
    live.end()
    _near(outcome, live, recording.judge(pieces), given, middle)
    return outcome


def _resampled(pieces: list[Segment], *, from_ns: int) -> list[Segment]:
    """Twice as many samples from then on, between those that there are."""
    by_channel: dict[ChannelId, list[Segment]] = {}
    for piece in pieces:
        by_channel.setdefault(piece.channel_id, []).append(piece)
    made = []
    for own in by_channel.values():
        made += [piece for piece in own if piece.starttime_ns < from_ns]
        late = [piece for piece in own if piece.starttime_ns >= from_ns]
        samples = np.concatenate([piece.samples for piece in late])
        spectrum = np.fft.rfft(samples)
        fine = 2 * np.fft.irfft(spectrum, 2 * len(samples))
        rate = 2 * late[0].sampling_rate
        made.append(Segment(late[0].channel_id, late[0].starttime_ns, rate, np.rint(fine).astype(np.int32)))
    return made


def renamed(pieces: list[Segment]) -> Outcome:
    """Channels get other names: another location, as after an exchange of the instrument."""
    outcome = Outcome("data", "channels renamed within the recording", "found before and after", unit="renamings")
    middle = pieces[len(pieces) // 2].starttime_ns
    live = _Live(SteppedClock(pieces[0].starttime_ns))
    given = [
        p if p.starttime_ns < middle else replace(p, channel_id=p.channel_id._replace(location="10")) for p in pieces
    ]
    for piece in given:
        live.give(piece)
    live.end()
    _near(outcome, live, recording.judge(pieces), given, middle)
    return outcome


def wildcard() -> Outcome:
    """A wildcard brings far more stations than one process follows."""
    outcome = Outcome(
        "data", f"{_OFFERED} stations offered by a wildcard",
        f"{MOST_INSTRUMENTS} are followed, the others counted; memory stays bounded", unit="stations",
    )  # fmt: skip
    start_ns = time.time_ns() // NS_PER_SECOND * NS_PER_SECOND
    live = _Live(SteppedClock(start_ns))
    rng = np.random.default_rng(1)
    noise = rng.integers(-500, 500, 1200).astype(np.int32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for second in (0, 12, 24):
        for number in range(_OFFERED):
            channel = ChannelId("XX", f"S{number:04d}", "", "HHZ")
            live.give(Segment(channel, start_ns + second * NS_PER_SECOND, 100.0, noise))
    outcome.runs = _OFFERED
    followed = len(live.engine.groups)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    outcome.note = f"{followed} followed, {grown:.0f} MiB more memory; counted: {live.counted()}"
    if followed > MOST_INSTRUMENTS:
        outcome.fail(f"{followed} are followed")
    return outcome
