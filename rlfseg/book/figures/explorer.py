"""A picture that a reader can ask: its phrases and ways of answering, all computed beforehand."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from PIL import Image

from rlfseg.book.figures.charts import COLOURS
from rlfseg.method.refinement import mask_iou

_SIDE = 256  # pixels, the most that is shown of a picture's side
_STRENGTH = 170  # of 255: how much of a mask's colour lies over the picture


@dataclass(frozen=True)
class Answered:
    """A phrase and what it was answered with.

    Attributes:
        annotation: bool [H, W].
        masks: bool [H, W], by the way they were made.
    """

    annotation: np.ndarray
    masks: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Asked:
    """A picture, uint8 [H, W, 3], and its phrases."""

    picture: np.ndarray
    phrases: Mapping[str, Answered]


class Interactive:
    """A piece of a page that needs no server; a notebook shows it as it is."""

    def __init__(self, html: str) -> None:
        self.html = html

    def _repr_html_(self) -> str:
        return self.html


def explorer(asked: Sequence[Asked]) -> Interactive:
    """Let a reader choose a picture, a phrase and a way, and see the mask and its IoU.

    Masks lie in the page as transparent PNGs, the answer's blue over the annotation's orange; what
    is larger than a screen shows is made smaller there, and a photograph is a JPEG.

    Args:
        asked: pictures of one size, each with at least one phrase, answered in the same ways.

    Raises:
        ValueError: if there is nothing to ask, or the ways differ.
    """
    ways = {tuple(each.masks) for one in asked for each in one.phrases.values()}
    if len(ways) != 1 or not all(one.phrases for one in asked):
        raise ValueError(f"every phrase must be answered in the same ways, got {sorted(ways)}")
    content = [
        {
            "picture": _picture(one.picture),
            "phrases": [
                {
                    "phrase": phrase,
                    "annotation": _overlay(each.annotation, COLOURS[1]),
                    "masks": [_overlay(mask, COLOURS[0]) for mask in each.masks.values()],
                    "iou": [round(100 * mask_iou(m, each.annotation)) for m in each.masks.values()],
                }
                for phrase, each in one.phrases.items()
            ],
        }
        for one in asked
    ]
    data = json.dumps({"ways": ways.pop(), "asked": content}).replace("<", "\\u003c")
    name = f"ask-{sha256(data.encode()).hexdigest()[:8]}"
    return Interactive(_PAGE.replace("NAME", name).replace("DATA", data))


def _picture(picture: np.ndarray) -> str:
    image = Image.fromarray(picture)
    if max(image.size) <= _SIDE:
        return png_uri(image)
    image.thumbnail((_SIDE, _SIDE))
    return _uri(image, "JPEG", quality=85)


def _overlay(mask: np.ndarray, colour: str) -> str:
    """Draw a mask as a PNG of two colours, of which one can't be seen."""
    image = Image.fromarray(mask.astype(np.uint8), "P")
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.NEAREST)
    image.putpalette([0, 0, 0, *(int(colour[i : i + 2], 16) for i in (1, 3, 5))])
    return png_uri(image, transparency=bytes([0, _STRENGTH]), bits=1)


def png_uri(image: Image.Image, **options: object) -> str:
    """Return a picture as a PNG that lies in the page itself."""
    return _uri(image, "PNG", **options)


def _uri(image: Image.Image, kind: str, **options: object) -> str:
    file = io.BytesIO()
    image.save(file, kind, optimize=True, **options)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(file.getvalue()).decode()


_PAGE = """<div class="asked" id="NAME">
<style>
#NAME { display: flex; flex-wrap: wrap; gap: 1rem 1.5rem; align-items: flex-start; }
#NAME .panels { display: flex; gap: .5rem; flex: 2 1 20rem; max-width: 34rem; }
#NAME .seen { position: relative; flex: 1 1 0; aspect-ratio: 1; }
#NAME .grey { filter: grayscale(1) brightness(1.25); }
#NAME .seen img { position: absolute; inset: 0; width: 100%; height: 100%;
  image-rendering: pixelated; margin: 0; }
#NAME .choices { flex: 1 1 15rem; display: grid; gap: .7rem; }
#NAME .pictures { display: flex; flex-wrap: wrap; gap: .4rem; }
#NAME .pictures button { padding: 0; border: 3px solid transparent; background: none;
  line-height: 0; cursor: pointer; }
#NAME .pictures button[aria-pressed=true] { border-color: #0072b2; }
#NAME .pictures img { width: 3.2rem; height: 3.2rem; margin: 0; }
#NAME label { display: grid; gap: .2rem; }
#NAME label.tick { display: flex; gap: .5rem; align-items: center; }
#NAME select { font: inherit; padding: .45rem; max-width: 100%; }
#NAME output { font-weight: 600; }
</style>
<div class="panels">
<div class="seen"><img class="picture" alt="the chosen picture"></div>
<div class="seen"><img class="grey" alt=""><img class="annotation" alt="the annotation"><img
 class="mask" alt="the mask"></div>
</div>
<div class="choices">
<div class="pictures" role="group" aria-label="pictures"></div>
<label>phrase <select class="phrase"></select></label>
<label>answered by <select class="way"></select></label>
<label class="tick"><input class="shown" type="checkbox"> show the annotation (orange)</label>
<output aria-live="polite"></output>
<noscript>To choose, this page needs JavaScript.</noscript>
</div>
<script>
(() => {
  const data = DATA;
  const root = document.getElementById("NAME"), find = (name) => root.querySelector(name);
  const phrase = find(".phrase"), way = find(".way"), shown = find(".shown");
  let chosen = 0;
  const options = (select, texts) => select.replaceChildren(...texts.map((text, k) => {
    const option = document.createElement("option");
    option.value = k; option.textContent = text;
    return option;
  }));
  const draw = () => {
    const one = data.asked[chosen], said = one.phrases[phrase.value];
    const made = data.ways[way.value];
    find(".picture").src = find(".grey").src = one.picture;
    find(".annotation").src = said.annotation;
    find(".annotation").style.visibility = shown.checked ? "visible" : "hidden";
    find(".mask").src = said.masks[way.value];
    find(".mask").alt = `the mask for "${said.phrase}" by ${made}`;
    find("output").textContent = `IoU with the annotation: ${said.iou[way.value]} %`;
  };
  const choose = (k) => {
    chosen = k;
    buttons.forEach((button, n) => button.setAttribute("aria-pressed", n === k));
    options(phrase, data.asked[k].phrases.map((each) => each.phrase));
    draw();
  };
  const buttons = data.asked.map((one, k) => {
    const button = document.createElement("button"), image = document.createElement("img");
    button.type = "button";
    image.src = one.picture;
    image.alt = `picture ${k + 1}: ${one.phrases.map((each) => each.phrase).join("; ")}`;
    button.append(image);
    button.addEventListener("click", () => choose(k));
    return button;
  });
  find(".pictures").append(...buttons);
  options(way, data.ways);
  [phrase, way, shown].forEach((each) => each.addEventListener("change", draw));
  choose(0);
})();
</script>
</div>"""
