"use strict";

// Decisions on suspects, as the rows of data/corrections.csv. They are kept in the browser until
// the corrections of a later page have them. The filter and the arrow keys are those of pages/cards.js.

const earlier = JSON.parse(document.getElementById("earlier").textContent);
// Some browsers have one storage for all local files.
const storageKey = `review ${location.pathname} ${earlier.name}`;
/** @type {any[]} */
const suspects = [...document.querySelectorAll(".card")];
/** @type {any[]} */
const classOptions = [...document.querySelectorAll("#classes option")];
const classNames = new Set(classOptions.map((option) => option.value));
/** Of each decided file: {action, label}. */
const decisions = new Map(JSON.parse(stored() ?? "[]").filter(isNew));

/** Whether a stored decision is not yet among the corrections of this page. */
function isNew([file, decision]) {
  return !earlier.rows.some((row) =>
    row.data === earlier.name && row.file === file && row.action === decision.action &&
    row.label === decision.label
  );
}

/** Some browsers have no storage for local files; then decisions last as long as the page. */
function stored() {
  try {
    return localStorage.getItem(storageKey);
  } catch {
    return null;
  }
}

function store() {
  try {
    localStorage.setItem(storageKey, JSON.stringify([...decisions]));
  } catch {
    // as above
  }
}

/** A row of the corrections file, with quotes where CSV needs them. */
function csvLine(values) {
  const quoted = values.map((value) =>
    /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value
  );
  return `${quoted.join(",")}\n`;
}

/** The rows that the file had and those decided here, which win. */
function correctionsText() {
  const rows = earlier.rows.filter((row) => row.data !== earlier.name || !isDecided(row.file));
  const shown = new Set();
  for (const card of suspects) {
    const file = card.dataset.file;
    if (isDecided(file) && !shown.has(file)) {
      shown.add(file);
      const decision = decisions.get(file);
      // columns of the user's own stay
      const before = earlier.rows.find((row) => row.data === earlier.name && row.file === file);
      rows.push({ ...before, data: earlier.name, file, ...decision, note: card.dataset.kind });
    }
  }
  const lines = rows.map((row) => csvLine(earlier.columns.map((column) => row[column] ?? "")));
  return csvLine(earlier.columns) + lines.join("");
}

/** Whether there is a decision on a file of this page. */
function isDecided(file) {
  return decisions.has(file) && suspects.some((card) => card.dataset.file === file);
}

function showDecisions() {
  for (const card of suspects) {
    const decision = decisions.get(card.dataset.file);
    card.toggleAttribute("data-decided", decision !== undefined);
    for (const button of card.querySelectorAll("button")) {
      const isChosen = decision?.action === button.dataset.action;
      button.setAttribute("aria-pressed", String(isChosen));
    }
    if (decision?.action === "relabel") {
      card.querySelector("input").value = decision.label;
    }
  }
  const files = [...new Set(suspects.map((card) => card.dataset.file))];
  const decided = files.filter((file) => decisions.has(file));
  document.getElementById("decided").textContent =
    `${decided.length} of ${files.length} images decided`;
  /** @type {any} */ (document.getElementById("text")).value = correctionsText();
}

function decide(card, action) {
  const file = card.dataset.file;
  const input = card.querySelector("input");
  if (decisions.get(file)?.action === action) {
    decisions.delete(file);
  } else if (action !== "relabel") {
    decisions.set(file, { action, label: "" });
  } else if (classNames.has(input.value)) {
    decisions.set(file, { action, label: input.value });
  } else {
    input.setCustomValidity("Write one of the classes.");
    input.reportValidity();
    return;
  }
  store();
  showDecisions();
}

function decideByKey(event) {
  const action = { k: "keep", r: "relabel", d: "drop" }[event.key.toLowerCase()];
  const withModifier = event.altKey || event.ctrlKey || event.metaKey;
  if (action !== undefined && !withModifier && suspects.includes(event.target)) {
    event.preventDefault();
    decide(event.target, action);
  }
}

/** Another class in the field changes what was decided. */
function changeLabel(card, input) {
  input.setCustomValidity("");
  const decision = decisions.get(card.dataset.file);
  if (decision?.action === "relabel" && classNames.has(input.value)) {
    decision.label = input.value;
    store();
    showDecisions();
  }
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([correctionsText()], { type: "text/csv" }));
  link.download = "corrections.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}

/** The text in the bar makes it high: images that are moved to stay above it. */
function measureBar() {
  const height = document.querySelector("footer").offsetHeight;
  document.documentElement.style.setProperty("--bar", `${height}px`);
}

for (const card of suspects) {
  const input = card.querySelector("input");
  input.addEventListener("input", () => changeLabel(card, input));
  for (const button of card.querySelectorAll("button")) {
    button.addEventListener("click", () => decide(card, button.dataset.action));
  }
}
document.addEventListener("keydown", decideByKey);
document.getElementById("save").addEventListener("click", save);
new ResizeObserver(measureBar).observe(document.querySelector("footer"));
store();
showDecisions();
