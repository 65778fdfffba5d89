// Which view is shown, what the monitor says, and the colours.

import { clock, h, local, moment, put, say, seconds } from "./dom.js";
import { EventView } from "./event.js";
import { footLine } from "./health.js";
import { eventHref, stationHref } from "./list.js";
import { OverviewView } from "./overview.js";
import { forgetColours } from "./plot.js";
import { StationView } from "./station.js";

const $ = (id) => document.getElementById(id);
const MOST_EVENTS = 50;
// How long a banner stays.
const BANNER_MS = 60_000;

const app = {
  stations: null,
  events: new Map(),
  health: null,
  reports: [],
  view: null,
  source: null,
  ahead: 0,

  /** JSON of the monitor; null where there is none. */
  async get(path) {
    try {
      const answer = await fetch(path);
      return answer.ok ? await answer.json() : null;
    } catch {
      return null; // it is away: the stream tells, and asks again
    }
  },
};

// -- which view --------------------------------------------------------------------------------------------------------

function wanted() {
  const [, kind, rest] = location.hash.split("/");
  let name = "";
  try {
    name = decodeURIComponent(rest ?? "");
  } catch {
    // Not one of ours.
  }
  if (kind === "event") return { kind, name };
  const stations = app.stations ?? [];
  if (kind === "station" && stations.some((meta) => meta.name === name)) return { kind, name };
  if (stations.length === 1) return { kind: "station", name: stations[0].name };
  return { kind: "overview", name: "" };
}

let shown = "";

function show({ again = false } = {}) {
  if (app.stations === null) {
    follow("");
    return;
  }
  const { kind, name } = wanted();
  navigation(kind, name);
  if (!again && shown === `${kind} ${name}`) return;
  const moved = shown !== "";
  shown = `${kind} ${name}`;
  app.view?.close();
  follow(kind === "station" ? name : "");
  if (kind === "station") app.view = new StationView(app.stations.find((meta) => meta.name === name), app);
  else if (kind === "event") app.view = new EventView(name, app);
  else app.view = new OverviewView(app.stations, app);
  put($("main"), app.view.element);
  if (moved) {
    window.scrollTo(0, 0);
    $("main").focus({ preventScroll: true });
  }
  title();
  tell();
}

function navigation(kind, name) {
  const many = app.stations.length > 1;
  const links = app.stations.map((meta) => h("a", { href: stationHref(meta.name), "aria-current": kind === "station" && meta.name === name ? "page" : null }, meta.station));
  put($("nav"), many && h("a", { href: "#/", "aria-current": kind === "overview" ? "page" : null }, "Overview"), many && links.length <= 12 && links);
}

function title() {
  const { kind, name } = wanted();
  const meta = app.stations?.find((one) => one.name === name);
  const place = kind === "station" && meta ? meta.station : kind === "event" ? "Detection" : "Stations";
  document.title = `${alarm() ? "● Earthquake · " : ""}${place} · Seismic monitor`;
}

function alarm() {
  return [...app.events.values()].some(({ detection }) => detection.origin === "live" && ["new", "update"].includes(detection.state));
}

function sorted() {
  return [...app.events.values()].sort((a, b) => (a.detection.onset < b.detection.onset ? 1 : -1)).slice(0, MOST_EVENTS);
}

function tell() {
  app.view?.events(sorted());
  app.view?.service({ health: app.health, reports: app.reports });
}

// -- what the monitor says ---------------------------------------------------------------------------------------------

let watched = null;
let silent = 0;

function follow(name) {
  if (watched === name && app.source && app.source.readyState !== EventSource.CLOSED) return;
  watched = name;
  app.source?.close();
  const source = (app.source = new EventSource(`api/live?watch=${encodeURIComponent(name)}`));
  const on = (kind, take) =>
    source.addEventListener(kind, (message) => {
      if (source !== app.source) return;
      silent = 0;
      take(JSON.parse(message.data));
    });
  let opened = false;
  source.addEventListener("open", () => {
    link("live", "good");
    // What happened in between was not told.
    if (opened) app.view?.again?.();
    opened = true;
    recall();
  });
  source.addEventListener("error", () => {
    if (source !== app.source) return;
    link("reconnecting", "warn");
    // Some refusals end a source for good.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => source === app.source && follow(watched), 5000);
  });
  on("stations", stations);
  on("data", (message) => message.instrument === app.view?.name && app.view.data?.(message));
  on("sparks", (message) => app.view?.sparks?.(message));
  on("detection", detection);
  on("archived", (id) => app.view?.archived?.(id));
  on("health", health);
  on("quality", (reports) => {
    app.reports = reports;
    app.view?.service({ health: app.health, reports });
  });
  on("lost", () => {
    app.view?.again?.();
    recall();
  });
}

async function recall() {
  const events = await app.get("api/events");
  if (!events) return;
  for (const event of events) app.events.set(event.detection.id, event);
  app.view?.events(sorted());
  title();
}

function stations(list) {
  const before = JSON.stringify((app.stations ?? []).map((meta) => [meta.name, meta.channels, meta.threshold, meta.n_shown]));
  const after = JSON.stringify(list.map((meta) => [meta.name, meta.channels, meta.threshold, meta.n_shown]));
  app.stations = list;
  if (before !== after || !app.view) show({ again: true });
}

function detection(event) {
  const { detection: found } = event;
  const known = app.events.has(found.id);
  event.fresh = true;
  app.events.set(found.id, event);
  if (app.events.size > 2 * MOST_EVENTS) app.events = new Map(sorted().map((one) => [one.detection.id, one]));
  if (!known && found.state === "new") announce(found);
  app.view?.events(sorted());
  event.fresh = false;
  title();
}

let bannerTimer = 0;

function announce(found) {
  const onset = seconds(found.onset);
  const phase = found.phase === "unknown" ? "onset" : `${found.phase} wave`;
  $("said").textContent = `Earthquake detected at ${found.station}: ${phase} at ${clock(onset)} UTC.`;
  put(
    $("banner"),
    h("a", { href: eventHref(found.id) }, h("strong", {}, "Earthquake"), ` at ${found.station}, ${phase} `, moment(onset, { digits: 1, date: false })),
    h("button", { type: "button", class: "quiet", "aria-label": "Close", click: () => ($("banner").hidden = true) }, "×"),
  );
  $("banner").hidden = false;
  clearTimeout(bannerTimer);
  bannerTimer = setTimeout(() => ($("banner").hidden = true), BANNER_MS);
}

function health(message) {
  app.health = message;
  app.ahead = message.now - Date.now() / 1000;
  app.view?.service({ health: message, reports: app.reports });
  say($("foot"), footLine(message));
}

function link(text, kind) {
  say($("link"), text);
  $("link").className = `chip ${kind}`;
}

// -- clock and colours -------------------------------------------------------------------------------------------------

setInterval(() => {
  const now = Date.now() / 1000 + app.ahead;
  say($("clock"), `${clock(now)} UTC`);
  $("clock").title = local(now);
  silent += 1;
  if (silent > 20) link("no news", "warn");
}, 1000);

const THEMES = { auto: ["◐", "as the system has them"], light: ["☀", "light"], dark: ["☾", "dark"] };

function remembered() {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null; // a browser that keeps nothing
  }
}

function theme(name) {
  const [sign, words] = THEMES[name];
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  $("theme").textContent = sign;
  $("theme").setAttribute("aria-label", `Colours: ${words}`);
  $("theme").title = `Colours: ${words}`;
  forgetColours();
  app.view?.themed();
}

let chosen = Object.hasOwn(THEMES, remembered() ?? "") ? remembered() : "auto";
$("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  chosen = names[(names.indexOf(chosen) + 1) % names.length];
  try {
    localStorage.setItem("theme", chosen);
  } catch {
    // Then it is for this visit.
  }
  theme(chosen);
});
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme(chosen));
window.addEventListener("hashchange", () => show());
// Browsers keep a page that was left, to go back to, and its stream with it: one of the six that they open to a server.
window.addEventListener("pagehide", () => app.source?.close());
window.addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  follow(watched);
  app.view?.again?.();
});
theme(chosen);
show();
