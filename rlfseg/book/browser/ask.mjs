// The page that asks the model: a picture, any phrase, a threshold, a tolerance.

import * as ort from "./ort/ort.wasm.min.mjs";
import { model } from "./model.mjs";
import { TEXTURES, place } from "./scene.mjs";

/** Where a thing is put without a pointer, in shares of the picture from its top left. */
const PLACES = {
  "in the middle": [0.5, 0.5], "on the left": [0.22, 0.5], "on the right": [0.78, 0.5],
  "at the top": [0.5, 0.22], "at the bottom": [0.5, 0.78],
};

const here = (name) => new URL(name, import.meta.url).href;

/** Bring the page's part `root` to life; rejects if the model can't be loaded. */
export async function live(root) {
  const find = (name) => root.querySelector(name), said = find("output");
  said.textContent = "loading the model …";
  ort.env.wasm.numThreads = 1; // more need headers that a static site doesn't send
  ort.env.wasm.wasmPaths = here("ort/");
  const load = async (name) => (await fetch(here(name))).json();
  const [settings, words] = await Promise.all(["settings.json", "tokens.json"].map(load));
  const ask = await model({ ort, settings, words, file: (name) => here(`${name}.onnx`) });

  const { pixels } = settings, picture = find("canvas.picture"), answer = find("canvas.answer");
  for (const canvas of [picture, answer]) canvas.width = canvas.height = pixels;
  const look = picture.getContext("2d", { willReadFrequently: true });
  const phrase = find(".phrase"), threshold = find(".threshold"), tol = find(".tol");
  let answered = null, running = null; // the answer, and the picture that it is about

  const image = () => look.getImageData(0, 0, pixels, pixels);
  const show = () => {
    find(".said-threshold").textContent = (+threshold.value).toFixed(2);
    find(".said-tol").textContent = +tol.value ? (+tol.value).toFixed(2) : "0, the plain step";
    if (!answered) return;
    const { seen, scores, told } = answered, blue = [0, 114, 178];
    const shown = new ImageData(new Uint8ClampedArray(seen.data), pixels, pixels);
    let count = 0;
    for (let n = 0; n < scores.length; n++) {
      const grey = (shown.data[4 * n] + shown.data[4 * n + 1] + shown.data[4 * n + 2]) / 3;
      const inside = scores[n] > threshold.value;
      count += inside;
      for (let c = 0; c < 3; c++)
        shown.data[4 * n + c] = inside ? 0.35 * grey + 0.65 * blue[c] : 60 + 0.75 * grey;
    }
    answer.getContext("2d").putImageData(shown, 0, 0);
    said.textContent = `${(100 * count / scores.length).toFixed(1)} % of the picture, ${told}`;
  };
  const run = async () => {
    const started = performance.now(), seen = image();
    const found = await ask({ image: seen, phrase: phrase.value, tol: +tol.value });
    const { scores, gamma } = found, seconds = (performance.now() - started) / 1000;
    answered = { seen, scores, told: `gamma ${gamma.toFixed(2)}, ${seconds.toFixed(1)} s` };
    show();
    const share = scores.reduce((sum, each) => sum + (each > threshold.value), 0) / scores.length;
    root.dataset.done = `${phrase.value}|${gamma.toFixed(4)}|${share.toFixed(4)}`;
  };
  // One answer at a time; what is asked meanwhile is asked once more at the end.
  let again = false;
  const soon = () => {
    again = true;
    running ??= (async () => {
      while (again) {
        again = false;
        try { await run(); } catch (error) { said.textContent = `failed: ${error.message}`; }
      }
      running = null;
    })();
    return running;
  };

  const options = (select, names) => select.replaceChildren(...names.map((name) => {
    const option = document.createElement("option");
    option.value = option.textContent = name;
    return option;
  }));
  const choose = async ({ src, phrases = [] }) => {
    const drawn = new Image();
    drawn.src = src;
    await drawn.decode();
    look.drawImage(drawn, 0, 0, pixels, pixels);
    options(find("datalist"), phrases);
    if (phrases.length) phrase.value = phrases[0];
    return soon();
  };
  find(".pictures").append(...[...settings.pictures, ...settings.grounds].map((each) => {
    const button = document.createElement("button"), seen = document.createElement("img");
    button.type = "button";
    seen.src = each.src;
    seen.alt = each.name;
    button.append(seen);
    button.addEventListener("click", () => choose(each));
    return button;
  }));
  options(find(".shape"), Object.keys(settings.outlines));
  options(find(".colour"), Object.keys(settings.colours));
  options(find(".texture"), TEXTURES);
  options(find(".size"), Object.keys(settings.radii));
  options(find(".place"), Object.keys(PLACES));
  const put = (across, down) => {
    const [shape, colour, texture, size] =
      [".shape", ".colour", ".texture", ".size"].map((name) => find(name).value);
    place(picture, {
      outline: settings.outlines[shape], colour: settings.colours[colour], texture,
      radius: settings.radii[size], period: settings.period,
      x: across * pixels, y: down * pixels,
    });
    soon();
  };
  picture.addEventListener("click", (event) => {
    const box = picture.getBoundingClientRect();
    put((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  });
  find(".put").addEventListener("click", () => put(...PLACES[find(".place").value]));
  phrase.addEventListener("change", soon);
  tol.addEventListener("input", () => { show(); soon(); });
  threshold.addEventListener("input", show);
  tol.value = settings.tol;
  threshold.value = settings.threshold;
  show();
  await choose(settings.pictures[0]);
}
