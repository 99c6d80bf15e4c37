"use strict";
// The script of the page: which word is looked at, and what the panel and the charts show of it.
document.documentElement.classList.add("scripted");

const DATA = JSON.parse(document.getElementById("data").textContent);
const get = (id) => document.getElementById(id);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function unpacked(text, Kind) {
  if (text === null) return null;
  return new Kind(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
}

for (const answer of DATA.answers) {
  const Number_ = answer.wide ? Uint32Array : Uint16Array;
  for (const name of ["risk", "js", "prob", "top_probs", "after_probs"]) answer[name] = unpacked(answer[name], Float32Array);
  for (const name of ["words", "top_ids", "after_ids"]) answer[name] = unpacked(answer[name], Number_);
}

// Numbers and words as text.

const fixed = (value, digits) => (Number.isNaN(value) ? "unknown" : Number.isFinite(value) ? value.toFixed(digits) : "∞");

function percent(value, unit = "\u00a0%") {
  if (Number.isNaN(value)) return "unknown";
  return (value > 0 && value < 0.0005 ? "<0.1" : (100 * value).toFixed(1)) + unit;
}

const seen = (text) => text.replace(/^ +| +$/g, (blanks) => "·".repeat(blanks.length)).replace(/\n/g, "↵").replace(/\t/g, "⇥") || "(nothing)";

const quoted = (text) => "‘" + (text.trim() || seen(text)) + "’";

/** What an answer's token is called: its text, or the name of a token that has none. */
function called(answer, token) {
  const text = answer.texts[token];
  return text.trim() || (text ? seen(text) : DATA.names[answer.words[token]]);
}

const blocks = (numbers) => `${numbers.length === 1 ? "block" : "blocks"} ${numbers.join(", ")}`;

/** An element with children; text is never read as HTML. */
function made(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const NARROW = matchMedia("(max-width: 64rem)");

// The words: one Tab stop an answer, arrow keys from word to word.

const answers = DATA.answers.map((answer, a) => [...document.querySelectorAll(`#answer-${a} .w`)]);
let looked = null; // {a, t} of the word in the panel
let pinned = null;
const stops = answers.map(() => 0);

answers.forEach((words, a) => {
  if (!words.length) return;
  const answer = DATA.answers[a], list = get(`answer-${a}`);
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-orientation", "horizontal");
  list.setAttribute("aria-label", `Answer ${answer.name}, word by word`);
  for (const box of list.querySelectorAll(".unlike")) box.setAttribute("role", "none");
  words.forEach((word, t) => {
    word.setAttribute("role", "option");
    word.setAttribute("aria-selected", "false");
    word.tabIndex = t ? -1 : 0;
    const told = [called(answer, t), `risk ${fixed(answer.risk[t], 2)}`];
    if (word.parentNode.classList.contains("unlike")) told.push("differs");
    if (word.classList.contains("marked")) told.push("marked");
    word.setAttribute("aria-label", told.join(", "));
  });
  const at = (event) => Number(event.target.closest(".w")?.id.split("-")[1] ?? -1);
  list.addEventListener("pointerover", (event) => at(event) >= 0 && event.pointerType !== "touch" && look(a, at(event)));
  list.addEventListener("focusin", (event) => at(event) >= 0 && (stop(a, at(event)), look(a, at(event))));
  list.addEventListener("click", (event) => at(event) >= 0 && pin(a, at(event)));
  list.addEventListener("keydown", (event) => {
    const t = at(event);
    if (t < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Enter" || event.key === " ") pin(a, t);
    else {
      const next = neighbour(words, t, event.key, getComputedStyle(list).direction === "rtl");
      if (next === null) return;
      words[next].focus();
    }
    event.preventDefault();
  });
});

addEventListener("keydown", (event) => event.key === "Escape" && unpin());
get("looking-free").addEventListener("click", unpin);

function neighbour(words, t, key, leftwards) {
  const on = leftwards ? "ArrowLeft" : "ArrowRight", back = leftwards ? "ArrowRight" : "ArrowLeft";
  if (key === on) return Math.min(t + 1, words.length - 1);
  if (key === back) return Math.max(t - 1, 0);
  if (key === "Home") return 0;
  if (key === "End") return words.length - 1;
  if (key !== "ArrowDown" && key !== "ArrowUp") return null;
  return onNextLine(words, t, key === "ArrowDown" ? 1 : -1);
}

/** The word above or below: of the next line that has words, the one nearest to the side. */
function onNextLine(words, t, step) {
  const from = words[t].getBoundingClientRect(), middle = (from.left + from.right) / 2;
  let best = t, nearest = Infinity, line = null;
  for (let i = t + step; i >= 0 && i < words.length; i += step) {
    const box = words[i].getBoundingClientRect();
    if (Math.abs(box.top - from.top) < from.height / 2) continue;
    line ??= box.top;
    if (Math.abs(box.top - line) > box.height / 2) break;
    const away = Math.abs((box.left + box.right) / 2 - middle);
    if (away < nearest) [nearest, best] = [away, i];
  }
  return best;
}

/** The word at which Tab enters the answer. */
function stop(a, t) {
  answers[a][stops[a]].tabIndex = -1;
  answers[a][t].tabIndex = 0;
  stops[a] = t;
}

function look(a, t) {
  if (pinned === null) show(a, t);
}

function pin(a, t) {
  if (pinned && pinned.a === a && pinned.t === t) return unpin();
  unpin();
  pinned = { a, t };
  answers[a][t].setAttribute("aria-selected", "true");
  stop(a, t);
  show(a, t);
  answers[a][t].scrollIntoView({ block: "nearest" });
}

function unpin() {
  if (pinned) answers[pinned.a][pinned.t].setAttribute("aria-selected", "false");
  pinned = null;
  get("looking-free").hidden = true;
  if (NARROW.matches) get("looking").classList.remove("filled"); // there it covers the answer
}
