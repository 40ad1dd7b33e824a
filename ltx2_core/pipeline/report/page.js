"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const cells = [...document.querySelectorAll(".cell[data-file]")];
const isBatch = !document.body.classList.contains("single");
const byId = (id) => document.getElementById(id);
const compare = byId("compare");
const picks = new Set();
const chosen = { a: null, b: null };
let current = null;

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function tell(text) {
  const told = byId("told");
  told.textContent = text;
  told.classList.add("shown");
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => told.classList.remove("shown"), 2500);
}

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", { value: text });
    (document.querySelector("dialog[open]") || document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  tell(`Copied ${what}.`);
}

/* Sound over time */

function drawWave(cell) {
  const strip = cell.querySelector(".strip");
  if (!strip) return;
  const [upper, lower = upper] = cell.dataset.waves.split(",");
  const most = data.levels.length - 1;
  const level = (letter) => (data.levels.indexOf(letter) / most) * 49;
  const over = [...upper].map((letter, x) => `${x} ${(50 - level(letter)).toFixed(1)} ${x + 1} ${(50 - level(letter)).toFixed(1)}`);
  const under = [...lower].map((letter, x) => `${x + 1} ${(50.5 + level(letter)).toFixed(1)} ${x} ${(50.5 + level(letter)).toFixed(1)}`);
  const wave = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  wave.setAttribute("viewBox", `0 0 ${upper.length} 100`);
  wave.setAttribute("preserveAspectRatio", "none");
  wave.setAttribute("role", "img");
  wave.setAttribute("aria-label", "Waveform");
  const path = document.createElementNS(wave.namespaceURI, "path");
  path.setAttribute("d", `M${over.join(" ")} ${under.reverse().join(" ")}Z`);
  wave.append(path);
  strip.prepend(wave);
  strip.append(make("div", { className: "head" }));
  strip.addEventListener("click", (event) => {
    const box = strip.getBoundingClientRect();
    seek(cell, ((event.clientX - box.left) / box.width) * Number(cell.dataset.seconds));
  });
}

function label(strip, text, place) {
  strip.append(make("span", { className: "scale", textContent: text, style: place, ariaHidden: "true" }));
}

function drawScales(cell) {
  const strip = cell.querySelector(".strip");
  if (!strip || strip.querySelector(".scale")) return;
  const seconds = Number(cell.dataset.seconds);
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600].find((size) => seconds / size <= 8) || 1800;
  for (let number = 0; number * step < seconds * 0.96; number += 1) {
    const place = number ? `transform:translateX(-50%);left:${((number * step) / seconds) * 100}%` : "left:.4rem";
    label(strip, `${+(number * step).toFixed(1)} s`, `bottom:.4rem;${place}`);
  }
  const height = strip.querySelector("svg").getBoundingClientRect().height;
  const isStereo = cell.dataset.waves.includes(",");
  label(strip, isStereo ? "left" : "audio", "top:.35rem;left:.4rem");
  if (isStereo) label(strip, "right", `top:${height - 15}px;left:.4rem`);
  label(strip, "0 dBFS", "top:.35rem;right:.4rem");
  label(strip, "−60", `top:${height / 2 - 5}px;right:.4rem`);
  label(strip, strip.dataset.highest, `top:${height + 5}px;left:.4rem`);
  label(strip, "50 Hz", "bottom:1.85rem;left:.4rem");
}

/* Playing one clip */

function media(cell) {
  return cell.querySelector("video, audio");
}

function isPlaying(cell) {
  const player = media(cell);
  return player !== null && !player.paused;
}

function load(cell) {
  const play = cell.querySelector(".play");
  const picture = play.querySelector("img");
  const player = make(cell.dataset.fps ? "video" : "audio", { src: play.getAttribute("href"), controls: true, loop: true });
  player.playsInline = true;
  if (picture) player.poster = picture.src;
  player.addEventListener("error", () => {
    player.remove();
    const link = make("a", { href: play.getAttribute("href"), textContent: "Open the file" });
    cell.querySelector(".screen").append(make("p", { className: "trouble" }, "This browser cannot play it. ", link));
  });
  player.addEventListener("play", () => follow(cell, player));
  cell.querySelector(".screen").append(player);
  play.hidden = true;
  play.style.display = "none";
  return player;
}

function hush(cell) {
  for (const other of cells) if (other !== cell && isPlaying(other)) media(other).pause();
}

function follow(cell, player) {
  if (player.paused) return; /* another clip has been started since */
  hush(cell);
  cell.classList.add("running");
  const step = () => {
    cell.style.setProperty("--at", player.currentTime / Number(cell.dataset.seconds));
    if (!player.paused) requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}

function play(cell) {
  if (cell.querySelector(".trouble")) return null;
  const player = media(cell) || load(cell);
  if (!player.paused) return player.pause();
  hush(cell);
  return player.play().catch(() => {});
}

function seek(cell, seconds) {
  const player = media(cell) || load(cell);
  player.currentTime = seconds;
  cell.classList.add("running");
  cell.style.setProperty("--at", seconds / Number(cell.dataset.seconds));
  hush(cell);
  player.play().catch(() => {});
}

/* Recipes */

function recipeOf(cell) {
  const number = Number(cell.dataset.number);
  const found = new Map();
  for (const { name, values, of } of data.recipes) {
    const place = of ? of[number] : 0;
    if (place >= 0 && cell.dataset.rerun) found.set(name, values[place]);
  }
  return found;
}

function table(rows, heads = []) {
  const body = make("tbody");
  for (const [name, ...values] of rows) {
    body.append(make("tr", {}, make("th", { scope: "row", textContent: name }), ...values.map((value) => make("td", { textContent: value ?? "—" }))));
  }
  const whole = make("table");
  if (heads.length) whole.append(make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col", textContent: head })))));
  whole.append(body);
  return whole;
}

function details(cell) {
  drawScales(cell);
  if (cell.querySelector(".more")) return;
  const more = make("div", { className: "more" });
  const about = cell.querySelector(".about");
  const rows = [...recipeOf(cell)];
  if (rows.length) {
    const again = make("button", { type: "button", textContent: "Copy" });
    again.addEventListener("click", () => copy(cell.dataset.rerun, "the command"));
    more.append(make("h4", { textContent: "Render it again" }), make("div", { className: "rerun" }, make("code", { textContent: cell.dataset.rerun }), again));
    cell.append(make("div", { className: "recipe" }, make("h4", { textContent: "Recipe" }), table(rows)));
  } else {
    more.append(make("p", { className: "label", textContent: "This file contains no recipe." }));
  }
  const words = [...cell.querySelectorAll(".badges li")].map((badge) => [badge.textContent, badge.title]);
  if (words.length) more.prepend(make("h4", { textContent: "Checks" }), table(words));
  about.append(more);
}

function toggle(cell) {
  if (cell.classList.toggle("open")) details(cell);
  cell.scrollIntoView({ block: "nearest" });
}

/* Picks */

function storageKey() {
  return `ltx2 picks of ${data.folder} ${location.pathname}`;
}

function pick(cell) {
  if (!picks.delete(cell.dataset.file)) picks.add(cell.dataset.file);
  try {
    localStorage.setItem(storageKey(), JSON.stringify([...picks]));
  } catch { /* a browser may keep nothing for pages from disk */ }
  refresh();
}

function picksText() {
  const files = cells.map((cell) => cell.dataset.file).filter((file) => picks.has(file));
  return [`# ltx2 picks of ${data.folder}`, ...files, ""].join("\n");
}

function savePicks() {
  if (!picks.size) return tell("Nothing is picked yet.");
  const link = make("a", { href: URL.createObjectURL(new Blob([picksText()], { type: "text/plain" })), download: "picks.txt" });
  link.click();
  return URL.revokeObjectURL(link.href);
}

function choose(cell, side) {
  chosen[side] = chosen[side] === cell ? null : cell;
  const other = side === "a" ? "b" : "a";
  if (chosen[other] === cell) chosen[other] = null;
  refresh();
}

function nameOf(cell) {
  const heading = cell.closest(".group").querySelector("h2");
  const own = [cell.querySelector("h3"), ...cell.querySelectorAll(".about > .label")].map((one) => one.textContent);
  return [heading ? heading.textContent : "", ...own].filter(Boolean).join(" · ");
}

function refresh() {
  for (const cell of cells) {
    const isPicked = picks.has(cell.dataset.file);
    cell.classList.toggle("picked", isPicked);
    cell.querySelector(".pick").setAttribute("aria-pressed", isPicked);
    for (const side of ["a", "b"]) cell.querySelector(`.tools .${side}`).setAttribute("aria-pressed", chosen[side] === cell);
  }
  for (const side of ["a", "b"]) {
    const slot = byId(`slot-${side}`);
    slot.textContent = chosen[side] ? chosen[side].querySelector("h3").textContent : "not chosen";
    slot.title = chosen[side] ? nameOf(chosen[side]) : "";
  }
  byId("compare-now").disabled = !(chosen.a && chosen.b);
  byId("pick-count").textContent = picks.size === 1 ? "1 pick" : `${picks.size} picks`;
  for (const id of ["copy-picks", "save-picks"]) byId(id).disabled = !picks.size;
  const isShown = Boolean(picks.size || chosen.a || chosen.b);
  byId("tray").hidden = !isShown;
  document.body.classList.toggle("tray", isShown);
  if (!picks.size) byId("only-picks").checked = false;
  for (const grid of document.querySelectorAll(".cells")) grid.classList.toggle("filtered", byId("only-picks").checked);
}

/* Keys */

function goTo(cell) {
  if (!cell) return;
  if (current) current.classList.remove("current");
  current = cell;
  cell.classList.add("current");
  cell.focus({ preventScroll: true });
  cell.scrollIntoView({ block: "nearest" });
}

function neighbour(direction) {
  const shown = cells.filter((cell) => cell.offsetParent !== null);
  if (!current) return shown[0];
  const place = shown.indexOf(current);
  if (direction === "ArrowLeft") return shown[place - 1];
  if (direction === "ArrowRight") return shown[place + 1];
  const from = current.getBoundingClientRect();
  const isDown = direction === "ArrowDown";
  const beyond = shown.map((cell) => [cell, cell.getBoundingClientRect()]).filter(([, box]) => (isDown ? box.top >= from.bottom : box.bottom <= from.top));
  const far = ([, box]) => (isDown ? box.top - from.bottom : from.top - box.bottom) * 10 + Math.abs(box.left - from.left);
  return beyond.sort((one, two) => far(one) - far(two)).map(([cell]) => cell)[0];
}

const keysOfClip = {
  " ": play,
  Enter: (cell) => isBatch && toggle(cell),
  p: (cell) => isBatch && pick(cell),
  a: (cell) => isBatch && choose(cell, "a"),
  b: (cell) => isBatch && choose(cell, "b"),
  r: (cell) => (cell.dataset.rerun ? copy(cell.dataset.rerun, "the command") : tell("This file contains no recipe.")),
};
const keysOfPage = { c: openCompare, s: savePicks };
const keysOfCompare = {
  " ": () => (both.isRunning ? halt() : run()),
  ArrowLeft: () => { halt(); setTime(seconds() - both.step); },
  ArrowRight: () => { halt(); setTime(seconds() + both.step); },
  "[": () => setWipe(Number(byId("wipe").value) - 5),
  "]": () => setWipe(Number(byId("wipe").value) + 5),
  l: () => setSound(both.sound === "a" ? "b" : "a"),
};

function onKey(event) {
  const { key, target } = event;
  const isNative = target.matches("input, textarea, select, video, audio") || (target.matches("button") && key === " ") || (target.matches("button, a") && key === "Enter");
  if (event.ctrlKey || event.metaKey || event.altKey || isNative) return;
  const name = key.length === 1 ? key.toLowerCase() : key;
  let action = null;
  if (key === "?") action = () => byId("help").showModal();
  else if (compare && compare.open) action = keysOfCompare[name];
  else if (document.querySelector("dialog[open]")) return;
  else if (name.startsWith("Arrow") && isBatch) action = () => goTo(neighbour(name));
  else if (name in keysOfPage && isBatch) action = keysOfPage[name];
  else if (name in keysOfClip && (current || cells[0])) action = () => keysOfClip[name](current || cells[0]);
  if (!action) return;
  event.preventDefault();
  action();
}

/* Beginning */

function addTools(cell) {
  const tool = (name, text, hint, action) => {
    const button = make("button", { type: "button", className: name, textContent: text, title: hint, ariaLabel: hint });
    button.addEventListener("click", () => action(cell));
    return button;
  };
  cell.querySelector(".about .badges").after(make("div", { className: "tools" },
    tool("pick", "★", "Pick", pick),
    tool("a", "A", "Compare as A", () => choose(cell, "a")),
    tool("b", "B", "Compare as B", () => choose(cell, "b")),
    tool("expand", "⤢", "Details", toggle)));
}

function begin() {
  for (const cell of cells) {
    drawWave(cell);
    cell.querySelector(".play").addEventListener("click", (event) => { event.preventDefault(); play(cell); });
    cell.addEventListener("focusin", () => { if (current !== cell) { if (current) current.classList.remove("current"); current = cell; if (isBatch) cell.classList.add("current"); } });
    if (isBatch) addTools(cell);
  }
  document.addEventListener("keydown", onKey);
  byId("show-help").addEventListener("click", () => byId("help").showModal());
  for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());
  if (!isBatch) {
    for (const cell of cells) { cell.classList.add("open"); details(cell); }
    return;
  }
  try {
    const known = JSON.parse(localStorage.getItem(storageKey())) || [];
    for (const cell of cells) if (known.includes(cell.dataset.file)) picks.add(cell.dataset.file);
  } catch { /* as above */ }
  byId("compare-now").addEventListener("click", openCompare);
  byId("copy-picks").addEventListener("click", () => copy(picksText(), "the picks"));
  byId("save-picks").addEventListener("click", savePicks);
  byId("only-picks").addEventListener("change", refresh);
  byId("run").addEventListener("click", () => (both.isRunning ? halt() : run()));
  byId("seek").addEventListener("input", (event) => setTime(Number(event.target.value) * both.seconds));
  byId("wipe").addEventListener("input", (event) => setWipe(Number(event.target.value)));
  for (const button of compare.querySelectorAll("[data-view]")) button.addEventListener("click", () => setView(button.dataset.view));
  for (const button of compare.querySelectorAll("[data-sound]")) button.addEventListener("click", () => setSound(button.dataset.sound));
  const stage = compare.querySelector(".stage");
  const drag = (event) => {
    if (!event.buttons || compare.classList.contains("beside")) return;
    const box = stage.getBoundingClientRect();
    setWipe(((event.clientX - box.left) / box.width) * 100);
  };
  stage.addEventListener("pointerdown", drag);
  stage.addEventListener("pointermove", drag);
  compare.addEventListener("close", closeCompare);
  refresh();
}

begin();
