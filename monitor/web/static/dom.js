// Elements, numbers and times. Text goes in as text: nothing here, or anywhere on this page, parses HTML.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element: h("a", {class: "x", href: "#/"}, "text", child). */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  add(element, children);
  return element;
}

function add(element, children) {
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false)
      element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

/** Replace what an element holds. */
export function put(element, ...children) {
  element.replaceChildren();
  add(element, children);
  return element;
}

/** Change an element's text only where it differs: what does not change is not read out or laid out again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// -- numbers -----------------------------------------------------------------------------------------------------------

const MISSING = "–";

export function number(value, digits = 0, unit = "") {
  if (value === null || value === undefined || Number.isNaN(value)) return MISSING;
  const text = Number(value).toFixed(digits).replace("-", "−");
  const [whole, rest] = text.split(".");
  const grouped = whole.length > 4 ? whole.replace(/\B(?=(\d{3})+$)/g, "\u2009") : whole;
  return (rest ? `${grouped}.${rest}` : grouped) + (unit && `\u202f${unit}`);
}

/** An amplitude: counts in full, ground motion in powers of ten. */
export function amplitude(value) {
  if (value === 0) return "0";
  if (Math.abs(value) >= 1e-2 && Math.abs(value) < 1e7) return number(value, Math.abs(value) >= 100 ? 0 : 2);
  return value.toExponential(1).replace("-", "−");
}

export function percent(share, digits = 0) {
  return share === null || share === undefined ? MISSING : number(100 * share, digits, "%");
}

/** A length of time for people: 3.2 s, 4 min, 2 h, 3 d. */
export function lasting(seconds) {
  if (seconds === null || seconds === undefined) return MISSING;
  if (seconds < 60) return number(seconds, seconds < 10 ? 1 : 0, "s");
  if (seconds < 5400) return number(seconds / 60, 0, "min");
  if (seconds < 48 * 3600) return number(seconds / 3600, 0, "h");
  return number(seconds / 86400, 0, "d");
}

export function bytes(count) {
  if (count === null || count === undefined) return MISSING;
  if (count < 1000) return number(count, 0, "B");
  if (count < 1e6) return number(count / 1e3, 1, "kB");
  if (count < 1e9) return number(count / 1e6, 1, "MB");
  return number(count / 1e9, 1, "GB");
}

// -- times -------------------------------------------------------------------------------------------------------------

/** Seconds since the epoch of an ISO 8601 text; its microseconds are kept to the millisecond. */
export function seconds(iso) {
  return Date.parse(iso) / 1000;
}

function iso(s) {
  const date = new Date(s * 1000);
  return Number.isNaN(date.getTime()) ? "" : date.toISOString();
}

/** HH:MM:SS in UTC, with decimals. */
export function clock(s, digits = 0) {
  return digits ? iso(s).slice(11, 20 + digits) : iso(Math.floor(s)).slice(11, 19);
}

/** YYYY-MM-DD in UTC. */
export function day(s) {
  return iso(s).slice(0, 10);
}

const LOCAL = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

/** The same moment where the browser is. */
export function local(s) {
  const date = new Date(s * 1000);
  return Number.isNaN(date.getTime()) ? "" : `local: ${LOCAL.format(date)}`;
}

/** A moment in UTC, local on hover. */
export function moment(s, { digits = 0, date = true } = {}) {
  return h(
    "time",
    { datetime: iso(s), title: local(s) },
    date ? `${day(s)} ${clock(s, digits)}` : clock(s, digits),
    h("span", { class: "utc" }, " UTC"),
  );
}
