"use strict";
const content = JSON.parse(document.getElementById("content").textContent);
const by = id => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);  // strings become text, never markup
  return node;
}

function draw(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const nameOf = number => number < 0 ? "\u2013" : (content.names[number] ?? String(number));
// As dynalens.text.percent: halfway between two numbers it is the even one, where toFixed takes the larger one.
function percent(value, digits = 0) {
  const hundredfold = 100 * Number(value.toFixed(10)), text = hundredfold.toFixed(digits);
  const isHalfway = hundredfold * 2 ** (digits + 1) % 2 === 1;
  return `${isHalfway && text.at(-1) % 2 ? (hundredfold - 1e-9).toFixed(digits) : text} %`;
}
// An estimated probability, never rounded to certainty.
const estimate = value => value > .99 ? ">99 %" : value < .01 ? "<1 %" : percent(value);
const plural = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

// What a person entered, by sample id. The browser's storage keeps it where it may; each change reads what is stored
// first, so that two tabs of the same page lose nothing of each other.
class Kept {
  constructor(key) {
    this.key = key;
    this.map = new Map();
    this.isOpen = this.isStored = false;
  }
  // Chromium sometimes gives the page of a file an empty storage for as long as it is open, if the page asks for it, or
  // for its events, before the first frame: then nothing that was stored is seen, and nothing new is stored.
  // What a key entered in that frame, when nobody had seen what is stored, replaces none of it.
  async open(changed) {
    await new Promise(requestAnimationFrame);
    const entered = this.map;
    this.isOpen = true;
    this.read();
    this.isStored = this.canStore();
    for (const [id, value] of entered) if (!this.has(id)) this.set(id, value);
    addEventListener("storage", event => {
      if (event.key === this.key && this.isStored) { this.read(); changed(); }
    });
  }
  // Tried with another key: what is stored must not be replaced.
  canStore() {
    const probe = `${this.key}:probe`;
    try {
      localStorage.setItem(probe, "");
      localStorage.removeItem(probe);
      return true;
    } catch (error) { return false; }
  }
  read() {
    try { this.map = new Map(JSON.parse(localStorage.getItem(this.key) || "[]")); }
    catch (error) { /* some windows do not allow it: then it lives as long as the page */ }
  }
  write() {
    if (!this.isOpen) return;
    try {
      localStorage.setItem(this.key, JSON.stringify([...this.map]));
      this.isStored = true;
    } catch (error) { this.isStored = false; }  // full: what is stored is older than what this page has
    this.written?.();
  }
  set(id, value) {
    if (this.isStored) this.read();
    value ? this.map.set(id, value) : this.map.delete(id);
    this.write();
  }
  forget(ids) {
    if (this.isStored) this.read();
    for (const id of ids) this.map.delete(id);
    this.write();
  }
  get(id) { return this.map.get(id); }
  has(id) { return this.map.has(id); }
}

// CSV as RFC 4180 has it. A text that a spreadsheet would take for a formula gets an apostrophe, which is taken off again.
function csvOf(rows) {
  const cell = value => {
    let text = String(value);
    if (typeof value === "string" && /^'*[=+\-@\t\r]/.test(text)) text = "'" + text;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map(row => row.map(cell).join(",")).join("\n") + "\n";
}

function csvRows(file) {
  const text = file.replace(/\r\n?/g, "\n"), lines = [], header = text.split("\n", 1)[0], number = sign => header.split(sign).length;
  const separator = [",", ";", "\t"].reduce((best, sign) => number(sign) > number(best) ? sign : best);  // spreadsheets differ
  let row = [], cell = "", quoted = false;
  const endCell = () => { row.push(cell); cell = ""; };
  const endRow = () => { endCell(); if (row.length > 1 || row[0] !== "") lines.push(row); row = []; };
  for (let i = 0; i < text.length; i++) {
    const letter = text[i];
    if (quoted && letter === '"' && text[i + 1] === '"') { cell += '"'; i++; }
    else if (letter === '"' && (quoted || cell === "")) quoted = !quoted;
    else if (quoted) cell += letter;
    else if (letter === separator) endCell();
    else if (letter === "\n") endRow();
    else cell += letter;
  }
  if (cell !== "" || row.length) endRow();
  const names = (lines.shift() || []).map(name => name.replace(/^\ufeff/, "").trim().toLowerCase());
  const plain = value => (value ?? "").replace(/^'(?='*[=+\-@\t\r])/, "");
  return lines.map(line => Object.fromEntries(names.map((name, i) => [name, plain(line[i])])));
}

function download(name, text) {
  const link = make("a", { download: name });
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// Where nothing can be stored, as in the preview of a notebook server, downloads may be blocked as well. There the file's text can be copied.
function offerCopy(kept, word, name, text) {
  const copy = make("textarea", { readonly: "", rows: 4, "aria-label": name });
  by("unstored").append(
    make("p", {}, `The browser does not store your ${word}s: they are lost when you reload the page, and the download may be ` +
      `blocked. Open the page in a tab of its own, or copy this text into ${name} before you leave.`), copy);
  kept.written = () => {
    by("unstored").hidden = kept.isStored;
    copy.value = kept.isStored ? "" : text();
  };
  kept.written();
}

// A cell without blanks, and a number as it is written without a fraction: pandas and spreadsheets write 2 as 2.0 or 2,0.
const whole = (cell = "") => cell.trim().replace(/^(\d+)(\.0+|,0)$/, "$1");
// The class that a cell names by its number or its name; a number is never taken for a name. NaN if there is none.
function classIn(cell) {
  const text = whole(cell), number = /^\d+$/.test(text) ? Number(text) : content.names.indexOf(text);
  return number in content.names ? number : NaN;
}

// The card of a row of a file: that of the row's name, wherever the sample stands now. A name that several samples have is no guide.
function cardFinder() {
  const cardOf = new Map(content.cards.map(card => [card.id, card])), named = new Map();
  for (const card of content.cards) if (card.name) named.set(card.name, named.has(card.name) ? null : card);
  const fits = row => card => card && (!row.name || !card.name || row.name === card.name);
  return row => [cardOf.get(row.sample_id) ?? cardOf.get(whole(row.sample_id)), named.get(row.name)].find(fits(row));
}

// Takes from a chosen CSV file the rows of this page's cards whose label is that of the card, if `take` returns true. Rows in which
// nothing is entered are left out. A sample's second row is refused.
function readRows(input, word, take, done) {
  const cardOf = cardFinder();
  input.addEventListener("change", async () => {
    const [file] = input.files;
    const rows = file ? csvRows(await file.text()).filter(row => row[word]?.trim() !== "") : [];
    input.value = "";
    if (!file) return;
    const taken = new Set();
    const accepted = rows.filter(row => {
      const card = cardOf(row);
      const label = card?.labels ?? card?.label;
      const given = row.label && whole(row.label), forms = [undefined, "", String(label), content.names[label]];
      const fits = card && !taken.has(card) && (forms.includes(row.label) || Number(given) === label) && take(row, card);
      return fits && taken.add(card);
    }).length;
    const refused = rows.length - accepted;
    done(`${plural(accepted, word)} read${refused ? `, ${plural(refused, "row")} did not fit this page` : ""}.`);
  });
}

// Forgets what was entered on this page. What is kept of other pages of the same run, as of an earlier round, is not shown here.
function forgetOnClick(button, kept, word, done) {
  button.addEventListener("click", () => {
    const ids = content.cards.map(card => card.id).filter(id => kept.has(id));
    if (!ids.length || !confirm(`Forget all ${plural(ids.length, word)}?`)) return;
    kept.forget(ids);
    done();
  });
}

// Whether a key belongs to the field that has the focus. A key that is held down counts once: nobody looked at what it would
// answer next, and its letters are not meant for a field that it opened.
function isOfField(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return true;
  const isHeld = event.repeat && /^\w$/.test(event.key);
  if (isHeld) event.preventDefault();
  return isHeld || event.target.closest("input:not([type=file]), select, textarea") !== null;
}

// The list of classes, and the options in it whose name has these letters; the others are hidden.
function listClasses(select) {
  content.names.forEach((name, number) => select.append(make("option", { value: number }, name)));
  by("search").addEventListener("keydown", event => { if (event.key === "ArrowDown") select.focus(); });
}
function classesWith(letters, select) {
  const options = [...select.options];
  for (const option of options) option.hidden = !option.textContent.toLowerCase().includes(letters.toLowerCase());
  return options.filter(option => !option.hidden);
}

// A sample as a person sees it: its picture, else its text or row.
function seen(sample, alt) {
  // The browser smooths small pictures: the edges of large pixels would hide what they show.
  if (sample.picture) return make("img", { src: sample.picture, alt });
  const text = sample.text || "no picture or text";
  return make("div", { class: "item" }, text.replaceAll(": ", ":\u00a0"));  // a line ends between columns, not within one
}

// The file's own name first, with its end, in so many letters: long paths, and names of a camera, often differ there only.
// A name without an ending, such as a sentence, is cut by its line.
function fileName(path, letters = 26) {
  const cut = Math.max(path.lastIndexOf("/"), path.lastIndexOf("\\"));
  const name = path.slice(cut + 1), end = Math.ceil(0.6 * letters);
  const short = name.length > letters && /\.\w+$/.test(name) ? `${name.slice(0, letters - end - 1)}\u2026${name.slice(-end)}` : name;
  return cut < 0 ? short : `${short} \u2013 ${path.slice(0, cut)}`;
}

// p(given label) over the epochs, with both axes said; of a regression another quantity.
function sparkline(trace, epochs, quantity = ["p(given label)", "Probability of the given label, from 0 to 1"]) {
  const svg = draw("svg", { viewBox: "0 0 200 54", role: "img" });
  const x = i => trace.length > 1 ? 14 + 182 * i / (trace.length - 1) : 105;
  const y = p => 39 - 0.33 * p;
  for (const [p, text] of [[100, "1"], [0, "0"]])
    svg.append(draw("line", { class: "frame", x1: 12, x2: 198, y1: y(p), y2: y(p) }), draw("text", { x: 3, y: y(p) + 4 }, text));
  let points = [];
  const flush = () => {
    if (points.length === 1) points.push([points[0][0] + 2, points[0][1]]);
    if (points.length) svg.append(draw("polyline", { class: "curve", points: points.map(each => each.join(",")).join(" ") }));
    points = [];
  };
  trace.forEach((p, i) => p === null ? flush() : points.push([x(i), y(p)]));
  flush();
  svg.append(
    draw("text", { x: 14, y: 51 }, `epoch ${epochs[0]}`),
    draw("text", { x: 105, y: 51, "text-anchor": "middle" }, quantity[0]),
    draw("text", { x: 197, y: 51, "text-anchor": "end" }, `epoch ${epochs[1]}`),
    draw("title", {}, `${quantity[1]}, over the epochs of training`));
  return svg;
}
