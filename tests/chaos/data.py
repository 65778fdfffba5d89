"""Data and clocks as they should not be: the engine alone, its clock and its packets given."""

import resource
import time
from dataclasses import replace
from typing import NamedTuple

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
_SWITCHES = 8
# After a change: the background is known again, and what was going on is over.
_SETTLED_NS = 40 * NS_PER_SECOND
# An onset is the same if it is so near.
_NEAR_NS = 300_000_000


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
        found += [other_rate(options, pieces), renamed(pieces), wildcard()]
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


class _Span(NamedTuple):
    """A detection: where, from when to when."""

    station: str
    onset: int
    end: int


def _spans(said: dict[recording.Key, Detection]) -> list[_Span]:
    return [
        _Span(d.station, parse_time(d.onset), parse_time(d.end or d.onset)) for d in said.values() if d.state == "final"
    ]


def _last(told: list[Detection]) -> dict[recording.Key, Detection]:
    return {(d.id, d.revision): d for d in told}


def _has(spans: list[_Span], one: _Span) -> bool:
    return any(one.station == span.station and abs(one.onset - span.onset) < _NEAR_NS for span in spans)


def _found(outcome: Outcome, live: _Live, wanted: list[_Span], name: str) -> list[_Span]:
    """Look for these; what was found beside them."""
    outcome.runs += 1
    found = _spans(_last(live.told))
    lost = [span for span in wanted if not _has(found, span)]
    outcome.losses += len(lost)
    if lost:
        outcome.fail(f"{name}: lost {lost[:5]}")
    return [span for span in found if not _has(wanted, span)]


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
    wanted = []
    for span in _spans(expected):
        if span.end < middle:
            wanted.append(span)
        elif span.onset > middle + _SETTLED_NS:
            wanted.append(span._replace(onset=span.onset + shift_ns))
    beside = _found(outcome, live, wanted, "")
    outcome.note = f"{len(wanted)} detections, {len(beside)} near it; counted: {live.counted()}"
    difference = compare(_bodies(live.told), recording.judge(given))
    if difference:
        outcome.fail(f"not as in a replay: {difference}")


def other_rate(options: Options, pieces: list[Segment]) -> Outcome:
    """A recorder is set to twice or half the sampling rate and five times the gain, at any moment."""
    outcome = Outcome(
        "data", "sampling rate doubled or halved and the gain changed with it, at random moments",
        "earthquakes before and after are found; nothing is found that is in neither recording; live says what a replay"
        " says", unit="switches",
    )  # fmt: skip
    rng = np.random.default_rng(options.seed)
    fine = _doubled(pieces)
    begin, end = pieces[0].starttime_ns, pieces[-1].next_ns
    at_rate = {rate: recording.judge(one) for rate, one in (("fine", fine), ("coarse", pieces))}
    counted = ""
    for number in range(_SWITCHES):
        moment = begin + int(rng.uniform(0.1, 0.9) * (end - begin))
        first, second = (pieces, fine) if number % 2 else (fine, pieces)
        loud = [replace(p, samples=5 * p.samples) for p in second if p.starttime_ns >= moment]
        given = sorted([p for p in first if p.starttime_ns < moment] + loud, key=lambda p: p.starttime_ns)
        live = _Live(SteppedClock(begin))
        for piece in given:
            live.give(piece)
        live.end()
        before, after = ("coarse", "fine") if number % 2 else ("fine", "coarse")
        # Near the threshold one rate may show what the other does not.
        sure = [span for span in _spans(at_rate[before]) if _has(_spans(at_rate[after]), span)]
        _found(outcome, live, [s for s in sure if s.end < moment or s.onset > moment + _SETTLED_NS], f"switch {number}")
        known = [*_spans(at_rate["fine"]), *_spans(at_rate["coarse"])]
        strange = [f for f in _spans(_last(live.told)) if not _has(known, f)]
        if strange:
            outcome.fail(f"switch {number} at {moment}: {strange[:3]} are in neither recording")
        difference = compare(_bodies(live.told), recording.judge(given))
        if difference:
            outcome.fail(f"switch {number}: not as in a replay: {difference}")
        counted = live.counted()
    outcome.note = (
        f"{finals(at_rate['fine'])} detections at one rate, {finals(at_rate['coarse'])} at the other; counted"
    )
    outcome.note += f" in the last run: {counted}"
    return outcome


def _doubled(pieces: list[Segment]) -> list[Segment]:
    """The same at twice the rate, with noise as strong in the frequencies that it has more."""
    rng = np.random.default_rng(1)
    by_channel: dict[ChannelId, list[Segment]] = {}
    for piece in pieces:
        by_channel.setdefault(piece.channel_id, []).append(piece)
    made = []
    for own in by_channel.values():
        samples = np.concatenate([piece.samples for piece in own]).astype(np.float64)
        n, rate = len(samples), own[0].sampling_rate
        spectrum = np.zeros(n + 1, complex)
        spectrum[: n // 2 + 1] = 2 * np.fft.rfft(samples)
        quiet = np.median(np.abs(spectrum[round(0.3 * n) : round(0.45 * n)]))
        upper = slice(n // 2 + 1, n + 1)
        size = n + 1 - (n // 2 + 1)
        spectrum[upper] = quiet * (rng.standard_normal(size) + 1j * rng.standard_normal(size)) / np.sqrt(2)
        fine = np.fft.irfft(spectrum, 2 * n)
        made.append(Segment(own[0].channel_id, own[0].starttime_ns, 2 * rate, np.rint(fine).astype(np.int32)))
    return recording.cut(made, 1.0)


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
