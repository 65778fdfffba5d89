"""The queue between servers and pipelines: live before backlog, each station's packets in order."""

import asyncio

import numpy as np

from monitor.packetqueue import PacketQueue
from monitor.records import ChannelId, Packet, Segment
from monitor.timebase import NS_PER_SECOND
from tests.waveforms import T0

HOUR_NS = 3600 * NS_PER_SECOND


def packet(station: str, number: int, *, age_ns: int = HOUR_NS) -> Packet:
    channel = ChannelId("XX", station, "", "HHZ")
    segment = Segment(channel, T0 - age_ns - NS_PER_SECOND, 100.0, np.zeros(100, np.int32))
    return Packet("one", channel.station_id, number, (segment,), 512, T0)


def taken(packets: list[Packet], most: int) -> list[list[str]]:
    """What is taken, time after time, until nothing is left."""

    async def run() -> list[list[str]]:
        queue = PacketQueue(1 << 20, lateness_s=60.0, now_ns=lambda: T0)
        for one in packets:
            await queue.put(one)
        found = []
        while len(queue):
            found.append([f"{one.station_id[3:]}{one.sequence}" for one in await queue.take(most)])
        assert queue.nbytes == 0
        return found

    return asyncio.run(run())


def test_the_backlog_of_one_station_fills_a_batch() -> None:
    assert taken([packet("A", number) for number in range(5)], 3) == [["A0", "A1", "A2"], ["A3", "A4"]]


def test_stations_that_catch_up_take_turns() -> None:
    packets = [packet("A", number) for number in range(4)] + [packet("B", number) for number in range(2)]
    assert taken([*packets, packet("C", 0)], 4) == [["A0", "B0", "C0", "A1"], ["B1", "A2", "A3"]]


def test_what_is_live_comes_first_and_alone() -> None:
    packets = [packet("A", number) for number in range(3)] + [packet("B", number, age_ns=0) for number in range(2)]
    assert taken(packets, 4) == [["B0", "B1"], ["A0", "A1", "A2"]]
