"""The demo's words: what it opens with, a row for each revision, the summary at the end. Pure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from monitor.demo.screen import Line, Part, line
from monitor.demo.tally import Earthquake, Heard, Tally, expected_and_found
from monitor.demo.usage import Usage
from monitor.output import printable
from monitor.records import Detection
from monitor.timebase import NS_PER_SECOND, format_time, parse_time

_STATE_STYLES = {"new": "bold yellow", "update": "dim", "final": "bold green", "retracted": "red"}
_MIB = 1024 * 1024


def starting() -> list[Line]:
    """Say at once that something happens."""
    return [
        line(Part("monitor demo", "bold"), ": a SeedLink server, the daemon, a broker and a subscriber, all on this"),
        line("computer, and real earthquakes; a moment to start them ..."),
        line(),
    ]


class Address(NamedTuple):
    """Something to look at: its name, where it is, and how or what for."""

    name: str
    where: str
    what: str


def opening(
    stations: Mapping[str, Sequence[str]],
    *,
    recorded_ns: int,
    span_s: float,
    speed: float,
    addresses: Sequence[Address],
) -> list[Line]:
    """Say what is about to be seen, and where else to look.

    Args:
        stations: `NET.STA` -> its channels.
        recorded_ns: When the recording began, nanoseconds since the epoch.
        span_s: Its length, seconds.
        speed: Multiple of real time.
        addresses: What listens.
    """
    names = [f"{station} {channels_of(seed_ids)}" for station, seed_ids in stations.items()]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    count = f"{len(names)} station" + ("s" if len(names) != 1 else "")
    width = max(len(address.where) for address in addresses)
    return [
        line(Part("Recorded  ", "bold"), f"{when(recorded_ns, digits=0)} UTC, {span_s:.0f} s, {count}:"),
        line("          ", shown),
        line(
            Part("Played    ", "bold"), f"{pace(speed)}, in {span_s / speed:.0f} s, and moved in time so that it ends"
        ),
        line("          now: old at first, the packets catch up ([live] lateness_s lets them count as live)"),
        line(),
        *(
            line(Part(f"{address.name:<10}", "bold"), Part(f"{address.where:<{width}}", "cyan"), f"   {address.what}")
            for address in addresses
        ),
        line(),
        line("Each line below is a message that came out of the broker: what is known so far."),
        line("after P: how much of the signal it took, from the onset on. delay: from those data to here."),
        line(),
        line(Part(_ROW_TITLES, "bold")),
    ]


_ROW_TITLES = "  time  state      station   P onset (UTC)  S-P s  prob.  after P     delay"


def title(number: int, elapsed_s: float) -> Line:
    """Announce an earthquake."""
    return line(f"{clock(elapsed_s):>6}  ", Part(f"earthquake {number}", "bold red"))


def row(detection: Detection, *, elapsed_s: float, delay_s: float | None) -> Line:
    """Show one message.

    Args:
        detection: What it says.
        elapsed_s: Since the demo was started.
        delay_s: From the last packet that it needed; None: not known.
    """
    after_s = (parse_time(detection.decided_at) - parse_time(detection.onset)) / NS_PER_SECOND
    s_minus_p = s_minus_p_of(detection)
    state = f"{detection.state} {detection.revision}"
    backfill = "  backfill" if detection.origin != "live" else ""
    return line(
        f"{clock(elapsed_s):>6}  ",
        Part(f"{state:<9}", _STATE_STYLES[detection.state]),
        "  ",
        Part(f"{printable(detection.station):<8}", "bold"),
        f"  {format_time(parse_time(detection.onset), digits=3)[11:-1]:<13}  {s_minus_p:>5}  ",
        Part(f"{detection.probability:5.2f}", "green"),
        f"  {after_s:5.1f} s  {milliseconds(delay_s):>8}{backfill}",
    )


class Facts(NamedTuple):
    """What the summary is made of besides the detections.

    Attributes:
        shift_ns: By how much the recording was moved in time.
        span_s: Its length, seconds.
        speed: As asked for, multiple of real time.
        played_s: For how long it was played.
        packets: Sent by the server to each client.
        messages: What came on which kind of topic.
        metrics: The daemon's, by name, at the end.
        usage: What it cost.
        ran_s: How long it ran.
    """

    shift_ns: int
    span_s: float
    speed: float
    played_s: float
    packets: int
    messages: Mapping[str, int]
    metrics: Mapping[str, float]
    usage: Usage
    ran_s: float


def summary(tally: Tally, stations: Mapping[str, Sequence[str]], facts: Facts) -> list[Line]:
    """Say what was found, whether the stations agree, and what it cost."""
    lines = [line(), line(Part("What was found", "bold underline")), line()]
    earthquakes = tally.earthquakes()
    for number, earthquake in enumerate(earthquakes, 1):
        lines += _earthquake(number, earthquake, stations, facts.shift_ns)
    return [*lines, *_verdict(earthquakes, stations), line(), *_figures(tally, facts)]


def _earthquake(
    number: int, earthquake: Earthquake, stations: Mapping[str, Sequence[str]], shift_ns: int
) -> list[Line]:
    lines = [
        line(
            Part(f"earthquake {number}", "bold red"),
            f"  {when(earthquake.onset_ns - shift_ns, digits=0)} UTC as recorded,"
            f" heard at {len(earthquake.heard)} of {_count(len(stations), 'station')}",
        ),
        line(Part("  station   channels    P onset       S-P s  prob.  SNR dB  first told  revisions", "bold")),
    ]
    heard_first = sorted(stations, key=lambda s: earthquake.heard[s].onset_ns if s in earthquake.heard else 1 << 63)
    for station in heard_first:
        heard = earthquake.heard.get(station)
        if heard is not None:
            lines.append(_station(heard, shift_ns))
        elif earthquake.is_confirmed:
            lines.append(line(f"  {printable(station):<8}  ", Part("not heard", "red")))
    return [*lines, line()]


def _station(heard: Heard, shift_ns: int) -> Line:
    last = heard.last
    snr = "-" if last.snr_db is None else f"{last.snr_db:.1f}"
    onset = format_time(heard.onset_ns - shift_ns, digits=3)[11:-1]
    told = f"P + {last.latency_s:.1f} s"
    return line(
        "  ",
        Part(f"{printable(last.station):<8}", "bold"),
        f"  {channels_of(last.seed_ids):<10}  ",
        Part(onset, "cyan"),
        f"  {s_minus_p_of(last):>5}  ",
        Part(f"{last.probability:5.2f}", "green"),
        f"  {snr:>6}  {told:>10}  {len(heard.revisions):>2}, {last.state}",
    )


def _verdict(earthquakes: Sequence[Earthquake], stations: Mapping[str, Sequence[str]]) -> list[Line]:
    if not earthquakes:
        return [line(Part("no earthquake", "bold red"))]
    if len(stations) == 1:
        return [line(f"{_count(len(earthquakes), 'earthquake')} at the one station: nobody else to ask")]
    confirmed = sum(earthquake.is_confirmed for earthquake in earthquakes)
    expected, found = expected_and_found(earthquakes, stations)
    alone = _count(len(earthquakes) - confirmed, "detection") if len(earthquakes) > confirmed else "none"
    return [
        line(
            Part(f"{_count(confirmed, 'earthquake')} on which two stations or more agree", "bold"),
            f": {expected} detections to be expected at {len(stations)} stations, ",
            Part(f"{found} found", "bold green" if found == expected else "bold yellow"),
        ),
        line(f"heard at one station alone: {alone}"),
    ]


def _figures(tally: Tally, facts: Facts) -> list[Line]:
    metrics = facts.metrics
    received = _total(metrics, "monitor_packets_total")
    odd = _total(metrics, "monitor_packets_irregular_total", "monitor_queue_dropped_total")
    states = ", ".join(f"{count} {state}" for state, count in tally.states.items())
    others = ", ".join(f"{count} {kind}" for kind, count in sorted(facts.messages.items()) if kind != "detection")
    lost = _total(metrics, "monitor_outbox_dropped_total")
    pace_kept = facts.span_s / max(facts.played_s, 1e-3)
    lines = [
        (
            "Played",
            f"{facts.span_s:.0f} s in {facts.played_s:.0f} s, {pace_kept:.1f} times real time: {facts.packets} packets,"
            f" {received} received, {odd} odd or dropped",
        ),
        (
            "Messages",
            f"{sum(tally.states.values())} of detections ({states}), {others}; {lost} dropped, {tally.repeated} twice",
        ),
    ]
    delays = tally.delays_s
    firsts = sorted(h.last.latency_s for e in tally.earthquakes() for h in e.heard.values())
    if firsts and delays:
        lines.append(
            (
                "Latency",
                f"told {firsts[0]:.1f} to {firsts[-1]:.1f} s after P; from data to message"
                f" {milliseconds(delays[len(delays) // 2])} (median), {milliseconds(delays[-1])} at most",
            )
        )
    peak = "-" if facts.usage.peak_bytes is None else f"{facts.usage.peak_bytes / _MIB:.0f} MiB"
    cpu = "-" if facts.usage.cpu_s is None else f"{facts.usage.cpu_s:.1f} s"
    lines.append(
        ("Daemon", f"{peak} of memory at most, {cpu} of processor time in {facts.ran_s:.0f} s, start included")
    )
    return [line(Part(f"{name:<10}", "bold"), text) for name, text in lines]


def _total(metrics: Mapping[str, float], *names: str) -> str:
    return f"{sum(metrics.get(name, 0.0) for name in names):.0f}" if metrics else "-"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def channels_of(seed_ids: Sequence[str]) -> str:
    """EHZ, EHN and EHE of one instrument as EH[ZNE]."""
    codes = [seed_id.split(".", 2)[-1].removeprefix(".") for seed_id in seed_ids]
    stems = {code[:-1] for code in codes}
    if len(codes) > 1 and len(stems) == 1:
        order = sorted((code[-1] for code in codes), key=lambda last: ("ZNE".find(last) % 4, last))
        return printable(f"{stems.pop()}[{''.join(order)}]")
    return printable(",".join(codes))


def s_minus_p_of(detection: Detection) -> str:
    """S after P, seconds."""
    if detection.s_onset is None or detection.phase != "P":
        return "-"
    return f"{(parse_time(detection.s_onset) - parse_time(detection.onset)) / NS_PER_SECOND:.2f}"


def pace(speed: float) -> str:
    """How fast it is played."""
    return "as fast as it happened" if speed == 1 else f"{speed:g} times as fast as it happened"


def when(time_ns: int, *, digits: int) -> str:
    """A moment, to read."""
    return format_time(time_ns, digits=digits).replace("T", " ").rstrip("Z")


def clock(elapsed_s: float) -> str:
    """Minutes and seconds."""
    return f"{int(elapsed_s) // 60}:{int(elapsed_s) % 60:02d}"


def milliseconds(seconds: float | None) -> str:
    """A short time, to read."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.0f} ms" if seconds < 9.9995 else f"{seconds:.1f} s"


def kept() -> list[Line]:
    """Say how it goes on."""
    text = "It goes on in real time, again and again, with everything that listens; Ctrl-C ends it."
    return [line(), line(Part(text, "bold")), line(Part(_ROW_TITLES, "bold"))]


def left(folder: Path) -> list[Line]:
    """Say what was left where."""
    return [line(Part("Left in   ", "bold"), f"{folder}: the daemon's settings, its log, its archive of events")]


def picture(path: Path, folder: Path) -> list[Line]:
    """Say where a picture is."""
    return [line(f"          {path.relative_to(folder)}")]


def undrawn(count: int) -> list[Line]:
    """Say that this computer was too slow, or too busy, for some pictures."""
    return [line(f"          no time for the pictures of {_count(count, 'event')}")]
