const { cards } = content;
const answers = new Kept(content.run);
let position = 0, choosing = false;

listClasses(by("class"));
by("ask").textContent = content.question.heading;
for (const element of document.querySelectorAll(".file")) element.textContent = content.file;
const firstOpen = () => cards.findIndex(card => !answers.has(card.id));
const SAID = { right: "right", wrong: "wrong", unsure: "cannot tell" };
const saidOf = ({ answer, to }) => SAID[answer] + (answer === "wrong" && to !== undefined ? `, it is ${nameOf(to)}` : "");

function show() {
  const card = cards[position], given = answers.get(card.id);
  by("picture").replaceChildren(card.tokens ? tagged(card.tokens) : seen(card, `sample ${card.id}`));
  by("legend").replaceChildren(...(card.legend ?? []).map(colourKey));
  const { beginning, end } = content.question;
  by("question").replaceChildren(beginning, make("b", { class: "given" }, labelOf(card)), end);
  for (const button of by("answers").querySelectorAll("[data-answer]"))
    button.setAttribute("aria-pressed", button.dataset.answer === given?.answer);
  const done = cards.filter(each => answers.has(each.id)).length;
  by("progress").max = cards.length;
  by("progress").value = done;
  by("count").textContent = `sample ${position + 1} of ${cards.length}, ${done} answered`;
  by("right-class").hidden = !choosing;
  by("rate").textContent = rateText();
  by("doubt").textContent = doubtText(done);
  by("last").textContent = choosing ? "" : feedback();  // the suggestion would lead the choice of a class
}

// All that was given to a sample in words, or its class.
const labelOf = card => card.given ?? (typeof card.label === "number" ? nameOf(card.label) : card.label);
// A sentence with what was given to each token above it.
function tagged(tokens) {
  return make("div", { class: "item" }, ...tokens.map(([word, tag]) => make("ruby", {}, word, make("rt", {}, tag))));
}
function colourKey([colour, name]) {
  const square = make("i");
  square.style.background = colour;
  return make("span", {}, square, name);
}

// After the answer only: what the run thinks.
function feedback() {
  const last = answers.has(cards[position].id) ? cards[position] : cards[position - 1];
  const given = last && answers.get(last.id);
  if (!given) return "";
  const which = last === cards[position] ? "This one" : "The last one";
  return `${which}, #${last.id}${last.file ? " " + fileName(last.file) : ""}${labelOf(last) ? `, given ${labelOf(last)}` : ""}: you said ` +
    `${saidOf(given)}; ${last.opinion} and estimates the probability that ${content.question.defect} at ${estimate(last.wrong)}.`;
}

// Answers in each group of strata. A stratum without an answer is taken together with the next that has one.
function strata(unsureIsWrong) {
  const { size, total, right: earlierRight, wrong: earlierWrong, unsure: earlierUnsure } = content.strata;
  const asked = size.map((_, h) => earlierRight[h] + earlierWrong[h] + earlierUnsure[h]);
  const wrong = size.map((_, h) => earlierWrong[h] + (unsureIsWrong ? earlierUnsure[h] : 0));
  for (const card of cards) {
    const given = answers.get(card.id);
    if (!given) continue;
    asked[card.stratum]++;
    if (given.answer === "wrong" || (given.answer === "unsure" && unsureIsWrong)) wrong[card.stratum]++;
  }
  const answered = asked.flatMap((number, h) => number ? [h] : []);
  const groups = answered.map(h => ({ size: 0, total: 0, asked: asked[h], wrong: wrong[h] }));
  size.forEach((number, h) => {
    const next = answered.findIndex(other => other >= h);
    const group = groups[next < 0 ? groups.length - 1 : next];
    group.size += number;
    group.total += total[h];
  });
  const list = value => groups.map(value);
  return { size: list(group => group.size), asked: list(group => group.asked), wrong: list(group => group.wrong),
           score: list(group => group.total / group.size) };
}
const earlierAnswers = sum(content.strata.right.concat(content.strata.wrong, content.strata.unsure));
function estimated() {
  if (!earlierAnswers && !cards.some(card => answers.has(card.id))) return null;
  const least = strata(false), most = strata(true);
  return [rateInterval(least)[0], (stratifiedRate(least) + stratifiedRate(most)) / 2, rateInterval(most)[1]];
}
function rateText() {
  const rate = estimated();
  if (!rate) return "";
  const [low, value, high] = rate.map(part => percent(part, 1));
  return `${content.question.rate}: ${value} (95 % interval ${low} to ${high})`;
}
// Why the rate cannot be relied on after so few answers.
const doubtText = done => content.doubts[earlierAnswers + done - 1] ?? "";

function answer(kind) {
  const card = cards[position], before = answers.get(card.id);
  answers.set(card.id, kind === "wrong" && before?.answer === "wrong" ? before : { answer: kind });
  choosing = kind === "wrong" && content.names.length > 0;
  if (choosing) { choose(card); return; }
  move(1);
}
function choose(card) {
  by("search").value = "";
  search();
  const options = [...by("class").options];
  for (const option of options) option.disabled = Number(option.value) === card.label;
  by("class").value = answers.get(card.id).to ?? "";
  show();
  by("search").focus();
  by("right-class").scrollIntoView({ block: "nearest" });
}
function search() {
  const letters = by("search").value;
  by("class").value = "";
  const first = classesWith(letters, by("class")).find(option => Number(option.value) !== cards[position].label);
  if (first && letters) first.selected = true;
}
function chosen() {
  const [option] = by("class").selectedOptions;
  if (option && !option.disabled) leave({ answer: "wrong", to: Number(option.value) });
  else if (!by("search").value) leave();  // else no class has these letters
}
function leave(given = { answer: "wrong" }) {
  answers.set(cards[position].id, given);
  document.activeElement?.blur();
  move(1);
}
function move(offset) {
  const wasChoosing = choosing;
  choosing = false;
  position = Math.max(0, Math.min(cards.length - 1, position + offset));
  show();
  if (wasChoosing) by("top").scrollIntoView({ block: "nearest" });
}

by("search").addEventListener("input", search);
by("right-class").addEventListener("submit", event => { event.preventDefault(); chosen(); });
by("class").addEventListener("dblclick", chosen);
by("open").addEventListener("click", () => leave());
by("back").addEventListener("click", () => move(-1));
by("forward").addEventListener("click", () => move(1));
for (const button of by("answers").querySelectorAll("[data-answer]"))
  button.addEventListener("click", () => { button.blur(); answer(button.dataset.answer); });

const KEYS = { y: () => answer("right"), n: () => answer("wrong"), u: () => answer("unsure"),
               arrowleft: () => move(-1), arrowright: () => move(1) };
document.addEventListener("keydown", event => {
  if (choosing && event.key === "Escape") return leave();
  if (isOfField(event)) return;
  const act = KEYS[event.key.toLowerCase()];
  if (!act) return;
  act();
  event.preventDefault();
});

const csv = () => csvOf([content.columns, ...cards
  .filter(card => answers.has(card.id))
  .map(card => {
    const given = answers.get(card.id);
    return [card.id, card.label, given.answer, given.to ?? "", ...card.rest];
  })]);
by("download").addEventListener("click", () => download(content.file, csv()));
readRows(by("read"), "answer", (row, card) => {
  const said = (row.answer ?? "").trim().toLowerCase(), newLabel = said === "wrong" && whole(row.new_label);
  // The numbers of several labels stay a text.
  const to = !newLabel ? undefined : content.names.length ? classIn(newLabel) : newLabel;
  if (!Object.hasOwn(SAID, said) || Number.isNaN(to) || to === card.label) return false;
  answers.set(card.id, to === undefined ? { answer: said } : { answer: said, to });
  return true;
}, message => {
  choosing = false;
  position = Math.max(0, firstOpen());
  by("message").textContent = message;
  show();
});
forgetOnClick(by("clear"), answers, "answer", () => move(-cards.length));

show();
answers.open(show).then(() => {
  offerCopy(answers, "answer", content.file, csv);
  position = Math.max(0, firstOpen());
  show();
});
