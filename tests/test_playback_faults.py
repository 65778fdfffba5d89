"""Every fault of the playback server, as a client sees it."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Coroutine

import numpy as np
import pytest
from pymseed import MiniSEEDError, MS3Record
from seedlink_client import AsyncSeedLink, SeedLinkError, SeedLinkPacket

from monitor.playback.clock import Clock
from monitor.playback.faults import FaultInjector, Faults, Item, When, parse_when
from monitor.playback.packets import encode
from monitor.playback.server import PlaybackServer, PlaybackSettings
from monitor.records import ChannelId, Segment
from monitor.timebase import NS_PER_SECOND, parse_time
from tests.seedlink_clients import PATIENCE_S, joined, receive, segment

T0 = parse_time("2024-05-06T07:08:09.250Z")
ALL = float("inf")
RNG = np.random.default_rng(5)
SEGMENTS = [
    Segment(ChannelId("XX", station, "", "HHZ"), T0, 100.0, RNG.integers(-999, 999, 2000, np.int32))
    for station in ("ABC", "DEF")
]
VERSIONS = pytest.mark.parametrize("version", [3, 4])
FRAME_BYTES = {3: 8 + 512, 4: 17 + len("XX_ABC") + 512}


def run(test: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(test, PATIENCE_S))


def at(*numbers: int) -> When:
    return When(frozenset(numbers))


def played(faults: Faults, *, version: int, count: int) -> list[SeedLinkPacket]:
    """What a client receives of the recording of 40 packets."""
    packets: list[SeedLinkPacket] = []

    async def test() -> None:
        settings = PlaybackSettings(preload_s=ALL, miniseed=3)
        async with PlaybackServer.play(SEGMENTS, faults=faults, settings=settings) as server:

            def choose(client: AsyncSeedLink) -> None:
                for station in ("XX_ABC", "XX_DEF"):
                    client.add_stream(station, seqnum=0)

            packets.extend(await receive(server.port, version=version, count=count, choose=choose))

    run(test())
    return packets


def seconds(packet: SeedLinkPacket) -> float:
    return (segment(packet).starttime_ns - T0) / NS_PER_SECOND


async def raw(port: int, version: int, *, dialup: bool = False) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask for everything that is held, and read up to where data begins."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    if version == 3:
        writer.write(b"STATION * *\r" + (b"FETCH 1\r" if dialup else b"DATA 1\r") + b"END\r")
        await reader.readexactly(8)
    else:
        writer.write(b"SLPROTO 4.0\rSTATION *\rDATA 1\r" + (b"ENDFETCH\r" if dialup else b"END\r"))
        await reader.readexactly(12)
    return reader, writer


# --- when --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "hits"),
    [
        ("5", {5}),
        ("5,7", {5, 7}),
        ("every:6", {6, 12, 18}),
        ("1,every:9", {1, 9, 18}),
        ("0.0%", set()),
        ("100%", set(range(1, 20))),
    ],
)
def test_when(text: str, hits: set[int]) -> None:
    when = parse_when(text)
    assert {number for number in range(1, 20) if when.hits(number, random.Random(0))} == hits
    assert bool(when) == bool(hits)


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "every:0", "every:", "101%", "5,,6", "1.5"])
def test_what_is_no_when(text: str) -> None:
    with pytest.raises(ValueError, match="accepted"):
        parse_when(text)


def test_shares_follow_the_seed() -> None:
    packets = [packet for part in range(40) for packet in encode(_second(part))]

    def dropped(seed: int) -> list[int]:
        injector = FaultInjector(Faults(drop=parse_when("30%"), seed=seed))
        return [item.due_ns for item in injector.apply(Item(packet, i) for i, packet in enumerate(packets))]

    assert dropped(1) == dropped(1)
    assert dropped(1) != dropped(2)
    assert 15 < len(dropped(1)) < 40


def _second(number: int) -> Segment:
    whole = SEGMENTS[0]
    start_ns = T0 + number % 20 * NS_PER_SECOND
    return Segment(whole.channel_id, start_ns, 100.0, whole.samples[number % 20 * 100 :][:100])


@pytest.mark.parametrize("options", [{"trickle_bytes_s": 0.0}, {"trickle_bytes_s": -1.0}])
def test_fault_settings_are_checked(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="trickle"):
        Faults(**options)  # type: ignore[arg-type]


# --- what is played ----------------------------------------------------------------------------------------------


@VERSIONS
def test_drop(version: int) -> None:
    packets = played(Faults(drop=at(5, 6)), version=version, count=38)
    assert [seconds(p) for p in packets] == [*[0, 0, 1, 1], *np.repeat(range(3, 20), 2)]
    assert [p.seqnum for p in packets] == list(range(1, 39))  # no gap that numbers would show


@VERSIONS
def test_duplicate(version: int) -> None:
    packets = played(Faults(duplicate=parse_when("5,every:20")), version=version, count=43)
    twice = [payload for payload, n in Counter(p.payload for p in packets).items() if n == 2]
    assert len(twice) == 3
    assert packets[4].payload == packets[5].payload
    assert packets[4].seqnum != packets[5].seqnum


@VERSIONS
def test_reorder(version: int) -> None:
    packets = played(Faults(reorder=at(4, 40)), version=version, count=40)
    assert [(p.station_id, seconds(p)) for p in packets[2:6]] == [
        ("XX_ABC", 1),
        ("XX_ABC", 2),
        ("XX_DEF", 1),
        ("XX_DEF", 2),
    ]
    assert len({p.payload for p in packets}) == 40


@VERSIONS
@pytest.mark.parametrize(
    ("faults", "by_s"),
    [(Faults(back=at(10), back_s=100), -100), (Faults(future=at(10), future_s=1000), 1000)],
    ids=["back", "future"],
)
def test_another_time(version: int, faults: Faults, by_s: float) -> None:
    packets = played(faults, version=version, count=41)
    assert seconds(packets[10]) == seconds(packets[9]) + by_s
    assert np.array_equal(segment(packets[10]).samples, segment(packets[9]).samples)
    del packets[10]
    for original in SEGMENTS:
        assert np.array_equal(joined(packets)[original.channel_id.seed_id], original.samples)


@VERSIONS
def test_corrupt(version: int) -> None:
    packets = played(Faults(corrupt=at(7)), version=version, count=40)
    good = {p.payload for p in played(Faults(), version=version, count=40)}
    assert [i for i, p in enumerate(packets, 1) if p.payload not in good] == [7]
    if version == 4:
        with pytest.raises(MiniSEEDError):
            MS3Record.parse(packets[6].payload)
    else:
        record = MS3Record.parse(packets[6].payload)  # its headers are right
        assert record.starttime == T0 + 3 * NS_PER_SECOND


@VERSIONS
def test_reset_of_sequence_numbers(version: int) -> None:
    async def test() -> None:
        settings = PlaybackSettings(preload_s=0)
        long = [Segment(SEGMENTS[0].channel_id, T0, 100.0, np.arange(10_000, dtype=np.int32))]
        async with PlaybackServer.play(long, faults=Faults(reset=at(70)), settings=settings) as server:
            packets = await receive(server.port, version=version)
            assert 0 < len(packets) <= 70
            numbers = [packets[-1].seqnum or 0]
            # A client that trusts the number alone would miss some. With the time of its last packet, in whole
            # seconds, it gets that one and the one before it again.
            start = segment(packets[-1]).starttime_ns

            def choose(client: AsyncSeedLink) -> None:
                client.add_stream("XX_ABC", seqnum=numbers[-1], timestamp=_iso(start))
                if version == 4:
                    client.set_timewindow(_iso(start))

            packets += await receive(server.port, version=version, choose=choose, count=100 - len(packets) + 2)
        assert any(later.seqnum < earlier.seqnum for earlier, later in _pairs(packets))  # type: ignore[operator]
        assert len({p.payload for p in packets}) == 100

    run(test())


def _iso(time_ns: int) -> str:
    whole = np.datetime64(time_ns // NS_PER_SECOND, "s")
    return f"{whole}Z"


def _pairs(packets: list[SeedLinkPacket]) -> list[tuple[SeedLinkPacket, SeedLinkPacket]]:
    return list(itertools.pairwise(packets))


# --- on the connection -------------------------------------------------------------------------------------------


@VERSIONS
def test_cut_in_the_middle_of_a_packet(version: int) -> None:
    async def test() -> None:
        settings = PlaybackSettings(preload_s=ALL)
        async with PlaybackServer.play(SEGMENTS, faults=Faults(cut=at(10)), settings=settings) as server:
            reader, writer = await raw(server.port, version)
            data = await reader.read(-1)
            assert len(data) == 10 * FRAME_BYTES[version] + FRAME_BYTES[version] // 2
            writer.close()
            again, writer = await raw(server.port, version)  # it happened once
            assert len(await again.readexactly(40 * FRAME_BYTES[version])) > len(data)
            writer.close()

    run(test())


@VERSIONS
def test_every_so_often_a_cut_and_nothing_is_lost(version: int) -> None:
    async def test() -> None:
        faults = Faults(cut=parse_when("every:7"))
        async with PlaybackServer.play(SEGMENTS, faults=faults) as server:
            packets: list[SeedLinkPacket] = []
            while len(packets) < 40:
                last = packets[-1].seqnum if packets else 0

                def choose(client: AsyncSeedLink, last: int | None = last) -> None:
                    client.add_stream("XX_ABC", seqnum=last)
                    client.add_stream("XX_DEF", seqnum=last)

                packets += await receive(server.port, version=version, count=40 - len(packets), choose=choose)
            assert server.connections_made > 5
        for original in SEGMENTS:
            assert np.array_equal(joined(packets)[original.channel_id.seed_id], original.samples)

    run(test())


@VERSIONS
@pytest.mark.parametrize("name", ["stall", "hang"])
def test_silence(version: int, name: str) -> None:
    async def test() -> None:
        faults = Faults(stall=at(10)) if name == "stall" else Faults(hang=at(10))
        async with PlaybackServer.play(SEGMENTS, faults=faults, settings=PlaybackSettings(preload_s=ALL)) as server:
            reader, writer = await raw(server.port, version)
            expected = 10 * FRAME_BYTES[version] + (FRAME_BYTES[version] // 2 if name == "hang" else 0)
            await reader.readexactly(expected)
            await server.wait_until(lambda: server.stalled == 1)
            writer.write_eof()  # the client has had enough; what it is still sent would come before the end
            assert await reader.read(-1) == b""
            writer.close()
            await server.wait_until(lambda: server.clients == 0)

    run(test())


@VERSIONS
def test_silence_for_a_while(version: int) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def test() -> None:
        faults = Faults(stall=at(10), stall_s=90.0)
        settings = PlaybackSettings(clock=Clock(sleep=sleep))
        async with PlaybackServer.play(SEGMENTS, faults=faults, settings=settings) as server:
            assert len(await receive(server.port, version=version, count=40)) == 40
        assert slept == [90.0]

    run(test())


@VERSIONS
def test_garble(version: int) -> None:
    async def test() -> None:
        async with PlaybackServer.play(SEGMENTS, faults=Faults(garble=at(10))) as server:
            assert len(await receive(server.port, version=version)) == 10

    run(test())


def test_refused_station() -> None:
    async def test() -> None:
        def choose(client: AsyncSeedLink) -> None:
            client.add_stream("XX_ABC")
            client.add_stream("XX_DEF")

        async with PlaybackServer.play(SEGMENTS, faults=Faults(refuse_stations=("XX_A*",))) as server:
            packets = await receive(server.port, version=3, choose=choose, count=20)
            assert {p.station_id for p in packets} == {"XX_DEF"}
            with pytest.raises(SeedLinkError, match="station not found"):
                await receive(server.port, version=4, choose=choose)

    run(test())


def test_refused_connections() -> None:
    async def test() -> None:
        async with PlaybackServer.play(SEGMENTS, faults=Faults(refuse_connections=2)) as server:
            for _ in range(2):
                with pytest.raises(SeedLinkError):
                    await receive(server.port)
            assert len(await receive(server.port, count=40)) == 40

    run(test())


def test_unanswered_commands() -> None:
    async def test() -> None:
        async with PlaybackServer.play(SEGMENTS, faults=Faults(unanswered=frozenset({"HELLO", "INFO"}))) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"HELLO\rINFO ID\rSTATION ABC XX\rBYE\r")
            assert await reader.read(-1) == b"OK\r\n"
            writer.close()

    run(test())


@VERSIONS
@pytest.mark.parametrize("omit", [False, True])
def test_end_of_dialup(version: int, omit: bool) -> None:
    async def test() -> None:
        settings = PlaybackSettings(preload_s=ALL, faults=Faults(omit_end=omit))
        async with PlaybackServer.play(SEGMENTS, settings=settings) as server:
            reader, writer = await raw(server.port, version, dialup=True)
            await reader.readexactly(40 * FRAME_BYTES[version])
            if omit:
                await server.wait_until(lambda: server.stalled == 1)
                writer.write_eof()
            assert await reader.read(-1) == (b"" if omit else b"END")
            writer.close()

    run(test())


@VERSIONS
def test_trickle(version: int) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    async def test() -> None:
        settings = PlaybackSettings(clock=Clock(sleep=sleep), faults=Faults(trickle_bytes_s=200.0))
        async with PlaybackServer.play(SEGMENTS, settings=settings) as server:
            assert len(await receive(server.port, version=version, count=40)) == 40
        assert set(waited) == {0.1}
        assert sum(waited) >= 40 * FRAME_BYTES[version] / 200

    run(test())
