// CLIP's tokenizer: byte-level BPE whose last piece of a word ends in </w>.

const WORDS = /<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+/gu;

/** The letter that stands for each byte: itself where it can be printed, else one from 256 on. */
function letters() {
  const made = new Array(256);
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const shown = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
    made[byte] = String.fromCodePoint(shown ? byte : next++);
  }
  return made;
}

/** Take what tokenizer.json holds; return text => token numbers, padded and cut to `length`. */
export function tokenizer({ vocab, merges, start, end, length }) {
  const letter = letters();
  const rank = new Map(merges.map(([a, b], n) => [`${a} ${b}`, n]));
  const split = (word) => {
    const pieces = [...new TextEncoder().encode(word)].map((byte) => letter[byte]);
    pieces[pieces.length - 1] += "</w>";
    for (;;) {
      let best = -1, lowest = Infinity;
      for (let n = 0; n + 1 < pieces.length; n++) {
        const here = rank.get(`${pieces[n]} ${pieces[n + 1]}`) ?? Infinity;
        if (here < lowest) [best, lowest] = [n, here];
      }
      if (best < 0) return pieces;
      pieces.splice(best, 2, pieces[best] + pieces[best + 1]);
    }
  };
  return (text) => {
    const plain = text.normalize("NFC").replace(/\s+/gu, " ").toLowerCase();
    const special = { "<|startoftext|>": start, "<|endoftext|>": end };
    const said = (plain.match(WORDS) ?? []).flatMap((word) =>
      Object.hasOwn(special, word) ? [special[word]] : split(word).map((piece) => vocab[piece] ?? end));
    const kept = [start, ...said.slice(0, length - 2), end];
    return [...kept, ...new Array(length - kept.length).fill(end)];
  };
}
