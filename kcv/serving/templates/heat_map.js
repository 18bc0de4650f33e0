
// Heat maps: their colours, where they lie on an image, and where they are strongest.

// The colours of kcv/serving/drawing.py: black, red, yellow, white; brighter with the heat, so that it reads in grey as
// well. The opacity is the heat itself. Takes the rows of a map, 0-1; returns RGBA, row by row.
function heatMapPixels(rows) {
  const size = rows.length;
  const pixels = new Uint8ClampedArray(4 * size * size);
  let at = 0;
  for (const row of rows) {
    for (const heat of row) {
      for (let band = 0; band < 3; band += 1) pixels[at + band] = 255 * Math.min(1, Math.max(0, 3 * heat - band));
      pixels[at + 3] = 255 * heat;
      at += 4;
    }
  }
  return pixels;
}

// The part of an image that a model sees, as fractions of its width and height: all of it (squash), the middle square
// (crop), or a square around it (letterbox).
function seenPart(width, height, resize) {
  if (resize === "squash" || !width || !height) return { left: 0, top: 0, width: 1, height: 1 };
  const side = resize === "crop" ? Math.min(width, height) : Math.max(width, height);
  return {
    left: (width - side) / 2 / width,
    top: (height - side) / 2 / height,
    width: side / width,
    height: side / height,
  };
}

// Where a map is strongest, in words for those who do not see it; null for a flat map.
function strongestPart(rows) {
  const size = rows.length;
  const sums = Array(9).fill(0);
  const counts = Array(9).fill(0);
  rows.forEach((row, y) => {
    row.forEach((heat, x) => {
      const cell = 3 * Math.floor((3 * y) / size) + Math.floor((3 * x) / size);
      sums[cell] += heat;
      counts[cell] += 1;
    });
  });
  const means = sums.map((sum, cell) => (counts[cell] ? sum / counts[cell] : 0));
  const strongest = Math.max(...means);
  if (strongest === 0) return null;
  const names = [
    "at the upper left", "at the top", "at the upper right", "at the left", "in the middle", "at the right",
    "at the lower left", "at the bottom", "at the lower right",
  ];
  return names[means.indexOf(strongest)];
}
