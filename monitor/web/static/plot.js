// Waveforms, spectrogram and probability, one above the other on one time axis, on one canvas.

import { amplitude, clock, day, h, local, number } from "./dom.js";
import { SHOWN_DB } from "./store.js";

const known = new Map();

/** The page's colours, for canvases. */
export function colours() {
  const style = getComputedStyle(document.documentElement);
  return (name) => {
    if (!known.has(name)) known.set(name, style.getPropertyValue(`--${name}`).trim());
    return known.get(name);
  };
}

/** The theme has changed. */
export function forgetColours() {
  known.clear();
}

/** Fit a canvas's pixels to its place; gives the context, scaled to CSS pixels. */
export function fit(canvas) {
  const ratio = Math.min(3, window.devicePixelRatio || 1);
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height, ratio };
}

const TICKS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600];

/** Draw a wave as one vertical line for each group of bins; groups lie on an absolute grid, so scrolling is rigid. */
export function drawWave(context, { rows, binS, t0, t1, left, width, ratio, y }) {
  if (rows.end === null) return;
  const perPixel = (t1 - t0) / binS / (width * ratio);
  const group = Math.max(1, Math.ceil(perPixel));
  const scale = width / (t1 - t0);
  const first = Math.floor(Math.max(rows.first, t0 / binS) / group);
  const last = Math.ceil(Math.min(rows.end, t1 / binS + group) / group);
  const { values, capacity } = rows;
  let [before, beforeLow, beforeHigh] = [false, 0, 0];
  context.beginPath();
  for (let g = first; g < last; g++) {
    let [low, high] = [Infinity, -Infinity];
    for (let i = Math.max(rows.first, g * group); i < Math.min(rows.end, (g + 1) * group); i++) {
      const at = (i % capacity) * 2;
      if (values[at] < low) low = values[at];
      if (values[at + 1] > high) high = values[at + 1];
    }
    if (low > high) {
      before = false;
      continue;
    }
    const x = left + ((g + 0.5) * group * binS - t0) * scale;
    // Reaches to where the one before ended: no holes in steep parts.
    let [top, bottom] = [y(before ? Math.max(high, beforeLow) : high), y(before ? Math.min(low, beforeHigh) : low)];
    if (bottom - top < 0.9) [top, bottom] = [(top + bottom) / 2 - 0.45, (top + bottom) / 2 + 0.45];
    context.moveTo(x, top);
    context.lineTo(x, bottom);
    [before, beforeLow, beforeHigh] = [true, low, high];
  }
  context.stroke();
}

/** Middle and reach of a wave within a span: what its panel is scaled to. */
function extent(rows, binS, t0, t1) {
  if (rows.end === null) return null;
  const [first, last] = [Math.max(rows.first, Math.floor(t0 / binS)), Math.min(rows.end, Math.ceil(t1 / binS))];
  const [middles, lows, highs] = [[], [], []];
  const step = Math.max(1, Math.floor((last - first) / 400));
  for (let i = first; i < last; i += step) {
    const middle = (rows.at(i, 0) + rows.at(i, 1)) / 2;
    if (!Number.isNaN(middle)) middles.push(middle);
  }
  if (!middles.length) return null;
  let [low, high] = [Infinity, -Infinity];
  for (let i = first; i < last; i++) {
    const [a, b] = [rows.at(i, 0), rows.at(i, 1)];
    if (a < low) low = a;
    if (b > high) high = b;
  }
  middles.sort((a, b) => a - b);
  const middle = middles[middles.length >> 1];
  return { middle, reach: Math.max(high - middle, middle - low) || 1 };
}

/** What the colours mean. */
export function legend(meta, threshold) {
  const lines = [["quake", "earthquake"], ["p", "P"], ["s", "S"], ["threshold", `threshold ${number(threshold, 2)}`]];
  return h(
    "ul",
    { class: "legend", "aria-label": "Colours" },
    lines.map(([name, text]) => h("li", {}, h("span", { class: `swatch ${name}` }), text)),
    h("li", {}, SHOWN_DB[0], h("span", { class: "swatch viridis" }), `${SHOWN_DB[1]} dB above the background of ${meta.shown.split(".").pop()}`),
  );
}

/** Draws the panels, and knows where they are. */
export class Stack {
  constructor(canvas) {
    this.canvas = canvas;
    this.scales = new Map();
    this.scaledAt = -Infinity;
    this.pointer = null;
    this.gain = 1;
    for (const name of ["pointermove", "pointerdown"])
      canvas.addEventListener(name, (event) => {
        this.pointer = event.offsetX;
        this.changed?.();
      });
    for (const name of ["pointerleave", "pointercancel"])
      canvas.addEventListener(name, () => {
        this.pointer = null;
        this.changed?.();
      });
  }

  /** Draw. marks: [{p, s, end, unknown}] in seconds; now: for slow changes of scale, or null for none. */
  draw({ traces, t0, t1, marks, threshold, now = null }) {
    const { context, width, height, ratio } = fit(this.canvas);
    if (width < 50) return;
    const colour = colours();
    const narrow = width < 560;
    const left = narrow ? 0 : 66;
    const flags = 20;
    const axis = 24;
    const inner = { left, width: width - left - (narrow ? 0 : 8), t0, t1, ratio };
    const waves = [...traces.waves];
    const total = height - flags - axis;
    const spectrogramHeight = Math.round(total * (waves.length > 1 ? 0.27 : 0.36));
    const probabilityHeight = Math.round(total * 0.17);
    const waveHeight = (total - spectrogramHeight - probabilityHeight) / Math.max(1, waves.length);
    Object.assign(this, { inner, flags, bottom: height - axis });
    context.font = `11.5px ${colour("font")}`;
    context.textBaseline = "middle";
    let y = flags;
    this.#rescale(traces, t0, t1, now);
    this.#time(context, colour, inner, flags, height - axis, narrow);
    const found = this.#marks(context, colour, inner, { marks, top: flags, bottom: height - axis });
    for (const [id, rows] of waves) {
      this.#wave(context, colour, inner, { id, rows, binS: traces.binS, y, height: waveHeight, narrow });
      y += waveHeight;
    }
    this.#spectrogram(context, colour, inner, { traces, y, height: spectrogramHeight, narrow });
    this.#lines(context, colour, inner, { found, top: y, bottom: y + spectrogramHeight, seam: true });
    y += spectrogramHeight;
    this.#probability(context, colour, inner, { traces, threshold, y, height: probabilityHeight, narrow });
    this.#crosshair(context, colour, inner, { traces, top: flags, bottom: y + probabilityHeight });
  }

  #rescale(traces, t0, t1, now) {
    if (now !== null && now - this.scaledAt < 500) return;
    const first = this.scaledAt === -Infinity;
    this.scaledAt = now ?? 0;
    for (const [id, rows] of traces.waves) {
      const found = extent(rows, traces.binS, t0, t1);
      if (!found) continue;
      const was = this.scales.get(id);
      // Grows at once, shrinks slowly.
      const reach = was && !first && now !== null && found.reach < was.reach ? 0.8 * was.reach + 0.2 * found.reach : found.reach;
      this.scales.set(id, { middle: found.middle, reach });
    }
  }

  #x(inner, t) {
    return inner.left + ((t - inner.t0) / (inner.t1 - inner.t0)) * inner.width;
  }

  #time(context, colour, inner, top, bottom, narrow) {
    const most = inner.width / (narrow ? 78 : 96);
    const step = TICKS.find((s) => (inner.t1 - inner.t0) / s <= most) ?? 900;
    context.textAlign = "center";
    for (let t = Math.ceil(inner.t0 / step) * step; t <= inner.t1; t += step) {
      const x = this.#x(inner, t);
      context.fillStyle = colour("grid");
      context.fillRect(Math.round(x * inner.ratio) / inner.ratio, top, 1, bottom - top);
      context.fillStyle = colour("faint");
      if (x > inner.left + 28 && x < inner.left + inner.width - 26) context.fillText(clock(t), x, bottom + 13);
    }
  }

  #label(context, colour, x, y, text, { strong = false } = {}) {
    context.textAlign = "left";
    context.font = `${strong ? "600 " : ""}11.5px ${colour("font")}`;
    const width = context.measureText(text).width;
    context.fillStyle = colour("panel-veil");
    context.beginPath();
    context.roundRect(x - 3, y - 8, width + 8, 16, 4);
    context.fill();
    context.fillStyle = colour(strong ? "ink" : "faint");
    context.fillText(text, x + 1, y + 0.5);
    return width;
  }

  #frame(context, colour, inner, y) {
    context.fillStyle = colour("line");
    context.fillRect(inner.left, Math.round(y), inner.width, 1);
  }

  #wave(context, colour, inner, { id, rows, binS, y, height, narrow }) {
    this.#frame(context, colour, inner, y);
    const scale = this.scales.get(id);
    const middle = y + height / 2;
    const short = id.split(".").slice(2).join(".").replace(/^\./, "");
    if (scale) {
      context.save();
      context.beginPath();
      context.rect(inner.left, y, inner.width, height);
      context.clip();
      context.strokeStyle = colour("wave");
      context.lineWidth = Math.max(1, 1.15 / inner.ratio);
      const factor = ((height / 2 - 3) / scale.reach) * this.gain;
      drawWave(context, { ...inner, rows, binS, y: (v) => middle - (v - scale.middle) * factor });
      context.restore();
    }
    const reach = scale ? `±${amplitude(scale.reach / this.gain)}` : "no data";
    if (narrow) {
      const used = this.#label(context, colour, 6, y + 11, short, { strong: true });
      this.#label(context, colour, 6 + used + 10, y + 11, reach);
      return;
    }
    context.textAlign = "right";
    context.font = `600 12.5px ${colour("font")}`;
    context.fillStyle = colour("ink");
    context.fillText(short, inner.left - 8, middle - 8);
    context.font = `11px ${colour("font")}`;
    context.fillStyle = colour("faint");
    context.fillText(reach, inner.left - 8, middle + 8, inner.left - 10);
  }

  #spectrogram(context, colour, inner, { traces, y, height, narrow }) {
    const { image, meta } = traces;
    context.fillStyle = colour("void");
    context.fillRect(inner.left, y, inner.width, height);
    if (image.rows.end !== null) {
      context.save();
      context.beginPath();
      context.rect(inner.left, y, inner.width, height);
      context.clip();
      const scale = inner.width / (inner.t1 - inner.t0);
      const first = Math.max(image.rows.first, Math.floor(inner.t0 / meta.frame_s) - 1);
      const last = Math.min(image.rows.end, Math.ceil(inner.t1 / meta.frame_s) + 2);
      for (let frame = first; frame < last; ) {
        const column = frame % image.width;
        const count = Math.min(last - frame, image.width - column);
        const x = inner.left + ((frame - 0.5) * meta.frame_s - inner.t0) * scale;
        context.drawImage(image.canvas, column, image.height - meta.n_shown, count, meta.n_shown, x, y, count * meta.frame_s * scale, height);
        frame += count;
      }
      context.restore();
    }
    const span = meta.high_hz - meta.low_hz;
    context.font = `11px ${colour("font")}`;
    for (const hz of span > 30 ? [10, 20, 30, 40] : [5, 10, 15, 20]) {
      const at = y + height - ((hz - meta.low_hz) / span) * height;
      if (at < y + 8 || at > y + height - 6 || (narrow && hz % (span > 30 ? 20 : 10))) continue;
      context.textAlign = narrow ? "left" : "right";
      context.fillStyle = narrow ? "#fff" : colour("faint");
      context.globalAlpha = narrow ? 0.85 : 1;
      context.fillText(`${hz} Hz`, narrow ? 6 : inner.left - 8, at);
      context.globalAlpha = 0.35;
      context.fillStyle = "#fff";
      context.fillRect(inner.left, Math.round(at), narrow ? 4 : 5, 1);
      context.globalAlpha = 1;
    }
  }

  #probability(context, colour, inner, { traces, threshold, y, height, narrow }) {
    const { steps, meta } = traces;
    this.#frame(context, colour, inner, y);
    const level = (p) => y + height - 2 - p * (height - 8);
    if (steps.end !== null) {
      const scale = inner.width / (inner.t1 - inner.t0);
      const first = Math.max(steps.first, Math.floor((inner.t0 - meta.step_origin_s) / meta.step_s) - 1);
      const last = Math.min(steps.end, Math.ceil((inner.t1 - meta.step_origin_s) / meta.step_s) + 2);
      context.save();
      context.beginPath();
      context.rect(inner.left, y, inner.width, height);
      context.clip();
      const x = (i) => inner.left + (i * meta.step_s + meta.step_origin_s - inner.t0) * scale;
      this.#curve(context, steps, first, last, 0, x, level, { fill: colour("quake-fill"), base: y + height });
      for (const [column, name, thickness] of [[2, "s", 1.2], [1, "p", 1.2], [0, "quake", 1.6]]) {
        context.strokeStyle = colour(name);
        context.lineWidth = thickness;
        this.#curve(context, steps, first, last, column, x, level, {});
      }
      context.restore();
    }
    context.strokeStyle = colour("faint");
    context.lineWidth = 1;
    context.setLineDash([4, 4]);
    context.beginPath();
    context.moveTo(inner.left, level(threshold));
    context.lineTo(inner.left + inner.width, level(threshold));
    context.stroke();
    context.setLineDash([]);
    if (narrow) {
      this.#label(context, colour, 6, y + 11, "probability");
    } else {
      context.textAlign = "right";
      context.font = `11px ${colour("font")}`;
      context.fillStyle = colour("faint");
      const at = Math.min(level(0) - 14, level(threshold) + 2);
      if (at > level(1) + 16) context.fillText("1", inner.left - 8, level(1) + 2);
      context.fillText(threshold.toFixed(2), inner.left - 8, at);
      context.fillText("0", inner.left - 8, level(0) - 2);
    }
    this.#frame(context, colour, inner, y + height);
  }

  #curve(context, steps, first, last, column, x, level, { fill, base }) {
    let open = null;
    context.beginPath();
    for (let i = first; i <= last; i++) {
      const value = i < last ? steps.at(i, column) : 0;
      if (value) {
        const [at, up] = [x(i), level((value - 1) / 254)];
        if (open === null) {
          open = at;
          if (fill) context.moveTo(at, base);
          else context.moveTo(at, up);
        }
        context.lineTo(at, up);
      } else if (open !== null) {
        if (fill) {
          context.lineTo(x(i - 1), base);
          context.closePath();
        }
        open = null;
      }
    }
    if (fill) {
      context.fillStyle = fill;
      context.fill();
    } else context.stroke();
  }

  #marks(context, colour, inner, { marks, top, bottom }) {
    let taken = -Infinity;
    const [moments, found] = [[], []];
    for (const mark of marks) {
      const [a, b] = [this.#x(inner, mark.onset), this.#x(inner, mark.end ?? mark.onset)];
      if (b > inner.left && a < inner.left + inner.width && mark.end !== null) {
        context.fillStyle = colour("mark");
        const from = Math.max(inner.left, a);
        context.fillRect(from, top, Math.min(inner.left + inner.width, b) - from, bottom - top);
      }
      moments.push({ t: mark.onset, text: mark.phase === "unknown" ? "?" : mark.phase, name: mark.phase === "S" ? "s" : "p" });
      if (mark.s !== null && mark.phase !== "S") moments.push({ t: mark.s, text: "S", name: "s" });
    }
    moments.sort((a, b) => a.t - b.t);
    for (const { t, text, name } of moments) {
      const x = this.#x(inner, t);
      if (x < inner.left || x > inner.left + inner.width) continue;
      found.push({ x, name });
      context.fillStyle = colour(name);
      const at = Math.max(x, taken + 18);
      taken = at;
      context.beginPath();
      context.roundRect(at - 8, 1, 16, 16, 4);
      context.fill();
      context.fillStyle = colour("flag-ink");
      context.textAlign = "center";
      context.font = `700 11px ${colour("font")}`;
      context.fillText(text, at, 9.5);
    }
    this.#lines(context, colour, inner, { found, top: top - 3, bottom, seam: false });
    return found;
  }

  /** Beneath the waves, which they must not hide; over the spectrogram with a seam, or its colours would hide them. */
  #lines(context, colour, inner, { found, top, bottom, seam }) {
    for (const { x, name } of found) {
      if (seam) {
        context.fillStyle = colour("seam");
        context.fillRect(x - 1.6, top, 3.2, bottom - top);
      }
      context.fillStyle = colour(name);
      context.fillRect(x - 0.6, top, 1.2, bottom - top);
    }
  }

  #crosshair(context, colour, inner, { traces, top, bottom }) {
    if (this.pointer === null || this.pointer < inner.left || this.pointer > inner.left + inner.width) return;
    const t = inner.t0 + ((this.pointer - inner.left) / inner.width) * (inner.t1 - inner.t0);
    context.fillStyle = colour("ink");
    context.globalAlpha = 0.6;
    context.fillRect(this.pointer, top, 1, bottom - top);
    context.globalAlpha = 1;
    const { steps, meta } = traces;
    const level = steps.end === null ? 0 : steps.at(Math.round((t - meta.step_origin_s) / meta.step_s), 0);
    const said = [`${day(t)} ${clock(t, 1)} UTC`, local(t)];
    if (level) said.push(`earthquake ${((level - 1) / 254).toFixed(2)}`);
    context.font = `11.5px ${colour("font")}`;
    const width = Math.max(...said.map((text) => context.measureText(text).width)) + 16;
    const x = Math.min(Math.max(this.pointer + 10, inner.left), inner.left + inner.width - width);
    context.fillStyle = colour("tip");
    context.beginPath();
    context.roundRect(x, top + 6, width, 8 + 16 * said.length, 6);
    context.fill();
    context.textAlign = "left";
    context.fillStyle = colour("tip-ink");
    said.forEach((text, row) => context.fillText(text, x + 8, top + 18 + 16 * row));
  }
}
