"""The one importer of the TensorFlow Lite runtime, whichever is installed: ai-edge-litert or tflite-runtime."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


class RuntimeMissingError(Exception):
    """No interpreter is installed; the message says which are accepted."""


def interpreter_class() -> Any:
    """The runtime's Interpreter.

    Raises:
        RuntimeMissingError: None is installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415
    except ImportError:
        try:
            from tflite_runtime.interpreter import Interpreter  # noqa: PLC0415
        except ImportError as error:
            raise RuntimeMissingError(
                "no TensorFlow Lite interpreter is installed; accepted: ai-edge-litert or tflite-runtime"
            ) from error
    return Interpreter


def load_delegate(library: str) -> Any:
    """Load a delegate by the same runtime.

    Raises:
        OSError: There is no such library, or it needs one that is missing.
        AttributeError: It is no delegate.
        ValueError: It is, but finds no device.
    """
    try:
        from ai_edge_litert.interpreter import load_delegate as load  # noqa: PLC0415
    except ImportError:
        from tflite_runtime.interpreter import load_delegate as load  # noqa: PLC0415
    return load(library)


def without_delegates() -> Any:
    """The operators as the file has them, none taken over by the runtime's own delegate."""
    try:
        from ai_edge_litert.interpreter import OpResolverType  # noqa: PLC0415
    except ImportError:
        from tflite_runtime.interpreter import OpResolverType  # noqa: PLC0415
    return OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """The interpreter tells the terminal which delegate it made; its errors come as exceptions all the same."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
