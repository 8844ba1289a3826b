"""The explain page's script: it shows the chosen head's map and reads weights off it.

The weights are float32 in base64: head by head, of each the rows of its lower triangle.
"""

SCRIPT = r"""
"use strict";
(() => {
  const map = document.getElementById("map"), heat = map.querySelector(".heat");
  const queries = [...map.querySelectorAll(".queries .token")];
  const keys = [...map.querySelectorAll(".keys .token")];
  const buttons = [...document.querySelectorAll(".heads button")];
  const title = map.querySelector("h2"), read = map.querySelector(".read"), hint = read.innerHTML;
  const row = map.querySelector(".row"), column = map.querySelector(".column");
  const spoken = document.getElementById("spoken");
  const n = queries.length, size = n * (n + 1) / 2;
  const raw = atob(JSON.parse(document.getElementById("weights").textContent));
  const view = new DataView(Uint8Array.from(raw, (c) => c.charCodeAt(0)).buffer);
  const weight = (t, s) => view.getFloat32(4 * (head * size + t * (t + 1) / 2 + s), true);
  let head = 0, at = null;

  function choose(number) {
    head = number;
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", i === number));
    map.querySelector(".ink").style.maskImage = buttons[number].querySelector(".ink").style.maskImage;
    const name = buttons[number].getAttribute("aria-label");
    title.textContent = name[0].toUpperCase() + name.slice(1);
    if (at) point(...at);
  }
  function point(t, s) {
    at = t === null ? null : [t, Math.min(s, t)];
    queries.forEach((query, i) => query.classList.toggle("here", at !== null && i === at[0]));
    keys.forEach((key, i) => key.classList.toggle("here", at !== null && i === at[1]));
    row.hidden = column.hidden = at === null;
    if (at === null) {
      read.innerHTML = hint;
      read.querySelector(".hint").hidden = false;
      return;
    }
    row.style.top = 100 * at[0] / n + "%";
    column.style.left = 100 * at[1] / n + "%";
    const token = (i) => `${queries[i].textContent} (${i})`;
    read.textContent = `${token(at[0])} attends to ${token(at[1])}: `;
    read.appendChild(document.createElement("b")).textContent = +weight(...at).toPrecision(6);
  }
  function cell(event) {
    const box = heat.getBoundingClientRect();
    const index = (share) => Math.min(Math.max(Math.floor(share * n), 0), n - 1);
    return [index((event.clientY - box.top) / box.height), index((event.clientX - box.left) / box.width)];
  }
  heat.addEventListener("pointermove", (event) => {
    const [t, s] = cell(event);
    if (s <= t) point(t, s); else point(null);
  });
  heat.addEventListener("pointerdown", (event) => point(...cell(event)));
  heat.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") point(null); });
  buttons.forEach((button, i) => button.addEventListener("click", () => choose(i)));
  map.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const [t, s] = at || [n - 1, n - 1];
    const next = {
      ArrowUp: [t - 1, s], ArrowDown: [t + 1, s], ArrowLeft: [t, s - 1], ArrowRight: [t, s + 1],
      Home: [t, 0], End: [t, t],
    }[event.key];
    if (event.key === "Escape") point(null);
    if (!next) return;
    event.preventDefault();
    if (next[0] >= 0 && next[0] < n && next[1] >= 0) point(...next);
    spoken.textContent = read.textContent;
  });
  map.addEventListener("blur", () => point(null));
  for (const element of document.querySelectorAll(".hint")) element.hidden = false;
})();
"""
