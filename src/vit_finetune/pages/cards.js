"use strict";

// Cards of images (.card): a filter over their data attributes, and arrow keys from card to card.
// A control with data-filter="predicted" looks at data-predicted of every card: a select wants
// exactly its value, a search field wants its text to be part of it.

/** @type {any[]} */
const cards = [...document.querySelectorAll(".card")];
/** @type {any[]} */
const controls = [...document.querySelectorAll("[data-filter]")];

function matches(card, control) {
  const value = card.getAttribute(`data-${control.dataset.filter}`) ?? "";
  if (control.value === "") {
    return true;
  }
  if (control.tagName === "SELECT") {
    return value === control.value;
  }
  return value.toLowerCase().includes(control.value.toLowerCase());
}

function shownCards() {
  return cards.filter((card) => !card.hidden);
}

/** The Tab key reaches one card, the arrow keys the others. */
function makeReachable(chosen) {
  for (const card of cards) {
    card.tabIndex = card === chosen ? 0 : -1;
  }
}

function filterCards() {
  for (const card of cards) {
    card.hidden = !controls.every((control) => matches(card, control));
  }
  const shown = shownCards();
  document.querySelector(".filter output").textContent = `${shown.length} of ${cards.length} shown`;
  if (shown.length > 0) {
    makeReachable(shown[0]);
  }
}

/** How far a key moves in the list of shown cards, 0 for other keys. */
function distance(key, shown) {
  const columns = shown.filter((card) => card.offsetTop === shown[0].offsetTop).length;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
  return steps[key] ?? 0;
}

/** The card that a key leads to, from a card or from where nothing has the focus. */
function targetOf(event) {
  const shown = shownCards();
  if (event.target === document.body) {
    return event.key === "ArrowRight" ? shown[0] : undefined;
  }
  const place = shown.indexOf(event.target);
  const step = distance(event.key, shown);
  return place >= 0 && step !== 0 ? shown[place + step] : undefined;
}

function moveByKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) {
    return;
  }
  const target = targetOf(event);
  if (target !== undefined) {
    event.preventDefault();
    target.focus();
  }
}

for (const control of controls) {
  control.addEventListener("input", filterCards);
  control.addEventListener("change", filterCards);
}
for (const card of cards) {
  card.addEventListener("focus", () => makeReachable(card));
}
document.addEventListener("keydown", moveByKey);
filterCards();
