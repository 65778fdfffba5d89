"""The rows of a SeisBench metadata table: pure functions from text to labels."""

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path

from monitor.timebase import parse_time
from train.traceinfo import Kind, Phase, Pick

Row = Mapping[str, str]

UNRATED_PROB = 0.5
"""Strength of a listed pick whose `prob` is null: an automatic one that no model rated."""

_ARRIVAL = re.compile(r"trace_([PpSs])[a-z0-9]?_arrival_sample")
_USED = frozenset(
    {
        "dataset",
        "label_prob",
        "label_source",
        "source_id",
        "source_id_list",
        "source_latitude_deg",
        "source_longitude_deg",
        "source_origin_time",
        "source_type",
        "split",
        "station_channel_code",
        "station_channels",
        "station_code",
        "station_network_code",
        "trace_category",
        "trace_channel",
        "trace_class_original",
        "trace_clipped",
        "trace_component_order",
        "trace_dt_s",
        "trace_missing_components",
        "trace_name",
        "trace_noise_type",
        "trace_p_status",
        "trace_panel_agree",
        "trace_picks",
        "trace_raw_sampling_rate_hz",
        "trace_sampling_rate_hz",
        "trace_scale",
        "trace_snr_db",
        "trace_start_time",
        "trace_weak_picks",
    }
)
_CHANNELS = ("trace_channel", "station_channels", "station_channel_code")
_INSTRUMENTS = "HLGMNP"
# What pandas and catalogues write where there is nothing.
_NOTHING = frozenset({"", "-", "[]", "nan", "nat", "none", "null", "unknown"})
_EARTHQUAKES = ("earthquake", "eq", "event", "local", "regional", "teleseis")
REGION_DEG = 0.25
"""Size of a region: a quarter of a degree, so that most aftershocks are in that of their main shock."""


class UnusableError(Exception):
    """A row that cannot be used; the text is the reason it is counted under."""


def read_rows(table: Path, *, of_noise: bool = False) -> Iterator[Row]:
    """Yield the rows of a metadata table, only the columns that are used here.

    Args:
        table: The file.
        of_noise: The data set is called noise: where no column is a label, every trace is that.

    Raises:
        ValueError: There is no trace name, or nothing that could be a label.
    """
    with table.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        columns = reader.fieldnames or []
        used = [name for name in columns if name in _USED or _ARRIVAL.fullmatch(name)]
        if "trace_name" not in used:
            raise ValueError(f"{table}: column trace_name is missing; accepted: the SeisBench metadata format")
        labelled = set(used) & {"trace_picks", "trace_category", "source_type"} or any(map(_ARRIVAL.fullmatch, used))
        if not labelled and not of_noise:
            raise ValueError(
                f"{table}: no labels; accepted: columns trace_p_arrival_sample and trace_s_arrival_sample "
                "(or trace_Pg_…, trace_Sn_…), trace_picks (JSON), trace_category or source_type"
            )
        implied = {} if labelled else {"trace_category": "noise"}
        for row in reader:
            yield {name: row[name] or "" for name in used} | implied


def station(row: Row) -> str:
    """Return `NET.STA`."""
    return f"{row.get('station_network_code', '')}.{row.get('station_code', '')}"


def number(row: Row, column: str) -> float | None:
    """Return the finite number in a column, or None; STEAD writes some as "[12.1 13.0 9.5]": the first counts."""
    match = re.match(r"[\[\s]*([-+0-9.eE]+)", row.get(column, ""))
    try:
        value = float(match[1]) if match else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def given(row: Row, column: str) -> str:
    """Return what a column says, "" where that is only a way to say nothing."""
    text = row.get(column, "").strip()
    return "" if text.lower() in _NOTHING else text


def together(row: Row) -> str:
    """Return what a trace must share its split with, where the table has none: never the window itself.

    Its region, a quarter of a degree, so that the aftershocks of one fault and all windows of one event are on one
    side; the event where no epicentre is given; the station where no event is, as of noise.
    """
    latitude, longitude = number(row, "source_latitude_deg"), number(row, "source_longitude_deg")
    if latitude is not None and longitude is not None:
        return f"region {math.floor(latitude / REGION_DEG)} {math.floor(longitude / REGION_DEG)}"
    for column in ("source_id", "source_id_list", "source_origin_time"):
        if event := given(row, column):
            return event
    return station(row)


def kind_of(row: Row, *, has_picks: bool) -> Kind:
    """Return the kind by `trace_category`, else `source_type`; else what has picks is an event, the rest is `other`."""
    category = (given(row, "trace_category") or given(row, "source_type")).lower()
    if category.startswith(_EARTHQUAKES):
        return "event"
    if category.startswith("noise"):
        return "noise"
    return "event" if has_picks and not category else "other"


def labelled_picks(row: Row, ratio: Fraction, npts: int) -> tuple[Pick, ...]:
    """Return the labelled arrivals within the trace, by time, at 100 Hz.

    `trace_picks` where present; else the first P and the first S among the arrival columns (Pg, Pn, … count as P).

    Raises:
        UnusableError: `trace_picks` is not understood.
    """
    found: list[Pick] = []
    prob = number(row, "label_prob")
    source = label_source(row)
    if listed := row.get("trace_picks", ""):
        try:
            for item in json.loads(listed):
                found.append(
                    Pick(
                        phase=_phase(item["phase"]),
                        sample=float(item["sample"] * ratio),
                        label_source=item.get("source", source),
                        prob=float(UNRATED_PROB if (strength := item.get("prob")) is None else strength),
                        n_models=int(item.get("n_models") or 0),
                    )
                )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnusableError("trace_picks is not understood") from error
    else:
        first: dict[Phase, float] = {}
        for column in row:
            sample = number(row, column) if (match := _ARRIVAL.fullmatch(column)) else None
            if match and sample is not None:
                phase = _phase(match[1].upper())
                first[phase] = min(first.get(phase, math.inf), sample)
        found = [
            Pick(phase, float(sample * ratio), source, 1.0 if prob is None else prob) for phase, sample in first.items()
        ]
    inside = (pick for pick in found if math.isfinite(pick.sample) and 0 <= pick.sample < npts)
    return tuple(sorted(inside, key=lambda pick: (pick.sample, pick.phase)))


def _phase(text: str) -> Phase:
    match text:
        case "P" | "S":
            return text
    raise ValueError(f"phase {text!r}; accepted: P, S")


def is_pure_rockfall(row: Row) -> bool:
    """A rockfall's sharp onset draws weak picks; masking it would hide just what is to be rejected."""
    return row.get("trace_noise_type") == "rockfall" and number(row, "trace_panel_agree") == 0


def weak_samples(row: Row, ratio: Fraction) -> tuple[float, ...]:
    """Return the arrivals that may or may not be real, samples at 100 Hz.

    Raises:
        UnusableError: `trace_weak_picks` is not understood.
    """
    try:
        return tuple(float(sample * ratio) for _, sample, _ in json.loads(row.get("trace_weak_picks") or "[]"))
    except (ValueError, TypeError) as error:
        raise UnusableError("trace_weak_picks is not understood") from error


def label_source(row: Row) -> str:
    """Return who made the labels of a row, `catalog` where it does not tell."""
    return row.get("label_source") or row.get("trace_p_status", "").lower() or "catalog"


def noise_type(row: Row) -> str:
    """Return the type of noise; the original class where that says more (`lp-rockfall` for `rockfall`)."""
    given, original = row.get("trace_noise_type", ""), row.get("trace_class_original", "")
    return original if given and given in original else given


def instrument(row: Row) -> str:
    """Return the SEED instrument code of the channel, "" where it has none."""
    channel = next((c for name in _CHANNELS if (c := given(row, name))), "")
    letter = channel[1:2].upper()
    return letter if letter and letter in _INSTRUMENTS else ""


def starttime_ns(row: Row) -> int | None:
    """Return the time of the first sample, None where it is missing or not a time."""
    try:
        return parse_time(row.get("trace_start_time", ""))
    except ValueError:
        return None
