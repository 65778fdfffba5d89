"""Inference on an Edge TPU, in a process of its own: `python -m monitor.edgetpu_worker MODEL LIBRARY`.

Its driver ends the process it runs in when the stick vanishes or stops to answer (google-coral/edgetpu, issues 11 and
297); so that this is not the monitor, `monitor.edgetpu` starts this one.

On standard output: one line of JSON, {"frames": …, "outputs": …, "labels": …} or {"reason": …, "text": …}. Then for
each input of `frames` int8 frames on standard input either `GOOD` and the int8 outputs, or `BAD` and a line that says
why. Ends with standard input.
"""

import json
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from monitor.interpreter import RuntimeMissingError, interpreter_class, load_delegate

GOOD, BAD = b"\0", b"\1"

Opener = Callable[[bytes, str], Any]


class OpenError(Exception):
    """The model cannot be run on a stick; `reason` as in `monitor.edgetpu.FALLBACK_REASONS`."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def open_interpreter(content: bytes, library: str) -> Any:
    """Make an interpreter that leaves to the stick what was compiled for it.

    Raises:
        OpenError: There is no library, no stick, or it does not take the model.
    """
    try:
        interpreter = interpreter_class()
        delegate = load_delegate(library)
    except RuntimeMissingError as error:
        raise OpenError("no_library", str(error)) from error
    except OSError as error:
        raise OpenError("no_library", f"{library} cannot be loaded: {error}") from error
    except AttributeError as error:
        raise OpenError("no_library", f"{library} is no TensorFlow Lite delegate: {error}") from error
    except ValueError as error:
        raise OpenError("absent", f"{library} finds no Edge TPU: {' '.join(str(error).split())}") from error
    try:
        return interpreter(model_content=content, experimental_delegates=[delegate], num_threads=1)
    except (ValueError, RuntimeError) as error:
        raise OpenError("refused", f"the Edge TPU does not take the model: {' '.join(str(error).split())}") from error


def serve(content: bytes, library: str, source: BinaryIO, sink: BinaryIO, *, opener: Opener = open_interpreter) -> None:
    """Answer until `source` ends."""
    try:
        interpreter = opener(content, library)
        interpreter.allocate_tensors()
    except OpenError as error:
        _write(sink, json.dumps({"reason": error.reason, "text": str(error)}).encode() + b"\n")
        return
    except (ValueError, RuntimeError) as error:
        text = f"the Edge TPU does not take the model: {' '.join(str(error).split())}"
        _write(sink, json.dumps({"reason": "refused", "text": text}).encode() + b"\n")
        return
    given, answer = interpreter.get_input_details()[0], interpreter.get_output_details()[0]["index"]
    shape = [int(n) for n in given["shape"]]
    *outputs, labels = (int(n) for n in interpreter.get_output_details()[0]["shape"])
    told = {"frames": shape[1], "outputs": math.prod(outputs), "labels": labels}
    _write(sink, json.dumps(told).encode() + b"\n")
    while len(data := source.read(math.prod(shape))) == math.prod(shape):
        try:
            interpreter.set_tensor(given["index"], np.frombuffer(data, np.int8).reshape(shape))
            interpreter.invoke()
            output = interpreter.get_tensor(answer)
        except (ValueError, RuntimeError) as error:
            _write(sink, BAD + " ".join(str(error).split()).encode()[:500] + b"\n")
            return
        _write(sink, GOOD + np.asarray(output, np.int8).tobytes())


def main(opener: Opener = open_interpreter) -> None:
    """Serve standard input and output."""
    # The monitor ends this process, not who presses Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    path, library = sys.argv[1:]
    # Libraries write where they like to: not between the answers.
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(Path(path).read_bytes(), library, sys.stdin.buffer, sink, opener=opener)


def _write(sink: BinaryIO, data: bytes) -> None:
    sink.write(data)
    sink.flush()


if __name__ == "__main__":
    main()
