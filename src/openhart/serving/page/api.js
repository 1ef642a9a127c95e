// The HTTP API of this server: requests, errors as sentences, and streamed images.
export class ApiError extends Error {
  constructor(message, status = 0) {
    super(sentence(message));
    this.status = status;
  }
}

function sentence(text) {
  const whole = text.trim().replace(/^\w+/, (word) => word.replaceAll("_", " ")); // parameters as they are labelled
  const ended = /[.!?]$/.test(whole) ? whole : `${whole}.`;
  return ended[0].toUpperCase() + ended.slice(1);
}

const UNREACHABLE = "The server cannot be reached. Check that it is running, then try again.";
const LOST = "The connection to the server was lost before the image was finished. Try again.";

async function send(path, { body, signal } = {}) {
  const headers = {};
  const key = sessionStorage.getItem("key");
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  const method = body ? "POST" : "GET";
  const answer = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body) }).catch((error) => {
    throw signal?.aborted ? error : new ApiError(UNREACHABLE);
  });
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => null);
  const message = problem?.error?.message ?? `The server answered with the status ${answer.status}`;
  const wait = answer.status === 429 && answer.headers.get("Retry-After");
  throw new ApiError(wait ? `${message}; try again in ${Math.ceil(wait)} s` : message, answer.status);
}

/** The description of the served model, or null while the server loads it. */
export async function model() {
  const { data } = await (await send("v1/models")).json();
  return data[0].openhart && { ...data[0].openhart, name: data[0].id };
}

function blob(base64, format) {
  return new Blob([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], { type: `image/${format}` });
}

/**
 * Generates one image.
 * @param body parameters of POST /v1/images/generations
 * @param onScale called with the image after a scale, the number of this scale from 1, and the number of scales
 * @returns the final image, its size, and a warning or null
 */
export async function generate(body, onScale, signal) {
  const answer = await send("v1/images/generations", { body: { ...body, stream: true }, signal });
  const warning = answer.headers.get("x-openhart-warning");
  for await (const data of events(answer.body, signal)) {
    if (data.error) throw new ApiError(data.error.message, 500);
    const image = blob(data.b64_json, data.output_format);
    if (data.type.endsWith("completed")) return { image, size: data.size, warning };
    onScale(image, data.scale_index + 1, data.scales);
  }
  throw new ApiError(LOST);
}

async function* events(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (true) {
    const { done, value } = await reader.read().catch((error) => {
      throw signal?.aborted ? error : new ApiError(LOST);
    });
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const line = part.split("\n").find((each) => each.startsWith("data: "));
      if (line) yield JSON.parse(line.slice(6));
    }
  }
}
