// One station, live.

import { clock, h, moment, number, put, say } from "./dom.js";
import { Drum } from "./drum.js";
import { healthCards, qualityTable, stateChip } from "./health.js";
import { EventList, markOf } from "./list.js";
import { Stack, legend } from "./plot.js";
import { Traces } from "./store.js";

const SPANS = [60, 300];
const still = window.matchMedia("(prefers-reduced-motion: reduce)");

/** Follows the newest data so that the plot scrolls evenly though packets come in bursts. */
export class Edge {
  constructor() {
    this.at = null;
    this.arrivals = [];
  }

  /** Data up to `newest` are there; `now` in seconds of this computer. */
  arrived(newest, now) {
    this.arrivals.push([now, newest]);
    while (this.arrivals.length > 2 && now - this.arrivals[0][0] > 20) this.arrivals.shift();
    if (this.at === null || Math.abs(newest - this.at) > 60) this.at = newest;
  }

  /** Where the right end of the plot is, `dt` seconds later. */
  advance(dt, now) {
    if (this.at === null) return null;
    const [first, last] = [this.arrivals[0], this.arrivals[this.arrivals.length - 1]];
    const stretch = Math.max(last[0] - first[0], now - first[0]);
    let speed = stretch > 1 ? (last[1] - first[1]) / stretch : 1;
    if (Math.abs(speed - 1) < 0.15 && now - last[0] < 8) speed = 1;
    const behind = last[1] - this.at;
    this.at += dt * Math.max(0, speed + 0.25 * (behind - 0.3 * speed));
    return this.at;
  }
}

export class StationView {
  constructor(meta, app) {
    this.meta = meta;
    this.app = app;
    this.name = meta.name;
    this.span = SPANS[1];
    this.traces = new Traces(meta);
    this.drum = new Drum(meta);
    this.edge = new Edge();
    this.paused = false;
    this.marks = [];
    this.list = new EventList({ withStation: false, few: 5 });
    this.early = [];
    this.#build();
    this.#fetch();
    this.frame = requestAnimationFrame((now) => this.#tick(now));
    this.timer = setInterval(() => this.drum.draw(), 1000);
    this.resized = new ResizeObserver(() => {
      this.due = this.drum.due = true;
      this.drum.draw();
    });
    this.resized.observe(this.element);
  }

  close() {
    cancelAnimationFrame(this.frame);
    clearInterval(this.timer);
    this.resized.disconnect();
    this.closed = true;
  }

  #build() {
    const { meta } = this;
    const names = meta.channels.map((id) => id.split(".").slice(2).join(".").replace(/^\./, "")).join(", ");
    this.canvas = h("canvas", { class: "live", role: "img", "aria-label": `Live plot of ${meta.station}: waveforms of ${names}, spectrogram of ${meta.shown}, and the probability of an earthquake, on one time axis.` });
    this.stack = new Stack(this.canvas);
    this.stack.changed = () => (this.due = true);
    this.chip = h("span", {});
    this.now = h("p", { class: "now" });
    this.pause = h("button", { type: "button", class: "quiet", "aria-pressed": "false", click: () => this.#hold() }, "Pause");
    this.spans = SPANS.map((span) =>
      h("button", { type: "button", class: "quiet", "aria-pressed": String(span === this.span), click: () => this.#zoom(span) }, `${span / 60} min`),
    );
    const gain = (factor, sign, name) => h("button", { type: "button", class: "quiet", "aria-label": `${name} waveforms`, title: `${name} waveforms`, click: () => this.#turn(factor) }, sign);
    this.quality = h("div", {});
    this.health = h("div", {});
    this.probability = h("strong", { class: "big" }, "–");
    this.meter = h("meter", { min: 0, max: 1, value: 0, "aria-label": "Probability of an earthquake now" });
    this.last = h("dd", {});
    this.behind = h("dd", {});
    this.element = h(
      "div",
      { class: "station" },
      h("div", { class: "head" }, h("h1", {}, meta.station), h("span", { class: "code faint" }, `${meta.name} · ${names}`), this.chip),
      h(
        "section",
        { class: "panel wide-panel", "aria-labelledby": "live-title" },
        h("div", { class: "panel-head" }, h("h2", { id: "live-title" }, "Live"), this.now, h("div", { class: "buttons" }, gain(0.5, "−", "Smaller"), gain(2, "+", "Larger"), ...this.spans, this.pause)),
        this.canvas,
        legend(meta, meta.threshold),
      ),
      h(
        "section",
        { class: "panel side", "aria-labelledby": "now-title" },
        h("h2", { id: "now-title" }, "Now"),
        h("div", { class: "gauge" }, this.probability, h("span", { class: "faint" }, "probability of an earthquake"), this.meter),
        h("dl", { class: "facts" }, h("dt", {}, "Data"), this.behind, h("dt", {}, "Last detection"), this.last),
        h("h2", {}, "Detections"),
        this.list.element,
      ),
      h(
        "section",
        { class: "panel full", "aria-labelledby": "drum-title" },
        h("div", { class: "panel-head" }, h("h2", { id: "drum-title" }, "24 hours"), this.drum.note, h("div", { class: "buttons", role: "group", "aria-label": "Size of the traces" }, this.drum.softer, this.drum.louder)),
        this.drum.canvas,
      ),
      h("section", { class: "panel full", "aria-labelledby": "streams-title" }, h("h2", { id: "streams-title" }, "Streams"), this.quality),
      h("section", { class: "full", "aria-labelledby": "health-title" }, h("h2", { id: "health-title" }, "Health"), this.health),
    );
  }

  #zoom(span) {
    this.span = span;
    this.stack.scaledAt = -Infinity;
    this.spans.forEach((button, at) => button.setAttribute("aria-pressed", String(SPANS[at] === span)));
    this.due = true;
  }

  #turn(factor) {
    this.stack.gain = Math.min(1024, Math.max(1, this.stack.gain * factor));
    this.due = true;
  }

  #hold() {
    this.paused = !this.paused;
    this.pause.setAttribute("aria-pressed", String(this.paused));
    this.pause.textContent = this.paused ? "Resume" : "Pause";
  }

  async #fetch() {
    const query = `instrument=${encodeURIComponent(this.name)}`;
    const [history, drum] = await Promise.all([this.app.get(`api/history?${query}`), this.app.get(`api/drum?${query}`)]);
    if (this.closed) return;
    if (history) {
      this.epoch = history.epoch;
      this.traces.write(history);
      this.#arrived();
    }
    if (drum) this.drum.write(drum);
    this.drum.draw();
  }

  /** Something was missed, or time went back: begin anew. */
  again() {
    this.traces = new Traces(this.meta);
    this.edge = new Edge();
    this.#fetch();
  }

  data(message) {
    if (this.epoch !== undefined && message.epoch !== this.epoch) {
      this.epoch = message.epoch;
      this.drum.rows.end = this.drum.rows.first = null;
      this.again();
      return;
    }
    this.traces.write(message);
    if (message.drum[1]) this.drum.write(message.drum);
    this.#arrived();
    this.#facts(message.now);
  }

  #arrived() {
    const { newest } = this.traces;
    if (newest !== null) this.edge.arrived(newest, performance.now() / 1000);
    this.due = true;
  }

  #facts(now) {
    const { probability, newest } = this.traces;
    say(this.probability, probability === null ? "–" : number(probability, 2));
    this.probability.classList.toggle("alarm", (probability ?? 0) >= this.meta.threshold);
    this.meter.value = probability ?? 0;
    if (newest !== null) {
      const behind = now - newest;
      say(this.behind, behind > 3600 || behind < -60 ? `up to ${clock(newest)} UTC` : `${number(Math.max(0, behind), 1, "s")} behind`);
    }
  }

  events(events) {
    const own = events.filter((event) => event.instrument === this.name || (event.instrument === null && event.detection.station === this.meta.station));
    this.marks = own.filter((event) => event.detection.state !== "retracted").map(markOf);
    this.list.show(own);
    put(this.last, own.length ? moment(markOf(own[0]).onset, { date: Date.now() / 1000 - markOf(own[0]).onset > 86400 }) : "none yet");
    this.drum.mark(this.marks);
    this.due = true;
  }

  service({ health, reports }) {
    const own = reports.filter((report) => this.meta.channels.includes(report.seed_id));
    put(this.chip, stateChip(own));
    put(this.quality, qualityTable(own));
    if (health) put(this.health, healthCards(health));
  }

  themed() {
    this.due = this.drum.due = true;
    this.drum.draw();
  }

  #tick(now) {
    this.frame = requestAnimationFrame((then) => this.#tick(then));
    const dt = Math.min(1, (now - (this.before ?? now)) / 1000);
    this.before = now;
    const edge = this.edge.advance(dt, performance.now() / 1000);
    if (edge === null || (this.paused && !this.due)) return;
    if (!this.paused) this.shown = edge;
    // Half a pixel, or a second for who does not want motion.
    const least = still.matches ? 1 : (this.span / Math.max(1, this.canvas.width)) * 0.5;
    if (!this.due && Math.abs(this.shown - this.drawn) < least) return;
    if (still.matches && Math.abs(this.shown - (this.drawn ?? 0)) < 1) return;
    this.due = false;
    this.drawn = this.shown;
    this.stack.draw({ traces: this.traces, t0: this.shown - this.span, t1: this.shown, marks: this.marks, threshold: this.meta.threshold, now });
    say(this.now, this.paused ? `held at ${clock(this.shown)} UTC` : "");
  }
}
