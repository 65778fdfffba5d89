"""Colours of pictures: a map whose lightness grows evenly, and tints.

Interpolated in Oklab (B. Ottosson, 2020, https://bottosson.github.io/posts/oklab/), where equal steps look equally
large; told apart with any colour vision, since lightness alone carries the value.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

WHITE: Colour = (255, 255, 255)
INK: Colour = (28, 30, 33)
GREY: Colour = (104, 108, 114)
RULE: Colour = (206, 209, 213)
MASKED: Colour = (232, 233, 235)
# Okabe and Ito (2008, https://jfly.uni-koeln.de/color/): told apart with any colour vision.
VERMILLION: Colour = (213, 94, 0)
BLUE: Colour = (0, 114, 178)
GREEN: Colour = (0, 133, 98)

# Lightness from dark to bright in even steps; hue from violet over blue and green to yellow, degrees; chroma.
_LIGHTNESS = (0.20, 0.97)
_HUE = (285.0, 262.0, 225.0, 178.0, 145.0, 105.0)
_CHROMA = (0.085, 0.130, 0.105, 0.110, 0.150, 0.135)


def oklab_to_srgb(lab: F64) -> U8:
    """Convert Oklab [shape=(..., 3)] to sRGB [same shape, dtype=uint8], clipped to what sRGB has."""
    to_cone = np.array(
        [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
    )
    to_linear = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip((lab @ to_cone.T) ** 3 @ to_linear.T, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(255 * encoded), np.uint8)


@lru_cache(maxsize=1)
def even_map() -> U8:
    """Give the colours [shape=(256, 3), dtype=uint8] from the lowest value, dark, to the highest, bright."""
    at = np.linspace(0, 1, 256)
    knots = np.linspace(0, 1, len(_HUE))
    hue, chroma = np.deg2rad(np.interp(at, knots, _HUE)), np.interp(at, knots, _CHROMA)
    lightness = np.interp(at, (0, 1), _LIGHTNESS)
    return oklab_to_srgb(np.stack((lightness, chroma * np.cos(hue), chroma * np.sin(hue)), axis=-1))


def mapped(values: F64, low: float, high: float) -> U8:
    """Colour values [shape=(...)] by the map; NaN is masked grey."""
    share = np.clip((np.nan_to_num(values, nan=low) - low) / (high - low), 0, 1)
    result = even_map()[np.rint(255 * share).astype(np.intp)]
    result[np.isnan(values)] = MASKED
    return result


def faded(values: F64, low: float, high: float) -> U8:
    """The same in light greys, darker for more, for what is a background to something else."""
    share = np.clip((np.nan_to_num(values, nan=low) - low) / (high - low), 0, 1)
    grey = np.rint(255 - 120 * share).astype(np.uint8)
    result = np.repeat(grey[..., None], 3, axis=-1)
    result[np.isnan(values)] = MASKED
    return result


def blended(ground: U8, colour: Colour, opacity: F64) -> U8:
    """Lay a colour over an image [shape=(h, w, 3)] with an opacity [shape=(h, w)], 0 to 1."""
    share = np.clip(opacity, 0, 1)[..., None]
    return np.asarray(np.rint(ground * (1 - share) + np.array(colour) * share), np.uint8)


def tinted(colour: Colour, share: float) -> Colour:
    """Mix a colour with white: 1 is the colour, 0 is white."""
    red, green, blue = (round(255 + share * (part - 255)) for part in colour)
    return red, green, blue
