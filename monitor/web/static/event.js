// One detection: what was recorded, what the model made of it, and why.

import { explain } from "./explain.js";
import { amplitude, bytes, h, lasting, moment, number, percent, put, seconds } from "./dom.js";
import { sMinusP, stationHref, markOf } from "./list.js";
import { Stack, legend } from "./plot.js";
import { Rows, Traces, floats, unpack } from "./store.js";

// S waves fall behind P waves by a second for about so many kilometres, in ordinary crust.
const KM_PER_S = 8;
const CHECKS = {
  p_seen: ["A P wave was seen", "No P wave was seen"],
  s_seen: ["An S wave was seen", "No S wave was seen"],
  rises_above_noise: ["It rises above the noise", "It hardly rises above the noise"],
  data_complete: ["The data are complete", "Data are missing"],
  timing_good: ["The recorder trusts its clock", "The recorder does not trust its clock"],
};
const FILES = {
  "waveforms.mseed": "Waveforms (miniSEED)",
  "detection.json": "Detection (JSON)",
  "event.png": "Picture (PNG)",
  "explanation.png": "Explanation (PNG)",
  "explanation.json": "Explanation (JSON)",
};

/** A picture's arrays as what the plot draws: samples are bins of one. */
function tracesOf(picture) {
  const { feed, rate } = picture;
  const count = Math.max(2, ...Object.values(picture.waves).map((text) => Math.ceil((text.length * 3) / 16)));
  const traces = new Traces(feed, { span: count / rate + 1, bin: 1 / rate });
  for (const [id, text] of Object.entries(picture.waves)) {
    const samples = floats(text);
    const rows = new Rows(samples.length, 2, Float32Array, NaN);
    const doubled = new Float32Array(samples.length * 2);
    samples.forEach((value, i) => (doubled[2 * i] = doubled[2 * i + 1] = value));
    rows.write(picture.first_sample, doubled);
    traces.waves.set(id, rows);
  }
  traces.image.write(picture.frames[0], unpack(picture.frames[1]));
  traces.steps.write(picture.steps[0], unpack(picture.steps[1]));
  return traces;
}

function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(([, value]) => value !== null).flatMap(([name, ...value]) => [h("dt", {}, name), h("dd", {}, ...value)]));
}

function reasonTable(detection) {
  const { reason } = detection;
  const rows = [
    ["Highest score", number(reason.peak_score, 3), `a detection begins at ${number(reason.threshold, 3)}`],
    ["Highest probability of P", number(reason.peak_p, 3), ""],
    ["Highest probability of S", number(reason.peak_s, 3), ""],
    ["Above the threshold for", lasting(reason.above_threshold_s), ""],
  ];
  return h(
    "table",
    { class: "reason" },
    h("caption", { class: "unseen" }, "Why it is a detection"),
    h("tbody", {}, rows.map(([name, value, note]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, h("strong", {}, value), note && h("span", { class: "faint" }, ` ${note}`))))),
    h(
      "tbody",
      {},
      Object.entries(reason.checks).map(([name, passed]) =>
        h("tr", {}, h("th", { scope: "row" }, CHECKS[name]?.[passed ? 0 : 1] ?? name), h("td", {}, h("span", { class: passed ? "chip good" : "chip warn", role: "img", "aria-label": passed ? "passed" : "not passed" }, passed ? "✓" : "✗"))),
      ),
    ),
  );
}

export class EventView {
  constructor(id, app) {
    this.id = id;
    this.app = app;
    this.name = "";
    this.element = h("div", { class: "event-page" }, h("p", { class: "wait" }, "One moment …"));
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(this.element);
    this.fetch();
  }

  close() {
    this.resized.disconnect();
    this.closed = true;
  }

  async fetch() {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const event = await this.app.get(`api/event?id=${encodeURIComponent(this.id)}`);
    // A later answer may have come before an earlier one.
    if (this.closed || turn !== this.turn) return;
    if (event === null) {
      if (this.revision !== undefined) return; // it is away: what is shown is still true
      put(this.element, h("h1", {}, "Not here"), h("p", { class: "note" }, "This detection is no longer remembered, and not archived."), h("p", {}, h("a", { href: "#/" }, "Back")));
      return;
    }
    this.revision = event.detection.revision;
    this.complete = event.detection.state === "final";
    this.#build(event);
  }

  #build(event) {
    const { detection, files } = event;
    const unfolded = this.element.querySelector("details")?.open ?? false;
    const onset = seconds(detection.onset);
    const delay = sMinusP(detection);
    this.stack = null;
    if (event.picture) {
      this.canvas = h("canvas", { class: "live", role: "img", "aria-label": `Waveforms, spectrogram and probability around the detection at ${detection.station}; the figures are in the table.` });
      this.stack = new Stack(this.canvas);
      this.stack.changed = () => this.draw();
      this.traces = tracesOf(event.picture);
      const rate = event.picture.rate;
      this.t0 = event.picture.first_sample / rate;
      this.t1 = this.traces.newest;
      this.threshold = detection.reason.threshold;
      this.marks = [markOf(event)];
    }
    const own = (name) => `archive/${encodeURIComponent(this.id)}/${name}`;
    const has = (name) => Object.hasOwn(files, name);
    const looked = h("div", {}, has("explanation.png") && h("img", { class: "figure", src: own("explanation.png"), alt: "Spectrogram with the regions that raised or lowered the score when they were hidden from the model" }));
    put(
      this.element,
      h("p", { class: "crumbs" }, h("a", { href: event.instrument ? stationHref(event.instrument) : "#/" }, `← ${detection.station}`)),
      h(
        "div",
        { class: "head" },
        h("h1", {}, detection.class === "earthquake" ? "Earthquake" : detection.class),
        h("span", { class: "head-when" }, moment(onset, { digits: 3 })),
        detection.state !== "final" && h("span", { class: detection.state === "retracted" ? "chip bad" : "chip hot" }, detection.state === "retracted" ? "retracted" : "going on"),
      ),
      h(
        "section",
        { class: "panel full", "aria-labelledby": "seen-title" },
        h("h2", { id: "seen-title" }, "What was recorded"),
        this.stack ? [this.canvas, legend(event.picture.feed, detection.reason.threshold)] : has("event.png") ? h("img", { class: "figure", src: own("event.png"), alt: `Waveforms, spectrogram and probability at ${detection.station} around ${detection.onset}` }) : h("p", { class: "note" }, "The waveforms are no longer remembered."),
      ),
      h(
        "section",
        { class: "panel half", "aria-labelledby": "facts-title" },
        h("h2", { id: "facts-title" }, "Detection"),
        facts([
          ["Station", detection.station],
          ["Channels", h("span", { class: "code" }, detection.seed_ids.join(" "))],
          [detection.phase === "unknown" ? "Onset" : `${detection.phase} onset`, moment(onset, { digits: 3 }), ` ± ${number(detection.onset_uncertainty_s, 2, "s")}`],
          ["S onset", detection.s_onset === null ? null : moment(seconds(detection.s_onset), { digits: 3, date: false })],
          ["S − P", delay === null ? null : `${number(delay, 2, "s")}, about ${number(delay * KM_PER_S, 0, "km")} away`],
          ["End", detection.end === null ? "going on" : moment(seconds(detection.end), { digits: 1, date: false })],
          ["Probability", number(detection.probability, 3)],
          ["Signal to noise", detection.snr_db === null ? "not known" : number(detection.snr_db, 1, "dB")],
          ["Largest deflection", amplitude(detection.peak_counts)],
          ["Dominant frequency", number(detection.dominant_hz, 1, "Hz")],
          ["Data complete", percent(detection.data_complete)],
          ["Decided", `${number(detection.latency_s, 1, "s")} after the onset`],
        ]),
      ),
      h(
        "section",
        { class: "panel half", "aria-labelledby": "why-title" },
        h("h2", { id: "why-title" }, "Why"),
        reasonTable(detection),
        facts([
          ["Model", `${detection.model.name} ${detection.model.version}`],
          ["Data", { live: "live", backfill: "came late", replay: "a recording" }[detection.origin] ?? detection.origin],
          ["Revision", `${detection.revision}, ${detection.state}`],
          ["Id", h("span", { class: "code" }, detection.id)],
        ]),
      ),
      (has("explanation.png") || has("explanation.json")) &&
        h("section", { class: "panel full", "aria-labelledby": "looked-title" }, h("h2", { id: "looked-title" }, "What the model looked at"), looked),
      h(
        "section",
        { class: "panel full", "aria-labelledby": "files-title" },
        h("h2", { id: "files-title" }, "Download"),
        h(
          "ul",
          { class: "files" },
          Object.entries(FILES)
            .filter(([name]) => has(name))
            .map(([name, text]) => h("li", {}, h("a", { class: "button", href: own(name), download: true }, text, h("span", { class: "faint" }, ` ${bytes(files[name])}`)))),
          !has("detection.json") && h("li", {}, h("a", { class: "button", href: `api/detection?id=${encodeURIComponent(this.id)}`, download: true }, "Detection (JSON)")),
        ),
        !has("waveforms.mseed") && h("p", { class: "note" }, "The recorded waveforms are written to the archive about two minutes after the event, where [archive] events is on."),
        h("details", { open: unfolded }, h("summary", {}, "The record as it was sent"), h("pre", { tabindex: "0" }, JSON.stringify(detection, null, 2))),
      ),
    );
    this.draw();
    this.map = null;
    if (has("explanation.json")) explain(looked, this.app, own("explanation.json"), event.picture).then((map) => looked.isConnected && (this.map = map));
  }

  draw() {
    this.map?.draw();
    if (!this.stack || !this.canvas.isConnected) return;
    this.stack.draw({ traces: this.traces, t0: this.t0, t1: this.t1, marks: this.marks, threshold: this.threshold });
  }

  events(events) {
    const own = events.find((event) => event.detection.id === this.id);
    if (own && this.revision !== undefined && (own.detection.revision !== this.revision || own.fresh)) this.fetch();
  }

  /** There is more of one in the archive: its waveforms, or the pictures, which are drawn when there is nothing better to do. */
  archived(id) {
    if (id === this.id) this.fetch();
  }

  /** Something was missed. */
  again() {
    this.fetch();
  }

  service() {}

  themed() {
    this.draw();
  }
}
