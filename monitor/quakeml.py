"""Detections as QuakeML 1.2 BED, written as they come and without ObsPy.

One detection is one `event` that holds its picks and no origin: a single station cannot locate. Analysts' readers
(ObsPy `read_events`, SeisComP's import) take picks only inside an event.

Source: QuakeML Basic Event Description, version 1.2 (https://quake.ethz.ch/quakeml), and its schema
`QuakeML-BED-1.2.xsd`, whose limits (lengths, the pattern of identifiers) are kept even where a code is not legal SEED.
"""

import math
import re
from typing import TextIO
from xml.etree import ElementTree as ET

from monitor.output import OutputError, write_now
from monitor.records import Detection
from monitor.timebase import format_time, parse_time

_QUAKEML = "http://quakeml.org/xmlns/quakeml/1.2"
_BED = "http://quakeml.org/xmlns/bed/1.2"

# Lengths that the schema allows.
_MAX_CODE = 8
_MAX_AUTHOR = 128
_MAX_AGENCY = 64

# What XML 1.0 (section 2.2) cannot hold, not even as a character reference.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class QuakeMLWriter:
    """Writes a QuakeML document event by event.

    The document opens with the first detection, whose id names the document, and is complete after `close`.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._opened = False
        self._closed = False

    def write(self, detection: Detection) -> None:
        """Write one detection as an event.

        Args:
            detection: Any revision. `final` is identified by the detection's id alone, the others by their revision as
                well, since a document must not use an identifier twice.

        Raises:
            OutputError: It could not be written.
            ValueError: A time of the detection is not ISO 8601.
        """
        event = event_element(detection)
        ET.indent(event, level=2)
        # ASCII with character references is right whatever encoding the stream has.
        text = ET.tostring(event, encoding="us-ascii", xml_declaration=False).decode("ascii")
        self._put(f"    {text}\n", name=detection.id)

    def close(self) -> None:
        """Complete the document; the stream stays open.

        Raises:
            OutputError: It could not be written.
        """
        if not self._closed:
            self._put("  </eventParameters>\n</q:quakeml>\n", name="none")
            self._closed = True

    def _put(self, text: str, *, name: str) -> None:
        if not self._opened:
            self._opened = True
            text = (
                '<?xml version="1.0" encoding="UTF-8"?>\n'
                f'<q:quakeml xmlns:q="{_QUAKEML}" xmlns="{_BED}">\n'
                f'  <eventParameters publicID="{resource_id("detections", name)}">\n{text}'
            )
        try:
            write_now(self._stream, text)
        except OutputError:
            # Nobody will read the end of a document whose middle is missing, and a second error would hide the first.
            # After Ctrl-C, on the other hand, the end is still wanted: what was interrupted is in the stream's buffer.
            self._closed = True
            raise


def event_element(detection: Detection) -> ET.Element:
    """Describe a detection as a QuakeML `event`.

    Args:
        detection: Any revision; `retracted` becomes an event that does not exist, with rejected picks.

    Returns:
        The element, its children without namespace prefix.

    Raises:
        ValueError: A time of the detection is not ISO 8601.
    """
    path: tuple[str, ...] = ("detection", detection.id)
    if detection.state != "final":
        path += ("revision", str(detection.revision))
    event = ET.Element("event", publicID=resource_id(*path))
    station = detection.station
    _leaf(_child(event, "description"), "text", f"{detection.class_} detected at {station}, no location")
    _comment(
        event,
        # One comment, not several: SeisComP tells an object's comments apart by an id that these have not.
        f"detection={detection.id} revision={detection.revision} state={detection.state} origin={detection.origin}"
        f" probability={detection.probability:.4g} snr_db={_number(detection.snr_db)}"
        f" dominant_hz={detection.dominant_hz:.4g} peak_counts={detection.peak_counts:.6g}"
        f" end={detection.end or 'null'} data_complete={detection.data_complete:.4g}",
    )
    retracted = detection.state == "retracted"
    if detection.class_ == "earthquake":
        _leaf(event, "type", "not existing" if retracted else "earthquake")
        _leaf(event, "typeCertainty", "suspected")
    _creation_info(event, detection)

    # The schema's Phase is free text; an unknown onset has no hint.
    hint = None if detection.phase == "unknown" else detection.phase
    score = detection.reason.peak_s if detection.phase == "S" else detection.reason.peak_p
    pick = _pick(detection, (*path, "pick", hint or "onset"), detection.onset, hint=hint, score=score)
    # Only the onset's uncertainty is known; none is better than a wrong one for the S pick.
    if math.isfinite(detection.onset_uncertainty_s):
        _leaf(pick[0], "uncertainty", repr(float(detection.onset_uncertainty_s)))
    event.append(pick)
    if detection.s_onset is not None and detection.phase != "S":
        event.append(_pick(detection, (*path, "pick", "S"), detection.s_onset, hint="S", score=detection.reason.peak_s))
    return event


def resource_id(*path: str) -> str:
    """Build a legal QuakeML resource identifier under `smi:local/`.

    Args:
        path: Its parts; characters that the schema forbids become `~` and their code in hexadecimal, and `~`, so that
            different parts stay different.

    Returns:
        For example `smi:local/detection/3f2a`.
    """
    parts = [re.sub(r"[^A-Za-z0-9._-]", lambda match: f"~{ord(match[0]):x}~", part) or "~" for part in path]
    return "smi:local/" + "/".join(parts)


def _pick(detection: Detection, path: tuple[str, ...], time: str, *, hint: str | None, score: float) -> ET.Element:
    pick = ET.Element("pick", publicID=resource_id(*path))
    _leaf(_child(pick, "time"), "value", format_time(parse_time(time)))
    pick.append(_waveform_id(detection, horizontal=hint == "S"))
    _leaf(pick, "methodID", resource_id("model", detection.model.name, detection.model.version))
    if hint is not None:
        _leaf(pick, "phaseHint", hint)
    _leaf(pick, "evaluationMode", "automatic")
    _leaf(pick, "evaluationStatus", "rejected" if detection.state == "retracted" else "preliminary")
    _comment(pick, f"probability={score:.4g} detection={detection.id}")
    _creation_info(pick, detection)
    return pick


def _waveform_id(detection: Detection, *, horizontal: bool) -> ET.Element:
    network, station, location, channel = pick_channel(detection, horizontal=horizontal)
    element = ET.Element("waveformID", networkCode=_code(network), stationCode=_code(station))
    if location:
        element.set("locationCode", _code(location))
    if channel:
        element.set("channelCode", _code(channel))
    return element


def pick_channel(detection: Detection, *, horizontal: bool = False) -> tuple[str, str, str, str]:
    """Choose the channel that a pick is shown on.

    Args:
        detection: Its `seed_ids` are searched in their order.
        horizontal: Prefer a horizontal channel, as for S; otherwise the vertical one.

    Returns:
        Network, station, location and channel code; the last two empty where no channel is known.
    """
    ids = [tuple(seed_id.split(".")) for seed_id in detection.seed_ids if seed_id.count(".") == 3]
    chosen = next((codes for codes in ids if codes[3].endswith("Z") != horizontal), ids[0] if ids else None)
    if chosen is None:
        network, _, station = detection.station.partition(".")
        return network, station, "", ""
    return chosen[0], chosen[1], chosen[2], chosen[3]


def _creation_info(parent: ET.Element, detection: Detection) -> None:
    info = _child(parent, "creationInfo")
    network = detection.station.partition(".")[0]
    if network:
        _leaf(info, "agencyID", network[:_MAX_AGENCY])
    _leaf(info, "author", f"seismic-monitor ({detection.model.name} {detection.model.version})"[:_MAX_AUTHOR])
    # Stream time, not the clock's: the same recording gives the same document.
    _leaf(info, "creationTime", format_time(parse_time(detection.decided_at)))
    _leaf(info, "version", str(detection.revision))


def _comment(parent: ET.Element, text: str) -> None:
    _leaf(_child(parent, "comment"), "text", text)


def _child(parent: ET.Element, tag: str) -> ET.Element:
    return ET.SubElement(parent, tag)


def _leaf(parent: ET.Element, tag: str, text: str) -> None:
    _child(parent, tag).text = _NOT_XML.sub("\ufffd", text)


def _code(code: str) -> str:
    return _NOT_XML.sub("\ufffd", code)[:_MAX_CODE]


def _number(value: float | None) -> str:
    return "null" if value is None else f"{value:.4g}"
