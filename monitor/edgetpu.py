"""Inference on a Coral Edge TPU while there is one.

The driver aborts the process that it runs in when the stick is pulled out or the bus has a fault, so that it has a
process of its own, `monitor.edgetpu_worker`. Whatever happens there, `EdgeTpu.run` says within `_ANSWER_LIMIT_S` that
there is no answer, the caller takes the processor for the same frames, and the stick is tried again after waits that
grow. A compiled model takes one length of input: longer inputs are run in pieces of it, which gives the same outputs,
since each rests on its own frames only.
"""

import contextlib
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from monitor.edgetpu_worker import GOOD

I8 = npt.NDArray[np.int8]
Reason = Literal["no_model", "no_library", "absent", "refused", "wrong_answers", "failed", "hung"]

LIBRARY: Final = "libedgetpu.so.1"
FALLBACK_REASONS: Final = ("no_model", "no_library", "absent", "refused", "wrong_answers", "failed", "hung")
# The same again would end the same: what is missing takes a person, and a restart.
_FINAL: Final = ("no_model", "no_library", "wrong_answers")
# One second of data takes milliseconds; the first answer, for which the stick is loaded, a few hundred.
_ANSWER_LIMIT_S: Final = 5.0
# Importing the runtime on a small board, and the firmware that the stick is given when it is first opened.
_START_LIMIT_S: Final = 30.0
_FIRST_WAIT_S: Final = 5.0
_LONGEST_WAIT_S: Final = 300.0
# After so long without a fault the next one is a new one, and waits begin again with the first.
_STEADY_S: Final = 600.0
# Of what the driver said last.
_MOST_WORDS: Final = 2000

log = logging.getLogger("monitor")


class StickError(Exception):
    """The stick cannot be used now; `reason` is one of `FALLBACK_REASONS`."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason: Reason = reason


def compiled_path(path: Path) -> Path:
    """Where the compiled form of a model is looked for: beside it, by the name that the compiler gives."""
    return path.with_name(f"{path.stem}_edgetpu.tflite")


class EdgeTpu:
    """The stick, or the lack of it.

    Args:
        path: A model compiled for it.
        context: Frames before the last one that one output needs.
        stride: Frames between outputs.
        one_by_one: The model gives one output a run, whatever its stride.
        check: Runs the reference input through what it is given, and says what differs.
        library: Its driver, as a TensorFlow Lite delegate.
        worker: What to start, before the names of model and library.
        monotonic: A clock, seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        context: int,
        stride: int,
        one_by_one: bool,
        check: Callable[[Callable[[I8], I8]], Sequence[str]],
        library: str = LIBRARY,
        worker: Sequence[str] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        # Each reason from the start: another thread reads them.
        self.fallbacks: dict[str, int] = dict.fromkeys(FALLBACK_REASONS, 0)
        self._context, self._stride, self._one_by_one, self._check = context, stride, one_by_one, check
        # -P: nothing that lies in the working directory is imported.
        worker = worker or (sys.executable, "-P", "-m", "monitor.edgetpu_worker")
        self._command = (*worker, str(path), library)
        self._monotonic = monotonic
        self._process: _Process | None = None
        self._ready = False
        self._length = self._outputs = self._labels = 0
        self._since = self._deadline = self._retry_at = 0.0
        self._tries_again, self._wait_s = True, _FIRST_WAIT_S

    @property
    def ready(self) -> bool:
        """Is it what runs the model?"""
        return self._ready

    def start(self) -> None:
        """Wait until it runs the model.

        Raises:
            StickError: It does not; where another try may help, it is made by and by.
        """
        try:
            self._begin()
            self._welcome(_START_LIMIT_S)
        except StickError as error:
            self._give_up(error)
            raise

    def run(self, frames: I8) -> I8 | None:
        """Judge consecutive frames.

        Args:
            frames: [shape=(n_frames, n_freq, n_components)], as many as a whole number of outputs needs.

        Returns:
            [shape=(n_outputs, n_labels)]; None where the caller has to do it.
        """
        if not self._ready:
            self._try_again()
        if not self._ready:
            return None
        try:
            return self._in_pieces(frames)
        except StickError as error:
            self._give_up(error)
            self.count(error)
            log.warning("the Edge TPU is lost, the model runs on the CPU: %s%s", error, self._next_try())
            return None

    def count(self, error: StickError) -> None:
        """The processor does what the stick was to do."""
        self.fallbacks[error.reason] += 1

    def close(self) -> None:
        """End its process."""
        self._ready, self._tries_again = False, False
        if self._process is not None:
            self._process.end()
            self._process = None

    # -- from no stick to a stick, and back --------------------------------------------------------------------------

    def _begin(self) -> None:
        self._deadline = self._monotonic() + _START_LIMIT_S
        try:
            self._process = _Process(self._command)
        except OSError as error:
            raise StickError("failed", f"{self._command[0]} cannot be started: {error.strerror}") from error

    def _welcome(self, timeout_s: float) -> None:
        """Take up a process that says that it is there; nothing, if it has said nothing in so long."""
        assert self._process is not None
        line = self._process.line(timeout_s)
        if line is None:
            if timeout_s or self._monotonic() > self._deadline:
                raise StickError("hung", f"its driver has not answered for {_START_LIMIT_S:g} s")
            return
        said = json.loads(line)
        if "reason" in said:
            raise StickError(said["reason"], said["text"])
        self._length, self._outputs, self._labels = said["frames"], said["outputs"], said["labels"]
        outputs, rest = divmod(self._length - self._context - 1, self._stride)
        if rest or outputs + 1 != self._outputs or (self._one_by_one and outputs):
            text = f"{self.path} takes {self._length} frames and gives {self._outputs} outputs, which does not fit"
            raise StickError("refused", text)
        differences = self._check(self._in_pieces)
        if differences:
            raise StickError("wrong_answers", f"{self.path}: {'; '.join(differences)}")
        self._ready, self._since = True, self._monotonic()

    def _try_again(self) -> None:
        """Get on with the next try, without waiting for anything."""
        if self._process is None and not (self._tries_again and self._monotonic() >= self._retry_at):
            return
        try:
            if self._process is None:
                self._begin()
            self._welcome(0.0)
        except StickError as error:
            self._give_up(error)
            log.info("still no Edge TPU: %s%s", error, self._next_try())
        else:
            if self._ready:
                log.warning("the Edge TPU is back and runs the model")

    def _give_up(self, error: StickError) -> None:
        now = self._monotonic()
        if self._ready and now - self._since >= _STEADY_S:
            self._wait_s = _FIRST_WAIT_S
        self._ready = False
        if self._process is not None:
            self._process.kill()
            self._process.end()
            self._process = None
        self._tries_again = error.reason not in _FINAL
        self._retry_at = now + self._wait_s
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)

    def _next_try(self) -> str:
        return f"; next try in {self._retry_at - self._monotonic():.0f} s" if self._tries_again else ""

    # -- inference ---------------------------------------------------------------------------------------------------

    def _in_pieces(self, frames: I8) -> I8:
        needed = (len(frames) - self._context - 1) // self._stride + 1
        answers = []
        for first in range(0, needed, self._outputs):
            piece = frames[first * self._stride : first * self._stride + self._length]
            # What is missing is seen by those outputs only that nobody asked for.
            padded = np.zeros((self._length, *frames.shape[1:]), np.int8)
            padded[: len(piece)] = piece
            answers.append(self._one(padded))
        return np.concatenate(answers)[:needed]

    def _one(self, frames: I8) -> I8:
        assert self._process is not None
        self._process.send(frames.tobytes(), _ANSWER_LIMIT_S)
        if self._process.take(1, _ANSWER_LIMIT_S) != GOOD:
            text = self._process.line(_ANSWER_LIMIT_S)
            raise StickError("failed", f"its driver says: {'nothing' if text is None else text}")
        answer = self._process.take(self._outputs * self._labels, _ANSWER_LIMIT_S)
        return np.frombuffer(answer, np.int8).reshape(self._outputs, self._labels)


class _Process:
    """A process that is talked to within limits of time.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._in, self._out, self._err = (
            stream.fileno() for stream in (self._process.stdin, self._process.stdout, self._process.stderr)
        )
        self._received, self._words = b"", b""
        for descriptor in (self._in, self._out, self._err):
            os.set_blocking(descriptor, False)
        self.end = weakref.finalize(self, _end, self._process)

    def kill(self) -> None:
        """End it at once: nobody knows what its driver waits for."""
        self._process.kill()

    def send(self, data: bytes, timeout_s: float) -> None:
        """Write all of it."""
        rest, deadline = memoryview(data), time.monotonic() + timeout_s
        while rest:
            if not self._wait(deadline, writing=True):
                raise StickError("hung", f"its driver has taken nothing for {timeout_s:g} s")
            try:
                rest = rest[os.write(self._in, rest) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._ended() from None

    def take(self, n: int, timeout_s: float) -> bytes:
        """Read as much as that."""
        deadline = time.monotonic() + timeout_s
        while len(self._received) < n:
            if not self._wait(deadline):
                raise StickError("hung", f"its driver has not answered for {timeout_s:g} s")
        taken, self._received = self._received[:n], self._received[n:]
        return taken

    def line(self, timeout_s: float) -> str | None:
        """Read a line, None where there is none in so long."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._received:
            if not self._wait(deadline):
                return None
        line, _, self._received = self._received.partition(b"\n")
        return line.decode(errors="replace")

    def _wait(self, deadline: float, *, writing: bool = False) -> bool:
        """Wait for the process to take or to give something, and keep what it gives; False if it does neither."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            if self._err >= 0:
                selector.register(self._err, selectors.EVENT_READ)
            if writing:
                selector.register(self._in, selectors.EVENT_WRITE)
            ready = {key.fd for key, _ in selector.select(max(0.0, deadline - time.monotonic()))}
        if self._err in ready:
            said = os.read(self._err, 65536)
            self._words = (self._words + said)[-_MOST_WORDS:]
            if not said:
                self._err = -1
        if self._out in ready:
            said = os.read(self._out, 65536)
            if not said:
                raise self._ended()
            self._received += said
        return bool(ready)

    def _ended(self) -> StickError:
        with contextlib.suppress(BlockingIOError):
            while self._err >= 0 and (said := os.read(self._err, 65536)):
                self._words = (self._words + said)[-_MOST_WORDS:]
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            code = None
        how = f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with code {code}"
        words = [line.strip() for line in self._words.decode(errors="replace").splitlines() if line.strip()]
        return StickError("failed", f"its process ended {how}{f': {words[-1]}' if words else ''}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Let it give the stick back, and see that it is gone."""
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    try:
        process.wait(2.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
