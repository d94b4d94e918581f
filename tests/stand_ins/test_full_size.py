"""Stable Diffusion 1.5's public configuration with random weights, through the ordinary path."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from rlfseg.config import DataConfig, MachineConfig, OptimiserConfig, TrainConfig
from rlfseg.experiment import fill_latents, first_steps, is_trained, trained
from rlfseg.experiment.run import Run
from rlfseg.method.sampling import aos
from rlfseg.models.latent_codec import load_codec
from rlfseg.models.unet import add_lora, as_velocity, load_trained, load_unet, save_trained
from rlfseg.stand_ins.backbone import BackboneConfig
from rlfseg.stand_ins.full_size import random_stable_diffusion
from rlfseg.training.flow_batch import FlowBatch
from rlfseg.training.flow_objective import RectifiedFlowObjective
from rlfseg.training.loop import fit
from rlfseg.training.steps import Step, read_steps, recorded, rounded

pytestmark = pytest.mark.slow


def test_one_step_and_one_inference_at_512(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Built, saved, loaded, trained for a step, saved, loaded and sampled."""
    for name in ("params", "book"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    took = {}

    def lap(name: str, start: float) -> float:
        took[name] = time.perf_counter() - start
        return time.perf_counter()

    now = time.perf_counter()
    folder = random_stable_diffusion(profile="preflight")
    now = lap("build and save", now)
    codec, unet = load_codec(folder), load_unet(folder)
    now = lap("load", now)
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964
    assert sum(p.numel() for p in codec.vae.parameters()) == 83_653_863
    assert sum(p.numel() for p in codec.text_encoder.parameters()) == 123_060_480
    add_lora(unet, rank=64, seed=0)
    trainable = sum(p.numel() for p in unet.parameters() if p.requires_grad)
    assert trainable == pytest.approx(12.75e6, rel=0.01)

    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.random((1, 3, 512, 512), np.float32)) * 2 - 1
    mask = torch.zeros(1, 512, 512, dtype=torch.bool)
    mask[:, 128:384, 128:384] = True
    z1, z0, c = codec.encode(image), codec.encode_mask(mask), codec.text(["a red star"])
    assert z1.shape == z0.shape == (1, 4, 64, 64) and c.shape == (1, 77, 768)
    now = lap("encode picture, mask and text", now)
    batch = FlowBatch(z1=z1, z0=z0, c=c, t=torch.tensor([0.7]))
    optimiser = OptimiserConfig(steps=1, lr=1e-4)
    accelerator = Accelerator(cpu=True)
    (step,) = fit(RectifiedFlowObjective(unet), lambda _: batch, optimiser, accelerator=accelerator)
    assert step.grad_norm > 0
    now = lap("one training step, batch 1", now)

    save_trained(unet, tmp_path / "adapter")
    again = load_trained(folder, tmp_path / "adapter")
    now = lap("save and load the adapter", now)
    v = as_velocity(again)
    sampled = aos(v, z1=z1, c=c, zb=codec.black(512), tol=0.2)
    scores = codec.decode(sampled.z0)
    lap("one AOS inference with decoding", now)
    assert scores.shape == (1, 512, 512) and bool(torch.isfinite(scores).all())
    with torch.no_grad():
        t = torch.ones(1)
        assert torch.equal(v(z1, t, c), as_velocity(unet.eval())(z1, t, c))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    with capsys.disabled():
        print()
        for name, seconds in took.items():
            print(f"  {name:32} {seconds:6.1f} s")
        print(f"  {'peak memory':32} {peak:6.1f} GiB")


def test_preflight_is_cached_trained_interrupted_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The preflight profile's way at 512 x 512: drawn scenes, latents, three steps with a kill."""
    for name in ("params", "book"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    run = Run(
        profile="preflight",
        backbone=BackboneConfig(name="random-sd15"),
        data=DataConfig(source="mini", pixels=512, train=2, val=1, test=1),
        train=TrainConfig(steps=3, rank=64, batch=1, lr=1e-4),
        machine=MachineConfig(save_minutes=1e-9),
    )
    assert fill_latents(run) > 0
    whole = first_steps(run, until=3)
    real = recorded

    def cut_short(steps: Iterator[Step], *more: object, **said: object) -> Iterator[Step]:
        for step in real(steps, *more, **said):  # type: ignore[arg-type]
            yield step
            if step.step == 2:
                raise KeyboardInterrupt  # the first step is checkpointed, the second isn't

    with monkeypatch.context() as patch:
        patch.setattr("rlfseg.training.loop.recorded", cut_short)
        with pytest.raises(KeyboardInterrupt):
            trained(run)
        patch.setattr("rlfseg.training.loop.recorded", real)
        folder = trained(run)
    steps = read_steps(folder / "steps.jsonl")
    assert [step.loss for step in steps] == [rounded(step).loss for step in whole]
    assert is_trained(run) and (folder / "pytorch_lora_weights.safetensors").is_file()
