"""Detections as the USGS' "Pick" messages.

Source: https://github.com/usgs/earthquake-detection-formats, format-docs/Pick.md, Site.md, Source.md, Amplitude.md,
Classification.md and EventType.md.
"""

from typing import Any

from monitor.quakeml import pick_channel
from monitor.records import Detection
from monitor.timebase import format_time, parse_time


def to_usgs_pick(detection: Detection, *, agency_id: str | None = None) -> dict[str, Any]:
    """Convert a detection's onset to a USGS Pick.

    A Pick holds one phase: the S onset of a detection that begins with P is not in it. The format has no place for the
    uncertainty of the time.

    Args:
        detection: Any revision but a retracted one.
        agency_id: FDSN id of who runs the station; by default the network code.

    Returns:
        Ready for a JSON encoder. `SNR` is the ratio of amplitudes, `Period` in seconds, `Amplitude` in the
        recording's unit.

    Raises:
        ValueError: The detection was retracted, for which the USGS has another message, or its onset is not ISO 8601.
    """
    if detection.state == "retracted":
        raise ValueError(f"detection {detection.id} is retracted; a Pick can be made of new, update and final ones")
    network, station, location, channel = pick_channel(detection, horizontal=detection.phase == "S")
    source = {
        "AgencyID": agency_id or network,
        "Author": f"seismic-monitor/{detection.model.name}/{detection.model.version}",
    }
    site = {"Station": station, "Network": network}
    if channel:
        site["Channel"] = channel
    if location:
        site["Location"] = location

    amplitude = {"Amplitude": detection.peak_counts}
    if detection.dominant_hz > 0:
        amplitude["Period"] = 1 / detection.dominant_hz
    if detection.snr_db is not None:
        # snr_db compares powers, and power goes with the square of amplitude.
        amplitude["SNR"] = 10 ** (detection.snr_db / 20)

    classification: dict[str, Any] = {}
    pick: dict[str, Any] = {
        "Type": "Pick",
        "ID": detection.id,
        "Site": site,
        "Source": source,
        # The specification's form has milliseconds.
        "Time": format_time(parse_time(detection.onset), digits=3),
    }
    if detection.phase != "unknown":
        pick["Phase"] = classification["Phase"] = detection.phase
        score = detection.reason.peak_p if detection.phase == "P" else detection.reason.peak_s
        classification["PhaseProbability"] = score
    if detection.class_ == "earthquake":
        classification["EventType"] = {"Type": "Earthquake", "Certainty": "Suspected"}
        classification["EventTypeProbability"] = detection.probability
    classification["Source"] = source
    return pick | {"Picker": "other", "Amplitude": amplitude, "ClassificationInfo": classification}
