"""The command line as a person meets it: in a process of its own."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from pymseed import DataEncoding, MS3Record

from monitor.model import ModelMetadata, attach_metadata, default_model_path, read_metadata
from monitor.records import Detection
from monitor.timebase import parse_time
from tests.waveforms import T0, earthquake

LIGHT = ("obspy", "scipy", "pandas", "matplotlib", "tensorflow")


def monitor(
    *arguments: str | Path, stdin: bytes | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "monitor.cli", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        timeout=120,
        env={**os.environ, **(env or {})},
        check=False,
    )


def write_mseed(
    path: Path,
    wave: "np.ndarray[tuple[int, int], np.dtype[np.float64]]",
    *,
    channels: str = "ZNE",
    rate: float = 100.0,
    station: str = "ABC",
) -> Path:
    """Channel after channel, as most programs write."""
    with path.open("wb") as file:
        for code, row in zip(channels, wave, strict=False):
            record = MS3Record()
            record.sourceid = f"FDSN:XX_{station}__H_H_{code}"
            record.starttime = T0
            record.samprate = rate
            record.reclen = 512
            record.formatversion = 2
            record.encoding = DataEncoding.STEIM2
            for packed in record.generate(np.rint(row).astype(np.int32), "i"):
                file.write(bytes(packed))
    return path


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    wave = earthquake(rate=100.0, p_s=40.0, s_minus_p=4.0, seconds=75.0, snr=12.0, seed=3)
    return write_mseed(tmp_path_factory.mktemp("recording") / "quake.mseed", wave)


def lines(output: bytes) -> list[Detection]:
    return [msgspec.json.decode(line, type=Detection) for line in output.splitlines()]


def test_table(recording: Path) -> None:
    done = monitor("replay", recording)
    assert done.returncode == 0
    assert done.stderr == b"", "nothing on standard error when all is well and it is no terminal"
    header, row = done.stdout.decode().splitlines()
    assert header.split()[0] == "onset"
    assert row.startswith("2024-05-06 07:08:49")
    assert "XX.ABC" in row


def test_jsonl_all_states_and_output_file(recording: Path, tmp_path: Path) -> None:
    (final,) = lines(monitor("replay", recording, "--format", "jsonl").stdout)
    assert (final.state, final.origin) == ("final", "replay")
    every = lines(monitor("replay", recording, "--format", "jsonl", "--all-states").stdout)
    assert every[0].state == "new"
    assert every[-1] == final
    target = tmp_path / "found.jsonl"
    done = monitor("replay", recording, "--format", "jsonl", "--output", target)
    assert done.stdout == b""
    assert lines(target.read_bytes()) == [final]


def test_csv_and_quakeml(recording: Path) -> None:
    from obspy import read_events

    (final,) = lines(monitor("replay", recording, "--format", "jsonl").stdout)
    (row,) = csv.DictReader(io.StringIO(monitor("replay", recording, "--format", "csv").stdout.decode()))
    assert row["onset"] == final.onset
    (event,) = read_events(io.BytesIO(monitor("replay", recording, "--format", "quakeml").stdout))
    p = next(pick for pick in event.picks if pick.phase_hint == "P")
    assert p.time.ns == parse_time(final.onset)
    assert p.waveform_id.station_code == "ABC"


def test_standard_input_and_directory_give_the_same(recording: Path, tmp_path: Path) -> None:
    expected = monitor("replay", recording, "--format", "jsonl").stdout
    assert expected
    assert monitor("replay", "-", "--format", "jsonl", stdin=recording.read_bytes()).stdout == expected
    archive = tmp_path / "2024" / "XX" / "ABC"
    archive.mkdir(parents=True)
    shutil.copy(recording, archive / "XX.ABC..HHZ.D.2024.127")
    assert monitor("replay", tmp_path, "--format", "jsonl").stdout == expected
    with recording.open("rb") as file:
        piped = subprocess.run(
            [sys.executable, "-m", "monitor.cli", "replay", "-", "--format", "jsonl"],
            stdin=file, capture_output=True, timeout=120, check=True,
        )  # fmt: skip
    assert piped.stdout == expected


def test_selection(recording: Path) -> None:
    assert lines(monitor("replay", recording, "--format", "jsonl", "--stations", "XX.AB*").stdout)
    only_z = lines(monitor("replay", recording, "--format", "jsonl", "--stations", "XX.ABC..HHZ").stdout)
    assert only_z[0].seed_ids == ["XX.ABC..HHZ"]
    nothing = monitor("replay", recording, "--stations", "QQ.*")
    assert nothing.returncode == 1
    assert b"nothing matches" in nothing.stderr
    early = monitor("replay", recording, "--format", "jsonl", "--end", "2024-05-06T07:08:40Z")
    assert (early.returncode, early.stdout) == (0, b"")
    late = lines(monitor("replay", recording, "--format", "jsonl", "--start", "2024-05-06T07:08:30Z").stdout)
    assert len(late) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--threshold", "1.5"], "between 0 and 1"),
        (["--start", "yesterday"], "--start: not a time: 'yesterday'"),
        (["--start", "2024-02-01", "--end", "2024-01-01"], "not before"),
        (["--speed", "0"], "more than 0"),
        (["--format", "xml"], "xml"),
        (["--config", "/nonexistent.toml"], "cannot be read"),
        (["--colour"], "--colour"),
    ],
)
def test_wrong_usage_is_explained(recording: Path, arguments: list[str], words: str) -> None:
    done = monitor("replay", recording, *arguments)
    assert done.returncode == 2
    assert words in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_bad_files_are_named_and_the_others_used(recording: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a seismogram\n" * 50)
    empty = tmp_path / "empty.mseed"
    empty.touch()
    cut = tmp_path / "cut.mseed"
    cut.write_bytes(recording.read_bytes()[:-100])
    done = monitor("replay", text, tmp_path / "missing.mseed", empty, cut, "--format", "jsonl")
    assert done.returncode == 1
    assert len(lines(done.stdout)) == 1
    for name in ("notes.txt", "missing.mseed", "empty.mseed", "cut.mseed"):
        assert name in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_sampling_rates_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    slow = write_mseed(tmp_path / "lh.mseed", np.random.default_rng(0).normal(0, 99, (1, 5000)), channels="Z", rate=1.0)
    done = monitor("replay", slow)
    assert "sampled at 1 Hz; accepted: 20 to 1000 Hz" in done.stderr.decode()


def test_settings_file_and_environment(recording: Path, tmp_path: Path) -> None:
    settings = tmp_path / "monitor.toml"
    settings.write_text("[detector]\nthreshold = 0.9999\n")
    strict = monitor("replay", recording, "--format", "jsonl", "--config", settings)
    assert (strict.returncode, strict.stdout) == (0, b"")
    eased = monitor(
        "replay", recording, "--format", "jsonl", "--config", settings, env={"MONITOR_DETECTOR__THRESHOLD": "0.4"}
    )
    assert lines(eased.stdout)[0].reason.threshold == 0.4
    settings.write_text("[detector]\nthreshhold = 0.5\n")
    wrong = monitor("replay", recording, "--config", settings)
    assert wrong.returncode == 2
    assert "did you mean threshold?" in wrong.stderr.decode()


def test_figures(recording: Path, tmp_path: Path) -> None:
    done = monitor("replay", recording, "--plot", tmp_path / "figures")
    assert done.returncode == 0
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert len(names) == 2
    assert "overview.png" in names
    assert all((tmp_path / "figures" / name).stat().st_size > 20_000 for name in names)


def test_start_up_is_light(recording: Path) -> None:
    code = (
        "import sys; sys.argv = ['monitor', 'replay', sys.argv[1]]\n"
        "import contextlib\n"
        "from monitor.cli import main\n"
        "with contextlib.suppress(SystemExit):\n    main()\n"
        f"heavy = [n for n in {LIGHT!r} if n in sys.modules]\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(recording)], capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_ctrl_c_keeps_what_was_found(recording: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "monitor.cli", "replay", str(recording), "--format", "jsonl", "--all-states",
         "--speed", "8"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # Whoever runs the tests in the background has the signal ignored, and a child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )  # fmt: skip
    assert process.stdout is not None
    first = process.stdout.readline()
    assert process.poll() is None, "the detection is there while the recording still plays"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert lines(first)[0].state == "new"
    assert b"what was found so far is above" in errors
    assert b"Traceback" not in errors


def test_a_closed_pipe_is_no_error(recording: Path) -> None:
    command = f"{sys.executable} -m monitor.cli replay {recording} --format jsonl --all-states | head -n 0"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, timeout=120, check=False)
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


def test_model_info_verify_bench() -> None:
    info = monitor("model", "info").stdout.decode()
    for word in ("parameters", "operators", "CONV_2D", "Edge TPU", "threshold", "32 bins"):
        assert word in info
    metadata = json.loads(monitor("model", "info", "--json").stdout)
    assert metadata["labels"] == ["earthquake", "P", "S"]
    assert monitor("model", "verify").returncode == 0
    assert b"times real time" in monitor("model", "bench", "--repeats", "2").stdout


def changed_model(tmp_path: Path, **changes: object) -> Path:
    content = default_model_path().read_bytes()
    metadata = msgspec.to_builtins(read_metadata(content, source="shipped")) | changes
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / "changed.tflite"
    flatbuffer = content[: content.index(b"PK\x03\x04")]
    path.write_bytes(attach_metadata(flatbuffer, msgspec.convert(metadata, ModelMetadata)))
    return path


def test_models_that_do_not_fit_are_refused(tmp_path: Path, recording: Path) -> None:
    metadata = read_metadata(default_model_path().read_bytes(), source="shipped")
    spectrogram = msgspec.to_builtins(metadata.spectrogram)
    cases: list[tuple[Path, str]] = [
        (changed_model(tmp_path / "order", components=["Z", "E", "N"]), "components"),
        (changed_model(tmp_path, spectrogram={**spectrogram, "last_bin": 31}), "31, 3"),
    ]
    text = tmp_path / "text.tflite"
    text.write_text("hello, this is no model")
    bare = tmp_path / "bare.tflite"
    content = default_model_path().read_bytes()
    bare.write_bytes(content[: content.index(b"PK\x03\x04")])
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(content[: len(content) // 2])
    cases += [
        (text, "not a TensorFlow Lite model"),
        (bare, "no monitor.json"),
        (cut, "no monitor.json"),
        (tmp_path / "nowhere.tflite", "cannot be read"),
    ]
    for path, words in cases:
        done = monitor("replay", recording, "--model", path)
        assert done.returncode == 3, path
        assert words in done.stderr.decode()
        assert str(path) in done.stderr.decode()
        assert b"Traceback" not in done.stderr


def test_a_model_with_other_answers_is_found_out(tmp_path: Path) -> None:
    metadata = read_metadata(default_model_path().read_bytes(), source="shipped")
    reference = msgspec.to_builtins(metadata.reference)
    reference["output"][3] += 5
    done = monitor("model", "verify", "--model", changed_model(tmp_path, reference=reference))
    assert done.returncode == 3
    assert "reference answer 3" in done.stderr.decode()


def test_real_time_is_real_time(recording: Path) -> None:
    """Five seconds of recording at twenty times real time: not done at once, and the same result as without."""
    begin = time.monotonic()
    done = monitor("replay", recording, "--format", "jsonl", "--speed", "30")
    assert time.monotonic() - begin > 2.0
    assert done.stdout == monitor("replay", recording, "--format", "jsonl").stdout
