// The controls of the model's sampling settings, built from the server's description of them.
const FIRST = ["guidance_scale", "top_k", "temperature", "use_residual"];

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export function label(name) {
  return name[0].toUpperCase() + name.slice(1).replaceAll("_", " ");
}

function control(setting) {
  const { default: own, choices, least, most } = setting;
  if (typeof own === "boolean") return element("input", { type: "checkbox", checked: own });
  if (choices.length) return element("select", {}, ...choices.map((each) => new Option(each, each, each === own, each === own)));
  if (Array.isArray(own)) return element("input", { type: "text", placeholder: own.join(", ") || "none" });
  const number = element("input", { type: "number", step: "any", placeholder: own ?? "none" });
  if (least !== null) number.min = least;
  if (most !== null) number.max = most;
  return number;
}

function box(setting) {
  const input = control(setting);
  input.id = `setting-${setting.name}`;
  const help = element("p", { id: `${input.id}-help`, textContent: setting.help });
  input.setAttribute("aria-describedby", help.id);
  const title = element("label", { htmlFor: input.id, textContent: label(setting.name) });
  const check = input.type === "checkbox";
  return [input, element("div", { className: check ? "setting check" : "setting" }, ...(check ? [input, title] : [title, input]), help)];
}

export class SettingsForm {
  #controls = new Map();

  constructor(settings, first, more) {
    for (const setting of settings) {
      const [input, made] = box(setting);
      this.#controls.set(setting, input);
      (FIRST.includes(setting.name) ? first : more).append(made);
    }
  }

  /** The values that differ from the model's own. */
  values() {
    const found = {};
    for (const [setting, input] of this.#controls) {
      const value = read(setting, input);
      if (value !== null && String(value) !== String(setting.default)) found[setting.name] = value;
    }
    return found;
  }

  /** Shows given values, and the model's own for all others. */
  fill(values) {
    for (const [{ name, default: own }, input] of this.#controls) {
      const value = values[name] ?? own;
      if (input.type === "checkbox") input.checked = value;
      else if (input.tagName === "SELECT") input.value = value;
      else input.value = name in values ? String(values[name]) : "";
    }
  }
}

function read({ name, default: own }, input) {
  if (input.type === "checkbox") return input.checked;
  if (input.tagName === "SELECT") return input.value;
  if (input.validity.badInput) throw new Error(`${label(name)} must be a number.`);
  if (input.value.trim() === "") return null;
  if (!Array.isArray(own)) return Number(input.value);
  const numbers = input.value.split(",").map(Number);
  if (numbers.some(Number.isNaN)) throw new Error(`${label(name)} must be numbers, separated by commas.`);
  return numbers;
}
