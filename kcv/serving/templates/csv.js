
"use strict";

// A table as CSV, as kcv writes it: a text that a spreadsheet would take for a formula gets an apostrophe before it.
// What counts as one is decided in kcv/common/files.py; a test holds the two against each other.

const FORMULA_BEGINNINGS = ["=", "+", "-", "@", "\t", "\r", "\n"];
const PLAIN_NUMBER = /^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$/;

function csvCell(value) {
  if (value === null || value === undefined) return "";
  let text = String(value);
  if (typeof value === "string" && FORMULA_BEGINNINGS.includes(text.charAt(0)) && !PLAIN_NUMBER.test(text)) {
    text = "'" + text;
  }
  return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
}

function csvOf(rows) {
  return rows.map((row) => row.map(csvCell).join(",") + "\n").join("");
}

// The rows of `kcv predict --output`: one for each image, with the ranking behind it.
function predictionRows(images) {
  const most = Math.max(1, ...images.map((image) => (image.found ? image.found.top.length : 0)));
  const header = ["path", "label", "confidence", "error", "likeliest"];
  const hasSets = images.some((image) => image.found && image.found.prediction_set);
  if (hasSets) header.push("prediction_set");
  for (let rank = 2; rank <= most; rank += 1) header.push("label_" + rank, "confidence_" + rank);
  const rows = images.map(({ name, found, error }) => {
    if (!found) return [name, null, null, error || "not classified"];
    const rest = found.top.slice(1).flatMap((one) => [one.label, one.confidence]);
    const sets = hasSets ? ["[" + found.prediction_set.map((one) => JSON.stringify(one)).join(", ") + "]"] : [];
    return [name, found.label, found.confidence, null, found.likeliest, ...sets, ...rest];
  });
  return [header, ...rows.map((row) => [...row, ...Array(header.length - row.length).fill(null)])];
}
