"""Weights trained elsewhere, scored as a run's own and never taken for them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tiny_run import TRAIN, given_run

from rlfseg.chapters.ablations import Ranks
from rlfseg.chapters.given import scored_given
from rlfseg.chapters.method import Data
from rlfseg.config import SamplerConfig
from rlfseg.experiment import Run, Scoring, scored, trained, with_weights
from rlfseg.models.unet import load_trained, load_unet
from rlfseg.stage import found, made_at, read_record

pytestmark = pytest.mark.integration

WAY = Scoring("test", 3, sampler=SamplerConfig("one"))


def adapter_of(run: Run, folder: Path) -> Path:
    """A copy of what a run's training ends in, as if it came from elsewhere."""
    folder.mkdir()
    shutil.copy(trained(run) / "pytorch_lora_weights.safetensors", folder)
    return folder


def test_a_runs_own_adapter_given_has_its_scores_in_a_place_of_its_own(
    run: Run, tmp_path: Path
) -> None:
    own, folder = scored(run, WAY).annotation, adapter_of(run, tmp_path / "theirs")
    given = with_weights(run, folder)
    assert np.array_equal(scored(given, WAY).annotation.histogram, own.histogram)
    place, ours = (made_at(each.scores_stage(WAY), profile="smoke") for each in (given, run))
    assert place != ours and read_record(place)["name"] == "scores-given"
    told = read_record(place)["settings"]["weights"]
    assert told == {"folder": "theirs", "sha256": given.given.sha256}  # and no machine's path
    (folder / "more.txt").write_text("another version")
    other = with_weights(run, folder)
    assert other.scores_stage(WAY).hash != given.scores_stage(WAY).hash
    assert run.train_stage.name != given.train_stage.name == "given"


def test_a_whole_unet_given_is_the_one_that_is_scored(repo: Path, tmp_path: Path) -> None:
    full = given_run(train={**TRAIN, "rank": 0})
    own = scored(full, WAY).annotation
    folder = shutil.copytree(trained(full) / "unet", tmp_path / "unet")
    given = with_weights(given_run(), Path(folder))  # whatever the run would have trained
    assert np.array_equal(scored(given, WAY).annotation.histogram, own.histogram)


def test_an_adapter_of_a_run_that_goes_on_from_another_stands_on_that(
    repo: Path, tmp_path: Path
) -> None:
    going_on = given_run(start={**TRAIN, "rank": 0}, train={**TRAIN, "seed": 1})
    own, folder = scored(going_on, WAY).annotation, adapter_of(going_on, tmp_path / "theirs")
    given = with_weights(going_on, folder)
    assert np.array_equal(scored(given, WAY).annotation.histogram, own.histogram)
    other = replace(given, start=replace(given.start, lr=0.5))
    assert other.scores_stage(WAY).hash != given.scores_stage(WAY).hash


def test_a_folder_of_pefts_is_an_adapter(repo: Path, tmp_path: Path) -> None:
    unet = load_unet("tiny")
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"])
    model = get_peft_model(unet, config)
    generator = torch.Generator().manual_seed(3)
    for name, value in model.named_parameters():
        if "lora" in name:
            value.data = 0.2 * torch.randn(value.shape, generator=generator)
    model.save_pretrained(tmp_path / "peft")
    given = torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([999.0, 999.0])
    said = torch.randn(2, 12, 16, generator=generator)
    with torch.no_grad():
        wanted = model.eval()(*given, said).sample
        found = load_trained("tiny", tmp_path / "peft")(*given, said).sample
        plain = load_unet("tiny")(*given, said).sample
    assert torch.allclose(found, wanted, atol=1e-4) and not torch.allclose(found, plain, atol=1e-2)


def test_what_is_no_weights_of_this_unet_is_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none is no folder of weights"):
        with_weights(run, tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="neither an adapter nor a UNet"):
        with_weights(run, tmp_path)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_file({"text_encoder.a": torch.zeros(2, 2)}, file)
    with pytest.raises(ValueError, match="holds no adapter of a UNet"):
        with_weights(run, tmp_path)
    file.write_bytes(b"cut off")
    with pytest.raises(ValueError, match=f"{tmp_path}: no weights of this run's UNet"):
        with_weights(run, tmp_path)
    with pytest.raises(ValueError, match="sha256"):
        replace(run, given={"folder": "a", "sha256": "b"})


def test_a_chapter_scores_them_as_its_run_and_keeps_all_readings_apart(
    run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    shutil.copy(trained(run) / "pytorch_lora_weights.safetensors", folder)
    head = replace(run, choose=2)
    longer = head.variant({"steps": 5})
    here = Ranks(head, {"16": {}}, {"longer": {"steps": 5}}, WAY)
    path = scored_given("09_ranks", here, folder)
    entries = json.loads(path.read_text())
    assert [(each["split"], each["phrases"]) for each in entries] == [("test", 3), ("val", 2)]
    best = {each["name"]: each["value"] for each in entries[0]["readings"]}["mIoU, best threshold"]
    assert best == pytest.approx(100 * scored(run, WAY).annotation.miou().value)
    assert entries[0]["provenance"]["weights"]["folder"] == "theirs"
    assert found(longer.train_stage, profile="smoke") is None  # other runs are left alone
    with pytest.raises(ValueError, match="01_data scores no phrases by its run"):
        scored_given("01_data", Data(head, 1), folder)
