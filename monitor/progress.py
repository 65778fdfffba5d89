"""The progress bar of `monitor replay`: one line on standard error, redrawn in place."""

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO, cast

from monitor.timebase import format_time

if TYPE_CHECKING:
    from rich.console import Console

# Often enough to look alive, rare enough to cost nothing next to reading a file.
_REDRAW_INTERVAL_S = 0.1
_MIN_BAR_WIDTH = 10
_MAX_BAR_WIDTH = 40

_ERASE_LINE = "\r\x1b[2K"


class ReplayProgress:
    """Shows the stream time reached, percent, speed and detections so far; disappears when done.

    Rich's own live display is not used: it takes over standard output and would send its rows to standard error.
    Instead, `guard` gives a stream that lifts the bar before each row and leaves its redrawing to the next update.
    """

    def __init__(
        self,
        total_s: float,
        *,
        enabled: bool | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is drawn before the first update.

        Args:
            total_s: Length of all recordings, seconds of stream time; 0 where it is not known.
            enabled: Whether to draw; by default only where the stream is a terminal that can move its cursor.
            stream: Where to draw; by default standard error.
            clock: Seconds that only increase, for the speed and for how often to redraw.
        """
        self._total_s = total_s
        self._stream = sys.stderr if stream is None else stream
        self._enabled = _can_redraw(self._stream) if enabled is None else enabled
        self._clock = clock
        self._started = self._next_draw = clock()
        self._console: Console | None = None
        self._drawn = False

    def __enter__(self) -> Self:
        """Start the clock."""
        self._started = self._next_draw = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away, so that a summary or an error message begins on a clean line."""
        self.erase()
        self._enabled = False

    def update(self, stream_ns: int, done_s: float, detections: int) -> None:
        """Say how far the replay is; may be called for every packet.

        Args:
            stream_ns: Stream time reached, nanoseconds since the epoch.
            done_s: Seconds of stream time done, of `total_s`.
            detections: How many there are so far.
        """
        if not self._enabled:
            return
        now = self._clock()
        if now < self._next_draw:
            return
        self._next_draw = now + _REDRAW_INTERVAL_S
        self._drawn = True
        with self._forgiving():
            line = self._line(stream_ns, done_s, detections, now - self._started)
            self._stream.write(f"\r{line}\x1b[K")
            self._stream.flush()

    def erase(self) -> None:
        """Take the bar away until the next redraw."""
        if self._drawn:
            self._drawn = False
            with self._forgiving():
                self._stream.write(_ERASE_LINE)
                self._stream.flush()
            # Rows come in bursts; the bar must be back with the next update after one.
            self._next_draw = self._clock()

    def guard(self, stream: TextIO) -> TextIO:
        """Wrap a stream that may show on the same terminal, standard output or that of a log.

        Args:
            stream: Written to while the bar is shown, through what is returned.

        Returns:
            The same stream where no bar can be in the way; otherwise one that erases the bar before each write.
        """
        if not self._enabled or not stream.isatty():
            return stream
        return cast("TextIO", _GuardedStream(stream, self.erase))

    def _line(self, stream_ns: int, done_s: float, detections: int, elapsed_s: float) -> str:
        speed = f"{done_s / elapsed_s:,.0f}x real time  " if elapsed_s > 0 and done_s > 0 else ""
        share = min(max(done_s / self._total_s, 0.0), 1.0) if self._total_s > 0 else None
        percent = "" if share is None else f"{share:4.0%}  "
        noun = "detection" if detections == 1 else "detections"
        text = f"{percent}{_stream_time(stream_ns)}  {speed}{detections} {noun}"
        return self._render(share, text)

    def _render(self, share: float | None, text: str) -> str:
        # Imported here: with no terminal there is no bar, and Rich need not be loaded.
        from rich.console import Console  # noqa: PLC0415
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        if self._console is None:
            self._console = Console(file=self._stream, force_terminal=True, highlight=False)
        # The last column stays free: a terminal that wraps there could not be redrawn.
        width = self._console.width - 1
        bar_width = min(_MAX_BAR_WIDTH, width - len(text) - 2)
        with self._console.capture() as captured:
            if share is not None and bar_width >= _MIN_BAR_WIDTH:
                self._console.print(
                    ProgressBar(total=1.0, completed=share, width=bar_width), Text("  "), end="", sep=""
                )
            self._console.print(Text(text[:width]), end="", soft_wrap=True)
        return captured.get()

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        # A terminal that went away, or cannot show a bar, must not end the replay.
        try:
            yield
        except (OSError, UnicodeError):
            self._enabled = self._drawn = False


class _GuardedStream(io.TextIOBase):
    """A text stream that does something before each write."""

    def __init__(self, stream: TextIO, before_write: Callable[[], None]) -> None:
        super().__init__()
        self._stream = stream
        self._before_write = before_write

    # Read-only attributes of TextIOBase; what writes to a terminal asks for them.
    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    @property
    def name(self) -> str:
        return self._stream.name

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._before_write()
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()


def _can_redraw(stream: TextIO) -> bool:
    with contextlib.suppress(ValueError):
        return stream.isatty() and os.environ.get("TERM") != "dumb"
    return False


def _stream_time(stream_ns: int) -> str:
    return format_time(stream_ns, digits=0).replace("T", " ").replace("Z", " UTC")
