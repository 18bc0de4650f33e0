// node predict.mjs model.onnx image...   ->   one line of JSON for each image
import { readFileSync } from "node:fs";
import ort from "onnxruntime-node";
import sharp from "sharp";

/** Reads the texts that an ONNX file says of itself: field 14 of its protobuf holds pairs of key (1) and value (2). */
function metadata(bytes) {
  const texts = {};
  for (const [field, value] of fields(bytes)) {
    if (field !== 14) continue;
    const pair = Object.fromEntries([...fields(value)].map(([part, text]) => [part, text.toString("utf8")]));
    texts[pair[1]] = pair[2];
  }
  return texts;
}

function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0, scale = 1, byte;
    do {
      byte = bytes[at++];
      value += (byte & 127) * scale;
      scale *= 128;
    } while (byte & 128);
    return value;
  };
  while (at < bytes.length) {
    const tag = varint();
    if (tag % 8 === 2) {
      const length = varint();
      yield [tag >> 3, bytes.subarray(at, at + length)];
      at += length;
    } else if (tag % 8 === 0) varint();
    else at += tag % 8 === 1 ? 8 : 4;
  }
}

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
const { class_names, image_size, resize } = metadata(model);
const classNames = JSON.parse(class_names);
const size = Number(image_size);
const session = await ort.InferenceSession.create(model);
for (const path of images) {
  const image = new ort.Tensor("uint8", new Uint8Array(await pixels(path, size, resize)), [1, size, size, 3]);
  const { probabilities } = await session.run({ image }, ["probabilities"]);
  const best = probabilities.data.indexOf(Math.max(...probabilities.data));
  console.log(JSON.stringify({ path, label: classNames[best], confidence: probabilities.data[best],
                               probabilities: Array.from(probabilities.data) }));
}
