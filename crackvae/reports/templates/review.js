// What `crackvae review` adds to the page of a night: every verdict is sent to the server as it is given, and kept in
// this browser until the server has answered that it is stored. Names and texts are only ever set as text.

const SEND_AGAIN_MS = 2000, ASK_MS = 3000;
const token = new URLSearchParams(location.search).get("token") || "";
const night = document.body.dataset.page.split("/")[0];
const reviewerField = byId("reviewer");
let standing = [], version = -1, sending = false, problem = "", serial = 0;

function ask(path, options = {}) {
  return fetch(path, { ...options, cache: "no-store", headers: { ...options.headers, "X-Crackvae-Token": token } });
}

// ---------------------------------------------------------------- verdicts that the server has not stored yet

const WAITING = `${prefix}/waiting/`;
const inMemory = new Map(); // the same, where the browser denies storage

function waiting() {
  const found = new Map(inMemory);
  try {
    for (const name of Object.keys(localStorage)) {
      if (name.startsWith(WAITING)) found.set(name.slice(WAITING.length), JSON.parse(localStorage.getItem(name)));
    }
  } catch { /* denied */ }
  return [...found.values()].sort((a, b) => a.at - b.at || a.serial - b.serial);
}

function remember(one) {
  inMemory.set(one.body.key, one);
  storage.write(`waiting/${one.body.key}`, one);
}

function forget(one) {
  inMemory.delete(one.body.key);
  try { localStorage.removeItem(`${WAITING}${one.body.key}`); } catch { /* denied */ }
}

function newKey() { // crypto.randomUUID() exists on https and on loopback only
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function give(image, finding, verdict) { // on a finding, or with finding "" on the whole image
  const body = { key: newKey(), reviewer: reviewerName(), run: night, image, finding, verdict };
  remember({ at: Date.now(), serial: serial++, body });
  showTeam(waiting().length);
  send();
}

const subjectOf = (one) => JSON.stringify([one.image, one.finding]);
const findings = new Map([...document.querySelectorAll("select[data-subject]")].map((select) => [select, JSON.parse(select.dataset.subject)]));

onVerdict = (card, verdict) => give(rows.get(card).image, "", verdict);
document.addEventListener("change", (event) => {
  const select = event.target, subject = findings.get(select), before = select.dataset.own || "";
  if (!subject) return;
  select.dataset.own = select.value;
  given.push(() => { give(subject.image, subject.finding, before); showStanding(); select.scrollIntoView({ block: "nearest" }); });
  give(subject.image, subject.finding, select.value);
});

async function send() {
  if (sending) return;
  sending = true;
  try {
    for (let next = waiting()[0]; next; next = waiting()[0]) {
      const answer = await ask("verdicts", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(next.body),
      });
      if (answer.ok) {
        const stored = await answer.json();
        standing = standing.filter((one) => subjectOf(one) !== subjectOf(stored) || one.reviewer !== stored.reviewer);
        if (stored.verdict) standing.push(stored);
      } else if (answer.status === 400 || answer.status === 404) showMessage(`Not saved: ${await answer.text()}`);
      else throw new Error(await answer.text());
      forget(next);
      problem = "";
    }
  } catch (error) {
    problem = error instanceof TypeError ? "the server does not answer" : error.message;
    setTimeout(send, SEND_AGAIN_MS);
  } finally {
    sending = false;
    showStanding();
  }
}

// ---------------------------------------------------------------- verdicts of everybody

function reviewerName() { return reviewerField.value.trim() || "unknown"; }

const inWords = (verdicts) => verdicts.map((one) => `${one.reviewer}: ${one.verdict}`).join(" · ");

function showStanding() {
  const own = new Map(), others = new Map(), left = waiting(), me = reviewerName();
  for (const one of standing) {
    const subject = subjectOf(one);
    if (one.reviewer === me) own.set(subject, one.verdict);
    else others.set(subject, [...(others.get(subject) || []), one]);
  }
  for (const { body } of left) if (body.reviewer === me) own.set(subjectOf(body), body.verdict);
  const disputed = new Map(); // by image, what is said of it or of findings on which reviewers disagree
  for (const [subject, their] of others) {
    const verdicts = own.get(subject) ? [...their, { reviewer: me, verdict: own.get(subject) }] : their;
    // As for the exports: unsure is no opinion, and sound and joint agree that it is no crack.
    const isCrack = new Set(verdicts.filter((one) => one.verdict !== "unsure").map((one) => one.verdict === "crack"));
    const [image, finding] = JSON.parse(subject);
    if (isCrack.size > 1) disputed.set(image, [...(disputed.get(image) || []), ...(finding ? [`finding ${finding}: ${inWords(verdicts)}`] : [])]);
  }
  for (const [select, one] of findings) {
    select.value = select.dataset.own = own.get(subjectOf(one)) || "";
    select.title = inWords(others.get(subjectOf(one)) || []);
  }
  for (const card of all) {
    const { image } = rows.get(card), subject = subjectOf({ image, finding: "" });
    const verdict = own.get(subject) || "", their = others.get(subject) || [];
    showVerdict(card, verdict);
    const line = card.querySelector(".others");
    line.textContent = [...(their.length ? [inWords(their)] : []), ...(disputed.get(image) || [])].join("; ");
    line.hidden = !line.textContent;
    card.classList.toggle("disagreement", disputed.has(image));
    card.dataset.judged = their.length || verdict ? "yes" : "no";
  }
  showTeam(left.length);
  showProgress();
}

function showTeam(n) {
  const judged = inQueue.filter((card) => card.dataset.judged === "yes").length;
  const disputed = inQueue.filter((card) => card.classList.contains("disagreement")).length;
  byId("team").textContent = `all reviewers: ${judged} of ${inQueue.length}, ${disputed} disagreement${disputed === 1 ? "" : "s"}`;
  byId("saved").textContent = n ? `${n} verdict${n === 1 ? " is" : "s are"} not saved yet${problem ? `: ${problem}` : ""}` : "all verdicts are saved";
  byId("saved").classList.toggle("waiting", n > 0);
}

filters.disagreement = (card) => card.classList.contains("disagreement");
filters.nobody = (card) => card.dataset.judged !== "yes";

async function askForVerdicts() {
  try {
    const answer = await ask(`state?run=${encodeURIComponent(night)}`);
    if (!answer.ok) throw new Error(await answer.text());
    const state = await answer.json();
    if (!reviewerField.value) reviewerField.value = storage.read("reviewer") || state.reviewer;
    showNights(state.runs);
    if (state.version !== version) {
      version = state.version;
      standing = state.verdicts;
      showStanding();
    }
  } catch (error) {
    problem = error instanceof TypeError ? "the server does not answer" : error.message;
    showTeam(waiting().length);
  }
  setTimeout(askForVerdicts, ASK_MS);
}

function showNights(runs) {
  const select = byId("night");
  if (select.options.length === runs.length) return;
  select.replaceChildren(...runs.map((one) => new Option(one.title, one.run, one.run === night, one.run === night)));
}

// ---------------------------------------------------------------- full-size pictures, on demand

async function showFullSize(card) {
  const answer = await ask(`picture?run=${encodeURIComponent(night)}&image=${encodeURIComponent(rows.get(card).image)}`);
  if (!answer.ok) { showMessage(`No picture: ${await answer.text()}`); return; }
  const picture = new Image();
  picture.className = "whole";
  picture.alt = "the whole image at full size";
  picture.src = URL.createObjectURL(await answer.blob());
  picture.addEventListener("load", () => URL.revokeObjectURL(picture.src));
  zoom.querySelector(".zoomed").replaceChildren(picture);
  if (!zoom.open) zoom.showModal();
}

document.addEventListener("keydown", (event) => {
  if (event.key !== "f" || event.ctrlKey || event.metaKey || event.altKey || !current) return;
  if (event.target.matches("input, select, textarea")) return;
  event.preventDefault();
  showFullSize(current);
});

document.addEventListener("click", (event) => { // the night in which a known place was judged, from this server
  const link = event.target.closest("a.judged");
  if (!link) return;
  event.preventDefault();
  location.assign(`?${new URLSearchParams({ token, run: link.dataset.run })}${link.hash}`);
});

// ---------------------------------------------------------------- start

if (cards) {
  reviewerField.value = storage.read("reviewer") || "";
  reviewerField.addEventListener("change", () => { storage.write("reviewer", reviewerField.value.trim()); given.length = 0; showStanding(); });
  byId("night").addEventListener("change", () => {
    const search = new URLSearchParams(location.search);
    search.set("run", byId("night").value);
    location.search = search;
  });
  askForVerdicts();
  send();
}
