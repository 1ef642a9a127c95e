// A request as the fragment of an address: what is needed to make its images again.
const TEXTS = ["prompt", "negative_prompt", "size"];

/** The fragment of a request; settings that are the model's own are not in it. */
export function toHash(request) {
  const query = new URLSearchParams();
  for (const name of TEXTS) if (request[name]) query.set(name, request[name]);
  query.set("seed", request.seed);
  query.set("n", request.count);
  for (const [name, value] of Object.entries(request.sampling)) query.set(name, value);
  return `#${query}`;
}

/** The request of a fragment, or null if it has no prompt; values of unknown names are left out. */
export function fromHash(hash, settings) {
  const query = new URLSearchParams(hash.slice(1));
  if (!query.get("prompt")) return null;
  const request = { sampling: {} };
  for (const name of TEXTS) request[name] = query.get(name) ?? "";
  request.seed = /^\d{1,15}$/.test(query.get("seed") ?? "") ? Number(query.get("seed")) : null;
  request.count = query.get("n") === "1" ? 1 : 4;
  for (const { name, default: own } of settings) {
    if (query.has(name)) request.sampling[name] = typed(query.get(name), own);
  }
  return request;
}

function typed(text, own) {
  if (typeof own === "boolean") return text === "true";
  if (typeof own === "string") return text;
  return Array.isArray(own) ? text.split(",").map(Number) : Number(text);
}

export async function copy(hash, note) {
  const address = location.href.split("#")[0] + hash;
  try {
    await navigator.clipboard.writeText(address);
    note.textContent = "The link is copied.";
  } catch {
    note.textContent = `Copy this link: ${address}`; // browsers lend the clipboard to secure pages only
  }
}
