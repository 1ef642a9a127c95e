// Shows pairs of images, sends votes. All state is on the server, but for the rater's name.
const $ = (id) => document.getElementById(id);
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie" };
const rater = (localStorage.rater ??= crypto.randomUUID ? crypto.randomUUID() : String(Math.random()).slice(2));
const query = `?rater=${encodeURIComponent(rater)}`;
let token = null;

async function ask(path, options) {
  const answer = await fetch(path, options);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return body;
}

async function show(pair) {
  $("progress").max = pair.total;
  $("progress").value = pair.done;
  $("undo").disabled = pair.done === 0;
  const open = pair.token !== undefined;
  $("pair").hidden = !open;
  $("tie").disabled = !open;
  $("status").textContent = open ? `${pair.done} of ${pair.total} pairs` : `All ${pair.total} pairs are done. Thank you!`;
  $("prompt").textContent = open ? pair.prompt : "";
  if (!open) return;
  const sides = ["left", "right"].map((side) => $(side).firstElementChild);
  sides[0].src = `pair/${pair.token}/left`;
  sides[1].src = `pair/${pair.token}/right`;
  await Promise.all(sides.map((image) => image.decode()));
  token = pair.token; // a vote counts only once both images are visible
}

async function run(work) {
  try {
    await show(await work());
  } catch (error) {
    $("status").textContent = `${error.message}. Reload the page to continue.`;
  }
}

function vote(choice) {
  if (token === null) return;
  const body = JSON.stringify({ token, choice, rater });
  token = null;
  run(() => ask("vote", { method: "POST", body }));
}

function undo() {
  if ($("undo").disabled) return;
  token = null;
  run(() => ask(`undo${query}`, { method: "POST" }));
}

for (const choice of ["left", "right", "tie"]) $(choice).addEventListener("click", () => vote(choice));
$("undo").addEventListener("click", undo);
addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Backspace") undo();
  else if (event.key in KEYS) vote(KEYS[event.key]);
  else return;
  event.preventDefault();
});
run(() => ask(`pair${query}`));
