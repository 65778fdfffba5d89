// What the model looked at: regions of the spectrogram that moved the score when they were hidden from it.

import { clock, h, number, put, seconds } from "./dom.js";
import { colours, fit } from "./plot.js";
import { SpectrogramImage, unpack } from "./store.js";

const NAMES = { all: "all components", Z: "vertical", N: "north", E: "east" };

/** Colour and strength of a change of log-odds, of the strongest one's size. */
function shade(colour, change, most) {
  const strength = Math.min(1, Math.abs(change) / most);
  return { style: colour(change > 0 ? "p" : "s"), alpha: strength < 0.06 ? 0 : 0.15 + 0.7 * strength };
}

export class ExplanationPlot {
  constructor(explanation, picture) {
    this.map = explanation.occlusion;
    this.words = explanation.words;
    const { feed, frames } = picture;
    this.image = new SpectrogramImage(feed, Math.max(1, unpack(frames[1]).length / feed.n_freq), "grey");
    this.image.write(frames[0], unpack(frames[1]));
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
      h("ul", { class: "words" }, explanation.words.map((sentence) => h("li", {}, sentence))),
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
    );
  }

  #choose(kind) {
    this.kind = kind;
    const kinds = Object.keys(this.map.change);
    this.buttons.forEach((button, at) => button.setAttribute("aria-pressed", String(kinds[at] === kind)));
    this.draw();
  }

  draw() {
    if (!this.canvas.isConnected) return;
    const { context, width, height } = fit(this.canvas);
    const colour = colours();
    const { map, meta, image } = this;
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
    const first = image.rows.first;
    const count = image.rows.end - first;
    for (let at = 0; at < count; ) {
      const column = (first + at) % image.width;
      const some = Math.min(count - at, image.width - column);
      const from = x((first + at - 0.5) * meta.frame_s);
      context.drawImage(image.canvas, column, image.height - meta.n_shown, some, meta.n_shown, from, 0, x((first + at + some - 0.5) * meta.frame_s) - from, bottom);
      at += some;
    }
    const most = Math.max(1e-9, ...Object.values(map.change).flat(2).filter((v) => v !== null).map(Math.abs));
    const halfBin = (meta.high_hz - meta.low_hz) / (meta.n_shown - 1) / 2;
    cells.forEach((row, i) => {
      row.forEach((change, k) => {
        if (change === null) return;
        const { style, alpha } = shade(colour, change, most);
        if (!alpha) return;
        const low = map.first_hz - halfBin + k * map.cell_hz;
        const [a, b, top, base] = [x(start + i * map.cell_s), x(start + (i + 1) * map.cell_s), y(low + map.cell_hz), y(low)];
        context.globalAlpha = alpha;
        context.fillStyle = style;
        context.fillRect(a, top, b - a + 0.5, base - top + 0.5);
      });
    });
    context.globalAlpha = 1;
    const at = x(seconds(map.time));
    context.fillStyle = colour("ink");
    context.setLineDash([3, 3]);
    context.fillRect(at, 0, 1, bottom);
    context.restore();
    this.#axes(context, colour, { start, end, left, inner, bottom, x, y });
  }

  #axes(context, colour, { start, end, left, inner, bottom, x, y }) {
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
