"""Misbehaviour on request: what goes wrong, and at which packets."""

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from monitor.playback.packets import WirePacket
from monitor.timebase import seconds_to_ns

_EVERY = re.compile(r"every:([1-9]\d*)", re.ASCII)
_CHANCE = re.compile(r"(\d{1,2}(?:\.\d+)?|100)%", re.ASCII)
_NUMBER = re.compile(r"[1-9]\d*", re.ASCII)


@dataclass(frozen=True, slots=True)
class When:
    """At which packets something happens; packets are counted from 1.

    Attributes:
        at: These.
        every: Each that is a multiple of it.
        chance: Each with this probability, 0 to 1, from the seed of the faults.
    """

    at: frozenset[int] = frozenset()
    every: int | None = None
    chance: float = 0.0

    def __post_init__(self) -> None:
        if any(number < 1 for number in self.at) or (self.every is not None and self.every < 1):
            raise ValueError(f"{self}: accepted: packet numbers from 1")
        if not 0 <= self.chance <= 1:
            raise ValueError(f"chance is {self.chance}; accepted: 0 to 1")

    def hits(self, number: int, rng: random.Random) -> bool:
        """Whether it happens at this packet."""
        if number in self.at or (self.every is not None and number % self.every == 0):
            return True
        return self.chance > 0 and rng.random() < self.chance

    def __bool__(self) -> bool:
        return bool(self.at) or self.every is not None or self.chance > 0


NEVER = When()


def parse_when(text: str) -> When:
    """Parse `50`, `50,80`, `every:20`, `1%`, or several of them joined by commas.

    Raises:
        ValueError: None of these; the message names the part.
    """
    at: set[int] = set()
    every: int | None = None
    chance = 0.0
    for part in text.split(","):
        if _NUMBER.fullmatch(part):
            at.add(int(part))
        elif match := _EVERY.fullmatch(part):
            every = int(match[1])
        elif match := _CHANCE.fullmatch(part):
            chance = float(match[1]) / 100
        else:
            raise ValueError(f"{part!r}; accepted: a packet number such as 50, every:20, or a share such as 1%")
    return When(frozenset(at), every, chance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong.

    The first group changes what is played: its numbers count the packets of the recording, and every client sees the
    same. The second group happens on a connection: its numbers count all packets sent on any connection, so that a
    client that comes back after a fault is not hit by it again.

    Attributes:
        drop: The packet is lost: a gap.
        duplicate: The packet comes twice, with two sequence numbers.
        reorder: The packet comes after the next one.
        back: The packet comes again with times `back_s` earlier.
        future: The packet comes again with times `future_s` later.
        corrupt: The samples of the packet are damaged, its headers not.
        reset: After the packet, sequence numbers start again at 1 and all connections are closed.
        stall: After that many packets the connection says nothing more, for `stall_s` or until the client leaves.
        cut: After that many packets half of the next one is sent, then the connection is closed.
        hang: After that many packets half of the next one is sent, then the connection stalls.
        garble: After that many packets comes something that is no packet.
        refuse_stations: Patterns of `NET_STA` that are answered with an error.
        refuse_connections: So many connections are closed as soon as they are made.
        unanswered: Commands, such as HELLO or INFO, that get no answer.
        omit_end: A dial-up connection is left open without END.
        trickle_bytes_s: Data comes this slowly, bytes per second.
        seed: For what is left to chance.
    """

    drop: When = NEVER
    duplicate: When = NEVER
    reorder: When = NEVER
    back: When = NEVER
    back_s: float = 3600.0
    future: When = NEVER
    future_s: float = 3600.0
    corrupt: When = NEVER
    reset: When = NEVER
    stall: When = NEVER
    stall_s: float | None = None
    cut: When = NEVER
    hang: When = NEVER
    garble: When = NEVER
    refuse_stations: tuple[str, ...] = ()
    refuse_connections: int = 0
    unanswered: frozenset[str] = field(default_factory=frozenset)
    omit_end: bool = False
    trickle_bytes_s: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.trickle_bytes_s is not None and not self.trickle_bytes_s > 0:
            raise ValueError(f"trickle_bytes_s is {self.trickle_bytes_s}; accepted: more than 0")

    def describe(self) -> list[str]:
        """Names of the faults that are asked for."""
        names = ("drop duplicate reorder back future corrupt reset stall cut hang garble").split()
        more = "refuse_stations refuse_connections unanswered omit_end trickle_bytes_s".split()
        return [name for name in (*names, *more) if getattr(self, name)]


class Item(NamedTuple):
    """A packet on its way into the ring.

    Attributes:
        packet: The packet.
        due_ns: When, in nanoseconds after the first sample of the recording.
        reset: Whether sequence numbers start again after it.
    """

    packet: WirePacket
    due_ns: int
    reset: bool = False


class FaultInjector:
    """Makes the faults that every client sees.

    Args:
        faults: Which, and when.
    """

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._rng = random.Random(f"{faults.seed} played")
        self._count = 0

    def apply(self, items: Iterable[Item]) -> Iterator[Item]:
        """Give the packets with the faults in them; the count goes on from the call before."""
        late: list[Item] = []
        for item in items:
            self._count += 1
            made = self._make(item)
            if made and self._hits(self._faults.reorder):
                late += made
                continue
            yield from made
            yield from late
            late.clear()
        yield from late

    def _hits(self, when: When) -> bool:
        return when.hits(self._count, self._rng)

    def _make(self, item: Item) -> list[Item]:
        """What becomes of one packet."""
        faults, packet = self._faults, item.packet
        made = []
        if not self._hits(faults.drop):
            made.append(item._replace(packet=packet.corrupted(self._rng)) if self._hits(faults.corrupt) else item)
        if self._hits(faults.duplicate):
            made.append(item)
        if self._hits(faults.back):
            made.append(item._replace(packet=packet.moved(-seconds_to_ns(faults.back_s))))
        if self._hits(faults.future):
            made.append(item._replace(packet=packet.moved(seconds_to_ns(faults.future_s))))
        if made and self._hits(faults.reset):
            made[-1] = made[-1]._replace(reset=True)
        return made
