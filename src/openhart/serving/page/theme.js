// Light and dark colours: those of the system, until the button chooses the others.
const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");

function show() {
  const chosen = localStorage.getItem("theme");
  root.dataset.theme = chosen ?? "";
  const dark = chosen ? chosen === "dark" : system.matches;
  document.getElementById("theme").setAttribute("aria-pressed", dark);
  return dark;
}

document.getElementById("theme").addEventListener("click", () => {
  const wanted = show() ? "light" : "dark";
  if ((wanted === "dark") === system.matches) localStorage.removeItem("theme");
  else localStorage.setItem("theme", wanted);
  show();
});
system.addEventListener("change", show);
show();
