"""Which threshold is in force: the settings', the one for a wanted rate of false alarms, or the model's own."""

import math

import numpy as np

from monitor.detector import DetectorSettings
from monitor.model import Calibration, ModelMetadata

# As fine as calibrations are; below it machines' logarithms may differ, and the threshold is part of ids.
_STEPS = 1e6


class ThresholdError(ValueError):
    """The wanted rate of false alarms cannot be had from this model; the message says what can."""


def threshold_for(settings: DetectorSettings, metadata: ModelMetadata) -> float:
    """Say at which event probability a detection begins.

    Raises:
        ThresholdError: The settings want a rate of false alarms, and the model has no calibration or none that far.
    """
    if settings.threshold is not None:
        return settings.threshold
    if settings.false_alarms_per_day is None:
        return metadata.threshold
    wanted = settings.false_alarms_per_day
    if metadata.calibration is None:
        raise ThresholdError(
            f"false_alarms_per_day is {wanted:g} but the model {metadata.name} {metadata.version} has no calibration; "
            "accepted: threshold instead"
        )
    return _calibrated(wanted, metadata.calibration)


def attainable(calibration: Calibration) -> tuple[float, float]:
    """Give the lowest and highest rate that a calibration knows a threshold for, false alarms per station and day.

    The lowest is that of one false alarm in all the noise: where none was left, the noise was too short to tell how
    rare they are.

    Raises:
        ThresholdError: It is no calibration, or saw no false alarm at any threshold.
    """
    thresholds, rates = np.asarray(calibration.thresholds), _falling(calibration)
    fine = len(thresholds) == len(rates) and np.all(np.diff(thresholds) > 0)
    if not (fine and len(rates) and np.all((thresholds > 0) & (thresholds < 1)) and np.all(np.isfinite(rates))):
        raise ThresholdError("the model's calibration is no table of rising thresholds and their rates")
    known = rates[rates > 0]
    if not len(known):
        raise ThresholdError(
            f"the model's calibration saw no false alarm in {calibration.station_hours:g} station-hours, at any "
            "threshold; accepted: threshold instead of false_alarms_per_day"
        )
    return float(known[-1]), float(known[0])


def _calibrated(wanted: float, calibration: Calibration) -> float:
    """Find the smallest threshold with at most the wanted rate: between two of the table, on the log of either scale.

    Rounded up, so that the rate is not above the wanted one.
    """
    lowest, highest = attainable(calibration)
    if not lowest <= wanted <= highest:
        raise ThresholdError(
            f"false_alarms_per_day is {wanted:g}; accepted: {lowest:g} to {highest:g}, what the model's calibration on "
            f"{calibration.station_hours:g} station-hours of noise can tell"
        )
    thresholds, rates = calibration.thresholds, _falling(calibration)
    above = int(np.argmax(rates <= wanted))
    if above == 0:
        return thresholds[0]
    steps = [math.log(t / (1 - t)) for t in thresholds[above - 1 : above + 1]]
    high, low = float(rates[above - 1]), float(rates[above])
    share = math.log(high / wanted) / math.log(high / low)
    log_odds = steps[0] + share * (steps[1] - steps[0])
    # What is a step but for the last bits of the logarithms is that step.
    found = math.ceil(round(_STEPS / (1 + math.exp(-log_odds)), 3)) / _STEPS
    return min(found, thresholds[above])


def _falling(calibration: Calibration) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The rates, each at least that of any higher threshold: what a table that wavers promises."""
    rates = np.asarray(calibration.false_alarms_per_day, np.float64)
    return np.maximum.accumulate(rates[::-1])[::-1]
