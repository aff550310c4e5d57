// Without this script the page works too: it only searches while a title is typed, applies choices at once, and keeps the
// focus where it was.
"use strict";
const form = document.getElementById("state");
const search = document.getElementById("q");
const KEPT = "explorer-kept";
const DELAY = 150; // milliseconds without a key, before a search
document.documentElement.classList.add("script");

let timer = 0;
let latest = 0;
search.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(async () => {
    const number = ++latest;
    const answer = await fetch("/matches?" + new URLSearchParams({ q: search.value }));
    if (answer.ok && number === latest) {
      document.getElementById("matches").innerHTML = await answer.text();
    }
  }, DELAY);
});

for (const id of ["k", "seen"]) {
  document.getElementById(id).addEventListener("change", () => form.requestSubmit(document.getElementById("apply")));
}

// A choice loads the page again: the focus and the scroll position stay.
document.addEventListener("submit", () => {
  const kept = { focus: document.activeElement.id, scroll: window.scrollY };
  sessionStorage.setItem(KEPT, JSON.stringify(kept));
});
const kept = JSON.parse(sessionStorage.getItem(KEPT) || "null");
sessionStorage.removeItem(KEPT);
if (kept) {
  const isMatch = kept.focus.startsWith("match-");
  const target = document.getElementById(isMatch ? "q" : kept.focus) || document.getElementById("results");
  target.focus({ preventScroll: true });
  window.scrollTo(0, kept.scroll);
  // Screen readers announce a status only when it changes.
  const summary = document.getElementById("summary");
  const text = summary.textContent;
  summary.textContent = "";
  setTimeout(() => { summary.textContent = text; }, 100);
}
