"use strict";
// Asks for the figures once a second, and for a picture when it is another one.
const shown = { last: "", last_flagged: "" };
const images = { last: "picture", last_flagged: "map" };
const units = { latency_ms: " ms", latency_max_ms: " ms", memory_mb: " MB" };

function put(id, text) {
  document.getElementById(id).textContent = text;
}

function show(state) {
  document.title = `${state.flagged} flagged – crackvae live`;
  put("source", state.source);
  put("state", state.state);
  document.getElementById("state").className = /^(receiving|waiting|connecting)/.test(state.state) ? "" : "problem";
  for (const name of ["per_s", "latency_ms", "latency_max_ms", "received", "scored", "flagged", "dropped", "passed_over", "reconnects", "memory_mb"]) {
    put(name, state[name] === null ? "–" : `${state[name]}${units[name] || ""}`);
  }
  for (const name of ["last", "last_flagged"]) {
    if (state[name] && state[name] !== shown[name]) {
      shown[name] = state[name];
      const score = name === "last_flagged" ? `, score ${state.last_flagged_score}` : "";
      put(name, state[name].split("/").pop() + score);
      const image = document.getElementById(images[name]);
      image.src = `${images[name]}?${encodeURIComponent(state[name])}`;
      image.hidden = false;
    }
  }
}

async function ask() {
  try {
    show(await (await fetch("state")).json());
  } catch {
    put("state", "crackvae live has ended, or does not answer");
    document.getElementById("state").className = "problem";
  }
  setTimeout(ask, 1000);
}

ask();
