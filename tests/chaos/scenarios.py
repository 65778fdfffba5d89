"""What is wrong with the network and with the SeedLink server: each fault alone, and all of them in combination."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from monitor.playback.faults import Faults, When
from tests.chaos.proxy import Trouble

ALL = "faults of both ways and of the server at once, every pair of any two"
Row = dict[str, str]

LATE = Trouble("latency of 0.1 s", latency_s=0.1)
SLOW = Trouble("throttled to 100 kB/s", bytes_s=100_000.0)
CUT = [Trouble("closed", after_bytes=n, then="close") for n in (3, 700, 20_000, 90_000)]
RESET = [Trouble("reset", after_bytes=n, then="reset") for n in (3, 700, 20_000, 90_000)]
HALF = [Trouble("half closed", after_bytes=n, then="half") for n in (3, 20_000)]
HOLE = [Trouble("black hole", after_bytes=n, then="hole") for n in (3, 20_000)]
DROPS = [Trouble("answers dropped", after_bytes=n, then="drops") for n in (700, 20_000)]


def _every(number: int) -> When:
    return When(every=number)


# The data are all there, sooner or later. Packets from the future are another matter where this computer's clock is not
# kept: then they are believed.
SERVE = {
    "duplicate": Faults(duplicate=_every(7)),
    "reorder": Faults(reorder=_every(50)),
    "stall": Faults(stall=When(frozenset({50, 700})), stall_s=20.0),
    "cut": Faults(cut=When(frozenset({30, 400, 900}))),
    "hang": Faults(hang=When(frozenset({40, 800})), stall_s=20.0),
    "garble": Faults(garble=When(frozenset({60, 500}))),
    "reset": Faults(reset=When(frozenset({700, 900}))),
    "refuse": Faults(refuse_connections=4),
    "unanswered INFO": Faults(unanswered=frozenset({"INFO"})),
    "trickle": Faults(trickle_bytes_s=200_000.0),
    "back": Faults(back=_every(45)),
}


@dataclass(frozen=True)
class Scenario:
    """What is wrong in one run: on the way from the server, on the way to the broker, and with the server."""

    name: str
    seedlink: list[Trouble] = field(default_factory=list)
    mqtt: list[Trouble] = field(default_factory=list)
    faults: Faults | None = None
    version: str = "auto"


WAYS: dict[str, list[Trouble]] = {
    "latency": [LATE],
    "throttle": [SLOW],
    "close": CUT,
    "reset": RESET,
    "half-close": HALF,
    "black hole": HOLE,
    "answers dropped": DROPS,
}


def scenarios(rng: np.random.Generator) -> list[Scenario]:
    """Each fault alone, on either way, then all in combination."""
    made = [Scenario(f"SeedLink {name}", seedlink=troubles) for name, troubles in WAYS.items()]
    made += [Scenario(f"MQTT {name}", mqtt=troubles) for name, troubles in WAYS.items()]
    for name, faults in SERVE.items():
        made += [Scenario(f"server: {name}, SeedLink {v}", faults=faults, version=v) for v in ("3", "4")]
    return made + combinations(rng)


def combinations(rng: np.random.Generator) -> list[Scenario]:
    """Faults at once: whatever is wrong on the two ways, with three faults of the server, until each pair was there.

    A covering array of strength two (Kuhn et al. 2004, "Software fault interactions and implications for software
    testing": most failures need no more than two conditions at once), built greedily.
    """
    factors = (("SeedLink", ("well", *WAYS)), ("MQTT", ("well", *WAYS)), ("version", ("3", "4")))

    def pairs(row: Row, faults: Iterable[str]) -> set[frozenset[tuple[str, str]]]:
        levels = [*row.items(), *(("server", fault) for fault in faults)]
        return {frozenset(pair) for pair in itertools.combinations(levels, 2)}

    left: set[frozenset[tuple[str, str]]] = set()
    for levels in itertools.product(*(levels for _, levels in factors)):
        row = dict(zip((name for name, _ in factors), levels, strict=True))
        for two in itertools.combinations(SERVE, 2):
            left |= pairs(row, two)
    made = []
    while left:
        best: tuple[int, Row, tuple[str, ...]] = (-1, {}, ())
        for _ in range(60):
            row = {name: levels[int(rng.integers(len(levels)))] for name, levels in factors}
            faults = tuple(sorted(str(name) for name in rng.choice(list(SERVE), 3, replace=False)))
            best = max(best, (len(left & pairs(row, faults)), row, faults), key=lambda one: one[0])
        gain, row, faults = best
        if not gain:
            continue
        left -= pairs(row, faults)
        name = f"SeedLink {row['version']} {row['SeedLink']}, MQTT {row['MQTT']}, server: "
        made.append(
            Scenario(name + " and ".join(faults), seedlink=WAYS.get(row["SeedLink"], []),
                     mqtt=WAYS.get(row["MQTT"], []), faults=_together(faults), version=row["version"])
        )  # fmt: skip
    return made


def _together(names: Sequence[str]) -> Faults:
    """All of these at once."""
    none = Faults()
    chosen: dict[str, Any] = {}
    for name in names:
        for one in fields(Faults):
            value = getattr(SERVE[name], one.name)
            if value != getattr(none, one.name):
                chosen[one.name] = value
    return replace(none, **chosen)


def kind(scenario: Scenario) -> str:
    """What a scenario counts under."""
    if scenario.faults is not None and " and " in scenario.name:
        return ALL
    if scenario.faults is not None:
        return "faults of the SeedLink server, SeedLink 3 and 4"
    return f"faults of the way to the {'SeedLink server' if scenario.seedlink else 'broker'}"
