
// The page itself. What comes from the server or from files is set as text (textContent), never as HTML.

const MOST_IMAGES = 500; // on the page at the same time
const AT_ONCE = 4; // requests under way
const MOST_TRIES = 5; // where the server is busy
const MOST_ROWS = 30; // classes in the table of answers
const TOKEN = /^[\x21-\x7e]+$/;

const byId = (id) => document.getElementById(id);
const percent = (fraction) => (100 * fraction).toFixed(1) + "%";
const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

let token = ""; // in memory only
let models = [];
let model = null;
let takesFeedback = false;
let mostBytes = Infinity;
let cards = [];
let waiting = [];
let running = 0;
let begun = []; // the cards since nothing was under way, which are announced together
let camera = null;
let photographs = 0;

// --- Asking the server ------------------------------------------------------------------------------------------------

class Refused extends Error {
  constructor(reason, code, seconds) {
    super(reason);
    this.code = code;
    this.seconds = seconds;
  }
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = "Bearer " + token;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch {
    throw new Refused("the server cannot be reached.", 0, 0);
  }
  if (answer.ok) return answer;
  let reason = "the server answered with code " + answer.status + ".";
  try {
    reason = String((await answer.json()).error);
  } catch {
    // not an answer of kcv, but of something before it
  }
  if (answer.status === 401) askForToken();
  throw new Refused(reason, answer.status, Number(answer.headers.get("Retry-After")) || 1);
}

async function send(route, query, file, headers) {
  if (file.size > mostBytes) throw new Refused("the file is larger than " + (mostBytes / 1e6).toFixed(0) + " MB.", 413, 0);
  let body;
  try {
    body = await file.arrayBuffer();
  } catch {
    throw new Refused("the file cannot be read.", 0, 0);
  }
  for (let tries = 1; ; tries += 1) {
    try {
      const answer = await ask(route + "?" + new URLSearchParams(query), { method: "POST", body, headers });
      return await answer.json();
    } catch (error) {
      if (error.code !== 503 || tries === MOST_TRIES) throw error;
      await pause(Math.min(error.seconds, 10));
    }
  }
}

function askForToken() {
  if (!byId("access").hidden) return;
  byId("access").hidden = false;
  byId("input").hidden = true;
  byId("token").focus();
}

async function begin() {
  let found;
  try {
    found = await (await ask("models")).json();
  } catch (error) {
    if (error.code !== 401) tell("The models could not be loaded: " + error.message);
    else if (token) tell("This is not the token of the server.");
    token = "";
    return;
  }
  tell("");
  const asked = !byId("access").hidden;
  byId("access").hidden = true;
  byId("token").value = "";
  byId("input").hidden = false;
  models = found.models;
  takesFeedback = found.feedback;
  mostBytes = found.max_bytes;
  byId("model").replaceChildren(...models.map((one) => option(one.name)));
  byId("choice").hidden = models.length < 2;
  choose(models.some((one) => model && one.name === model.name) ? model.name : models[0].name);
  if (asked) byId("files").focus();
}

function choose(name) {
  model = models.find((one) => one.name === name);
  byId("model").value = name;
  byId("title").textContent = model.name;
  document.title = model.name;
  const classes = model.class_names.length.toLocaleString("en") + " classes: " + model.class_names.slice(0, 10).join(", ");
  byId("about").textContent = classes + (model.class_names.length > 10 ? " ..." : "");
  byId("drift").hidden = model.answers === null && model.reference === null;
  if (byId("drift").open) showAnswersSoFar();
}

function tell(text) {
  byId("problem").textContent = text;
}

function option(text) {
  const made = document.createElement("option");
  made.value = text;
  made.textContent = text;
  return made;
}

// --- Images -----------------------------------------------------------------------------------------------------------

function add(files) {
  if (model === null || !files.length) return;
  const room = MOST_IMAGES - cards.length;
  tell(files.length > room ? "The page holds " + MOST_IMAGES + " images: " + (files.length - room) + " were left out. " +
    "`kcv predict` takes any number." : "");
  for (const file of Array.from(files).slice(0, Math.max(0, room))) {
    const card = makeCard(file);
    cards.push(card);
    byId("grid").append(card.element);
    queue(card);
  }
  byId("results").hidden = cards.length === 0;
}

function makeCard(file) {
  const element = byId("card").content.firstElementChild.cloneNode(true);
  const part = (name) => element.querySelector("." + name);
  const card = { file, name: file.name || "image", model, element, part, found: null, error: null, url: URL.createObjectURL(file) };
  part("name").textContent = models.length > 1 ? card.name + " (" + model.name + ")" : card.name;
  part("image").alt = "Image " + card.name;
  part("image").addEventListener("error", () => {
    part("picture").classList.add("blank");
    part("no-preview").hidden = false;
  });
  part("image").src = card.url;
  part("again").addEventListener("click", () => queue(card));
  part("explain-show").addEventListener("click", () => explain(card));
  part("explain-class").addEventListener("change", () => {
    if (!part("map").hidden) explain(card);
  });
  part("slider").addEventListener("input", () => {
    part("map").style.opacity = String(part("slider").value / 100);
  });
  part("right").addEventListener("click", () => fileAs(card, card.found.likeliest));
  part("wrong-class").addEventListener("focus", () => {
    byId("classes").replaceChildren(...card.model.class_names.map(option));
  });
  part("wrong").addEventListener("submit", (event) => {
    event.preventDefault();
    fileAs(card, part("wrong-class").value.trim());
  });
  return card;
}

function queue(card) {
  card.part("again").hidden = true;
  card.part("answer").textContent = "Waiting ...";
  waiting.push(card);
  begun.push(card);
  work();
}

function work() {
  while (running < AT_ONCE && waiting.length) {
    const card = waiting.shift();
    running += 1;
    classify(card).finally(() => {
      running -= 1;
      work();
    });
  }
  const left = waiting.length + running;
  byId("going").hidden = left === 0 || begun.length < 2;
  byId("progress").max = Math.max(1, begun.length);
  byId("progress").value = Math.max(0, begun.length - left);
  if (left === 0 && begun.length) {
    byId("status").textContent = summary(begun);
    begun = [];
  }
}

async function classify(card) {
  try {
    const answered = await send("predict", { top_k: 5, model: card.model.name }, card.file);
    card.found = answered.predictions[0];
    card.error = null;
    showAnswer(card);
  } catch (error) {
    card.error = error.message;
    card.element.classList.add("failed");
    card.part("answer").textContent = "Not classified: " + error.message;
    card.part("again").hidden = error.code >= 400 && error.code < 500 && error.code !== 401 && error.code !== 408;
  }
}

function isUnsure(card) {
  return card.found !== null && card.found.label !== card.found.likeliest;
}

function inWords(card) {
  const { likeliest, confidence } = card.found;
  if (!isUnsure(card)) return likeliest + ", " + percent(confidence);
  return "Unsure: most likely " + likeliest + ", but " + percent(confidence) + " is below the model's threshold of " +
    percent(card.model.threshold);
}

function setInWords(card) {
  const names = card.found.prediction_set;
  if (names === undefined) return "";
  const many = names.length > 10 ? " and " + (names.length - 10) + " more" : "";
  return "In " + percent(card.model.coverage) + " of images the class is in the set: " + names.slice(0, 10).join(", ") + many;
}

function showAnswer(card) {
  card.element.classList.remove("failed");
  card.element.classList.toggle("unsure", isUnsure(card));
  card.part("answer").textContent = inWords(card);
  card.part("bars").replaceChildren(...card.found.top.map((one) => {
    const row = document.createElement("li");
    row.append(text("label", one.label), text("share", percent(one.confidence)), bar(one.confidence));
    return row;
  }));
  card.part("set").textContent = setInWords(card);
  card.part("set").hidden = card.found.prediction_set === undefined;
  card.part("explain").hidden = !card.model.heatmaps;
  card.part("explain-class").replaceChildren(...card.found.top.map((one) => option(one.label)));
  card.part("feedback").hidden = !takesFeedback;
  card.part("right").textContent = "Right, it is " + card.found.likeliest;
}

function text(name, content) {
  const made = document.createElement("span");
  made.className = name;
  made.textContent = content;
  return made;
}

function bar(fraction) {
  const made = text("bar", "");
  made.setAttribute("aria-hidden", "true"); // the number stands beside it
  const inner = document.createElement("span");
  inner.style.width = percent(Math.min(1, fraction));
  made.append(inner);
  return made;
}

function summary(done) {
  if (done.length === 1) {
    const [card] = done;
    return card.name + ": " + (card.error === null ? inWords(card) : "not classified, " + card.error);
  }
  const failed = done.filter((card) => card.error !== null).length;
  const unsure = done.filter((card) => card.error === null && isUnsure(card)).length;
  return done.length - failed + " images classified" + (unsure ? ", " + unsure + " of them unsure" : "") +
    (failed ? "; " + failed + " could not be" : "") + ".";
}

function removeAll() {
  for (const card of cards) URL.revokeObjectURL(card.url);
  cards = [];
  waiting = [];
  begun = [];
  byId("grid").replaceChildren();
  byId("status").textContent = "";
  byId("results").hidden = true;
  byId("files").focus();
}

function download() {
  const link = document.createElement("a");
  const url = URL.createObjectURL(new Blob([csvOf(predictionRows(cards))], { type: "text/csv;charset=utf-8" }));
  link.href = url;
  link.download = "predictions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

// --- Heat maps --------------------------------------------------------------------------------------------------------

async function explain(card) {
  const told = card.part("explained");
  const className = card.part("explain-class").value;
  card.part("explain-show").disabled = true;
  told.textContent = "Computing the heat map ...";
  try {
    const query = { class_name: className, model: card.model.name };
    const found = await send("explain", query, card.file, { Accept: "application/json" });
    if (card.part("explain-class").value !== className) return; // another class was chosen meanwhile
    drawMap(card, found.heatmap, className);
    const where = strongestPart(found.heatmap);
    told.textContent = where === null
      ? "The heat map is flat: no part of the image speaks more for " + className + " than another."
      : "The heat map for " + className + " is strongest " + where + " of what the model sees.";
  } catch (error) {
    told.textContent = "No heat map: " + error.message;
  } finally {
    card.part("explain-show").disabled = false;
  }
}

function drawMap(card, rows, className) {
  const canvas = card.part("map");
  const image = card.part("image");
  canvas.width = rows.length;
  canvas.height = rows.length;
  canvas.getContext("2d").putImageData(new ImageData(heatMapPixels(rows), rows.length, rows.length), 0, 0);
  const seen = seenPart(image.naturalWidth, image.naturalHeight, card.model.resize);
  for (const [side, fraction] of Object.entries(seen)) canvas.style[side] = 100 * fraction + "%";
  canvas.style.opacity = String(card.part("slider").value / 100);
  canvas.setAttribute("aria-label", "Heat map for " + className);
  canvas.hidden = false;
  card.part("opacity").hidden = false;
}

// --- Feedback ---------------------------------------------------------------------------------------------------------

async function fileAs(card, className) {
  const told = card.part("filed");
  if (!card.model.class_names.includes(className)) {
    told.textContent = "The model has no class of this name: " + className;
    return;
  }
  told.textContent = "Filing ...";
  try {
    await send("feedback", { class_name: className, model: card.model.name }, card.file);
    told.textContent = "Filed as " + className + ". Thank you.";
  } catch (error) {
    told.textContent = "Not filed: " + error.message;
  }
}

// --- The camera -------------------------------------------------------------------------------------------------------

async function startCamera() {
  if (!navigator.mediaDevices) {
    tell("The camera can be used over https and on localhost only.");
    return;
  }
  byId("camera-start").disabled = true;
  try {
    camera = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
    byId("video").srcObject = camera;
    byId("camera").hidden = false;
    await byId("video").play();
    tell("");
    byId("camera-take").focus();
  } catch (error) {
    stopCamera();
    tell("The camera cannot be used: " + error.message);
  } finally {
    byId("camera-start").disabled = false;
  }
}

function stopCamera() {
  if (camera !== null) camera.getTracks().forEach((track) => track.stop());
  camera = null;
  byId("video").srcObject = null;
  byId("camera").hidden = true;
}

function takeImage() {
  const video = byId("video");
  if (!video.videoWidth) return; // it has not begun
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  photographs += 1;
  const name = "camera-" + photographs + ".jpg";
  canvas.toBlob((blob) => add([new File([blob], name, { type: "image/jpeg" })]), "image/jpeg", 0.92);
}

// --- Answers so far ---------------------------------------------------------------------------------------------------

async function countAgain() {
  try {
    const found = await (await ask("models")).json();
    for (const one of models) {
      const now = found.models.find((other) => other.name === one.name);
      if (now) Object.assign(one, { answers: now.answers, reference: now.reference });
    }
  } catch (error) {
    tell("The answers could not be counted: " + error.message);
    return;
  }
  showAnswersSoFar();
}

function sharesOf(counts) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  return total ? counts.map((count) => count / total) : null;
}

function showAnswersSoFar() {
  const { answers, reference } = model;
  const count = answers === null ? 0 : answers.confidence.reduce((sum, one) => sum + one, 0);
  byId("drift-note").textContent = (answers === null
    ? "Nothing is counted here: metrics need prometheus-client."
    : count.toLocaleString("en") + " images since the server started.") +
    (reference === null ? " The file of the model does not say how it answered on its test split." :
      " Where the columns part, the images are not like those of the " + reference.split + " split.");
  const side = reference === null ? "" : "on the " + reference.split + " split";
  const columns = (name) => [
    ["so far", answers && sharesOf(answers[name])],
    [side, reference && sharesOf(reference[name])],
  ].filter(([, shares]) => shares && shares.length);
  const bins = columns("confidence");
  const widths = new Set(bins.map(([, shares]) => shares.length));
  const bounds = (number, of) => percent(number / of) + " to " + percent((number + 1) / of);
  const tables = [classTable(columns("predicted"))];
  if (widths.size === 1) {
    const [many] = widths;
    tables.push(table("Images by confidence", "Confidence", bins, Array.from({ length: many }, (_, at) => [bounds(at, many), at])));
  }
  byId("drift-tables").replaceChildren(...tables.filter((one) => one !== null));
}

function classTable(columns) {
  if (!columns.length) return null;
  const names = model.class_names;
  let rows = names.map((name, at) => [name, at]);
  let title = "Images by likeliest class";
  if (rows.length > MOST_ROWS) {
    const apart = ([, at]) => Math.abs(columns[0][1][at] - (columns.length > 1 ? columns[1][1][at] : 0));
    rows = rows.sort((one, other) => apart(other) - apart(one)).slice(0, MOST_ROWS);
    title += ": the " + MOST_ROWS + (columns.length > 1 ? " that differ most" : " most frequent") + " of " +
      names.length.toLocaleString("en");
  }
  return table(title, "Class", columns, rows);
}

// A table of shares: a row for each [name, position], and a column for each [heading, shares].
function table(title, kind, columns, rows) {
  const made = document.createElement("table");
  made.createCaption().textContent = title;
  const head = made.createTHead().insertRow();
  for (const heading of [kind, ...columns.map(([name]) => name)]) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = heading;
    head.append(cell);
  }
  const body = made.createTBody();
  for (const [name, at] of rows) {
    const row = body.insertRow();
    const first = document.createElement("th");
    first.scope = "row";
    first.textContent = name;
    row.append(first);
    for (const [, shares] of columns) row.insertCell().append(text("share", percent(shares[at])), bar(shares[at]));
  }
  const around = document.createElement("div");
  around.className = "scroll";
  around.append(made);
  return around;
}

// --- What people do ---------------------------------------------------------------------------------------------------

byId("access-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = byId("token").value.trim();
  if (!TOKEN.test(given)) {
    tell("A token has letters, digits and signs, without spaces.");
    return;
  }
  token = given;
  begin();
});
byId("model").addEventListener("change", () => choose(byId("model").value));
byId("files").addEventListener("change", () => {
  add(byId("files").files);
  byId("files").value = ""; // the same file may be chosen again
});
byId("camera-start").addEventListener("click", startCamera);
byId("camera-take").addEventListener("click", takeImage);
byId("camera-stop").addEventListener("click", () => {
  stopCamera();
  byId("camera-start").focus();
});
byId("csv").addEventListener("click", download);
byId("clear").addEventListener("click", removeAll);
byId("drift").addEventListener("toggle", () => {
  if (byId("drift").open) countAgain();
});
byId("drift-again").addEventListener("click", countAgain);

document.addEventListener("paste", (event) => {
  const { files } = event.clipboardData;
  if (!files.length) return;
  event.preventDefault();
  add(files);
});
document.addEventListener("dragover", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  document.body.classList.remove("dropping");
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  add(event.dataTransfer.files);
});
addEventListener("pagehide", stopCamera);

begin();
