"""The training of a run: its record and labels, how it is taken up, what a machine may change."""

from __future__ import annotations

import shutil
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboardX.proto.event_pb2 import Event
from tiny import latents, texts
from tiny_run import TRAIN, given_run, with_sam

from rlfseg.config import MachineConfig, OptimiserConfig, SamplerConfig, TrainConfig
from rlfseg.device import quick_accelerator
from rlfseg.evaluation.predict import predict
from rlfseg.experiment import (
    Run,
    Scoring,
    codec,
    first_steps,
    is_trained,
    latent_cache,
    packed,
    pipeline,
    scored,
    trained,
    trained_unet,
    untrained,
)
from rlfseg.experiment.previews import read_previews
from rlfseg.experiment.training import work
from rlfseg.models.unet import as_velocity, load_unet, save_trained
from rlfseg.stage import logs_of, made_at, read_record
from rlfseg.training.loop import fit
from rlfseg.training.steps import read_steps, rounded

CPU = torch.device("cpu")


def losses(run: Run, until: int) -> list[float]:
    """Of the first steps of a run, trained anew."""
    return [step.loss for step in first_steps(run, until=until)]


# --- what it ends in ----------------------------------------------------------------------------


@pytest.mark.integration
def test_training_ends_in_an_adapter_and_its_record(run: Run) -> None:
    folder = trained(run)
    names = {"pytorch_lora_weights.safetensors", "steps.jsonl", "previews.npz", "stage.json"}
    assert {path.name for path in folder.iterdir()} == names
    steps = read_steps(folder / "steps.jsonl")
    assert [step.step for step in steps] == [1, 2, 3, 4]
    assert all(step.grad_norm > 0 and step.lr == 1e-2 for step in steps)
    record = read_record(folder)
    assert record["figures"]["loss_last_100"] == pytest.approx(np.mean([s.loss for s in steps]))
    assert record["inputs"]["data"] == run.source_stage.hash
    written = (folder / "steps.jsonl").stat().st_mtime_ns
    assert trained(run) == folder  # found, not made again
    assert (folder / "steps.jsonl").stat().st_mtime_ns == written


def test_the_record_holds_every_setting_though_the_hash_leaves_defaults_out(repo: Path) -> None:
    run = given_run(train={"steps": 1, "batch": 2})
    record = read_record(trained(run))
    assert record["config"] == {"steps": 1, "batch": 2}
    assert record["settings"] == asdict(run.train)
    told = record["settings"]
    assert (told["rank"], told["targets"], told["time"], told["seed"]) == (
        (64, "attention", "uniform", 42)
    )
    assert record["hash"] == run.train_stage.hash


def test_it_is_known_whether_training_was_done(run: Run) -> None:
    trained(run)
    assert is_trained(run) and not is_trained(run.variant({"seed": 12345}))


def test_the_trained_unet_is_another_field_than_the_backbone(run: Run) -> None:
    z, t, c = latents(2, 0), torch.ones(2), texts(2)
    unet = trained_unet(run, CPU)
    assert not any(p.requires_grad for p in unet.parameters())
    with torch.no_grad():
        plain = as_velocity(load_unet("./tiny").eval())(z, t, c)
        assert torch.equal(as_velocity(untrained(run).eval())(z, t, c), plain)
        assert not torch.allclose(as_velocity(unet)(z, t, c), plain, atol=1e-4)


def test_a_live_run_repeats_the_records_first_steps(run: Run) -> None:
    recorded = read_steps(trained(run) / "steps.jsonl")
    live = first_steps(run, until=2)
    assert [rounded(step).loss for step in live] == [step.loss for step in recorded[:2]]
    (first,) = losses(run.variant({"seed": 1}), 1)
    assert first != recorded[0].loss


def test_previews_show_what_the_unet_draws_at_that_step(run: Run) -> None:
    previews = read_previews(trained(run))
    assert previews is not None and previews.steps.tolist() == [1, 2, 3, 4]
    cache = latent_cache(run, "val", codec(run))
    v = as_velocity(trained_unet(run, CPU))
    (last,) = predict(v, cache, previews.items.tolist(), SamplerConfig("one"))
    wanted = last.scores.clamp(0, 1).numpy()
    assert np.abs(previews.scores[-1] - wanted).max() < 0.01
    assert np.abs(previews.scores[0] - wanted).max() > 0.01  # it learned something since
    assert read_previews(packed(run, "val").path.parent) is None


@pytest.mark.integration
def test_an_interrupted_training_is_taken_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that dies after its last step, before saving, only has to save."""
    other = run.variant({"seed": 8})
    with monkeypatch.context() as patch:

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("rlfseg.experiment.training.save_trained", die)
        with pytest.raises(KeyboardInterrupt):
            trained(other)
    with monkeypatch.context() as patch:
        seen: list[int] = []
        patch.setattr("rlfseg.experiment.training.flow_batch", lambda *a, **k: seen.append(1))
        folder = trained(other)
    assert not seen and len(read_steps(folder / "steps.jsonl")) == 4
    unet = untrained(other)
    deque(fit(*work(other, unet, codec(other)), accelerator=quick_accelerator()), maxlen=0)
    save_trained(unet, folder.parent / "uninterrupted")
    file = "pytorch_lora_weights.safetensors"
    first, second = load_file(folder / file), load_file(folder.parent / "uninterrupted" / file)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


# --- what is trained ----------------------------------------------------------------------------


def test_all_parameters_can_be_trained(run: Run) -> None:
    full = run.variant({"rank": 0, "steps": 1, "lr": 1e-3})
    assert all(p.requires_grad for p in untrained(full).parameters())
    folder = trained(full)
    assert folder.name.startswith("full-uniform")
    assert (folder / "unet" / "config.json").is_file()
    unet, base = trained_unet(full, CPU), load_unet("./tiny")
    moved = [
        not torch.equal(a, b) for a, b in zip(unet.parameters(), base.parameters(), strict=True)
    ]
    assert sum(moved) > 0.9 * len(moved)


def test_everything_is_more_than_attention(run: Run) -> None:
    counts = [
        sum(p.requires_grad for p in untrained(each).parameters())
        for each in (run, run.variant({"targets": "everything"}))
    ]
    assert counts[0] < counts[1]


def test_each_objective_is_another_loss(run: Run) -> None:
    first = {
        name: losses(run.variant({"objective": name}), 1)[0] for name in ("plain", "reshaped", "l2")
    }
    assert len(set(first.values())) == 3, first


def test_the_reshaped_field_is_pulled_to_black_and_white_in_this_order(run: Run) -> None:
    other = run.variant({"objective": "reshaped"})
    objective, *_ = work(other, untrained(other), codec(other))
    white = torch.ones(1, 16, 16, dtype=torch.bool)
    wanted = codec(run).encode_mask(torch.cat([~white, white]))
    torch.testing.assert_close(objective.mu, wanted)


@pytest.mark.integration
def test_a_run_from_scratch_is_the_same_network_that_has_seen_nothing(run: Run) -> None:
    full = run.variant({"rank": 0, "time": "one"})
    scratch = full.variant({"weights": "random"})
    kinds = [untrained(each).state_dict() for each in (full, scratch, scratch)]
    other = untrained(scratch.variant({"seed": 1})).state_dict()
    assert {k: v.shape for k, v in kinds[0].items()} == {k: v.shape for k, v in kinds[1].items()}
    name = "conv_in.weight"
    assert not torch.allclose(kinds[0][name], kinds[1][name])
    assert torch.equal(kinds[1][name], kinds[2][name])
    assert not torch.equal(kinds[1][name], other[name])
    assert scratch.train_stage.name == "scratch-one"
    assert scratch.train_stage.hash != full.train_stage.hash
    ended = trained_unet(scratch, CPU).state_dict()
    moved = (ended[name] - kinds[1][name]).abs().max()
    assert 0 < moved < 0.2 * kinds[1][name].abs().max() + 0.05
    with pytest.raises(ValueError, match="random weights need rank 0"):
        TrainConfig(steps=1, rank=4, weights="random")


@pytest.mark.integration
def test_a_run_goes_on_from_where_another_ended(run: Run) -> None:
    second = given_run(start={**TRAIN, "rank": 0, "seed": 3}, sampler={"name": "aos", "tol": 0.2})
    first = second.first()
    assert first == replace(run, train=replace(run.train, rank=0, seed=3), sampler=second.sampler)
    ended, begins = trained_unet(first, CPU), untrained(second)
    grown, pipe = trained_unet(second, CPU), pipeline(second)
    z, c, t = latents(2, seed=1), texts(2), torch.ones(2)
    with torch.no_grad():
        goal = as_velocity(ended)(z, t, c)
        assert torch.equal(as_velocity(begins)(z, t, c), goal)  # an adapter changes nothing yet
        assert not torch.equal(as_velocity(untrained(run))(z, t, c), goal)
        later = as_velocity(grown)(z, t, c)
        assert not torch.equal(later, goal)
        assert torch.allclose(pipe.velocity(z, t, c), later, atol=1e-5)
    adapter = load_file(trained(second) / "pytorch_lora_weights.safetensors")
    assert all(".lora" in name for name in adapter)  # only what was added is kept


@pytest.mark.integration
@pytest.mark.parametrize("selection", ["exact", "probe", "refined"])
def test_training_takes_the_labels_that_it_is_told_to(run: Run, selection: str) -> None:
    other = with_sam(selection=selection)
    assert other.train_stage.name == f"lora2-attention-uniform-{selection}"
    steps = read_steps(trained(other) / "steps.jsonl")
    assert len(steps) == 4
    assert all(("picked_original" in step.values) == (selection != "refined") for step in steps)
    plain = [step.loss for step in read_steps(trained(run) / "steps.jsonl")]
    assert [step.loss for step in steps] != plain


@pytest.mark.integration
def test_a_runs_settings_reach_its_optimiser_objective_and_batches(repo: Path) -> None:
    run = with_sam(schedule="cosine", warmup=3, time="one", selection="probe")
    objective, batch, optimiser = work(run, untrained(run), codec(run))
    assert optimiser == OptimiserConfig(steps=4, lr=1e-2, warmup=3, schedule="cosine")
    assert objective.selection == "probe"
    first = batch(1)
    assert first.t.tolist() == [1, 1, 1, 1] and first.z0_refined is not None


# --- the machine --------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_train_and_score_what_one_does(run: Run) -> None:
    two = MachineConfig(processes=2)
    other = replace(run.variant({"seed": 5, "selection": "original"}), machine=two)
    both = read_steps(trained(other) / "steps.jsonl")
    one = replace(other, machine=MachineConfig())
    alone = first_steps(one, until=4)
    for a, b, c in zip(both, alone, first_steps(other, until=4), strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-2)  # bf16; in float32: test_train
        assert (a.loss, a.grad_norm) == (c.loss, c.grad_norm)
    logs = logs_of(other.train_stage, profile="smoke")
    assert sorted(path.name for path in logs.iterdir()) == ["rank0.log", "rank1.log"]
    assert "trained in 2 processes" in (logs / "rank1.log").read_text()
    way = Scoring("test", 9, boundary=True, sampler=SamplerConfig("one"))
    shared = scored(other, way)
    shutil.rmtree(made_at(other.scores_stage(way), profile="smoke"))
    again = scored(one, way)
    assert np.array_equal(shared.annotation.image_id, again.annotation.image_id)
    assert shared.annotation.miou().value == pytest.approx(again.annotation.miou().value, rel=1e-3)
    broken = replace(run.variant({"seed": 6, "batch": 3}), machine=two)
    with pytest.raises(RuntimeError, match="a batch of 3 can't be shared equally by 2 processes"):
        trained(broken)


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:Dynamo detected a call")
@pytest.mark.parametrize(
    "machine",
    [
        MachineConfig(recompute=True),
        pytest.param(MachineConfig(compile="aot_eager"), marks=pytest.mark.slow),
    ],
)
def test_how_the_machine_is_used_does_not_change_what_is_learned(
    run: Run, machine: MachineConfig
) -> None:
    other = replace(run, machine=machine)
    assert other.train_stage.hash == run.train_stage.hash
    here, there = losses(run, 3), losses(other, 3)
    assert there == pytest.approx(here, rel=2e-3)  # bf16
    assert here[0] != here[1]


def test_recomputing_keeps_less_for_the_backward_pass(run: Run) -> None:
    kept = []
    for recompute in (False, True):
        unet = untrained(replace(run, machine=MachineConfig(recompute=recompute))).train()
        z, c = latents(2, 0).requires_grad_(True), texts(2)
        sizes: list[int] = []

        def pack(t: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(t.numel())
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            as_velocity(unet)(z, torch.ones(2), c)
        kept.append(sum(sizes))
    assert kept[1] < 0.7 * kept[0]


def read_events(file: Path) -> Iterator[Event]:
    """TensorBoard's records: a length of 8 bytes, a checksum of 4, the event, a checksum of 4."""
    data = file.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def test_a_tracker_gets_every_step(run: Run) -> None:
    other = run.variant({"seed": 77})
    folder = trained(replace(other, machine=MachineConfig(tracker="tensorboard")))
    (file,) = (folder / "tensorboard").glob("events*")
    events = list(read_events(file))
    steps = read_steps(folder / "steps.jsonl")
    for name in ("loss", "grad_norm", "lr", "seconds"):
        logged = {e.step: v.simple_value for e in events for v in e.summary.value if v.tag == name}
        wanted = {step.step: getattr(step, name) for step in steps}
        assert logged == pytest.approx(wanted, rel=1e-5)
