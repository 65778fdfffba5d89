// What the model looked at: regions of the spectrogram that moved the score when they were hidden from it.

import { clock, h, number, put, seconds } from "./dom.js";
import { colours, fit } from "./plot.js";
import { SpectrogramImage, unpack } from "./store.js";

const NAMES = { all: "all components", Z: "vertical", N: "north", E: "east" };

/** The cells as an image of one pixel each: the colour says for or against, how opaque it is how much. */
function image(rows, most, colour) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [rows.length, rows[0].length];
  const context = canvas.getContext("2d");
  rows.forEach((row, x) =>
    row.forEach((change, k) => {
      context.globalAlpha = change === null ? 0 : 0.92 * Math.min(1, Math.abs(change) / most);
      context.fillStyle = colour(change > 0 ? "p" : "s");
      context.fillRect(x, row.length - 1 - k, 1, 1);
    }),
  );
  return canvas;
}

export class ExplanationPlot {
  constructor(explanation, picture) {
    this.map = explanation.occlusion;
    this.words = explanation.words;
    const { feed } = picture;
    this.picture = picture;
    this.meta = feed;
    this.kind = "all" in this.map.change ? "all" : Object.keys(this.map.change)[0];
    this.buttons = Object.keys(this.map.change).map((kind) =>
      h("button", { type: "button", class: "quiet", "aria-pressed": String(kind === this.kind), click: () => this.#choose(kind) }, NAMES[kind] ?? kind),
    );
    const strongest = this.map.regions.length;
    this.canvas = h("canvas", { class: "map", role: "img", "aria-label": `Spectrogram with ${strongest} region${strongest === 1 ? "" : "s"} marked that moved the score; the sentences say the same.` });
    this.element = h(
      "div",
      {},
      h("div", { class: "panel-head" }, h("span", { class: "note" }, "Hidden from the model:"), h("div", { class: "buttons" }, this.buttons)),
      this.canvas,
      h(
        "ul",
        { class: "legend" },
        h("li", {}, h("span", { class: "swatch p thick" }), "spoke for an earthquake"),
        h("li", {}, h("span", { class: "swatch s thick" }), "spoke against it"),
        h("li", { class: "faint" }, `over the spectrogram of ${feed.shown.split(".").pop()}`),
      ),
      h(
        "p",
        { class: "note" },
        `With everything ${number(this.map.probability, 3)}; if nothing stood out from the background ${number(this.map.silence, 3)}`,
        Object.entries(this.map.without).map(([name, value]) => `; without ${NAMES[name] ?? name} ${number(value, 3)}`),
        ".",
      ),
      h("ul", { class: "words" }, explanation.words.map((sentence) => h("li", {}, sentence))),
    );
  }

  #choose(kind) {
    this.kind = kind;
    const kinds = Object.keys(this.map.change);
    this.buttons.forEach((button, at) => button.setAttribute("aria-pressed", String(kinds[at] === kind)));
    this.draw();
  }

  /** In the greys of the theme. */
  #spectrogram() {
    const scheme = getComputedStyle(document.documentElement).colorScheme;
    if (this.scheme !== scheme) {
      const [first, levels] = [this.picture.frames[0], unpack(this.picture.frames[1])];
      this.scheme = scheme;
      this.grey = new SpectrogramImage(this.meta, Math.max(1, levels.length / this.meta.n_freq), scheme === "dark" ? "dark" : "light");
      this.grey.write(first, levels);
    }
    return this.grey;
  }

  draw() {
    if (!this.canvas.isConnected) return;
    const { context, width, height } = fit(this.canvas);
    const colour = colours();
    const { map, meta } = this;
    const spectrogram = this.#spectrogram();
    const cells = map.change[this.kind];
    const start = seconds(map.starttime) - meta.frame_s / 2;
    const end = start + cells.length * map.cell_s;
    const left = width < 560 ? 0 : 66;
    const inner = width - left - (left ? 8 : 0);
    const bottom = height - 22;
    const x = (t) => left + ((t - start) / (end - start)) * inner;
    const y = (hz) => bottom - ((hz - meta.low_hz) / (meta.high_hz - meta.low_hz)) * bottom;
    context.fillStyle = colour("void");
    context.fillRect(left, 0, inner, bottom);
    context.save();
    context.beginPath();
    context.rect(left, 0, inner, bottom);
    context.clip();
    const first = spectrogram.rows.first;
    const count = spectrogram.rows.end - first;
    for (let at = 0; at < count; ) {
      const column = (first + at) % spectrogram.width;
      const some = Math.min(count - at, spectrogram.width - column);
      const from = x((first + at - 0.5) * meta.frame_s);
      context.drawImage(spectrogram.canvas, column, spectrogram.height - meta.n_shown, some, meta.n_shown, from, 0, x((first + at + some - 0.5) * meta.frame_s) - from, bottom);
      at += some;
    }
    const most = Math.max(1e-9, ...Object.values(map.change).flat(2).filter((v) => v !== null).map(Math.abs));
    const low = map.first_hz - (meta.high_hz - meta.low_hz) / (meta.n_shown - 1) / 2;
    const top = y(low + cells[0].length * map.cell_hz);
    context.drawImage(image(cells, most, colour), left, top, inner, y(low) - top);
    const at = x(seconds(map.time));
    context.fillStyle = colour("ink");
    context.fillRect(at, 0, 1, bottom);
    context.restore();
    this.#axes(context, colour, { start, end, left, inner, bottom, x, y });
  }

  #axes(context, colour, { start, end, left, inner, bottom, x, y }) {
    const { meta } = this;
    context.font = `11.5px ${colour("font")}`;
    context.textBaseline = "middle";
    context.textAlign = "center";
    context.fillStyle = colour("faint");
    const step = [1, 2, 5, 10].find((s) => (end - start) / s <= inner / 90) ?? 20;
    for (let t = Math.ceil(start / step) * step; t <= end; t += step)
      if (x(t) > left + 28 && x(t) < left + inner - 26) context.fillText(clock(t), x(t), bottom + 12);
    if (!left) return;
    context.textAlign = "right";
    for (const hz of meta.high_hz > 30 ? [10, 20, 30, 40] : [5, 10, 15, 20]) context.fillText(`${hz} Hz`, left - 8, y(hz));
  }
}

/** Fetch and show it; `place` is filled when it is there. */
export async function explain(place, app, url, picture) {
  const explanation = await app.get(url);
  if (!explanation?.occlusion || !picture) return null;
  const plot = new ExplanationPlot(explanation, picture);
  put(place, plot.element);
  plot.draw();
  return plot;
}
