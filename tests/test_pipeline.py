"""The pipeline against the evaluation's path, against itself, and against stock diffusers."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from PIL import Image
from tiny import CAPTIONS, tiny_backbone

import rlfseg
from rlfseg import RLFSegPipeline
from rlfseg.__main__ import main
from rlfseg.config import SamplerConfig
from rlfseg.data.packed.prepare import Example
from rlfseg.data.packed.read import Pack
from rlfseg.data.packed.write import write_pack
from rlfseg.evaluation.predict import predict
from rlfseg.evaluation.sizes import at_size
from rlfseg.models.latent_cache import LatentCache
from rlfseg.models.latent_codec import load_codec
from rlfseg.models.unet import (
    ATTENTION,
    EVERYTHING,
    add_lora,
    as_velocity,
    load_trained,
    load_unet,
    save_trained,
)

SIDE = 16
RNG = np.random.default_rng(3)
PICTURES = [RNG.integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8) for _ in range(3)]
ASKED = [(0, CAPTIONS[0]), (0, CAPTIONS[1]), (1, CAPTIONS[2]), (2, CAPTIONS[0])]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_backbone(tmp_path_factory.mktemp("backbone") / "tiny")


def adapter(backbone: Path, folder: Path, targets: tuple[str, ...]) -> Path:
    """An adapter whose two halves are both at random, so that it changes something."""
    unet = load_unet(backbone)
    add_lora(unet, rank=2, targets=targets, seed=1)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(5)
        for name, parameter in unet.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    save_trained(unet, folder)
    return folder


@pytest.fixture(scope="module")
def trained(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapter(backbone, tmp_path_factory.mktemp("adapter"), ATTENTION)


@pytest.fixture
def pipe(backbone: Path, trained: Path) -> RLFSegPipeline:
    made = RLFSegPipeline.from_backbone(backbone, trained, threshold=0.4, tol=0.3)
    made.set_progress_bar_config(disable=True)
    return made


def all_scores(pipe: RLFSegPipeline, **more: object) -> np.ndarray:
    asked: list[list[str]] = [[p for n, p in ASKED if n == number] for number in range(3)]
    return np.stack(pipe(PICTURES, asked, **more).scores)  # type: ignore[arg-type]


@pytest.mark.integration
@pytest.mark.parametrize("name", ["one", "aos", "hss", "steps", "aos_signed"])
def test_it_is_the_evaluations_path(
    pipe: RLFSegPipeline, backbone: Path, trained: Path, tmp_path: Path, name: str
) -> None:
    mask = np.ones((SIDE, SIDE), bool)
    records = [Example(str(n), PICTURES[n], phrase, mask) for n, phrase in ASKED]
    write_pack(records, tmp_path / "a.h5", size=SIDE)
    cache = LatentCache(tmp_path / "cache", Pack(tmp_path / "a.h5"), load_codec(backbone))
    v = as_velocity(load_trained(backbone, trained))
    config = SamplerConfig(name, steps=3, tol=0.3)
    wanted = next(predict(v, cache, range(len(ASKED)), config))
    asked: list[list[str]] = [[p for n, p in ASKED if n == number] for number in range(3)]
    found = pipe(PICTURES, asked, sampler=name, num_steps=3)
    # the cache keeps latents in half precision
    np.testing.assert_allclose(np.stack(found.scores), wanted.scores.numpy(), atol=5e-3)
    np.testing.assert_allclose(found.gamma, wanted.gamma.numpy(), atol=2e-2)
    assert all(np.array_equal(m, s > 0.4) for m, s in zip(found.masks, found.scores, strict=True))


def test_together_equals_one_by_one(pipe: RLFSegPipeline) -> None:
    alone = [pipe(PICTURES[number], phrase).scores[0] for number, phrase in ASKED]
    for size in (1, 3, 8):
        np.testing.assert_allclose(all_scores(pipe, batch_size=size), np.stack(alone), atol=1e-5)
    assert np.abs(alone[0] - alone[1]).max() > 1e-3  # the phrase matters


def test_a_calls_threshold_takes_the_place_of_the_pipelines(pipe: RLFSegPipeline) -> None:
    scores = pipe(PICTURES[0], "red star").scores[0]
    level = float(np.median(scores))
    (mask,) = pipe(PICTURES[0], "red star", threshold=level).masks
    assert np.array_equal(mask, scores > level) and not np.array_equal(mask, scores > 0.4)


def test_a_calls_tol_takes_the_place_of_the_pipelines(
    pipe: RLFSegPipeline, backbone: Path, trained: Path
) -> None:
    other = RLFSegPipeline.from_backbone(backbone, trained, tol=0.7)
    found = all_scores(pipe, tol=0.7)
    np.testing.assert_allclose(found, all_scores(other), atol=1e-5)
    assert np.abs(found - all_scores(pipe)).max() > 1e-3


def test_a_picture_is_encoded_once(pipe: RLFSegPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    encode = pipe.vae.encode
    monkeypatch.setattr(pipe.vae, "encode", lambda x: seen.append(len(x)) or encode(x))
    pipe._kept_black = None
    pipe(PICTURES[0], list(CAPTIONS))
    assert sum(seen) == 2  # the picture, and the black one of AOS
    pipe(PICTURES[:2], [["a"], ["b"]])
    assert sum(seen) == 4  # the black one is known


def test_the_black_latent_follows_the_autoencoder(backbone: Path, pipe: RLFSegPipeline) -> None:
    """Other weights in the same autoencoder, another one, another precision: all are seen."""
    own = RLFSegPipeline.from_backbone(backbone)
    first = own._black(own.codec)
    torch.testing.assert_close(first, pipe.codec.black(pipe.side))
    with torch.no_grad():
        for parameter in own.vae.parameters():
            parameter.mul_(1.1)
    assert (own._black(own.codec) - first).abs().max() > 1e-3
    torch.testing.assert_close(own._black(own.codec), own.codec.black(own.side))
    own.vae = pipe.vae
    torch.testing.assert_close(own._black(own.codec), first)
    own.unet.register_to_config(sample_size=own.unet.config.sample_size * 2)
    assert own._black(own.codec).shape[-1] == 2 * first.shape[-1]
    assert own.to(torch.bfloat16)._black(own.codec).dtype == own.codec.black(own.side).dtype
    with torch.inference_mode():  # whose tensors count no changes
        loaded = RLFSegPipeline.from_backbone(backbone)
        assert len(loaded(PICTURES[0], CAPTIONS[0]).masks) == 1


def test_masks_have_the_pictures_own_size(pipe: RLFSegPipeline) -> None:
    wide = RNG.integers(256, size=(48, 80, 3), dtype=np.uint8)
    pictures = [wide, wide[:1, :1], np.resize(wide, (3, 700, 3))]
    out = pipe(pictures, ["red star"] * 3)
    assert [m.shape for m in out.masks] == [(48, 80), (1, 1), (3, 700)]
    assert out.masks[0].dtype == np.bool_
    small = Image.fromarray(wide).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    scores = torch.from_numpy(pipe(small, "red star").scores[0])[None, None]
    wanted = at_size(scores[0], 48, 80)[0]  # as scores are counted at a photograph's own size
    np.testing.assert_allclose(out.scores[0], wanted.numpy(), atol=1e-5)


def test_pictures_are_scaled_as_they_are_packed(pipe: RLFSegPipeline, tmp_path: Path) -> None:
    wide = RNG.integers(256, size=(30, 50, 3), dtype=np.uint8)
    write_pack([Example("a", wide, "b", np.ones((30, 50), bool))], tmp_path / "a.h5", size=SIDE)
    packed = Pack(tmp_path / "a.h5").image(0)
    own = pipe(wide, "red star", sampler="one").scores[0]
    small = torch.from_numpy(pipe(packed, "red star", sampler="one").scores[0])[None, None]
    wanted = at_size(small[0], 30, 50)[0]
    np.testing.assert_allclose(own, wanted.numpy(), atol=1e-5)


@pytest.mark.integration
def test_fast_is_half_precision_channels_last_and_compiled(backbone: Path, trained: Path) -> None:
    quick = RLFSegPipeline.from_backbone(backbone, trained, fast=True)
    for part in (quick.unet, quick.vae, quick.text_encoder):
        assert part.dtype == torch.bfloat16
    for part in (quick.unet.conv_in, quick.vae.decoder.conv_in):
        assert part.weight.is_contiguous(memory_format=torch.channels_last)
    for part in (quick.unet, quick.vae.encoder, quick.vae.decoder):
        assert part._compiled_call_impl is not None


@pytest.mark.parametrize("targets", [ATTENTION, EVERYTHING])
def test_a_merged_adapter_equals_one_beside_the_weights(
    backbone: Path, tmp_path: Path, targets: tuple[str, ...]
) -> None:
    folder = adapter(backbone, tmp_path, targets)
    merged = RLFSegPipeline.from_backbone(backbone, folder)
    assert not any("lora" in name for name, _ in merged.unet.named_parameters())
    z, c = torch.randn(2, 4, 8, 8), torch.randn(2, 12, 16)
    plain = as_velocity(load_trained(backbone, folder))(z, torch.ones(2), c)
    torch.testing.assert_close(
        as_velocity(merged.unet)(z, torch.ones(2), c), plain, atol=1e-5, rtol=0
    )
    bare = as_velocity(load_unet(backbone))(z, torch.ones(2), c)
    assert float((plain - bare).abs().max()) > 1e-2


def test_lora_weights_are_loaded_as_in_any_pipeline(
    pipe: RLFSegPipeline, backbone: Path, trained: Path
) -> None:
    loaded = RLFSegPipeline.from_backbone(backbone, tol=0.3)
    stock = StableDiffusionPipeline.from_pretrained(backbone, torch_dtype=torch.float32)
    for each in (loaded, stock):
        each.load_lora_weights(trained)
    np.testing.assert_allclose(all_scores(loaded), all_scores(pipe), atol=1e-5)
    z, c = torch.randn(1, 4, 8, 8), torch.randn(1, 12, 16)
    both = [each.unet(z, torch.tensor([999.0]), c).sample for each in (loaded, stock)]
    torch.testing.assert_close(*both)


def test_saved_and_loaded_it_gives_the_same_masks(pipe: RLFSegPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    again = RLFSegPipeline.from_pretrained(tmp_path)
    assert (again.config.threshold, again.config.tol) == (0.4, 0.3)
    assert again.tiny_vae is None and again.side == SIDE
    np.testing.assert_allclose(all_scores(again), all_scores(pipe), atol=1e-5)
    card = (tmp_path / "README.md").read_text()
    assert "16 x 16" in card and "above 0.4" in card
    kinds = {p.suffix for p in tmp_path.rglob("*") if p.is_file()}
    assert ".safetensors" in kinds and not kinds & {".bin", ".pkl", ".pt"}


def test_folders_may_be_given_as_texts(pipe: RLFSegPipeline, backbone: Path, trained: Path) -> None:
    loaded = RLFSegPipeline.from_backbone(str(backbone), str(trained), tol=0.3)
    np.testing.assert_allclose(all_scores(loaded), all_scores(pipe), atol=1e-6)


def test_stable_diffusions_folder_is_read(backbone: Path) -> None:
    loaded = RLFSegPipeline.from_pretrained(backbone, torch_dtype=torch.float32)
    direct = RLFSegPipeline.from_backbone(backbone)
    np.testing.assert_allclose(all_scores(loaded), all_scores(direct), atol=1e-6)


def test_half_the_precision_gives_nearly_the_same(
    pipe: RLFSegPipeline, backbone: Path, trained: Path
) -> None:
    exact = all_scores(pipe)
    rough = all_scores(pipe.to(torch.bfloat16))
    assert 0 < np.abs(rough - exact).mean() < 0.02


def test_a_decoder_that_overflows_is_asked_again_in_full(
    pipe: RLFSegPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    with torch.no_grad():
        pipe.vae.decoder.conv_out.weight *= 3e5
    exact = all_scores(pipe)
    assert np.isfinite(exact).all() and np.abs(exact).max() > 65504
    pipe.vae.to(torch.float16)
    with caplog.at_level(logging.WARNING):
        again = all_scores(pipe)
    assert np.isfinite(again).all() and "the decoder overflowed in torch.float16" in caplog.text
    assert np.corrcoef(again.ravel(), exact.ravel())[0, 1] > 0.99


def test_the_quick_decoder_takes_scaled_latents(pipe: RLFSegPipeline) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tiny = AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        )
    pipe.register_modules(tiny_vae=tiny)
    seen: list[torch.Tensor] = []
    decode = tiny.decode
    tiny.decode = lambda z: seen.append(z) or decode(z)
    quick = pipe(PICTURES[0], "red star", sampler="one", decoder="taesd")
    codec = pipe.codec
    z1 = codec.encode(torch.from_numpy(PICTURES[0]).permute(2, 0, 1)[None] / 127.5 - 1)
    z0 = z1 - pipe.velocity(z1, torch.ones(1), codec.text(["red star"]))
    torch.testing.assert_close(seen[0], z0)
    wanted = (decode(z0).sample.mean(1)[0] + 1) / 2
    np.testing.assert_allclose(quick.scores[0], wanted.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"sampler": "euler"}, "sampler: name is 'euler': .*'one', 'steps', 'aos'"),
        ({"decoder": "taesd"}, "decoder must be 'vae' here, got 'taesd'"),
        ({"num_steps": 0}, "sampler: steps is 0: .*greater than 0"),
        ({"tol": -1.0}, "sampler: tol is -1.0: .*greater than 0"),
    ],
)
def test_unknown_options_are_named(
    pipe: RLFSegPipeline, more: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(PICTURES[0], "red star", **more)  # type: ignore[arg-type]


def test_what_is_cut_from_a_long_phrase_is_named(
    pipe: RLFSegPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        pipe(PICTURES[0], "red star")
        assert "was cut" not in caplog.text
        pipe(PICTURES[0], "red star left of the small blue circle left of the green heart")
    assert "more than 12 tokens; this was cut: " in caplog.text and "heart" in caplog.text


# --- the command ------------------------------------------------------------------------------


@pytest.fixture
def saved(pipe: RLFSegPipeline, tmp_path: Path) -> Iterator[Path]:
    pipe.save_pretrained(tmp_path / "model")
    Image.fromarray(PICTURES[0]).resize((40, 30)).save(tmp_path / "photo.png")
    yield tmp_path


def test_a_file_whose_name_is_no_text_is_segmented_and_told(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(b"caf\xe9.png")  # Latin-1 where UTF-8 is spoken
    (saved / "photo.png").rename(saved / name)
    said = ["segment", f"{saved}/{name}", "\xe9toile", "-o", f"{saved}/{name[:-4]}_o.png"]
    assert main([*said, "--model", f"{saved}/model"]) == 0
    assert (saved / f"{name[:-4]}_o_mask.png").is_file()
    assert "caf\\udce9.png" in capsys.readouterr().out


def test_ctrl_c_ends_in_one_line(
    saved: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RLFSegPipeline, "from_pretrained", stopped)
    with pytest.raises(SystemExit) as ended:
        main(["segment", f"{saved}/photo.png", "star", "--model", f"{saved}/model"])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "stopped; the same command goes on\n"


def test_the_command_writes_mask_and_overlay(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = ["segment", f"{saved}/photo.png", "red star", "-o", f"{saved}/out.png"]
    assert main([*said, "--model", f"{saved}/model", "--threshold", "0.5"]) == 0
    model = RLFSegPipeline.from_pretrained(saved / "model")
    wanted = model(Image.open(saved / "photo.png"), "red star", threshold=0.5).masks[0]
    assert np.array_equal(np.asarray(Image.open(saved / "out_mask.png")), wanted)
    assert Image.open(saved / "out.png").size == (40, 30)
    assert f"'red star' is {wanted.mean():.1%} of {saved}/photo.png" in capsys.readouterr().out
    assert gc.isenabled()  # imports alone go without


def test_a_picture_whose_values_are_out_of_range_is_named(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.full((4, 4), 7, np.float32)).save(saved / "deep.tif")
    with pytest.raises(SystemExit):
        main(["segment", f"{saved}/deep.tif", "star", "--model", f"{saved}/model"])
    assert "deep.tif: a picture of floats lies in [0, 1]" in capsys.readouterr().err


def test_the_command_takes_several_phrases_and_pictures(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(PICTURES[1]).save(saved / "second.png")
    asked = ["segment", f"{saved}/photo.png", "red star", "moon", "--also", f"{saved}/second.png"]
    assert main([*asked, "-o", f"{saved}/out.png", "--model", f"{saved}/model"]) == 0
    model = RLFSegPipeline.from_pretrained(saved / "model")
    pictures = [Image.open(saved / name) for name in ("photo.png", "second.png")]
    masks = model(pictures, [["red star", "moon"]] * 2).masks
    for number, mask in enumerate(masks, 1):
        assert np.array_equal(np.asarray(Image.open(saved / f"out_{number}_mask.png")), mask)
        assert Image.open(saved / f"out_{number}.png").size == mask.shape[::-1]
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_a_picture_that_is_asked_is_not_written_over(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (saved / "photo.png").read_bytes()
    (saved / "x_mask.png").write_bytes(before)
    for photo, out in (("photo.png", "photo.png"), ("x_mask.png", "x.png")):
        with pytest.raises(SystemExit):
            main(["segment", f"{saved}/{photo}", "star", "-o", f"{saved}/{out}"])
        assert "give another name with -o" in capsys.readouterr().err
        assert (saved / photo).read_bytes() == before


@pytest.mark.integration
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"photo": "none.png"}, "there is no picture"),
        ({"photo": "model/model_index.json"}, "is no picture that can be read here"),
        ({"phrase": " "}, "' ' is no phrase"),
        ({"out": "out.jpg"}, "written as PNG"),
        ({"more": ["--threshold", "nan"]}, "threshold must be a number, as in 0.5, got nan"),
        (
            {"more": ["--sampler", "euler"]},
            "name is 'euler': Input should be 'one'",
        ),
        ({"model": "none.yml"}, r"none\.yml"),
    ],
)
def test_the_command_says_in_a_line_what_is_wrong(
    saved: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], message: str
) -> None:
    photo, phrase = change.get("photo", "photo.png"), str(change.get("phrase", "red star"))
    said = ["segment", f"{saved}/{photo}", phrase, "-o", f"{saved}/{change.get('out', 'out.png')}"]
    model = f"{saved}/{change.get('model', 'model')}"
    with pytest.raises(SystemExit) as stopped:
        main([*said, "--model", model, *change.get("more", [])])  # type: ignore[misc]
    told = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in told
    assert message.replace("\\", "") in told.strip().splitlines()[-1]  # after progress bars
    assert not list(saved.glob("out*"))


def test_the_package_has_no_other_name_for_it() -> None:
    assert rlfseg.RLFSegPipeline is RLFSegPipeline
    with pytest.raises(AttributeError, match="'Pipeline'"):
        rlfseg.Pipeline  # noqa: B018
