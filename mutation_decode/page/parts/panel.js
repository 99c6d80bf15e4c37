// The panel.

let waiting = 0;

function show(a, t) {
  if (looked) answers[looked.a][looked.t].classList.remove("looked");
  looked = { a, t };
  answers[a][t].classList.add("looked");
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(() => {
    fill(DATA.answers[a], t);
    drawWord(DATA.answers[a], t);
    drawMap();
  });
}

function fill(answer, t) {
  get("looking").classList.add("filled");
  get("looking-at").hidden = false;
  get("looking-at").dataset.answer = answer.name;
  get("looking-at").dataset.token = t;
  get("looking-free").hidden = pinned === null;
  const name = called(answer, t);
  get("looking-word").replaceChildren(made("bdi", {}, name));
  get("looking-token").replaceChildren(made("bdi", {}, answer.name), `, token ${t}, id ${DATA.ids[answer.words[t]]}`);
  const facts = told(answer, t);
  get("looking-facts").replaceChildren(...facts.flatMap(([key, value]) => [made("dt", {}, key), made("dd", { dir: "auto" }, value)]));
  if (document.activeElement !== document.body || pinned) get("told").textContent = `${name}: ${facts.slice(0, 3).map((fact) => fact.join(" ")).join(", ")}`;
  get("looking-bare").hidden = answer.prob !== null;
  get("prob").hidden = answer.prob === null;
  get("prob").previousElementSibling.hidden = answer.prob === null;
  get("levels").replaceChildren(...levels(answer, t));
}

function told(answer, t) {
  const { depth } = answer, fired = answer.fired[t], row = answer.js.subarray(t * depth, (t + 1) * depth);
  let block = null;
  for (let i = answer.watched[0]; i < answer.watched[1]; i++) if (row[i] > (block === null ? -1 : row[block])) block = i;
  const facts = [
    ["Risk", fixed(answer.risk[t], 2) + (block === null ? "" : `: ${fixed(row[block], 3)} ${answer.measure.unit} at block ${block}`)],
    ["Detector", fired ? `fired: ${blocks(answer.mutated[t])} mutated` : "did not fire"],
    ["Strategy", (answer.acted[t] ? "acted" : "did not act") + (answer.skipped[t].length ? `: ${blocks(answer.skipped[t])} left out` : "")],
  ];
  const found = [];
  if (answer.critical[t] < depth) found.push(`critical ${answer.critical[t]}`);
  if (fired) found.push(`before the mutation ${answer.pre_mutation[t]}`);
  if (found.length) facts.push(["Readouts", found.join(", ")]);
  if (answer.prob) facts.push(["Probability", `${percent(answer.prob[t * (depth + 1) + depth])}, after the strategy ${after(answer, t)}`]);
  return facts;
}

/** What generate was handed for the word that it took. */
function after(answer, t, unit) {
  const k = answer.top;
  for (let i = t * k; i < (t + 1) * k; i++) if (answer.after_ids[i] === answer.words[t]) return percent(answer.after_probs[i], unit);
  return `≤ ${percent(answer.after_probs[(t + 1) * k - 1], unit)}`; // further down than was recorded
}

/** A line for each readout, the last one first; above it what the strategy made of it. */
function levels(answer, t) {
  const { depth, top } = answer, body = made("tbody", {});
  const candidates = (ids, probs, from) => {
    const cells = [];
    for (let i = from; i < from + top; i++) {
      const cell = made("td", { dir: "auto" }, seen(DATA.names[ids[i]]), " ", made("small", { className: "quiet" }, percent(probs[i], "")));
      if (ids[i] === answer.words[t]) cell.className = "said";
      cells.push(cell);
    }
    return cells;
  };
  const line = (name, note, change, prob, cells) =>
    made("tr", { className: "level" }, made("th", { scope: "row" }, name, note ? made("small", { className: "quiet" }, " " + note) : ""),
      made("td", { className: "number" }, change), ...(answer.prob ? [made("td", { className: "number" }, prob)] : []), ...cells);
  if (answer.prob) body.append(line("after", "", "", after(answer, t, ""), candidates(answer.after_ids, answer.after_probs, t * top)));
  for (let j = depth; j >= 0; j--) {
    const at = t * (depth + 1) + j, notes = [];
    if (j === depth) notes.push("model");
    if (j === answer.critical[t] && j < depth) notes.push("critical");
    if (answer.fired[t] && j === answer.pre_mutation[t]) notes.push("before");
    if (answer.mutated[t].includes(j - 1)) notes.push("mutated");
    if (answer.skipped[t].includes(j - 1)) notes.push("skipped");
    body.append(line(String(j), notes.join(", "), j ? fixed(answer.js[t * depth + j - 1], 3) : "",
      answer.prob ? percent(answer.prob[at], "") : "", answer.top ? candidates(answer.top_ids, answer.top_probs, at * top) : []));
  }
  const heads = ["Readout", "Change"].concat(answer.prob ? ["Word, %"] : []);
  const head = made("tr", {}, ...heads.map((text, i) => made("th", { scope: "col", className: i ? "number" : "" }, text)));
  if (top) head.append(made("th", { scope: "colgroup", colSpan: top }, "Likeliest, %"));
  return [made("thead", {}, head), body];
}
