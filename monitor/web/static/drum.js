// A day on a drum: a line for each hour, the newest at the bottom.

import { clock, day, h, local, lasting } from "./dom.js";
import { colours, drawWave, fit } from "./plot.js";
import { Rows, halves } from "./store.js";

const HOURS = 24;

export class Drum {
  constructor(meta) {
    this.meta = meta;
    this.rows = new Rows(Math.round((HOURS * 3600) / meta.drum_bin_s), 2, Float32Array, NaN);
    this.gain = 1;
    this.marks = [];
    this.canvas = h("canvas", { class: "drum", role: "img", "aria-label": `Drum plot of ${meta.shown}` });
    this.note = h("p", { class: "note" });
    this.louder = h("button", { type: "button", class: "quiet", "aria-label": "Larger", click: () => this.#turn(2) }, "+");
    this.softer = h("button", { type: "button", class: "quiet", "aria-label": "Smaller", click: () => this.#turn(0.5) }, "−");
    this.pointer = null;
    this.canvas.addEventListener("pointermove", (event) => this.#point([event.offsetX, event.offsetY]));
    this.canvas.addEventListener("pointerleave", () => this.#point(null));
    this.canvas.addEventListener("click", (event) => this.#open([event.offsetX, event.offsetY]));
    this.due = true;
  }

  write([first, text]) {
    if (this.rows.write(first, halves(text))) this.due = true;
  }

  mark(marks) {
    this.marks = marks;
    this.due = true;
  }

  #turn(factor) {
    this.gain = Math.min(64, Math.max(1 / 16, this.gain * factor));
    this.due = true;
    this.draw();
  }

  #point(at) {
    this.pointer = at;
    this.due = true;
    this.draw();
  }

  #open(at) {
    const t = this.#time(at);
    const near = this.marks.filter((mark) => Math.abs(mark.onset - t) < 60).sort((a, b) => Math.abs(a.onset - t) - Math.abs(b.onset - t));
    if (near.length) location.hash = near[0].href;
  }

  #time([x, y]) {
    const row = Math.min(HOURS - 1, Math.max(0, Math.floor((y - this.top) / this.height)));
    return this.start + row * 3600 + ((x - this.left) / this.width) * 3600;
  }

  /** Half the usual swing of the ground: what the lines are scaled to. */
  #noise() {
    const swings = [];
    const step = Math.max(1, Math.floor((this.rows.end - this.rows.first) / 2000));
    for (let i = this.rows.first; i < this.rows.end; i += step) {
      const swing = this.rows.at(i, 1) - this.rows.at(i, 0);
      if (!Number.isNaN(swing)) swings.push(swing / 2);
    }
    swings.sort((a, b) => a - b);
    return swings[swings.length >> 1] || 1;
  }

  draw() {
    if (!this.due || !this.canvas.isConnected || this.rows.end === null) return;
    this.due = false;
    const { context, width, height, ratio } = fit(this.canvas);
    const colour = colours();
    const newest = this.rows.end * this.meta.drum_bin_s;
    this.left = width < 560 ? 40 : 66;
    this.top = 18;
    this.width = width - this.left - 8;
    this.height = (height - this.top - 4) / HOURS;
    this.start = Math.floor((newest - 1) / 3600) * 3600 - (HOURS - 1) * 3600;
    this.#axes(context, colour, height);
    const factor = ((this.height / 2) * 0.3 * this.gain) / this.#noise();
    const most = this.height * 1.4;
    for (let row = 0; row < HOURS; row++) {
      const t0 = this.start + row * 3600;
      const middle = this.top + (row + 0.5) * this.height;
      this.#marksOf(context, colour, t0, middle);
      context.strokeStyle = colour(row % 2 ? "wave" : "wave-2");
      context.lineWidth = Math.max(0.8, 1 / ratio);
      const y = (v) => middle - Math.max(-most, Math.min(most, v * factor));
      drawWave(context, { rows: this.rows, binS: this.meta.drum_bin_s, t0, t1: t0 + 3600, left: this.left, width: this.width, ratio, y });
    }
    this.#flags(context, colour);
    this.#crosshair(context, colour);
    const held = (this.rows.end - this.rows.first) * this.meta.drum_bin_s;
    const count = this.marks.filter((mark) => mark.onset >= this.start).length;
    const said = `${this.meta.shown}, ${held < 86000 ? `the last ${lasting(held)}` : "24 hours"}, ${count} detection${count === 1 ? "" : "s"}`;
    this.canvas.setAttribute("aria-label", `Drum plot of ${said}; the detections are in the list.`);
    this.note.textContent = said;
  }

  #axes(context, colour, height) {
    context.font = `11px ${colour("font")}`;
    context.textBaseline = "middle";
    const every = this.width < 420 ? 15 : 10;
    for (let minute = 0; minute <= 60; minute += every) {
      const x = this.left + (minute / 60) * this.width;
      context.fillStyle = colour("grid");
      context.fillRect(x, this.top, 1, height - this.top - 4);
      context.fillStyle = colour("faint");
      context.textAlign = minute === 60 ? "right" : "center";
      context.fillText(`:${String(minute % 60).padStart(2, "0")}`, minute === 60 ? x + 6 : x, 8);
    }
    context.textAlign = "right";
    const sparse = this.height < 14;
    for (let row = 0; row < HOURS; row++) {
      const t = this.start + row * 3600;
      const hour = (t / 3600) % 24;
      if (sparse && hour % 2) continue;
      context.fillStyle = colour(hour === 0 ? "ink" : "faint");
      context.fillText(hour === 0 ? day(t).slice(5) : clock(t).slice(0, 5), this.left - 6, this.top + (row + 0.5) * this.height);
    }
  }

  #marksOf(context, colour, t0, middle) {
    for (const mark of this.marks) {
      const [a, b] = [Math.max(t0, mark.onset), Math.min(t0 + 3600, mark.end ?? mark.onset + 4)];
      if (a >= b) continue;
      const x = this.left + ((a - t0) / 3600) * this.width;
      context.fillStyle = colour("mark-strong");
      context.fillRect(x - 1, middle - this.height / 2, Math.max(3, ((b - a) / 3600) * this.width + 2), this.height);
    }
  }

  #flags(context, colour) {
    for (const mark of this.marks) {
      if (mark.onset < this.start) continue;
      const row = Math.floor((mark.onset - this.start) / 3600);
      const x = this.left + ((mark.onset - this.start - row * 3600) / 3600) * this.width;
      const y = this.top + (row + 0.5) * this.height;
      context.fillStyle = colour("p");
      context.strokeStyle = colour("panel");
      context.lineWidth = 1.5;
      context.beginPath();
      context.moveTo(x, y - 2);
      context.lineTo(x - 5, y - 11);
      context.lineTo(x + 5, y - 11);
      context.closePath();
      context.stroke();
      context.fill();
    }
  }

  #crosshair(context, colour) {
    if (!this.pointer || this.pointer[0] < this.left) return;
    const t = this.#time(this.pointer);
    const said = [`${day(t)} ${clock(t)} UTC`, local(t)];
    context.font = `11.5px ${colour("font")}`;
    const width = Math.max(...said.map((text) => context.measureText(text).width)) + 16;
    const x = Math.min(this.pointer[0] + 12, this.left + this.width - width);
    const y = Math.max(2, this.pointer[1] - 48);
    context.fillStyle = colour("tip");
    context.beginPath();
    context.roundRect(x, y, width, 40, 6);
    context.fill();
    context.fillStyle = colour("tip-ink");
    context.textAlign = "left";
    said.forEach((text, row) => context.fillText(text, x + 8, y + 12 + 16 * row));
  }
}
