"""`monitor streams`: the parsing of INFO, and the command against a server."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from monitor.commands.streams import streams
from monitor.playback.faults import Faults
from monitor.playback.server import PlaybackServer, PlaybackSettings
from monitor.records import ChannelId, Segment
from monitor.settings import SeedLinkSettings
from monitor.sources.seedlink_wire import parse_info
from monitor.streams import StreamRow, collect_streams, parse_streams
from monitor.timebase import NS_PER_SECOND, parse_time
from tests.seedlink_source import T0, ScriptedServer, noise

SEISCOMP = """<?xml version="1.0"?>
<seedlink software="SeedLink v3.3 (2021.250)" organization="GEOFON" started="2024/01/01 00:00:00.0000">
 <station name="APE" network="GE" description="Apirathos" begin_seq="1" end_seq="2" stream_check="enabled">
  <stream location="" seedname="BHZ" type="D"
   begin_time="2024/05/05 03:34:56.0695" end_time="2024/05/06 07:08:09.1234"/>
  <stream location="00" seedname="BHE" type="D" begin_time="" end_time="nonsense"/>
  <stream location="--" seedname="BHN" type="D" begin_time="2024-05-05T03:34:56Z" end_time="2024-05-06T07:08:09Z"/>
  <stream location="" seedname="LOG" type="L" begin_time="2024/05/05 03:34:56" end_time="2024/05/06 07:08:09"/>
  <stream/>
 </station>
 <station name="EMPTY" network="GE"/>
</seedlink>"""

RINGSERVER = {
    "station": [
        {
            "id": "XX_B_C",
            "stream": [
                {"id": "00_H_H_Z", "format": "2", "subformat": "D", "start_time": "2024-05-06T00:00:00.5Z"},
                {"id": "00_H_H_Z", "format": "3", "subformat": "D", "end_time": "2024-05-07T00:00:00.000000Z"},
                {"id": "_VM_X_1", "format": "3", "subformat": "D", "start_time": 7},
                {"id": "what", "format": "?"},
                "nonsense",
            ],
        },
        7,
    ]
}


def test_info_of_version_3() -> None:
    rows = parse_streams(parse_info(SEISCOMP, "3"), "3")
    assert rows == [
        StreamRow(
            ChannelId("GE", "APE", "", "BHN"), parse_time("2024-05-05T03:34:56Z"), parse_time("2024-05-06T07:08:09Z")
        ),
        StreamRow(
            ChannelId("GE", "APE", "", "BHZ"),
            parse_time("2024-05-05T03:34:56.0695Z"),
            parse_time("2024-05-06T07:08:09.1234Z"),
        ),
        StreamRow(ChannelId("GE", "APE", "00", "BHE"), None, None),
    ]


def test_info_of_version_4() -> None:
    assert parse_streams(RINGSERVER, "4") == [
        StreamRow(ChannelId("XX", "B_C", "", "VM_X_1"), None, None),
        StreamRow(ChannelId("XX", "B_C", "00", "HHZ"), parse_time("2024-05-06T00:00:00.5Z"), parse_time("2024-05-07")),
    ]


@pytest.mark.parametrize("content", [{}, {"station": None}, {"station": {}}, {"station": [{"id": 1, "stream": 2}]}])
def test_info_that_makes_no_sense(content: dict[str, Any]) -> None:
    assert parse_streams(content, "3") == []
    assert parse_streams(content, "4") == []


@contextmanager
def serving(*segments: Segment, **options: Any) -> Iterator[int]:
    """A server in a thread of its own, as the command runs a loop of its own."""
    ready, port, loop = threading.Event(), 0, asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        nonlocal port
        settings = PlaybackSettings(preload_s=float("inf"), **options)
        async with PlaybackServer.play(segments, settings=settings) as server:
            port = server.port
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(60)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def command(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(streams)
    return CliRunner().invoke(app, list(arguments))


SEGMENTS = [noise("XX.ABC..HHZ"), noise("XX.ABC.00.BHN", rate=20.0), noise("YY.DEF..LDO", rate=1.0)]


@pytest.mark.parametrize("version", ["3", "4"])
def test_the_table(version: str) -> None:
    with serving(*SEGMENTS) as port:
        result = command(f"127.0.0.1:{port}", "--version", version)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines() if ".ABC" in line or ".DEF" in line]
    assert [row[:3] for row in rows] == [["XX.ABC", "--", "HHZ"], ["XX.ABC", "00", "BHN"], ["YY.DEF", "--", "LDO"]]
    assert [row[-2:] for row in rows] == [["100", "Hz"], ["20", "Hz"], ["1", "Hz"]]
    assert rows[0][3] == "2024-05-06T07:08:09.3Z"
    assert f"SeedLink {version}" in result.stderr


@pytest.mark.parametrize("version", ["3", "4"])
def test_json(version: str) -> None:
    with serving(*SEGMENTS) as port:
        result = command(f"127.0.0.1:{port}", "--version", version, "--json")
        deaf = command(f"127.0.0.1:{port}", "--version", version, "--json", "--listen", "0")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["protocol"] == version
    first = content["streams"][0]
    assert first.pop("latency_s") > 0
    assert parse_time(first.pop("last")) > parse_time(first["first"])
    assert first == {
        "seed_id": "XX.ABC..HHZ",
        "station": "XX.ABC",
        "location": "",
        "channel": "HHZ",
        "first": "2024-05-06T07:08:09.250000Z",
        "sampling_rate": 100.0,
    }
    assert {row["sampling_rate"] for row in json.loads(deaf.stdout)["streams"]} == {None}


def test_latency() -> None:
    async def test() -> None:
        async with PlaybackServer.play(SEGMENTS, settings=PlaybackSettings(preload_s=float("inf"))) as server:
            settings = SeedLinkSettings(host="127.0.0.1", port=server.port, stations=["*.*"])
            listing = await collect_streams(settings, listen_s=5.0, clock=lambda: T0 + 60 * NS_PER_SECOND)
        latency_s = listing.rows[0].latency_s
        assert latency_s is not None
        assert 40 <= latency_s <= 40.02

    asyncio.run(test())


@pytest.mark.parametrize(
    "arguments",
    [["a b"], [""], ["host:port"], ["host:70000"], ["[::1"], ["host", "--timeout", "-1"], ["host", "--user", "me"]],
)
def test_wrong_usage(arguments: list[str]) -> None:
    result = command(*arguments)
    assert result.exit_code == 2
    assert "accepted" in result.stderr or "password_file" in result.stderr


def test_a_server_that_is_not_there() -> None:
    async def free() -> int:
        async with ScriptedServer(lambda _number, _line: None) as server:
            return server.port

    result = command(f"127.0.0.1:{asyncio.run(free())}")
    assert result.exit_code == 75
    assert "Connect call failed" in result.stderr


def test_a_server_without_data() -> None:
    with serving(noise("XX.ABC..HHZ", seconds=1), faults=Faults()) as port:
        assert command(f"127.0.0.1:{port}").exit_code == 0

    async def empty() -> int:
        async with PlaybackServer(None) as server:
            result = await asyncio.to_thread(command, f"127.0.0.1:{server.port}")
        assert "has no data" in result.stderr
        return int(result.exit_code)

    assert asyncio.run(empty()) == 1


def test_a_refused_login(tmp_path: Any) -> None:
    path = tmp_path / "password"
    path.write_text("secret-one")
    with serving(*SEGMENTS) as port:
        result = command(f"127.0.0.1:{port}", "--user", "me", "--password-file", str(path))
    assert result.exit_code == 1
    assert "secret-one" not in result.output
