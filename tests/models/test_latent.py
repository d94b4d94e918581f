"""Frozen parts, the latent cache, batches, and scoring with fields whose answer is known."""

from __future__ import annotations

import copy
import errno
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DecoderOutput
from tiny import CAPTIONS, TOKENS, WIDTH, tiny_backbone
from torch import Tensor

from rlfseg.config import SamplerConfig
from rlfseg.data.packed.prepare import Example
from rlfseg.data.packed.read import Pack
from rlfseg.data.packed.refined import add_refined
from rlfseg.data.packed.schema import PackError, index_path
from rlfseg.data.packed.write import write_pack
from rlfseg.evaluation.boundary import boundary_f
from rlfseg.evaluation.predict import other_captions, predict
from rlfseg.evaluation.score import boundaries, evaluate
from rlfseg.method.sampling import one_step
from rlfseg.method.types import Velocity
from rlfseg.models import latent_cache, latent_codec
from rlfseg.models.latent_cache import LatentCache
from rlfseg.models.latent_codec import LatentCodec, load_codec
from rlfseg.training.flow_batch import batch_items, draw_times, flow_batch

SIDE = 16
SHARED = "a"  # an image with two phrases for one mask and one for another
WORDS = {SHARED: ("left", "west", "right"), "b": ("top", "bottom"), "c": ("all",), "d": ("x", "y")}
ITEMS = [(image, word) for image, words in WORDS.items() for word in words]


def mask(word: str, *, exact: bool = False) -> np.ndarray:
    found = np.zeros((SIDE, SIDE), bool)
    places = {
        "left": np.s_[:, :6],
        "west": np.s_[:, :6],
        "right": np.s_[:, 9:],
        "top": np.s_[:5],
        "bottom": np.s_[11:],
        "all": np.s_[2:14, 2:14],
        "x": np.s_[3:9, 3:9],
        "y": np.s_[3:9, 3:9],
    }
    found[places[word]] = True
    return np.roll(found, 2, axis=(0, 1)) if exact else found


def packed(path: Path, *, exact: bool) -> Pack:
    """A packed file of all items, with the exact masks or without."""
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8) for name in WORDS}
    examples = [
        Example(image, images[image], word, mask(word), mask(word, exact=True) if exact else None)
        for image, word in ITEMS
    ]
    write_pack(examples, path, size=SIDE)
    return Pack(path)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return packed(tmp_path_factory.mktemp("pack") / "test.h5", exact=True)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> LatentCodec:
    return load_codec(tiny_backbone(tmp_path_factory.mktemp("backbone")))


@pytest.fixture
def cache(pack: Pack, codec: LatentCodec, tmp_path: Path) -> LatentCache:
    return LatentCache(tmp_path / "cache", pack, codec)


# --- frozen parts ----------------------------------------------------------------------------


def test_a_decoding_that_overflows_is_done_again_in_full(
    codec: LatentCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    z = torch.randn(3, 4, 2, 2)
    exact, decode = codec.decode_image(z), codec.vae.decode

    def overflowing(unscaled: Tensor) -> DecoderOutput:
        found = decode(unscaled)
        return found if found.sample.dtype == torch.float32 else DecoderOutput(found.sample / 0)

    quick = replace(codec, decoding=torch.bfloat16)
    assert not torch.equal(quick.decode_image(z), exact)
    monkeypatch.setattr(codec.vae, "decode", overflowing)
    assert torch.equal(quick.decode_image(z), exact)


def test_pictures_are_encoded_to_the_scaled_mode_of_the_posterior(codec: LatentCodec) -> None:
    image = torch.rand(2, 3, 16, 24) * 2 - 1
    with torch.no_grad():
        mean = codec.vae.encode(image).latent_dist.mean
    z = codec.encode(image)
    assert codec.factor == 2 and z.shape == (2, 4, 8, 12) and z.dtype == torch.float32
    torch.testing.assert_close(z, mean * 0.25)  # the tiny autoencoder's scaling factor
    assert torch.equal(z, codec.encode(image))  # nothing is drawn


def test_the_decoder_gets_unscaled_latents_and_scores_are_the_mean_of_rgb(
    codec: LatentCodec,
) -> None:
    z = torch.randn(2, 4, 8, 12)
    with torch.no_grad():
        picture = codec.vae.decode(z / 0.25).sample
    torch.testing.assert_close(codec.decode_image(z), picture)
    scores = codec.decode(z)
    assert scores.shape == (2, 16, 24)
    torch.testing.assert_close(scores, picture.sum(1) / 6 + 0.5)


def test_white_decodes_to_one_and_black_to_nothing() -> None:
    class Exact:
        """An autoencoder that loses nothing: latents are pictures times the scaling factor."""

        config = SimpleNamespace(scaling_factor=0.5, block_out_channels=(1,))
        device, dtype = torch.device("cpu"), torch.float32

        def encode(self, image: Tensor) -> SimpleNamespace:
            return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: image))

        def decode(self, z: Tensor) -> SimpleNamespace:
            return SimpleNamespace(sample=z)

    codec = LatentCodec(Exact(), None, None)  # type: ignore[arg-type]
    masks = torch.rand(3, 4, 5) > 0.5
    z = codec.encode_mask(masks)
    assert z.shape == (3, 3, 4, 5) and set(z.unique().tolist()) == {-0.5, 0.5}
    assert torch.equal(codec.decode(z), masks.float())
    assert set(codec.decode(3 * z).unique().tolist()) == {-1.0, 2.0}  # scores are not clamped
    assert torch.equal(codec.decode(codec.black(4)), torch.zeros(1, 4, 4))


def test_a_mask_is_encoded_as_a_black_and_white_picture(codec: LatentCodec) -> None:
    masks = torch.rand(3, 16, 16) > 0.5
    picture = torch.where(masks, 1.0, -1.0)[:, None].repeat(1, 3, 1, 1)
    torch.testing.assert_close(codec.encode_mask(masks), codec.encode(picture))
    empty = torch.zeros(1, 16, 16, dtype=torch.bool)
    torch.testing.assert_close(codec.black(16), codec.encode_mask(empty))


def test_white_is_the_latent_of_a_mask_of_everything(codec: LatentCodec) -> None:
    everything = torch.ones(1, 16, 16, dtype=torch.bool)
    torch.testing.assert_close(codec.white(16), codec.encode_mask(everything))


def test_sides_that_do_not_fit_are_named(codec: LatentCodec) -> None:
    with pytest.raises(ValueError, match="multiples of 2, got 16 x 15"):
        codec.encode(torch.zeros(1, 3, 16, 15))


def test_texts_become_the_last_hidden_state(codec: LatentCodec) -> None:
    long = " ".join(CAPTIONS * 9)
    text = codec.text([CAPTIONS[0], "", long])
    assert text.shape == (3, TOKENS, WIDTH) and text.dtype == torch.float32
    assert not torch.allclose(text[0], text[1])
    torch.testing.assert_close(text[:1], codec.text([CAPTIONS[0]]))
    padded = codec.tokenizer(
        CAPTIONS[0], padding="max_length", max_length=TOKENS, return_tensors="pt"
    )
    with torch.no_grad():
        hidden = codec.text_encoder(padded.input_ids).last_hidden_state
    torch.testing.assert_close(text[:1], hidden)


def test_frozen_parts_are_frozen_and_in_single_precision(codec: LatentCodec) -> None:
    for model in (codec.vae, codec.text_encoder):
        assert not model.training and not any(p.requires_grad for p in model.parameters())
        assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("place", ["./nowhere", "/no/where/at/all", "nowhere", "a/b/c"])
def test_a_backbone_that_is_not_there_is_named(place: str) -> None:
    with pytest.raises(FileNotFoundError, match=place):
        load_codec(place)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_codec(Path("owner/nowhere"))


# --- cache and batches -----------------------------------------------------------------------


def test_cached_latents_are_the_direct_ones_in_half_precision(
    cache: LatentCache, pack: Pack, codec: LatentCodec
) -> None:
    items = [6, 0, 3, 0, 1]
    images = torch.from_numpy(np.stack([pack[i].image for i in items])).permute(0, 3, 1, 2)
    masks = torch.from_numpy(np.stack([pack[i].mask for i in items]))
    for made, direct in (
        (cache.z1(items), codec.encode(images / 127.5 - 1)),
        (cache.z0(items), codec.encode_mask(masks)),
    ):
        assert made.dtype == torch.float32
        torch.testing.assert_close(made, direct, atol=1e-4, rtol=1e-3)
        assert torch.equal(made, made.half().float())


class Counting:
    """A `LatentCodec` that counts the pictures it encodes."""

    def __init__(self, codec: LatentCodec) -> None:
        self.codec = codec
        self.encoded = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.codec, name)

    def encode(self, image: Tensor) -> Tensor:
        self.encoded += len(image)
        return self.codec.encode(image)

    def encode_mask(self, masks: Tensor) -> Tensor:
        self.encoded += len(masks)
        return self.codec.encode_mask(masks)


def test_nothing_is_encoded_twice(pack: Pack, codec: LatentCodec, tmp_path: Path) -> None:
    counting = Counting(codec)
    cache = LatentCache(tmp_path, pack, counting)  # type: ignore[arg-type]
    first = cache.z1([0, 1, 2])
    assert counting.encoded == 1  # three phrases of one image
    cache.z1([0, 3])
    assert counting.encoded == 2
    masks = cache.z0([0, 1, 0])
    assert counting.encoded == 4
    again = LatentCache(tmp_path, pack, counting)  # type: ignore[arg-type]
    assert torch.equal(again.z1([0, 1, 2]), first) and torch.equal(again.z0([0, 1, 0]), masks)
    assert counting.encoded == 4


def test_filled_in_shares_it_holds_what_is_asked_for_one_by_one(
    cache: LatentCache, pack: Pack, codec: LatentCodec, tmp_path: Path
) -> None:
    counting = Counting(codec)
    filled = LatentCache(tmp_path / "filled", pack, counting)  # type: ignore[arg-type]
    filled.z0([2])
    counts = [filled.fill(share=(rank, 3)) for rank in range(3)]
    assert sum(counts) == len(pack.image_ids) + len(pack) - 1 and min(counts) > 0
    assert counting.encoded == len(pack.image_ids) + len(pack)
    for item in range(len(pack)):
        torch.testing.assert_close(filled.z1([item]), cache.z1([item]))
        torch.testing.assert_close(filled.z0([item]), cache.z0([item]))
    assert filled.fill() == 0 and counting.encoded == len(pack.image_ids) + len(pack)


@pytest.mark.parametrize("filled", [False, True])
def test_latents_that_are_encoded_in_batches_are_the_direct_ones(
    pack: Pack, codec: LatentCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filled: bool
) -> None:
    monkeypatch.setattr(latent_cache, "_BATCH", 3)
    items, counting = list(reversed(ALL)), Counting(codec)
    images = torch.from_numpy(np.stack([pack[i].image for i in items])).permute(0, 3, 1, 2)
    masks = torch.from_numpy(np.stack([pack[i].mask for i in items]))
    wanted = codec.encode(images / 127.5 - 1), codec.encode_mask(masks)
    cache = LatentCache(tmp_path, pack, counting)  # type: ignore[arg-type]
    cache.z0([4])  # so that what is missing has a gap
    every = len(WORDS) + len(ITEMS)
    if filled:
        assert cache.fill() == every - 1 and counting.encoded == every
    for _ in ("as they are made", "as they are kept"):
        torch.testing.assert_close(cache.z1(items), wanted[0], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(cache.z0(items), wanted[1], atol=1e-4, rtol=1e-3)
        assert counting.encoded == every  # each once


def test_refined_masks_are_filled_in_too(
    pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (pack.path.name, index_path(pack.path).name):
        shutil.copy(pack.path.with_name(name), tmp_path)
    pack = Pack(tmp_path / pack.path.name)
    with pytest.raises(PackError, match="mask_refined"):
        pack.refined(0)
    add_refined(pack, [~pack.annotation(item) for item in range(len(pack))], made_of="turned")
    monkeypatch.setattr(Pack, "masks", lambda *_: pytest.fail("more is read than one mask"))
    lossless = LatentCache(tmp_path / "cache", pack, Lossless())  # type: ignore[arg-type]
    assert lossless.fill() == len(pack.image_ids) + 2 * len(pack)
    items = list(range(len(pack)))
    assert torch.equal(lossless.z0_refined(items), -lossless.z0(items))


NAMES = ("images.npy", "masks.npy", "image_checks.npy", "mask_checks.npy")


@pytest.mark.parametrize("file", NAMES)
@pytest.mark.parametrize("keep", [0, 60, 128, 0.5, -1])
@pytest.mark.filterwarnings("ignore:.* was cut off; what it lost is encoded again")
def test_what_a_cut_array_lost_is_encoded_again(
    pack: Pack, codec: LatentCodec, tmp_path: Path, file: str, keep: float
) -> None:
    items = list(range(len(pack)))
    first = LatentCache(tmp_path, pack, codec)
    wanted = first.z1(items), first.z0(items)
    data = (tmp_path / file).read_bytes()
    left = int(len(data) * keep) if 0 < keep < 1 else int(keep)
    (tmp_path / file).write_bytes(data[:left])
    counting = Counting(codec)
    again = LatentCache(tmp_path, pack, counting)  # type: ignore[arg-type]
    if keep == 0.5:
        assert again.fill() > 0  # beforehand too
    torch.testing.assert_close(again.z1(items), wanted[0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(again.z0(items), wanted[1], atol=1e-4, rtol=1e-3)
    rows = len(pack.image_ids) if "image" in file else len(pack)
    if keep == 0.5:
        assert 0 < counting.encoded < rows or "checks" in file  # of which half is the head
    else:
        assert counting.encoded == (1 if keep == -1 else rows)


def test_a_row_that_was_changed_is_encoded_again(
    pack: Pack, codec: LatentCodec, tmp_path: Path
) -> None:
    items, counting = list(range(len(pack))), Counting(codec)
    cache = LatentCache(tmp_path, pack, counting)  # type: ignore[arg-type]
    wanted = cache.z0(items)
    values = np.load(tmp_path / "masks.npy", mmap_mode="r+")
    values[2] = 0  # as where a page never reached the disk
    values[4, 1, 2, 3] += np.float16(0.01)
    counting.encoded = 0
    torch.testing.assert_close(cache.z0(items), wanted, atol=1e-4, rtol=1e-3)
    assert counting.encoded == 2
    cache.z0(items)
    assert counting.encoded == 2


def test_the_space_of_all_latents_is_taken_first(
    pack: Pack, codec: LatentCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = LatentCache(tmp_path / "roomy", pack, codec)
    cache.z1([0])
    assert not (tmp_path / "roomy" / "masks.npy").exists()  # who scores reads none
    cache.z0([0])  # takes that of all masks
    for name in NAMES:
        there = (tmp_path / "roomy" / name).stat()
        assert there.st_blocks * 512 >= there.st_size

    def full(file: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match=r"images\.npy.* can't have its .* GB .*No space left"):
        LatentCache(tmp_path / "full", pack, codec)
    assert not list((tmp_path / "full").glob("*.npy"))
    monkeypatch.undo()
    LatentCache(tmp_path / "full", pack, codec).z0([1])


def test_files_of_a_cache_that_make_no_sense_are_named(
    pack: Pack, codec: LatentCodec, tmp_path: Path
) -> None:
    cache = LatentCache(tmp_path, pack, codec)
    cache.z0([0])
    other = np.zeros((len(pack), 4, 9, 9), np.float16)
    for file, content in (
        ("made_of.json", b""),
        ("made_of.json", b'{"data": "01'),
        ("masks.npy", bytes((tmp_path / "masks.npy").stat().st_size)),
    ):
        path = tmp_path / file
        whole = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{file} can't be read .*; delete {tmp_path} and"):
            LatentCache(tmp_path, pack, codec).z0([0])
        path.write_bytes(whole)
    np.save(tmp_path / "masks.npy", other)
    with pytest.raises(ValueError, match=r"masks\.npy holds float16 .*9, 9\), not float16 .*8, 8"):
        LatentCache(tmp_path, pack, codec).z0([0])


def test_a_cache_of_other_data_is_refused(pack: Pack, codec: LatentCodec, tmp_path: Path) -> None:
    LatentCache(tmp_path / "cache", pack, codec)
    other = tmp_path / "other.h5"
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    write_pack([Example("a", image, "left", mask("left"))], other, size=SIDE)
    with pytest.raises(ValueError, match="cache holds latents of another data: delete it"):
        LatentCache(tmp_path / "cache", Pack(other), codec)


def test_a_cache_of_another_autoencoder_is_refused(
    pack: Pack, codec: LatentCodec, tmp_path: Path
) -> None:
    cache = LatentCache(tmp_path, pack, codec)
    z = cache.z1([0])
    other = copy.deepcopy(codec.vae)
    for change in (
        lambda: other.encoder.conv_in.bias.data.add_(1e-3),
        lambda: other.register_to_config(scaling_factor=0.3),
    ):
        change()
        with pytest.raises(ValueError, match="holds latents of another autoencoder: delete it"):
            LatentCache(tmp_path, pack, LatentCodec(other, codec.tokenizer, codec.text_encoder))
    same = LatentCodec(copy.deepcopy(codec.vae), codec.tokenizer, codec.text_encoder)
    assert torch.equal(LatentCache(tmp_path, pack, same).z1([0]), z)


def test_decoding_in_bfloat16_moves_scores_a_little(codec: LatentCodec) -> None:
    z = torch.randn(3, 4, SIDE // 2, SIDE // 2, generator=torch.Generator().manual_seed(0))
    fast = replace(codec, decoding=torch.bfloat16)
    exact, moved = codec.decode(z), fast.decode(z)
    assert moved.dtype == torch.float32
    assert 0 < float((exact - moved).abs().max()) < 0.02
    assert torch.equal(codec.encode(codec.decode_image(z)), fast.encode(codec.decode_image(z)))


def test_a_batch_is_a_function_of_seed_and_step(cache: LatentCache, pack: Pack) -> None:
    for step in (1, 2, 5):
        batch = flow_batch(cache, step, size=3, time="uniform", selection="original", seed=7)
        items = batch_items(len(pack), 3, seed=7, step=step)
        assert torch.equal(batch.z1, cache.z1(items)) and torch.equal(batch.z0, cache.z0(items))
        torch.testing.assert_close(batch.c, cache.codec.text([pack.caption(i) for i in items]))
        assert torch.equal(batch.t, draw_times(3, kind="uniform", seed=7, step=step))
        assert batch.z0_refined is None and batch.area is None


@pytest.mark.parametrize(("time", "at_one"), [("one", True), ("uniform", False)])
def test_a_batch_says_whether_its_times_are_all_one(
    cache: LatentCache, time: str, at_one: bool
) -> None:
    batch = flow_batch(cache, 1, size=4, time=time, selection="original", seed=7)
    assert batch.at_one is at_one and (batch.t == 1).tolist() == [at_one] * 4


def test_shares_of_a_batch_are_what_one_process_sees(cache: LatentCache, pack: Pack) -> None:
    how = {"size": 4, "time": "uniform", "selection": "original", "seed": 7}
    whole = flow_batch(cache, 3, **how)
    shares = [flow_batch(cache, 3, **how, share=(rank, 2)) for rank in range(2)]
    for name in ("z1", "z0", "c", "t"):
        parts = [getattr(share, name) for share in shares]
        torch.testing.assert_close(torch.stack(parts, 1).flatten(0, 1), getattr(whole, name))
    assert [name for pair in zip(*(s.names for s in shares), strict=True) for name in pair] == list(
        whole.names
    )
    with pytest.raises(ValueError, match="a batch of 4 can't be shared equally by 3 processes"):
        flow_batch(cache, 3, **how, share=(0, 3))


def test_refined_labels_are_cached_beside_the_annotations(pack: Pack, tmp_path: Path) -> None:
    for name in (pack.path.name, index_path(pack.path).name):
        shutil.copy(pack.path.with_name(name), tmp_path)
    pack = Pack(tmp_path / pack.path.name)
    lossless = LatentCache(tmp_path / "cache", pack, Lossless())  # type: ignore[arg-type]
    with pytest.raises(PackError, match="has no refined masks: refine them first"):
        flow_batch(lossless, 1, size=3, time="one", selection="exact", seed=7)
    masks = [pack.masks(item)[0] for item in range(len(pack))]
    add_refined(pack, [~each for each in masks], made_of="turned")
    batches = {
        name: flow_batch(lossless, 1, size=3, time="one", selection=name, seed=7)
        for name in ("original", "refined", "exact", "probe")
    }
    original, refined, exact, probe = batches.values()
    assert torch.equal(refined.z0, -original.z0) and refined.z0_refined is None
    for batch in (exact, probe):
        assert torch.equal(batch.z0, original.z0) and torch.equal(batch.z0_refined, refined.z0)
        items = batch_items(len(pack), 3, seed=7, step=1)
        assert batch.area.tolist() == pytest.approx([masks[i].mean() for i in items])


# --- scoring ---------------------------------------------------------------------------------


class Lossless:
    """In place of a `LatentCodec`: latents are pictures, a caption is its place in `ITEMS`."""

    factor = 1
    identity = "lossless"
    device = torch.device("cpu")
    vae = SimpleNamespace(config=SimpleNamespace(latent_channels=3))

    def encode(self, image: Tensor) -> Tensor:
        return image

    def encode_mask(self, masks: Tensor) -> Tensor:
        return (masks.float() * 2 - 1)[:, None].repeat(1, 3, 1, 1)

    def decode(self, z: Tensor) -> Tensor:
        return (z.mean(1) + 1) / 2

    def black(self, pixels: int) -> Tensor:
        return torch.full((1, 3, pixels, pixels), -1.0)

    def text(self, captions: Sequence[str]) -> Tensor:
        said = [word for _, word in ITEMS]
        return torch.tensor([float(said.index(caption)) for caption in captions])[:, None, None]


@pytest.fixture
def lossless(pack: Pack, tmp_path: Path) -> LatentCache:
    return LatentCache(tmp_path / "cache", pack, Lossless())  # type: ignore[arg-type]


def oracle(cache: LatentCache, *, reach: float = 1.0, exact: bool = False) -> Velocity:
    """The velocity towards the mask that the caption means, `reach` times as long."""

    def v(z: Tensor, t: Tensor, c: Tensor) -> Tensor:
        items = c[:, 0, 0].long().tolist()
        z0 = cache.z0(items)
        if exact:
            masks = np.stack([mask(ITEMS[i][1], exact=True) for i in items])
            z0 = cache.codec.encode_mask(torch.from_numpy(masks))
        return (cache.z1(items) - z0) * reach

    return v


ALL = list(range(len(ITEMS)))


@pytest.mark.parametrize("name", ["one", "steps", "aos", "aos_signed", "hss"])
def test_the_true_velocity_scores_everything(lossless: LatentCache, name: str) -> None:
    config = SamplerConfig(name=name, tol=0.05)
    scored = evaluate(oracle(lossless), lossless, ALL, config)
    assert len(scored.annotation) == len(ALL) and scored.truth is not None
    areas = np.array([mask(word).sum() for _, word in ITEMS])
    perfect = float(np.mean(areas / (1 + areas)))  # the protocol's + 1 in the denominator
    assert scored.annotation.miou().value == pytest.approx(perfect)
    assert scored.annotation.miou_lavt(0.5) == 1
    assert scored.truth.miou_lavt(0.5) < 0.8  # the exact masks lie elsewhere
    for prediction in predict(oracle(lossless), lossless, ALL, config):
        assert prediction.gamma.abs().max() < 1e-5


def test_boundaries_are_measured_against_the_exact_mask_at_a_threshold(
    lossless: LatentCache,
) -> None:
    one = SamplerConfig(name="one")
    way = {"cache": lossless, "items": ALL, "config": one}
    assert (boundaries(oracle(lossless, exact=True), **way, threshold=0.5) == 1).all()
    assert boundaries(oracle(lossless), **way, threshold=0.5).mean() < 1
    assert (boundaries(oracle(lossless, exact=True), **way, threshold=1.5) == 0).all()


def test_without_exact_masks_boundaries_are_measured_against_the_annotations(
    tmp_path: Path,
) -> None:
    cache = LatentCache(tmp_path, packed(tmp_path / "a.h5", exact=False), Lossless())  # type: ignore[arg-type]
    way = {"cache": cache, "items": ALL, "config": SamplerConfig(name="one"), "threshold": 0.5}
    assert (boundaries(oracle(cache), **way) == 1).all()
    elsewhere = [boundary_f(mask(word, exact=True), mask(word)) for _, word in ITEMS]
    assert len(set(elsewhere)) > 1 and max(elsewhere) < 1  # the case decides something
    assert boundaries(oracle(cache, exact=True), **way).tolist() == elsewhere


def test_the_truth_is_scored_against_the_truth(lossless: LatentCache) -> None:
    scored = evaluate(oracle(lossless, exact=True), lossless, ALL, SamplerConfig(name="one"))
    assert scored.truth is not None and scored.truth.miou_lavt(0.5) == 1
    assert scored.annotation.miou_lavt(0.5) < 0.8


def test_adaptive_sampling_lengthens_a_step_that_is_too_short(lossless: LatentCache) -> None:
    field = oracle(lossless, reach=1 / 1.02)
    config = SamplerConfig(name="aos", tol=0.2)
    for prediction in predict(field, lossless, ALL, config, batch=3):
        torch.testing.assert_close(
            prediction.gamma, torch.full_like(prediction.gamma, 0.02), atol=1e-3, rtol=0
        )


def test_items_captions_and_predictions_keep_together(lossless: LatentCache, pack: Pack) -> None:
    items, said = [7, 0, 3], ["y", "right", "bottom"]
    parts = list(predict(oracle(lossless), lossless, items, SamplerConfig(), batch=2))
    assert [len(part.items) for part in parts] == [2, 1]
    assert np.concatenate([part.items for part in parts]).tolist() == items
    scores = torch.cat([part.scores for part in parts]) > 0.5
    assert np.array_equal(scores.numpy(), np.stack([pack[i].mask for i in items]))
    z1 = lossless.z1(items)
    c = lossless.codec.text(said)
    by_hand = lossless.codec.decode(one_step(oracle(lossless), z1=z1, c=c).z0)
    one = next(predict(oracle(lossless), lossless, items, SamplerConfig(name="one"), captions=said))
    torch.testing.assert_close(one.scores, by_hand)
    assert not np.array_equal((by_hand > 0.5).numpy(), scores.numpy())


def test_another_phrase_scores_against_the_items_own_mask(lossless: LatentCache) -> None:
    kept, said = other_captions(lossless, ALL)
    scored = evaluate(oracle(lossless), lossless, kept, SamplerConfig(name="one"), captions=said)
    assert scored.annotation.miou_lavt(0.5) == 0  # the other masks don't overlap with their own


def test_another_caption_never_means_the_same_mask(lossless: LatentCache, pack: Pack) -> None:
    kept, said = other_captions(lossless, ALL)
    # `all` is alone on its image; `x` and `y` mean the same
    assert [ITEMS[i][1] for i in kept] == ["left", "west", "right", "top", "bottom"]
    assert said == ["right", "right", "left", "bottom", "top"]
    for item, caption in zip(kept, said, strict=True):
        image = pack[item].image_id
        assert caption in pack.captions(image)
        assert not np.array_equal(pack[pack.find(image, caption)].mask, pack[item].mask)
    assert other_captions(lossless, [5]) == ([], [])


def test_areas_are_the_annotations_shares_whenever_they_are_asked_for(
    lossless: LatentCache, pack: Pack
) -> None:
    expected = np.array([pack[i].mask.mean() for i in range(len(pack))], np.float32)
    for items in ([3, 0, 3], [7, 3, 1], list(ALL)):
        assert np.array_equal(lossless.area(items).numpy(), expected[items])


def test_two_outlines_of_one_thing_are_not_another_phrase() -> None:
    """Annotators' hands differ: a mask that is only drawn anew doesn't mean something else."""
    masks = np.zeros((4, 10, 10), bool)
    masks[0, :4, :5] = masks[1, :4, 1:6] = True  # one thing, outlined twice
    masks[2, 3:, :4] = True  # something that touches it: 4 places of 44
    masks[3, 5:, 5:] = True

    class Four:
        image_ids, item_image = ["1"], [0, 0, 0, 0]

        def captions(self, image_id: str) -> list[str]:
            return list("abcd")

        def caption(self, item: int) -> str:
            return "abcd"[item]

        def find(self, image_id: str, caption: str) -> int:
            return "abcd".index(caption)

        def annotation(self, item: int) -> np.ndarray:
            return masks[item]

    class Cache:
        pack = Four()

    assert other_captions(Cache(), range(4)) == ([0, 1, 2, 3], list("ccda"))  # type: ignore[arg-type]
    masks[2, 2:, :4] = True  # now 8 of 44: they share too much
    assert other_captions(Cache(), range(4)) == ([0, 1, 2, 3], list("ddda"))  # type: ignore[arg-type]


def test_nothing_to_score_is_an_error(lossless: LatentCache) -> None:
    with pytest.raises(ValueError, match="no items to score"):
        evaluate(oracle(lossless), lossless, [], SamplerConfig())


def test_the_samplers_name_is_checked() -> None:
    with pytest.raises(ValueError, match="'euler'"):
        replace(SamplerConfig(), name="euler")


def test_many_pictures_are_coded_in_parts(
    codec: LatentCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of hundreds at once a GPU of eighty gigabytes couldn't hold the first layer's output."""
    pictures = torch.rand(5, 3, SIDE, SIDE) * 2 - 1
    together = codec.encode(pictures)
    sizes: list[int] = []
    encode = codec.vae.encode
    monkeypatch.setattr(latent_codec, "_MOST", 2)
    monkeypatch.setattr(codec.vae, "encode", lambda x: sizes.append(len(x)) or encode(x))
    torch.testing.assert_close(codec.encode(pictures), together, rtol=1e-4, atol=1e-5)
    assert sizes == [2, 2, 1]
