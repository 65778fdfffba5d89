"""Hundreds of channels at once, for as long as a day."""

from tests.chaos.outcome import Options, Outcome
from tests.chaos.soak import PROMISE, soak, span


def run(options: Options) -> list[Outcome]:
    """Many stations, each with its own earthquakes."""
    stations = options.crowd_stations
    many = f"{stations} stations, {3 * stations} channels, {span(options.crowd_hours)} of data"
    outcome = Outcome("crowd", many, PROMISE, "station-hours")
    soak(options.room("many"), outcome, stations=stations, hours=options.crowd_hours)
    return [outcome]
