// node predict.mjs model.onnx image...   ->   one line of JSON for each image
import { readFileSync } from "node:fs";
import ort from "onnxruntime-node";
import sharp from "sharp";
import { describe } from "../web/contract.mjs";

const FIT = { squash: "fill", crop: "cover", letterbox: "contain" };

/** Decodes an image as kcv does: upright, transparency on white, resized with antialiasing, RGB bytes. */
async function pixels(path, size, resize) {
  const grey = { r: 128, g: 128, b: 128 };
  return sharp(path)
    .rotate()
    .flatten({ background: "white" })
    .resize(size, size, { fit: FIT[resize], kernel: "linear", background: grey, fastShrinkOnLoad: false })
    .toColourspace("srgb")
    .removeAlpha()
    .raw()
    .toBuffer();
}

const [modelPath, ...images] = process.argv.slice(2);
const model = readFileSync(modelPath);
const { classNames, size, resize } = describe(model);
const session = await ort.InferenceSession.create(model);
for (const path of images) {
  const image = new ort.Tensor("uint8", new Uint8Array(await pixels(path, size, resize)), [1, size, size, 3]);
  const { probabilities } = await session.run({ image }, ["probabilities"]);
  const best = probabilities.data.indexOf(Math.max(...probabilities.data));
  console.log(JSON.stringify({ path, label: classNames[best], confidence: probabilities.data[best],
                               probabilities: Array.from(probabilities.data) }));
}
