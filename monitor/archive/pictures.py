"""`python -m monitor.archive.pictures DIRECTORY`: the pictures of one archived event, at the lowest priority.

Started by `monitor.archive.drawing`; by hand it makes those of an earlier event anew.
"""

import argparse
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from monitor.archive.event import read_detection
from monitor.archive.layout import (
    DETECTION_FILE,
    EXPLANATION_FILE,
    EXPLANATION_PICTURE_FILE,
    PICTURE_FILE,
    WAVEFORM_FILE,
)

_LOWEST_PRIORITY = 19
# prctl(2).
_PR_SET_PDEATHSIG = 1
# A hundred times what it takes a desktop computer.
_MOST_CPU_S = 300


def main(arguments: list[str] | None = None) -> int:
    """Draw what was recorded and what the model made of it.

    Returns:
        0, or 1 where something could not be drawn; what, stands on standard error.
    """
    parser = argparse.ArgumentParser(prog="python -m monitor.archive.pictures", description=__doc__)
    parser.add_argument("directory", type=Path, help="of one event")
    parser.add_argument("--model", type=Path, help="a .tflite; the shipped one unless given")
    parser.add_argument("--parent", type=int, help="process id; when that process ends, so does this one")
    options = parser.parse_args(arguments)
    if options.parent is not None and not _end_with(options.parent):
        return _complain("who wanted it is gone")
    os.nice(_LOWEST_PRIORITY)
    # Of the time that it waits for the processor nothing is held against it.
    resource.setrlimit(resource.RLIMIT_CPU, (_MOST_CPU_S, _MOST_CPU_S))
    return draw(options.directory, options.model)


def _end_with(parent: int) -> bool:
    """Let the kernel end this process with its parent, killed or not; False where the parent is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent


def draw(directory: Path, model: Path | None) -> int:
    """As `main`, in this process."""
    try:
        detection = read_detection(directory)
        records = (directory / WAVEFORM_FILE).read_bytes()
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}")
    if detection is None:
        return _complain(f"{directory / DETECTION_FILE}: not there or damaged")
    # Pillow and the interpreter are loaded here, and nowhere in the service.
    from monitor.drawing.event import PictureError, draw_event  # noqa: PLC0415
    from monitor.explain.explanation import explain_event  # noqa: PLC0415
    from monitor.explain.moment import MomentError  # noqa: PLC0415
    from monitor.model import Model, ModelError  # noqa: PLC0415

    result = 0
    try:
        _beside(directory / PICTURE_FILE, lambda path: draw_event(detection, records, path))
    except (PictureError, OSError) as error:
        result = _complain(f"{PICTURE_FILE}: {error}")
    try:
        explanation = explain_event(detection, records, Model(model))
        _beside(directory / EXPLANATION_FILE, explanation.write_json)
        _beside(directory / EXPLANATION_PICTURE_FILE, explanation.draw)
    except (PictureError, MomentError, ModelError, OSError) as error:
        result = _complain(f"{EXPLANATION_FILE}: {error}")
    return result


def _beside(path: Path, write: Callable[[Path], None]) -> None:
    """Let a file be written beside its place and put there as a whole."""
    beside = path.with_name(f".{path.name}")
    try:
        write(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _complain(text: str) -> int:
    print(text, file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main())
