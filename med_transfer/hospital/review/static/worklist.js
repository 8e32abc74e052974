// Keeps the numbers of an open list up to date, and leaves the page when the session has ended.
"use strict";

const list = document.getElementById("counts");
const changed = document.getElementById("changed");

async function look() {
  if (document.hidden) return;
  const answer = await fetch("/counts", { headers: { Accept: "application/json" } }).catch(() => null);
  if (answer && answer.status === 401) location.replace("/login");
  if (!answer || !answer.ok) return;
  const counts = await answer.json();
  counts.all = Object.values(counts).reduce((sum, number) => sum + number, 0);
  let told = "";
  for (const place of list.querySelectorAll("[data-state]")) {
    const number = String(counts[place.dataset.state] ?? "");
    if (place.textContent !== number) told = list.dataset.said;
    place.textContent = number;
  }
  if (told) changed.textContent = told;
}

setInterval(look, 15000);
