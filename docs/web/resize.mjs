// Resizes images as kcv does when it trains and predicts: Pillow's antialiased bilinear resize, in its whole numbers.
//
// Each row, then each column, is a weighted mean of the pixels below a triangle that is as wide as the reduction needs.
// Weights are whole numbers of 22 bits, and both passes round to 8 bits (Pillow, ImagingResample).

const BITS = 2 ** 22;
const GREY = 128;

/** Returns where each of `count` results begins, and its weights, for the pixels from `start` to `end` of `length`. */
function windows(length, start, end, count) {
  const scale = (end - start) / count;
  const reach = Math.max(scale, 1);
  return Array.from({ length: count }, (_, place) => {
    const centre = start + (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const last = Math.min(length, Math.trunc(centre + reach + 0.5));
    const heights = Array.from({ length: last - first }, (_, n) =>
      Math.max(0, 1 - Math.abs((n + first - centre + 0.5) * (1 / reach))));
    const whole = heights.reduce((sum, height) => sum + height, 0);
    return { first, weights: heights.map((height) => Math.trunc(0.5 + (whole ? height * (1 / whole) : height) * BITS)) };
  });
}

/** Resizes a box [left, top, right, bottom] of RGB bytes to width x height. */
function resample({ data, width, height }, [left, top, right, bottom], newWidth, newHeight) {
  const across = windows(width, left, right, newWidth);
  const rows = new Uint8Array(newWidth * height * 3);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < newWidth; x++) mix(data, (y * width + across[x].first) * 3, 3, across[x], rows, (y * newWidth + x) * 3);
  const down = windows(height, top, bottom, newHeight);
  const found = new Uint8Array(newWidth * newHeight * 3);
  for (let y = 0; y < newHeight; y++)
    for (let x = 0; x < newWidth; x++)
      mix(rows, (down[y].first * newWidth + x) * 3, newWidth * 3, down[y], found, (y * newWidth + x) * 3);
  return { data: found, width: newWidth, height: newHeight };
}

function mix(data, at, step, { weights }, target, place) {
  for (let channel = 0; channel < 3; channel++) {
    let sum = BITS / 2;
    for (let n = 0; n < weights.length; n++) sum += weights[n] * data[at + n * step + channel];
    target[place + channel] = Math.min(255, Math.floor(sum / BITS));
  }
}

/** Rounds as Python does: halves to the even number. */
function round(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 ? floor + 1 : floor;
}

/** Returns RGB bytes of size x size; `mode` is squash, crop or letterbox. */
export function resized(image, size, mode) {
  const { width, height } = image;
  if (width === size && height === size) return image.data;
  if (mode === "squash") return resample(image, [0, 0, width, height], size, size).data;
  if (mode === "crop") {
    const side = Math.min(width, height);
    const [left, top] = [(width - side) / 2, (height - side) / 2];
    return resample(image, [left, top, left + side, top + side], size, size).data;
  }
  if (mode !== "letterbox") throw new Error(`The file resizes by an unknown mode, ${mode}.`);
  const scale = size / Math.max(width, height);
  const [w, h] = [width, height].map((length) => Math.max(1, round(length * scale)));
  const inner = resample(image, [0, 0, width, height], w, h).data;
  const canvas = new Uint8Array(size * size * 3).fill(GREY);
  const [left, top] = [Math.floor((size - w) / 2), Math.floor((size - h) / 2)];
  for (let y = 0; y < h; y++) canvas.set(inner.subarray(y * w * 3, (y + 1) * w * 3), ((y + top) * size + left) * 3);
  return canvas;
}
