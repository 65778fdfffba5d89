"""Write the dashboards and alert rules of this folder: `python deploy/grafana/generate.py`, `--check` to compare only.

Made with Grafana's own SDK, so that what does not fit Grafana's schema cannot be written.
"""

import argparse
import json
import sys
from pathlib import Path

from grafana_foundation_sdk.builders import (
    alerting,
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import alerting as alerting_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.common import BigValueGraphMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FOLDER = Path(__file__).resolve().parent
SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
# As provisioning/datasources/prometheus.yml calls it: rules have no variables.
SOURCE_UID = "monitor-prometheus"
RUNBOOK = "https://example.org/docs/runbook.md"
WIDTH = 24
GREEN, YELLOW, RED = "green", "yellow", "red"

OF_FLEET = 'job="monitor"'
OF_STATION = 'job="monitor",station=~"$station"'
Panel = timeseries.Panel | stat.Panel | table.Panel | statetimeline.Panel
Query = tuple[str, str]
"""PromQL and legend."""


# Panels ---------------------------------------------------------------------------------------------------------------


def query(expr: str, legend: str = "", *, instant: bool = False, ref_id: str = "A") -> prometheus.Dataquery:
    """Ask Prometheus."""
    made = prometheus.Dataquery().expr(expr).legend_format(legend).ref_id(ref_id).datasource(SOURCE)
    return (
        made.instant().format(PromQueryFormat.TABLE if not legend else PromQueryFormat.TIME_SERIES)
        if instant
        else (made.range())
    )


def thresholds(*steps: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    """Colours, each from its value on; the first from None."""
    made = dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE)
    return made.steps([model.Threshold(value, color) for value, color in steps])


def graph(title: str, text: str, *queries: Query, unit: str = "short", width: int = 12) -> timeseries.Panel:
    """Lines over time."""
    panel = timeseries.Panel().title(title).description(text).unit(unit).datasource(SOURCE).span(width).height(8)
    panel = panel.legend(common.VizLegendOptions().show_legend(True)).fill_opacity(5)
    for number, (expr, legend) in enumerate(queries):
        panel = panel.with_target(query(expr, legend, ref_id=chr(ord("A") + number)))
    return panel


def number(
    title: str, text: str, expr: str, *steps: tuple[float | None, str], unit: str = "short", width: int = 4
) -> stat.Panel:
    """One number, coloured."""
    panel = stat.Panel().title(title).description(text).unit(unit).datasource(SOURCE).span(width).height(4)
    panel = panel.graph_mode(BigValueGraphMode.NONE).thresholds(thresholds(*(steps or ((None, GREEN),))))
    return panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).with_target(
        query(expr, "now", instant=True)
    )


def states(title: str, text: str, expr: str, legend: str, mapping: dict[str, tuple[str, str]]) -> statetimeline.Panel:
    """A bar for each series, coloured by its value."""
    results = {
        value: model.ValueMappingResult(text=word, color=color, index=index)
        for index, (value, (word, color)) in enumerate(mapping.items())
    }
    panel = statetimeline.Panel().title(title).description(text).datasource(SOURCE).span(WIDTH).height(8)
    return panel.mappings([model.ValueMap(options=results)]).with_target(query(expr, legend))


def listing(title: str, text: str, *queries: Query, width: int = WIDTH) -> table.Panel:
    """A row for each set of labels, a column for each query; the legend is the column's heading."""
    panel = table.Panel().title(title).description(text).datasource(SOURCE).span(width).height(9)
    hidden: dict[str, object] = {"Time": True, "job": True, "__name__": True}
    names: dict[str, object] = {}
    for index, (expr, heading) in enumerate(queries):
        ref_id = chr(ord("A") + index)
        panel = panel.with_target(query(expr, instant=True, ref_id=ref_id))
        names[f"Value #{ref_id}" if len(queries) > 1 else "Value"] = heading
    if len(queries) > 1:
        panel = panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    options = {"excludeByName": hidden, "renameByName": names}
    return panel.with_transformation(model.DataTransformerConfig(id_val="organize", options=options))


def variable(name: str, expr: str) -> dashboard.QueryVariable:
    """What can be chosen above a dashboard; all of it by default."""
    made = dashboard.QueryVariable(name).label(name.capitalize()).datasource(SOURCE)
    made = made.query({"query": expr, "refId": name}).refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
    return made.multi(True).include_all(True).all_value(".*").sort(model.VariableSort.ALPHABETICAL_ASC)


def board(uid: str, title: str, text: str, rows: dict[str, list[Panel]], *, with_station: bool) -> dashboard.Dashboard:
    """Make a dashboard of rows of panels."""
    made = dashboard.Dashboard(title).uid(uid).description(text).tags(["seismic-monitor"]).timezone("utc")
    made = made.time("now-6h", "now").refresh("30s").readonly()
    made = made.link(
        dashboard.DashboardLink("Monitor")
        .type(model.DashboardLinkType.DASHBOARDS)
        .tags(["seismic-monitor"])
        .keep_time(True)
    )
    made = made.with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    if with_station:
        made = made.with_variable(variable("station", "label_values(monitor_frames_total, station)"))
    for name, panels in rows.items():
        made = made.with_row(dashboard.Row(name))
        for panel in panels:
            made = made.with_panel(panel)
    return made


# Dashboards -----------------------------------------------------------------------------------------------------------


def fleet() -> dashboard.Dashboard:
    """All monitors and stations at a glance."""
    ok_or_red = ((None, GREEN), (1.0, RED))
    return board(
        "monitor-fleet",
        "Monitor: fleet",
        "All monitors and all stations.",
        {
            "Now": [
                number("Monitors", "That answer.", f"sum(up{{{OF_FLEET}}})", (None, RED), (1.0, GREEN)),
                number(
                    "Monitors down", "That do not answer.", f"count(up{{{OF_FLEET}}} == 0) or vector(0)", *ok_or_red
                ),
                number("Stations", "That are followed.", "count(station:monitor_packet_age:seconds)"),
                number(
                    "Silent stations",
                    "Nothing for two minutes.",
                    "count(station:monitor_packet_age:seconds > 120) or vector(0)",
                    *ok_or_red,
                ),
                number("Bad channels", "Dead, flat or clipped.", "sum(channel:monitor_state:bad)", *ok_or_red),
                number(
                    "Messages waiting", "In all outboxes.", "sum(monitor_outbox_messages)", (None, GREEN), (100, YELLOW)
                ),
                listing(
                    "Stations",
                    "The newest data of each, and what it detected.",
                    ("station:monitor_packet_age:seconds", "last packet, s ago"),
                    ("station:monitor_data_delay:seconds", "newest sample, s old"),
                    ("sum by (job, instance, station) (channel:monitor_state:bad)", "bad channels"),
                    ("station:monitor_detections:increase1d", "detections in a day"),
                ),
                listing("Alarms", "What fires.", ('ALERTS{alertstate="firing"}', "fires")),
            ],
            "Data": [
                graph(
                    "Delay",
                    "Age of the newest sample.",
                    ("station:monitor_data_delay:seconds", "{{station}}"),
                    unit="s",
                ),
                graph(
                    "Packets",
                    "Received.",
                    ("sum by (server) (rate(monitor_packets_total[$__rate_interval]))", "{{server}}"),
                ),
            ],
            "Broker": [
                graph("Outbox", "Messages that wait.", ("monitor_outbox_messages", "{{instance}}")),
                graph(
                    "Messages",
                    "Offered to the broker.",
                    ("sum by (result) (rate(monitor_publishes_total[$__rate_interval]))", "{{result}}"),
                ),
                states(
                    "Broker",
                    "Whether it is connected.",
                    "monitor_broker_connected",
                    "{{instance}}",
                    {"0": ("away", RED), "1": ("connected", GREEN)},
                ),
            ],
            "Computers": [
                graph(
                    "Load of the model",
                    "Share of the time in which it runs; at 100 % it no longer keeps up.",
                    ("instance:monitor_inference_load:ratio5m", "{{instance}}"),
                    unit="percentunit",
                ),
                graph(
                    "Time of a run",
                    "Mean, and what 1 in 100 exceeds.",
                    ("instance:monitor_inference_seconds:mean5m", "{{instance}} mean"),
                    ("instance:monitor_inference_seconds:p99_5m", "{{instance}} 99 %"),
                    unit="s",
                ),
                graph(
                    "Processor",
                    "",
                    ('rate(process_cpu_seconds_total{job="monitor"}[$__rate_interval])', "{{instance}}"),
                ),
                graph("Memory", "", ('process_resident_memory_bytes{job="monitor"}', "{{instance}}"), unit="bytes"),
                graph("Clock", "What is to be corrected.", ("monitor_clock_offset_seconds", "{{instance}}"), unit="s"),
                graph(
                    "Disk",
                    "Free; from node_exporter.",
                    (
                        'node_filesystem_avail_bytes{job="node",fstype!~"tmpfs|overlay|squashfs|ramfs"}'
                        " / node_filesystem_size_bytes",
                        "{{instance}} {{mountpoint}}",
                    ),
                    unit="percentunit",
                ),
                listing(
                    "Versions",
                    "Programs and models.",
                    ("monitor_build_info", "monitor"),
                    ("monitor_model_info", "model"),
                ),
            ],
        },
        with_station=False,
    )


def station() -> dashboard.Dashboard:
    """Everything of a station."""
    channel = "{{station}} {{channel}}"

    def of_channel(title: str, text: str, expr: str, unit: str = "short") -> timeseries.Panel:
        return graph(title, text, (expr, channel), unit=unit)

    return board(
        "monitor-station",
        "Monitor: station",
        "The channels of a station: are their data worth listening to?",
        {
            "State": [
                states(
                    "Channels",
                    "Bad: dead, flat or clipped.",
                    f"channel:monitor_state:bad{{{OF_STATION}}}",
                    channel,
                    {"0": ("ok", GREEN), "1": ("bad", RED)},
                ),
                listing(
                    "What is wrong",
                    "Each channel that is not ok.",
                    (f'monitor_channel_state{{{OF_STATION},state!="ok"}} == 1', "since the last look"),
                ),
            ],
            "Time": [
                of_channel("Delay", "Age of the newest sample.", f"monitor_channel_delay_seconds{{{OF_STATION}}}", "s"),
                of_channel("Latency", "Age of a packet when it came.", f"monitor_latency_seconds{{{OF_STATION}}}", "s"),
                of_channel("Gaps", "Within ten minutes.", f"monitor_channel_window_gaps{{{OF_STATION}}}"),
                of_channel(
                    "Missing",
                    "Share of the last hour.",
                    f"channel:monitor_gap_seconds:ratio1h{{{OF_STATION}}}",
                    "percentunit",
                ),
                of_channel(
                    "Availability",
                    "Share of the last ten minutes.",
                    f"monitor_channel_availability_ratio{{{OF_STATION}}}",
                    "percentunit",
                ),
                of_channel(
                    "Recorder's clock",
                    "As the recorder says; nothing where it says nothing.",
                    f"monitor_channel_timing_quality_ratio{{{OF_STATION}}}",
                    "percentunit",
                ),
            ],
            "Signal": [
                of_channel("RMS", "In the recording's unit.", f"monitor_channel_rms{{{OF_STATION}}}"),
                of_channel("Offset", "In the recording's unit.", f"monitor_channel_offset{{{OF_STATION}}}"),
                of_channel(
                    "Clipped",
                    "Share of the last minute.",
                    f"monitor_channel_clipped_ratio{{{OF_STATION}}}",
                    "percentunit",
                ),
                of_channel("Spikes", "Within ten minutes.", f"monitor_channel_window_spikes{{{OF_STATION}}}"),
            ],
            "Model": [
                graph(
                    "Frames",
                    "Judged.",
                    (f"rate(monitor_frames_total{{{OF_STATION}}}[$__rate_interval])", "{{station}}"),
                ),
                graph(
                    "Last run",
                    "How long ago.",
                    (f"time() - monitor_last_inference_timestamp_seconds{{{OF_STATION}}}", "{{station}}"),
                    unit="s",
                ),
            ],
        },
        with_station=True,
    )


def detections() -> dashboard.Dashboard:
    """What was detected."""
    by_day = f'sum by (station) (increase(monitor_detections_total{{{OF_STATION},state="final"}}[1d]))'
    new = f'sum by (station) (increase(monitor_detections_total{{{OF_STATION},state="new"}}[$__rate_interval]))'
    by_range = f"sum by (state, origin) (increase(monitor_detections_total{{{OF_STATION}}}[$__range]))"
    return board(
        "monitor-detections",
        "Monitor: detections",
        "What was detected, where, and how sure it was.",
        {
            "Now": [
                number(
                    "Stations with a detection",
                    "Within the last two minutes.",
                    "network:monitor_live_detection:stations or vector(0)",
                    (None, GREEN),
                    (1.0, YELLOW),
                    (2.0, RED),
                    width=6,
                ),
                number(
                    "Highest probability",
                    "Of the detections of the last two minutes.",
                    "max(station:monitor_live_detection:probability) or vector(0)",
                    (None, GREEN),
                    (0.01, YELLOW),
                    (0.9, RED),
                    unit="percentunit",
                    width=6,
                ),
                number(
                    "Detections in a day",
                    "That stood to their end.",
                    f"sum(station:monitor_detections:increase1d{{{OF_STATION}}})",
                    width=6,
                ),
                number(
                    "Since the last one",
                    "At any of the stations.",
                    f"time() - max(monitor_last_detection_timestamp_seconds{{{OF_STATION}}} > 0)",
                    unit="s",
                    width=6,
                ),
            ],
            "When and where": [
                graph(
                    "New detections",
                    "",
                    (new, "{{station}}"),
                    width=WIDTH,
                ),
                graph(
                    "Probability",
                    "Of the last detection, 0 where it was retracted.",
                    (
                        f"max by (station) (monitor_last_detection_probability{{{OF_STATION}}})",
                        "{{station}}",
                    ),
                    unit="percentunit",
                ),
                graph("Detections of a day", "A rolling sum.", (by_day, "{{station}}")),
                listing("By state and origin", "Within the time that is shown.", (by_range, "detections")),
            ],
        },
        with_station=True,
    )


# Alert rules ----------------------------------------------------------------------------------------------------------

# Title -> PromQL, wait, severity, summary. Only what must be known even where Prometheus, or all data, are gone: there
# is no data is alarm enough. Everything else is for Prometheus's own rules.
LIVENESS = {
    "MonitorDown": ('up{job="monitor"} == bool 0', "2m", "critical", "Monitor {{ $labels.instance }} does not answer"),
    "StationSilent": (
        "station:monitor_packet_age:seconds > bool 120",
        "1m",
        "critical",
        "Station {{ $labels.station }} is silent",
    ),
    "BrokerUnreachable": (
        "(monitor_broker_connected == bool 0) * on (job, instance) "
        "(sum by (job, instance) (monitor_broker_reconnects_total) > bool 0)",
        "2m",
        "critical",
        "Monitor {{ $labels.instance }} has no broker",
    ),
}


def liveness() -> dict[str, object]:
    """Rules that fire where there is nothing to judge, as Grafana's provisioning wants them."""
    rules: list[dict[str, object]] = []
    for title, (expr, wait, severity, summary) in LIVENESS.items():
        asked = prometheus.Dataquery().expr(expr).instant().ref_id("A")
        rule = (
            alerting.Rule(title)
            .uid(f"monitor-{title.lower()}")
            .condition("B")
            .with_query(
                alerting.Query("A")
                .datasource_uid(SOURCE_UID)
                .relative_time_range(alerting_model.RelativeTimeRange(from_val=600, to=0))
                .model(asked)
            )
            .for_val(wait)
            .no_data_state("Alerting")
            .exec_err_state("Alerting")
            .labels({"severity": severity})
            .annotations({"summary": summary, "runbook_url": f"{RUNBOOK}#{title.lower()}"})
            .build()
        )
        made: dict[str, object] = json.loads(json.dumps(rule, cls=JSONEncoder))
        # The group says these in a file.
        for key in ("folderUID", "orgID", "ruleGroup"):
            made.pop(key, None)
        # The SDK has no builder for Grafana's own expressions.
        data = made["data"]
        assert isinstance(data, list)
        over = {"type": "threshold", "refId": "B", "expression": "A", "conditions": [_above(0)]}
        data.append({"refId": "B", "datasourceUid": "__expr__", "model": over})
        rules.append(made)
    group = {"orgId": 1, "name": "monitor_liveness", "folder": "Monitor", "interval": "30s", "rules": rules}
    return {"apiVersion": 1, "groups": [group]}


def _above(value: float) -> dict[str, object]:
    return {"evaluator": {"type": "gt", "params": [value]}}


# Files ----------------------------------------------------------------------------------------------------------------


def files() -> dict[Path, str]:
    """Everything that is made, by where it belongs."""
    made: dict[str, object] = {
        f"dashboards/{name}.json": made.build()
        for name, made in (("fleet", fleet()), ("station", station()), ("detections", detections()))
    }
    made["provisioning/alerting/liveness.json"] = liveness()
    return {
        FOLDER / name: json.dumps(what, cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        for name, what in made.items()
    }


def main() -> int:
    """Write the files, or say which are not as they would be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file is not up to date")
    check = parser.parse_args().check
    stale = [path for path, text in files().items() if not path.exists() or path.read_text() != text]
    if check:
        for path in stale:
            sys.stderr.write(f"{path.relative_to(FOLDER)} is not what generate.py makes of it\n")
        return int(bool(stale))
    for path in stale:
        path.write_text(files()[path])
    return 0


if __name__ == "__main__":
    sys.exit(main())
