"""`monitor serve`, the command."""

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from monitor.commands.serve import serve
from monitor.playback.packets import encode
from monitor.records import ChannelId, Segment
from monitor.timebase import parse_time
from tests.seedlink_clients import PATIENCE_S, receive

T0 = parse_time("2024-05-06T07:08:09Z")
SCRIPT = "import typer; from monitor.commands.serve import serve; typer.run(serve)"

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(serve)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    samples = np.random.default_rng(3).integers(-999, 999, 2000, np.int32)
    path = tmp_path / "waves.mseed"
    whole = [Segment(ChannelId("XX", station, "", "HHZ"), T0, 100.0, samples) for station in ("ABC", "DEF")]
    path.write_bytes(b"".join(packet.record for segment in whole for packet in encode(segment)))
    return path


@pytest.fixture
def started(recording: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    arguments = [str(recording), "--port", "0", "--fast", "--cut", "30", "--stations", "XX.A*,DEF"]
    with subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, [process.stdout.readline() for _ in range(4)]
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_says_what_it_serves_and_ends_cleanly(
    number: signal.Signals, started: tuple[subprocess.Popen[str], list[str]]
) -> None:
    process, (first, *rest) = started
    match = re.fullmatch(r"SeedLink 3 and 4 on 127\.0\.0\.1 port (\d+)\n", first)
    assert match is not None
    assert rest == [
        "2 channels of XX.ABC, XX.DEF\n",
        "2024-05-06T07:08:09Z to 2024-05-06T07:08:29Z, as fast as clients take it\n",
        "with faults: cut\n",
    ]
    assert len(asyncio.run(receive(int(match[1])))) == 30
    process.send_signal(number)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert output == "31 packets sent on 1 connections\n"
    assert process.returncode == 0


def test_once_ends_by_itself(recording: Path) -> None:
    result = CliRunner().invoke(app, [str(recording), "--port", "0", "--once", "--preload", "inf"])
    assert (result.exit_code, result.output.splitlines()[-1]) == (0, "0 packets sent on 0 connections")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--once", "--loop"], 2, "exclude each other"),
        (["--speed", "0"], 2, "speed is 0.0; accepted: more than 0"),
        (["--packet", "nan"], 2, "packet_s is nan"),
        (["--cut", "soon"], 2, "--cut: 'soon'; accepted: a packet number such as 50"),
        (["--trickle", "0"], 2, "trickle_bytes_s is 0.0"),
        (["--user", "me"], 2, "--user is not NAME:PASSWORD"),
        (["--tls-key", "key.pem"], 2, "--tls-key needs --tls-cert"),
        (["--tls-cert", "absent.pem"], 2, "--tls-cert, --tls-key: No such file"),
        (["--stations", "ZZ.*"], 1, "no samples to play: nothing matches --stations"),
        (["--host", "203.0.113.1"], 1, "cannot listen on 203.0.113.1 port 18000"),
    ],
)
def test_what_is_wrong_is_said(options: list[str], code: int, message: str, recording: Path) -> None:
    result = CliRunner().invoke(app, [str(recording), *options])
    assert result.exit_code == code
    assert message in result.output


def test_a_file_that_holds_nothing(tmp_path: Path) -> None:
    empty = tmp_path / "empty.mseed"
    empty.touch()
    result = CliRunner().invoke(app, [str(empty)])
    assert result.exit_code == 1
    assert "is empty" in result.output
    assert "no samples to play" in result.output
