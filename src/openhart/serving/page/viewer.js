// The dialog with one enlarged image: its scales, the comparison with and without residual, download, link.
import { generate } from "./api.js";
import { copy, toHash } from "./link.js";
import { element, label } from "./settings.js";
import { addressOf } from "./tiles.js";

const $ = (id) => document.getElementById(id);

function fileName({ prompt }, seed, blob) {
  const words = prompt.normalize("NFKC").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60);
  return `${words || "image"}-${seed}.${blob.type.split("/")[1]}`;
}

/** The body of POST /v1/images/generations for one image of a request. */
export function bodyOf(request, seed, changes = {}) {
  const body = { prompt: request.prompt, seed, ...request.sampling, ...changes };
  if (request.negative_prompt) body.negative_prompt = request.negative_prompt;
  if (request.size) body.size = request.size;
  return body;
}

export class Viewer {
  #entry = null;
  #image = null;
  #model = null;
  #loading = null;

  /**
   * @param model the description of the model
   * @param onSeed called with an entry's request and the seed that is to be used again
   * @param onChange called with an entry that got another image
   */
  constructor(model, onSeed, onChange) {
    this.#model = model;
    this.onChange = onChange;
    $("compare").hidden = !model.has_residual;
    $("previous").addEventListener("click", () => this.#move(-1));
    $("next").addEventListener("click", () => this.#move(1));
    $("close").addEventListener("click", () => $("viewer").close());
    $("scale").addEventListener("input", () => this.#showScale());
    $("cut").addEventListener("input", () => this.#showCut());
    $("compare").addEventListener("click", () => this.#compare());
    $("share-one").addEventListener("click", () => copy(toHash(this.#single()), $("viewer-note")));
    $("use-seed").addEventListener("click", () => {
      $("viewer").close();
      onSeed(this.#single());
    });
    $("viewer").addEventListener("keydown", (event) => this.#key(event));
    $("viewer").addEventListener("click", (event) => event.target === $("viewer") && $("viewer").close());
    $("viewer").addEventListener("close", () => this.#loading?.abort());
  }

  open(entry, image) {
    this.#entry = entry;
    this.#image = image;
    this.#show();
    $("viewer").showModal();
  }

  #single() {
    return { ...this.#entry.request, seed: this.#image.seed, count: 1 };
  }

  #move(by) {
    const { images } = this.#entry;
    this.#image = images[(images.indexOf(this.#image) + by + images.length) % images.length];
    this.#show();
  }

  #key(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.target.type === "range") return; // arrows move a slider that has the focus
    event.preventDefault();
    this.#move(by);
  }

  #show() {
    const { request, images } = this.#entry;
    const { seed, size, scales, final } = this.#image;
    this.#loading?.abort();
    this.#endComparison();
    $("viewer-title").textContent = request.prompt;
    const facts = { Seed: seed, Size: size.replace("x", " × "), ...named(request) };
    $("details").replaceChildren(
      ...Object.entries(facts).map(([name, value]) =>
        element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value })),
      ),
    );
    $("previous").hidden = $("next").hidden = images.length < 2;
    $("scale-box").hidden = scales.length === 0;
    $("scale").max = $("scale").value = scales.length + 1;
    $("download").href = addressOf(final);
    $("download").download = fileName(request, seed, final);
    $("viewer-note").textContent = "";
    $("large").alt = request.prompt;
    this.#showScale();
  }

  #showScale() {
    const { scales, final } = this.#image;
    const scale = Number($("scale").value);
    $("large").src = addressOf(scales[scale - 1] ?? final);
    $("scale-name").textContent = `${scale} of ${scales.length + 1}`;
    $("scale").setAttribute("aria-valuetext", $("scale-name").textContent);
  }

  #showCut() {
    $("comparison").style.setProperty("--cut", `${$("cut").value}%`);
  }

  #endComparison() {
    $("comparison").hidden = true;
    $("compare").setAttribute("aria-pressed", "false");
    $("scale").disabled = false;
  }

  /** Lays the image made of the codes alone over the image with residual, both of the same seed. */
  async #compare() {
    if (!$("comparison").hidden) {
      this.#endComparison();
      this.#showScale();
      return;
    }
    const [entry, image] = [this.#entry, this.#image];
    const residual = entry.request.sampling.use_residual ?? this.#own("use_residual");
    if (!image.other && !(await this.#loadOther(entry, image, !residual))) return;
    if (image !== this.#image) return;
    const [codes, hybrid] = residual ? [image.other, image.final] : [image.final, image.other];
    $("scale").value = $("scale").max;
    $("scale").disabled = true;
    this.#showScale();
    $("large").src = addressOf(hybrid);
    $("codes").src = addressOf(codes);
    $("comparison").hidden = false;
    $("compare").setAttribute("aria-pressed", "true");
    this.#showCut();
    $("cut").focus();
  }

  #own(name) {
    return this.#model.settings.find((setting) => setting.name === name).default;
  }

  async #loadOther(entry, image, residual) {
    const loading = (this.#loading = new AbortController());
    $("viewer-note").textContent = residual ? "Adding the residual …" : "Decoding the codes alone …";
    try {
      const body = bodyOf(entry.request, image.seed, { use_residual: residual });
      image.other = (await generate(body, () => {}, loading.signal)).image;
      this.onChange(entry);
      $("viewer-note").textContent = "";
      return true;
    } catch (error) {
      if (!loading.signal.aborted) $("viewer-note").textContent = error.message;
      return false;
    }
  }
}

function named(request) {
  const facts = Object.fromEntries(Object.entries(request.sampling).map(([name, value]) => [label(name), String(value)]));
  return request.negative_prompt ? { "Negative prompt": request.negative_prompt, ...facts } : facts;
}
