// The map: a part of an answer at a time, as many tokens as there is room for.

/** How many tokens of the answer in the map are drawn at once: all, if they can be squeezed in. */
function room() {
  const width = get("map").clientWidth - 110, squeezed = Math.floor(width / 13);
  return answers[map.a].length <= squeezed ? squeezed : Math.max(8, Math.floor(width / 17));
}

let largest = 0;

function mapControls() {
  for (const answer of DATA.answers) for (const value of answer.js) if (Number.isFinite(value) && value > largest) largest = value;
  largest ||= 1;
  if (answers.filter((words) => words.length).length > 1) {
    DATA.answers.forEach((answer, a) => {
      if (!answers[a].length) return;
      const choice = made("input", { type: "radio", name: "map-answer", value: a, checked: a === map.a });
      choice.addEventListener("change", () => turn(a, 0));
      get("map-answers").append(made("label", {}, choice, " ", made("bdi", {}, answer.name)));
    });
  }
  get("map-back").addEventListener("click", () => turn(map.a, map.start - room()));
  get("map-on").addEventListener("click", () => turn(map.a, map.start + room()));
  addEventListener("resize", () => drawMap(true));
  addEventListener("map", ({ detail: { kind, x, y } }) => {
    const t = Math.floor(x) + map.start, block = Math.floor(y + 0.5), answer = DATA.answers[map.a];
    const inside = kind !== "mouseleave" && x >= 0 && t < Math.min(map.start + room(), answers[map.a].length) && block >= 0 && block < answer.depth;
    get("map-cell").textContent = inside ? `${quoted(called(answer, t))}, block ${block}: ${fixed(answer.js[t * answer.depth + block], 3)} ${answer.measure.unit}` : "";
    if (!inside) return;
    if (kind === "tap") pin(map.a, t);
    else look(map.a, t);
  });
}

function turn(a, start) {
  map.a = a;
  const last = Math.max(0, Math.floor((answers[a].length - 1) / room()) * room());
  map.start = Math.min(Math.max(0, start), last);
  drawMap(true, false);
}

let drawn = "";

/** Draws the part that holds the word looked at, if that has changed; always frames that word. */
function drawMap(again = false, follow = true) {
  if (!charts.map) return;
  if (follow && looked) Object.assign(map, { a: looked.a, start: looked.t });
  const n = room();
  map.start = Math.floor(map.start / n) * n;
  const key = `${map.a} ${map.start} ${n}`;
  if (again || key !== drawn) drawPart(n);
  drawn = key;
  const here = looked && looked.a === map.a && looked.t >= map.start && looked.t < map.start + n;
  const frame = model("map", "map-chosen");
  if (here) Object.assign(frame, { left: looked.t - map.start, right: looked.t - map.start + 1, top: DATA.answers[map.a].depth - 0.5, bottom: -0.5 });
  frame.visible = Boolean(here);
}

function drawPart(n) {
  const answer = DATA.answers[map.a], { depth } = answer, stop_ = Math.min(map.start + n, answers[map.a].length);
  const cells = { x: [], y: [], v: [] }, marks = { mutated: { x: [], y: [] }, skipped: { x: [], y: [] } };
  for (let t = map.start; t < stop_; t++) {
    for (let i = 0; i < depth; i++) {
      cells.x.push(t - map.start + 0.5);
      cells.y.push(i);
      cells.v.push(answer.js[t * depth + i]);
    }
    for (const kind of ["mutated", "skipped"]) {
      for (const block of answer[kind][t]) {
        marks[kind].x.push(t - map.start + 0.5);
        marks[kind].y.push(block);
      }
    }
  }
  Object.assign(model("map", "map-colours"), { low: 0, high: largest });
  Object.assign(model("map", "map-x"), { start: 0, end: Math.min(n, Math.max(answers[map.a].length, 16)) });
  Object.assign(model("map", "map-y"), { start: -0.5, end: depth - 0.5 });
  model("map", "map-cells").data = cells;
  for (const kind of ["mutated", "skipped"]) model("map", `map-${kind}`).data = marks[kind];
  const tokens = Array.from({ length: stop_ - map.start }, (_, i) => i);
  const short = (text) => (text.length > 12 ? text.slice(0, 11) + "…" : text);
  model("map", "map-ticks").ticks = tokens.map((i) => i + 0.5);
  model("map", "map-below").major_label_overrides = new Map(tokens.map((i) => [i + 0.5, short(called(answer, map.start + i))]));
  model("map", "map-watched-low").location = answer.watched[0] - 0.5;
  model("map", "map-watched-high").location = answer.watched[1] - 0.5;
  const total = answers[map.a].length, whole = total <= n;
  get("map-part").textContent = whole ? `${total} tokens` : `${map.start} to ${stop_ - 1} of ${total} tokens`;
  get("map-back").hidden = get("map-on").hidden = whole;
  get("map-back").disabled = map.start === 0;
  get("map-on").disabled = stop_ >= total;
  for (const choice of document.getElementsByName("map-answer")) choice.checked = Number(choice.value) === map.a;
}
