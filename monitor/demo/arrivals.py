"""A second client of the SeedLink server: when did which data leave it, and is the recording over?"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from monitor.records import ChannelId, Packet
from monitor.settings import SeedLinkSettings
from monitor.sources.seedlink import SeedLinkSource

# Packets of a channel that are remembered: minutes, where an answer takes seconds.
_REMEMBERED = 2048


class Arrivals:
    """Knows when data came out of the server, by this computer's clock.

    Args:
        ends_ns: When each channel will have been played, nanoseconds since the epoch.
        on_end: Called once, when all have.
    """

    def __init__(self, ends_ns: Mapping[ChannelId, int], *, on_end: Callable[[], None]) -> None:
        self._waiting, self._on_end = dict(ends_ns), on_end
        self._arrivals: dict[str, deque[tuple[int, int]]] = {}
        self.packets = 0
        self.newest_ns = 0

    async def run(self, port: int) -> None:
        """Listen until cancelled.

        Args:
            port: The server's, on 127.0.0.1.
        """
        settings = SeedLinkSettings(
            host="127.0.0.1", port=port, stations=["*.*"], backlog_s=7 * 86400.0, backoff_s=0.05, backoff_max_s=0.2
        )
        await SeedLinkSource(settings, positions=list, on_event=lambda _: None).run(self.take)

    async def take(self, packet: Packet) -> None:
        """Note a packet."""
        self.packets += 1
        for segment in packet.segments:
            arrivals = self._arrivals.setdefault(segment.channel_id.seed_id, deque(maxlen=_REMEMBERED))
            arrivals.append((segment.next_ns, packet.received_ns))
            self.newest_ns = max(self.newest_ns, segment.next_ns)
            if self._waiting and segment.next_ns >= self._waiting.get(segment.channel_id, segment.next_ns + 1):
                del self._waiting[segment.channel_id]
                if not self._waiting:
                    self._on_end()

    def arrived_ns(self, seed_ids: Iterable[str], time_ns: int) -> int | None:
        """Say when the last of some channels had come up to a stream time.

        Args:
            seed_ids: `NET.STA.LOC.CHA`.
            time_ns: Stream time, nanoseconds since the epoch.

        Returns:
            By this computer's clock; None where it has not come so far, or that is long ago.
        """
        latest = None
        for seed_id in seed_ids:
            first = None
            for next_ns, received_ns in reversed(self._arrivals.get(seed_id, ())):
                if next_ns < time_ns:
                    break
                first = received_ns
            if first is None:
                return None
            latest = first if latest is None else max(latest, first)
        return latest
