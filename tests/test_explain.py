"""A moment explained: the numbers are those of a replay, and the words are what the numbers say."""

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from pymseed import DataEncoding, MS3Record
from typer.testing import CliRunner, Result

from monitor.cli import application
from monitor.detector import Began, DetectorSettings
from monitor.explain.document import ExplanationDocument
from monitor.explain.explanation import Explanation, explain_event, explain_moment, instruments
from monitor.explain.moment import MomentError
from monitor.explain.text import write_text
from monitor.explain.words import in_words
from monitor.model import Model
from monitor.pipeline import REPLAY_BATCH_S, StationPipeline
from monitor.records import Detection
from monitor.replay import Replay
from monitor.sources.files import FileSource, Problem
from monitor.sources.memory import read_records
from monitor.spectrogram import F32, Bool
from monitor.timebase import NS_PER_SECOND, format_time, parse_time
from tests.waveforms import T0, earthquake

MODEL = Model()
F64 = npt.NDArray[np.float64]
START_NS = T0 // 1_000_000 * 1_000_000
P_S, S_MINUS_P = 70.0, 4.0
WAVE = earthquake(rate=100.0, p_s=P_S, s_minus_p=S_MINUS_P, seconds=150.0, snr=12.0, seed=1)


def no_problem(problem: Problem) -> None:
    pytest.fail(str(problem))


def at(seconds: float) -> int:
    """So long after the recording's start."""
    return START_NS + round(seconds * NS_PER_SECOND)


def packed(wave: F64, *, first_s: float = 0.0, station: str = "ABC", channels: str = "ZNE") -> bytes:
    """Records of three components at 100 Hz, from a time after the recording's start on."""
    result = []
    for code, row in zip(channels, wave, strict=False):
        record = MS3Record()
        record.sourceid = f"FDSN:XX_{station}__H_H_{code}"
        record.starttime = at(first_s)
        record.samprate, record.reclen, record.formatversion = 100.0, 512, 2
        record.encoding = DataEncoding.STEIM2
        result += [bytes(piece) for piece in record.generate(np.rint(row).astype(np.int32), "i")]
    return b"".join(result)


def with_holes(wave: F64, channels: str) -> bytes:
    """A gap from 30 to 36 s and one value from 100 to 110 s."""
    flat = wave.copy()
    flat[:, 10_000:11_000] = 17.0
    before, after = flat[:, :3000], flat[:, 3600:]
    return packed(before, channels=channels) + packed(after, first_s=36.0, channels=channels)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vertical alone, which is explained in a third of the time."""
    path = tmp_path_factory.mktemp("explain") / "vertical.mseed"
    path.write_bytes(with_holes(WAVE, "Z"))
    return path


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("explain") / "three.mseed"
    path.write_bytes(with_holes(WAVE, "ZNE"))
    return path


def explained(path: Path, seconds: float, settings: DetectorSettings | None = None) -> Explanation:
    source = FileSource([str(path)], on_problem=no_problem)
    (group,) = instruments(source)
    return explain_moment(source, group, MODEL, settings or DetectorSettings(), time_ns=at(seconds))


@pytest.fixture(scope="module")
def quake(three: Path) -> Explanation:
    return explained(three, P_S)


@pytest.fixture(scope="module")
def upright(recording: Path) -> Explanation:
    return explained(recording, P_S)


def final_of(path: Path) -> Detection:
    source = FileSource([str(path)], on_problem=no_problem)
    run = Replay(source, MODEL, DetectorSettings(), on_notice=pytest.fail)
    (final,) = (d for d in run if d is not None and d.state == "final")
    return final


@pytest.fixture(scope="module")
def told(recording: Path) -> Detection:
    return final_of(recording)


def test_the_numbers_are_those_of_a_replay_to_the_bit(three: Path, quake: Explanation) -> None:
    assert quake.verdict.kind == "detection"
    assert quake.verdict.detection == final_of(three)
    source = FileSource([str(three)], on_problem=no_problem)
    (group,) = instruments(source)
    outputs: list[tuple[int, F32, Bool]] = []
    pipeline = StationPipeline(
        group,
        MODEL,
        DetectorSettings(),
        origin="replay",
        batch_s=REPLAY_BATCH_S,
        on_output=lambda first, rows, real: outputs.append((first, rows, real)),
    )
    for segment in source:
        pipeline.advance(segment.starttime_ns)
        pipeline.push(segment)
    pipeline.finish()
    moment = quake.moment
    for first, rows, real in outputs:
        np.testing.assert_array_equal(
            moment.probabilities[first - moment.first_step :][: len(rows)], rows, err_msg=str(first)
        )
        np.testing.assert_array_equal(moment.real[first - moment.first_step :][: len(rows)], real)
    # And each is what the network makes of the frames that were kept.
    for step in range(quake.verdict.step - 5, quake.verdict.step + 30, 7):
        _, frames = moment.input(step)
        np.testing.assert_array_equal(MODEL.probabilities(MODEL.run(frames))[0], moment.output(step))
    assert quake.occlusion is not None
    assert quake.occlusion.probability == moment.output(quake.verdict.step)[0]


def test_words_of_a_detection_match_the_facts(quake: Explanation) -> None:
    words, told = " ".join(quake.words), quake.verdict.detection
    assert told is not None
    onset_ns = parse_time(told.onset)
    assert f"A detection: P at {format_time(onset_ns, digits=3)[11:-1]}" in words
    assert told.s_onset is not None
    s_later = (parse_time(told.s_onset) - onset_ns) / NS_PER_SECOND
    assert f"S {s_later:.2f} s later" in words
    assert f"probability {quake.verdict.peak[0]:.3f}" in words
    assert round(quake.verdict.peak[0], 4) == told.probability
    assert f"the threshold, {told.reason.threshold:.3f}, for 0.4 s" in words
    assert f"{told.snr_db:.0f} dB above the noise" in words
    decided = re.search(r"from samples up to (\S+): ", words)
    assert decided is not None
    assert decided[1] == format_time(onset_ns + round(told.latency_s * NS_PER_SECOND), digits=2)[11:-1]
    assert "it would have triggered" in words
    occlusion = quake.occlusion
    assert occlusion is not None
    best = next(region for region in occlusion.regions if region.row is None and region.change > 0)
    assert f"without it the probability would be {best.probability:.3f} instead of {occlusion.probability:.3f}" in words
    first_frame, _ = quake.moment.input(quake.verdict.step)
    begins_s = (quake.moment.frame_ns(first_frame + best.first_frame) - onset_ns) / NS_PER_SECOND
    assert -2.0 < begins_s < 6.0, "it is the earthquake that speaks for one"
    assert f"without Z {occlusion.without[0]:.3f}" in words
    assert f"it would be {occlusion.silence:.3f}" in words


@pytest.mark.parametrize(
    ("began", "words"),
    [
        ("quiet", "for 0.4 s, the least that counts"),
        ("second_p", "while an earlier one was still going on, a P arrival of 0.6 or more began another"),
        ("risen_again", "the probability had been below 0.4 for 1 s or more, and it rose to"),
    ],
)
def test_how_it_began_is_told(quake: Explanation, began: Began, words: str) -> None:
    assert quake.verdict.event is not None
    event = replace(quake.verdict.event, began=began)
    assert words in " ".join(in_words(quake.moment, replace(quake.verdict, event=event), None))


def test_within_a_detection_a_later_moment_belongs_to_it(recording: Path, told: Detection) -> None:
    later = explained(recording, P_S + 5.0)
    assert later.verdict.detection == told
    assert "s after this onset and belongs to it" in " ".join(later.words)


def test_noise_is_below_the_threshold(recording: Path) -> None:
    noise = explained(recording, 55.0)
    assert noise.verdict.kind == "below_threshold"
    assert noise.verdict.peak[0] < noise.moment.threshold
    shown = noise.moment.outputs(*noise.verdict.looked_at)[1]
    assert noise.verdict.peak[0] == shown[:, 0].max()
    words = " ".join(noise.words)
    assert f"was at most {noise.verdict.peak[0]:.3f}" in words
    assert "The nearest detection is that of" in words
    assert "it would not have triggered" in words


def test_a_short_rise_is_none(recording: Path) -> None:
    short = explained(recording, P_S, DetectorSettings(confirm_s=30.0))
    assert short.verdict.kind == "too_short"
    assert short.verdict.detection is None
    assert 0 < short.verdict.longest_above_s < 30.0
    assert f"for {short.verdict.longest_above_s:.1f} s; the least that counts is 30 s" in " ".join(short.words)


@pytest.mark.parametrize(
    ("seconds", "kind", "words"),
    [
        (33.0, "gap", "there is a gap from 07:08:39.12 to 07:08:45.12"),
        (106.0, "masked", "cannot be the ground"),
        (1.0, "warming_up", "the background is not known yet"),
        (37.0, "warming_up", "the background is not known yet"),
    ],
)
def test_where_there_is_nothing_to_judge(recording: Path, seconds: float, kind: str, words: str) -> None:
    found = explained(recording, seconds)
    assert found.verdict.kind == kind
    assert words in found.words[0]
    assert found.occlusion is None
    assert found.document().occlusion is None


def test_what_the_warm_up_ends_with_is_when_outputs_begin(recording: Path) -> None:
    found = explained(recording, 1.0)
    said = re.search(r"from (\d\d:\d\d:\d\d\.\d\d) on", found.words[0])
    assert said is not None
    until_ns = parse_time(f"2024-05-06T{said[1]}Z")
    assert found.moment.judges(until_ns) == "judged"
    assert found.moment.judges(until_ns - NS_PER_SECOND // 2) == "warming_up"


@pytest.mark.parametrize("seconds", [-5.0, 151.0, 86_400.0])
def test_outside_of_the_recording(recording: Path, seconds: float) -> None:
    with pytest.raises(MomentError, match=r"nothing of XX\.ABC\.\.HH at .*; it was recorded from 2024-05-06T07:08:09"):
        explained(recording, seconds)


@pytest.mark.parametrize("seconds", [0.0, 149.9])
def test_at_the_ends_of_the_recording(recording: Path, seconds: float) -> None:
    assert explained(recording, seconds).words


def test_a_long_recording_is_read_no_further_than_needed(recording: Path) -> None:
    source = FileSource([str(recording)], on_problem=no_problem)
    (group,) = instruments(source)
    segments = list(source)
    read = []

    class Counted(FileSource):
        def __iter__(self):  # type: ignore[no-untyped-def]
            for number in range(100):
                for segment in segments:
                    read.append(number)
                    later_ns = segment.starttime_ns + number * 150 * NS_PER_SECOND
                    yield type(segment)(segment.channel_id, later_ns, segment.sampling_rate, segment.samples)

    explain_moment(Counted([str(recording)], on_problem=no_problem), group, MODEL, DetectorSettings(), time_ns=at(50))
    assert max(read) < 10


def test_an_event_with_all_that_was_heard_says_the_same(recording: Path, told: Detection) -> None:
    found = explain_event(told, recording.read_bytes(), MODEL, settings=DetectorSettings())
    assert found.differences == {}
    assert found.document().same_as_told is True
    assert found.verdict.detection == told


def test_an_event_with_less_says_by_how_much_it_differs(told: Detection) -> None:
    other = msgspec.structs.replace(told, probability=0.5, snr_db=1.0)
    found = explain_event(other, packed(WAVE[:1, 1000:], first_s=10.0), MODEL)
    document = found.document()
    assert document.same_as_told is False
    assert document.differences["probability"] == [0.5, found.verdict.detection and found.verdict.detection.probability]
    assert "said probability 0.500" in found.words[-1]


def test_an_event_without_its_records(told: Detection) -> None:
    with pytest.raises(MomentError, match=r"no samples of XX\.ABC\.\.HHZ"):
        explain_event(told, packed(WAVE[:1], station="OTHER"), MODEL)
    with pytest.raises(MomentError, match="nothing of"):
        explain_event(told, packed(WAVE[:1, :3000]), MODEL)
    with pytest.raises(MomentError, match="no samples"):
        explain_event(told, b"", MODEL)


def test_records_in_any_order_and_damaged() -> None:
    whole = packed(WAVE[:, :2000])
    records = [whole[i : i + 512] for i in range(0, len(whole), 512)]
    np.random.default_rng(3).shuffle(records)
    segments = read_records(b"".join(records))
    assert sum(segment.npts for segment in segments) == 3 * 2000
    assert [s.starttime_ns for s in segments] == sorted(s.starttime_ns for s in segments)
    damaged = read_records(b"garbage" * 100 + whole[:512] + b"\0" * 40 + whole[512:1100])
    assert 0 < sum(segment.npts for segment in damaged) < 2000


def test_json(quake: Explanation, tmp_path: Path) -> None:
    path = tmp_path / "explanation.json"
    quake.write_json(path)
    document = msgspec.json.decode(path.read_bytes(), type=ExplanationDocument)
    assert document == quake.document()
    assert (document.schema, document.verdict, document.words) == ("monitor.explanation/1", "detection", quake.words)
    assert document.occlusion is not None
    assert set(document.occlusion.change) == {"Z", "N", "E", "all"}
    assert document.same_as_told is None
    probabilities = document.probabilities["earthquake"]
    assert max(p for p in probabilities if p is not None) == document.probability


def test_text_fits_and_is_plain_where_it_must_be(quake: Explanation) -> None:
    for width in (80, 200):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")
        write_text(quake, stream, width=width)
        text = stream.buffer.getvalue().decode()
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) <= width
        assert "█" in text
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="")
    write_text(quake, stream, width=80)
    assert b"A detection: P at" in stream.buffer.getvalue()


def run(*arguments: str | Path) -> Result:
    words = ["explain", *map(str, arguments)]
    return CliRunner().invoke(application(words), words)


P_TIME = format_time(at(P_S))


def test_command_line(recording: Path, upright: Explanation, tmp_path: Path) -> None:
    text = run(recording, "--time", P_TIME)
    assert (text.exit_code, text.stderr) == (0, "")
    assert "A detection: P at" in text.stdout
    document = json.loads(run(recording, "--time", P_TIME, "--json").stdout)
    assert document == json.loads(upright.json())
    target = tmp_path / "x.png"
    drawn = run(recording, "--time", P_TIME, "--output", target)
    assert (drawn.exit_code, drawn.stdout) == (0, "")
    assert target.read_bytes().startswith(b"\x89PNG")
    assert run(recording, "--time", P_TIME, "--output", tmp_path / "x.json").exit_code == 0
    assert json.loads((tmp_path / "x.json").read_text()) == document
    strict = run(recording, "--time", P_TIME, "--threshold", "0.9999")
    assert "the threshold is 1.000" in strict.stdout or "No detection" in strict.stdout
    assert run(recording, "--time", format_time(at(33.0)), "--output", tmp_path / "gap.png").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--time", "yesterday"], 2, "--time: not a time: 'yesterday'"),
        (["--time", "2030-01-01"], 1, "nothing of XX.ABC..HH at 2030-01-01T00:00:00.000000Z; it was recorded from"),
        (["--time", P_TIME, "--threshold", "2"], 2, "between 0 and 1"),
        (["--time", P_TIME, "--format", "png"], 2, "--output FILE.png"),
        (["--time", P_TIME, "--format", "text", "--json"], 2, "accepted: one of them"),
        (["--time", P_TIME, "--stations", "QQ.*"], 1, "nothing matches --stations"),
        (["--time", P_TIME, "--model", "/nonexistent.tflite"], 3, "cannot be read"),
        (["--time", P_TIME, "--output", "/nonexistent/x.png"], 1, "/nonexistent/x.png"),
        (["--time", P_TIME, "--output", "/nonexistent/x.txt"], 1, "/nonexistent/x.txt"),
        ([], 2, "--time"),
    ],
)
def test_mistakes_are_explained(recording: Path, arguments: list[str], code: int, words: str) -> None:
    done = run(recording, *arguments)
    assert done.exit_code == code
    assert words in done.stderr
    assert done.exception is None or isinstance(done.exception, SystemExit)


def test_one_instrument_of_several(tmp_path: Path) -> None:
    path = tmp_path / "two.mseed"
    path.write_bytes(packed(WAVE[:2, :1000]) + packed(WAVE[:1, :1000], station="DEF"))
    moment = format_time(at(1))
    several = run(path, "--time", moment)
    assert several.exit_code == 2
    assert several.stderr.splitlines()[1:] == ["  XX.ABC..HH?", "  XX.DEF..HHZ"]
    for pattern in ("XX.ABC..HH?", "XX.DEF..HHZ", "DEF"):
        assert run(path, "--time", moment, "--stations", pattern).exit_code == 0


def test_a_bad_file_is_named_and_the_others_are_used(recording: Path, tmp_path: Path) -> None:
    done = run(recording, tmp_path / "missing.mseed", "--time", P_TIME, "--json")
    assert done.exit_code == 1
    assert "missing.mseed" in done.stderr
    assert json.loads(done.stdout)["verdict"] == "detection"


def test_explaining_needs_neither_pillow_nor_scipy() -> None:
    heavy = "('PIL', 'scipy', 'obspy', 'matplotlib', 'train')"
    code = f"import sys, monitor.commands.explain; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
