// The charts. Bokeh draws them; until it is there, and if it never is, the words and the table do without.

const charts = {};
const map = { a: Math.max(0, answers.findIndex((words) => words.length)), start: 0 };
const model = (chart, name) => charts[chart].get_model_by_name(name);

/** At first, where there is room for it: the riskiest word, rather one that differs or is marked. */
function lookAtOne() {
  if (NARROW.matches || looked) return;
  let best = null;
  answers.forEach((words, a) => words.forEach((word, t) => {
    const pointed = word.classList.contains("marked") || word.parentNode.classList.contains("unlike");
    const weight = (DATA.answers[a].risk[t] || 0) + (pointed ? 2 : 0);
    if (best === null || weight > best.weight) best = { a, t, weight };
  }));
  if (best) show(best.a, best.t);
}

async function drawCharts() {
  if (!answers.some((words) => words.length)) return ready();
  for (const [name, item] of Object.entries(JSON.parse(get("charts").textContent))) {
    await Bokeh.embed.embed_item(item, name);
    charts[name] = Bokeh.documents.at(-1);
    passOver(get(name));
  }
  mapControls();
  lookAtOne();
  paint();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  ready();
}

/** Tab goes past a chart: what it shows is in the words and in the tables. */
function passOver(root) {
  for (const element of root.querySelectorAll("*")) {
    if (element.tabIndex === 0) element.tabIndex = -1;
    if (element.shadowRoot) passOver(element.shadowRoot);
  }
}

function ready() {
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
}

/** Light or dark, as the page is. */
function paint() {
  const ink = colour("--ink"), quiet = colour("--quiet"), first = colour("--first"), second = colour("--second");
  for (const chart of Object.keys(charts)) {
    for (const side of ["below", "left"]) {
      Object.assign(model(chart, `${chart}-${side}`), { axis_label_text_color: quiet, major_label_text_color: quiet, major_tick_line_color: quiet });
    }
    if (chart === "map") continue;
    Object.assign(model(chart, `${chart}-watched`), { fill_color: quiet, fill_alpha: 0.13 });
    for (const span of ["critical", "before"]) model(chart, `${chart}-${span}`).line_color = ink;
  }
  for (const [kind, paint_] of [["word", first], ["rival", second]]) {
    model("prob", `${kind}-line`).glyph.line_color = paint_;
    Object.assign(model("prob", `${kind}-dots`).glyph, { fill_color: paint_, line_color: paint_ });
  }
  model("map", "map-bar").major_label_text_color = quiet;
  model("map", "map-chosen").line_color = ink;
  for (const end of ["low", "high"]) model("map", `map-watched-${end}`).line_color = quiet;
  Object.assign(model("map", "skipped-marks").glyph, { line_color: ink });
  model("map", "map-colours").palette = palette(matchMedia("(prefers-color-scheme: dark)").matches);
  drawMap(true);
  if (looked) drawWord(DATA.answers[looked.a], looked.t);
}

/** From the paper's colour to the strongest, by the square root of the value; one hue, even in lightness. */
function palette(dark) {
  const stops = dark ? [[22, 22, 24], [18, 58, 99], [44, 116, 171], [132, 190, 224], [226, 242, 250]]
    : [[255, 255, 255], [198, 219, 239], [107, 174, 214], [33, 113, 181], [8, 40, 90]];
  return Array.from({ length: 256 }, (_, i) => {
    const place = Math.sqrt(i / 255) * (stops.length - 1), low = Math.min(Math.floor(place), stops.length - 2);
    return "#" + stops[low].map((from, c) => Math.round(from + (place - low) * (stops[low + 1][c] - from)).toString(16).padStart(2, "0")).join("");
  });
}

const ticks = (last, most) => {
  const step = Math.max(1, Math.ceil(last / most));
  return Array.from({ length: Math.floor(last / step) + 1 }, (_, i) => i * step);
};

function drawWord(answer, t) {
  if (!charts.js) return;
  const { depth } = answer, js = [...answer.js.subarray(t * depth, (t + 1) * depth)];
  const mutated = new Set(answer.mutated[t]), skipped = new Set(answer.skipped[t]);
  get("js-name").textContent = `Change by block${answer.measure.unit ? `, ${answer.measure.unit}` : ""}`;
  const key = [];
  if (mutated.size) key.push("▨ mutated");
  if (skipped.size) key.push("▩ left out");
  get("js-key").textContent = key.join("  ");
  model("js", "js-bars").data = {
    x: js.map((_, i) => i + 0.5),
    v: js.map((value) => (Number.isFinite(value) ? value : 0)),
    fill: js.map((_, i) => colour(mutated.has(i) || skipped.has(i) ? "--second" : "--first")),
    hatch: js.map((_, i) => (skipped.has(i) ? "cross" : mutated.has(i) ? "right_diagonal_line" : "blank")),
  };
  const labels = ticks(depth - 1, 11);
  model("js", "js-ticks").ticks = labels.map((block) => block + 0.5);
  model("js", "js-below").major_label_overrides = new Map(labels.map((block) => [block + 0.5, String(block)]));
  model("js", "js-y").end = Math.max(0.05, 1.08 * Math.max(0, ...js.filter(Number.isFinite)));
  model("prob", "prob-ticks").ticks = ticks(depth, 11);
  for (const chart of ["js", "prob"]) {
    Object.assign(model(chart, `${chart}-x`), { start: -0.5, end: depth + 0.5 });
    Object.assign(model(chart, `${chart}-watched`), { left: answer.watched[0], right: answer.watched[1] });
    Object.assign(model(chart, `${chart}-critical`), { location: answer.critical[t], visible: answer.critical[t] < depth });
    Object.assign(model(chart, `${chart}-before`), { location: answer.pre_mutation[t], visible: Boolean(answer.fired[t]) });
  }
  if (answer.prob) drawProbabilities(answer, t);
}

function drawProbabilities(answer, t) {
  const { depth, top } = answer, from = t * (depth + 1), readouts = Array.from({ length: depth + 1 }, (_, j) => j);
  model("prob", "prob-word").data = { x: readouts, v: readouts.map((j) => answer.prob[from + j]) };
  const rival = rivalOf(answer, t);
  const of_rival = (j) => {
    for (let i = (from + j) * top; i < (from + j + 1) * top; i++) if (answer.top_ids[i] === rival) return answer.top_probs[i];
    return NaN; // further down than was recorded
  };
  model("prob", "prob-rival").data = { x: readouts, v: readouts.map((j) => (rival === null ? NaN : of_rival(j))) };
  const parts = [made("span", { className: "line" }), " ", made("bdi", {}, quoted(called(answer, t))), " "];
  if (rival !== null) parts.push(made("span", { className: "line rival" }), " ", made("bdi", {}, quoted(DATA.names[rival])), " ");
  if (answer.critical[t] < depth) parts.push(made("span", { className: "line critical" }), " critical ");
  if (answer.fired[t]) parts.push(made("span", { className: "line before" }), " before mutation");
  get("prob-key").replaceChildren(...parts);
}

/** The other word that comes nearest to being said from the watched blocks on. */
function rivalOf(answer, t) {
  const { depth, top, top_ids: ids, top_probs: probs } = answer;
  let best = null;
  for (let i = (t * (depth + 1) + answer.watched[0]) * top; i < (t + 1) * (depth + 1) * top; i++) {
    if (ids[i] !== answer.words[t] && (best === null || probs[i] > probs[best])) best = i;
  }
  return best === null ? null : ids[best];
}
