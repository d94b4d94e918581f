"""What training needs is what torch itself allocates, and what of it comes from what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from tiny import WIDTH, tiny_backbone, tiny_unet, tiny_vae
from torch.profiler import ProfilerActivity, profile

from rlfseg.config import DataConfig, TrainConfig
from rlfseg.device import quick_dtype
from rlfseg.experiment import Run, untrained
from rlfseg.models.latent_codec import LatentCodec
from rlfseg.models.unet import add_lora
from rlfseg.preflight import memory
from rlfseg.stand_ins.backbone import BackboneConfig

SAMPLES, SIDE = 2, 16
ALL = {"rank": 0}


def adapted() -> UNet2DConditionModel:
    unet = tiny_unet().requires_grad_(False)
    add_lora(unet, rank=4, seed=0)
    return unet.train()


def allocated(work: Callable[[], object]) -> int:
    """The most bytes at once of some work, as torch's profiler counts them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.integration
@pytest.mark.parametrize("dtype", sorted({torch.float32, quick_dtype("cpu")}, key=str), ids=str)
def test_what_a_step_holds_is_what_torch_allocates(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(memory, "quick_dtype", lambda device: dtype)
    with init_empty_weights():
        unet = adapted()
    counted = memory.held(unet, samples=SAMPLES, side=SIDE, gpu=False)
    there = adapted()
    z, c = torch.randn(SAMPLES, 4, SIDE, SIDE), torch.randn(SAMPLES, 77, WIDTH)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            v = there(z, torch.ones(SAMPLES), c).sample
        v.float().square().mean().backward()

    assert counted == pytest.approx(allocated(step), rel=0.03)


@pytest.mark.integration
def test_what_encoding_holds_is_what_torch_allocates() -> None:
    real = LatentCodec(tiny_vae((32, 64)), None, None)
    with init_empty_weights():
        bare = LatentCodec(AutoencoderKL.from_config(real.vae.config), None, None)
    counted = memory.encoded(bare, pictures=SAMPLES, side=64)
    wanted = allocated(lambda: real.encode(torch.zeros(SAMPLES, 3, 64, 64)))
    assert 0.85 * wanted < counted <= wanted  # a CPU's convolutions hold copies of their own
    several = [memory.encoded(bare, pictures=n, side=16) for n in (8, 16, 48)]
    assert several[0] == pytest.approx(several[1] / 2)
    assert several[2] == pytest.approx(several[1], rel=0.1)  # not more than sixteen at once


def counted(unet: object, *, samples: int, side: int, gpu: bool, both: bool) -> int:
    """In the place of `held`."""
    return 10**6 * side * (samples + both)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    for folder in ("book", "params"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    tiny_backbone(tmp_path / "backbone")
    monkeypatch.setattr(memory, "held", counted)
    monkeypatch.setattr(memory, "encoded", lambda codec, pictures, side: 0)
    data, train = DataConfig(pixels=16), TrainConfig(steps=2, rank=2, batch=8)
    return Run("tiny", BackboneConfig(name="backbone"), data, train)


def test_weights_moments_and_gradients_on_their_way_are_counted(run: Run) -> None:
    def rest(one: Run) -> int:
        return memory.needed(one, gpu=True) - 10**6 * 8 * memory.share(one)

    free = sum(p.numel() for p in untrained(run).parameters() if p.requires_grad)
    more = run.variant({"rank": 5})
    added = sum(p.numel() for p in untrained(more).parameters() if p.requires_grad) - free
    assert rest(more) - rest(run) == (4 + 8) * added > 0
    two = replace(run, machine=replace(run.machine, processes=2))
    assert rest(two) - rest(run) == 4 * free
    alone = memory.needed(two, gpu=True)
    assert memory.needed(two, gpu=False) == 2 * alone  # they share the machine's memory


def test_both_labels_are_scored_before_one_is_trained_and_parts_one_after_another(
    run: Run,
) -> None:
    one, exact = memory.needed(run, gpu=True), run.variant({"selection": "exact"})
    assert memory.needed(exact, gpu=True) - one == 10**6 * 8
    at_one = run.variant({"selection": "exact", "time": "one"})  # where one pass scores both
    assert memory.needed(at_one, gpu=True) == one
    parts = replace(exact, machine=replace(exact.machine, accumulate=4))
    assert one - memory.needed(parts, gpu=True) == 10**6 * 8 * (8 - 2 - 1)


def test_a_process_encodes_its_next_batch_while_it_trains(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = [{}, {"accumulate": 4}, {"processes": 2}]
    runs = [replace(run, machine=replace(run.machine, **each)) for each in machines]
    before = [memory.needed(each, gpu=True) for each in runs]
    monkeypatch.setattr(memory, "encoded", lambda codec, pictures, side: 1000 * pictures * side)
    added = [memory.needed(each, gpu=True) - had for each, had in zip(runs, before, strict=True)]
    assert added == [1000 * pictures * 16 for pictures in (8, 8, 4)]


@pytest.mark.integration
def test_scoring_two_labels_holds_less_than_training_one() -> None:
    """Without gradients nothing is kept from layer to layer."""
    needs = []
    for samples, both in ((SAMPLES, False), (SAMPLES, True), (2 * SAMPLES, False)):
        with init_empty_weights():
            unet = adapted()
        needs.append(memory.held(unet, samples=samples, side=SIDE, gpu=True, both=both))
    assert needs[0] <= needs[1] < 1.05 * needs[0] < needs[2]


def test_a_unet_whose_weights_are_missing_is_taken_for_stable_diffusion_s(run: Run) -> None:
    missing = replace(run, backbone=BackboneConfig(name="no-one/nothing"))
    assert memory.parameters(missing.variant(ALL)) == (859_520_964, 859_520_964)
    whole, trained = memory.parameters(run)
    assert 0 < trained < whole < 10**6
    assert memory.parameters(replace(run, backbone=BackboneConfig(name="mini"))) == (0, 0)
