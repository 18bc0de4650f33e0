// The page: takes a model and images, and shows the five most probable classes of each. Nothing leaves the browser.
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import { describe, ranking } from "./contract.mjs";
import { resized } from "./resize.mjs";

ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;

const element = (id) => document.getElementById(id);
let classifier = null; // what the file says of itself, and its session

/** Opens a model. */
async function open(bytes, name) {
  const about = describe(bytes);
  say(`Opening ${name} ...`);
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  classifier = { ...about, session };
  element("images").disabled = false;
  say(`${name}: ${about.model}, ${about.classNames.length} classes, ${about.size} x ${about.size} pixels.`);
}

/** Decodes an image file as kcv does: upright, transparency on white, colours as they are stored. */
async function pixels(file) {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const rgb = new Uint8Array(width * height * 3);
  for (let n = 0; n < width * height; n++) rgb.set(data.subarray(n * 4, n * 4 + 3), n * 3);
  return { data: rgb, width, height };
}

/** Classifies an image file. */
async function classify(file) {
  const { size, resize, session, classNames } = classifier;
  const image = new ort.Tensor("uint8", resized(await pixels(file), size, resize), [1, size, size, 3]);
  const { probabilities } = await session.run({ image }, ["probabilities"]);
  return ranking(probabilities.data, classNames);
}

async function show(file) {
  const item = element("row").content.firstElementChild.cloneNode(true);
  const find = (name) => item.querySelector(`.${name}`);
  find("name").textContent = file.name;
  element("results").prepend(item);
  try {
    const best = await classify(file);
    const { threshold } = classifier;
    find("label").textContent = threshold !== null && best[0].confidence < threshold ? "unsure" : best[0].label;
    for (const { label, confidence } of best) {
      const line = element("class").content.firstElementChild.cloneNode(true);
      line.querySelector(".of").textContent = label;
      line.querySelector("meter").value = confidence;
      line.querySelector(".confidence").textContent = `${(100 * confidence).toFixed(2)}%`;
      line.dataset.confidence = confidence;
      find("classes").append(line);
    }
    find("image").src = URL.createObjectURL(file);
    find("image").alt = `${file.name}, ${find("label").textContent}`;
  } catch (error) {
    find("label").textContent = "cannot be read";
    find("classes").textContent = error.message;
  }
  item.dataset.done = "true";
}

function say(text) {
  element("state").textContent = text;
}

/** Runs what may fail, and shows why it did. */
async function attempt(work) {
  try {
    await work();
  } catch (error) {
    say(error.message);
  }
}

element("model").addEventListener("change", ({ target }) => attempt(async () => {
  const [file] = target.files;
  if (file) await open(new Uint8Array(await file.arrayBuffer()), file.name);
}));

element("images").addEventListener("change", ({ target }) => attempt(async () => {
  for (const file of [...target.files]) await show(file);
}));

// A model beside the page is opened at once.
attempt(async () => {
  const answer = await fetch("model.onnx");
  if (answer.ok) await open(new Uint8Array(await answer.arrayBuffer()), "model.onnx");
  else say("Choose a model that kcv exported.");
});
