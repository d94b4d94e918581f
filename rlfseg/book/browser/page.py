"""The page's part that asks the model, and what it loads beside the networks."""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import CLIPTokenizer

from rlfseg.book.figures import Interactive, png_uri
from rlfseg.data.drawn.scene import COLOURS, GROUNDS, RADII, SHAPES, ZOOM, draw_ground, outline
from rlfseg.method.types import Latent
from rlfseg.stage import replaced

_MODULES = ("ask.mjs", "flow.mjs", "model.mjs", "scene.mjs", "tokenizer.mjs")
_PERIOD = 0.0925  # of a pattern, in sides of the picture: the middle of what is drawn


def write_page(
    folder: Path,
    pictures: Sequence[tuple[np.ndarray, Sequence[str]]],
    *,
    tokenizer: CLIPTokenizer,
    zb: Latent,
    tol: float,
    threshold: float,
) -> None:
    """Write what the page loads: its modules, `tokens.json` and `settings.json`.

    Args:
        folder: where the networks lie (`export`).
        pictures: uint8 [p, p, 3] each, and their phrases, to begin with.
        tokenizer: of the text encoder.
        zb: the black latent [1, c, h, w], scaled.
        tol: AOS's tolerance.
        threshold: of the scores.
    """
    pixels, grounds = len(pictures[0][0]), np.random.default_rng(0)
    settings = {
        "pixels": pixels,
        "latent": list(zb.shape[1:]),
        "zb": zb.flatten().tolist(),
        "tol": tol,
        "threshold": threshold,
        "pictures": [
            {
                "name": f"picture {k}: {'; '.join(said)}",
                "src": png_uri(Image.fromarray(image)),
                "phrases": list(said),
            }
            for k, (image, said) in enumerate(pictures, 1)
        ],
        "grounds": [
            {
                "name": f"nothing on {name}",
                "src": png_uri(Image.fromarray(draw_ground(grounds, name, pixels))),
            }
            for name in GROUNDS
        ],
        "outlines": {shape: outline(shape).round(3).tolist() for shape in SHAPES},
        "colours": COLOURS,
        "radii": {size: float(np.mean(ends)) * ZOOM * pixels for size, ends in RADII.items()},
        "period": _PERIOD * pixels,
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "settings.json", json.dumps(settings))
    _write(folder / "tokens.json", json.dumps(tokens(tokenizer)))
    for name in _MODULES:
        _write(folder / name, files(__package__).joinpath(name).read_text())


def tokens(tokenizer: CLIPTokenizer) -> Mapping[str, Any]:
    """Return what `tokenizer.mjs` needs of a tokenizer: its vocabulary and merges."""
    if hasattr(tokenizer, "backend_tokenizer"):
        held = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        vocab, merges = held["vocab"], held["merges"]
    else:  # transformers 4, in Python
        vocab, merges = tokenizer.encoder, sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)
    return {
        "vocab": vocab,
        "merges": [pair.split() if isinstance(pair, str) else list(pair) for pair in merges],
        "start": tokenizer.bos_token_id,
        "end": tokenizer.eos_token_id,
        "length": tokenizer.model_max_length,
    }


def live() -> Interactive:
    """Return the part of a page that runs the model, where the site holds it."""
    return Interactive(_PAGE)


def _write(path: Path, text: str) -> None:
    with replaced(path) as draft:
        draft.write_text(text)


_PAGE = """<div class="live" id="live">
<style>
#live { display: flex; flex-wrap: wrap; gap: 1rem 1.5rem; align-items: flex-start; }
#live .panels { display: flex; gap: .5rem; flex: 2 1 20rem; max-width: 34rem; }
#live canvas { flex: 1 1 0; min-width: 0; width: 100%; aspect-ratio: 1; image-rendering: pixelated;
  background: #8883; }
#live canvas.picture { cursor: crosshair; }
#live .choices { flex: 1 1 15rem; display: grid; gap: .7rem; }
#live .pictures { display: flex; flex-wrap: wrap; gap: .4rem; }
#live .pictures button { padding: 0; border: 1px solid #8888; background: none; line-height: 0;
  cursor: pointer; }
#live .pictures img { width: 2.6rem; height: 2.6rem; margin: 0; }
#live .thing { display: grid; grid-template-columns: 1fr 1fr; gap: .4rem; }
#live label { display: grid; gap: .2rem; }
#live select, #live input.phrase, #live .put { font: inherit; padding: .45rem; width: 100%;
  box-sizing: border-box; }
#live input[type=range] { width: 100%; min-height: 1.8rem; }
#live output { font-weight: 600; min-height: 1.5em; }
</style>
<div class="panels">
<canvas class="picture" role="img" aria-label="the picture; a click puts a thing there"></canvas>
<canvas class="answer" role="img" aria-label="what the phrase means, in blue"></canvas>
</div>
<div class="choices">
<label>phrase <input class="phrase" list="live-phrases" autocomplete="off"></label>
<datalist id="live-phrases"></datalist>
<div class="pictures" role="group" aria-label="pictures and empty grounds"></div>
<div class="thing" role="group" 
 aria-label="a thing to put onto the picture, by a click there or here">
<select class="size" aria-label="size"></select><select class="colour"
 aria-label="colour"></select><select class="texture" aria-label="texture"></select><select
 class="shape" aria-label="shape"></select><select class="place"
 aria-label="place"></select><button type="button" class="put">put it there</button>
</div>
<label><span>threshold <b class="said-threshold"></b></span>
<input class="threshold" type="range" min="0" max="1" step="0.01"></label>
<label><span>AOS's tolerance <b class="said-tol"></b></span>
<input class="tol" type="range" min="0" max="0.5" step="0.01"></label>
<output aria-live="polite">the model is not here</output>
<noscript>To ask, this page needs JavaScript.</noscript>
</div>
<script type="module">
const root = document.getElementById("live"), said = root.querySelector("output");
const absent = location.protocol === "file:"
  ? "To ask, serve this folder (python -m http.server) and open the page from there."
  : "This site was built without the model: what was computed beforehand stands above.";
import("./_static/browser/ask.mjs").then(
  (page) => page.live(root).catch((error) => { said.textContent = `failed: ${error.message}`; }),
  () => { said.textContent = absent; });
</script>
</div>"""
