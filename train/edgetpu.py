"""Compile a model for the Coral Edge TPU: `python -m train.edgetpu [MODEL.tflite]` (make edgetpu).

    model -> what the compiler takes -> edgetpu_compiler -> metadata attached -> MODEL_edgetpu.tflite beside it

The compiler is Google's, closed, and for x86-64 Debian only; its result runs on every computer with a stick.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from monitor.edgetpu import compiled_path
from monitor.interpreter import interpreter_class, quiet_stderr
from monitor.model import Model, ModelError, attach_metadata, default_model_path
from monitor.modelfile import I8, reference_input

COMPILER = "edgetpu_compiler"
HOW_TO_GET_IT = f"""\
{COMPILER} is not installed. It runs on x86-64 Debian and its relatives only and comes from Google
(https://coral.ai/docs/edgetpu/compiler/, where the key and the line for apt are):

    apt install edgetpu-compiler

The compiled model needs no compiler where it runs: copy it there, beside the model."""


class CompileError(Exception):
    """The model could not be compiled; the message says why."""


def prepare(content: bytes) -> bytes:
    """Write what the compiler demands, without changing any number that the model computes.

    It maps a convolution only where both dilations are the same. Along a direction in which the kernel has one element
    there is nothing to dilate, so that the other direction's dilation can stand there.

    Raises:
        CompileError: The answers would not be the same.
    """
    # Half a megabyte of generated code that nothing else needs; flatbuffers comes with the interpreter.
    import flatbuffers  # type: ignore[import-untyped] # noqa: PLC0415
    from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415

    model = schema.ModelT.InitFromPackedBuf(content)
    for graph in model.subgraphs:
        for operator in graph.operators:
            options = operator.builtinOptions
            if not isinstance(options, schema.Conv2DOptionsT | schema.DepthwiseConv2DOptionsT):
                continue
            height, width = (int(n) for n in graph.tensors[operator.inputs[1]].shape[1:3])
            if width == 1 and options.dilationWFactor == 1:
                options.dilationWFactor = options.dilationHFactor
            elif height == 1 and options.dilationHFactor == 1:
                options.dilationHFactor = options.dilationWFactor
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    prepared = bytes(builder.Output())
    before, after = _answer(content), _answer(prepared)
    if not np.array_equal(before, after):
        raise CompileError("what was prepared for the compiler answers otherwise than the model")
    return prepared


def _answer(content: bytes) -> I8:
    with quiet_stderr():
        interpreter: Any = interpreter_class()(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
    details = interpreter.get_input_details()[0]
    _, *shape = (int(n) for n in details["shape"])
    interpreter.set_tensor(details["index"], reference_input(*shape)[None])
    interpreter.invoke()
    return np.asarray(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]), np.int8)


def compile_model(path: Path) -> tuple[Path, str]:
    """Compile a model.

    Returns:
        What was written, beside `path`, and what the compiler said.

    Raises:
        CompileError: There is no compiler, or it does not take the model.
        ModelError: `path` is no model.
    """
    model = Model(path)
    compiler = shutil.which(COMPILER)
    if compiler is None:
        raise CompileError(HOW_TO_GET_IT)
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / path.name
        source.write_bytes(prepare(path.read_bytes()))
        command = [compiler, "--show_operations", "--out_dir", scratch, str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = (done.stdout + done.stderr).strip()
        made = compiled_path(source)
        # Refusals end with 0, too.
        if done.returncode or not made.is_file():
            raise CompileError(f"{COMPILER} has not compiled {path}:\n{said}")
        target = compiled_path(path)
        target.write_bytes(attach_metadata(made.read_bytes(), model.metadata))
    return target, said


def main() -> int:
    """Compile the model that the command line names, the shipped one otherwise."""
    parser = argparse.ArgumentParser(prog="python -m train.edgetpu", description="Compile a model for the Edge TPU.")
    parser.add_argument("model", type=Path, nargs="?", default=default_model_path(), help="the shipped one otherwise")
    path = parser.parse_args().model
    try:
        for operator in Model(path).edge_tpu_operators():
            if operator.obstacle is not None:
                print(f"{operator.name} will be left to the CPU: {operator.obstacle}", file=sys.stderr)
        target, said = compile_model(path)
    except (CompileError, ModelError) as error:
        print(error, file=sys.stderr)
        return 1
    print(said)
    print(f"{target}: beside {path} the monitor finds it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
