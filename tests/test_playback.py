"""The playback server over TCP, as EarthScope's and ObsPy's clients see it."""

import asyncio
import itertools
import shutil
import socket
import ssl
import subprocess
from collections.abc import Coroutine
from pathlib import Path

import numpy as np
import pytest
from pymseed import MS3Record
from seedlink_client import AsyncSeedLink, Protocol, SeedLinkAuthError, SeedLinkError

from monitor.playback.clock import Clock
from monitor.playback.packets import RECORD_BYTES, WirePacket, encode
from monitor.playback.protocol import Access
from monitor.playback.recording import NoDataError, Recording
from monitor.playback.ring import Ring
from monitor.playback.selection import Selection, place
from monitor.playback.server import PlaybackServer, PlaybackSettings, tls_context
from monitor.records import ChannelId, Segment
from monitor.timebase import NS_PER_SECOND, parse_time
from tests.seedlink_clients import PATIENCE_S, joined, receive, segment

T0 = parse_time("2024-05-06T07:08:09.250Z")
ALL = float("inf")


def noise(seed_id: str, *, seconds: float = 20, rate: float = 100.0, start_ns: int = T0, dtype: str = "i4") -> Segment:
    rng = np.random.default_rng(sum(map(ord, seed_id)))
    samples = (1000 * rng.standard_normal(round(seconds * rate))).astype(dtype)
    return Segment(ChannelId(*seed_id.split(".")), start_ns, rate, samples)


THREE = [noise(f"XX.ABC..HH{component}") for component in "ZNE"]
TWO_STATIONS = [*THREE, noise("YY.DEF.00.EHZ", rate=250.0), noise("YY.DEF.10.BHZ", rate=20.0, dtype="f4")]


class FakeClock:
    """A clock that goes on only while somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.clock = Clock(
            lambda: T0 + 10**18 + 123_456_789 + round(self.seconds * 1e9), lambda: self.seconds, self.sleep
        )

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        await asyncio.sleep(0)


def run(test: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(test, PATIENCE_S))


@pytest.mark.parametrize("miniseed", [2, 3])
def test_larger_records_hold_more_and_the_same_samples(miniseed: int) -> None:
    async def test() -> None:
        settings = PlaybackSettings(preload_s=ALL, packet_s=20.0, record_bytes=4096, versions=(4,), miniseed=miniseed)
        sent = list(Recording.from_segments(THREE).packets(20.0, record_bytes=4096))
        assert len(sent) <= 2 * len(THREE)
        async with PlaybackServer.play(THREE, settings=settings) as server:
            found = joined(
                await receive(
                    server.port, count=len(sent), choose=lambda client: client.set_all_stations(all_data=True)
                )
            )
        for one in THREE:
            assert np.array_equal(found[one.channel_id.seed_id], one.samples)

    run(test())


def packet(number: int, seed_id: str = "XX.ABC..HHZ") -> WirePacket:
    (made,) = encode(noise(seed_id, seconds=1, start_ns=T0 + number * NS_PER_SECOND))
    return made


# --- the parts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["i4", "f4", "f8"])
@pytest.mark.parametrize("miniseed", [2, 3])
def test_encoding_keeps_samples_and_times(dtype: str, miniseed: int) -> None:
    original = noise("XX.ABC.00.HHZ", seconds=3, rate=99.5, start_ns=T0 + 123_456_000, dtype=dtype)
    packets = encode(original)
    assert all(len(made.record) == RECORD_BYTES for made in packets)
    records = [MS3Record.parse(made.payload(miniseed), unpack_data=True) for made in packets]
    assert [record.formatversion for record in records] == [miniseed] * len(packets)
    assert np.array_equal(np.concatenate([record.np_datasamples for record in records]), original.samples)
    assert records[0].starttime == original.starttime_ns
    assert {record.samprate for record in records} == {99.5}
    assert packets[-1].next_ns == pytest.approx(original.next_ns, abs=1)
    for made, after in itertools.pairwise(packets):
        assert made.next_ns == pytest.approx(after.starttime_ns, abs=1)


def test_steps_that_steim_cannot_hold_are_sent_uncompressed() -> None:
    samples = np.array([0, 2_000_000_000, -2_000_000_000] * 50, np.int32)
    packets = encode(Segment(ChannelId("XX", "ABC", "", "HHZ"), T0, 100.0, samples))
    records = [MS3Record.parse(made.record, unpack_data=True) for made in packets]
    assert np.array_equal(np.concatenate([record.np_datasamples for record in records]), samples)


def test_codes_that_miniseed_2_cannot_hold_are_refused() -> None:
    with pytest.raises(ValueError, match=r"XX\.TOOLONG\.\.HHZ: cannot be sent"):
        encode(noise("XX.TOOLONG..HHZ"))


def test_pieces_come_in_order_of_time_with_all_samples() -> None:
    gap = noise("XX.ABC..HHZ", seconds=2.5, start_ns=T0 + 60 * NS_PER_SECOND)
    recording = Recording.from_segments([gap, *reversed(TWO_STATIONS)])
    pieces = list(recording.pieces(1.0))
    assert [piece.starttime_ns for piece in pieces] == sorted(piece.starttime_ns for piece in pieces)
    assert all(piece.npts <= round(piece.sampling_rate) for piece in pieces)
    z = [piece for piece in pieces if piece.channel_id == gap.channel_id]
    assert np.array_equal(np.concatenate([p.samples for p in z]), np.concatenate([THREE[0].samples, gap.samples]))
    assert recording.end_ns == gap.next_ns
    assert len(recording.channels) == 5


def test_nothing_to_play() -> None:
    with pytest.raises(NoDataError):
        Recording.from_segments([noise("XX.ABC..HHZ", seconds=0)])


def test_the_ring_forgets_the_oldest_and_knows_it() -> None:
    ring = Ring(10_000, first_sequence=0xFFFFFC)
    for number in range(30):
        ring.append(packet(number))
    assert ring.end == 30
    assert ring.end - ring.first == 10_000 // (RECORD_BYTES + 400)
    assert ring.get(ring.first - 1) is None
    newest = ring.sequence(29)
    assert newest == 0xFFFFFC + 29
    for version in (3, 4):
        asked = newest % (1 << 24) if version == 3 else newest
        assert ring.index_of(asked, version=version) == 29
        assert ring.index_of(asked + 1, version=version) == 30
        assert ring.index_of(asked + 2, version=version) is None
        assert ring.index_of(asked - 20, version=version) is None
    (span,) = ring.spans()
    assert (span.first_sequence, span.last_sequence) == (ring.sequence(ring.first), newest)
    assert span.end_ns == T0 + 30 * NS_PER_SECOND


def test_where_a_client_begins() -> None:
    ring = Ring(1 << 20, first_sequence=100)
    for number in range(20):
        ring.append(packet(number))

    def first(**options: int | bool | None) -> int:
        return place(Selection("*", **options), ring, version=4).first  # type: ignore[arg-type]

    at_5 = T0 + 5 * NS_PER_SECOND
    assert first() == 20
    assert first(everything=True) == 0
    assert first(sequence=105) == 5
    assert first(sequence=99) == 20  # has left the ring: new data only
    assert first(sequence=121) == 20
    assert first(start_ns=at_5) == 5
    assert first(start_ns=at_5 - 1) == 4
    assert first(start_ns=at_5 + 10**12) == 20
    assert first(sequence=106, start_ns=at_5) == 6  # goes on after the packet of that time
    assert first(sequence=112, start_ns=at_5) == 5  # another packet has that number: the time decides
    assert first(sequence=99, start_ns=at_5) == 5
    ring.renumber(1)
    assert first(sequence=6) == 5


# --- over TCP ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("miniseed", [2, 3])
def test_everything_arrives_in_order(version: int, miniseed: int) -> None:
    async def test() -> None:
        settings = PlaybackSettings(miniseed=miniseed)
        async with PlaybackServer.play(TWO_STATIONS, settings=settings) as server:
            total = sum(1 for _ in Recording.from_segments(TWO_STATIONS).packets(1.0))
            packets = await receive(server.port, version=version, count=total)
        samples = joined(packets)
        assert samples.keys() == {original.channel_id.seed_id for original in TWO_STATIONS}
        for original in TWO_STATIONS:
            assert np.array_equal(samples[original.channel_id.seed_id], original.samples)
        assert [p.seqnum for p in packets] == list(range(1, total + 1))
        assert {p.station_id for p in packets} == {"XX_ABC", "YY_DEF"}
        formats = {MS3Record.parse(p.payload).formatversion for p in packets}
        assert formats == {miniseed if version == 4 else 2}
        ends = [segment(p).next_ns for p in packets]
        assert ends == sorted(ends)

    run(test())


def test_a_slow_client_gets_all_of_it_in_a_ring_of_any_size() -> None:
    async def test() -> None:
        long = [noise("XX.ABC..HHZ", seconds=1500)]
        settings = PlaybackSettings(ring_bytes=300_000)  # of 1.4 million
        async with PlaybackServer.play(long, settings=settings) as server:
            packets = await receive(server.port, count=1500)
            assert server.ring.first > 0
        assert np.array_equal(joined(packets)["XX.ABC..HHZ"], long[0].samples)

    run(test())


@pytest.mark.parametrize("version", [3, 4])
def test_two_clients_get_what_each_asks_for(version: int) -> None:
    async def test() -> None:
        settings = PlaybackSettings(wait_for_clients=2)
        async with PlaybackServer.play(TWO_STATIONS, settings=settings) as server:

            def one(client: AsyncSeedLink) -> None:
                client.add_stream("XX_ABC", ["HHZ", "HHN"])

            def other(client: AsyncSeedLink) -> None:
                client.add_stream("YY_*", "!00EHZ" if version == 3 else "!00_*")
                client.add_stream("XX_ABC", "HHE")

            first, second = await asyncio.gather(
                receive(server.port, version=version, choose=one, count=40),
                receive(server.port, version=version, choose=other, count=40, batch=True),
            )
        assert joined(first).keys() == {"XX.ABC..HHZ", "XX.ABC..HHN"}
        assert joined(second).keys() == {"YY.DEF.10.BHZ", "XX.ABC..HHE"}

    run(test())


@pytest.mark.parametrize("version", [3, 4])
def test_resuming_after_a_break_loses_and_repeats_nothing(version: int) -> None:
    async def test() -> None:
        settings = PlaybackSettings(first_sequence=0xFFFFF0)  # numbers of version 3 start again on the way
        async with PlaybackServer.play(THREE, settings=settings) as server:
            packets = await receive(server.port, version=version, count=25)
            for _ in range(5):
                last = packets[-1]

                def resume(client: AsyncSeedLink, last: int | None = last.seqnum) -> None:
                    client.add_stream("XX_ABC", seqnum=last)

                packets += await receive(server.port, version=version, count=7, choose=resume)
        assert len({p.payload for p in packets}) == 60
        assert (packets[16].seqnum == 0) == (version == 3)
        for original in THREE:
            assert np.array_equal(joined(packets)[original.channel_id.seed_id], original.samples)

    run(test())


def test_every_station_has_its_own_place_to_go_on_from() -> None:
    async def test() -> None:
        async with PlaybackServer.play(TWO_STATIONS, settings=PlaybackSettings(preload_s=ALL)) as server:

            def choose(client: AsyncSeedLink) -> None:
                client.add_stream("XX_ABC", seqnum=20)
                client.add_stream("YY_DEF", seqnum=60)

            packets = await receive(server.port, choose=choose, dialup=True)
            numbers = {s: [p.seqnum or 0 for p in packets if p.station_id == s] for s in ("XX_ABC", "YY_DEF")}
            assert min(numbers["XX_ABC"]) in range(21, 30)
            assert min(numbers["YY_DEF"]) in range(61, 70)

    run(test())


@pytest.mark.parametrize("version", [3, 4])
def test_a_time_window_ends_by_itself(version: int) -> None:
    async def test() -> None:
        async with PlaybackServer.play(THREE, settings=PlaybackSettings(preload_s=ALL)) as server:

            def choose(client: AsyncSeedLink) -> None:
                client.add_stream("XX_ABC", "HHZ")
                client.set_timewindow("2024-05-06T07:08:14Z", "2024-05-06T07:08:20Z")

            packets = await receive(server.port, version=version, choose=choose)
        starts = [segment(p).starttime_ns for p in packets]
        assert starts == [T0 + second * NS_PER_SECOND for second in range(4, 11)]

    run(test())


@pytest.mark.parametrize("version", [3, 4])
def test_dialup_ends_with_what_is_held(version: int) -> None:
    async def test() -> None:
        async with PlaybackServer.play(THREE, settings=PlaybackSettings(preload_s=ALL)) as server:
            packets = await receive(
                server.port,
                version=version,
                dialup=True,
                choose=lambda client: client.add_stream("XX_ABC", seqnum=0),
            )
            assert len(packets) == 60
            assert server.requests[0].dialup

    run(test())


def test_v4_gives_everything_held_and_converts_it() -> None:
    async def test() -> None:
        async with PlaybackServer.play(THREE, settings=PlaybackSettings(preload_s=ALL)) as server:
            packets = await receive(
                server.port,
                count=60,
                choose=lambda client: client.add_stream("*", ["_H_H_Z:3", "*:native"], all_data=True),
            )
        assert {(p.payload_format, segment(p).channel_id.channel) for p in packets} == {
            ("3", "HHZ"),
            ("2", "HHN"),
            ("2", "HHE"),
        }

    run(test())


@pytest.mark.parametrize("version", [3, 4])
def test_info(version: int) -> None:
    many = [noise(f"XX.S{number}.00.HHZ", seconds=5) for number in range(40)]  # of version 3: several records

    async def test() -> None:
        async with (
            PlaybackServer.play(many, settings=PlaybackSettings(preload_s=ALL)) as server,
            AsyncSeedLink("127.0.0.1", server.port, protocol=Protocol(str(version))) as client,
        ):
            assert "monitor serve" in await client.info("ID")
            assert "XX" not in await client.info("CAPABILITIES")
            assert "127.0.0.1" in await client.info("CONNECTIONS")
            document = await client.info_dict("STREAMS")
            assert "stream" not in str(await client.info_dict("STATIONS")).replace("stream_check", "")
            if version == 3:
                stations = document["seedlink"]["station"]
                assert stations[7]["network"] == "XX"
                assert int(stations[7]["begin_seq"], 16) in range(1, 41)
                assert stations[7]["stream"] == [
                    {
                        "location": "00",
                        "seedname": "HHZ",
                        "type": "D",
                        "begin_time": "2024/05/06 07:08:09.2500",
                        "end_time": "2024/05/06 07:08:14.2500",
                    }
                ]
            else:
                stations = document["station"]
                assert stations[7]["id"] in {f"XX_S{number}" for number in range(40)}
                assert stations[7]["stream"][0]["start_time"] == "2024-05-06T07:08:09.250000Z"
                assert (await client.info_dict("NONSENSE"))["error"]["code"] == "ARGUMENTS"
            assert len(stations) == 40

    run(test())


def test_info_of_version_4_filters_and_answers_while_streaming() -> None:
    async def test() -> None:
        async with PlaybackServer.play(TWO_STATIONS, settings=PlaybackSettings(preload_s=ALL)) as server:
            async with AsyncSeedLink("127.0.0.1", server.port) as client:
                document = await client.info_dict("STREAMS YY_* *_B_H_Z")
                (station,) = document["station"]
                assert [stream["id"] for stream in station["stream"]] == ["10_B_H_Z"]
                document = await client.info_dict("STATIONS YY_*")
                assert [station["id"] for station in document["station"]] == ["YY_DEF"]
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"SLPROTO 4.0\rSTATION *\rDATA\rEND\rINFO ID\r")
            assert await reader.readexactly(12) == b"OK\r\nOK\r\nOK\r\n"
            assert (await reader.readexactly(17))[:4] == b"SEJI"
            writer.close()

    run(test())


def test_cat() -> None:
    async def test() -> None:
        async with PlaybackServer.play(TWO_STATIONS, settings=PlaybackSettings(preload_s=ALL)) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"CAT\rBYE\r")
            assert (await reader.read()).split() == b"XX ABC Station XX_ABC YY DEF Station YY_DEF END".split()
            writer.close()

    run(test())


@pytest.mark.parametrize("auth", [("me", "secret"), "a.b.c"])
def test_authentication(auth: tuple[str, str] | str) -> None:
    async def test() -> None:
        settings = PlaybackSettings(access=Access(users=(("me", "secret"),), tokens=("a.b.c",)))
        async with PlaybackServer.play(THREE, settings=settings) as server:
            assert len(await receive(server.port, auth=auth, count=60)) == 60
            wrong = ("me", "guess") if isinstance(auth, tuple) else "x.y.z"
            with pytest.raises(SeedLinkAuthError):
                await receive(server.port, auth=wrong)
            assert await receive(server.port) == []  # who does not say gets nothing

    run(test())


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("version", [3, 4])
def test_tls(version: int, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    openssl = shutil.which("openssl")
    assert openssl is not None
    subject = ["-subj", "/CN=localhost", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2"]
    command = [openssl, "req", "-x509", "-nodes", *subject, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)

    async def test() -> None:
        settings = PlaybackSettings(tls=tls_context(certificate, key))
        async with PlaybackServer.play(THREE, settings=settings) as server:
            packets = await receive(server.port, version=version, tls=True, count=60)
            assert len(packets) == 60
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"HELLO\r\n")
            assert not (await reader.read()).startswith(b"SeedLink")
            writer.close()

    run(test())
    with pytest.raises(ssl.SSLError):
        tls_context(key, None)


# --- time --------------------------------------------------------------------------------------------------------


def test_real_time_moved_to_now() -> None:
    async def test() -> None:
        fake = FakeClock()
        settings = PlaybackSettings(shift_to_now=True, wait_for_clients=1, preload_s=5, clock=fake.clock)
        async with PlaybackServer.play(THREE, speed=2.0, settings=settings) as server:
            late: list[float] = []
            async with AsyncSeedLink("127.0.0.1", server.port) as client:
                assert "XX_ABC" in await client.info("STATIONS")  # what is preloaded can be asked for
                client.set_all_stations(all_data=True)
                async for received in client.collect(reconnect=False):
                    late.append(segment(received).next_ns / 1e9 - fake.clock.now_ns() / 1e9)
                    if len(late) == 60:
                        break
            assert server.finished
            assert fake.seconds == pytest.approx((20 - 5) / 2)
            shift = server.ring.spans()[0].start_ns - T0
            assert shift % NS_PER_SECOND == 0
            assert T0 + shift == pytest.approx(T0 + 10**18 - 5e9, abs=1e9)

    run(test())


def test_a_loop_goes_on_in_time() -> None:
    async def test() -> None:
        short = [noise("XX.ABC..HHZ", seconds=3.5)]
        async with PlaybackServer.play(short, settings=PlaybackSettings(loop=True)) as server:
            packets = await receive(server.port, count=12)
        starts = [(segment(p).starttime_ns - T0) / 1e9 for p in packets]
        assert starts == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
        rounds = joined(packets)["XX.ABC..HHZ"].reshape(3, -1)
        assert np.array_equal(rounds[0], rounds[1])

    run(test())


def test_feeding_by_hand() -> None:
    async def test() -> None:
        async with PlaybackServer(None) as server:
            assert server.finished
            client = asyncio.create_task(receive(server.port, count=60))
            await server.wait_until(lambda: bool(server.requests))
            for second in range(20):
                server.feed(
                    Segment(one.channel_id, T0 + second * NS_PER_SECOND, 100.0, one.samples[100 * second :][:100])
                    for one in THREE
                )
            assert np.array_equal(joined(await client)["XX.ABC..HHN"], THREE[1].samples)

    run(test())


def test_stopping_and_starting_again_on_the_same_port() -> None:
    async def test() -> None:
        async with PlaybackServer.play(THREE) as server:
            port = server.port
            first = await receive(port, count=10)
            await server.stop()
            with pytest.raises(SeedLinkError):
                await receive(port)
            await server.restart()
            assert server.port == port
            rest = await receive(port, count=50, choose=lambda c: c.add_stream("XX_ABC", seqnum=first[-1].seqnum))
            await server.wait_until(lambda: server.clients == 0)
        assert np.array_equal(joined(first + rest)["XX.ABC..HHZ"], THREE[0].samples)

    run(test())


def test_dropping_connections() -> None:
    async def test() -> None:
        async with PlaybackServer.play(THREE, settings=PlaybackSettings(preload_s=ALL)) as server:
            client = asyncio.create_task(receive(server.port))
            await server.wait_until(lambda: bool(server.requests))
            server.drop_connections()
            assert await client == []
            await server.wait_until(lambda: server.clients == 0)

    run(test())


def test_a_port_that_is_taken() -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
            async with PlaybackServer.play(THREE, port=taken.getsockname()[1]):
                pass

    run(test())


def test_what_cannot_be_sent_ends_the_server() -> None:
    async def test() -> None:
        with pytest.raises(ValueError, match="TOOLONG"):
            async with PlaybackServer.play([noise("XX.TOOLONG..HHZ")], settings=PlaybackSettings(preload_s=ALL)):
                pass

    run(test())


@pytest.mark.parametrize(
    "options",
    [
        {"speed": 0.0},
        {"speed": float("inf")},
        {"packet_s": 0.0},
        {"packet_s": float("nan")},
        {"record_bytes": 4096},
        {"record_bytes": 1000, "versions": (4,)},
        {"preload_s": -1.0},
        {"wait_for_clients": -1},
        {"ring_bytes": 0},
        {"first_sequence": -1},
        {"miniseed": 4},
        {"versions": ()},
        {"versions": (2,)},
    ],
)
def test_settings_are_checked(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        PlaybackSettings(**options)  # type: ignore[arg-type]


def test_obspy_reads_it() -> None:
    from obspy import UTCDateTime as utc  # noqa: N813
    from obspy.clients.seedlink import basic_client

    def ask(port: int) -> None:
        client = basic_client.Client("127.0.0.1", port, timeout=PATIENCE_S)
        assert client.get_info() == [("XX", "ABC"), ("YY", "DEF")]
        start = utc(T0 / 1e9)
        (trace,) = client.get_waveforms("XX", "ABC", "", "HHZ", start + 5, start + 10)
        first = round((trace.stats.starttime - start) * 100)
        assert np.array_equal(trace.data, THREE[0].samples[first : first + 500])

    async def test() -> None:
        async with PlaybackServer.play(TWO_STATIONS, settings=PlaybackSettings(preload_s=ALL)) as server:
            await asyncio.to_thread(ask, server.port)

    run(test())
