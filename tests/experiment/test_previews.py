"""Previews are drawn every so many steps, of what is trained as it is then."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_unet

from rlfseg.experiment import Run, codec, latent_cache
from rlfseg.experiment.previews import Watch, read_previews
from rlfseg.training.steps import Step


@pytest.mark.integration
def test_every_third_of_seven_steps_is_kept(run: Run, tmp_path: Path) -> None:
    unet = tiny_unet().train()
    cache = latent_cache(run, "val", codec(run))
    watch = Watch(tmp_path, unet, cache, [1], every=3)
    for number in range(1, 8):
        watch(Step(number, loss=0.0, grad_norm=0.0, lr=0.0, seconds=0.0))
        assert unet.training
        with torch.no_grad():
            unet.conv_out.bias += 1
    watch.finish()
    found = read_previews(tmp_path)
    assert found is not None and found.steps.tolist() == [3, 6]
    assert found.items.tolist() == [1] and found.scores.shape == (2, 1, 16, 16)
    assert np.abs(found.scores[1] - found.scores[0]).max() > 0.01
    assert [path.name for path in tmp_path.iterdir()] == ["previews.npz"]


def test_a_kill_while_they_are_put_together_loses_none(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(tmp_path, tiny_unet(), latent_cache(run, "val", codec(run)), [1], every=1)
    for number in (1, 2, 3):
        watch(Step(number, loss=0.0, grad_norm=0.0, lr=0.0, seconds=0.0))
    remove = shutil.rmtree

    def killed(folder: Path, **_: object) -> None:
        if folder.is_dir():
            min(folder.iterdir()).unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            watch.finish()
    assert shutil.rmtree is remove
    watch.finish()  # as the resumed run does
    found = read_previews(tmp_path)
    assert found is not None and found.steps.tolist() == [1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["previews.npz"]
