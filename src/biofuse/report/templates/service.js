"use strict";
const settings = JSON.parse(document.getElementById("settings").textContent);
const byId = (id) => document.getElementById(id);
const AT_ONCE = 4; // requests under way; the service puts their images together
const SHOWN = 8; // classes, of which there may be a thousand
const TRIES = 20;
const queue = [];
let running = 0;
let finished = 0;
let asked = 0;
let age = 0; // answers to what has been removed meanwhile are dropped

const percent = (share) => {
  if (share < 0.001) return "under 0.1 %";
  if (share > 0.999) return "over 99.9 %";
  return `${(100 * share).toFixed(1)} %`;
};
const listed = (names) => (names.length > 1 ? `${names.slice(0, -1).join(", ")} or ${names[names.length - 1]}` : names[0]);
const show = (element, text) => {
  element.textContent = text;
  element.hidden = !text;
};

function tell() {
  const left = asked - finished;
  const images = (n) => `${n} image${n === 1 ? "" : "s"}`;
  byId("status").textContent = !asked ? "No images yet." : left ? `${finished} of ${images(asked)} done.` : `${images(asked)} done.`;
  byId("clear").hidden = !asked;
}

function add(files) {
  for (const file of files) {
    const entry = byId("result").content.firstElementChild.cloneNode(true);
    entry.querySelector("h3").textContent = file.name;
    show(entry.querySelector(".note"), "Waiting for the answer.");
    const image = entry.querySelector("img");
    image.alt = `The image ${file.name}`;
    image.addEventListener("error", () => {
      image.parentElement.textContent = "Browsers do not show this kind of file.";
    });
    image.addEventListener("load", () => URL.revokeObjectURL(image.src));
    image.src = URL.createObjectURL(file);
    byId("results").append(entry);
    queue.push({ file, entry, age });
    asked += 1;
  }
  tell();
  next();
}

function next() {
  while (running < AT_ONCE && queue.length) {
    const work = queue.shift();
    running += 1;
    predict(work)
      .then((answer) => answer && draw(work.entry, answer))
      .catch((error) => refuse(work.entry, error.message))
      .finally(() => {
        running -= 1;
        if (work.age === age) finished += 1;
        tell();
        next();
      });
  }
}

async function predict({ file, age: born }) {
  if (file.size > settings.megabytes * 1e6) throw new Error(`It is larger than ${settings.megabytes} MB.`);
  const chosen = byId("coverage");
  const address = chosen ? `predict?coverage=${chosen.value}` : "predict";
  for (let tries = 0; tries < TRIES && born === age; tries += 1) {
    const form = new FormData();
    form.append("files", file);
    let response;
    try {
      response = await fetch(address, { method: "POST", body: form });
    } catch {
      throw new Error("The service cannot be reached, or the file cannot be read any more.");
    }
    const said = await response.json().catch(() => null);
    if (said && said.images) return said.images[0];
    if (response.status !== 503) {
      const error = said && said.error ? `${said.error.message} ${said.error.remedy}` : "";
      throw new Error(error || `The service answered ${response.status}.`);
    }
    const seconds = Number(response.headers.get("Retry-After")) || 2;
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  }
  if (born !== age) return null;
  throw new Error("The service has too much to do. Try again later.");
}

function refuse(entry, words) {
  show(entry.querySelector(".note"), "");
  show(entry.querySelector(".warning"), `No prediction. ${words}`);
}

function draw(entry, answer) {
  if (answer.error) {
    refuse(entry, `${answer.error.message} ${answer.error.remedy}`);
    return;
  }
  const ranked = Object.entries(answer.probabilities).sort((one, other) => other[1] - one[1]);
  const said = entry.querySelector(".said");
  if (settings.several) {
    show(said, answer.prediction ? `Probably there: ${answer.prediction.split("|").join(", ")}` : "Probably there: none of the labels");
  } else {
    said.hidden = false;
    const name = document.createElement("strong");
    name.textContent = answer.prediction;
    said.append("Most probable: ", name, `, ${percent(answer.probabilities[answer.prediction])}`);
  }
  show(entry.querySelector(".warning"), answer.unusual ? answer.unusual.warning : "");
  bars(entry, ranked, answer.prediction);
  if (answer.set) show(entry.querySelector(".set"), setOf(answer.set, ranked));
  if (answer.decision && settings.positive) show(entry.querySelector(".decision"), decided(answer.decision));
  const like = answer.unusual && !answer.unusual.warning;
  show(entry.querySelector(".note"), like ? "Not unusual among the images that the model was fitted on." : "");
}

function bars(entry, ranked, prediction) {
  const table = entry.querySelector(".bars");
  table.hidden = false;
  table.caption.textContent = `Probabilities of ${entry.querySelector("h3").textContent}`;
  const named = new Set(prediction.split("|").concat(prediction));
  for (const [place, [name, share]] of ranked.entries()) {
    const row = table.tBodies[0].insertRow();
    row.hidden = place >= SHOWN;
    row.className = named.has(name) ? "first" : "";
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    row.append(head);
    const cell = row.insertCell();
    const bar = document.createElement("div");
    bar.className = "bar";
    bar.append(document.createElement("span"));
    bar.firstElementChild.style.width = `${100 * share}%`;
    cell.append(bar);
    const number = row.insertCell();
    number.className = "number";
    number.textContent = percent(share);
  }
  const more = entry.querySelector(".more");
  if (ranked.length > SHOWN) {
    more.hidden = false;
    more.textContent = `Show all ${ranked.length}`;
    more.addEventListener("click", () => {
      for (const row of table.tBodies[0].rows) row.hidden = false;
      more.remove();
    });
  }
}

function setOf(set, ranked) {
  const classes = ranked.map(([name]) => name).filter((name) => set.classes.includes(name));
  const often = `${+(100 * set.coverage).toFixed(2)} %`;
  if (settings.several) {
    const named = classes.length ? classes.join(", ") : "none";
    return `Possible labels: ${named}. Of images like the development data, a label that is there is named in ${often}.`;
  }
  const named = classes.length === ranked.length ? "all; none can be ruled out" : listed(classes);
  return `Possible: ${named}. Of images like the development data, such a list holds the true class for ${often}.`;
}

function decided(decision) {
  const limit = decision.thresholds[settings.positive];
  if (limit === null) return "";
  const called = decision.classes.includes(settings.positive) ? settings.positive : `not ${settings.positive}`;
  const found = decision.sensitivity === null ? "" : `, chosen to find ${+(100 * decision.sensitivity).toFixed(2)} % of ${settings.positive}`;
  return `At the threshold of ${percent(limit)}${found}: ${called}.`;
}

const drop = byId("drop");
byId("files").addEventListener("change", (event) => {
  add([...event.target.files]);
  event.target.value = "";
});
let inside = 0;
for (const [kind, step] of [["dragenter", 1], ["dragleave", -1]]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    inside += step;
    drop.classList.toggle("over", inside > 0);
  });
}
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  drop.classList.remove("over");
  add([...event.dataTransfer.files]);
});
byId("clear").addEventListener("click", () => {
  age += 1;
  queue.length = 0;
  asked = 0;
  finished = 0;
  byId("results").replaceChildren();
  tell();
  byId("files").focus();
});
document.documentElement.dataset.ready = "";
