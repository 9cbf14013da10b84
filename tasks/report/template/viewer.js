// The trace viewer: a list that draws only visible rows, filters, one or two panes, and a heat strip for each problem.
const ROW_HEIGHT = 46;

function shortId(set, id) { return id.startsWith(set + "/") ? id.slice(set.length + 1) : id; }

class TraceList {
  constructor(traces, onChoose) {
    this.traces = traces; this.onChoose = onChoose; this.rows = []; this.chosen = -1; this.nodes = new Map();
    this.box = document.getElementById("list");
    this.space = element("div");
    this.box.append(this.space);
    this.box.addEventListener("scroll", () => this.draw(), { passive: true });
    this.box.addEventListener("click", (event) => {
      const node = event.target.closest(".row");
      if (node) this.onChoose(Number(node.dataset.row));
    });
    new ResizeObserver(() => this.draw()).observe(this.box);
  }
  show(rows) {
    this.rows = rows;
    this.space.style.height = rows.length * ROW_HEIGHT + "px";
    this.box.scrollTop = 0;
    for (const node of this.nodes.values()) node.remove();
    this.nodes.clear();
    this.draw();
  }
  draw() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW_HEIGHT) - 4);
    const last = Math.min(this.rows.length, first + Math.ceil(this.box.clientHeight / ROW_HEIGHT) + 8);
    for (const [place, node] of this.nodes) if (place < first || place >= last) { node.remove(); this.nodes.delete(place); }
    for (let place = first; place < last; place++) {
      if (this.nodes.has(place)) continue;
      const node = this.row(this.rows[place]);
      node.style.top = place * ROW_HEIGHT + "px";
      this.nodes.set(place, node);
      this.box.append(node);
    }
    for (const node of this.nodes.values()) node.classList.toggle("chosen", Number(node.dataset.row) === this.chosen);
  }
  row(row) {
    const index = this.traces.index, verdict = this.traces.verdict(row), flags = index.flags[row];
    const node = element("div", "row"), first = element("div", "first"), [set, id, problem] = index.problems[index.problem[row]];
    node.dataset.row = row;
    const left = element("span", "name");
    left.append(element("span", "mark " + verdict, MARKS[verdict] + " "), "#" + index.sample[row] + " " + shortId(set, id));
    const calls = index.calls[row] ? index.calls[row] + (flags & CODE_ERROR ? " run, error" : " run") : "text";
    first.append(left, element("span", "second", index.checkpoints[index.checkpoint[row]] + " \u00b7 " + calls + (index.tokens[row] ? " \u00b7 " + index.tokens[row] + " tok" : "")));
    left.title = id;
    node.append(first, element("div", "second", (index.predicted[row] ? "= " + index.predicted[row] + "   " : "") + problem));
    return node;
  }
  choose(row) {
    this.chosen = row;
    const place = this.rows.indexOf(row), top = place * ROW_HEIGHT;
    if (place >= 0 && (top < this.box.scrollTop || top > this.box.scrollTop + this.box.clientHeight - ROW_HEIGHT)) this.box.scrollTop = top - 60;
    this.draw();
  }
}

class Viewer {
  constructor(traces) {
    this.traces = traces;
    this.list = new TraceList(traces, (row) => this.open(row));
    this.fields = Object.fromEntries(["search", "checkpoint", "set", "verdict", "error", "problem", "beside", "heat"].map((id) => [id, document.getElementById(id)]));
    this.panes = document.getElementById("panes");
    this.current = -1; this.turn = 0;
    this.options();
    let timer = 0;
    this.fields.search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(() => this.filter(), 120); });
    for (const id of ["checkpoint", "set", "verdict", "error", "problem"]) this.fields[id].addEventListener("change", () => this.filter());
    this.fields.beside.addEventListener("change", () => this.open(this.current));
    this.fields.heat.addEventListener("change", () => this.panes.classList.toggle("heat", this.fields.heat.checked));
    document.getElementById("previous").addEventListener("click", () => this.step(-1));
    document.getElementById("next").addEventListener("click", () => this.step(1));
    document.addEventListener("keydown", (event) => {
      if (event.target.closest("input, select, textarea")) return;
      if (event.key === "j" || event.key === "k") this.step(event.key === "j" ? 1 : -1);
    });
  }
  options() {
    const index = this.traces.index, add = (id, value, text) => { const o = element("option", "", text); o.value = value; this.fields[id].append(o); };
    index.checkpoints.forEach((name, number) => { add("checkpoint", number, name); add("beside", number, "beside: " + name); });
    for (const set of new Set(index.problems.map((problem) => problem[0]))) add("set", set, set);
    index.problems.forEach(([set, id], number) => add("problem", number, set + " \u00b7 " + shortId(set, id)));
  }
  async filter() {
    const turn = ++this.turn, fields = this.fields;
    const rows = await this.traces.filtered({
      words: fields.search.value.trim(), checkpoint: Number(fields.checkpoint.value), set: fields.set.value,
      verdict: fields.verdict.value, error: fields.error.checked, problem: Number(fields.problem.value),
    });
    if (turn !== this.turn) return; // a later filter has replaced this one
    this.list.show(rows);
    document.getElementById("count").textContent = rows.length.toLocaleString("en") + " of " + this.traces.count.toLocaleString("en");
    await this.open(rows.includes(this.current) ? this.current : rows.length ? rows[0] : -1);
    document.getElementById("viewer").dataset.shown = rows.length;
  }
  async open(row) {
    this.current = row;
    this.list.choose(row);
    if (row < 0) { this.panes.replaceChildren(element("div", "pane", "")); return; }
    const index = this.traces.index, words = this.fields.search.value.trim().toLowerCase(), shown = [row];
    const beside = Number(this.fields.beside.value);
    if (beside >= 0) shown.push(this.traces.find(beside, index.problem[row], index.sample[row]));
    const panes = shown.map(() => element("article", "pane"));
    await Promise.all(panes.map((pane, number) => fillPane(pane, this.traces, shown[number], words)));
    if (this.current === row) this.panes.replaceChildren(...panes);
  }
  step(by) {
    const place = this.list.rows.indexOf(this.current) + by;
    if (place >= 0 && place < this.list.rows.length) this.open(this.list.rows[place]);
  }
  showProblem(problem, checkpoint) {
    this.fields.search.value = ""; this.fields.set.value = ""; this.fields.verdict.value = "all"; this.fields.error.checked = false;
    this.fields.problem.value = problem; this.fields.checkpoint.value = checkpoint;
    document.getElementById("traces").scrollIntoView({ behavior: "instant" });
    return this.filter();
  }
}

function drawStrips(viewer) { // one cell for each sample; a strip is drawn when it scrolls into view
  const colours = { R: "#2e9e55", W: "#d9534f", V: "#d9a514" };
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      const cells = target.dataset.cells, pen = target.getContext("2d");
      target.width = cells.length * 8; target.height = 16;
      [...cells].forEach((cell, place) => { pen.fillStyle = colours[cell]; pen.fillRect(place * 8, 0, 7, 16); });
    }
  });
  const problems = new Map(viewer ? viewer.traces.index.problems.map(([set, id], number) => [set + "\u0000" + id, number]) : []);
  for (const strip of document.querySelectorAll("canvas.strip")) {
    seen.observe(strip);
    const problem = problems.get(strip.dataset.set + "\u0000" + strip.dataset.problem);
    if (problem !== undefined) strip.addEventListener("click", () => viewer.showProblem(problem, Number(strip.dataset.checkpoint)));
  }
}

function start() {
  const index = document.getElementById("trace-index");
  const viewer = index ? new Viewer(new Traces(JSON.parse(index.textContent))) : null;
  drawStrips(viewer);
  if (viewer) viewer.filter().then(() => { document.documentElement.dataset.ready = String(Math.round(performance.now())); });
  else document.documentElement.dataset.ready = String(Math.round(performance.now()));
}
start();
