"""A Coral Edge TPU that is none: the worker's process with a delegate and an interpreter that do as a file says.

    python tests/stick.py MOOD MODEL LIBRARY

The file MOOD holds what the stick is up to: nothing (it works), absent, refuse, fail, abort, hang, lie; each start adds
a line to MOOD.starts.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from monitor import edgetpu_worker
from monitor.interpreter import interpreter_class

MOOD = Path(sys.argv[1])


class Interpreter:
    """The runtime's, which the processor runs on behalf of the stick."""

    def __init__(self, *, model_content: bytes, experimental_delegates: list[object], num_threads: int) -> None:
        assert experimental_delegates == ["the stick"]
        if MOOD.read_text() == "refuse":
            raise RuntimeError("Node number 0 (EdgeTpuDelegateForCustomOp) failed to prepare.")
        self._real: Any = interpreter_class()(model_content=model_content, num_threads=num_threads)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def invoke(self) -> None:
        mood = MOOD.read_text()
        if mood == "fail":
            raise RuntimeError("transfer on tag 1 failed")
        if mood == "abort":
            print(
                "F driver/usb/usb_driver.cc:1148] HandleQueuedBulkIn transfer in failed.", file=sys.stderr, flush=True
            )
            os.kill(os.getpid(), signal.SIGABRT)
        if mood == "hang":
            time.sleep(600)
        self._real.invoke()

    def get_tensor(self, index: int) -> Any:
        answer = self._real.get_tensor(index)
        return np.bitwise_xor(answer, np.int8(64)) if MOOD.read_text() == "lie" else answer


def load_delegate(library: str) -> str:
    """Find the stick, or not."""
    with MOOD.with_suffix(".starts").open("a") as file:
        print("start", file=file)
    if MOOD.read_text() == "absent":
        raise ValueError(f"Failed to load delegate from {library}\n")
    return "the stick"


if __name__ == "__main__":
    del sys.argv[1]
    vars(edgetpu_worker).update(load_delegate=load_delegate, interpreter_class=lambda: Interpreter)
    edgetpu_worker.main()
