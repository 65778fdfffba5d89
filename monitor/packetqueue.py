"""Packets between the servers and the pipelines: bounded, live before backlog, each station's in order.

When it is full, `put` waits, and with it the server's connection: the data wait where they are safe. Backlog may fill
three quarters of it only: however much of it comes, there is room for what is live. Nothing is dropped. What is taken
out first is a station whose oldest packet is live; stations that catch up share what time is left.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from monitor.records import Packet
from monitor.timebase import NS_PER_SECOND

# A packet in memory is more than its bytes on the wire: samples as int32, the bytes themselves, and objects.
_OVERHEAD_BYTES = 2048
_GROWTH = 9
# One part in so many is kept free of backlog.
_LIVE_ONLY = 4


class PacketQueue:
    """Holds packets of many stations.

    Args:
        max_bytes: Most memory of what waits.
        lateness_s: A packet that ends no longer ago is live.
        now_ns: This computer's clock.
    """

    def __init__(self, max_bytes: int, *, lateness_s: float, now_ns: Callable[[], int]) -> None:
        self.nbytes = 0
        self.waits = 0
        self._max_bytes, self._now_ns = max_bytes, now_ns
        self._lateness_ns = round(lateness_s * NS_PER_SECOND)
        self._stations: dict[str, deque[Packet]] = {}
        self._turn: deque[str] = deque()
        self._filled, self._emptied = asyncio.Event(), asyncio.Event()

    def __len__(self) -> int:
        return sum(len(waiting) for waiting in self._stations.values())

    async def put(self, packet: Packet) -> None:
        """Add a packet; waits while the queue is full."""
        size = _size(packet)
        # One that is larger than all there is room for is let in alone.
        while self.nbytes and self.nbytes + size > self._room(packet):
            self.waits += 1
            self._emptied.clear()
            await self._emptied.wait()
        waiting = self._stations.get(packet.station_id)
        if waiting is None:
            waiting = self._stations[packet.station_id] = deque()
            self._turn.append(packet.station_id)
        waiting.append(packet)
        self.nbytes += size
        self._filled.set()

    async def take(self, most: int) -> list[Packet]:
        """Take up to `most` packets; waits until there is one.

        Backlog comes only where nothing live waits, one packet of each station that has some after the other.
        """
        while not self._turn:
            self._filled.clear()
            await self._filled.wait()
        limit = self._now_ns() - self._lateness_ns
        live = [station for station in self._turn if _end_ns(self._stations[station][0]) >= limit]
        taken: list[Packet] = []
        for station in live:
            waiting = self._stations[station]
            while waiting and len(taken) < most:
                taken.append(waiting.popleft())
            if not waiting:
                del self._stations[station]
        while not live and self._turn and len(taken) < most:
            station = self._turn.popleft()
            waiting = self._stations[station]
            taken.append(waiting.popleft())
            if waiting:
                self._turn.append(station)
            else:
                del self._stations[station]
        self._turn = deque(station for station in self._turn if station in self._stations)
        self.nbytes -= sum(_size(packet) for packet in taken)
        self._emptied.set()
        return taken

    def _room(self, packet: Packet) -> int:
        """Up to how many bytes the queue may be filled with this packet."""
        live = _end_ns(packet) >= self._now_ns() - self._lateness_ns
        return self._max_bytes if live else self._max_bytes - self._max_bytes // _LIVE_ONLY

    def take_all(self) -> list[Packet]:
        """Take everything at once: the end has come."""
        taken = [packet for station in self._turn for packet in self._stations[station]]
        self._stations, self._turn, self.nbytes = {}, deque(), 0
        self._emptied.set()
        return taken


def _size(packet: Packet) -> int:
    return _GROWTH * packet.nbytes + _OVERHEAD_BYTES


def _end_ns(packet: Packet) -> int:
    return max((segment.next_ns for segment in packet.segments), default=packet.received_ns)
