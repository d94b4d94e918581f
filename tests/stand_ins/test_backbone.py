"""The mini backbone's recipe, in parts: corpus, tokenizer, objectives, batches, the folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import accelerate_reset
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import compute_snr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from tiny import CAPTIONS, latents, tiny_backbone, tiny_unet, tiny_vae
from together import run_two
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from rlfseg.config import OptimiserConfig
from rlfseg.data.drawn.scene import SHAPES
from rlfseg.device import quick_accelerator
from rlfseg.models.latent_codec import LatentCodec, load_codec
from rlfseg.models.unet import load_unet
from rlfseg.models.weights import seeded
from rlfseg.stage import PARTS
from rlfseg.stand_ins import backbone as recipe
from rlfseg.stand_ins import full_size, recognition
from rlfseg.stand_ins.autoencoder import AutoencoderObjective, autoencoder_batch, small_autoencoder
from rlfseg.stand_ins.clip_batches import Gallery, draw_gallery
from rlfseg.stand_ins.corpus import Corpus, draw_corpus
from rlfseg.stand_ins.mini_clip import ClipConfig, load_clip
from rlfseg.stand_ins.text_to_image import (
    EncodedGallery,
    Noised,
    TextToImageObjective,
    described_batch,
    mixed_noise,
    noise_schedule,
    save_tokenizer,
    small_text_encoder,
    small_tokenizer,
    small_unet,
)
from rlfseg.training.loop import Losses, fit
from rlfseg.training.steps import read_steps


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return draw_corpus(seed=1, count=20, pixels=32, workers=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_backbone(tmp_path_factory.mktemp("backbone"))


def test_a_longer_corpus_begins_with_the_shorter_one(corpus: Corpus) -> None:
    more = draw_corpus(seed=1, count=130, pixels=32, workers=2)  # more than one chunk
    assert more.images.shape == (130, 32, 32, 3) and more.images.dtype == np.uint8
    assert more.masks.shape == (130, 32, 32) and more.masks.dtype == np.bool_
    assert np.array_equal(more.images[:20], corpus.images)
    assert np.array_equal(more.masks[:20], corpus.masks)
    assert len(np.unique(more.images.reshape(130, -1), axis=0)) == 130
    assert more.masks.any((1, 2)).all() and not more.masks.all((1, 2)).any()


@pytest.mark.parametrize("layout", ["of transformers 5", "older"])
def test_the_tokenizer_survives_its_folder(tmp_path: Path, layout: str) -> None:
    tokenizer = small_tokenizer(CAPTIONS)
    save_tokenizer(tokenizer, tmp_path)
    if layout != "older" and not (tmp_path / "tokenizer.json").is_file():
        pytest.skip("this version of transformers writes the older layout alone")
    left_out = ("vocab.json", "merges.txt") if layout != "older" else ("tokenizer.json",)
    for name in left_out:
        (tmp_path / name).unlink(missing_ok=True)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    said = [*CAPTIONS, "", "an Unheard-of phrase, 3 œuvres", "star " * 99]
    padded = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    tokens = tokenizer(said, **padded).input_ids
    assert torch.equal(loaded(said, **padded).input_ids, tokens)
    assert loaded.model_max_length == tokens.shape[1] == 32
    assert (tokens[:, 0] == tokenizer.bos_token_id).all()
    assert tokens.max() < len(tokenizer)
    for text, row in zip(said[:-1], tokens, strict=False):
        back = tokenizer.decode(row, skip_special_tokens=True)
        assert back.replace(" ", "") == text.lower().replace(" ", "")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text("abc ", min_size=1, max_size=30), min_size=1, max_size=6))
def test_every_token_has_a_row_in_the_text_encoder(captions: list[str]) -> None:
    tokenizer = small_tokenizer(tuple(captions))
    numbers = sorted(tokenizer.get_vocab().values())
    assert numbers == list(range(len(tokenizer)))
    assert max(max(tokenizer(c).input_ids) for c in captions) < len(tokenizer)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    def weights(seed: int) -> Tensor:
        return seeded(seed, lambda: nn.Linear(3, 3)).weight

    torch.manual_seed(8)
    expected = torch.rand(1)
    torch.manual_seed(8)
    first = weights(1)
    assert torch.equal(torch.rand(1), expected)  # torch's own generator was left alone
    assert torch.equal(weights(1), first) and not torch.equal(weights(2), first)


def test_the_autoencoder_sees_pictures_and_masks_whole_and_in_part(corpus: Corpus) -> None:
    pictures = corpus.images.transpose(0, 3, 1, 2) / np.float32(127.5) - 1
    masks = np.repeat(corpus.masks[:, None] * 2.0 - 1, 3, axis=1)

    def is_from(view: np.ndarray, whole: np.ndarray) -> bool:
        windows = sliding_window_view(whole, view.shape, axis=(1, 2, 3))
        return bool((windows == view).all((-3, -2, -1)).any())

    sides = []
    for step in range(1, 13):
        batch, seed = autoencoder_batch(corpus, step, size=8, seed=0)
        again, same_seed = autoencoder_batch(corpus, step, size=8, seed=0)
        assert torch.equal(batch, again) and seed == same_seed
        assert batch.dtype == torch.float32 and batch.numel() == 8 * 3 * 16 * 16
        sides.append(batch.shape[-1])
        drawn = len(batch) - max(1, len(batch) // 4)
        for number, view in enumerate(batch.numpy()):
            known = pictures if number < drawn else masks
            assert is_from(view, known) or is_from(view[..., ::-1], known)
    assert 1 <= sides.count(32) <= 7 and sides.count(16) + sides.count(32) == len(sides)


def test_the_autoencoders_loss_is_its_errors_and_its_divergence() -> None:
    vae = tiny_vae().eval()
    pictures = torch.rand(2, 3, 16, 16) * 2 - 1
    losses = AutoencoderObjective(vae, kl_weight=0.1)((pictures, 5))
    with torch.no_grad():
        mean, logvar = vae.quant_conv(vae.encoder(pictures)).chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(5))
        error = vae.decode(mean + (0.5 * logvar).exp() * noise).sample - pictures
    kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean((1, 2, 3))
    reconstruction = (error.abs() + error**2).mean((1, 2, 3))
    torch.testing.assert_close(losses.values["kl"], kl)
    torch.testing.assert_close(losses.values["reconstruction"], reconstruction)
    torch.testing.assert_close(losses.loss, reconstruction + 0.1 * kl)


def test_the_noise_is_stable_diffusions() -> None:
    schedule = noise_schedule()
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    np.testing.assert_allclose(schedule.alphas_cumprod, np.cumprod(1 - betas), rtol=1e-4)


class Recorder(nn.Module):
    """In a UNet's place: keeps what it is asked and answers what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, z: Tensor, t: Tensor, c: Tensor) -> object:
        self.asked.append((z, t, c))
        return type("Output", (), {"sample": torch.zeros_like(z)})


def test_the_text_to_image_loss_is_the_noise_that_was_added() -> None:
    tokenizer = small_tokenizer(CAPTIONS)
    text_encoder, unet, schedule = (
        small_text_encoder(tokenizer).eval(),
        Recorder(),
        noise_schedule(),
    )
    tokens = tokenizer(list(CAPTIONS), padding="max_length", return_tensors="pt").input_ids
    z, half = latents(3, 0), torch.full((3,), 0.5)
    objective = TextToImageObjective(unet, text_encoder, schedule)  # type: ignore[arg-type]
    losses = objective(Noised(z, tokens, half, 4))
    ((noisy, t, c),) = unet.asked
    a = schedule.alphas_cumprod[t][:, None, None, None]
    noise = (noisy - a.sqrt() * z) / (1 - a).sqrt()
    assert t.min() >= 0 and t.max() < 1000 and len(t.unique()) > 1
    drawn = mixed_noise(z, torch.Generator().manual_seed(4), half)
    torch.testing.assert_close(noise, drawn, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(losses.loss, noise.square().mean((1, 2, 3)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(c, text_encoder(tokens).last_hidden_state)
    torch.testing.assert_close(objective(Noised(z, tokens, half, 4)).loss, losses.loss)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_with_min_snr_errors_count_as_in_diffusers(gamma: float) -> None:
    tokenizer, schedule = small_tokenizer(CAPTIONS), noise_schedule()
    text_encoder, unet = small_text_encoder(tokenizer).eval(), Recorder()
    told = 40 * list(CAPTIONS)
    batch = Noised(
        latents(len(told), 0),
        tokenizer(told, padding="max_length", return_tensors="pt").input_ids,
        torch.zeros(len(told)),
        4,
    )
    plain, weighted = (
        TextToImageObjective(unet, text_encoder, schedule, min_snr=each)(batch).loss  # type: ignore[arg-type]
        for each in (0.0, gamma)
    )
    snr = compute_snr(schedule, unet.asked[0][1])
    assert (snr < gamma).any() and (snr > gamma).any()
    torch.testing.assert_close(weighted, plain * snr.clamp(max=gamma) / snr)


def test_half_of_the_noise_is_white_and_half_another_picture() -> None:
    z = torch.arange(4000.0)[:, None, None, None].expand(-1, 2, 4, 4)
    noise = mixed_noise(z, torch.Generator().manual_seed(1), torch.full((4000,), 0.5))
    other = (noise == z.roll(1, 0)).flatten(1)
    assert torch.equal(other.all(1), other.any(1))  # a sample's noise is of one kind
    taken = other[:, 0]
    assert float(taken.float().mean()) == pytest.approx(0.5, abs=0.03)
    white = noise[~taken]
    assert float(white.mean()) == pytest.approx(0, abs=0.02)
    assert float(white.std()) == pytest.approx(1, abs=0.02)
    pixels = white.flatten(1)
    assert abs(float((pixels[:, 0] * pixels[:, 1]).mean())) < 0.08  # no scale but the finest
    none = mixed_noise(z, torch.Generator().manual_seed(1), torch.zeros(4000))
    assert torch.equal(none, torch.randn(z.shape, generator=torch.Generator().manual_seed(1)))


CLIP = ClipConfig(pixels=32, scenes=8, alone=1, steps=2, batch=4)
WITH_CLIP = {
    "pixels": 32,
    "scenes": 4,
    "vae_steps": 1,
    "vae_batch": 4,
    "unet_steps": 2,
    "unet_batch": 4,
}
LAYOUT = ("channels", "heads", "layers")
SHAPE = {"channels": (16, 32, 32), "heads": (1, 2, 2), "layers": 1, "clip": CLIP}


@pytest.fixture(scope="module")
def with_clip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The folders of a backbone and of the mini CLIP that it is made with."""
    with pytest.MonkeyPatch.context() as patch, accelerate_reset():
        root = tmp_path_factory.mktemp("clip")
        for name in ("params", "book"):
            (root / name).mkdir()
        patch.chdir(root)
        config = recipe.BackboneConfig(**WITH_CLIP, **SHAPE)  # type: ignore[arg-type]
        yield recipe.backbone(config, profile="smoke"), recipe.trained_clip(CLIP, profile="smoke")


def test_with_a_mini_clip_the_text_encoder_is_its_own(with_clip: tuple[Path, Path]) -> None:
    folder, clip = with_clip
    taken = load_codec(folder).text_encoder.state_dict()
    there = CLIPTextModel.from_pretrained(clip, torch_dtype=torch.float32).state_dict()
    assert all(torch.equal(taken[name], weights) for name, weights in there.items())
    words = ["small red star left of the blue moon"]
    theirs = CLIPTokenizer.from_pretrained(clip)
    assert load_codec(folder).tokenizer(words).input_ids == theirs(words).input_ids
    unet = load_unet(folder)
    assert tuple(unet.config.block_out_channels) == (16, 32, 32)
    attention = [block.attentions[0].transformer_blocks[0].attn1 for block in unet.down_blocks[:2]]
    assert [each.heads for each in attention] == [1, 2]
    assert unet.config.layers_per_block == 1
    assert not (folder / PARTS).exists()


def test_captions_are_made_for_each_batch(with_clip: tuple[Path, Path]) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(with_clip[1])
    layout = recipe.clip_gallery(CLIP, kept=with_clip[1] / "gallery.npz").layout
    gallery = EncodedGallery(torch.arange(8.0)[:, None], layout, tokenizer)

    def texts(step: int) -> list[str]:
        tokens = described_batch([gallery], step, size=8, seed=0).tokens
        return tokenizer.batch_decode(tokens, skip_special_tokens=True)

    assert texts(1) == texts(1)
    said = [text for step in range(1, 60) for text in texts(step)]
    empty, several = (np.mean([test(t) for t in said]) for test in (lambda t: not t, _several))
    assert 0.06 < empty < 0.14 and 0.2 < several < 0.5  # a quarter of the pictures have one thing
    first = described_batch([gallery], 1, size=8, seed=0)
    for number, text in zip(first.latents[:, 0].int().tolist(), texts(1), strict=True):
        assert not text or SHAPES[layout.things[number, 0, 0]] in text or layout.counts[number] > 1
    # one epoch shows each picture once, and so do two processes together, in other words
    assert sorted(first.latents[:, 0].tolist()) == list(range(8))
    two = [described_batch([gallery], 1, size=8, seed=0, share=(k, 2)) for k in range(2)]
    assert sorted(n for each in two for n in each.latents[:, 0].tolist()) == list(range(8))
    assert two[0].seed != two[1].seed


def test_each_gallery_has_its_part_of_a_batch(with_clip: tuple[Path, Path]) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(with_clip[1])
    scenes = recipe.clip_gallery(CLIP, kept=with_clip[1] / "gallery.npz").layout
    filled = draw_gallery(seed=0, count=8, pixels=32, filled=True, workers=1).layout
    galleries = [
        EncodedGallery(torch.arange(first, first + 8.0)[:, None], layout, tokenizer, noise)
        for first, layout, noise in ((0, scenes, 0.5), (8, filled, 0.0))
    ]
    for step in range(1, 20):
        batch = described_batch(galleries, step, size=15, seed=0)
        numbers = batch.latents[:, 0].int().tolist()
        assert len(set(numbers[:7])) == 7 and max(numbers[:7]) < 8 <= min(numbers[7:])
        assert sorted(numbers[7:]) == list(range(8, 16))
        assert batch.pictures.tolist() == [0.5] * 7 + [0.0] * 8
        texts = tokenizer.batch_decode(batch.tokens, skip_special_tokens=True)
        for number, text in zip(numbers[7:], texts[7:], strict=True):
            assert not text or SHAPES[filled.things[number - 8, 0, 0]] in text
    two = [described_batch(galleries, 1, size=16, seed=0, share=(k, 2)) for k in range(2)]
    assert sorted(n for each in two for n in each.latents[:, 0].tolist()) == list(range(16))


class OfBothShares(nn.Module):
    """What two processes learn from, in one."""

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, shares: list[Noised]) -> Losses:
        return Losses(torch.cat([self.objective(each).loss for each in shares]))


def make_in_two(root: Path, config: recipe.BackboneConfig) -> None:
    os.chdir(root)
    recipe.backbone(config, profile="smoke")


@pytest.mark.integration
def test_two_processes_train_what_one_does_with_both_their_shares(
    with_clip: tuple[Path, Path],
) -> None:
    folder, clip = with_clip
    changes = {"unet_steps": 3, "unet_lr": 0.02, "filled": 4, "min_snr": 1.0}
    config = recipe.BackboneConfig(**WITH_CLIP | changes, **SHAPE)  # type: ignore[arg-type]
    run_two(make_in_two, folder.parents[3], config)
    two = folder.with_name(recipe.backbone_stage(config).folder)

    vae, gallery = load_codec(folder).vae, recipe.clip_gallery(CLIP, kept=folder / "gallery.npz")
    filled = draw_gallery(seed=0, count=4, pixels=32, filled=True, workers=1)

    def encoded(drawn: Gallery, noise: float) -> EncodedGallery:
        z = recipe._modes(vae, torch.from_numpy(drawn.images)) * vae.config.scaling_factor
        return EncodedGallery(z, drawn.layout, CLIPTokenizer.from_pretrained(clip), noise)

    galleries = [encoded(gallery, 0.5), encoded(filled, 0.0)]
    unet = seeded(config.seed + 2, lambda: small_unet(4, *(SHAPE[k] for k in LAYOUT)))  # type: ignore[arg-type]
    text_encoder = load_codec(folder).text_encoder.float()
    objective = TextToImageObjective(unet, text_encoder, noise_schedule(), min_snr=1.0)

    def shares(step: int) -> list[Noised]:
        each = {"size": config.unet_batch, "seed": config.seed}
        return [described_batch(galleries, step, share=(k, 2), **each) for k in range(2)]

    optimiser = OptimiserConfig.from_scratch(steps=3, lr=config.unet_lr, warmup=200)
    steps = fit(OfBothShares(objective), shares, optimiser, accelerator=quick_accelerator())
    losses = [step.loss for step in steps]
    kept = [step.loss for step in read_steps(two / "steps.jsonl")]
    assert kept == pytest.approx(losses, rel=2e-3)
    begun = seeded(config.seed + 2, lambda: small_unet(4, *(SHAPE[k] for k in LAYOUT)))  # type: ignore[arg-type]
    as_vector = nn.utils.parameters_to_vector
    theirs, ours, first = (as_vector(m.parameters()) for m in (load_unet(two), unet, begun))
    moved, apart = (ours - first).abs().mean(), (theirs - ours).abs().mean()
    assert moved > 1e-4 and apart < 0.2 * moved, (moved, apart)


def test_the_clip_under_it_says_what_it_draws(
    with_clip: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe.BackboneConfig(**WITH_CLIP, **SHAPE)  # type: ignore[arg-type]
    asked = recognition.RecognitionConfig(pictures=3, steps=1, kept=2)
    told = recognition.recognition(asked, config, profile="smoke")
    clip, tokenizer = load_clip(with_clip[1])
    pictures, shown = recognition.true_pictures(3, pixels=32, seed=0)
    assert told["true pictures"] == recognition.recognised(clip, tokenizer, pictures, shown)
    drawn = recognition.draw(
        with_clip[0],
        [" ".join(pair) for pair in recognition.PAIRS[:3]],
        pixels=32,
        device=torch.device("cpu"),
        steps=1,
    )
    found = recognition.recognised(clip, tokenizer, drawn, recognition.PAIRS[:3])
    assert told["drawn by the backbone"] == found
    monkeypatch.delattr(recognition, "draw")  # it is found, not drawn again
    assert recognition.recognition(asked, config, profile="smoke") == told
    stay = recognition.kept_pictures(asked, config, profile="smoke")
    assert [said for said, _ in stay] == [" ".join(recognition.PAIRS[k]) for k in (0, 2)]
    assert all(np.array_equal(each, drawn[k]) for (_, each), k in zip(stay, (0, 2), strict=True))


def _several(text: str) -> bool:
    return "," in text


def test_the_small_autoencoder_has_stable_diffusions_layout() -> None:
    vae = small_autoencoder(pixels=64).eval()
    with torch.no_grad():
        z = vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mode()
        assert z.shape == (1, 4, 8, 8) and vae.decode(z).sample.shape == (1, 3, 64, 64)


def test_scaled_latents_differ_as_strongly_as_noise() -> None:
    """The images' latents from the masks', over the whole set: the mean square of v is 1."""
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(70, 32, 32, 3), dtype=np.uint8)
    masks = rng.random((70, 32, 32)) < 0.2
    vae = seeded(0, lambda: small_autoencoder(pixels=32)).eval()
    vae.register_to_config(scaling_factor=recipe.unit_difference(vae, images, masks))
    codec = LatentCodec(vae, None, None)  # type: ignore[arg-type]
    z1 = codec.encode(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1)
    z0 = codec.encode_mask(torch.from_numpy(masks))
    assert float((z1 - z0).square().mean()) == pytest.approx(1, rel=0.02)


def test_a_saved_backbone_is_loaded_in_single_precision(folder: Path) -> None:
    codec, unet = load_codec(folder), load_unet(folder)
    fresh = seeded(2, tiny_unet).half().float()
    assert all(
        torch.equal(p, q) for p, q in zip(unet.parameters(), fresh.parameters(), strict=True)
    )
    assert {p.dtype for p in unet.parameters()} == {torch.float32}
    assert codec.vae.config.scaling_factor == 0.25
    assert not any(p.requires_grad for p in unet.parameters())


def test_diffusers_own_pipeline_draws_with_it(folder: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    drawn = pipeline(
        CAPTIONS[0],
        height=16,
        width=16,
        num_inference_steps=2,
        generator=generator,
        output_type="np",
    )
    assert drawn.images.shape == (1, 16, 16, 3) and np.isfinite(drawn.images).all()
    assert sorted(p.suffix for p in folder.rglob("*model*") if p.is_file()) == [
        ".json",
        *[".safetensors"] * 3,
    ]


def test_the_unets_settings_do_not_make_another_autoencoder() -> None:
    base = recipe.BackboneConfig()
    other = recipe.BackboneConfig(
        unet_steps=1, unet_lr=0.5, unet_batch=3, clip=CLIP, channels=(8, 8, 8), heads=(1, 1, 1)
    )
    assert recipe.autoencoder_stage(base).hash == recipe.autoencoder_stage(other).hash
    assert recipe.backbone_stage(base).hash != recipe.backbone_stage(other).hash
    for change in ({"seed": 1}, {"vae_steps": 1}, {"kl_weight": 0.5}, {"pixels": 64}):
        changed = recipe.BackboneConfig(**change)  # type: ignore[arg-type]
        assert recipe.autoencoder_stage(base).hash != recipe.autoencoder_stage(changed).hash
        assert recipe.backbone_stage(base).hash != recipe.backbone_stage(changed).hash


def test_the_full_size_model_has_stable_diffusions_numbers() -> None:
    """Parameter counts of the public weights of Stable Diffusion 1.5."""
    with torch.device("meta"):
        parts = {
            "unet": full_size.UNet2DConditionModel(**full_size.UNET),
            "vae": full_size._autoencoder(),
            "text": full_size._text_encoder(),
        }
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    assert counts == {"unet": 859_520_964, "vae": 83_653_863, "text": 123_060_480}
    assert json.loads(json.dumps(full_size.UNET))["cross_attention_dim"] == 768
