"""What pictures are drawn with: a sheet with an axis of time, and panels of lines. The one importer of Pillow.

Text and pictures are placed at once; lines are drawn three times as large and reduced, panel by panel, so that they
are smooth and a picture takes a few megabytes while it is drawn.
"""

import io
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from monitor.drawing.colours import GREY, INK, RULE, WHITE, Colour, tinted
from monitor.explain.moment import Span
from monitor.timeaxis import utc_ticks

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]

WIDTH = 1200
LEFT, RIGHT = 84, 1128
_SCALE = 3


class PictureError(Exception):
    """A picture could not be drawn or written; the message says why."""


class Box(NamedTuple):
    """Pixels: from left and top, and up to right and bottom, excluded."""

    left: int
    top: int
    right: int
    bottom: int


class Mark(NamedTuple):
    """A time that is marked through all panels."""

    time_ns: int
    text: str
    colour: Colour


def _pillow() -> tuple[Any, Any, Any]:
    try:
        from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415
    except ImportError as error:
        raise PictureError("pictures need Pillow, which is not installed: pip install pillow") from error
    return Image, ImageDraw, ImageFont


@lru_cache(maxsize=16)
def _font(size: int) -> "FreeTypeFont":
    return _pillow()[2].load_default(size)  # type: ignore[no-any-return]


class Sheet:
    """A white sheet with a common axis of time.

    Args:
        height: Pixels; it is 1200 wide.
        span: The time from `LEFT` to `RIGHT`.

    Raises:
        PictureError: Pillow is not installed.
    """

    def __init__(self, height: int, span: Span) -> None:
        image, draw, _ = _pillow()
        self.span = span
        self.image: Image = image.new("RGB", (WIDTH, height), WHITE)
        self._draw = draw.Draw(self.image)

    def text(self, x: float, y: float, text: str, *, size: int = 14, colour: Colour = INK, anchor: str = "ls") -> float:
        """Write a line; returns where it ends. `anchor` is Pillow's: l, m, r and a, m, s (baseline)."""
        self._draw.text((x, y), text, fill=colour, font=_font(size), anchor=anchor)
        return x + self.width(text, size)

    @staticmethod
    def width(text: str, size: int) -> float:
        """Pixels that a line takes."""
        return float(_font(size).getlength(text))

    @classmethod
    def wrapped(cls, text: str, size: int, width: float) -> Iterator[str]:
        """Break text into lines no wider than so many pixels."""
        line = ""
        for word in text.split():
            longer = f"{line} {word}".strip()
            if line and cls.width(longer, size) > width:
                yield line
                line = word
            else:
                line = longer
        if line:
            yield line

    def x(self, time_ns: int) -> float:
        """Where a time is."""
        share = (time_ns - self.span.start_ns) / (self.span.end_ns - self.span.start_ns)
        return LEFT + share * (RIGHT - LEFT)

    def rule(self, x0: float, y0: float, x1: float, y1: float, *, colour: Colour = RULE) -> None:
        """Draw a hairline, upright or level."""
        self._draw.line((x0, y0, x1, y1), fill=colour, width=1)

    def paste(self, pixels: U8, box: Box) -> None:
        """Put a picture [shape=(h, w, 3)] into a box."""
        image, _, _ = _pillow()
        drawn = image.fromarray(np.ascontiguousarray(pixels))
        if drawn.size != (box.right - box.left, box.bottom - box.top):
            drawn = drawn.resize((box.right - box.left, box.bottom - box.top), image.Resampling.NEAREST)
        self.image.paste(drawn, (box.left, box.top))

    def time_axis(self, y: int, panels: Sequence[Box]) -> None:
        """Write times below the lowest panel, and short ticks below each."""
        ticks = utc_ticks(*self.span, at_most=9)
        for time_ns, label in zip(ticks.times_ns, ticks.labels, strict=True):
            x = round(self.x(time_ns))
            for box in panels:
                self.rule(x, box.bottom, x, box.bottom + 4, colour=GREY)
            for number, line in enumerate(label.split("\n")):
                self.text(x, y + 20 + 14 * number, line, size=13, colour=GREY, anchor="ms")
        self.text(RIGHT, y + 38, ticks.title, size=13, colour=GREY, anchor="rs")

    def names(self, marks: Sequence[Mark], y: float) -> None:
        """Write the names of marked times; of two that are close the first one stands to the left."""
        seen = sorted((mark for mark in marks if self.shows(mark)), key=lambda mark: mark.time_ns)
        for number, mark in enumerate(seen):
            x, anchor = self.x(mark.time_ns), "ms"
            if any(abs(self.x(other.time_ns) - x) < 22 for other in seen if other is not mark):
                anchor = "ls" if number else "rs"
            self.text(x, y, mark.text, size=15, colour=mark.colour, anchor=anchor)

    def shows(self, mark: Mark) -> bool:
        """Is it within the axis?"""
        return self.span.start_ns <= mark.time_ns < self.span.end_ns

    def upright(self, marks: Sequence[Mark], box: Box) -> None:
        """Draw marked times over a picture: dashes of their colour and of white, seen on bright and on dark."""
        for mark in marks:
            if self.shows(mark):
                x = round(self.x(mark.time_ns))
                for number, y in enumerate(range(box.top, box.bottom, 5)):
                    colour = WHITE if number % 2 else mark.colour
                    self._draw.line((x, y, x, min(y + 5, box.bottom) - 1), fill=colour, width=2)

    def png(self) -> bytes:
        """It as PNG."""
        stream = io.BytesIO()
        self.image.save(stream, "PNG")
        return stream.getvalue()


class Lines:
    """A panel of lines on a sheet, drawn large; `close` puts it there.

    Args:
        sheet: Where.
        box: Its place.
        low, high: What the bottom and the top stand for.
        ground: Colour behind.
    """

    def __init__(self, sheet: Sheet, box: Box, low: float, high: float, *, ground: Colour = WHITE) -> None:
        image, draw, _ = _pillow()
        self._sheet, self.box, self._low, self._high = sheet, box, low, high
        self._size = ((box.right - box.left) * _SCALE, (box.bottom - box.top) * _SCALE)
        self._image = image.new("RGB", self._size, ground)
        self._draw = draw.Draw(self._image)

    def _y(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return (1 - share) * (self._size[1] - 1)

    def curve(self, times_ns: npt.NDArray[np.int64], values: F64, colour: Colour, *, width: float = 1.0) -> None:
        """Draw values [shape=(n,)] along times; nothing where they are NaN."""
        sheet = self._sheet
        x = (np.asarray([sheet.x(int(times_ns[0])), sheet.x(int(times_ns[-1]))]) - self.box.left) * _SCALE
        along = np.interp(times_ns - times_ns[0], (0, times_ns[-1] - times_ns[0]), x)
        share = np.clip((values - self._low) / (self._high - self._low), -0.5, 1.5)
        up = (1 - share) * (self._size[1] - 1)
        real = np.isfinite(values)
        edges = np.flatnonzero(np.diff(np.concatenate(([False], real, [False])).astype(np.int8)))
        for start, stop in edges.reshape(-1, 2).tolist():
            points = np.stack((along[start:stop], up[start:stop]), axis=1).reshape(-1).tolist()
            if stop - start > 1:
                self._draw.line(points, fill=colour, width=max(1, round(width * _SCALE)))

    def shade(self, start_ns: int, end_ns: int, colour: Colour) -> None:
        """Tint a span of time."""
        x0, x1 = ((self._sheet.x(t) - self.box.left) * _SCALE for t in (start_ns, end_ns))
        if x1 > x0:
            self._draw.rectangle((x0, 0, x1, self._size[1]), fill=colour)

    def level(self, value: float, colour: Colour, *, dash: int = 0) -> None:
        """Draw a level line, dashed if asked."""
        y, step = self._y(value), dash * _SCALE or self._size[0]
        for x in range(0, self._size[0], 2 * step):
            self._draw.line((x, y, x + step, y), fill=colour, width=_SCALE)

    def upright(self, marks: Sequence[Mark], *, faint: bool = False) -> None:
        """Draw marked times, behind what is drawn later."""
        for mark in marks:
            if self._sheet.shows(mark):
                x = (self._sheet.x(mark.time_ns) - self.box.left) * _SCALE
                colour = tinted(mark.colour, 0.5) if faint else mark.colour
                self._draw.line((x, 0, x, self._size[1]), fill=colour, width=round((1 if faint else 1.6) * _SCALE))

    def close(self) -> None:
        """Put it on the sheet."""
        image, _, _ = _pillow()
        small = self._image.resize(
            (self.box.right - self.box.left, self.box.bottom - self.box.top), image.Resampling.BOX
        )
        self._sheet.image.paste(small, (self.box.left, self.box.top))
        self._sheet.rule(self.box.left, self.box.bottom, self.box.right, self.box.bottom, colour=GREY)


def smooth(values: F64, width: int, height: int) -> F64:
    """Resample an image [shape=(h, w)] without seams; NaN stays as sharp as it was."""
    image, _, _ = _pillow()
    masked = np.isnan(values)
    plain = image.fromarray(np.nan_to_num(values).astype(np.float32))
    result = np.asarray(plain.resize((width, height), image.Resampling.BILINEAR), np.float64).copy()
    if masked.any():
        mask = image.fromarray((255 * masked).astype(np.uint8))
        result[np.asarray(mask.resize((width, height), image.Resampling.NEAREST)) > 127] = np.nan
    return result
