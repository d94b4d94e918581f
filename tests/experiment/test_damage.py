"""What a run made and a full disk or a power cut damaged is named in one error, and made again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import given_run

from rlfseg.baselines import phrases
from rlfseg.baselines.ldznet import LdznetConfig
from rlfseg.evaluation.confusion import Confusion, load_confusions, save_confusions
from rlfseg.experiment import Run, Scoring, scored, trained, trained_unet
from rlfseg.experiment.mask_records import read_records
from rlfseg.experiment.previews import read_previews
from rlfseg.flowseg.recipe import Curves
from rlfseg.stage import made_at

pytestmark = pytest.mark.integration

WAY = Scoring("val", boundary=True)
BASELINE = LdznetConfig(steps=1, batch=4, width=8)
CPU = torch.device("cpu")
READERS: dict[str, Callable[[Run, Path], object]] = {
    "pytorch_lora_weights.safetensors": lambda run, folder: trained_unet(run, CPU),
    "previews.npz": lambda run, folder: read_previews(folder),
    "stage.json": lambda run, folder: trained(run),
    "boundary.npy": lambda run, folder: scored(run, WAY),
    "weights.safetensors": lambda run, folder: phrases.trained_model(run, BASELINE),
    "confusions.npz": lambda run, folder: load_confusions(folder / "confusions.npz"),
    "curves.json": lambda run, folder: Curves.load(folder),
    "records.jsonl": lambda run, folder: read_records(folder),
}
EMPTY = [(file, 0) for file in READERS if file != "records.jsonl"]  # which may have no line


@pytest.fixture(scope="module")
def folders(repo: Path) -> dict[str, Path]:
    """In which folder each file lies."""
    run = given_run()
    training, ours = trained(run), repo / "ours"
    scored(run, WAY)
    phrases.trained_model(run, BASELINE)
    ours.mkdir()
    save_confusions(ours / "confusions.npz", [Confusion(np.eye(3, dtype=np.int64))])
    (ours / "curves.json").write_text('{"0": [{"step": 1}]}')
    (ours / "records.jsonl").write_text('{"image_id": "1"}\n')
    others = {
        "boundary.npy": made_at(run.scores_stage(WAY), profile="smoke"),
        "weights.safetensors": made_at(phrases.train_stage(run, BASELINE), profile="smoke"),
    }
    return {
        file: others.get(file, training if (training / file).exists() else ours) for file in READERS
    }


@pytest.mark.parametrize(("file", "keep"), [*((file, 0.6) for file in READERS), *EMPTY])
def test_a_file_that_was_cut_off_is_named(
    run: Run, folders: dict[str, Path], file: str, keep: float
) -> None:
    path = folders[file] / file
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    try:
        with pytest.raises(ValueError, match=f"{path} can't be read .*; delete {path.parent} and"):
            READERS[file](run, path.parent)
    finally:
        path.write_bytes(whole)


def test_what_is_deleted_as_told_is_made_again(run: Run, folders: dict[str, Path]) -> None:
    folder = folders["stage.json"]
    file = folder / "pytorch_lora_weights.safetensors"
    whole = file.read_bytes()
    shutil.rmtree(folder)
    assert trained(run) == folder and file.read_bytes() == whole
