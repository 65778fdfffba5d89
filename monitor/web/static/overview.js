// All stations at a glance.

import { clock, h, local, moment, number, put, say, svg } from "./dom.js";
import { healthCards, qualityTable, stateChip } from "./health.js";
import { EventList, markOf, stationHref } from "./list.js";
import { floats } from "./store.js";

function spark(bins) {
  let [low, high] = [Infinity, -Infinity];
  const middles = [];
  for (let i = 0; i < bins.length; i += 2) {
    if (Number.isNaN(bins[i])) continue;
    low = Math.min(low, bins[i]);
    high = Math.max(high, bins[i + 1]);
    middles.push((bins[i] + bins[i + 1]) / 2);
  }
  middles.sort((a, b) => a - b);
  const middle = middles[middles.length >> 1] ?? 0;
  const reach = Math.max(high - middle, middle - low, 1e-30);
  const level = (v, thick) => ((-100 * (v - middle)) / reach + thick).toFixed(1);
  let path = "";
  // There along the greatest values and back along the least; a hole ends the shape.
  for (let first = 0; first < bins.length; first += 2) {
    if (Number.isNaN(bins[first])) continue;
    let end = first;
    while (end < bins.length && !Number.isNaN(bins[end])) end += 2;
    const [there, back] = [[], []];
    for (let i = first; i < end; i += 2) {
      there.push(`${i + 1} ${level(bins[i + 1], -1.5)}`);
      back.unshift(`${i + 1} ${level(bins[i], 1.5)}`);
    }
    path += `M${[...there, ...back].join("L")}Z`;
    first = end;
  }
  return path;
}

export class OverviewView {
  constructor(stations, app) {
    this.app = app;
    this.name = "";
    this.cards = new Map();
    this.list = new EventList({ withStation: true, few: 9 });
    this.quality = h("div", {});
    this.health = h("div", {});
    this.grid = h("ul", { class: "stations" });
    this.hidden = h("p", { class: "note", hidden: true });
    this.element = h(
      "div",
      { class: "overview" },
      h("div", { class: "head" }, h("h1", {}, "Stations")),
      this.grid,
      this.hidden,
      h("section", { class: "panel full", "aria-labelledby": "list-title" }, h("h2", { id: "list-title" }, "Detections"), this.list.element),
      h("section", { class: "panel full", "aria-labelledby": "streams-title" }, h("h2", { id: "streams-title" }, "Streams"), this.quality),
      h("section", { class: "full", "aria-labelledby": "health-title" }, h("h2", { id: "health-title" }, "Health"), this.health),
    );
    this.stations(stations);
  }

  close() {}

  stations(stations) {
    this.cards.clear();
    put(this.grid, stations.length ? stations.map((meta) => this.#card(meta)) : h("li", { class: "note" }, "Waiting for the first data."));
  }

  #card(meta) {
    const path = svg("path", {});
    const card = {
      meta,
      path,
      probability: h("span", { class: "probability" }, "–"),
      meter: h("meter", { min: 0, max: 1, value: 0, "aria-label": "Probability of an earthquake now" }),
      chip: h("span", {}),
      time: h("span", { class: "faint" }),
      last: h("span", { class: "faint" }),
    };
    this.cards.set(meta.name, card);
    return h(
      "li",
      {},
      h(
        "a",
        { class: "panel station-card", href: stationHref(meta.name) },
        h("span", { class: "row" }, h("strong", {}, meta.station), h("span", { class: "code faint" }, meta.channels.map((id) => id.split(".").pop()).join(" ")), card.chip),
        svg("svg", { class: "spark", viewBox: "0 -104 240 208", preserveAspectRatio: "none", role: "img", "aria-label": "The last minute" }, path),
        h("span", { class: "row" }, card.meter, card.probability),
        h("span", { class: "row" }, card.last, card.time),
      ),
    );
  }

  sparks({ now, lines, hidden }) {
    this.hidden.hidden = !hidden;
    say(this.hidden, `${hidden} more are followed, for which there is no room here.`);
    for (const line of lines) {
      const card = this.cards.get(line.name);
      if (!card) continue;
      card.path.setAttribute("d", spark(floats(line.wave[1])) || "M0 0");
      say(card.probability, line.probability === null ? "–" : number(line.probability, 2));
      card.meter.value = line.probability ?? 0;
      card.meter.closest("a").classList.toggle("alarm", (line.probability ?? 0) >= card.meta.threshold);
      if (line.newest === null) continue;
      const behind = now - line.newest;
      say(card.time, behind > 120 || behind < -60 ? `up to ${clock(line.newest)} UTC` : `${number(Math.max(0, behind), 0, "s")} behind`);
      card.time.title = local(line.newest);
    }
  }

  events(events) {
    this.list.show(events);
    for (const [name, card] of this.cards) {
      const newest = events.find((event) => event.instrument === name);
      put(card.last, newest ? ["last ", moment(markOf(newest).onset, { date: false })] : "no detection yet");
    }
  }

  service({ health, reports }) {
    for (const card of this.cards.values()) put(card.chip, stateChip(reports.filter((report) => card.meta.channels.includes(report.seed_id))));
    put(this.quality, qualityTable(reports));
    if (health) put(this.health, healthCards(health));
  }

  themed() {}
}
