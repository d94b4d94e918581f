// Things of the drawn world on a canvas, as rlfseg.data.drawn.scene paints them, without its chance.

const PATTERNS = {
  plain: () => 0,
  striped: (u) => 0.5 + 2 * Math.sin(u),
  dotted: (u, v) => 2.5 * (Math.cos(u) + Math.cos(v)) - 1.6,
  checkered: (u, v) => 0.5 + 3 * Math.sin(0.62 * u) * Math.sin(0.62 * v),
};
export const TEXTURES = Object.keys(PATTERNS);

/** The colour of a thing at a place, 0 to 255, in a picture of `pixels`. */
export function colourAt(x, y, { colour, texture, period, pixels }) {
  const angle = texture === "striped" ? Math.PI / 4 : 0, turn = (2 * Math.PI) / period;
  const u = (x * Math.cos(angle) + y * Math.sin(angle)) * turn;
  const v = (-x * Math.sin(angle) + y * Math.cos(angle)) * turn;
  const dark = Math.min(1, Math.max(0, PATTERNS[texture](u, v)));
  const light = 1 + (0.12 * (x - y)) / pixels;
  return colour.map((each) => Math.min(255, each * (1 - 0.55 * dark) * light));
}

/** Put a thing onto a canvas, around (x, y). */
export function place(canvas, { outline, radius, x, y, ...look }) {
  const sheet = new OffscreenCanvas(canvas.width, canvas.height), pen = sheet.getContext("2d");
  pen.beginPath();
  outline.forEach(([a, b]) => pen.lineTo(x + a * radius, y + b * radius));
  pen.closePath();
  pen.fill();
  const drawn = pen.getImageData(0, 0, sheet.width, sheet.height);
  for (let n = 0; n < drawn.data.length; n += 4) {
    if (!drawn.data[n + 3]) continue;
    const at = [(n / 4) % sheet.width, Math.floor(n / 4 / sheet.width)];
    drawn.data.set(colourAt(...at, { ...look, pixels: canvas.width }), n);
  }
  pen.putImageData(drawn, 0, 0);
  canvas.getContext("2d").drawImage(sheet, 0, 0);
}
