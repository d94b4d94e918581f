"""Ways in which people who know diffusers use a pipeline, and files as they come."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from diffusers import DiffusionPipeline
from PIL import Image
from test_pipeline import PICTURES, SIDE, adapter, all_scores
from tiny import tiny_backbone

from rlfseg import RLFSegPipeline
from rlfseg.models.latent_codec import load_codec
from rlfseg.models.unet import ATTENTION, load_trained


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_backbone(tmp_path_factory.mktemp("backbone") / "tiny")


@pytest.fixture(scope="module")
def trained(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapter(backbone, tmp_path_factory.mktemp("adapter"), ATTENTION)


def silent(pipe: RLFSegPipeline) -> RLFSegPipeline:
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(backbone: Path, trained: Path) -> RLFSegPipeline:
    return silent(RLFSegPipeline.from_backbone(backbone, trained, threshold=0.4, tol=0.3))


# --- saving and loading ---------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True])
def test_an_adapter_is_saved_with_the_pipeline(
    backbone: Path, trained: Path, tmp_path: Path, fused: bool
) -> None:
    pipe = silent(RLFSegPipeline.from_pretrained(backbone))
    bare = all_scores(pipe)
    pipe.load_lora_weights(trained)
    if fused:
        pipe.fuse_lora()
    expected = all_scores(pipe)
    pipe.save_pretrained(tmp_path)
    assert np.abs(all_scores(silent(RLFSegPipeline.from_pretrained(tmp_path))) - expected).max() < (
        1e-4
    )
    assert np.abs(expected - bare).max() > 1e-2
    assert np.array_equal(all_scores(pipe), expected)  # saving leaves it as it was


def test_its_components_make_the_same_pipeline(pipe: RLFSegPipeline) -> None:
    again = silent(RLFSegPipeline(**pipe.components))
    assert (again.config.threshold, again.config.tol) == (0.4, 0.3)
    assert np.array_equal(all_scores(again), all_scores(pipe))


def test_a_tuple_is_given_where_asked_for(pipe: RLFSegPipeline) -> None:
    masks, scores, gamma = pipe(PICTURES[0], "red star", return_dict=False)
    named = pipe(PICTURES[0], "red star")
    assert np.array_equal(masks, named.masks) and np.array_equal(scores, named.scores)
    assert gamma == named.gamma


def test_what_is_loaded_is_float32_unless_told_else(pipe: RLFSegPipeline, tmp_path: Path) -> None:
    pipe.to(dtype=torch.float16).save_pretrained(tmp_path)
    for asked, dtype in (({}, torch.float32), ({"dtype": torch.bfloat16}, torch.bfloat16)):
        found = RLFSegPipeline.from_pretrained(tmp_path, **asked)
        assert {part.dtype for part in (found.vae, found.text_encoder, found.unet)} == {dtype}


def test_pickled_weights_are_refused(pipe: RLFSegPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(ValueError, match=r"can't be loaded .* as safetensors"):
        RLFSegPipeline.from_pretrained(tmp_path)


def test_diffusers_finds_its_class_by_name(pipe: RLFSegPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    found = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(found) is RLFSegPipeline and found.config.threshold == 0.4


def test_half_weights_alone_are_found(pipe: RLFSegPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path, variant="fp16")
    asked = RLFSegPipeline.from_pretrained(tmp_path, variant="fp16", torch_dtype=torch.float16)
    assert asked.unet.dtype == torch.float16
    expected = all_scores(pipe)
    found = all_scores(silent(RLFSegPipeline.from_backbone(tmp_path)))
    assert np.abs(found - expected).max() < 0.05


@pytest.mark.parametrize(
    ("size", "side"), [([8, 8], SIDE), (None, SIDE), (8, SIDE), ([8, 12], None)]
)
def test_a_sample_size_may_be_a_pair_or_nothing(
    backbone: Path, tmp_path: Path, size: object, side: int | None
) -> None:
    shutil.copytree(backbone, tmp_path / "b")
    config = tmp_path / "b" / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "sample_size": size}))
    pipe = silent(RLFSegPipeline.from_pretrained(tmp_path / "b"))
    if side is None:
        with pytest.raises(ValueError, match=r"sample_size is \[8, 12\]: pictures must be squares"):
            pipe(PICTURES[0], "red star")
    else:
        assert pipe.side == side
        assert np.isfinite(pipe(PICTURES[0], "red star").scores[0]).all()


def test_a_tokenizer_that_says_no_length_is_cut_to_the_encoders(
    backbone: Path, tmp_path: Path
) -> None:
    shutil.copytree(backbone, tmp_path / "b")
    file = tmp_path / "b" / "tokenizer" / "tokenizer_config.json"
    given = json.loads(file.read_text())
    for key in ("model_max_length", "max_length"):
        given.pop(key, None)
    file.write_text(json.dumps(given))
    pipe = silent(RLFSegPipeline.from_pretrained(tmp_path / "b"))
    assert pipe.tokenizer.model_max_length > 10**6
    usual = silent(RLFSegPipeline.from_pretrained(backbone))
    assert np.allclose(all_scores(pipe), all_scores(usual), atol=1e-5)
    assert np.isfinite(pipe(PICTURES[0], "red star " * 200).scores[0]).all()


# --- calling --------------------------------------------------------------------------------


def test_files_lists_and_batches(pipe: RLFSegPipeline, tmp_path: Path) -> None:
    Image.fromarray(PICTURES[0]).save(tmp_path / "a.png")
    expected = pipe(PICTURES[0], "red star").scores[0]
    for given in (tmp_path / "a.png", str(tmp_path / "a.png"), [Image.fromarray(PICTURES[0])]):
        assert np.array_equal(pipe(given, "red star").scores[0], expected)
    both = pipe(np.stack(PICTURES[:2]), "red star").scores
    assert len(both) == 2 and np.allclose(both[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"batch_size": -1}, "batch_size must be a whole number from 1 on, got -1"),
        ({"batch_size": 1.5}, "batch_size must be a whole number from 1 on, got 1.5"),
        ({"threshold": float("nan")}, "threshold must be a number, as in 0.5, got nan"),
        ({"threshold": "0.5"}, "threshold must be a number, as in 0.5, got '0.5'"),
    ],
)
def test_numbers_that_are_none_are_refused(
    pipe: RLFSegPipeline, more: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(PICTURES[0], "red star", **more)  # type: ignore[arg-type]


def test_weights_may_wait_elsewhere(pipe: RLFSegPipeline) -> None:
    """As `enable_sequential_cpu_offload` leaves them, with a CPU in the GPU's place."""
    expected = all_scores(pipe)
    for part in (pipe.vae, pipe.text_encoder, pipe.unet):
        cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)
    assert pipe.vae.device.type == "meta"
    assert np.allclose(all_scores(pipe), expected, atol=1e-5)


# --- what overflows -------------------------------------------------------------------------


def loud(pipe: RLFSegPipeline, part: str) -> None:
    """Give a part values beyond half precision, and its successor the inverse."""
    with torch.no_grad():
        if part == "encoder":
            pipe.vae.encoder.conv_out.weight *= 3e5
            pipe.vae.encoder.conv_out.bias *= 3e5
            pipe.vae.quant_conv.weight /= 3e5
        elif part == "UNet":
            pipe.unet.conv_out.weight *= 1e5
        else:
            encoder = getattr(pipe.text_encoder, "text_model", pipe.text_encoder)
            encoder.final_layer_norm.weight *= 4e4


@pytest.mark.parametrize("part", ["encoder", "UNet", "text encoder"])
def test_what_overflows_in_half_precision_is_computed_again(
    pipe: RLFSegPipeline, caplog: pytest.LogCaptureFixture, part: str
) -> None:
    loud(pipe, part)
    exact = all_scores(pipe, sampler="one")
    assert np.isfinite(exact).all()
    pipe.to(torch.float16)
    with caplog.at_level(logging.WARNING):
        again = all_scores(pipe, sampler="one")
    assert np.isfinite(again).all() and f"the {part} overflowed in torch.float16" in caplog.text
    assert np.corrcoef(again.ravel(), exact.ravel())[0, 1] > 0.98


def test_what_is_not_finite_in_full_is_an_error_that_names_the_part(pipe: RLFSegPipeline) -> None:
    with torch.no_grad():
        pipe.unet.conv_out.bias[0] = float("nan")
    with pytest.raises(ValueError, match="the UNet gives values that are not finite"):
        pipe(PICTURES[0], "red star")


# --- files that are broken ------------------------------------------------------------------

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 34381\n"
FILES = (
    ("unet", "diffusion_pytorch_model.safetensors"),
    ("vae", "diffusion_pytorch_model.safetensors"),
    ("text_encoder", "model.safetensors"),
    ("unet", "config.json"),
    ("tokenizer", "tokenizer.json"),
)


@pytest.mark.parametrize(("part", "file"), FILES)
@pytest.mark.parametrize("how", ["pointer", "cut", "empty", "missing"])
def test_a_broken_file_of_a_model_is_one_line(
    backbone: Path, tmp_path: Path, part: str, file: str, how: str
) -> None:
    folder = shutil.copytree(backbone, tmp_path / "b")
    path = folder / part / file
    whole = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {"pointer": POINTER.encode(), "cut": whole[: len(whole) // 2], "empty": b""}[how]
        )
    if (file, how) == ("tokenizer.json", "missing"):
        return  # vocabulary and merges will do
    for load in (RLFSegPipeline.from_pretrained, RLFSegPipeline.from_backbone):
        with pytest.raises((ValueError, FileNotFoundError)) as told:
            load(folder)
        assert str(folder) in str(told.value) and len(str(told.value).splitlines()) == 1
        if how == "pointer" and file.endswith(".safetensors"):
            assert f"{path} is a pointer of git-lfs" in str(told.value)


@pytest.mark.parametrize(
    ("key", "value", "place", "message"),
    [
        ("unet", ["evil", "X"], "unet/evil.py", r"has unet as \['evil', 'X'\]"),
        ("tiny_vae", ["evil", "X"], "tiny_vae/evil.py", r"has tiny_vae as \['evil', 'X'\]"),
        ("_class_name", ["evil", "X"], "evil.py", r"has _class_name as \['evil', 'X'\]"),
        ("vae", ["diffusers", "StableDiffusionPipeline"], "vae/x", "has vae as"),
        ("vae", ["diffusers", "AutoencoderKL"], "vae/diffusers.py", r"diffusers\.py might be run"),
        ("threshold", 0.5, "None.py", r"None\.py might be run"),
    ],
)
def test_no_code_of_a_models_folder_is_run(
    pipe: RLFSegPipeline, tmp_path: Path, key: str, value: object, place: str, message: str
) -> None:
    folder = tmp_path / "m"
    pipe.save_pretrained(folder)
    assert RLFSegPipeline.from_pretrained(folder).tiny_vae is None
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, key: value}))
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass X: pass\n")
    with pytest.raises(ValueError, match=message):
        RLFSegPipeline.from_pretrained(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("how", ["pointer", "cut", "empty"])
def test_a_broken_adapter_is_one_line(
    backbone: Path, trained: Path, tmp_path: Path, how: str
) -> None:
    folder = shutil.copytree(trained, tmp_path / "a")
    (path,) = folder.glob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes({"pointer": POINTER.encode(), "cut": whole[:-9], "empty": b""}[how])
    with pytest.raises(ValueError, match=r"can't be loaded|pointer of git-lfs") as told:
        load_trained(backbone, folder)
    assert str(folder) in str(told.value) and len(str(told.value).splitlines()) == 1


def test_pointers_are_looked_for_nowhere_near_a_name_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "other.safetensors").write_text(POINTER)
    with pytest.raises((ValueError, OSError)) as told:
        RLFSegPipeline.from_pretrained(tmp_path / "mistyped")
    assert "mistyped" in str(told.value) and "git-lfs" not in str(told.value)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises((ValueError, OSError), match=str(tmp_path)):
        load_codec(tmp_path)
