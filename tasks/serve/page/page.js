"use strict";
// Talk to the served model. The page takes a model's text as text and never parses it as HTML.

const byId = (id) => document.getElementById(id);
const messages = [];
let model = "";
let running = null; // AbortController of the answer under way

function add(parent, kind, name, text = "") {
  const node = parent.appendChild(document.createElement(kind));
  node.className = name;
  node.textContent = text;
  return node;
}

function headers() {
  const key = byId("key").value;
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function refusal(response) {
  const body = await response.json().catch(() => null);
  if (response.status === 401) byId("key-label").hidden = false;
  return body?.error?.message ?? `the server answers ${response.status}`;
}

async function findModel() {
  const response = await fetch("v1/models", { headers: headers() });
  if (!response.ok) throw new Error(await refusal(response));
  model = (await response.json()).data[0].id;
  byId("model").textContent = model;
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const whole = held.split("\n\n");
    held = whole.pop();
    for (const event of whole) {
      const data = event.replace(/^data: /, "");
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

class Answer {
  constructor(parent) {
    this.parent = parent;
    this.words = null;
    this.outputs = new Map();
    this.text = "";
  }

  take(delta) {
    for (const call of delta.interpreter ?? []) this.call(call);
    if (!delta.content) return;
    this.text += delta.content;
    if ((delta.interpreter ?? []).some((call) => call.status !== "running")) return; // `call` shows it as output
    this.words ??= add(this.parent, "span", "words");
    this.words.textContent += delta.content;
  }

  call(call) {
    const shown = this.outputs.get(call.index) ?? add(this.parent, "pre", "");
    this.outputs.set(call.index, shown);
    this.words = null;
    shown.className = { running: "running", ok: "", output_cut: "" }[call.status] ?? "error";
    shown.textContent = call.status === "running" ? "running" : call.output || "(nothing was printed)";
  }
}

async function ask(question) {
  const turn = add(byId("conversation"), "article", "");
  add(turn, "div", "question", question);
  const answer = new Answer(turn);
  const seed = byId("seed").value;
  running = new AbortController();
  setBusy(true);
  try {
    if (!model) await findModel();
    const request = { model, messages: [...messages, { role: "user", content: question }], stream: true };
    const response = await fetch("v1/chat/completions", {
      method: "POST",
      headers: headers(),
      signal: running.signal,
      body: JSON.stringify({ ...request, interpreter: "text", ...(seed ? { seed: Number(seed) } : {}) }),
    });
    if (!response.ok) throw new Error(await refusal(response));
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      const [choice] = event.choices;
      answer.take(choice.delta);
      if (choice.finish_reason === "length") add(turn, "div", "failed", "cut off at the token limit");
      if (choice.delta.answer) {
        add(add(turn, "div", "answer", "answer: "), "b", "", choice.delta.answer);
      }
    }
    messages.push({ role: "user", content: question }, { role: "assistant", content: answer.text });
  } catch (error) {
    add(turn, "div", "failed", error.name === "AbortError" ? "stopped" : error.message);
  } finally {
    running = null;
    setBusy(false);
  }
}

function setBusy(busy) {
  byId("send").disabled = busy;
  byId("stop").disabled = !busy;
  byId("state").textContent = busy ? "answering" : "";
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = byId("question").value.trim();
  if (!question || running) return;
  byId("question").value = "";
  ask(question);
});
byId("stop").addEventListener("click", () => running?.abort());
byId("clear").addEventListener("click", () => {
  running?.abort();
  messages.length = 0;
  byId("conversation").replaceChildren();
});
byId("key").addEventListener("change", () => findModel().catch(() => {}));
findModel().catch(() => {});
