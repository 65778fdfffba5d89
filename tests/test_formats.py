"""What `monitor replay` prints, and that other people's tools read it."""

import contextlib
import csv
import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, TextIO

import jsonschema
import msgspec
import obspy
import pytest
from hypothesis import HealthCheck, given, settings
from obspy.io.quakeml.core import _validate

from monitor.formats import FORMATS, detection_schema, open_output, open_writer, to_usgs_pick
from monitor.output import OutputClosedError, OutputError, printable
from monitor.quakeml import resource_id
from monitor.records import Detection
from monitor.timebase import parse_time
from tests.detections import HOSTILE, detection, detections

HOSTILE_DETECTION = detection(
    id=HOSTILE,
    station=HOSTILE,
    seed_ids=[f"{HOSTILE}.{HOSTILE}.{HOSTILE}.{HOSTILE}"],
    model=msgspec.structs.replace(detection().model, name=HOSTILE, version=HOSTILE),
)


def written(format_name: str, *found: Detection, **options: Any) -> str:
    stream = io.StringIO(newline="")
    writer = open_writer(format_name, stream, **options)
    for one in found:
        writer.write(one)
    writer.close()
    writer.close()
    return stream.getvalue()


def read_events(document: str) -> Any:
    return obspy.read_events(io.BytesIO(document.encode()), format="QUAKEML")


class Following(io.StringIO):
    """A stream whose reader sees only what was flushed."""

    seen = ""

    def flush(self) -> None:
        self.seen = self.getvalue()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("color", [False, True])
def test_each_detection_is_seen_before_the_next_is_known(name: str, color: bool) -> None:
    stream = Following()
    writer = open_writer(name, stream, color=color)
    for number in range(3):
        before = stream.seen
        writer.write(detection(id=f"id{number}", peak_counts=1000.0 + number))
        assert f"{1000 + number}" in stream.seen[len(before) :]


def test_an_unknown_format_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="'xml'; accepted: table, jsonl, csv, quakeml"):
        open_writer("xml", io.StringIO())


class TestTable:
    def test_rows_are_aligned_with_the_header(self) -> None:
        header, first, second = written(
            "table", detection(), detection(snr_db=None, end=None, phase="unknown", s_onset=None)
        ).splitlines()
        common = "2010-05-27 16:24:33.315 BW.UH1 EH[ZNE]"
        assert " ".join(first.split()) == f"{common} P S 2.31 18.59 0.97 21.3 8.2 18342"
        assert " ".join(second.split()) == f"{common} ? - - 0.97 - 8.2 18342"
        assert len(header) == len(first) == len(second)
        assert header.index("station") == first.index("BW.UH1")
        assert header.index("prob.") + len("prob.") == first.index("0.97") + len("0.97")

    def test_the_state_is_shown_only_where_several_can_occur(self) -> None:
        assert "state" not in written("table", detection())
        assert "update r3" in written("table", detection(state="update"), all_states=True)

    def test_channels_of_two_instruments_are_listed(self) -> None:
        assert "00.HHZ,10.HHZ" in written("table", detection(seed_ids=["A.B.00.HHZ", "A.B.10.HHZ"]))
        assert " 00.HH[ZN] " in written("table", detection(seed_ids=["A.B.00.HHZ", "A.B.00.HHN"]))
        assert " HHZ " in written("table", detection(seed_ids=["A.B..HHZ"]))
        assert written("table", detection(seed_ids=[]))

    @pytest.mark.parametrize("color", [False, True])
    def test_a_hostile_code_cannot_steer_the_terminal(self, color: bool) -> None:
        text = written("table", HOSTILE_DETECTION, color=color)
        assert len(text.splitlines()) == 2
        assert "[red]B[/red]" in text
        assert "\x1b[2J" not in text
        assert text.isascii()
        assert "\x00" not in text

    def test_colour_needs_a_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        colored, plain, forbidden = Terminal(), io.StringIO(), Terminal()
        open_writer("table", colored).write(detection())
        open_writer("table", plain).write(detection())
        monkeypatch.setenv("NO_COLOR", "1")
        open_writer("table", forbidden).write(detection())
        assert "\x1b[" in colored.getvalue()
        assert "\x1b[" not in plain.getvalue()
        assert "\x1b[" not in forbidden.getvalue()

    @settings(max_examples=50)
    @given(detections)
    def test_any_detection_is_one_row(self, one: Detection) -> None:
        assert len(written("table", one, all_states=True).splitlines()) == 2


class TestJsonLines:
    @given(detections)
    def test_decoding_gives_the_detection_back(self, one: Detection) -> None:
        text = written("jsonl", one)
        assert text.count("\n") == 1
        assert msgspec.json.decode(text, type=Detection) == one

    def test_the_class_has_its_name_in_the_contract(self) -> None:
        assert json.loads(written("jsonl", detection()))["class"] == "earthquake"


class TestCsv:
    def test_lines_end_as_rfc_4180_asks(self) -> None:
        text = written("csv", detection())
        assert text.endswith("\r\n")
        assert text.count("\r\n") == text.count("\n") == 2

    @settings(max_examples=50)
    @given(detections)
    def test_reading_gives_every_field_back(self, one: Detection) -> None:
        (row,) = csv.DictReader(io.StringIO(written("csv", one), newline=""))
        plain = msgspec.to_builtins(one)
        for part in ("model", "reason"):
            plain |= {f"{part}_{name}": value for name, value in plain.pop(part).items()}
        assert list(row) == list(plain)
        assert json.loads(row.pop("reason_checks")) == plain.pop("reason_checks")
        assert row.pop("seed_ids") == " ".join(plain.pop("seed_ids"))
        assert row == {name: "" if value is None else str(value) for name, value in plain.items()}


class TestQuakeML:
    def test_obspy_reads_what_was_detected(self) -> None:
        (event,) = read_events(written("quakeml", detection()))
        p, s = event.picks
        assert event.resource_id.id == "smi:local/detection/3f2a9c1be07d"
        assert event.event_type == "earthquake"
        assert event.origins == []
        assert (p.phase_hint, s.phase_hint) == ("P", "S")
        assert p.time == obspy.UTCDateTime("2010-05-27T16:24:33.315Z")
        assert s.time == obspy.UTCDateTime("2010-05-27T16:24:35.620Z")
        assert p.time_errors.uncertainty == 0.12
        assert s.time_errors.uncertainty is None
        assert p.waveform_id.get_seed_string() == "BW.UH1..EHZ"
        assert s.waveform_id.get_seed_string() == "BW.UH1..EHN"
        assert p.waveform_id.location_code is None
        assert (p.evaluation_mode, p.evaluation_status) == ("automatic", "preliminary")
        assert p.method_id.id == "smi:local/model/unet-small/1.2.0"
        assert "probability=0.91 detection=3f2a9c1be07d" in p.comments[0].text
        assert p.creation_info.creation_time == obspy.UTCDateTime("2010-05-27T16:24:36.100Z")

    def test_a_location_code_is_kept(self) -> None:
        (event,) = read_events(written("quakeml", detection(seed_ids=["IU.ANMO.00.BHZ"], s_onset=None)))
        assert [pick.waveform_id.get_seed_string() for pick in event.picks] == ["IU.ANMO.00.BHZ"]

    def test_a_retracted_detection_is_rejected(self) -> None:
        (event,) = read_events(written("quakeml", detection(state="retracted")))
        assert event.event_type == "not existing"
        assert {pick.evaluation_status for pick in event.picks} == {"rejected"}

    def test_identifiers_differ_from_revision_to_revision(self) -> None:
        revisions = [detection(revision=number, state="update") for number in range(3)]
        catalog = read_events(written("quakeml", *revisions, detection(revision=3)))
        ids = [item.resource_id.id for event in catalog for item in (event, *event.picks)]
        assert len(set(ids)) == len(ids) == 12

    def test_no_detection_is_a_valid_document(self) -> None:
        text = written("quakeml")
        assert _validate(io.BytesIO(text.encode()))
        assert len(read_events(text)) == 0

    def test_hostile_codes_stay_within_the_schema(self) -> None:
        text = written("quakeml", HOSTILE_DETECTION)
        assert _validate(io.BytesIO(text.encode()), verbose=True)
        assert len(read_events(text)) == 1

    def test_an_interrupted_replay_leaves_a_complete_document(self) -> None:
        stream = io.StringIO()

        def replay() -> None:
            with contextlib.closing(open_writer("quakeml", stream)) as writer:
                writer.write(detection())
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            replay()
        assert len(read_events(stream.getvalue())) == 1

    def test_an_interrupt_while_writing_leaves_a_complete_document_too(self) -> None:
        class Interrupted(io.StringIO):
            flushes = 0

            def flush(self) -> None:
                self.flushes += 1
                if self.flushes == 1:
                    raise KeyboardInterrupt

        stream = Interrupted()

        def replay() -> None:
            with contextlib.closing(open_writer("quakeml", stream)) as writer:
                writer.write(detection())

        with pytest.raises(KeyboardInterrupt):
            replay()
        assert len(read_events(stream.getvalue())) == 1

    def test_the_uncertainty_of_p_is_not_given_to_s(self) -> None:
        (event,) = read_events(written("quakeml", detection(s_onset=detection().onset)))
        assert [pick.time_errors.uncertainty for pick in event.picks] == [0.12, None]

    @settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
    @given(detections)
    def test_any_detection_is_valid_and_keeps_its_times(self, one: Detection) -> None:
        text = written("quakeml", one)
        assert _validate(io.BytesIO(text.encode()))
        (event,) = read_events(text)
        expected = [one.onset] + ([one.s_onset] if one.s_onset is not None and one.phase != "S" else [])
        # ObsPy keeps nanoseconds as an integer: equal means equal.
        assert [pick.time.ns for pick in event.picks] == [parse_time(time) for time in expected]

    def test_different_parts_make_different_identifiers(self) -> None:
        assert resource_id("a", "b/c") == "smi:local/a/b~2f~c"
        assert len({resource_id(part) for part in ("a b", "a_b", "a~20~b", "", "~")}) == 5


class TestUsgsPick:
    def test_the_onset_is_a_pick(self) -> None:
        pick = to_usgs_pick(detection())
        assert json.loads(json.dumps(pick)) == pick
        assert pick | {"Amplitude": None, "ClassificationInfo": None} == {
            "Type": "Pick",
            "ID": "3f2a9c1be07d",
            "Site": {"Station": "UH1", "Network": "BW", "Channel": "EHZ"},
            "Source": {"AgencyID": "BW", "Author": "seismic-monitor/unet-small/1.2.0"},
            "Time": "2010-05-27T16:24:33.315Z",
            "Phase": "P",
            "Picker": "other",
            "Amplitude": None,
            "ClassificationInfo": None,
        }
        assert pick["Amplitude"]["SNR"] == pytest.approx(10 ** (21.34 / 20))
        assert pick["ClassificationInfo"]["EventType"] == {"Type": "Earthquake", "Certainty": "Suspected"}

    def test_what_is_not_known_is_absent(self) -> None:
        pick = to_usgs_pick(detection(phase="unknown", snr_db=None, dominant_hz=0.0, seed_ids=[]), agency_id="XX")
        assert "Phase" not in pick
        assert pick["Amplitude"] == {"Amplitude": 18342.0}
        assert pick["Site"] == {"Station": "UH1", "Network": "BW"}
        assert pick["Source"]["AgencyID"] == "XX"

    def test_a_retracted_detection_is_no_pick(self) -> None:
        with pytest.raises(ValueError, match="is retracted"):
            to_usgs_pick(detection(state="retracted"))


class TestSchema:
    @settings(max_examples=50)
    @given(detections)
    def test_every_detection_fits(self, one: Detection) -> None:
        validator.validate(json.loads(msgspec.json.encode(one)))

    @pytest.mark.parametrize(
        ("field", "bad"),
        [
            ("schema", "monitor.detection/2"),
            ("probability", 1.5),
            ("revision", -1),
            ("onset", "yesterday"),
            ("end", "later"),
            ("state", "done"),
            ("model", {"name": "x"}),
        ],
    )
    def test_a_wrong_value_does_not_fit(self, field: str, bad: Any) -> None:
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(json.loads(msgspec.json.encode(detection())) | {field: bad})

    @pytest.mark.parametrize("field", msgspec.structs.fields(Detection), ids=lambda field: field.encode_name)
    def test_every_field_is_required_and_described(self, field: Any) -> None:
        plain = json.loads(msgspec.json.encode(detection()))
        del plain[field.encode_name]
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(plain)
        entry = detection_schema()["$defs"]["Detection"]["properties"][field.encode_name]
        assert "description" in entry or "$ref" in entry


def _is_time(value: object) -> bool:
    # jsonschema checks date-time only with a further package.
    return not isinstance(value, str) or isinstance(parse_time(value), int)


checker = jsonschema.FormatChecker()
checker.checks("date-time", raises=ValueError)(_is_time)
validator = jsonschema.Draft202012Validator(detection_schema(), format_checker=checker)


class TestOutput:
    def test_a_file_can_be_followed(self, tmp_path: Path) -> None:
        path = tmp_path / "found.jsonl"
        with open_output(path) as stream:
            open_writer("jsonl", stream).write(detection())
            assert msgspec.json.decode(path.read_bytes(), type=Detection) == detection()

    def test_csv_keeps_its_line_ends(self, tmp_path: Path) -> None:
        path = tmp_path / "found.csv"
        with open_output(path) as stream:
            open_writer("csv", stream).write(detection())
        assert path.read_bytes().count(b"\r\n") == 2
        assert b"\r\r" not in path.read_bytes()

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "none" / "found.csv"
        with pytest.raises(OutputError, match=r"cannot open .*found\.csv: No such file"), open_output(path):
            pass

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    @pytest.mark.parametrize("name", FORMATS)
    def test_a_full_disk_is_an_error_once(self, name: str) -> None:
        def replay() -> None:
            with open_output(Path("/dev/full")) as stream, contextlib.closing(open_writer(name, stream)) as writer:
                writer.write(detection())

        with pytest.raises(OutputError, match="cannot write to /dev/full: No space left"):
            replay()

    def test_the_fault_of_an_input_stays_its_own(self, tmp_path: Path) -> None:
        for path in (tmp_path / "found.csv", None):
            with pytest.raises(FileNotFoundError), open_output(path):
                (tmp_path / "no input").read_bytes()

    def test_a_reader_that_has_gone_is_told_apart(self) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        stream = os.fdopen(writing, "w")
        with pytest.raises(OutputClosedError):
            open_writer("csv", stream)
        with pytest.raises(OSError, match=os.strerror(errno.EPIPE)):
            stream.close()

    def test_a_closed_pipe_leaves_no_complaint_at_exit(self) -> None:
        program = (
            "import sys\n"
            "from monitor.formats import *\n"
            "from tests.detections import detection\n"
            "try:\n"
            "    with open_output(None) as stream:\n"
            "        writer = open_writer('jsonl', stream)\n"
            "        for _ in range(10_000): writer.write(detection())\n"
            "except OutputClosedError as error: sys.exit(str(error))\n"
        )
        shell = f'{sys.executable} -c "$PROGRAM" | head -n 1'
        done = subprocess.run(
            ["bash", "-c", shell],
            # Empty is unset: an unbuffered stream has nothing left to complain about.
            env=os.environ | {"PROGRAM": program, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONUNBUFFERED": ""},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.count("\n") == 1
        assert done.stderr == "standard output was closed by its reader\n"

    def test_a_character_that_the_stream_lacks_is_an_error(self) -> None:
        stream: TextIO = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        with pytest.raises(OutputError, match="encoding lacks"):
            open_writer("jsonl", stream).write(detection(station="BW.Ü"))


def test_printable_keeps_different_texts_different() -> None:
    assert printable("BW.UH1") == "BW.UH1"
    assert printable("\x1b[2J") == r"\x1b[2J"
    assert printable(r"\x1b[2J") == r"\\x1b[2J"


def test_importing_the_formats_loads_nothing_heavy() -> None:
    heavy = {"obspy", "scipy", "pandas", "matplotlib", "rich", "lxml"}
    program = f"import sys, monitor.formats, monitor.views; print({heavy!r} & set(sys.modules))"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
