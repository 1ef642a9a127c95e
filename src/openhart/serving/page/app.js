// The page: reads the form, streams images into tiles, and keeps the history.
import { generate, model as loadModel } from "./api.js";
import { History } from "./history.js";
import { copy, fromHash, toHash } from "./link.js";
import { SettingsForm } from "./settings.js";
import { Tile, thumbnail } from "./tiles.js";
import { bodyOf, Viewer } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const LARGEST_SEED = 999_999_999_999_999;
const history = new History();
let model = null;
let settings = null;
let viewer = null;
let current = null;
let running = null;

// The form

function count() {
  return Number(document.querySelector("[name=count]:checked").value);
}

function randomSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0] % 100_000_000;
}

function requestOfForm() {
  const prompt = $("prompt").value.trim();
  if (!prompt) throw new Error(model.classes ? "Enter the number of a class." : "Enter what the image should show.");
  const seed = $("seed").value === "" ? randomSeed() : Number($("seed").value);
  if ($("seed").validity.badInput || !Number.isInteger(seed) || seed < 0 || seed > LARGEST_SEED) {
    throw new Error("Seed must be a whole number of at most 15 digits, or empty for a random one.");
  }
  return {
    prompt,
    negative_prompt: model.classes ? "" : $("negative").value.trim(),
    size: $("size").value.trim(),
    seed,
    count: count(),
    sampling: settings.values(),
  };
}

function fillForm(request, seed = "") {
  $("prompt").value = request.prompt;
  $("negative").value = request.negative_prompt ?? "";
  $("size").value = request.size ?? "";
  $("seed").value = seed;
  for (const input of document.querySelectorAll("[name=count]")) input.checked = Number(input.value) === request.count;
  settings.fill(request.sampling);
}

// Messages

function showError(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
}

function setRunning(controller) {
  running = controller;
  const hadFocus = [$("generate"), $("stop")].includes(document.activeElement);
  $("generate").hidden = controller !== null;
  $("stop").hidden = controller === null;
  $("stage").setAttribute("aria-busy", controller !== null);
  if (hadFocus) (controller ? $("stop") : $("generate")).focus();
}

// The stage

function makeTiles(entry, seeds) {
  const tiles = seeds.map((seed, index) => new Tile(seed, entry.request.prompt, () => openTile(entry, seeds[index])));
  $("tiles").replaceChildren(...tiles.map((tile) => tile.element));
  $("tiles").className = `of-${seeds.length}`;
  $("caption").textContent = entry.request.prompt;
  $("stage").hidden = false;
  document.body.classList.remove("empty");
  return tiles;
}

function openTile(entry, seed) {
  viewer.open(entry, entry.images.find((image) => image.seed === seed));
}

function showEntry(entry) {
  current = entry;
  const tiles = makeTiles(entry, entry.images.map((image) => image.seed));
  tiles.forEach((tile, index) => tile.finish(entry.images[index].final));
  window.history.replaceState(null, "", entry.link);
  showHistory();
}

function showHistory() {
  $("history").hidden = history.entries.length === 0;
  const choose = (entry) => () => {
    if (running) return;
    showError("");
    $("note").textContent = "";
    fillForm(entry.request);
    showEntry(entry);
    $("entries").querySelector("[aria-current]").focus();
  };
  $("entries").replaceChildren(...history.entries.map((each) => thumbnail(each, each === current, choose(each))));
}

function showNothing() {
  current = null;
  $("stage").hidden = true;
  document.body.classList.toggle("empty", history.entries.length === 0);
  window.history.replaceState(null, "", location.pathname + location.search);
  showHistory();
}

// Generation

async function makeImage(entry, seed, tile, signal) {
  const { request } = entry;
  const scales = [];
  const many = model.scales === null ? { partial_images: 3 } : { every_scale: true };
  const onScale = (image, scale, all) => {
    scales.push(image);
    tile.sharpen(image, scale, all);
  };
  const made = await generate(bodyOf(request, seed, many), onScale, signal);
  entry.images.push({ seed, size: made.size, scales, final: made.image, other: null });
  entry.images.sort((one, other) => one.seed - other.seed);
  tile.finish(made.image);
  if (made.warning) $("note").textContent = `Note: ${made.warning}.`;
}

async function start(request) {
  const controller = new AbortController();
  const before = current;
  const entry = { id: Date.now(), link: toHash(request), request, images: [] };
  const seeds = Array.from({ length: request.count }, (_, index) => request.seed + index);
  showError("");
  setRunning(controller);
  const tiles = makeTiles(entry, seeds);
  const what = request.count === 1 ? "1 image" : `${request.count} images`;
  $("note").textContent = `Generating ${what} …`;
  const began = performance.now();
  let failure = null;
  const works = seeds.map((seed, index) =>
    makeImage(entry, seed, tiles[index], controller.signal).catch((error) => {
      if (!controller.signal.aborted) failure = error;
      controller.abort();
      tiles[index].stop();
    }),
  );
  await Promise.all(works);
  setRunning(null);
  if (failure) fail(failure);
  if ($("note").textContent.startsWith("Generating")) {
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    $("note").textContent = failure ? "" : controller.signal.aborted ? "Stopped." : `${what[0].toUpperCase()}${what.slice(1)} in ${seconds} s.`;
  }
  await keep(entry, before);
}

/** Keeps what was finished; if nothing was, the images before come back. */
async function keep(entry, before) {
  if (entry.images.length === 0) {
    if (before) showEntry(before);
    else showNothing();
    return;
  }
  current = entry;
  window.history.replaceState(null, "", entry.link);
  await history.put(entry);
  showHistory();
}

function fail(error) {
  const needsKey = error.status === 401;
  if (!needsKey) showError(error.message);
  else showError(sessionStorage.getItem("key") ? "The server does not accept this key." : "");
  if (needsKey) showKeyForm();
}

function startFromForm(event) {
  event?.preventDefault();
  if (running || model === null) return;
  try {
    start(requestOfForm());
  } catch (error) {
    showError(error.message);
    $("prompt").focus();
  }
}

// Start

function showKeyForm() {
  $("key-form").hidden = false;
  $("key").focus();
}

/** Waits for the model; a server that is out of reach is tried again every second. */
async function connect() {
  model = null;
  while (model === null) {
    try {
      model = await loadModel();
      $("model").textContent = model?.name ?? "loading the model …";
      showError("");
    } catch (error) {
      fail(error);
      if (error.status === 401) return;
    }
    if (model === null) await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  describe();
  await openAddress();
}

function describe() {
  if (settings) return;
  settings = new SettingsForm(model.settings, $("first-settings"), $("more-settings"));
  const takeSeed = (request) => {
    fillForm(request, request.seed);
    $("prompt").focus();
  };
  viewer = new Viewer(model, takeSeed, (entry) => history.put(entry));
  $("size").placeholder = model.size;
  $("generate").disabled = false;
  if (!model.classes) return;
  $("prompt-label").textContent = `Number of a class, 0 to ${model.classes - 1}`;
  $("examples").hidden = $("negative-box").hidden = true;
}

async function openAddress() {
  const request = fromHash(location.hash, model.settings);
  const known = history.find(location.hash) ?? (request ? null : history.entries[0]);
  if (known) {
    fillForm(known.request);
    showEntry(known);
  } else if (request) {
    fillForm(request);
    showHistory();
    await start({ ...request, seed: request.seed ?? randomSeed() });
  } else showNothing();
}

function listen() {
  $("form").addEventListener("submit", startFromForm);
  $("stop").addEventListener("click", () => running?.abort());
  $("toggle").addEventListener("click", () => {
    $("settings").hidden = !$("settings").hidden;
    $("toggle").setAttribute("aria-expanded", !$("settings").hidden);
  });
  $("reset").addEventListener("click", () => settings?.fill({}));
  $("again").addEventListener("click", () => !running && current && start({ ...current.request, seed: randomSeed() }));
  $("share").addEventListener("click", () => current && copy(current.link, $("note")));
  $("remove").addEventListener("click", async () => {
    if (running || !current) return;
    await history.remove(current);
    if (history.entries[0]) showEntry(history.entries[0]);
    else showNothing();
    $("prompt").focus();
  });
  $("clear").addEventListener("click", async () => {
    if (running || !confirm("Remove all images from the history of this browser?")) return;
    await history.clear();
    showNothing();
    $("prompt").focus();
  });
  for (const example of $("examples").children) {
    example.addEventListener("click", () => {
      $("prompt").value = example.textContent;
      startFromForm();
    });
  }
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem("key", $("key").value);
    $("key-form").hidden = true;
    connect();
  });
  addEventListener("keydown", (event) => event.key === "Escape" && !$("viewer").open && running?.abort());
  addEventListener("hashchange", () => model && !running && openAddress());
}

listen();
await history.open();
await connect();
