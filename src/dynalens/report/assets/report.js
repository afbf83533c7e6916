const { cards } = content;
const decisions = new Kept(content.run);
const made = [];  // ids with what was decided before, for undo

for (const [term, value] of content.summary)
  by("summary").append(make("div", {}, make("dt", {}, term), make("dd", {}, value)));
by("note").textContent = content.note;
by("missing").textContent = content.missing;
for (const doubt of content.doubts) by("doubts").append(make("li", {}, doubt));
// The first charts fill one row of a usual window, so that the suspects come soon.
const FIRST_CHARTS = 3;
const charts = content.charts.map(([alt, src]) => make("img", { alt, src }));
by("charts").append(...charts.splice(0, FIRST_CHARTS));
by("more").hidden = !charts.length;
by("more").firstElementChild.textContent = `${plural(charts.length, "more chart")}: ${charts.map(image => image.alt).join(", ")}`;
by("more").lastElementChild.append(...charts);
for (const [alt, src] of content.sheets)
  by("sheets").append(make("details", {}, make("summary", {}, alt), make("img", { alt, src })));

// Round numbers from 0 to the largest one, in at most six steps.
function roundTo(largest) {
  const unit = 10 ** Math.floor(Math.log10(largest));
  const step = Math.max(1, [0.2, 0.5, 1, 2].map(part => part * unit).find(each => largest / each <= 6));
  return Array.from({ length: Math.floor(largest / step) + 1 }, (_, i) => i * step);
}

// How many of the first n labels are wrong: value and band.
function foundCurve(points) {
  const name = by("found").textContent.trim();
  const svg = draw("svg", { viewBox: "0 0 400 190", role: "img", width: "100%", "aria-label": name });
  const most = points[points.length - 1][0], highest = Math.max(...points.map(point => point[3]), 1);
  const x = n => 34 + 346 * n / most, y = wrong => 160 - 138 * wrong / highest;
  const line = column => points.map(point => `${x(point[0])},${y(point[column])}`);
  svg.append(
    draw("polygon", { class: "band", points: [...line(3), ...line(1).reverse()].join(" ") }),
    draw("polyline", { class: "middle", points: line(2).join(" ") }),
    draw("line", { class: "frame", x1: 34, x2: 380, y1: 160, y2: 160 }),
    draw("line", { class: "frame", x1: 34, x2: 34, y1: 22, y2: 160 }));
  for (const n of roundTo(most))
    svg.append(draw("text", { x: x(n), y: 172, "text-anchor": "middle" }, n.toLocaleString("en")));
  for (const wrong of roundTo(highest))
    svg.append(draw("text", { x: 30, y: y(wrong) + 3, "text-anchor": "end" }, wrong.toLocaleString("en")));
  svg.append(
    draw("text", { x: 207, y: 185, "text-anchor": "middle" }, "first n labels of the order"),
    draw("text", { x: 4, y: 10 }, "wrong labels among them"));
  return svg;
}
if (content.found.length) {
  by("found").hidden = false;
  by("found").append(foundCurve(content.found));
}

const [GIVEN, SUGGESTED] = content.words;
const isRegression = GIVEN === "target";
const LABEL = isRegression ? "target" : "label";
const CLOSENESS = ["closeness", "Closeness: 1 where the prediction equals the target, one half where it is off by the tolerance"];
by("kind").textContent = LABEL;
// One of several labels has no other class to choose, and of a token, a pixel or a number nothing can be corrected here.
const corrects = !content.several || cards.some(card => card.corrected);
const hidden = { pairs: isRegression, classes: content.several, corrections: !corrects };
for (const element of document.querySelectorAll("[data-of]")) element.hidden = hidden[element.dataset.of];
const pairOf = card => card.label + ">" + card.suggested;
const pairs = new Map();
for (const card of cards) pairs.set(pairOf(card), (pairs.get(pairOf(card)) || 0) + 1);
by("pair").append(make("option", { value: "" }, `all (${cards.length})`));
for (const [key, number] of [...pairs].sort((a, b) => b[1] - a[1])) {
  const [label, suggested] = key.split(">").map(Number);
  by("pair").append(make("option", { value: key }, `${nameOf(label)} \u2192 ${nameOf(suggested)} (${number})`));
}
listClasses(by("class"));

// Counts of each pair of classes; a cell filters. More classes than fit a window are left to the list of pairs.
const MOST_CLASSES = 30;
function matrix() {
  const classes = [...new Set(cards.flatMap(card => [card.label, card.suggested]))].filter(k => k >= 0).sort((a, b) => a - b);
  if (isRegression || classes.length > MOST_CLASSES) { by("pairs").hidden = true; return; }
  const most = Math.max(...pairs.values());
  const head = make("tr", {}, make("th", {}, "given \\ suggested"), ...classes.map(k => make("th", { scope: "col" }, nameOf(k))));
  by("matrix").append(head, ...classes.map(label => make("tr", {}, make("th", { scope: "row" }, nameOf(label)),
    ...classes.map(suggested => {
      const key = label + ">" + suggested, number = pairs.get(key);
      if (!number) return make("td");
      const text = `${plural(number, "sample")} given ${nameOf(label)}, suggested ${nameOf(suggested)}`;
      const button = make("button", { type: "button", "data-pair": key, title: text, "aria-label": text }, String(number));
      button.style.background = `color-mix(in srgb, var(--main) ${Math.round(60 * number / most)}%, transparent)`;
      button.addEventListener("click", () => { by("pair").value = by("pair").value === key ? "" : key; filter(); });
      return make("td", {}, button);
    }))));
}

// Pixels that a card needs once it is filled: a box that is empty has no height of its own.
const LINE = 19, SIMILAR = 44, SIMILAR_IN_LINE = 4;
function heightOf(card) {
  const lines = samples => samples.length && samples[0][1] ? Math.ceil(samples.length / SIMILAR_IN_LINE) : samples.length;
  const rows = similarRows(card).map(([, , samples]) => LINE + 4 + SIMILAR * lines(samples));
  return rows.reduce((sum, row) => sum + row, 336 + LINE * ((card.file ? 1 : 0) + (card.answer || []).length));
}

// An empty box for each card; it is filled when it comes near the window, and emptied when it is far away.
const described = card => `sample ${card.id}${card.unit ? ", " + card.unit : ""}, ${GIVEN} ${nameOf(card.label)}, ${SUGGESTED} ${nameOf(card.suggested)}`;
const boxes = cards.map((card, position) => {
  const box = make("article", { class: "card", "data-id": card.id, tabindex: "-1", "aria-label": described(card) });
  box.position = position;
  box.style.minHeight = heightOf(card) + "px";
  return box;
});
const near = new IntersectionObserver(entries => {
  for (const entry of entries) entry.isIntersecting ? fill(entry.target) : entry.target.replaceChildren();
}, { rootMargin: "1200px 0px" });

const KEYS = content.several ? (corrects ? "ksduv" : "kduv") : "ksrduv";
const BUTTONS = [["keep", "k"], ["suggested", "s"], ["other", "r"], ["drop", "d"]].filter(([, key]) => KEYS.includes(key));
function fill(box) {
  const card = cards[box.position];
  const picture = make("button", { type: "button", class: "picture", "aria-label": `larger view of ${described(card)}` },
    seen(card, described(card)));
  picture.addEventListener("click", () => { moveTo(box, false); enlarge(); });
  const buttons = make("div", { class: "buttons" });
  for (const [text, key] of BUTTONS) {
    const button = make("button", { type: "button", "data-key": key, "aria-label": `${text}: ${described(card)}` }, text);
    button.addEventListener("click", () => {
      moveTo(box, false);
      key === pressed(card) ? decide(null) : act(key);
    });
    buttons.append(button);
  }
  box.replaceChildren(picture, ...about(card), make("div", { class: "decided" }), buttons);
  show(box);
}

function about(card, letters) {
  return [
    make("div", { class: "names" },
      make("div", { class: "given", title: nameOf(card.label) }, `${card.unit ? card.unit + ": " : ""}${GIVEN} ${nameOf(card.label)}`),
      make("div", { class: "suggested", title: nameOf(card.suggested) }, SUGGESTED + " " + nameOf(card.suggested))),
    make("div", { class: "meta" },
      make("span", { title: `rank ${card.rank}, sample ${card.id}` }, `${card.rank}. #${card.id}`),
      make("span", { title: `probability that the ${LABEL} is wrong` }, `wrong: ${estimate(card.wrong)}`)),
    ...(card.file ? [make("div", { class: "file", title: card.file }, fileName(card.file, letters))] : []),
    ...(card.answer || []).map(line => make("div", { class: "answer", title: line }, line)),
    isRegression ? sparkline(card.trace, content.epochs, CLOSENESS) : sparkline(card.trace, content.epochs), ...looksLike(card)];
}

// What the sample looks like: a row of the given and a row of the suggested class.
function similarRows(card) {
  if (!card.similar) return [];
  return [["given", card.label, card.similar[0]], ["suggested", card.suggested, card.similar[1]]].filter(([, label]) => label >= 0);
}
function looksLike(card) {
  return similarRows(card).map(([kind, label, samples]) => make("div", { class: "similar " + kind },
    make("span", {}, samples.length ? "like " + nameOf(label) : "like no " + nameOf(label)),
    ...samples.map(([id, src, text]) => src
      ? make("img", { src, alt: `sample ${id}`, title: `#${id}` })
      : make("q", { title: `#${id}` }, text || "#" + id))));
}

function pressed(card) {
  const decision = decisions.get(card.id);
  if (!decision) return "";
  if (decision.decision !== "relabel") return decision.decision[0];
  return decision.to === card.suggested ? "s" : "r";
}

function show(box) {
  const card = cards[box.position], decision = decisions.get(card.id);
  box.classList.remove("keep", "relabel", "drop");
  if (decision) box.classList.add(decision.decision);
  const text = box.querySelector(".decided");
  if (!text) return;
  text.textContent = said(decision);
  for (const button of box.querySelectorAll(".buttons button"))
    button.setAttribute("aria-pressed", button.dataset.key === pressed(card));
}
const said = decision => !decision ? "" :
  decision.decision === "relabel" ? "relabel to " + nameOf(decision.to) : decision.decision;

let shown = [], current = null;
function count(message = "") {
  const here = cards.filter(card => decisions.has(card.id)).length;
  by("count").textContent = `${shown.length} of ${cards.length} shown, ${here} decided${message && ". " + message}`;
}
const STATES = {
  all: () => true, flagged: card => card.flagged,
  decided: card => decisions.has(card.id), undecided: card => !decisions.has(card.id) };
function filter() {
  const pair = by("pair").value, least = by("probability").value, state = STATES[by("state").value];
  shown = boxes.filter(({ position }) =>
    (!pair || pair === pairOf(cards[position])) && (least === "" || 100 * cards[position].wrong >= Number(least)) &&
    state(cards[position]));
  by("cards").replaceChildren(...shown);
  by("nothing").hidden = shown.length > 0;
  for (const button of by("matrix").querySelectorAll("button")) button.setAttribute("aria-pressed", button.dataset.pair === pair);
  moveTo(shown.includes(current) ? current : shown[0], false);
  count();
}
function moveTo(box, scroll = true) {
  if (current) current.classList.remove("current");
  current = box || null;
  if (!current) return;
  current.classList.add("current");
  // A key after a button was used belongs to the card that is marked, not to the one whose button has the focus.
  const focused = document.activeElement?.closest?.(".card");
  if (focused && focused !== current) document.activeElement.blur();
  if (scroll) current.scrollIntoView({ block: "nearest" });
  if (by("large").open) enlarge();
}
// A card that is scrolled to stays below the bar, however many lines the bar has.
function leaveRoomForBar() {
  const isSticky = getComputedStyle(by("bar")).position === "sticky";
  document.documentElement.style.scrollPaddingTop = isSticky ? `${by("bar").offsetHeight}px` : "";
}
new ResizeObserver(leaveRoomForBar).observe(by("bar"));
addEventListener("resize", leaveRoomForBar);  // in low windows the bar is not sticky
function step(offset) {
  if (!shown.length) return;
  const position = shown.indexOf(current) + offset;
  moveTo(shown[Math.max(0, Math.min(shown.length - 1, position))]);
}
function columns() {
  const top = shown.length ? shown[0].offsetTop : 0;
  const second = shown.findIndex(box => box.offsetTop !== top);
  return second < 0 ? shown.length : second;
}
function decide(decision) {
  const id = cards[current.position].id;
  made.push([id, decisions.get(id)]);
  decisions.set(id, decision);
  show(current);
  count();
  if (decision) step(1);
}
function undo() {
  const last = made.pop();
  if (!last) return count("Nothing to undo.");
  const [id, before] = last;
  decisions.set(id, before);
  const box = boxes.find(each => cards[each.position].id === id);
  show(box);
  count();
  if (shown.includes(box)) moveTo(box);
}
function act(key) {
  if (key === "u") return undo();
  if (!current) return;
  const card = cards[current.position];
  if (key === "k") decide({ decision: "keep" });
  else if (key === "d") decide({ decision: "drop" });
  else if (key === "s" && corrects && card.suggested >= 0) decide({ decision: "relabel", to: card.suggested });
  else if (key === "r" && !content.several) choose(card);
  else if (key === "v") by("large").open ? by("large").close() : enlarge();
}
function enlarge() {
  const card = cards[current.position], decision = said(decisions.get(card.id));
  const close = make("button", { type: "button" }, "Close");
  close.addEventListener("click", () => by("large").close());
  by("large").replaceChildren(
    make("figure", {}, seen(card, described(card))), ...about(card, 80),
    make("p", { class: "status" }, decision ? "decided: " + decision : "not decided"), close);
  if (!by("large").open) by("large").showModal();
}
function choose(card) {
  by("which").textContent = "#" + card.id;
  by("search").value = "";
  search();
  by("class").value = String(card.suggested >= 0 ? card.suggested : card.label);
  by("choose").showModal();
  by("search").focus();
}
function search() {
  const [first] = classesWith(by("search").value, by("class"));
  if (first && (by("class").selectedIndex < 0 || by("class").selectedOptions[0].hidden)) first.selected = true;
}
by("search").addEventListener("input", search);
// At once, not on the dialog's "close", which comes later: the next key would be taken for this card.
function relabel() {
  const option = by("class").selectedOptions[0];
  if (!option || option.hidden) return;  // no class has these letters
  by("choose").close();
  decide({ decision: "relabel", to: Number(option.value) });
}
by("class").addEventListener("dblclick", relabel);
by("choose").addEventListener("submit", event => {
  event.preventDefault();
  event.submitter?.value === "cancel" ? by("choose").close() : relabel();
});

document.addEventListener("keydown", event => {
  if (isOfField(event) || by("choose").open) return;
  const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(), ArrowUp: -columns() };
  const key = event.key.toLowerCase();
  if (event.key in moves) step(moves[event.key]);
  else if (key.length === 1 && KEYS.includes(key)) act(key);
  else return;
  event.preventDefault();
});
// A key acts on the card whose button has the focus.
by("cards").addEventListener("focusin", event => {
  const box = event.target.closest(".card");
  if (box && box !== current) moveTo(box, false);
});
by("cards").addEventListener("click", event => {
  const box = event.target.closest(".card");
  if (box && !event.target.closest("button")) moveTo(box, false);
});
// The next key is meant for a card, unless the filter is set by keys alone.
by("filter").addEventListener("submit", event => { event.preventDefault(); document.activeElement.blur(); });
by("filter").addEventListener("change", ({ target }) => { if (!target.matches(":focus-visible")) target.blur(); });
for (const id of ["pair", "probability", "state"]) by(id).addEventListener("change", filter);
forgetOnClick(by("clear"), decisions, "decision", () => {
  made.length = 0;
  boxes.forEach(show);
  filter();
});

function csv() {
  const rows = [["sample_id", "label", "label_name", "decision", "new_label", "new_label_name", "name"]];
  for (const card of cards) {
    const decision = decisions.get(card.id);
    if (!decision) continue;
    const to = decision.decision !== "relabel" ? ["", ""]
      : card.corrected ? [card.corrected, card.corrected_names] : [decision.to, nameOf(decision.to)];
    const label = content.several ? card.labels ?? "" : card.label;
    rows.push([card.id, label, nameOf(card.label), decision.decision, ...to, card.name || ""]);
  }
  return csvOf(rows);
}
by("download").addEventListener("click", () => download("decisions.csv", csv()));
readRows(by("read"), "decision", (row, card) => {
  const decision = (row.decision ?? "").trim().toLowerCase();
  const to = card.corrected ? (row.new_label?.trim() === card.corrected ? card.suggested : NaN) : classIn(row.new_label);
  if (decision === "relabel" && to in content.names) decisions.set(card.id, { decision, to });
  else if (["keep", "drop"].includes(decision)) decisions.set(card.id, { decision });
  else return false;
  return true;
}, message => {
  boxes.forEach(show);
  filter();
  count(message);
});

boxes.forEach(box => near.observe(box));
matrix();
filter();
decisions.open(() => { boxes.forEach(show); count(); }).then(() => {
  offerCopy(decisions, "decision", "decisions.csv", csv);
  boxes.forEach(show);
  filter();
});
