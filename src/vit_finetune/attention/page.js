"use strict";

// The page of attention. `data` is what page.py wrote: a token is a number, first the prefix tokens,
// then the patches row by row.

const data = JSON.parse(byId("data").textContent);
const [rows, columns] = data.grid;
const [blocks, heads, tokens] = data.shape;
const prefix = data.prefix.length;
const methods = new Map(data.methods.map((method) => [method.name, method]));
const headNames = data.meanHeads ? ["mean"] : ["mean", "max", ...range(heads)];

// inferno, as in the still pictures: safe for colour-blind eyes, lighter where the value is larger
const PALETTE = [
  [0, 0, 4],
  [27, 12, 65],
  [74, 12, 107],
  [120, 28, 109],
  [165, 44, 96],
  [207, 68, 70],
  [237, 105, 37],
  [251, 155, 6],
  [247, 209, 61],
  [252, 255, 164],
];
// of a contrast of two classes, as in the still pictures
const FOR = "#ffdf3f";
const AGAINST = "#3f7fff";
const THUMBNAIL_SCALE = 8; // pixels of a patch
const NO_IMAGE = "#808080"; // bars that were added to the image

const state = {
  image: data.start[0],
  view: data.start[1], // "attention" or the name of a method
  block: blocks - 1,
  head: "mean", // one of headNames
  incoming: false, // whether the chosen token is looked at, instead of looking
  category: 0, // the class of the maps
  against: null, // the class that `category` is compared with
  cursor: prefix > 0 ? 0 : patchToken(Math.floor(rows / 2), Math.floor(columns / 2)),
  held: null, // the token that a click holds; else the chosen token is the cursor
};
let pointed = false; // whether a patch was pointed at

// Of the open image:
let record; // its entry in data.images
let attention; // { levels, scale } of its matrices, unpacked
let maps; // its maps by method, unpacked
let grid; // left, top, width and height of the patches as fractions of the stage
let real; // of each patch, whether it lies on the image and not on bars that were added to it
let shown; // the values that are drawn, see attentionRow and mapRow

// ---- small helpers

/** @returns {any} */
function byId(id) {
  return document.getElementById(id);
}

/** All elements of a selector.
 * @returns {any[]} */
function allOf(selector) {
  return [...document.querySelectorAll(selector)];
}

/** The integers from 0 to count - 1. */
function range(count) {
  return [...Array(count).keys()];
}

function largest(values) {
  return Math.max(...values);
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

/** A new element; children are elements or texts.
 * @returns {any} */
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** base64 of zlib -> Uint8Array */
async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// ---- tokens

function isAttention() {
  return state.view === "attention";
}

function chosenToken() {
  return state.held ?? state.cursor;
}

function patchToken(row, column) {
  return prefix + row * columns + column;
}

/** Row and column of a patch's token. */
function placeOf(token) {
  const patch = token - prefix;
  return [Math.floor(patch / columns), patch % columns];
}

function tokenName(token) {
  if (token < prefix) {
    return data.prefix[token];
  }
  return `patch (${placeOf(token).join(", ")})`;
}

// ---- values

/** The attention of a token (query) to another (key), and the step of its quantisation. */
function attentionAt(block, head, query, key) {
  const row = (block * heads + head) * tokens + query;
  const level = attention.levels[row * tokens + key];
  // 256 levels on the square root of the row's range
  const unit = attention.scale[row] / 65025;
  return { value: unit * level * level, step: unit * (2 * level + 1) };
}

/** The same between the chosen token and another, in the chosen direction. */
function attentionBetween(block, head, chosen, other) {
  if (state.incoming) {
    return attentionAt(block, head, other, chosen);
  }
  return attentionAt(block, head, chosen, other);
}

/** Of values of all patches, those on the image. */
function onImage(values) {
  return values.filter((_, patch) => real[patch]);
}

/** What is drawn brightest: all but the top 3 % of the patches, so that a few sinks do not dim all
 * others. */
function brightest(values) {
  const sorted = Float32Array.from(onImage(values)).sort();
  return sorted[Math.floor(0.97 * (sorted.length - 1))];
}

/** What is drawn of the matrices: what the chosen token attends to, or what attends to it.
 *
 * `values` and `steps` hold a number for each token. The scale goes from `low` to `high`; `top` is
 * drawn brightest. `signed` is true of a contrast of two classes. */
function attentionRow() {
  const chosen = chosenToken();
  const usedHeads = typeof state.head === "number" ? [state.head] : range(heads);
  const fuse = state.head === "max" ? largest : mean;
  const values = [];
  const steps = [];
  for (let other = 0; other < tokens; other++) {
    const perHead = usedHeads.map((head) => attentionBetween(state.block, head, chosen, other));
    values.push(fuse(perHead.map(({ value }) => value)));
    steps.push(fuse(perHead.map(({ step }) => step)));
  }
  const patches = values.slice(prefix);
  return {
    values,
    steps,
    low: 0,
    high: largest(onImage(patches)),
    top: brightest(patches),
    signed: false,
  };
}

/** How the contrast of the chosen class and another is stored: its place among those of the
 * predicted class, and its sign; null where none is stored. */
function storedContrast(one, other) {
  const { predicted, rivals } = record;
  if (one === predicted && rivals.includes(other)) {
    return { place: rivals.indexOf(other), sign: 1 };
  }
  if (other === predicted && rivals.includes(one)) {
    return { place: rivals.indexOf(one), sign: -1 };
  }
  return null;
}

/** What is drawn of a method, as of attentionRow: its map of the chosen class, or what speaks for
 * that class rather than for another. Prefix tokens have no value in it. */
function mapRow(view) {
  if (state.against !== null && maps[view].against !== null) {
    return contrastRow(maps[view].against);
  }
  const map = maps[view];
  const { values, step } = mapValues(map, map.low.length > 1 ? state.category : 0);
  if (methods.get(view).signed) {
    return signedRow(values, step);
  }
  const patches = onImage(values);
  return {
    ...tokenRow(values, step),
    low: Math.min(...patches),
    high: largest(patches),
    top: brightest(values),
    signed: false,
  };
}

function contrastRow(contrasts) {
  const { place, sign } = storedContrast(state.category, state.against);
  const { values, step } = mapValues(contrasts, place);
  return signedRow(values.map((value) => sign * value), step);
}

/** What is drawn of values that speak for a class above 0, and against it below. */
function signedRow(values, step) {
  const sizes = values.map(Math.abs);
  const high = largest(onImage(sizes));
  return {
    ...tokenRow(values, step),
    low: -high,
    high,
    top: brightest(sizes),
    signed: true,
  };
}

/** The patches of one of the maps that are packed together, and the step of its quantisation. */
function mapValues(map, index) {
  const size = rows * columns;
  const low = map.low[index];
  const step = (map.high[index] - low) / 255;
  const levels = [...map.levels.subarray(index * size, (index + 1) * size)];
  return { values: levels.map((level) => low + step * level), step };
}

function tokenRow(patches, step) {
  return {
    values: [...Array(prefix).fill(NaN), ...patches],
    steps: Array(tokens).fill(step),
  };
}

// ---- words and colours

function percent(fraction) {
  return `${(100 * fraction).toFixed(1)}\u00a0%`; // does not wrap
}

function formatNumber(x, digits = 3) {
  if (x === 0) {
    return "0";
  }
  if (Math.abs(x) < 1e-3) {
    return x.toExponential(digits - 2);
  }
  return x.toPrecision(digits);
}

/** A value as a fraction of the way from the lowest, of a contrast from 0, to what is drawn
 * brightest. */
function brightness(value, { low, high, top, signed }) {
  const start = signed ? 0 : low;
  const size = signed ? Math.abs(value) : value;
  const end = top > start ? top : high;
  return end > start ? clamp((size - start) / (end - start), 0, 1) : 0;
}

/** How much black covers a patch: less than in proportion, so that the object stays recognisable. */
function dimming(fraction) {
  return 1 - Math.sqrt(fraction);
}

/** Red, green and blue of a fraction of the way through the palette. */
function paletteColour(fraction) {
  const position = fraction * (PALETTE.length - 1);
  const index = Math.min(Math.floor(position), PALETTE.length - 2);
  const below = PALETTE[index];
  const above = PALETTE[index + 1];
  return below.map((channel, i) => channel + (position - index) * (above[i] - channel));
}

// ---- the stage: image and grid in the smallest rectangle that holds both

function layOutStage() {
  const [width, height] = record.size;
  const [left, top, right, bottom] = data.box;
  const x = Math.min(0, left);
  const y = Math.min(0, top);
  const across = Math.max(width, right) - x;
  const down = Math.max(height, bottom) - y;
  grid = {
    left: (left - x) / across,
    top: (top - y) / down,
    width: (right - left) / across,
    height: (bottom - top) / down,
  };
  byId("main").style.setProperty("--shape", across / down);
  byId("stage").style.aspectRatio = `${across} / ${down}`;
  Object.assign(byId("image").style, {
    left: `${-100 * x / across}%`,
    top: `${-100 * y / down}%`,
    width: `${100 * width / across}%`,
    height: `${100 * height / down}%`,
  });
}

/** Of each patch, whether its centre lies on the image. */
function findRealPatches() {
  if (record.content === null) {
    return Array(rows * columns).fill(true);
  }
  const [left, top, right, bottom] = data.box;
  const [contentTop, contentLeft, contentBottom, contentRight] = record.content;
  return range(rows * columns).map((patch) => {
    const [row, column] = placeOf(prefix + patch);
    const x = left + (column + 0.5) / columns * (right - left);
    const y = top + (row + 0.5) / rows * (bottom - top);
    return x > contentLeft && x < contentRight && y > contentTop && y < contentBottom;
  });
}

/** The token of the patch under a pointer event, or null outside the grid. */
function patchAt(event) {
  const area = byId("stage").getBoundingClientRect();
  const x = ((event.clientX - area.left) / area.width - grid.left) / grid.width;
  const y = ((event.clientY - area.top) / area.height - grid.top) / grid.height;
  const column = Math.floor(x * columns);
  const row = Math.floor(y * rows);
  const inside = row >= 0 && row < rows && column >= 0 && column < columns;
  return inside ? patchToken(row, column) : null;
}

// ---- drawing

/** The image keeps its colours, and what is low is dimmed; of a contrast, what is high takes the
 * colour of its class. `boxOf` gives left, top, width and height of a patch's token. */
function drawSpotlight(context, row, boxOf, strength) {
  function fill(token, colour, alpha) {
    context.fillStyle = colour;
    context.globalAlpha = alpha;
    context.fillRect(...boxOf(token));
  }
  for (let token = prefix; token < tokens; token++) {
    const value = row.values[token];
    if (!real[token - prefix]) {
      fill(token, NO_IMAGE, 1);
      continue;
    }
    const fraction = brightness(value, row);
    fill(token, "#000", strength * dimming(fraction));
    if (row.signed) {
      fill(token, value > 0 ? FOR : AGAINST, 0.6 * strength * fraction);
    }
  }
  context.globalAlpha = 1;
}

function drawRing(context, box, dash) {
  function stroke(colour, width, lineDash) {
    context.strokeStyle = colour;
    context.lineWidth = width * devicePixelRatio;
    context.setLineDash(lineDash.map((length) => length * devicePixelRatio));
    context.strokeRect(...box);
  }
  stroke("#000", 5, []);
  stroke("#fff", 2.5, dash);
}

function drawStage() {
  const canvas = byId("canvas");
  const context = canvas.getContext("2d");
  const strength = Number(byId("opacity").value);
  canvas.width = Math.round(canvas.clientWidth * devicePixelRatio);
  canvas.height = Math.round(canvas.clientHeight * devicePixelRatio);

  function xOf(column) {
    return Math.round((grid.left + column / columns * grid.width) * canvas.width);
  }
  function yOf(row) {
    return Math.round((grid.top + row / rows * grid.height) * canvas.height);
  }
  function boxOf(token) {
    const [row, column] = placeOf(token);
    const x = xOf(column);
    const y = yOf(row);
    return [x, y, xOf(column + 1) - x, yOf(row + 1) - y];
  }

  // what lies outside the patches was cut away before the model
  context.globalAlpha = 0.8 * strength;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.clearRect(xOf(0), yOf(0), xOf(columns) - xOf(0), yOf(rows) - yOf(0));
  drawSpotlight(context, shown, boxOf, strength);

  const chosen = chosenToken();
  if (isAttention() && chosen >= prefix) {
    drawRing(context, boxOf(chosen), []);
  }
  const otherPointed = pointed && (!isAttention() || state.cursor !== chosen);
  if (otherPointed && state.cursor >= prefix) {
    drawRing(context, boxOf(state.cursor), [4, 3]);
  }
}

/** The part of the image under the grid, with each method's map of the chosen class. */
function drawThumbnails() {
  const [left, top, right, bottom] = data.box;
  const width = THUMBNAIL_SCALE * columns;
  const height = THUMBNAIL_SCALE * rows;
  drawHeads(byId("heads"));
  for (const canvas of allOf("#views [data-view]")) {
    const context = canvas.getContext("2d");
    context.globalAlpha = 1;
    context.clearRect(0, 0, width, height);
    context.drawImage(byId("image"), left, top, right - left, bottom - top, 0, 0, width, height);
    drawSpotlight(context, mapRow(canvas.dataset.view), thumbnailBox, 0.8);
  }
}

function thumbnailBox(token) {
  const [row, column] = placeOf(token);
  return [column * THUMBNAIL_SCALE, row * THUMBNAIL_SCALE, THUMBNAIL_SCALE, THUMBNAIL_SCALE];
}

/** Every head of every block for the chosen token, a pixel for each patch and one between heads. */
function drawHeads(canvas) {
  canvas.width = blocks * (columns + 1) - 1;
  canvas.height = heads * (rows + 1) - 1;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  for (let block = 0; block < blocks; block++) {
    for (let head = 0; head < heads; head++) {
      paintHead(pixels, block, head);
    }
  }
  context.putImageData(pixels, 0, 0);
}

function paintHead(pixels, block, head) {
  const chosen = chosenToken();
  const left = block * (columns + 1);
  const top = head * (rows + 1);
  const patches = range(rows * columns);
  const values = patches.map((patch) =>
    attentionBetween(block, head, chosen, prefix + patch).value
  );
  const scale = { low: 0, high: largest(values), top: brightest(values), signed: false };
  for (const patch of patches) {
    const [row, column] = placeOf(prefix + patch);
    const start = 4 * ((top + row) * pixels.width + left + column);
    pixels.data.set([...paletteColour(brightness(values[patch], scale)), 255], start);
  }
}

/** What the patch under the pointer says: a line, and a softer one below it. */
function describeCursor() {
  const { values, steps } = shown;
  const cursor = state.cursor;
  const exact = `${formatNumber(values[cursor])} ± ${formatNumber(steps[cursor], 2)}`;
  if (!isAttention()) {
    const hasValue = pointed && cursor >= prefix;
    return [hasValue ? `${tokenName(cursor)}: ${exact}` : "Point at a patch", ""];
  }
  const chosen = chosenToken();
  const from = state.incoming ? cursor : chosen;
  const to = state.incoming ? chosen : cursor;
  const best = values.indexOf(largest(values));
  const timesUniform = (values[cursor] * tokens).toFixed(1);
  return [
    `${tokenName(from)} → ${from === to ? "itself" : tokenName(to)}: ${exact}`,
    `${timesUniform}× uniform; most: ${tokenName(best)} ${formatNumber(values[best])}`,
  ];
}

function drawReadout() {
  const [line, softLine] = describeCursor();
  byId("readout").replaceChildren(
    element("b", {}, line),
    element("br"),
    element("span", { className: "soft" }, softLine),
  );
}

function drawScale() {
  const { steps, low, high, signed } = shown;
  const uniform = 1 / tokens;
  const hasMark = isAttention() && uniform <= high;
  const end = 100 * brightEnd();
  byId("low").textContent = formatNumber(low);
  byId("high").textContent = formatNumber(high);
  byId("uniform").hidden = !hasMark;
  byId("uniform").style.left = `${100 * uniform / high}%`;
  byId("bar").style.background = signed
    ? `linear-gradient(90deg, ${AGAINST} ${50 - end / 2}%, #222, ${FOR} ${50 + end / 2}%)`
    : `linear-gradient(90deg, #222, #888 ${end / 4}%, #fff ${end}%)`;
  const notes = [];
  const beyond = countBeyond();
  if (beyond > 0) {
    const end = formatNumber(shown.top);
    const alike = signed ? `beyond ±${end} are drawn like it` : `above ${end} are drawn like it`;
    const patches = real.filter((isReal) => isReal).length;
    notes.push(`Values ${alike}: ${beyond} of ${patches} patches.`);
  }
  notes.push(`± is one quantisation step, here at most ${formatNumber(largest(steps), 2)}.`);
  if (hasMark) {
    notes.push(`The mark is uniform attention, ${formatNumber(uniform)}.`);
  }
  byId("step").textContent = notes.join(" ");
}

/** How many patches have a value beyond the one that is drawn brightest. */
function countBeyond() {
  const { values, top, signed, high, low } = shown;
  if (top <= (signed ? 0 : low) || top >= high) {
    return 0;
  }
  const sizes = onImage(values.slice(prefix)).map((value) => signed ? Math.abs(value) : value);
  return sizes.filter((size) => size > top).length;
}

/** The fraction of the scale at which the brightness ends: what is larger is drawn as bright. */
function brightEnd() {
  const { high, top, signed } = shown;
  const low = signed ? 0 : shown.low;
  return high > low && top > low ? (top - low) / (high - low) : 1;
}

function drawTokens() {
  const chips = [...byId("tokens").children];
  chips.forEach((chip, token) => {
    const value = shown.values[token];
    const colour = paletteColour(brightness(value, shown));
    chip.setAttribute("aria-pressed", token === chosenToken());
    chip.querySelector("i").style.background = `rgb(${colour})`;
    chip.querySelector("span").textContent = formatNumber(value);
  });
}

function describeView() {
  if (isAttention()) {
    return "Softmax weights inside one block: what a token reads from all tokens sums to 1.";
  }
  const { description, verdict } = methods.get(state.view);
  const judged = verdict === "better" ? "" : ` On this run it is ${verdictWords(verdict)}.`;
  const one = data.classes[state.category];
  if (!shown.signed) {
    return description + judged;
  }
  if (state.against === null) {
    return `Yellow speaks for ${one}, blue against it. ${description}${judged}`;
  }
  const other = data.classes[state.against];
  return `Yellow speaks for ${one} rather than ${other}, blue for ${other} rather than ${one}. ` +
    `${description}${judged}`;
}

/** What a verdict says of a map. */
function verdictWords(verdict) {
  return verdict === "not judged" ? "not judged" : `${verdict} than a centred Gaussian`;
}

/** Draw all that changes with the pointer, the block, the head and the class. */
function draw() {
  shown = isAttention() ? attentionRow() : mapRow(state.view);
  byId("caption").textContent = describeView();
  drawStage();
  drawReadout();
  drawScale();
  drawThumbnails();
  if (isAttention()) {
    drawHeads(byId("strip"));
    drawTokens();
  }
  byId("depth").textContent = `${data.blocks[state.block]} of 0–${data.depth - 1}`;
  const action = state.held === null ? "Hold" : "Let go of";
  byId("hold").textContent = `${action} ${tokenName(chosenToken())}`;
  writeAddress();
}

// ---- the address, so that a view can be sent

function writeAddress() {
  const { image, view, block, head, held, category, against } = state;
  const parts = isAttention()
    ? { image, view, block, head, token: held }
    : { image, view, class: category, against };
  const address = new URLSearchParams();
  for (const [name, value] of Object.entries(parts)) {
    if (value !== null) {
      address.set(name, String(value));
    }
  }
  history.replaceState(null, "", `#${address}`);
}

/** Set the state that the address asks for, as far as this page has it; return the class and the
 * one that it is compared with, null if the address names no class. */
function readAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));

  /** The number of that name, if it is below `count`, else `otherwise`. */
  function numberOf(name, count, otherwise) {
    const text = asked.get(name);
    return /^\d+$/.test(text) && Number(text) < count ? Number(text) : otherwise;
  }

  state.image = numberOf("image", data.images.length, state.image);
  state.block = numberOf("block", blocks, state.block);
  if (headNames.includes(asked.get("head"))) {
    state.head = asked.get("head");
  } else if (!data.meanHeads) {
    state.head = numberOf("head", heads, state.head);
  }
  state.held = numberOf("token", tokens, state.held);
  const views = ["attention", ...methods.keys()];
  if (views.includes(asked.get("view"))) {
    state.view = asked.get("view");
  }
  const category = numberOf("class", data.classes.length, null);
  const against = numberOf("against", data.classes.length, null);
  return category === null ? null : { category, against };
}

// ---- what is open

/** Whether the view has a map for each class. */
function knowsClass() {
  return !isAttention() && maps[state.view].low.length > 1;
}

/** The classes, the most probable first. */
function rankedClasses() {
  const { probabilities } = record;
  return range(probabilities.length).sort((a, b) => probabilities[b] - probabilities[a]);
}

/** Offer the classes with which the chosen one can be compared. */
function offerRivals() {
  const rivals = rankedClasses().filter((k) => storedContrast(state.category, k) !== null);
  if (!rivals.includes(state.against)) {
    state.against = null;
  }
  byId("against").replaceChildren(
    element("option", { value: "" }, "nothing else"),
    ...rivals.map((k) => element("option", { value: k }, data.classes[k])),
  );
  byId("against").value = state.against ?? "";
  byId("asked").textContent = data.classes[state.category];
  const offered = knowsClass() && rivals.length > 0 && maps[state.view].against !== null;
  byId("rival").hidden = !offered;
}

/** Show all that changes with the view; then the rest. */
function openView(view) {
  state.view = view;
  for (const part of allOf(".attention")) {
    part.hidden = !isAttention();
  }
  byId("classes").disabled = !knowsClass();
  byId("classes").querySelector("legend").textContent = knowsClass()
    ? "Class whose evidence the map shows, and its probability"
    : "Probability; this view is the same for every class";
  offerRivals();
  draw();
  scrollToChosen("gallery");
  scrollToChosen("views");
}

/** On a narrow screen, scroll a row of choices to the chosen one. */
function scrollToChosen(id) {
  const label = byId(id).querySelector(":checked").parentElement;
  const row = label.parentElement;
  const margin = (row.clientWidth - label.offsetWidth) / 2;
  row.scrollLeft = label.offsetLeft - row.offsetLeft - margin;
}

async function unpackMap(map) {
  if (map === null) {
    return null;
  }
  return { low: map.low, high: map.high, levels: await unpack(map.levels) };
}

/** All maps of an image, by method. */
async function unpackMaps(packed) {
  const unpacked = {};
  for (const [method, map] of Object.entries(packed)) {
    unpacked[method] = { ...await unpackMap(map), against: await unpackMap(map.against) };
  }
  return unpacked;
}

async function unpackAttention(image) {
  const upperHalves = new Uint16Array((await unpack(image.scale)).buffer);
  // bfloat16 is the upper half of float32
  const bits = Uint32Array.from(upperHalves, (half) => half << 16);
  return { levels: await unpack(image.levels), scale: new Float32Array(bits.buffer) };
}

/** What is asked first of an image: why the predicted class, and not the true one or, where that is
 * the same, the next most probable. */
function firstQuestion({ predicted, label, rivals }) {
  if (predicted !== label && rivals.includes(label)) {
    return { category: predicted, against: label };
  }
  return { category: predicted, against: rivals[0] ?? null };
}

async function openImage(index, question = null) {
  state.image = index;
  const next = data.images[index];
  const nextAttention = await unpackAttention(next);
  const nextMaps = await unpackMaps(next.maps);
  if (state.image !== index) {
    return; // another image was asked for meanwhile
  }
  record = next;
  attention = nextAttention;
  maps = nextMaps;
  Object.assign(state, question ?? firstQuestion(record));
  describeImage();
  // it fails when another image is opened meanwhile
  await byId("image").decode().catch(() => {});
  if (state.image !== index) {
    return;
  }
  real = findRealPatches();
  layOutStage();
  openView(state.view);
}

/** ✓ or ✗ and a word, in its colour. */
function verdictMark(image, word) {
  if (image.label === image.predicted) {
    return element("span", { className: "right" }, `✓ ${word}`);
  }
  return element("span", { className: "wrong" }, `✗ ${word}`);
}

function describeImage() {
  const { label, predicted, probabilities, png, file } = record;
  const text = byId("verdict").querySelector("p");
  text.replaceChildren(
    verdictMark(record, label === predicted ? "right" : "wrong"),
    element("br"),
    "predicted ",
    element("b", {}, data.classes[predicted]),
    ` ${percent(probabilities[predicted])}`,
    element("br"),
    "true ",
    element("b", {}, data.classes[label]),
    ` ${percent(probabilities[label])}`,
    element("br"),
    element("small", { className: "soft" }, file),
  );
  byId("image").src = png;
  byId("plain").src = png;
  byId("plain").alt = `The image: ${data.classes[label]}`;
  offerChoices("classes", rankedClasses().map(classChoice), state.category, openClass);
}

function classChoice(k) {
  const roles = [];
  if (k === record.predicted) {
    roles.push("predicted");
  }
  if (k === record.label) {
    roles.push("true");
  }
  const role = element("small", { className: "soft" }, roles.join(", "));
  const bar = element("i");
  bar.style.width = `${100 * record.probabilities[k]}%`;
  return {
    value: k,
    content: [
      element("span", {}, `${data.classes[k]} `, role),
      element("span", { className: "track" }, bar),
      element("span", {}, percent(record.probabilities[k])),
    ],
  };
}

// ---- controls

/** One radio button for each option, { value, content of its label }; `open` gets the value. */
function offerChoices(id, options, chosen, open) {
  const labels = options.map(({ value, content }) => {
    const input = element("input", { type: "radio", name: id, value, checked: value === chosen });
    input.onchange = () => open(value);
    return element("label", {}, input, ...content);
  });
  byId(id).querySelector("div").replaceChildren(...labels);
}

/** Show the choice of a value without opening it. */
function showChoice(id, value) {
  const [input] = allOf(`[name=${id}][value="${value}"]`);
  input.checked = true;
}

function openClass(k) {
  state.category = k;
  offerRivals();
  draw();
}

function openRival(text) {
  state.against = text === "" ? null : Number(text);
  draw();
}

function openBlock(block) {
  state.block = block;
  draw();
}

function openHead(head) {
  state.head = head;
  draw();
}

function openDirection(incoming) {
  state.incoming = incoming;
  draw();
}

/** Move the cursor to a token; null, outside the grid, moves nothing. */
function pointAt(token) {
  if (token === null || (token === state.cursor && pointed)) {
    return;
  }
  state.cursor = token;
  pointed = true;
  draw();
}

/** Hold a token, or let go of it. */
function toggleHold(token) {
  if (token === null) {
    return;
  }
  state.held = state.held === token ? null : token;
  draw();
}

function moveByKey(event) {
  const steps = {
    ArrowUp: [-1, 0],
    ArrowDown: [1, 0],
    ArrowLeft: [0, -1],
    ArrowRight: [0, 1],
  };
  const step = steps[event.key];
  if (step !== undefined) {
    pointAt(tokenBeside(state.cursor, step));
  } else if (event.key === "Enter" || event.key === " ") {
    toggleHold(state.cursor);
  } else {
    return;
  }
  event.preventDefault();
}

/** The patch a step away, at the edge the same; of a prefix token, the first patch. */
function tokenBeside(token, [down, right]) {
  if (token < prefix) {
    return patchToken(0, 0);
  }
  const [row, column] = placeOf(token);
  return patchToken(clamp(row + down, 0, rows - 1), clamp(column + right, 0, columns - 1));
}

/** Open the block and the head under a click on the strip. */
function openHeadAt(event) {
  const area = byId("strip").getBoundingClientRect();
  const across = Math.floor((event.clientX - area.left) / area.width * blocks);
  const down = Math.floor((event.clientY - area.top) / area.height * heads);
  const head = data.meanHeads ? "mean" : Math.min(down, heads - 1);
  showBlockAndHead(Math.min(across, blocks - 1), head);
  draw();
}

function showBlockAndHead(block, head) {
  state.block = block;
  state.head = head;
  byId("block").value = block;
  showChoice("head", head);
}

function listen() {
  const stage = byId("stage");
  stage.onpointermove = (event) => pointAt(patchAt(event));
  stage.onpointerdown = (event) => pointAt(patchAt(event));
  stage.onclick = (event) => toggleHold(patchAt(event));
  stage.onkeydown = moveByKey;
  document.onkeydown = (event) => {
    if (event.key === "Escape") {
      toggleHold(state.held);
    }
  };
  byId("hold").onclick = () => toggleHold(chosenToken());
  byId("opacity").oninput = drawStage;
  byId("against").onchange = (event) => openRival(event.target.value);
  byId("block").oninput = (event) => openBlock(Number(event.target.value));
  byId("strip").onclick = openHeadAt;
  const resized = new ResizeObserver(() => {
    if (shown !== undefined) {
      drawStage();
    }
  });
  resized.observe(stage);
}

function galleryChoice(image, index) {
  const thumbnail = element("img", { src: image.png, alt: "" });
  return { value: index, content: [thumbnail, verdictMark(image, data.classes[image.predicted])] };
}

function methodChoice({ name, verdict }) {
  const canvas = element("canvas", {
    width: THUMBNAIL_SCALE * columns,
    height: THUMBNAIL_SCALE * rows,
  });
  canvas.dataset.view = name;
  const mark = element("small", {}, verdict === "better" ? "" : verdict);
  return { value: name, content: [canvas, name, mark] };
}

function matricesChoice() {
  const canvas = element("canvas", { id: "heads" });
  return { value: "attention", content: [canvas, "every block and head", element("small")] };
}

/** A button for a token that is not a patch. */
function tokenChip(name, token) {
  const chip = element("button", {}, element("i"), name, element("span"));
  chip.onclick = () => toggleHold(token);
  chip.onpointerenter = () => pointAt(token);
  chip.onfocus = () => pointAt(token);
  return chip;
}

function buildControls() {
  byId("block").max = blocks - 1;
  byId("block").value = state.block;
  const views = [...data.methods.map(methodChoice), matricesChoice()];
  const directions = [
    { value: false, content: ["attends to …"] },
    { value: true, content: ["is attended by …"] },
  ];
  const headChoices = headNames.map((head) => ({ value: head, content: [`${head}`] }));
  offerChoices("gallery", data.images.map(galleryChoice), state.image, (index) => openImage(index));
  offerChoices("views", views, state.view, openView);
  offerChoices("direction", directions, false, openDirection);
  offerChoices("head", headChoices, state.head, openHead);
  byId("tokens").append(...data.prefix.map(tokenChip));
}

const question = readAddress();
buildControls();
listen();
// for the console and for tests
globalThis.viewer = {
  state,
  ready: openImage(state.image, question),
  async select(image, block, head) {
    showBlockAndHead(block, head);
    showChoice("gallery", image);
    await openImage(image);
  },
};
