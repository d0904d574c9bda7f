"use strict";

// Classifies images with the model of this page, which `ort`, ONNX Runtime Web, runs. An image is
// read as `predict` reads it: Pillow's bicubic resize to the size of the training images, then the
// model's own resize, crop and normalisation. All arithmetic of the resizes is Pillow's.

/** @type {any} */
const facts = JSON.parse(byId("facts").textContent);
/** @type {any} */
const page = globalThis; // has `ort` once the runtime is loaded
const SHOWN = 3; // classes of an image
const THUMBNAIL = 256; // pixels of its longer side
const STRIP = 4_000_000; // pixels that a canvas holds at once: phones limit it
const WEIGHT_BITS = 22;
const UNIT = 2 ** WEIGHT_BITS;

// interpolation -> its kernel and how far that reaches
const KERNELS = {
  bicubic: { kernel: bicubic, reach: 2 },
  bilinear: { kernel: (x) => Math.max(1 - Math.abs(x), 0), reach: 1 },
};

/** @returns {any} */
function byId(id) {
  return document.getElementById(id);
}

// ---- resize. An image has `width`, `height`, and `read(top, count)`: rows of RGBA.

/** Keys' kernel with a = -1/2. */
function bicubic(distance) {
  const x = Math.abs(distance);
  if (x < 1) {
    return (1.5 * x - 2.5) * x * x + 1;
  }
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

/** For each of `count` target pixels: the first source pixel and the weights from there on, in
 * 2^-22. The target pixels share the source pixels from `low` to `high` of `size`. */
function resizeWeights(size, low, high, count, interpolation) {
  const { kernel, reach } = KERNELS[interpolation];
  const start = Math.fround(low);
  const scale = Math.fround(Math.fround(high) - start) / count;
  const stretch = Math.max(scale, 1); // a wider kernel where the image shrinks
  return Array.from({ length: count }, (_, index) => {
    const centre = start + (index + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - reach * stretch + 0.5), 0);
    const end = Math.min(Math.trunc(centre + reach * stretch + 0.5), size);
    const weights = [];
    for (let pixel = first; pixel < end; pixel++) {
      weights.push(kernel((pixel - centre + 0.5) * (1 / stretch)));
    }
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { first, weights: weights.map((weight) => roundHalfAway(weight / sum * UNIT)) };
  });
}

function roundHalfAway(value) {
  return Math.trunc(value + Math.sign(value) / 2);
}

/** As Python rounds. */
function roundHalfEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest === 0.5) {
    return below + below % 2;
  }
  return rest < 0.5 ? below : below + 1;
}

/** The weighted sum of pixels that lie `step` apart, from `from` on, becomes a pixel of `target`. */
function mix(source, from, step, weights, target, place) {
  let red = UNIT / 2; // so that the shift rounds
  let green = UNIT / 2;
  let blue = UNIT / 2;
  let position = from;
  for (const weight of weights) {
    red += weight * source[position];
    green += weight * source[position + 1];
    blue += weight * source[position + 2];
    position += step;
  }
  target[place] = red >> WEIGHT_BITS; // a clamped array keeps it within 0 and 255
  target[place + 1] = green >> WEIGHT_BITS;
  target[place + 2] = blue >> WEIGHT_BITS;
}

/** The part `box` of an image in another size. Which pass is first is what Pillow 13 chooses: where
 * the image shrinks much more in height than in width, the rows. */
function resize(image, box, height, width, interpolation) {
  const columns = resizeWeights(image.width, box.left, box.right, width, interpolation);
  const rows = resizeWeights(image.height, box.top, box.bottom, height, interpolation);
  if (image.height - height > Math.max(2 * (image.width - width), 0)) {
    return mixColumns(mixRows(image, rows), columns);
  }
  return mixRows(mixColumns(image, columns), rows);
}

function mixColumns(image, columns) {
  const { height } = image;
  const width = columns.length;
  const pixels = new Uint8ClampedArray(4 * width * height);
  const most = Math.max(Math.floor(STRIP / image.width), 1);
  let place = 0;
  for (let top = 0; top < height; top += most) {
    const count = Math.min(most, height - top);
    const source = image.read(top, count);
    for (let row = 0; row < count; row++) {
      for (const { first, weights } of columns) {
        mix(source, 4 * (image.width * row + first), 4, weights, pixels, place);
        place += 4;
      }
    }
  }
  return imageOf(pixels, height, width);
}

function mixRows(image, rows) {
  const { width } = image;
  const height = rows.length;
  const pixels = new Uint8ClampedArray(4 * width * height);
  let place = 0;
  for (const { first, weights } of rows) {
    const source = image.read(first, weights.length);
    for (let column = 0; column < width; column++) {
      mix(source, 4 * column, 4 * width, weights, pixels, place);
      place += 4;
    }
  }
  return imageOf(pixels, height, width);
}

function imageOf(pixels, height, width) {
  return {
    pixels,
    height,
    width,
    read: (top, count) => pixels.subarray(4 * width * top, 4 * width * (top + count)),
  };
}

function whole(image) {
  return { left: 0, top: 0, right: image.width, bottom: image.height };
}

// ---- from a file to the model's input

function decode(file) {
  return createImageBitmap(file, { colorSpaceConversion: "none" });
}

/** The image of a file, transparency over white. Only a part of it is in a canvas at a time. */
function imageOfBitmap(bitmap) {
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const { width, height } = bitmap;
  const read = (top, count) => {
    canvas.width = width;
    canvas.height = count;
    context.fillStyle = "white";
    context.fillRect(0, 0, width, count);
    context.drawImage(bitmap, 0, -top);
    return context.getImageData(0, 0, width, count).data;
  };
  return { width, height, read };
}

/** An image in the size of the training images: as Pillow's ImageOps.fit, resize or pad. */
function fitImage(image) {
  const [height, width] = facts.image_size;
  if (facts.fit === "crop") {
    return resize(image, cropBox(image, width / height), height, width, facts.fit_interpolation);
  }
  if (facts.fit === "squash") {
    return resize(image, whole(image), height, width, facts.fit_interpolation);
  }
  return padImage(image, height, width);
}

/** The largest part in the middle of an image whose width is `ratio` times its height. */
function cropBox(image, ratio) {
  const own = image.width / image.height;
  const width = own > ratio ? ratio * image.height : image.width;
  const height = own < ratio ? image.width / ratio : image.height;
  const left = (image.width - width) / 2;
  const top = (image.height - height) / 2;
  return { left, top, right: left + width, bottom: top + height };
}

/** The whole image as large as it fits in, with bars beside it. */
function padImage(image, height, width) {
  const ratio = width / height;
  const own = image.width / image.height;
  const inner = {
    width: own < ratio ? roundHalfEven(image.width / image.height * height) : width,
    height: own > ratio ? roundHalfEven(image.height / image.width * width) : height,
  };
  const left = roundHalfEven((width - inner.width) / 2);
  const top = roundHalfEven((height - inner.height) / 2);
  const pixels = new Uint8ClampedArray(4 * width * height);
  for (let place = 0; place < pixels.length; place += 4) {
    pixels.set(facts.pad_colour, place);
  }
  if (inner.width > 0 && inner.height > 0) {
    const resized = resize(image, whole(image), inner.height, inner.width, facts.fit_interpolation);
    for (let row = 0; row < inner.height; row++) {
      pixels.set(resized.read(row, 1), 4 * (width * (top + row) + left));
    }
  }
  return imageOf(pixels, height, width);
}

/** The model's input, (3, h, w), from an image in the size of the training images. */
function modelInput(image) {
  const { resize: size, interpolation, crop, divide_by, mean, std } = facts.preprocessing;
  const [top, left, height, width] = crop;
  const resized = resize(image, whole(image), size[0], size[1], interpolation);
  const input = new Float32Array(3 * height * width);
  let place = 0;
  for (let colour = 0; colour < 3; colour++) {
    for (let row = 0; row < height; row++) {
      let source = 4 * (resized.width * (top + row) + left) + colour;
      for (let column = 0; column < width; column++) {
        input[place] = (resized.pixels[source] / divide_by - mean[colour]) / std[colour];
        place += 1;
        source += 4;
      }
    }
  }
  return input;
}

// ---- the model

/** base64 of zlib -> Uint8Array */
async function unpack(id) {
  const text = atob(byId(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let index = 0; index < text.length; index++) {
    bytes[index] = text.charCodeAt(index);
  }
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** The session of ONNX Runtime that runs the model. */
async function startModel() {
  const { ort } = page;
  ort.env.wasm.numThreads = 1; // more would need headers of a server
  ort.env.wasm.wasmBinary = await unpack("wasm");
  return await ort.InferenceSession.create(await unpack("model"));
}

/** The probability of each class. */
async function classify(session, image) {
  const [height, width] = facts.preprocessing.crop.slice(2);
  const input = modelInput(fitImage(image));
  const pixels = new page.ort.Tensor("float32", input, [1, 3, height, width]);
  const { logits } = await session.run({ pixels });
  return softmax([...logits.data]);
}

function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - largest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

// ---- images that a person chooses, drops or pastes

// a module, such as the one that sets `ort`, runs just before this event
const ready = new Promise((resolve) => document.addEventListener("DOMContentLoaded", resolve));
const model = ready.then(startModel);
let chosen = 0;
let finished = 0;
let work = Promise.resolve(); // ends when everything chosen so far is classified

function showProgress() {
  const images = chosen === 1 ? "1 image" : `${chosen} images`;
  byId("status").textContent = finished < chosen
    ? `${finished} of ${images} classified …`
    : `${images} classified`;
}

/** A card for each file, above the earlier ones; they are filled one after the other. */
function add(files) {
  const cards = [...files].map((file) => {
    const card = byId("card").content.firstElementChild.cloneNode(true);
    card.querySelector("p").textContent = file.name;
    work = work.then(() => fill(card, file));
    return card;
  });
  if (cards.length > 0) {
    chosen += cards.length;
    byId("cards").prepend(...cards);
    showProgress();
  }
}

/** The picture and the most probable classes of a file, or why there are none. */
async function fill(card, file) {
  try {
    const bitmap = await decode(file);
    drawThumbnail(card.querySelector("canvas"), bitmap);
    const session = await model;
    const start = performance.now();
    const probabilities = await classify(session, imageOfBitmap(bitmap));
    performance.measure("classify", { start });
    bitmap.close();
    showClasses(card, probabilities);
  } catch (error) {
    card.querySelector("ol").textContent = `Not classified: ${error.message}`;
  }
  finished += 1;
  showProgress();
}

function drawThumbnail(canvas, bitmap) {
  const scale = Math.min(THUMBNAIL / Math.max(bitmap.width, bitmap.height), 1);
  canvas.width = Math.ceil(bitmap.width * scale);
  canvas.height = Math.ceil(bitmap.height * scale);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
}

function showClasses(card, probabilities) {
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
  const rows = order.slice(0, SHOWN).map((index) => {
    const row = byId("class").content.firstElementChild.cloneNode(true);
    const probability = probabilities[index];
    row.querySelector("span").textContent = facts.classes[index];
    row.querySelector("meter").value = probability;
    row.querySelector("data").value = probability;
    row.querySelector("data").textContent = `${(100 * probability).toFixed(1)} %`;
    return row;
  });
  card.querySelector("ol").replaceChildren(...rows);
}

function showReady() {
  if (chosen === 0) {
    byId("status").textContent = "Ready";
  }
}

function showFailure(error) {
  byId("status").textContent = `The model cannot run in this browser: ${error.message}`;
  byId("files").disabled = true;
}

/** Whether files are dragged over the page. */
function showDrag(event, over) {
  event.preventDefault(); // else the browser would open the file
  byId("choose").classList.toggle("over", over);
}

byId("files").addEventListener("change", () => {
  add(byId("files").files);
  byId("files").value = ""; // so that the same file can be chosen again
});
document.addEventListener("dragover", (event) => showDrag(event, true));
document.addEventListener("dragleave", (event) => showDrag(event, false));
document.addEventListener("drop", (event) => {
  showDrag(event, false);
  add(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => add(event.clipboardData.files));
model.then(showReady, showFailure);
