"""On a GPU as on a CPU: encoding, the field, training, refining, and the shipped model's masks."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import latents, texts, tiny_unet
from torch import Tensor

from rlfseg import RLFSegPipeline
from rlfseg.chapters.reading import run_file
from rlfseg.config import OptimiserConfig
from rlfseg.data.drawn.phrases import phrases
from rlfseg.data.drawn.scene import draw_scene
from rlfseg.device import quick_accelerator
from rlfseg.experiment import (
    Run,
    backbone_folder,
    base,
    codec,
    is_trained,
    latent_cache,
    pipeline,
    trained,
)
from rlfseg.models.latent_codec import load_codec
from rlfseg.models.sam import PromptedSam, mini_sam
from rlfseg.models.unet import add_lora, as_velocity, for_sampling, load_trained, load_unet
from rlfseg.training.flow_batch import FlowBatch, draw_times, flow_batch
from rlfseg.training.flow_objective import RectifiedFlowObjective
from rlfseg.training.loop import fit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
GPU, CPU = torch.device("cuda"), torch.device("cpu")


def off(found: Tensor, wanted: Tensor) -> float:
    """The relative error of a tensor."""
    found, wanted = found.detach().cpu().double(), wanted.detach().cpu().double()
    return float((found - wanted).norm() / wanted.norm())


def batch(size: int = 6) -> FlowBatch:
    t = draw_times(size, kind="uniform", seed=0, step=1)
    refined = latents(size, 2) * 0.5
    return FlowBatch(latents(size, 0), latents(size, 1), texts(size), t, z0_refined=refined)


def adapted() -> torch.nn.Module:
    torch.manual_seed(3)
    unet = tiny_unet().requires_grad_(False)
    add_lora(unet, rank=4, seed=0)
    return unet


@pytest.fixture(scope="module")
def mini() -> Run:
    """The shipped default run."""
    run = run_file(Path("params/mini/05_phrasecut.yml"))
    if not is_trained(run):
        pytest.skip("the default run's weights are not shipped here")
    return run


@pytest.fixture(scope="module")
def pictures() -> tuple[list[np.ndarray], list[str]]:
    rngs = [np.random.default_rng([11, number]) for number in range(12)]
    scenes = [draw_scene(rng, pixels=128, held_out=False) for rng in rngs]
    said = [phrases(*both, most=1)[0].text for both in zip(rngs, scenes, strict=True)]
    return [scene.image for scene in scenes], said


@pytest.mark.parametrize("selection", ["exact", "probe"])
def test_losses_and_gradients(selection: str) -> None:
    grads, losses = [], []
    for device in (CPU, GPU):
        objective = RectifiedFlowObjective(adapted(), selection=selection).to(device)
        here = FlowBatch(*(x.to(device) if isinstance(x, Tensor) else x for x in batch()))
        loss = objective(here).loss
        loss.mean().backward()
        losses.append(loss)
        trained = [p for p in objective.parameters() if p.requires_grad]
        grads.append(torch.cat([p.grad.flatten() for p in trained]))
    assert off(losses[1], losses[0]) < 1e-3 and off(grads[1], grads[0]) < 1e-2


def test_an_interrupted_run_ends_in_the_same_weights(tmp_path: Path) -> None:
    def run(checkpoint: Path | None, until: int | None = None) -> list[float]:
        unet = adapted()
        steps = fit(
            RectifiedFlowObjective(unet),
            lambda step: batch(),
            OptimiserConfig(steps=8, lr=1e-2),
            accelerator=quick_accelerator(),
            checkpoint=checkpoint,
            until=until,
        )
        return [step.loss for step in steps]

    whole = run(None)
    parts = run(tmp_path / "checkpoint.safetensors", until=3)
    parts += run(tmp_path / "checkpoint.safetensors")
    np.testing.assert_allclose(parts, whole, rtol=2e-2)
    assert whole[-1] < 0.99 * whole[0]


def test_a_batch_lies_where_it_is_trained(mini: Run) -> None:
    """As a chapter takes a step by hand, without the loop that would move it."""
    cache = latent_cache(mini, "val", codec(mini))
    for time in ("uniform", "one"):
        made = flow_batch(cache, 1, size=4, time=time, selection="original", seed=0)
        objective = RectifiedFlowObjective(load_unet(base(mini)).to(GPU))
        assert torch.isfinite(objective(made).loss).all()


def test_small_pictures_have_masks_of_their_own_size(mini: Run) -> None:
    wide = np.random.default_rng(0).integers(256, size=(48, 80, 3), dtype=np.uint8)
    found = pipeline(mini)([wide, wide[:1, :1], wide[:3]], ["red star"] * 3)
    assert [mask.shape for mask in found.masks] == [(48, 80), (1, 1), (3, 80)]


def test_latents_text_and_masks_there_and_back(mini: Run) -> None:
    here, there = (load_codec(backbone_folder(mini), device=d) for d in (CPU, GPU))
    masks = torch.zeros(2, 128, 128, dtype=torch.bool)
    masks[0, 30:90, 20:70] = True
    z = here.encode_mask(masks)
    assert off(there.encode_mask(masks), z) < 5e-3
    assert off(there.text(["red star"]), here.text(["red star"])) < 5e-3
    half = codec(mini)
    assert half.device.type == "cuda" and half.decoding == torch.bfloat16
    assert (half.decode(z.cuda()).cpu() - here.decode(z)).abs().max() < 0.05


def test_the_field_of_the_shipped_run_is_that_of_float32(mini: Run) -> None:
    unet = load_trained(base(mini), trained(mini))
    z, t = torch.randn(4, 4, 16, 16), torch.tensor([1.0, 0.7, 0.3, 0.0])
    c = load_codec(backbone_folder(mini)).text(["red star", "moon", "blue heart", ""])
    with torch.no_grad():
        wanted = as_velocity(deepcopy(unet).eval())(z, t, c)
        half = for_sampling(unet, GPU)
        found = as_velocity(half)(z.cuda(), t.cuda(), c.cuda())
    assert half.dtype == torch.bfloat16 and found.dtype == torch.float32
    assert off(found, wanted) < 0.02


def test_the_shipped_run_s_masks(mini: Run, pictures: tuple[list[np.ndarray], list[str]]) -> None:
    masks = []
    for device in (CPU, GPU):
        pipe = pipeline(mini).to(device)
        pipe.set_progress_bar_config(disable=True)
        masks.append(np.stack(pipe(*pictures).masks))
    both, either = masks[0] & masks[1], masks[0] | masks[1]
    assert masks[0].any() and both.sum() > 0.99 * either.sum()


@pytest.mark.slow
def test_a_compiled_pipeline_finds_the_same(
    mini: Run, pictures: tuple[list[np.ndarray], list[str]]
) -> None:
    where = {"base": base(mini), "threshold": 0.18, "tol": 0.12, "device": GPU}
    masks = []
    for fast in (False, True):
        pipe = RLFSegPipeline.from_backbone(
            backbone_folder(mini), trained(mini), fast=fast, **where
        )
        pipe.set_progress_bar_config(disable=True)
        masks.append(np.stack(pipe(*pictures).masks))
    both, either = masks[0] & masks[1], masks[0] | masks[1]
    assert masks[0].any() and both.sum() > 0.97 * either.sum()


def test_sam_answers_alike() -> None:
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    points = [np.array([[40.0, 40.0], [60.0, 50.0]])]
    answers = []
    for device in (CPU, GPU):
        sam = PromptedSam(mini_sam().to(device))
        side = (1, 1, sam.side, sam.side)
        logits = torch.randn(side, generator=torch.Generator().manual_seed(0))
        answers.append(sam.predict(sam.embed(image), points, logits).logits)
    assert off(answers[1], answers[0]) < 1e-2
