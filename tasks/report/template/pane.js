// Draw one trace. The page takes a model's text as text and never parses it as HTML.
const MARKS = { right: "\u2713", wrong: "\u2717", void: "\u25cb" };
const KINDS = ["words", "code", "output", "unrun"];
const PYTHON = /(#[^\n]*)|("""[\s\S]*?"""|'''[\s\S]*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|\b(False|None|True|and|as|assert|break|class|continue|def|del|elif|else|except|finally|for|from|if|import|in|is|lambda|not|or|pass|raise|return|try|while|with|yield|print|range|sum|len)\b|\b(\d[\d_.]*)\b/g;

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function styleRuns(trace, words) { // [start, end, class] of each highlighted piece of code and each search hit
  const runs = [];
  for (const [start, end, kind] of trace.segments) {
    if (kind !== 1 && kind !== 3) continue;
    for (const match of trace.text.slice(start, end).matchAll(PYTHON)) {
      const name = match[1] ? "co" : match[2] ? "st" : match[3] ? "kw" : "nu";
      runs.push([start + match.index, start + match.index + match[0].length, name]);
    }
  }
  if (words) {
    const lower = trace.text.toLowerCase();
    for (let at = lower.indexOf(words); at >= 0; at = lower.indexOf(words, at + words.length)) runs.push([at, at + words.length, "hit"]);
  }
  return runs;
}

function cuts(trace, runs) { // every position at which a token, segment or run begins or ends, sorted
  const places = new Set([0, trace.text.length]);
  let at = 0;
  for (const length of trace.lengths) places.add((at += length));
  for (const [start, end] of trace.segments) {
    places.add(start); places.add(end);
    if (trace.text[start] === "\n") places.add(start + 1);
  }
  for (const [start, end] of runs) { places.add(start); places.add(end); }
  return [...places].filter((place) => place <= trace.text.length).sort((one, other) => one - other);
}

function tokenAt(trace) { // the token of each character, -1 for none
  const owner = new Int32Array(trace.text.length + 1).fill(-1);
  let at = 0;
  trace.lengths.forEach((length, token) => { owner.fill(token, at, at + length); at += length; });
  return owner;
}

function writeText(trace, words) {
  const holder = element("pre", "text"), runs = styleRuns(trace, words), places = cuts(trace, runs), owner = tokenAt(trace);
  const style = new Array(trace.text.length), hit = new Uint8Array(trace.text.length);
  for (const [start, end, name] of runs) for (let at = start; at < end; at++) if (name === "hit") hit[at] = 1; else style[at] = name;
  let number = 0, afterBlock = false;
  for (const [start, end, kind, call] of trace.segments) {
    const part = element("span", "segment " + KINDS[kind]);
    if (kind === 2) part.title = "interpreter output: not written by the model, masked out of the loss";
    if (kind === 1) part.append(badge(trace.calls[call]));
    while (places[number] < start) number++;
    // Code and output are shown as blocks: a line break before or after one would look like an empty line, so hide it.
    if ((afterBlock || kind === 2) && trace.text[start] === "\n" && places[number + 1] === start + 1) {
      const node = element("span", "break", "\n");
      part.append(node);
      number++;
    }
    afterBlock = kind === 1;
    for (; places[number] < end; number++) {
      const from = places[number], to = places[number + 1], token = owner[from];
      const node = element(hit[from] ? "mark" : "span", "token " + (style[from] || ""), trace.text.slice(from, to));
      node.dataset.token = token;
      const logprob = token >= 0 ? trace.logprobs[token] : null;
      if (logprob !== null) node.style.setProperty("--surprise", Math.min(80, -logprob / 4));
      part.append(node);
    }
    holder.append(part);
  }
  return holder;
}

function badge([status, seconds]) {
  const good = status === "ok" || status === "output_cut";
  return element("span", "badge" + (good ? "" : " failed"), status.replaceAll("_", " ") + (seconds ? " \u00b7 " + seconds.toFixed(3) + " s" : ""));
}

function describeToken(trace, token) {
  if (token < 0) return "";
  const logprob = trace.logprobs[token];
  if (logprob === null) return "interpreter output (masked)";
  return "log-prob " + (logprob / 100).toFixed(2) + "   p = " + (100 * Math.exp(logprob / 100)).toFixed(1) + " %   token " + token;
}

async function fillPane(pane, traces, row, words) {
  if (row === undefined) {
    pane.replaceChildren(element("div", "head", "The report has no sample with this number of this checkpoint on this problem."));
    return;
  }
  const index = traces.index, verdict = traces.verdict(row);
  const [set, id, problem, answer] = index.problems[index.problem[row]];
  const trace = await traces.trace(row);
  const head = element("div", "head"), line = element("div"), body = element("div", "body");
  line.append(element("span", "mark " + verdict, MARKS[verdict] + " "), element("b", "", index.checkpoints[index.checkpoint[row]]),
    " \u00b7 " + set + " \u00b7 " + id + " \u00b7 sample " + index.sample[row] + " \u00b7 " + (index.tokens[row] ? index.tokens[row] + " tokens \u00b7 " : "") + "reference ",
    element("b", "", answer), ...(index.predicted[row] ? [" \u00b7 answered ", element("b", "", index.predicted[row])] : []),
    " (" + index.reasons[index.reason[row]].replaceAll("_", " ") + ")");
  head.append(line, element("div", "problem", problem));
  body.append(writeText(trace, words));
  body.addEventListener("mousemove", (event) => showTip(event, trace));
  body.addEventListener("mouseleave", hideTip);
  pane.replaceChildren(head, body);
}

function showTip(event, trace) {
  const tip = document.getElementById("tip"), token = event.target.dataset ? event.target.dataset.token : undefined;
  const text = token === undefined ? "" : describeToken(trace, Number(token));
  if (!text) return hideTip();
  tip.textContent = text;
  tip.hidden = false;
  tip.style.left = Math.min(event.clientX + 12, innerWidth - 300) + "px";
  tip.style.top = event.clientY + 16 + "px";
}

function hideTip() { document.getElementById("tip").hidden = true; }
