"use strict";

/* Comparing two clips: one clock for both */

const both = { players: {}, seconds: 0, isRunning: false, sound: "a", step: 1 / 24 };

function openCompare() {
  if (!(chosen.a && chosen.b)) return tell("Choose A and B first: keys a and b.");
  hush(null);
  const stage = compare.querySelector(".stage");
  const tracks = compare.querySelector(".tracks");
  tracks.replaceChildren();
  both.seconds = Math.max(...["a", "b"].map((side) => Number(chosen[side].dataset.seconds)));
  both.step = 1 / Number(chosen.a.dataset.fps || 25);
  const screen = chosen.a.querySelector(".screen");
  both.shape = screen.style.aspectRatio.split("/").map(Number);
  for (const side of ["a", "b"]) {
    const cell = chosen[side];
    const player = make("video", { src: cell.querySelector(".play").getAttribute("href"), preload: "auto", muted: side !== both.sound });
    player.playsInline = true;
    const picture = cell.querySelector(".play img");
    if (picture) player.poster = picture.src;
    stage.querySelector(`.pane.${side}`).replaceChildren(player);
    both.players[side] = player;
    compare.querySelector(`.name.${side}`).textContent = nameOf(cell);
    const strip = cell.querySelector(".strip");
    if (strip) {
      const twin = strip.cloneNode(true);
      twin.style.width = `${(Number(cell.dataset.seconds) / both.seconds) * 100}%`;
      twin.addEventListener("click", (event) => setTime(((event.clientX - tracks.getBoundingClientRect().left) / tracks.clientWidth) * both.seconds));
      for (const scale of twin.querySelectorAll(".scale")) scale.remove();
      tracks.append(make("div", { className: `track running ${side}` }, twin));
    }
  }
  showDifference();
  setView("wipe");
  setSound("a");
  setTime(0);
  compare.showModal();
  byId("run").focus();
  return run();
}

function showDifference() {
  const [a, b] = [recipeOf(chosen.a), recipeOf(chosen.b)];
  const names = [...new Set([...a.keys(), ...b.keys()])].filter((name) => a.get(name) !== b.get(name));
  const rows = names.map((name) => [name, a.get(name), b.get(name)]);
  const same = make("p", { className: "label", textContent: a.size ? "Nothing: both recipes are the same." : "These files contain no recipe." });
  compare.querySelector(".difference").replaceChildren(rows.length ? table(rows, ["", "A", "B"]) : same);
}

function seconds() {
  const { a, b } = both.players;
  return Math.max(a.currentTime, b.currentTime);
}

function setTime(time) {
  const at = Math.min(Math.max(time, 0), both.seconds);
  for (const player of Object.values(both.players)) player.currentTime = at;
  showTime(at);
}

function showTime(at) {
  byId("seek").value = at / both.seconds;
  byId("seek").setAttribute("aria-valuetext", `${at.toFixed(2)} seconds`);
  byId("time").textContent = `${at.toFixed(2)} / ${both.seconds.toFixed(2)} s`;
  for (const side of ["a", "b"]) {
    const strip = compare.querySelector(`.track.${side} .strip`);
    if (strip) strip.style.setProperty("--at", Math.min(at / Number(chosen[side].dataset.seconds), 1));
  }
}

function run() {
  both.isRunning = true;
  byId("run").textContent = "❚❚";
  byId("run").setAttribute("aria-label", "Pause both");
  const { a, b } = both.players;
  if (a.ended && b.ended) setTime(0);
  for (const player of [a, b]) player.play().catch(() => {});
  requestAnimationFrame(keepInStep);
}

function halt() {
  both.isRunning = false;
  byId("run").textContent = "▶";
  byId("run").setAttribute("aria-label", "Play both");
  const at = seconds();
  for (const player of Object.values(both.players)) {
    player.pause();
    player.playbackRate = 1;
  }
  setTime(at);
}

/* The one that is heard leads; the other one goes a little faster or slower, and jumps where it is far behind. */
function keepInStep() {
  if (!both.isRunning) return;
  const leads = both.players[both.sound];
  const follows = both.players[both.sound === "a" ? "b" : "a"];
  const off = leads.currentTime - follows.currentTime;
  if (leads.ended && follows.ended) {
    setTime(0);
    for (const player of [leads, follows]) player.play().catch(() => {});
  } else if (!leads.ended && !follows.ended && !leads.seeking && !follows.seeking && follows.readyState > 2) {
    if (Math.abs(off) > 0.15) follows.currentTime = leads.currentTime;
    follows.playbackRate = Math.abs(off) < 0.008 ? 1 : Math.min(Math.max(1 + 2 * off, 0.8), 1.25);
  }
  showTime(seconds());
  requestAnimationFrame(keepInStep);
}

function setWipe(percent) {
  const at = Math.min(Math.max(percent, 0), 100);
  byId("wipe").value = at;
  compare.querySelector(".stage").style.setProperty("--wipe", `${at}%`);
}

function setView(view) {
  compare.classList.toggle("beside", view === "beside");
  for (const button of compare.querySelectorAll("[data-view]")) button.setAttribute("aria-pressed", button.dataset.view === view);
  const [width, height] = both.shape.length === 2 ? both.shape : [3, 1];
  const stage = compare.querySelector(".stage");
  const ratio = (view === "beside" ? 2 * width : width) / height;
  stage.style.aspectRatio = ratio;
  for (const wide of [stage, byId("wipe")]) wide.style.width = `min(100%, ${52 * ratio}vh)`;
}

function setSound(side) {
  both.sound = side;
  for (const [name, player] of Object.entries(both.players)) {
    player.muted = name !== side;
    player.playbackRate = 1;
  }
  for (const button of compare.querySelectorAll("[data-sound]")) button.setAttribute("aria-pressed", button.dataset.sound === side);
}

function closeCompare() {
  both.isRunning = false;
  for (const pane of compare.querySelectorAll(".pane")) pane.replaceChildren();
  both.players = {};
  if (current) current.focus();
}
