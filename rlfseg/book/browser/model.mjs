// The four networks in a row, each asked again only if what it takes has changed.

import { aos } from "./flow.mjs";
import { tokenizer } from "./tokenizer.mjs";

/** Keep what a function gave for the last key. */
function kept(make) {
  let key, value;
  return async (name, ...given) => {
    if (name !== key) [key, value] = [name, await make(...given)];
    return value;
  };
}

/** A number that tells pictures apart (FNV-1a). */
function sum(bytes) {
  let hash = 0x811c9dc5;
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return hash;
}

/**
 * Load the networks; return ({image, phrase, tol}) => {scores, gamma}.
 *
 * `image` is RGBA as a canvas gives it, `scores` Float32Array by rows, not clamped.
 */
export async function model({ ort, settings, words, file }) {
  const { pixels, latent, zb } = settings, tokens = tokenizer(words);
  const [text, encode, field, decode] = await Promise.all(
    ["words", "encode", "field", "decode"].map((name) => ort.InferenceSession.create(file(name))));
  const out = async (session, given) => (await session.run(given)).out;

  const c = kept((phrase) => out(text, {
    tokens: new ort.Tensor("int64", BigInt64Array.from(tokens(phrase), BigInt), [1, words.length]) }));
  const z1 = kept((rgba) => {
    const size = pixels * pixels, unit = new Float32Array(3 * size);
    for (let n = 0; n < size; n++)
      for (let k = 0; k < 3; k++) unit[k * size + n] = rgba[4 * n + k] / 127.5 - 1;
    return out(encode, { image: new ort.Tensor("float32", unit, [1, 3, pixels, pixels]) });
  });
  const v = kept((z1, c) => out(field, { z1, c }));

  return async ({ image, phrase, tol }) => {
    const seen = sum(image.data);
    const from = await z1(seen, image.data), said = await c(phrase, phrase);
    const velocity = await v(`${seen} ${phrase}`, from, said);
    const { z0, gamma } = aos({
      z1: from.data, v: velocity.data, zb: Float32Array.from(zb), tol });
    const scores = await out(decode, { z0: new ort.Tensor("float32", z0, [1, ...latent]) });
    return { scores: scores.data, gamma };
  };
}
