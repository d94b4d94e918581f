"""What a reader's browser computes is what the pipeline computes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_text, tiny_tokenizer, tiny_unet, tiny_vae

from rlfseg.book.browser import export as exporting
from rlfseg.book.browser import page as pages
from rlfseg.book.browser import runtime
from rlfseg.book.browser.export import PARTS, export, largest_differences
from rlfseg.book.browser.page import tokens, write_page
from rlfseg.data.drawn import scene
from rlfseg.method.sampling import rescale
from rlfseg.models.latent_codec import LatentCodec
from rlfseg.models.weights import seeded

BROWSER = Path(pages.__file__).parent


PIXELS = 16


@pytest.fixture(scope="module")
def codec() -> LatentCodec:
    tokenizer = tiny_tokenizer()
    parts = seeded(0, lambda: (tiny_vae(pixels=PIXELS), tiny_text(tokenizer)))
    vae, text = (part.requires_grad_(False).eval() for part in parts)
    return LatentCodec(vae, tokenizer, text)


def node(script: str, given: object) -> object:
    """Run a module of ours in Node on JSON, and return what it prints as JSON."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not on PATH")
    done = subprocess.run(
        [program, "--input-type=module", "-e", script],
        cwd=BROWSER,
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


READ = "import { readFileSync } from 'fs'; const given = JSON.parse(readFileSync(0, 'utf8'));"


@pytest.mark.slow  # chapter 05b asserts it of the model that is shown, in each build
def test_exported_networks_are_the_models(tmp_path: Path, codec: LatentCodec) -> None:
    unet = seeded(1, tiny_unet).requires_grad_(False).eval()
    for part in (codec.vae, codec.text_encoder, unet):
        part.half().float()  # as weights ship
    export(codec, unet, tmp_path, pixels=PIXELS)
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.onnx" for name in PARTS}
    off = largest_differences(codec, unet, tmp_path, pixels=PIXELS)
    assert set(off) == set(PARTS) and max(off.values()) < 1e-3
    with torch.no_grad():
        next(unet.parameters()).add_(0.1)  # another model is told from it
    assert largest_differences(codec, unet, tmp_path, pixels=PIXELS)["field"] > 1e-3


def test_weights_are_kept_in_half_precision_but_for_what_it_cannot_hold() -> None:
    import onnx.reference
    from onnx import helper, numpy_helper

    large, huge = np.linspace(-1, 1, 512, dtype=np.float32), np.full(512, -3e38, np.float32)
    held = [numpy_helper.from_array(v, n) for v, n in ((large, "a"), (huge, "b"))]
    out = helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, [512])
    graph = helper.make_graph([helper.make_node("Max", ["a", "b"], ["out"])], "g", [], [out], held)
    model = exporting._halved(helper.make_model(graph))
    onnx.checker.check_model(model)
    kinds = {weight.name: weight.data_type for weight in model.graph.initializer}
    assert kinds == {"a.half": onnx.TensorProto.FLOAT16, "b": onnx.TensorProto.FLOAT}
    (found,) = onnx.reference.ReferenceEvaluator(model).run(None, {})
    assert np.array_equal(found, large.astype(np.float16).astype(np.float32))


WORDS = st.text(st.sampled_from("abtrs 'É1,.<|>-\t\n中😀İßſ"), max_size=40)


@settings(max_examples=1, deadline=None)
@given(st.lists(WORDS, min_size=400, max_size=400))
def test_the_pages_tokenizer_is_the_text_encoders(texts: list[str]) -> None:
    tokenizer = tiny_tokenizer()
    texts = [
        *texts,
        "large red circle",
        "the star's left",
        "<|endoftext|> x",
        "it's 12 o'clock",
        "",
    ]
    padded = {"padding": "max_length", "truncation": True}
    expected = tokenizer(texts, max_length=tokenizer.model_max_length, **padded).input_ids
    script = READ + (
        "import { tokenizer } from './tokenizer.mjs'; const cut = tokenizer(given.words);"
        "console.log(JSON.stringify(given.texts.map(cut)));"
    )
    found = node(script, {"words": tokens(tokenizer), "texts": texts})
    for text, ours, theirs in zip(texts, found, expected, strict=True):
        assert ours == theirs, text


def test_the_pages_step_is_aos() -> None:
    g = torch.Generator().manual_seed(0)
    z1, v, zb = torch.randn(3, 5, 4, 6, 6, generator=g).unbind(0)
    for tol in (0.0001, 0.3, 2.0):
        z0, gamma = rescale(z1=z1, dz=-v, z_ref=zb, tol=tol)
        script = READ + (
            "import { aos } from './flow.mjs'; const f = (x) => Float32Array.from(x);"
            "console.log(JSON.stringify(given.map(({ z1, v, zb, tol }) => {"
            "const { z0, gamma } = aos({ z1: f(z1), v: f(v), zb: f(zb), tol });"
            "return [Array.from(z0), gamma]; })));"
        )
        flat = [{"z1": a, "v": b, "zb": c, "tol": tol} for a, b, c in zip(
            *(each.flatten(1).tolist() for each in (z1, v, zb)), strict=True)]  # fmt: skip
        found = node(script, flat)
        assert np.allclose([each[0] for each in found], z0.flatten(1), atol=1e-5)
        assert np.allclose([each[1] for each in found], gamma, rtol=1e-4)


class Middle:
    """A generator without chance: the middle of whatever is drawn."""

    def normal(self, mean: float, spread: float, size: int | None = None) -> object:
        return mean if size is None else np.full(size, mean)

    def uniform(self, low: float, high: float) -> float:
        return (low + high) / 2


@pytest.mark.parametrize("texture", scene.TEXTURES)
def test_a_thing_is_painted_as_the_drawn_world_paints_it(texture: str) -> None:
    pixels, colour = 32, "orange"
    ones, empty = np.ones((pixels, pixels), np.float32), np.zeros((pixels, pixels, 3), np.float32)
    expected = scene._paint(Middle(), empty, ones, colour, texture, pixels)  # type: ignore[arg-type]
    script = READ + (
        "import { colourAt } from './scene.mjs'; const out = [];"
        "for (let y = 0; y < given.pixels; y++) for (let x = 0; x < given.pixels; x++)"
        "out.push(colourAt(x, y, given)); console.log(JSON.stringify(out));"
    )
    look = {"colour": scene.COLOURS[colour], "texture": texture, "pixels": pixels}
    found = node(script, {**look, "period": pages._PERIOD * pixels})
    painted = np.asarray(found).reshape(pixels, pixels, 3)
    assert np.abs(painted - np.minimum(expected, 255)).max() < 0.1


def test_what_the_page_loads_is_written(tmp_path: Path, codec: LatentCodec) -> None:
    image, zb = np.zeros((PIXELS, PIXELS, 3), np.uint8), codec.black(PIXELS)
    write_page(
        tmp_path, [(image, ["a", "b"])], tokenizer=codec.tokenizer, zb=zb, tol=0.1, threshold=0.2
    )
    held = json.loads((tmp_path / "settings.json").read_text())
    assert np.allclose(held["zb"], zb.flatten()) and held["latent"] == list(zb.shape[1:])
    assert (held["pixels"], held["tol"], held["threshold"]) == (PIXELS, 0.1, 0.2)
    assert held["pictures"][0]["phrases"] == ["a", "b"] and len(held["grounds"]) == 5
    for name in ("ask.mjs", "flow.mjs", "model.mjs", "scene.mjs", "tokenizer.mjs"):
        assert (tmp_path / name).read_text() == (BROWSER / name).read_text()


def test_without_npm_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runtime.fetch_runtime(tmp_path / "ort") == "npm is not on PATH"
    npm = tmp_path / "npm"
    npm.write_text('#!/bin/sh\necho other > "onnxruntime-web.tgz"\n')
    npm.chmod(0o755)
    assert "not the archive that is known" in runtime.fetch_runtime(tmp_path / "ort")
    npm.write_text("#!/bin/sh\necho no such place >&2\nexit 1\n")
    assert "no such place" in runtime.fetch_runtime(tmp_path / "ort")
    assert not (tmp_path / "ort").exists()
