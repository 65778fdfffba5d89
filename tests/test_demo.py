"""The live demo: its parts, and the whole of it as a person runs it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from monitor.cli import application
from monitor.config import read_settings
from monitor.demo import ports, recording, words
from monitor.demo.children import environment
from monitor.demo.screen import Line, Part, Screen, line
from monitor.demo.settings import settings_text
from monitor.demo.tally import AGREE_NS, Tally, expected_and_found
from monitor.demo.usage import Usage, sums, usage_of
from monitor.playback.packets import encode
from monitor.playback.recording import Recording
from monitor.records import ChannelId, Detection, ModelRef, Reason, Segment, State
from monitor.sources.files import FileSource
from monitor.timebase import NS_PER_SECOND, format_time
from tests.waveforms import T0, earthquake, segments

PATIENCE_S = 300.0
STATIONS = {"BW.UH1": ["BW.UH1..SHZ"], "BW.UH3": ["BW.UH3..SHZ", "BW.UH3..SHN", "BW.UH3..SHE"]}


def detection(
    station: str, onset_s: float, *, revision: int = 0, state: State = "new", name: str | None = None
) -> Detection:
    onset_ns = T0 + round(onset_s * NS_PER_SECOND)
    return Detection(
        id=name or f"{station}-{onset_s}",
        revision=revision,
        state=state,
        station=station,
        seed_ids=[f"{station}..SHZ"],
        onset=format_time(onset_ns),
        onset_uncertainty_s=0.1,
        end=None,
        phase="P",
        s_onset=format_time(onset_ns + 1_150_000_000),
        probability=0.97,
        snr_db=None,
        peak_counts=100.0,
        dominant_hz=12.0,
        data_complete=1.0,
        origin="live",
        decided_at=format_time(onset_ns + 1_900_000_000),
        latency_s=1.9,
        model=ModelRef("seismic", "1", "0"),
        reason=Reason(0.5, 0.97, 0.9, 0.9, 3.0, {}),
    )


def tally_of(*detections: Detection) -> Tally:
    tally = Tally()
    for one in detections:
        tally.add(one, delay_s=0.02)
    return tally


class TestRecording:
    def test_the_shipped_recordings_are_found_without_loading_obspy(self) -> None:
        code = (
            "import sys; from monitor.demo.recording import shipped_files\n"
            "print(len(shipped_files())); sys.exit(int('obspy' in sys.modules))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "6\n"), "one of a channel each"

    @given(
        span_s=st.floats(1.0, 40_000.0),
        speed=st.floats(1.0, 1000.0),
        share=st.floats(0.0, 1.0),
        now_ns=st.integers(10**18, 2 * 10**18),
    )
    def test_nothing_is_ever_played_before_it_happened(
        self, span_s: float, speed: float, share: float, now_ns: int
    ) -> None:
        end_ns = T0 + round(span_s * NS_PER_SECOND)
        whole = Recording([], (), T0, end_ns)
        shift_ns = recording.shift_to_end_now(whole, speed=speed, now_ns=now_ns)
        assert shift_ns % NS_PER_SECOND == 0
        played_ns = now_ns + round(share * span_s / speed * NS_PER_SECOND)
        sample_ns = T0 + shift_ns + round(share * span_s * NS_PER_SECOND)
        assert sample_ns <= played_ns + 1000
        # At the end it is now, to the whole second.
        assert now_ns + round(span_s / speed * NS_PER_SECOND) - (end_ns + shift_ns) < NS_PER_SECOND + 1000

    def test_what_is_written_is_what_was_recorded_at_another_time(self, tmp_path: Path) -> None:
        samples = np.random.default_rng(0).integers(-999, 999, (3, 730), np.int32)
        whole = [
            Segment(ChannelId("XX", "A", "", f"HH{code}"), T0 + 10_000_000 * n, 100.0, samples[n])
            for n, code in enumerate("ZNE")
        ]
        *_, played = recording.write_moved(
            Recording.from_segments(whole), tmp_path / "moved.mseed", shift_ns=5 * NS_PER_SECOND
        )
        assert played is not None
        assert played.stations == {"XX.A": ["XX.A..HHE", "XX.A..HHN", "XX.A..HHZ"]}
        assert played.first_ns == T0 + 5 * NS_PER_SECOND
        for segment in whole:
            source = FileSource([str(played.path)], on_problem=lambda problem: pytest.fail(str(problem)))
            again = [s for s in source if s.channel_id == segment.channel_id]
            assert again[0].starttime_ns == segment.starttime_ns + 5 * NS_PER_SECOND
            assert np.array_equal(np.concatenate([s.samples for s in again]), segment.samples)
            assert played.ends_ns[segment.channel_id] == again[-1].next_ns

    def test_more_than_half_a_day_is_no_demo(self, tmp_path: Path) -> None:
        path = tmp_path / "long.mseed"
        samples = np.arange(100, dtype=np.int32)
        ends = [
            Segment(ChannelId("XX", "A", "", "HHZ"), T0 + h * 3600 * NS_PER_SECOND, 100.0, samples) for h in (0, 13)
        ]
        path.write_bytes(b"".join(packet.record for segment in ends for packet in encode(segment)))
        with pytest.raises(recording.RecordingError, match=r"13\.0 h; accepted: up to 12 h"):
            recording.open_recording([str(path)], on_problem=lambda problem: pytest.fail(str(problem)))


class TestTally:
    def test_what_two_stations_hear_is_one_earthquake(self) -> None:
        tally = tally_of(detection("BW.UH1", 30.2), detection("BW.UH3", 30.0), detection("BW.UH1", 200.0))
        first, second = tally.earthquakes()
        assert list(first.heard) == ["BW.UH3", "BW.UH1"]
        assert first.onset_ns == T0 + 30 * NS_PER_SECOND
        assert (first.is_confirmed, second.is_confirmed) == (True, False)
        assert expected_and_found([first, second], [*STATIONS, "BW.UH4"]) == (3, 2)

    def test_a_station_has_one_part_in_an_earthquake_and_stations_far_apart_in_time_have_none(self) -> None:
        seconds = AGREE_NS / NS_PER_SECOND
        assert len(tally_of(detection("BW.UH1", 30.0), detection("BW.UH1", 32.0)).earthquakes()) == 2
        assert len(tally_of(detection("BW.UH1", 30.0), detection("BW.UH3", 30.0 + seconds)).earthquakes()) == 1
        assert len(tally_of(detection("BW.UH1", 30.0), detection("BW.UH3", 30.1 + seconds)).earthquakes()) == 2

    def test_revisions(self) -> None:
        first = detection("BW.UH1", 30.0, name="a")
        final = detection("BW.UH1", 30.5, name="a", revision=2, state="final")
        tally = tally_of(first, final)
        assert not tally.add(first, delay_s=None)
        assert (tally.repeated, tally.states, tally.open) == (1, {"new": 1, "final": 1}, [])
        (earthquake,) = tally.earthquakes()
        assert earthquake.heard["BW.UH1"].last is final
        assert earthquake.onset_ns == T0 + 30_500_000_000
        tally.add(detection("BW.UH1", 30.5, name="a", revision=3, state="retracted"), delay_s=None)
        assert tally.earthquakes() == []
        assert tally.earthquake_of(first) is None

    def test_what_is_forgotten_leaves_the_numbers_as_they_were(self) -> None:
        early, late = detection("BW.UH1", 30.0), detection("BW.UH1", 200.0)
        tally = tally_of(early, late)
        tally.forget(before_ns=T0 + 100 * NS_PER_SECOND)
        assert tally.earthquake_of(early) is None
        found = tally.earthquake_of(late)
        assert found is not None
        assert found[0] == 2
        assert tally.detections == 1


class TestWords:
    def facts(self, **changes: Any) -> words.Facts:
        facts = words.Facts(
            shift_ns=0, span_s=230.0, speed=6.0, played_s=38.0, packets=100, messages={"detection": 3, "status": 1},
            metrics={"monitor_packets_total": 100.0}, usage=Usage(96 * 2**20, 3.21), ran_s=44.0,
        )  # fmt: skip
        return facts._replace(**changes)

    def text(self, lines: list[Line]) -> str:
        return "\n".join("".join(part.text for part in one) for one in lines)

    def test_the_summary_says_who_did_not_hear_it(self) -> None:
        tally = tally_of(detection("BW.UH1", 30.2), detection("BW.UH3", 30.0), detection("BW.UH3", 99.0))
        text = self.text(words.summary(tally, {**STATIONS, "BW.UH4": ["BW.UH4..EHZ"]}, self.facts()))
        assert "heard at 2 of 3 stations" in text
        assert "BW.UH4    not heard" in text
        assert "1 earthquake on which two stations or more agree: 3 detections to be expected" in text
        assert "2 found" in text
        assert "heard at one station alone: 1 detection" in text
        assert "96 MiB of memory at most, 3.2 s of processor time" in text

    def test_the_summary_of_nothing(self) -> None:
        text = self.text(words.summary(Tally(), STATIONS, self.facts(metrics={}, usage=Usage(None, None))))
        assert "no earthquake" in text
        assert "100 packets, - received, - odd" in text
        assert "- of memory at most, - of processor time" in text

    def test_one_station_has_nobody_to_ask(self) -> None:
        text = self.text(words.summary(tally_of(detection("BW.UH1", 30.0)), {"BW.UH1": ["BW.UH1..SHZ"]}, self.facts()))
        assert "1 earthquake at the one station" in text

    def test_a_code_cannot_steer_the_terminal(self) -> None:
        one = words.row(detection("BW.\x1b[2J", 30.0), elapsed_s=61.0, delay_s=0.021)
        text = self.text([one])
        assert "\x1b" not in text
        assert text.startswith("  1:01  new 0")
        assert " 1.15   0.97    1.9 s     21 ms" in text

    def test_channels(self) -> None:
        assert words.channels_of(STATIONS["BW.UH3"]) == "SH[ZNE]"
        assert words.channels_of(["BW.UH3.00.SHE", "BW.UH3.00.SHZ"]) == "00.SH[ZE]"
        assert words.channels_of(["BW.UH1..SHZ"]) == "SHZ"


class TestParts:
    def test_the_settings_are_accepted_and_change_only_what_they_must(self, tmp_path: Path) -> None:
        path = tmp_path / "monitor.toml"
        path.write_text(settings_text(seedlink=1, mqtt=2, metrics=3, page=4, listen="::", span_s=230.3, pictures=True))
        settings = read_settings(path, environment={})
        assert (settings.seedlink[0].port, settings.mqtt.port, settings.http.port) == (1, 2, 3)
        assert (settings.page.listen, settings.page.port) == ("::", 4)
        assert settings.live.lateness_s == settings.seedlink[0].backlog_s == 531
        changed = {"seedlink", "mqtt", "http", "page", "live", "state", "log"}
        defaults = type(settings)()
        for name in settings.__struct_fields__:
            assert (getattr(settings, name) == getattr(defaults, name)) == (name not in changed), name

    def test_nothing_of_the_caller_reaches_the_daemon(self) -> None:
        given_ = {"PATH": "/bin", "MONITOR_MQTT__HOST": "elsewhere", "STATE_DIRECTORY": "/var", "NOTIFY_SOCKET": "@x"}
        assert environment(given_) == {"PATH": "/bin"}

    def test_ports(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            taken: int = server.getsockname()[1]
            with pytest.raises(ports.PortTakenError, match=f"--mqtt-port {taken}: something listens there"):
                ports.choose(page=None, metrics=None, mqtt=taken, seedlink=None)
            chosen = ports.choose(page=None, metrics=None, mqtt=None, seedlink=None, usual_page=taken)
        assert taken not in chosen
        assert len({chosen.page, chosen.metrics, chosen.mqtt}) == 3
        assert chosen.seedlink == 0
        assert ports.choose(page=taken, metrics=None, mqtt=None, seedlink=None).page == taken

    def test_metrics_are_added_up(self) -> None:
        text = '# HELP a_total x\na_total{b="c d"} 2.0\na_total{b="e"} 3\nf NaN\ng 1e3\n'
        assert sums(text) == {"a_total": 5.0, "g": 1000.0}

    def test_usage(self, tmp_path: Path) -> None:
        folder = tmp_path / "7"
        folder.mkdir()
        (folder / "status").write_text("Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t 1 kB\n")
        ticks = os.sysconf("SC_CLK_TCK")
        (folder / "stat").write_text(f"7 (a) b) S 1 7 7 0 -1 4194304 1 0 0 0 {3 * ticks} {ticks} 0 0 20 0 1 0")
        assert usage_of(7, proc=tmp_path) == Usage(2048 * 1024, 4.0)
        assert usage_of(8, proc=tmp_path) == Usage(None, None)

    def test_colours_are_for_terminals(self, capsys: pytest.CaptureFixture[str]) -> None:
        for color in (False, True):
            Screen(sys.stdout, color=color).show([line(Part("[red]", "bold"), " x  ")])
        assert capsys.readouterr().out == "[red] x\n\x1b[1m[red]\x1b[0m x\n"


class TestUsage:
    @pytest.mark.parametrize(
        ("absent", "said"),
        [
            ("amqtt", "pip install 'seismic-monitor[demo]'"),
            ("obspy", "ObsPy is not installed; pip install 'seismic-mon"),
        ],
    )
    def test_without_the_extra(self, absent: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
        import importlib.util

        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *rest: None if name == absent else find(name, *rest)
        )
        done = CliRunner().invoke(application(), ["demo"])
        assert done.exit_code == 2
        assert said in done.output

    def test_a_port_that_is_taken(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            done = CliRunner().invoke(application(), ["demo", "--metrics-port", str(port)])
        assert done.exit_code == 2
        assert f"--metrics-port {port}: something listens there already" in done.output

    @pytest.mark.parametrize("options", [["--speed", "0.5"], ["--speed", "nan"], ["--page-port", "0"]])
    def test_what_is_not_accepted(self, options: list[str]) -> None:
        assert CliRunner().invoke(application(), ["demo", *options]).exit_code == 2


# -- the whole of it -------------------------------------------------------------------------------------------------


class Run:
    """`monitor demo` in a process of its own, with a folder for temporary files that only it has."""

    def __init__(self, folder: Path, *arguments: str | Path) -> None:
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "monitor.cli", "demo", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(self.temporary), "PYTHONWARNINGS": "error"},
            # Whoever runs the tests in the background has the signal ignored, and a child inherits that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )

    def children(self) -> dict[str, int]:
        """`serve` and `run`, as far as they live, by what they are."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words_ = path.read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if any(str(self.temporary) in word for word in words_) and "monitor.cli" in words_:
                found[words_[words_.index("monitor.cli") + 1]] = int(path.parent.name)
        return found

    def wait_for(self, what: Callable[[], Any]) -> Any:
        until = time.monotonic() + PATIENCE_S
        while not (found := what()):
            assert time.monotonic() < until
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)
        return found

    def read_until(self, text: str) -> list[str]:
        assert self.process.stdout is not None
        lines: list[str] = []
        while not lines or text not in lines[-1]:
            lines.append(self.process.stdout.readline())
            assert lines[-1], (lines, self.process.communicate())
        return lines

    def end(self) -> tuple[int, str, str]:
        """Wait for its end, and see that nothing of it is left."""
        output, errors = self.process.communicate(timeout=PATIENCE_S)
        assert "Traceback" not in errors
        assert self.children() == {}
        assert list(self.temporary.iterdir()) == []
        return self.process.returncode, output, errors


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def one(*arguments: str | Path) -> Run:
        runs.append(Run(tmp_path, *arguments))
        return runs[-1]

    yield one
    for run in runs:
        run.process.kill()
        run.process.communicate()
        for pid in run.children().values():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def quake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    wave = earthquake(rate=100.0, p_s=40.0, s_minus_p=4.0, seconds=75.0, snr=12.0, seed=1)
    path = tmp_path_factory.mktemp("demo") / "quake.mseed"
    path.write_bytes(b"".join(packet.record for s in segments(wave, rate=100.0) for packet in encode(s)))
    return path


def test_the_whole_of_it(start: Callable[..., Run], tmp_path: Path) -> None:
    run = start("--speed", "60", "--keep", "--output", tmp_path / "out", "--no-pictures")
    output = "".join(run.read_until("Ctrl-C ends it"))
    for word in ("http://127.0.0.1:", "/metrics", "mosquitto_sub -p ", "monitor streams 127.0.0.1:"):
        assert word in output
    rows = [row.split() for row in output.splitlines() if " final " in row and row.startswith("  ")]
    stations = {row[3] for row in rows}
    assert len(stations) > 1, output
    assert "earthquake 1  2010-05-27 16:24:3" in output
    assert "stations or more agree" in output
    assert "1616 packets, 1616 received, 0 odd or dropped" in output
    assert "\x1b" not in output
    server = run.wait_for(lambda: run.children().get("serve"))
    assert server, "it goes on"
    run.process.send_signal(signal.SIGINT)
    code, output, errors = run.end()
    assert (code, errors) == (0, "")
    assert output.splitlines()[-1].startswith(f"Left in   {tmp_path / 'out'}")
    assert (tmp_path / "out" / "monitor.toml").exists()
    events = list((tmp_path / "out" / "events").glob("*/*/*/*/detection.json"))
    assert {msgspec.json.decode(path.read_bytes(), type=Detection).station for path in events} >= stations


def test_ctrl_c(start: Callable[..., Run], quake: Path) -> None:
    run = start(quake, "--speed", "1")
    run.wait_for(lambda: len(run.children()) == 2)
    run.process.send_signal(signal.SIGINT)
    code, _, errors = run.end()
    assert (code, errors) == (130, "monitor: interrupted; everything that was started has ended\n")


def test_a_child_that_dies_is_told_of(start: Callable[..., Run], quake: Path) -> None:
    run = start(quake, "--speed", "1")
    run.wait_for(lambda: len(run.children()) == 2)
    os.kill(run.children()["run"], signal.SIGKILL)
    code, _, errors = run.end()
    assert code == 1
    assert errors.startswith("monitor: monitor run ended with exit code -9; the last that it said:")


def test_a_reader_that_has_gone_ends_it(start: Callable[..., Run], quake: Path) -> None:
    run = start(quake, "--speed", "60")
    assert run.process.stdout is not None
    run.process.stdout.readline()
    run.process.stdout.close()
    run.process.stdout = None
    code, _, errors = run.end()
    assert (code, errors) == (0, "")


def test_nothing_found_is_a_failure(start: Callable[..., Run], tmp_path: Path) -> None:
    path = tmp_path / "noise.mseed"
    samples = np.random.default_rng(3).normal(0, 50, 4000).astype(np.int32)
    noise = Segment(ChannelId("XX", "ABC", "", "HHZ"), T0, 100.0, samples)
    path.write_bytes(b"".join(packet.record for packet in encode(noise)))
    code, output, errors = start(path, "--speed", "60").end()
    assert code == 1
    assert "no earthquake" in output
    assert "monitor: monitor run told of no earthquake; the last that it said:" in errors
    assert "INFO" in errors
