"use strict";
// A conversation with the model that this server serves. Everything a model wrote goes in as text, never as HTML.

const at = (id) => document.getElementById(id);
const messages = [];
let model = "";
let running = null; // the AbortController of the answer that is being written

function add(parent, kind, name, text = "") {
  const made = parent.appendChild(document.createElement(kind));
  made.className = name;
  made.textContent = text;
  return made;
}

function headers() {
  const key = at("key").value;
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function refusal(response) {
  const body = await response.json().catch(() => null);
  if (response.status === 401) at("key-label").hidden = false;
  return body?.error?.message ?? `the server answers ${response.status}`;
}

async function findModel() {
  const response = await fetch("v1/models", { headers: headers() });
  if (!response.ok) throw new Error(await refusal(response));
  model = (await response.json()).data[0].id;
  at("model").textContent = model;
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
    if ((delta.interpreter ?? []).some((call) => call.status !== "running")) return; // shown as an output
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
  const turn = add(at("conversation"), "article", "");
  add(turn, "div", "question", question);
  const answer = new Answer(turn);
  const seed = at("seed").value;
  running = new AbortController();
  busy(true);
  try {
    if (!model) await findModel();
    const asked = { model, messages: [...messages, { role: "user", content: question }], stream: true };
    const response = await fetch("v1/chat/completions", {
      method: "POST",
      headers: headers(),
      signal: running.signal,
      body: JSON.stringify({ ...asked, interpreter: "text", ...(seed ? { seed: Number(seed) } : {}) }),
    });
    if (!response.ok) throw new Error(await refusal(response));
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      const [choice] = event.choices;
      answer.take(choice.delta);
      if (choice.finish_reason === "length") add(turn, "div", "failed", "cut off at the largest length");
      if (choice.delta.answer) {
        add(add(turn, "div", "answer", "answer: "), "b", "", choice.delta.answer);
      }
    }
    messages.push({ role: "user", content: question }, { role: "assistant", content: answer.text });
  } catch (error) {
    add(turn, "div", "failed", error.name === "AbortError" ? "stopped" : error.message);
  } finally {
    running = null;
    busy(false);
  }
}

function busy(is) {
  at("send").disabled = is;
  at("stop").disabled = !is;
  at("state").textContent = is ? "answering" : "";
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = at("question").value.trim();
  if (!question || running) return;
  at("question").value = "";
  ask(question);
});
at("stop").addEventListener("click", () => running?.abort());
at("clear").addEventListener("click", () => {
  running?.abort();
  messages.length = 0;
  at("conversation").replaceChildren();
});
at("key").addEventListener("change", () => findModel().catch(() => {}));
findModel().catch(() => {});
