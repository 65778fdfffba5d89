"""What noise has buried is not asked for: an earthquake that nobody could see any more is neither one nor noise."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from train.spectral import in_band

F64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Event = tuple[float | None, float | None]

# Power behind an arrival over that ahead of the P, on the component that shows it best. Of noise alone the best of
# three is 1.2 +- 0.15 in this band; where analysts still pick, 1.5 and more.
_P_RATIO = 1.45
_S_RATIO = 2.0
_BEHIND_P, _BEHIND_S = 150, 200
_AHEAD, _CLEARANCE = 450, 30
_LEAST_AHEAD = 100


@dataclass(frozen=True, slots=True)
class Seen:
    """What is left of a crop's earthquakes.

    Attributes:
        events: (P sample or None, S sample or None) of those that can be seen; a buried P leaves its S.
        unknown: [shape=(npts,), dtype=bool] Where the others are.
    """

    events: list[Event]
    unknown: Bool


def seen(wave: F64, events: list[Event], *, highest_hz: float) -> Seen:
    """Tell which earthquakes stand out of the noise, as it has become.

    Args:
        wave: [shape=(3, npts)] Z N E at 100 Hz; 0 where a component is absent.
        events: (P sample or None, S sample or None) of each earthquake.
        highest_hz: Of what the recorder keeps.
    """
    n = wave.shape[1]
    unknown = np.zeros(n, bool)
    if not events:
        return Seen([], unknown)
    power = in_band(wave, high_hz=min(20.0, highest_hz)) ** 2
    left: list[Event] = []
    for p, s in events:
        if p is None or p < _CLEARANCE + _LEAST_AHEAD or p >= n - _BEHIND_P:
            # Too near the edge to tell.
            left.append((p, s))
            continue
        ahead = power[:, max(0, int(p) - _AHEAD) : int(p) - _CLEARANCE].mean(axis=1)
        if _ratio(power, int(p), _BEHIND_P, ahead) >= _P_RATIO:
            left.append((p, s))
            continue
        after = 1000.0 if s is None else max(500.0, 3 * (s - p))
        if s is not None and s < n - _BEHIND_S and _ratio(power, int(s), _BEHIND_S, ahead) >= _S_RATIO:
            unknown[int(p) - 50 : int(s) - 20] = True
            left.append((None, s))
        else:
            unknown[int(p) - 50 : int((p if s is None else s) + after)] = True
    return Seen(left, unknown)


def _ratio(power: F64, at: int, length: int, ahead: F64) -> float:
    behind = power[:, at : at + length].mean(axis=1)
    some = ahead > 0
    return float((behind[some] / ahead[some]).max()) if some.any() else np.inf
