// The script of the page: theme, enlarged pictures, keyboard navigation, and the review queue (sort, filter, verdicts).
// Rows are stored as JSON in data-row, which preserves every character of a file name.
"use strict";

const VERDICTS = ["crack", "sound", "joint", "unsure"];
const KEYS = { c: "crack", s: "sound", t: "joint", u: "unsure" };
const COLUMNS = ["image", "group", "score", "p_value", "flagged", "verdict", "run", "model"];

const byId = (id) => document.getElementById(id);
const prefix = `crackvae/${document.body.dataset.page}`;

// Browsers may deny storage to pages opened from disk; the page then works without it.
const storage = {
  read(name) { try { return JSON.parse(localStorage.getItem(`${prefix}/${name}`)); } catch { return null; } },
  write(name, value) { try { localStorage.setItem(`${prefix}/${name}`, JSON.stringify(value)); } catch { /* full or denied */ } },
};

// ---------------------------------------------------------------- theme

function showTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
}

byId("theme").addEventListener("click", () => {
  const isDark = getComputedStyle(document.documentElement).colorScheme === "light dark"
    ? matchMedia("(prefers-color-scheme: dark)").matches
    : document.documentElement.dataset.theme === "dark";
  const theme = isDark ? "light" : "dark";
  showTheme(theme);
  storage.write("theme", theme);
});
showTheme(storage.read("theme"));

// ---------------------------------------------------------------- enlarged pictures

const zoom = byId("zoom");

function enlarge(item) {
  const thumbnails = item.querySelectorAll(".thumbnail");
  if (!thumbnails.length) return;
  zoom.querySelector(".zoomed").replaceChildren(...[...thumbnails].map((thumbnail) => thumbnail.cloneNode(true)));
  const name = item.querySelector(".name");
  if (name) {
    const about = document.createElement("p");
    about.className = "about";
    about.append(name.cloneNode(true));
    zoom.querySelector(".zoomed").append(about);
  }
  if (!zoom.open) zoom.showModal();
}

document.addEventListener("click", (event) => {
  const frame = event.target.closest(".frame");
  if (frame && zoom.contains(frame)) { zoom.close(); return; }
  if (event.target === zoom) { zoom.close(); return; }
  if (!frame) return;
  const item = frame.closest(".card, .item");
  if (item && visibleItems().includes(item)) goTo(item);
  enlarge(frame.closest(".card, li, .tiles > div, .wide"));
});

// ---------------------------------------------------------------- review queue

const cards = byId("cards");
const all = [...document.querySelectorAll(".card")];
const rows = new Map(all.map((card) => [card, JSON.parse(card.dataset.row)]));
const inQueue = all.filter((card) => card.parentElement === cards);
const galleries = [...document.querySelectorAll(".gallery .item")];
const rank = new Map(inQueue.map((card, index) => [card, index]));
const given = []; // for each verdict of this visit, what takes it back
// What `crackvae review` adds to the page: whether a card passes a filter by name, and what happens to a new verdict.
const isKnown = (card) => card.classList.contains("known");
const filters = { known: isKnown, unknown: (card) => !isKnown(card) };
let onVerdict = null;
let current = null;

const verdictOf = (card) => card.dataset.verdict || "";
const visibleItems = () => (cards ? [...cards.children].filter((card) => !card.hidden) : galleries);

function goTo(card) {
  if (current) { current.classList.remove("current"); current.removeAttribute("aria-current"); }
  current = card;
  if (!card) return;
  card.classList.add("current");
  card.setAttribute("aria-current", "true");
  card.focus({ preventScroll: true });
  card.scrollIntoView({ block: "nearest" });
  if (zoom.open) enlarge(card);
}

function step(by) {
  const shown = visibleItems();
  const at = shown.indexOf(current);
  const next = shown[at < 0 ? 0 : Math.min(Math.max(at + by, 0), shown.length - 1)];
  if (next) goTo(next);
}

// An image of the queue may be in the random sample as well: it has one verdict, on both cards.
const cardsOf = (image) => all.filter((card) => rows.get(card).image === image);

function showVerdict(card, verdict) {
  if (verdict) card.dataset.verdict = verdict; else delete card.dataset.verdict;
  for (const button of card.querySelectorAll("[data-verdict]")) {
    button.setAttribute("aria-pressed", String(button.dataset.verdict === verdict));
  }
}

function storeVerdicts() {
  if (!onVerdict) storage.write("verdicts", Object.fromEntries(all.filter(verdictOf).map((card) => [rows.get(card).image, verdictOf(card)])));
  showProgress();
}

function showProgress() {
  const done = inQueue.filter(verdictOf).length;
  const cracks = inQueue.filter((card) => verdictOf(card) === "crack").length;
  const shown = visibleItems().length, hidden = shown < inQueue.length ? `${shown} shown, ` : "";
  byId("progress").textContent = `${hidden}${done} of ${inQueue.length} reviewed, ${cracks} crack${cracks === 1 ? "" : "s"}`;
}

function sortCards() {
  const key = byId("sort").value;
  const text = (name) => (a, b) => (rows.get(a)[name] < rows.get(b)[name] ? -1 : rows.get(a)[name] > rows.get(b)[name] ? 1 : 0);
  const order = {
    p: () => 0,
    "-p": (a, b) => rank.get(b) - rank.get(a),
    group: text("group"),
    image: text("image"),
    verdict: (a, b) => (VERDICTS.indexOf(verdictOf(a)) + 9) % 9 - (VERDICTS.indexOf(verdictOf(b)) + 9) % 9,
  }[key];
  cards.append(...[...inQueue].sort((a, b) => isKnown(a) - isKnown(b) || order(a, b) || rank.get(a) - rank.get(b)));
}

function filterCards() {
  const group = byId("group").value, state = byId("state").value, text = byId("text").value.toLowerCase();
  for (const card of inQueue) {
    const row = rows.get(card), verdict = verdictOf(card);
    const matches = (!group || `=${row.group}` === group)
      && (!state || (filters[state] ? filters[state](card) : state === "open" ? !verdict : state === "flagged" ? row.flagged : verdict === state))
      && (!text || row.image.toLowerCase().includes(text));
    card.hidden = !matches;
  }
  byId("nothing").hidden = visibleItems().length > 0;
  showProgress();
}

function showView(view) {
  cards.classList.toggle("dense", view === "dense");
  byId("view").value = view;
  storage.write("view", view);
}

function assignVerdict(card, verdict, isUndo = false) {
  const before = verdictOf(card);
  if (!isUndo) given.push(() => { assignVerdict(card, before, true); goTo(card); });
  for (const one of cardsOf(rows.get(card).image)) showVerdict(one, verdict);
  storeVerdicts();
  if (onVerdict) onVerdict(card, verdict);
}

function undo() {
  const takeBack = given.pop();
  if (takeBack) takeBack();
}

function showMessage(text) {
  byId("message").textContent = text;
  byId("message").hidden = false;
}

// ---------------------------------------------------------------- verdicts.csv

// Cells that a spreadsheet would evaluate as a formula get an apostrophe; image paths start with / or a scheme.
function cell(value) {
  const text = value === null || value === undefined ? "" : String(value);
  const safe = /^[=+\-@\t\r\n＝＋－＠]/.test(text) && typeof value === "string" ? `'${text}` : text;
  return `"${safe.replaceAll('"', '""')}"`;
}

function verdictsCsv() {
  const judged = new Map(all.filter(verdictOf).map((card) => [rows.get(card).image, card]));
  const lines = [...judged.values()].map((card) => {
    const row = { ...rows.get(card), verdict: verdictOf(card) };
    return COLUMNS.map((name) => cell(row[name])).join(",");
  });
  return [COLUMNS.join(","), ...lines].join("\r\n") + "\r\n";
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([verdictsCsv()], { type: "text/csv;charset=utf-8" }));
  link.download = "verdicts.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function parseCsv(text) {
  const table = [[]];
  let field = "", quoted = false;
  const endField = () => { table.at(-1).push(field); field = ""; };
  for (let i = 0; i < text.length; i++) {
    const char = text[i];
    if (quoted) {
      if (char !== '"') field += char;
      else if (text[i + 1] === '"') { field += char; i++; }
      else quoted = false;
    } else if (char === '"') quoted = true;
    else if (char === ",") endField();
    else if (char === "\n") { endField(); table.push([]); }
    else if (char !== "\r") field += char;
  }
  endField();
  return table.filter((row) => row.length > 1);
}

async function load(file) {
  const [names, ...lines] = parseCsv((await file.text()).replace(/^\uFEFF/, ""));
  const image = names ? names.indexOf("image") : -1, verdict = names ? names.indexOf("verdict") : -1;
  if (image < 0 || verdict < 0) { showMessage(`${file.name} has no columns image and verdict: load a verdicts.csv that was downloaded from this page.`); return; }
  const finding = names.indexOf("finding"); // verdicts on single findings are imported by crackvae review alone
  const loaded = new Map(lines.filter((line) => !line[finding] && VERDICTS.includes(line[verdict])).map((line) => [line[image], line[verdict]]));
  const found = new Map(all.filter((card) => loaded.has(rows.get(card).image)).map((card) => [rows.get(card).image, card]));
  for (const [name, card] of found) assignVerdict(card, loaded.get(name));
  showMessage(`${found.size} of ${lines.length} verdicts in ${file.name} belong to images of this page.`);
}

// ---------------------------------------------------------------- start

document.addEventListener("click", (event) => {
  const button = event.target.closest(".verdict button");
  if (!button) return;
  const card = button.closest(".card");
  assignVerdict(card, verdictOf(card) === button.dataset.verdict ? "" : button.dataset.verdict);
});

function onKeyDown(event) {
  const isCommand = event.ctrlKey || event.metaKey;
  if (event.altKey || (isCommand && event.key !== "z")) return;
  if (event.target.matches(isCommand ? "input, textarea" : "input, select, textarea")) { if (event.key === "Escape") event.target.blur(); return; }
  if (isCommand) { if (!cards) return; undo(); }
  else if (event.key === "j" || (event.key === "ArrowRight" && zoom.open)) step(1);
  else if (event.key === "k" || (event.key === "ArrowLeft" && zoom.open)) step(-1);
  else if (current && event.key === "z") { if (zoom.open) zoom.close(); else enlarge(current); }
  else if (cards && event.key === "/") byId("text").focus();
  else if (cards && event.key === "v") showView(cards.classList.contains("dense") ? "" : "dense");
  else if (cards && current && event.key in KEYS) { assignVerdict(current, KEYS[event.key]); step(1); }
  else if (cards && current && event.key === "x") assignVerdict(current, "");
  else return;
  event.preventDefault();
}

if (cards || galleries.length) document.addEventListener("keydown", onKeyDown);
if (cards) {
  const isServed = document.body.dataset.served === "yes"; // the server then knows the verdicts
  for (const [image, verdict] of isServed ? [] : Object.entries(storage.read("verdicts") || {})) {
    for (const card of cardsOf(image)) showVerdict(card, verdict);
  }
  for (const id of ["group", "state"]) byId(id).addEventListener("change", filterCards);
  byId("text").addEventListener("input", filterCards);
  byId("sort").addEventListener("change", sortCards);
  byId("download").addEventListener("click", download);
  byId("undo").addEventListener("click", undo);
  byId("load").addEventListener("change", (event) => { if (event.target.files.length) load(event.target.files[0]); event.target.value = ""; });
  byId("view").addEventListener("change", () => showView(byId("view").value));
  showView(storage.read("view") || "");
  showProgress();
  const linked = location.hash && byId(location.hash.slice(1));
  if (all.includes(linked)) goTo(linked);
}
