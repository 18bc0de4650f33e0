// What an ONNX file of kcv says of itself, and how its images are made: for the page, and for docs/node.

/** Reads the texts that an ONNX file says of itself: field 14 of its protobuf holds pairs of key (1) and value (2). */
export function metadata(bytes) {
  const texts = {};
  const decoder = new TextDecoder();
  for (const [field, value] of fields(bytes)) {
    if (field !== 14) continue;
    const pair = Object.fromEntries([...fields(value)].map(([part, text]) => [part, decoder.decode(text)]));
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

/** Returns what a file says of itself; throws where it is no classifier of kcv. */
export function describe(bytes) {
  const texts = metadata(bytes);
  if (texts.kcv_format !== "1") throw new Error("This file was not exported by kcv, or by a newer one.");
  return {
    classNames: JSON.parse(texts.class_names),
    size: Number(texts.image_size),
    resize: texts.resize,
    threshold: texts.threshold === undefined ? null : Number(texts.threshold),
    model: texts.model_name,
  };
}

/** The most probable classes, the best first. */
export function ranking(probabilities, classNames, count = 5) {
  return Array.from(probabilities, (confidence, place) => ({ label: classNames[place], confidence, place }))
    .sort((a, b) => b.confidence - a.confidence || a.place - b.place)
    .slice(0, count);
}
