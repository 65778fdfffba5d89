"""The model on a Coral Edge TPU, and on the processor where there is none or none any more."""

import functools
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from monitor import edgetpu
from monitor.commands.model import app
from monitor.detector import DetectorSettings
from monitor.edgetpu import FALLBACK_REASONS, EdgeTpu, compiled_path
from monitor.metrics import Metrics
from monitor.model import Device, Model, attach_metadata, default_model_path
from monitor.modelfile import I8
from monitor.operators import _RULES, Facts, Operator, edge_tpu_operators
from monitor.pipeline import StationPipeline
from monitor.records import Detection
from monitor.settings import ModelSettings
from monitor.stations import group_channels
from tests.waveforms import earthquake, segments, split
from train import edgetpu as compiler

ROOT = Path(__file__).parent.parent
SHIPPED = default_model_path().read_bytes()
METADATA = Model().metadata


class Stick:
    """A stick, and the models on which it is tried."""

    def __init__(self, folder: Path) -> None:
        self.path, self.mood = folder / "seismic.tflite", folder / "mood"
        self.now_s = 1000.0
        self.path.write_bytes(SHIPPED)
        compiled_path(self.path).write_bytes(attach_metadata(compiler.prepare(SHIPPED), METADATA))
        self.is_up_to("")
        self._models: list[Model] = []

    def is_up_to(self, mood: str) -> None:
        self.mood.write_text(mood)

    @property
    def starts(self) -> int:
        return self.mood.with_suffix(".starts").read_text().count("start")

    def model(self, device: Device = "edgetpu", *command: str) -> Model:
        worker = command or (sys.executable, str(ROOT / "tests" / "stick.py"), str(self.mood))
        made = functools.partial(EdgeTpu, worker=worker, monotonic=lambda: self.now_s)
        self._models.append(Model(self.path, device=device, edge_tpu=made))
        return self._models[-1]

    def close(self) -> None:
        for model in self._models:
            model.close()


@pytest.fixture
def stick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stick]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = Stick(tmp_path)
    yield made
    made.close()


def frames(model: Model, n_outputs: int, *, seed: int = 0) -> I8:
    shape = (model.frames_for(n_outputs), model.metadata.spectrogram.n_freq, 3)
    return np.random.default_rng(seed).integers(-128, 128, shape, np.int8)


def run_until(model: Model, device: str, judge: Callable[[], I8]) -> None:
    """Go on judging while the other process starts: nothing waits for it."""
    while model.device != device:
        judge()


def counted(model: Model) -> dict[str, int]:
    return {reason: count for reason, count in model.fallbacks.items() if count}


def test_pieces_give_the_numbers_of_the_whole(stick: Stick) -> None:
    model, cpu = stick.model("auto"), Model()
    assert model.device == "edgetpu"
    assert model.verify() == []
    for n_outputs in (1, 2, 4, 5, 6, 10, 23):
        given = frames(cpu, n_outputs, seed=n_outputs)
        np.testing.assert_array_equal(model.run(given), cpu.run(given))
    assert model.device == "edgetpu"
    assert counted(model) == {}
    assert model.ref == Model(stick.path).ref  # ids of detections do not hang on what runs the model


@pytest.mark.parametrize(
    ("mood", "reason", "said"),
    [
        ("fail", "failed", "transfer on tag 1 failed"),
        ("abort", "failed", "ended by SIGABRT: F driver/usb/usb_driver.cc:1148]"),
        ("hang", "hung", "has not answered for 0.2 s"),
    ],
)
def test_a_stick_that_vanishes_costs_no_data_and_is_taken_up_again(
    stick: Stick,
    mood: str,
    reason: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "monitor")
    model, cpu = stick.model(), Model()
    given = frames(cpu, 7)
    expected = cpu.run(given)
    monkeypatch.setattr(edgetpu, "_ANSWER_LIMIT_S", 0.2)
    stick.is_up_to(mood)
    np.testing.assert_array_equal(model.run(given), expected)
    assert counted(model) == {reason: 1}
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said in warning
    assert "next try in 5 s" in warning

    stick.is_up_to("")
    monkeypatch.undo()
    stick.now_s += 4.9
    model.run(given)
    assert stick.starts == 1, "not before its time"
    stick.now_s += 0.2
    run_until(model, "edgetpu", lambda: model.run(given))
    np.testing.assert_array_equal(model.run(given), expected)
    assert stick.starts == 2
    assert counted(model) == {reason: 1}
    assert "the Edge TPU is back" in caplog.text

    if mood == "fail":  # a stick that flaps is tried ever more rarely, one that was steady at once
        for worked_s, wait_s in ((30.0, 10), (700.0, 5)):
            stick.now_s += worked_s
            stick.is_up_to(mood)
            model.run(given)
            assert f"next try in {wait_s} s" in caplog.records[-1].getMessage()
            stick.is_up_to("")
            stick.now_s += wait_s
            run_until(model, "edgetpu", lambda: model.run(given))


def test_tries_become_rare_and_a_flapping_stick_does_not_make_them_frequent(stick: Stick) -> None:
    # A shell is started faster than an interpreter.
    says = f"""echo start >> {stick.mood}.starts; echo '{{"reason": "absent", "text": "no stick"}}'"""
    model = stick.model("edgetpu", "/bin/sh", "-c", says)
    assert counted(model) == {"absent": 1}
    assert "no stick" in str(model.edge_tpu_trouble)
    given, last = frames(model, 1), stick.now_s
    waits: list[float] = []
    while len(waits) < 8:
        before = stick.starts
        stick.now_s += 1.0
        tpu: Any = model._edge_tpu
        model.run(given)
        while tpu._process is not None:
            model.run(given)
        if stick.starts > before:
            waits.append(stick.now_s - last)
            last = stick.now_s
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300]
    assert counted(model) == {"absent": 1}, "what was never there is not lost again"


@pytest.mark.parametrize("device", ["auto", "edgetpu"])
def test_a_stick_that_is_absent_is_a_warning_only_where_it_was_asked_for(
    stick: Stick, device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "monitor")
    stick.is_up_to("absent")
    model = stick.model(device)
    (record,) = caplog.records
    assert record.levelname == ("INFO" if device == "auto" else "WARNING")
    assert "libedgetpu.so.1 finds no Edge TPU" in record.getMessage()
    assert counted(model) == ({} if device == "auto" else {"absent": 1})
    assert model.device == "cpu"
    assert model.verify() == []


def test_a_stick_that_judges_otherwise_judges_nothing(stick: Stick) -> None:
    stick.is_up_to("lie")
    model = stick.model()
    assert counted(model) == {"wrong_answers": 1}
    assert "reference answer" in str(model.edge_tpu_trouble)
    assert model.verify() == []
    stick.now_s += 1000
    model.run(frames(model, 1))
    tpu: Any = model._edge_tpu
    assert tpu._process is None, "what a person has to mend is not tried again"


def test_a_model_that_the_stick_does_not_take_is_tried_again(stick: Stick) -> None:
    stick.is_up_to("refuse")
    model = stick.model()
    assert counted(model) == {"refused": 1}
    assert "failed to prepare" in str(model.edge_tpu_trouble)
    stick.is_up_to("")
    stick.now_s += 6
    run_until(model, "edgetpu", lambda: model.run(frames(model, 1)))


def test_a_compiled_model_must_be_there_and_of_the_same_model(
    stick: Stick, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    compiled = compiled_path(stick.path)
    other = msgspec.structs.replace(METADATA, version="another")
    for content, said in (
        (attach_metadata(SHIPPED[: SHIPPED.index(b"PK\x03\x04")], other), "was compiled from another model"),
        (compiler.prepare(SHIPPED), "no monitor.json inside"),
        (None, "is missing, the model compiled for it (make edgetpu)"),
    ):
        compiled.unlink(missing_ok=True)
        if content is not None:
            compiled.write_bytes(content)
        assert counted(stick.model()) == {"no_model": 1}
        assert said in caplog.records[-1].getMessage()
    assert not stick.mood.with_suffix(".starts").exists(), "no process is started for nothing"
    assert Model(stick.path, device="auto").device == "cpu"


def test_a_compiled_model_of_an_odd_length_is_refused(stick: Stick) -> None:
    length = Model().frames_for(1) + 1
    says = f"""echo '{{"frames": {length}, "outputs": 1, "labels": 3}}'; cat"""
    model = stick.model("edgetpu", "/bin/sh", "-c", says)
    assert counted(model) == {"refused": 1}
    assert "which does not fit" in str(model.edge_tpu_trouble)


def test_detections_are_the_same_on_the_stick_without_it_and_when_it_goes_in_between(stick: Stick) -> None:
    wave = earthquake(rate=100.0, p_s=25.0, s_minus_p=3.0, seconds=45.0, snr=12.0, seed=1)
    packets = sorted(
        (part for whole in segments(wave, rate=100.0) for part in split(whole, [500])), key=lambda p: p.starttime_ns
    )
    (group,) = group_channels(packet.channel_id for packet in packets)

    def found(model: Model, *, pulled_at: int | None = None) -> list[Detection]:
        pipeline = StationPipeline(group, model, DetectorSettings(), origin="replay", batch_s=1.0)
        detections: list[Detection] = []
        for number, packet in enumerate(packets):
            if number == pulled_at:
                stick.is_up_to("abort")
            detections += pipeline.push(packet)
        return detections + pipeline.finish()

    expected = found(Model(stick.path))
    assert len({detection.id for detection in expected}) == 1
    model = stick.model()
    assert found(model) == expected
    assert model.device == "edgetpu"
    assert found(model, pulled_at=len(packets) * 26 // 45) == expected
    assert counted(model) == {"failed": 1}


def test_what_is_no_delegate_and_what_is_not_there_is_said_clearly(stick: Stick) -> None:
    """The real worker with real libraries: one that knows nothing of delegates, one that does not exist."""
    for library, said in (
        ("libm.so.6", "libm.so.6 is no TensorFlow Lite delegate"),
        ("libedgetpu-missing.so.1", "libedgetpu-missing.so.1 cannot be loaded"),
    ):
        command = [sys.executable, "-m", "monitor.edgetpu_worker", str(compiled_path(stick.path)), library]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        told = msgspec.json.decode(done.stdout)
        assert told["reason"] == "no_library"
        assert said in told["text"]
    made = functools.partial(EdgeTpu, library="libedgetpu-missing.so.1")
    model = Model(stick.path, device="edgetpu", edge_tpu=made)
    assert counted(model) == {"no_library": 1}
    assert model.verify() == []


def test_the_command_line_knows_the_device(stick: Stick, caplog: pytest.LogCaptureFixture) -> None:
    compiled_path(stick.path).write_bytes(SHIPPED[:100])  # so that a computer with a stick says the same
    run, model = CliRunner().invoke, str(stick.path)
    assert run(app, ["verify", "--model", model, "--device", "edgetpu"]).exit_code == 1
    assert "not on the Edge TPU" in caplog.text
    assert run(app, ["verify", "--model", model, "--device", "auto"]).exit_code == 0
    assert run(app, ["verify", "--device", "gpu"]).exit_code == 2
    info = run(app, ["info", "--model", model]).stdout
    assert f"compiled      {compiled_path(stick.path)}" in info
    assert "each of the" in info
    count = sum(operator.name == "CONV_2D" for operator in edge_tpu_operators(SHIPPED))
    assert f"CONV_2D                 {count:3d}  mapped" in info


def test_the_device_is_a_setting() -> None:
    assert ModelSettings().device == "auto"
    assert msgspec.convert({"device": "edgetpu"}, ModelSettings).device == "edgetpu"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"device": "gpu"}, ModelSettings)


def test_metrics_say_what_runs_the_model() -> None:
    metrics = Metrics()

    def series() -> str:
        return metrics.exposition()[1].decode()

    for reason in FALLBACK_REASONS:
        assert f'monitor_inference_fallbacks_total{{reason="{reason}"}} 0.0' in series()
    metrics.device("edgetpu", {"failed": 0})
    assert 'monitor_inference_device{device="edgetpu"} 1.0' in series()
    assert 'monitor_inference_device{device="cpu"} 0.0' in series()
    metrics.device("cpu", {"failed": 2})
    metrics.device("cpu", {"failed": 2})
    assert 'monitor_inference_device{device="cpu"} 1.0' in series()
    assert 'monitor_inference_device{device="edgetpu"} 0.0' in series()
    assert 'monitor_inference_fallbacks_total{reason="failed"} 2.0' in series()


# -- what the compiler would make of it --------------------------------------------------------------------------------


def rewritten(change: Callable[[Any, Any], None]) -> bytes:
    """The shipped model, changed."""
    import flatbuffers  # type: ignore[import-untyped]
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(SHIPPED)
    change(model, schema)
    builder = flatbuffers.Builder(len(SHIPPED))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_the_shipped_model_would_be_mapped_as_a_whole() -> None:
    operators = edge_tpu_operators(SHIPPED)
    assert {operator.obstacle for operator in operators} == {None}
    assert Model().accelerator_problems() == []
    assert sum(Model().operators().values()) == len(operators)


def test_a_dilation_that_is_real_is_left_to_the_processor() -> None:
    def change(model: Any, schema: Any) -> None:
        operators = model.subgraphs[0].operators
        convolutions = [o for o in operators if isinstance(o.builtinOptions, schema.Conv2DOptionsT)]
        shapes = [list(model.subgraphs[0].tensors[o.inputs[1]].shape) for o in convolutions]
        # The first of each branch: they are to stay of one length.
        for convolution, shape in zip(convolutions, shapes, strict=True):
            if shape == shapes[0]:
                convolution.builtinOptions.dilationHFactor = 2

    obstacles = [o for o in edge_tpu_operators(rewritten(change)) if o.obstacle]
    assert obstacles[0] == Operator("CONV_2D", "dilated by 2 along y and by 1 along x")


def test_an_operator_that_is_newer_than_the_compiler_is_named() -> None:
    def change(model: Any, schema: Any) -> None:
        for code in model.operatorCodes:
            if code.builtinCode == schema.BuiltinOperator.CONV_2D:
                code.version = 6

    obstacles = {o for o in edge_tpu_operators(rewritten(change)) if o.obstacle}
    assert obstacles == {Operator("CONV_2D", "version 6 of it is newer than the compiler")}


@pytest.mark.parametrize(
    ("name", "facts", "mapped"),
    [
        ("ADD", {}, True),
        ("MAX_POOL_2D", {"options": {"activation": 1}}, False),
        ("MAX_POOL_2D", {}, True),
        ("CONCATENATION", {"inputs": [(1, 4), (1, 4)], "constants": {1: np.zeros(4)}}, True),
        ("CONCATENATION", {"inputs": [(1, 4), (1, 4)], "constants": {1: np.ones(4)}}, False),
        ("PAD", {"constants": {1: np.array([[0, 0], [1, 1], [0, 0], [0, 0]])}}, True),
        ("PAD", {"constants": {1: np.array([[1, 0], [0, 0], [0, 0], [0, 0]])}}, False),
        ("MEAN", {"inputs": [(1, 8, 8, 6)], "constants": {1: np.array([1, 2])}}, True),
        ("MEAN", {"inputs": [(1, 8, 8, 6)], "constants": {1: np.array([3])}}, False),
        ("MEAN", {"inputs": [(1, 8, 8, 8)], "constants": {1: np.array([-1])}}, True),
        ("SUM", {"inputs": [(1, 8, 8, 6)], "constants": {1: np.array([0])}}, False),
        ("STRIDED_SLICE", {"constants": {3: np.array([1, 1, 1, 1])}}, True),
        ("STRIDED_SLICE", {"constants": {3: np.array([1, 2, 1, 1])}}, False),
        ("STRIDED_SLICE", {"constants": {3: np.array([1, 1])}, "options": {"new_axis": 1}}, False),
        ("SQUEEZE", {"inputs": [(1, 1, 10)]}, True),
        ("SQUEEZE", {"inputs": [(5, 1, 10)]}, False),
        ("SOFTMAX", {"inputs": [(1, 3)]}, True),
        ("SOFTMAX", {"inputs": [(5, 3)]}, False),
        ("PACK", {"options": {"axis": 1}}, True),
        ("PACK", {}, False),
        ("PRELU", {"inputs": [(1, 8, 8, 6), (1, 1, 6)]}, True),
        ("PRELU", {"inputs": [(1, 8, 8, 6), (8, 8, 6)]}, False),
    ],
)
def test_the_table_of_the_compiler(name: str, facts: dict[str, Any], mapped: bool) -> None:
    nothing: dict[str, Any] = {"options": {}, "inputs": [], "outputs": [], "constants": {}}
    assert (_RULES[name](Facts(**nothing | facts)) is None) is mapped


# -- make edgetpu ------------------------------------------------------------------------------------------------------


def test_what_the_compiler_gets_has_equal_dilations_and_the_same_answers() -> None:
    from ai_edge_litert import schema_py_generated as schema

    prepared = compiler.prepare(SHIPPED)  # raises if one answer differs
    for operator in schema.ModelT.InitFromPackedBuf(prepared).subgraphs[0].operators:
        if isinstance(operator.builtinOptions, schema.Conv2DOptionsT | schema.DepthwiseConv2DOptionsT):
            assert operator.builtinOptions.dilationHFactor == operator.builtinOptions.dilationWFactor


def compile_with(path: Path, script: str | None, model: Path) -> "subprocess.CompletedProcess[str]":
    """`python -m train.edgetpu` where the compiler is `script`."""
    path.mkdir(exist_ok=True)
    if script is not None:
        program = path / "edgetpu_compiler"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    for name in ("sh", "cp", "basename"):
        found = shutil.which(name)
        assert found
        (path / name).unlink(missing_ok=True)
        (path / name).symlink_to(found)
    command = [sys.executable, "-m", "train.edgetpu", str(model)]
    environment = {**os.environ, "PATH": str(path), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_compiler_is_run_and_its_result_found_by_the_monitor(stick: Stick, tmp_path: Path) -> None:
    compiled_path(stick.path).unlink()
    does = 'cp "$4" "$3/$(basename "$4" .tflite)_edgetpu.tflite" && echo "Model compiled successfully"'
    done = compile_with(tmp_path / "bin", does, stick.path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Model compiled successfully" in done.stdout
    assert stick.model().device == "edgetpu"


@pytest.mark.parametrize(
    ("script", "said"), [(None, "apt install edgetpu-compiler"), ("echo Invalid model", "Invalid model")]
)
def test_without_a_compiler_or_where_it_refuses_nothing_is_written(
    stick: Stick, tmp_path: Path, script: str | None, said: str
) -> None:
    compiled_path(stick.path).unlink()
    done = compile_with(tmp_path / "bin", script, stick.path)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not compiled_path(stick.path).exists()
