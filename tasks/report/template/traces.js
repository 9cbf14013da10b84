// The embedded traces: an index, which is read at once, and chunks of traces, which are unpacked on demand.
const RIGHT = 1, OUTAGE = 2, TRUNCATED = 4, CODE_ERROR = 8, HAS_CODE = 16;

class Traces {
  constructor(index) {
    this.index = index;
    this.count = index.checkpoint.length;
    this.opened = new Map(); // chunk number -> promise of its traces
    this.texts = null; // every trace's text in lower case, from the first search on
    this.positions = new Map();
    for (let row = 0; row < this.count; row++) this.positions.set(this.key(index.checkpoint[row], index.problem[row], index.sample[row]), row);
  }
  key(checkpoint, problem, sample) { return checkpoint + " " + problem + " " + sample; }
  find(checkpoint, problem, sample) { return this.positions.get(this.key(checkpoint, problem, sample)); }
  chunk(number) {
    if (!this.opened.has(number)) this.opened.set(number, Traces.open(document.getElementById("chunk-" + number).textContent));
    return this.opened.get(number);
  }
  static async open(packed) {
    const bytes = Uint8Array.from(atob(packed), (char) => char.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }
  async trace(row) {
    const size = this.index.chunk;
    return (await this.chunk(Math.floor(row / size)))[row % size];
  }
  async allTexts() {
    if (this.texts === null) {
      const chunks = await Promise.all([...Array(Math.ceil(this.count / this.index.chunk)).keys()].map((number) => this.chunk(number)));
      this.texts = chunks.flat().map((trace) => trace.text.toLowerCase());
    }
    return this.texts;
  }
  matches(row, filter) {
    const flags = this.index.flags[row], index = this.index;
    if (filter.checkpoint >= 0 && index.checkpoint[row] !== filter.checkpoint) return false;
    if (filter.problem >= 0 && index.problem[row] !== filter.problem) return false;
    if (filter.set !== "" && index.problems[index.problem[row]][0] !== filter.set) return false;
    if (filter.error && !(flags & CODE_ERROR)) return false;
    switch (filter.verdict) {
      case "right": return (flags & RIGHT) !== 0;
      case "wrong": return !(flags & RIGHT) && !(flags & OUTAGE);
      case "void": return (flags & OUTAGE) !== 0;
      case "truncated": return (flags & TRUNCATED) !== 0;
      case "code": return (flags & HAS_CODE) !== 0;
      case "text": return !(flags & HAS_CODE);
      default: return true;
    }
  }
  async filtered(filter) {
    const words = filter.words.toLowerCase();
    const texts = words ? await this.allTexts() : null;
    const rows = [];
    for (let row = 0; row < this.count; row++) {
      if (!this.matches(row, filter)) continue;
      if (words && !texts[row].includes(words) && !this.about(row).includes(words)) continue;
      rows.push(row);
    }
    return rows;
  }
  about(row) { // other text that a search covers: problem, its id and family, reason of the grade
    const [, id, problem, , family] = this.index.problems[this.index.problem[row]];
    return [id, problem, family, this.index.reasons[this.index.reason[row]]].join("\n").toLowerCase();
  }
  verdict(row) {
    const flags = this.index.flags[row];
    return flags & OUTAGE ? "void" : flags & RIGHT ? "right" : "wrong";
  }
}
