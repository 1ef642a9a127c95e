// The images of one request, each in a tile that sharpens scale by scale.
import { element } from "./settings.js";

const addresses = new WeakMap();

/** An address of a blob for this page. */
export function addressOf(blob) {
  if (!addresses.has(blob)) addresses.set(blob, URL.createObjectURL(blob));
  return addresses.get(blob);
}

export class Tile {
  #image = element("img", { alt: "", hidden: true });
  #steps = element("span", { className: "steps" });
  #caption = element("span", { className: "caption" });
  #button;

  constructor(seed, name, open) {
    this.#steps.setAttribute("aria-hidden", "true");
    this.#caption.textContent = `seed ${seed}`;
    this.#button = element("button", { type: "button", className: "tile", disabled: true }, this.#image, this.#steps);
    this.#button.setAttribute("aria-label", `Enlarge: ${name}, seed ${seed}`);
    this.#button.addEventListener("click", open);
    this.element = element("li", {}, this.#button, this.#caption);
  }

  /** Shows the image after a scale. */
  sharpen(blob, scale, scales) {
    this.#show(blob);
    this.#steps.replaceChildren(
      ...Array.from({ length: scales }, (_, index) => element("i", { className: index < scale ? "done" : "" })),
    );
  }

  finish(blob) {
    this.#show(blob);
    this.#steps.replaceChildren();
    this.#button.disabled = false;
    this.element.classList.add("finished");
  }

  stop() {
    this.#caption.textContent = "stopped";
    this.element.classList.add("stopped");
  }

  focus() {
    this.#button.focus();
  }

  #show(blob) {
    this.#image.src = addressOf(blob);
    this.#image.hidden = false;
  }
}

/** The button of an entry in the history. */
export function thumbnail(entry, current, open) {
  const { prompt, seed } = entry.request;
  const images = entry.images.map((image) => element("img", { alt: "", src: addressOf(image.final), loading: "lazy" }));
  const button = element("button", { type: "button", className: `thumbnail of-${images.length}`, title: prompt }, ...images);
  button.setAttribute("aria-label", `${prompt}, seed ${seed}, ${images.length === 1 ? "1 image" : `${images.length} images`}`);
  if (current) button.setAttribute("aria-current", "true");
  button.addEventListener("click", open);
  return element("li", {}, button);
}
