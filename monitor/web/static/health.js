// How streams and service are.

import { bytes, clock, h, lasting, moment, number, percent, seconds } from "./dom.js";

const STATES = { ok: "ok", dead: "no data", flat: "flat", clipped: "clipped" };

/** Chip for the state of a channel, or of several: the worst one. */
export function stateChip(reports) {
  const wrong = reports.filter((report) => report.state !== "ok");
  if (!reports.length) return h("span", { class: "chip" }, "waiting for data");
  if (!wrong.length) return h("span", { class: "chip good" }, "ok");
  const all = [...new Set(wrong.map((report) => STATES[report.state] ?? report.state))].join(", ");
  return h("span", { class: wrong.length === reports.length ? "chip bad" : "chip warn" }, all);
}

const COLUMNS = [
  ["Channel", (r) => h("span", { class: "code" }, r.seed_id)],
  ["State", (r) => h("span", { class: r.state === "ok" ? "chip good" : "chip bad", title: r.reasons.join("; ") }, STATES[r.state] ?? r.state)],
  ["Latency", (r) => lasting(r.transfer_s), "Age of a packet's last sample when it arrives, mean of ten minutes"],
  ["Last packet", (r) => (r.latency_s === null ? "–" : `${lasting(r.latency_s)} ago`), "Since the last packet came"],
  ["Complete", (r) => percent(r.availability, 1), "Share of the last ten minutes that has samples"],
  ["Gaps", (r) => (r.gaps ? `${r.gaps}, ${lasting(r.gap_s)}` : "0"), "In the last ten minutes"],
  ["Spikes", (r) => number(r.spikes)],
  ["RMS", (r) => (r.rms === null ? "–" : number(r.rms, r.rms < 100 ? 1 : 0)), "About the mean, in the recording's unit"],
  ["Offset", (r) => (r.offset === null ? "–" : number(r.offset, 0)), "Mean, in the recording's unit"],
  ["Rate", (r) => (r.sampling_rate === null ? "–" : number(r.sampling_rate, r.sampling_rate % 1 ? 2 : 0, "Hz"))],
  ["Timing", (r) => (r.timing_quality === null ? "–" : number(r.timing_quality, 0, "%")), "What the recorder says of its clock"],
];

/** Table of channels; on a phone each row is a card. */
export function qualityTable(reports) {
  if (!reports.length) return h("p", { class: "note" }, "No channel has sent anything yet.");
  const time = seconds(reports[0].time);
  return h(
    "div",
    {},
    h(
      "table",
      { class: "streams" },
      h("caption", { class: "unseen" }, "Data quality of each channel"),
      h("thead", {}, h("tr", {}, COLUMNS.map(([name, , title]) => h("th", { scope: "col", title }, name)))),
      h(
        "tbody",
        {},
        reports.map((report) =>
          h(
            "tr",
            {},
            COLUMNS.map(([name, of], at) => h(at ? "td" : "th", { "data-label": name, scope: at ? null : "row" }, of(report))),
          ),
        ),
      ),
    ),
    h("p", { class: "note" }, "As of ", moment(time, { date: false }), "; counts are of ten minutes."),
  );
}

function card(title, ok, ...lines) {
  return h(
    "div",
    { class: "card" },
    h("h3", {}, title, h("span", { class: ok === null ? "dot" : ok ? "dot good" : "dot bad", role: "img", "aria-label": ok === null ? "unknown" : ok ? "ok" : "trouble" })),
    lines.filter(Boolean).map((line) => h("p", {}, line)),
  );
}

function offset(s) {
  return Math.abs(s) < 1 ? number(s * 1000, Math.abs(s) < 0.01 ? 3 : 0, "ms") : number(s, 2, "s");
}

/** Cards of the service. */
export function healthCards(health) {
  const { broker, clock: time, model, computer } = health;
  const device = model.device === "edgetpu" ? "Edge TPU" : model.device === "cpu" ? "processor" : model.device;
  const trouble = health.servers.filter((server) => server.trouble !== null);
  return h(
    "div",
    { class: "cards" },
    card(
      "SeedLink",
      health.data_ok && !trouble.length,
      health.data_ok || trouble.length ? health.data.split(" (")[0] : health.data,
      ...health.servers.map((server) => `${server.label}: ${server.trouble ?? "connected"}`),
    ),
    card("Broker", broker.host === null ? null : broker.ok, broker.host, broker.text),
    broker.host !== null &&
      card(
        "Outbox",
        broker.held === 0,
        `${number(broker.waiting)} waiting, ${number(broker.held)} held back`,
        `${bytes(broker.nbytes)}${broker.oldest_s === null ? "" : `, oldest ${lasting(broker.oldest_s)}`}`,
      ),
    card("Archive", health.archive_ok, health.archive, computer.disk_free_mb !== null && `${bytes(computer.disk_free_mb * 1e6)} free on its disk`),
    card(
      "Clock",
      time.synchronised,
      time.synchronised === null ? "does not say" : time.synchronised ? "synchronised" : "not synchronised",
      time.offset_s !== null && `offset ${offset(time.offset_s)}, error at most ${offset(time.max_error_s)}`,
    ),
    card("Model", true, `${model.name} ${model.version}`, `runs on the ${device}`, h("span", { class: "code", title: model.sha256 }, model.sha256.slice(0, 12))),
    card(
      "Computer",
      true,
      `${computer.name}, ${computer.machine}`,
      [computer.memory_mb !== null && `${number(computer.memory_mb)} MB used`, computer.load !== null && `load ${number(computer.load, 2)}`, computer.temperature_c !== null && number(computer.temperature_c, 0, "°C")].filter(Boolean).join(", "),
      `monitor up ${lasting(computer.up_s)}`,
    ),
  );
}

/** One line for the foot of the page. */
export function footLine(health) {
  const { model } = health;
  return `${model.name} ${model.version} · ${health.computer.name} · health as of ${clock(health.now)} UTC`;
}
