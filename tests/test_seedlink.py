"""The SeedLink source against servers over TCP."""

import asyncio
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from monitor.playback.faults import Faults, When
from monitor.playback.protocol import Access
from monitor.playback.server import PlaybackServer, PlaybackSettings, tls_context
from monitor.records import Packet, Segment
from monitor.sources.seedlink import (
    AuthRefused,
    BadPacket,
    Connected,
    Disconnected,
    HoleInResume,
    Position,
    StationRefused,
)
from monitor.timebase import NS_PER_SECOND
from tests.seedlink_source import PATIENCE_S, T0, Listener, ScriptedServer, noise

VERSIONS = pytest.mark.parametrize("version", ["3", "4"])
THREE = [noise(f"XX.ABC..HH{component}") for component in "ZNE"]
ALL = sum(segment.npts for segment in THREE)


def run(test: Any) -> None:
    asyncio.run(asyncio.wait_for(test, PATIENCE_S))


def serve(*segments: Segment, **options: Any) -> PlaybackServer:
    """A server that holds everything from the start."""
    settings = PlaybackSettings(**{"preload_s": float("inf"), **options})
    return PlaybackServer.play(segments or THREE, settings=settings)


# --- what comes -------------------------------------------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize(
    "stations",
    [["XX.ABC"], ["XX.*"], ["*.A?C.*.HH?"], ["XX.ABC..HHZ", "XX.ABC.--.HH[NE]*", "XX.ABC.*.?HN", "XX.ABC.*.HHE"]],
)
def test_everything_arrives(version: str, stations: list[str]) -> None:
    async def test() -> None:
        async with serve() as server:
            listener = Listener(server.port, version=version, stations=stations)
            await listener.until(lambda: listener.npts >= ALL)
            listener.assert_received(*THREE)
            assert {packet.server for packet in listener.packets} == {"here"}
            assert {packet.station_id for packet in listener.packets} == {"XX.ABC"}
            assert listener.packets[0].received_ns == T0
            assert listener.packets[0].nbytes == 512
            assert [event.protocol for event in listener.told(Connected)] == [version]

    run(test())


def test_packets_of_miniseed_3() -> None:
    async def test() -> None:
        async with serve(miniseed=3) as server:
            listener = Listener(server.port)
            await listener.until(lambda: listener.npts >= ALL)
            listener.assert_received(*THREE)

    run(test())


@pytest.mark.parametrize(
    ("versions", "wanted", "expected"), [((3, 4), "auto", "4"), ((3,), "auto", "3"), ((4,), "auto", "4")]
)
def test_the_newest_version_that_the_server_speaks(versions: tuple[int, ...], wanted: str, expected: str) -> None:
    async def test() -> None:
        async with serve(versions=versions) as server:
            listener = Listener(server.port, version=wanted)
            await listener.until(lambda: listener.npts >= ALL)
            assert listener.told(Connected)[0].protocol == expected

    run(test())


def test_a_version_that_the_server_does_not_speak() -> None:
    async def test() -> None:
        async with serve(versions=(3,)) as server:
            listener = Listener(server.port, version="4")
            await listener.until(lambda: len(listener.reasons) >= 2)
            assert set(listener.reasons) == {"protocol"}
            assert listener.waits[0] <= 2.0

    run(test())


@VERSIONS
def test_only_wanted_channels_that_measure_the_ground(version: str) -> None:
    async def test() -> None:
        others = [noise("XX.ABC..LDO", rate=1.0), noise("XX.ABC.00.HHZ"), noise("XX.DEF..HHZ")]
        async with serve(*THREE, *others) as server:
            listener = Listener(server.port, version=version, stations=["XX.ABC..*"])
            await listener.until(lambda: listener.npts >= ALL)
            await server.wait_played()
            listener.assert_received(*THREE)

    run(test())


@VERSIONS
@pytest.mark.needs("openssl")
def test_tls_with_an_authority_of_ones_own(version: str, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    openssl = shutil.which("openssl")
    assert openssl is not None
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-newkey", "rsa:2048"]
    command = [openssl, "req", "-x509", "-nodes", *subject, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)

    async def test() -> None:
        async with serve(tls=tls_context(certificate, key)) as server:
            listener = Listener(server.port, version=version, tls=True, ca_file=str(certificate))
            await listener.until(lambda: listener.npts >= ALL)
            listener.assert_received(*THREE)
            stranger = Listener(server.port, version=version, tls=True)
            await stranger.until(lambda: bool(stranger.reasons))
            assert set(stranger.reasons) == {"tls"}
            lost = Listener(server.port, version=version, tls=True, ca_file=str(tmp_path / "none.pem"))
            await lost.until(lambda: bool(lost.reasons))
            assert set(lost.reasons) == {"tls"}

    run(test())


# --- login ------------------------------------------------------------------------------------------------------------


def test_logins(tmp_path: Path) -> None:
    password, token = tmp_path / "password", tmp_path / "token"
    password.write_text("open sesame\n".replace(" ", "-"))
    token.write_text("a.b.c\n")

    async def test() -> None:
        access = Access(users=(("ali", "open-sesame"),), tokens=("a.b.c",))
        async with serve(access=access) as server:
            by_name = Listener(server.port, user="ali", password_file=str(password))
            await by_name.until(lambda: by_name.npts >= ALL)
            by_token = Listener(server.port, token_file=str(token))
            await by_token.until(lambda: by_token.npts >= ALL)

    run(test())


def test_a_refused_login_is_told_once_and_tried_again_slowly(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("wrong-one")

    async def test() -> None:
        async with serve(access=Access(users=(("ali", "open-sesame"),))) as server:
            listener = Listener(server.port, user="ali", password_file=str(password), auth_retry_s=321.0)
            await listener.until(lambda: len(listener.waits) >= 4)
            assert listener.waits[:4] == [321.0] * 4
            assert set(listener.reasons) == {"auth"}
            assert len(listener.told(AuthRefused)) == 1
            assert "wrong-one" not in str(listener.events)
            password.write_text("open-sesame")
            await listener.until(lambda: listener.npts >= ALL)
            listener.assert_received(*THREE)

    run(test())


@VERSIONS
def test_a_login_that_is_missing(version: str) -> None:
    async def test() -> None:
        async with serve(access=Access(users=(("ali", "open-sesame"),))) as server:
            listener = Listener(server.port, version=version)
            await listener.until(lambda: bool(listener.waits))
            assert set(listener.reasons) == {"auth"}
            assert set(listener.waits) == {900.0}

    run(test())


@pytest.mark.parametrize("content", [None, "", "two words"])
def test_a_password_that_cannot_be_used(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "password"
    if content is not None:
        path.write_text(content)

    async def test() -> None:
        listener = Listener(1, user="ali", password_file=str(path))
        await listener.until(lambda: bool(listener.waits))
        assert set(listener.reasons) == {"auth"}
        assert "words" not in str(listener.events)

    run(test())


def test_a_secret_that_the_server_repeats_is_not_told(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("a-very-long-password")

    def script(_number: int, line: str) -> bytes:
        if line == "HELLO":
            return b"SeedLink v3.1 :: SLPROTO:3.1\r\nx\r\n"
        return f"ERROR UNSUPPORTED Unrecognized command: {line[:25]}\r\n".encode()

    async def test() -> None:
        async with ScriptedServer(script) as server:
            listener = Listener(server.port, user="ali", password_file=str(path))
            await listener.until(lambda: bool(listener.waits))
            assert set(listener.reasons) == {"auth"}
            assert any("a-very-long-password" in line for line in server.lines)
            assert "a-ver" not in str(listener.events)

    run(test())


# --- stations ---------------------------------------------------------------------------------------------------------


@VERSIONS
def test_a_refused_station_is_told_once_and_the_others_stream(version: str) -> None:
    async def test() -> None:
        faults = Faults(refuse_stations=("XX_NOPE",), cut=When(at=frozenset({5, 20})))
        async with serve(faults=faults) as server:
            listener = Listener(server.port, version=version, stations=["XX.NOPE", "XX.ABC"])
            await listener.until(lambda: listener.npts >= ALL)
            listener.assert_received(*THREE)
            assert [event.station for event in listener.told(StationRefused)] == ["XX.NOPE"]
            assert listener.reasons == ["closed", "closed"]

    run(test())


@VERSIONS
def test_no_station_at_all(version: str) -> None:
    async def test() -> None:
        async with serve(faults=Faults(refuse_stations=("XX_*",))) as server:
            listener = Listener(server.port, version=version)
            await listener.until(lambda: len(listener.reasons) >= 3)
            assert set(listener.reasons) == {"stations"}
            assert len(listener.told(StationRefused)) == 1

    run(test())


@VERSIONS
def test_wildcards_that_the_server_refuses_are_looked_up(version: str) -> None:
    async def test() -> None:
        other = noise("YY.DEF..HHZ")
        async with serve(*THREE, other, faults=Faults(refuse_stations=("XX_[*]",))) as server:
            listener = Listener(server.port, version=version, stations=["XX.*"])
            await listener.until(lambda: listener.npts >= ALL)
            listener.assert_received(*THREE)
            assert [s.stations for s in server.requests[-1].selections] == ["XX_ABC"]

    run(test())


# --- faults -----------------------------------------------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize("stations", [["XX.ABC", "YY.DEF"], ["*.*"]])
@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        (Faults(cut=When(every=11)), "closed"),
        (Faults(garble=When(at=frozenset({9, 30}))), None),
        (Faults(reset=When(at=frozenset({10, 33}))), "closed"),
        (Faults(refuse_connections=3), "closed"),
    ],
)
def test_nothing_is_lost_or_doubled(version: str, stations: list[str], faults: Faults, reason: str | None) -> None:
    async def test() -> None:
        other = noise("YY.DEF..HHZ", seconds=15, start_ns=T0 + 3 * NS_PER_SECOND)
        settings = PlaybackSettings(faults=faults, wait_for_clients=1)
        async with PlaybackServer.play([*THREE, other], settings=settings) as server:
            listener = Listener(server.port, version=version, stations=stations, backlog_s=3600.0)
            await listener.until(lambda: listener.npts >= ALL + other.npts)
            listener.assert_received(*THREE, other)
            assert not listener.told(HoleInResume)
            if reason is not None:
                assert set(listener.reasons) == {reason}

    run(test())


def test_version_3_numbers_begin_again() -> None:
    async def test() -> None:
        faults = Faults(cut=When(every=5))
        async with serve(faults=faults, first_sequence=0xFFFFE0) as server:
            listener = Listener(server.port, version="3")
            await listener.until(lambda: listener.npts >= ALL)
            listener.assert_received(*THREE)
            sequences = [packet.sequence for packet in listener.packets]
            assert 0xFFFFFF in sequences
            assert 0 in sequences

    run(test())


@VERSIONS
@pytest.mark.parametrize("fault", ["stall", "hang"])
def test_a_connection_that_dies_is_given_up_even_within_a_packet(version: str, fault: str) -> None:
    async def test() -> None:
        # A server that hangs within a packet answers nothing either.
        at, never = When(at=frozenset({10})), When()
        stall, hang = (at, never) if fault == "stall" else (never, at)
        faults = Faults(stall=stall, hang=hang, unanswered=frozenset({"INFO"}))
        async with serve(faults=faults) as server:
            listener = Listener(server.port, version=version, stall_timeout_s=1.0)
            await listener.until(lambda: listener.npts >= ALL)
            listener.assert_received(*THREE)
            assert listener.reasons == ["stall"]
            assert ("into a packet" in listener.told(Disconnected)[0].detail) == (fault == "hang")

    run(test())


@VERSIONS
def test_a_silent_server_that_answers_is_left_alone(version: str) -> None:
    async def test() -> None:
        async with serve() as server:
            first = Listener(server.port, version=version, stall_timeout_s=1.0, keepalive_s=0.2)

            async def later() -> None:
                await server.wait_played()
                await asyncio.sleep(2.2)  # more than twice the time after which silence is a stall
                server.feed([noise("XX.ABC..HHZ", seconds=1, start_ns=THREE[0].next_ns)])

            feeding = asyncio.create_task(later())
            await first.until(lambda: first.npts >= ALL + 100)
            await feeding
            assert not first.reasons

    run(test())


def test_time_that_the_consumer_takes_is_no_stall() -> None:
    async def test() -> None:
        async with serve() as server:
            listener = Listener(server.port, stall_timeout_s=1.0)
            put = listener.put

            async def slow(packet: Packet) -> None:
                await put(packet)
                if listener.npts == ALL:
                    await asyncio.sleep(1.5)
                    asyncio.get_running_loop().call_later(0.1, server.feed, [more])

            more = noise("XX.ABC..HHZ", seconds=1, start_ns=THREE[0].next_ns)
            listener.put = slow
            await listener.until(lambda: listener.npts >= ALL + 100)
            assert not listener.reasons

    run(test())


@pytest.mark.parametrize("silent", ["HELLO", "SLPROTO", "STATION", "DATA"])
def test_a_server_that_does_not_answer(silent: str) -> None:
    async def test() -> None:
        async with serve(faults=Faults(unanswered=frozenset({silent}))) as server:
            listener = Listener(server.port, connect_timeout_s=0.1)
            await listener.until(lambda: bool(listener.reasons))
            assert set(listener.reasons) == {"timeout"}

    run(test())


def test_no_server_and_no_such_name() -> None:
    async def test() -> None:
        async with ScriptedServer(lambda _number, _line: None) as server:
            port = server.port
        listener = Listener(port)
        await listener.until(lambda: len(listener.reasons) >= 3)
        assert set(listener.reasons) == {"refused"}
        nowhere = Listener(port, host="nowhere.invalid")
        await nowhere.until(lambda: bool(nowhere.reasons))
        assert set(nowhere.reasons) == {"dns"}

    run(test())


def test_waits_grow_and_begin_again_when_data_flow() -> None:
    async def test() -> None:
        async with serve(faults=Faults(refuse_connections=8, cut=When(at=frozenset({20})))) as server:
            listener = Listener(server.port, backoff_s=1.0, backoff_max_s=16.0)
            await listener.until(lambda: listener.npts >= ALL)
            limits = [2, 4, 8, 16, 32, 32, 32, 32, 2]
            assert len(listener.waits) == len(limits)
            assert all(wait <= limit for wait, limit in zip(listener.waits, limits, strict=True))
            assert max(listener.waits) > 2

    run(test())


@VERSIONS
def test_a_damaged_packet_is_told_and_the_stream_goes_on(version: str) -> None:
    async def test() -> None:
        faults = Faults(corrupt=When(at=frozenset({4})))
        async with serve(faults=faults, miniseed=3) as server:
            listener = Listener(server.port, version=version)
            await listener.until(lambda: listener.npts >= ALL - 100)
            assert len(listener.told(BadPacket)) == 1
            assert listener.told(BadPacket)[0].station == "XX.ABC"
            assert not listener.reasons

    run(test())


def test_what_is_no_seedlink() -> None:
    async def test() -> None:
        async with ScriptedServer(lambda _number, _line: b"HTTP/1.1 400 Bad Request\r\nX: y\r\n\r\n") as server:
            listener = Listener(server.port)
            await listener.until(lambda: bool(listener.reasons))
            assert set(listener.reasons) == {"protocol"}

    run(test())


def test_the_unexpected_is_not_caught() -> None:
    async def test() -> None:
        async with serve() as server:
            listener = Listener(server.port)
            put = listener.put

            async def broken(packet: Packet) -> None:
                if len(listener.packets) == 5:
                    raise ZeroDivisionError
                await put(packet)

            listener.put = broken
            with pytest.raises(ZeroDivisionError):
                await listener.until(lambda: False)
            # What put did not take counts as not received.
            listener.put = put
            await listener.until(lambda: listener.npts >= ALL)
            listener.assert_received(*THREE)

    run(test())


# --- where it goes on -------------------------------------------------------------------------------------------------


@VERSIONS
def test_without_a_position_some_backlog_is_asked_for(version: str) -> None:
    async def test() -> None:
        async with serve() as server:
            listener = Listener(server.port, version=version, backlog_s=8.0, now_ns=T0 + 20 * NS_PER_SECOND)
            await listener.until(lambda: listener.npts >= 3 * 800)
            assert T0 + 11 * NS_PER_SECOND <= listener.packets[0].segments[0].starttime_ns <= T0 + 12 * NS_PER_SECOND
            (selection,) = server.requests[-1].selections
            assert selection.start_ns is not None
            assert selection.start_ns // NS_PER_SECOND == (T0 + 12 * NS_PER_SECOND) // NS_PER_SECOND

    run(test())


@VERSIONS
def test_a_restart_goes_on_by_number_and_time_at_the_same_server(version: str) -> None:
    async def test() -> None:
        async with serve() as server:
            needed_ns = T0 + 10 * NS_PER_SECOND
            position = Position("XX.ABC", "here", 30, needed_ns)
            listener = Listener(server.port, version=version, positions=[position])
            await listener.until(lambda: listener.npts >= 3 * 1000)
            listener.assert_received(*(noise_after(segment, needed_ns) for segment in THREE))
            assert server.requests[-1].selections[0].sequence == 30
            assert not listener.told(HoleInResume)

    run(test())


@VERSIONS
def test_a_restart_goes_on_by_time_at_another_server(version: str) -> None:
    async def test() -> None:
        async with serve() as server:
            needed_ns = T0 + 10 * NS_PER_SECOND
            position = Position("XX.ABC", "elsewhere", 30, needed_ns)
            listener = Listener(server.port, version=version, positions=[position])
            await listener.until(lambda: listener.npts >= 3 * 1000)
            listener.assert_received(*(noise_after(segment, needed_ns) for segment in THREE))
            assert server.requests[-1].selections[0].sequence is None

    run(test())


@VERSIONS
def test_what_the_server_no_longer_has_is_told_as_a_hole(version: str) -> None:
    async def test() -> None:
        async with serve() as server:
            position = Position("XX.ABC", "here", 12, T0 - 60 * NS_PER_SECOND)
            listener = Listener(server.port, version=version, positions=[position])
            await listener.until(lambda: listener.npts >= ALL)
            assert listener.told(HoleInResume) == [HoleInResume("here", "XX.ABC", T0 - 60 * NS_PER_SECOND, T0)]

    run(test())


def noise_after(segment: Segment, start_ns: int) -> Segment:
    first = round((start_ns - segment.starttime_ns) * segment.sampling_rate / NS_PER_SECOND)
    return Segment(segment.channel_id, start_ns, segment.sampling_rate, segment.samples[first:])
