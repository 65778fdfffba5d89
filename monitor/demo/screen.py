"""What the demo prints: lines of text, coloured on a terminal, plain in a pipe."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, TextIO

from monitor.output import write_now

if TYPE_CHECKING:
    from rich.console import Console


class Part(NamedTuple):
    """Text, and how it is shown where that is possible (a style of Rich)."""

    text: str
    style: str = ""


Line = tuple[Part, ...]


def line(*parts: str | Part) -> Line:
    """Put a line together."""
    return tuple(Part(part) if isinstance(part, str) else part for part in parts)


def wants_color(stream: TextIO) -> bool:
    """Is it a terminal that shows colours, whose owner wants them (https://no-color.org)?"""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Screen:
    """Prints lines, each at once.

    Args:
        stream: Where to.
        color: Use the styles.
    """

    def __init__(self, stream: TextIO, *, color: bool) -> None:
        self._stream = stream
        self._console = _console(stream) if color else None

    def show(self, lines: Iterable[Line]) -> None:
        """Print lines.

        Raises:
            OutputClosedError: The reader has gone.
            OutputError: They could not be written.
        """
        write_now(self._stream, "".join(self._rendered(one) + "\n" for one in lines))

    def _rendered(self, parts: Line) -> str:
        if self._console is None:
            return "".join(part.text for part in parts).rstrip()
        from rich.text import Text  # noqa: PLC0415 - only colours pay for Rich

        # Text, not a string: a station called [red] must stay text.
        text = Text("").join(Text(part.text, style=part.style) for part in parts)
        text.rstrip()
        with self._console.capture() as captured:
            self._console.print(text, soft_wrap=True, end="")
        return captured.get()


def _console(stream: TextIO) -> "Console":
    from rich.console import Console  # noqa: PLC0415 - only colours pay for Rich

    return Console(file=stream, force_terminal=True, highlight=False, markup=False, emoji=False)
