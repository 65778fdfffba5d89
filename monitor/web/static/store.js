// What was received: rings of rows with absolute indices, so that live data and history fit together in any order.

/** Bytes of a base64 text. */
export function unpack(text) {
  const binary = atob(text);
  const result = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) result[i] = binary.charCodeAt(i);
  return result;
}

export const floats = (text) => new Float32Array(unpack(text).buffer);

/** The upper halves of float32 values. */
export function halves(text) {
  const upper = new Uint16Array(unpack(text).buffer);
  const result = new Uint32Array(upper.length);
  for (let i = 0; i < upper.length; i++) result[i] = upper[i] << 16;
  return new Float32Array(result.buffer);
}

/** The newest rows of a table; rows that never came are `missing`. */
export class Rows {
  constructor(capacity, width, Kind, missing) {
    this.capacity = capacity;
    this.width = width;
    this.missing = missing;
    this.values = new Kind(capacity * width).fill(missing);
    this.first = this.end = null;
  }

  /** Take rows from an index on, whatever came before; gives the range of indices that changed. */
  write(first, rows) {
    const count = rows.length / this.width;
    if (!count) return null;
    let stop = first + count;
    if (this.end === null) [this.first, this.end] = [first, first];
    if (first > this.end) this.#clear(Math.max(this.end, first - this.capacity), first);
    const end = Math.max(this.end, stop);
    const oldest = end - this.capacity;
    if (stop < this.first && stop > oldest) this.#clear(stop, this.first);
    const begin = Math.max(first, oldest);
    for (let i = begin; i < stop; i++) {
      const from = (i - first) * this.width;
      this.values.set(rows.subarray(from, from + this.width), (i % this.capacity) * this.width);
    }
    this.end = end;
    this.first = Math.max(Math.min(this.first, begin), oldest);
    return [begin, stop];
  }

  at(index, column) {
    if (this.end === null || index < this.first || index >= this.end) return this.missing;
    return this.values[(index % this.capacity) * this.width + column];
  }

  #clear(start, stop) {
    for (let i = start; i < stop; i++) {
      const at = (i % this.capacity) * this.width;
      this.values.fill(this.missing, at, at + this.width);
    }
  }
}

// Viridis by Nathaniel Smith and Stéfan van der Walt (CC0), at nine points.
const VIRIDIS = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"];
const MAPS = { viridis: VIRIDIS, light: ["ffffff", "2c3640"], dark: ["151d26", "f2f6fa"] };

/** Colours of the levels 0 to 255, as the four bytes of a pixel; level 0 is clear. */
function palette(lowDb, highDb, shownLow, shownHigh, stopsText) {
  const result = new Uint8ClampedArray(256 * 4);
  const stops = stopsText.map((text) => [0, 2, 4].map((at) => parseInt(text.slice(at, at + 2), 16)));
  for (let level = 1; level < 256; level++) {
    const db = lowDb + ((level - 1) / 254) * (highDb - lowDb);
    const share = Math.min(1, Math.max(0, (db - shownLow) / (shownHigh - shownLow))) * (stops.length - 1);
    const at = Math.min(stops.length - 2, Math.floor(share));
    for (let c = 0; c < 3; c++)
      result[level * 4 + c] = stops[at][c] + (share - at) * (stops[at + 1][c] - stops[at][c]);
    result[level * 4 + 3] = 255;
  }
  return result;
}

export const SHOWN_DB = [0, 36];

/** A spectrogram as an image that new columns are put into: column `f % width` is frame `f`. */
export class SpectrogramImage {
  constructor(meta, width, map = "viridis") {
    this.meta = meta;
    this.width = width;
    this.height = meta.n_freq;
    this.palette = palette(meta.low_db, meta.high_db, ...SHOWN_DB, MAPS[map]);
    this.rows = new Rows(width, meta.n_freq, Uint8Array, 0);
    this.canvas = document.createElement("canvas");
    this.canvas.width = width;
    this.canvas.height = meta.n_freq;
    this.context = this.canvas.getContext("2d");
  }

  write(first, levels) {
    const before = this.rows.end;
    const changed = this.rows.write(first, levels);
    if (!changed) return;
    // A gap was cleared too.
    const begin = before !== null && first > before ? Math.max(before, this.rows.first) : changed[0];
    for (let frame = begin; frame < changed[1]; ) {
      const x = frame % this.width;
      const count = Math.min(changed[1] - frame, this.width - x);
      this.#paint(frame, x, count);
      frame += count;
    }
  }

  #paint(frame, x, count) {
    const image = this.context.createImageData(count, this.height);
    for (let column = 0; column < count; column++) {
      for (let bin = 0; bin < this.height; bin++) {
        const level = this.rows.at(frame + column, bin);
        const at = ((this.height - 1 - bin) * count + column) * 4;
        for (let c = 0; c < 4; c++) image.data[at + c] = this.palette[level * 4 + c];
      }
    }
    this.context.putImageData(image, x, 0);
  }
}

/** All that is known of one instrument's last minutes. */
export class Traces {
  constructor(meta, { span = 320, bin = meta.bin_s } = {}) {
    this.meta = meta;
    this.binS = bin;
    this.waves = new Map(meta.channels.map((id) => [id, new Rows(Math.round(span / bin), 2, Float32Array, NaN)]));
    this.image = new SpectrogramImage(meta, Math.round(span / meta.frame_s));
    this.steps = new Rows(Math.round(span / meta.step_s), 3, Uint8Array, 0);
  }

  write({ waves, frames, steps }) {
    for (const [id, [first, rows]] of Object.entries(waves)) this.waves.get(id)?.write(first, floats(rows));
    this.image.write(frames[0], unpack(frames[1]));
    this.steps.write(steps[0], unpack(steps[1]));
  }

  /** Time of the newest sample of any channel; null before any. */
  get newest() {
    const ends = [...this.waves.values()].filter((rows) => rows.end !== null).map((rows) => rows.end);
    return ends.length ? Math.max(...ends) * this.binS : null;
  }

  /** Probability of the newest judged step, 0 to 1; null where there is none. */
  get probability() {
    for (let i = this.steps.end - 1; i >= this.steps.end - 10; i--) {
      const level = this.steps.at(i, 0);
      if (level) return (level - 1) / 254;
    }
    return null;
  }
}
