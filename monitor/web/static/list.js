// The list of recent detections.

import { day, h, local, moment, number, seconds, svg } from "./dom.js";

/** What the plots draw of a detection. */
export function markOf({ detection }) {
  return {
    id: detection.id,
    href: eventHref(detection.id),
    onset: seconds(detection.onset),
    s: detection.s_onset === null ? null : seconds(detection.s_onset),
    end: detection.end === null ? null : seconds(detection.end),
    phase: detection.phase,
  };
}

export const eventHref = (id) => `#/event/${encodeURIComponent(id)}`;
export const stationHref = (name) => `#/station/${encodeURIComponent(name)}`;

/** A waveform as small as a stamp: least and greatest value of each bin, -100 to 100. */
export function thumb(values) {
  const picture = svg("svg", { class: "thumb", viewBox: "0 -102 240 204", preserveAspectRatio: "none", "aria-hidden": "true" });
  let path = "";
  for (let i = 0; i + 1 < values.length; i += 2) {
    if (values[i] === null) continue;
    const [low, high] = [values[i], Math.max(values[i + 1], values[i] + 3)];
    path += `M${i + 0.5} ${-low}V${-high}`;
  }
  picture.append(svg("path", { d: path || "M0 0H240", class: path ? "" : "unknown" }));
  return picture;
}

/** S minus P in seconds; null where it is not known. */
export function sMinusP(detection) {
  if (detection.s_onset === null || detection.phase !== "P") return null;
  return seconds(detection.s_onset) - seconds(detection.onset);
}

function phases(detection) {
  const found = [];
  if (detection.phase === "P") found.push(h("span", { class: "flag p" }, "P"));
  if (detection.phase === "S" || detection.s_onset !== null) found.push(h("span", { class: "flag s" }, "S"));
  if (!found.length) found.push(h("span", { class: "flag" }, "?"));
  return found;
}

function state(detection) {
  if (detection.state === "retracted") return h("span", { class: "chip bad" }, "retracted");
  if (detection.state !== "final") return h("span", { class: "chip hot" }, "going on");
  if (detection.origin === "backfill") return h("span", { class: "chip", title: "Decided on data that came late" }, "late");
  return null;
}

function item(event, withStation) {
  const { detection } = event;
  const onset = seconds(detection.onset);
  const delay = sMinusP(detection);
  return h(
    "li",
    { "data-id": detection.id },
    h(
      "a",
      { href: eventHref(detection.id), class: detection.state === "retracted" ? "detection gone" : "detection", title: local(onset) },
      thumb(event.thumb),
      h(
        "span",
        { class: "event-text" },
        h("span", { class: "row" }, h("strong", {}, moment(onset, { digits: 1, date: false })), phases(detection)),
        h("span", { class: "row faint" }, withStation && h("span", { class: "station-name" }, detection.station), day(onset), state(detection)),
        h(
          "span",
          { class: "faint" },
          `p  ${number(detection.probability, 2)}`,
          detection.snr_db !== null && ` · SNR ${number(detection.snr_db, 0, "dB")}`,
          delay !== null && ` · S−P ${number(delay, 1, "s")}`,
        ),
      ),
    ),
  );
}

/** Keeps a list up to date. */
export class EventList {
  constructor({ withStation, few, title = "Detections" }) {
    this.withStation = withStation;
    this.few = few;
    this.all = false;
    this.list = h("ol", { class: "events", "aria-label": title });
    this.more = h("button", { type: "button", class: "quiet wide", click: () => this.#toggle() });
    this.element = h("div", {}, this.list, this.more);
    this.events = [];
  }

  #toggle() {
    this.all = !this.all;
    this.show(this.events);
  }

  show(events) {
    this.events = events;
    const shown = this.all ? events : events.slice(0, this.few);
    const focused = document.activeElement?.closest?.("[data-id]")?.dataset.id;
    this.list.replaceChildren(...shown.map((event) => item(event, this.withStation)));
    if (!events.length) this.list.append(h("li", { class: "note" }, "None yet."));
    this.more.hidden = events.length <= this.few;
    this.more.textContent = this.all ? "Show fewer" : `Show all ${events.length}`;
    // What was focused is focused again, though it is another element now.
    if (focused) [...this.list.children].find((li) => li.dataset.id === focused)?.querySelector("a")?.focus();
  }
}
