"""The tiny decoder learns what the autoencoder's own decoder draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import AutoencoderTiny
from tiny import tiny_backbone

from rlfseg.data.images import to_unit
from rlfseg.models.latent_codec import load_codec
from rlfseg.models.weights import save_model, seeded
from rlfseg.stand_ins import tiny_decoder as tiny
from rlfseg.stand_ins.autoencoder import small_autoencoder
from rlfseg.stand_ins.backbone import BackboneConfig
from rlfseg.stand_ins.corpus import draw_corpus
from rlfseg.stand_ins.tiny_decoder import (
    TinyConfig,
    TinyObjective,
    small_decoder,
    tiny_decoder,
    tiny_stage,
)
from rlfseg.training.steps import read_steps

pytestmark = pytest.mark.integration

RECIPE = BackboneConfig(pixels=32)
CONFIG = TinyConfig(scenes=24, steps=60, batch=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone whose autoencoder is the recipe's, untrained."""
    folder = tiny_backbone(tmp_path_factory.mktemp("backbone"))
    save_model(seeded(0, lambda: small_autoencoder(pixels=32)).half(), folder / "vae")
    return folder


@pytest.fixture
def trained(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("book", "params"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tiny, "backbone", lambda recipe, profile: folder)
    AcceleratorState._reset_state(True)
    yield tiny_decoder(CONFIG, RECIPE, profile="smoke")
    AcceleratorState._reset_state(True)


def test_it_comes_to_draw_what_the_large_one_draws(trained: Path, folder: Path) -> None:
    codec = load_codec(folder)
    learned = AutoencoderTiny.from_pretrained(trained, torch_dtype=torch.float32)
    fresh = draw_corpus(seed=9, count=8, pixels=32, workers=1)  # scenes it has not seen
    z = codec.encode(to_unit(torch.from_numpy(fresh.images)))
    goal = codec.decode_image(z)
    with torch.no_grad():
        far = {
            name: (replace(codec, tiny=each).decode_image(z) - goal).square().mean()
            for name, each in (("first", seeded(0, small_decoder)), ("last", learned))
        }
    assert far["last"] < 0.3 * far["first"]
    losses = [step.loss for step in read_steps(trained / "steps.jsonl")]
    assert len(losses) == CONFIG.steps and losses[-1] < 0.3 * losses[0]
    assert tiny_decoder(CONFIG, RECIPE, profile="smoke") == trained  # found, not made again


def test_the_encoder_that_nobody_uses_stays_as_it_was(trained: Path) -> None:
    first, last = seeded(0, small_decoder), AutoencoderTiny.from_pretrained(trained)
    for name, weight in last.encoder.state_dict().items():
        assert torch.equal(weight.half(), first.encoder.state_dict()[name].half()), name


def test_scores_come_from_it_where_it_is_given(folder: Path) -> None:
    codec, small = load_codec(folder), seeded(3, small_decoder)
    z = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = (small.decode(z).sample.mean(1) + 1) / 2
        assert torch.equal(replace(codec, tiny=small).decode(z), expected)
    assert not torch.allclose(codec.decode(z), expected)
    assert replace(codec, tiny=small).identity == codec.identity  # latents stay the same


def test_half_of_what_it_learns_from_are_masks_with_a_rest_of_the_picture(folder: Path) -> None:
    codec, scenes = load_codec(folder), draw_corpus(seed=2, count=10, pixels=32, workers=1)
    z = tiny._latents(codec, scenes.images, scenes.masks, seed=4)
    z1 = codec.encode(to_unit(torch.from_numpy(scenes.images)))
    z0 = codec.encode_mask(torch.from_numpy(scenes.masks))
    step = z1 - z0
    t = ((z - z0) * step).sum((1, 2, 3)) / step.square().sum((1, 2, 3))
    assert torch.allclose(z, z0 + t[:, None, None, None] * step, atol=1e-5)  # on the path
    assert torch.allclose(t[5:], torch.ones(5), atol=1e-5)
    assert (t[:5] >= 0).all() and (t[:5] <= 0.3 + 1e-5).all() and t[:5].unique().numel() == 5


def test_nothing_is_lost_where_both_draw_alike() -> None:
    small = seeded(1, small_decoder)
    z = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    drawn = small.decode(z).sample.detach()
    losses = TinyObjective(small)(
        tiny.Taught(z, drawn + torch.tensor([0.0, 0.5, 1.0])[:, None, None, None])
    )
    assert torch.allclose(losses.loss, torch.tensor([0.0, 0.25, 1.0]), atol=1e-6)


def test_the_unets_recipe_does_not_make_another_decoder() -> None:
    other = replace(RECIPE, unet_steps=1)
    assert tiny_stage(CONFIG, RECIPE).hash == tiny_stage(CONFIG, other).hash
    assert tiny_stage(CONFIG, replace(RECIPE, vae_steps=1)).hash != tiny_stage(CONFIG, RECIPE).hash
