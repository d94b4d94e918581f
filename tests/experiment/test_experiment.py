"""From a chapter's parameters to artefacts: packed, trained, found again."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tensorboardX.proto.event_pb2 import Event
from tiny import latents, texts

from rlfseg.book.paper import Missing, Result, UnknownCellError, load_results
from rlfseg.config import DataConfig, MachineConfig, RefineConfig, SamplerConfig, TrainConfig
from rlfseg.data import phrasecut
from rlfseg.data.catalogue import DATASETS, read
from rlfseg.data.drawn.write_cocostuff import MINI_CLASSES
from rlfseg.data.drawn.write_phrasecut import read_truth
from rlfseg.data.masks import rasterise
from rlfseg.data.packed.read import Pack
from rlfseg.evaluation.boundary import boundary_f
from rlfseg.evaluation.label_quality import quality, refine_items
from rlfseg.evaluation.predict import predict, spaced
from rlfseg.evaluation.score import boundaries, evaluate
from rlfseg.experiment.previews import read_previews
from rlfseg.experiment.relabelling import read_records
from rlfseg.experiment.setting import Setting
from rlfseg.models.unet import as_velocity, load_unet, save_trained
from rlfseg.stage import made_at, read_record
from rlfseg.stand_ins.backbone import BackboneConfig, backbone_stage
from rlfseg.training.steps import read_steps, rounded

DATA = {"source": "mini", "pixels": 16, "train": 6, "val": 2, "test": 3, "seed": 5}
TRAIN = {"steps": 4, "rank": 2, "batch": 4, "lr": 1e-2}


@pytest.fixture(scope="module")
def setting(repo: Path) -> Setting:
    return Setting.from_parameters(
        profile="smoke", backbone={"name": "./tiny"}, data=DATA, train=TRAIN
    )


def test_parameters_become_a_setting(setting: Setting) -> None:
    assert setting.train == TrainConfig(steps=4, rank=2, batch=4, lr=1e-2)
    assert setting.data == DataConfig(pixels=16, train=6, val=2, test=3, seed=5)
    mini = Setting.from_parameters(
        profile="mini", backbone={"name": "mini", "unet_steps": 7}, data={}, train={"steps": 1}
    )
    assert mini.recipe == BackboneConfig(unet_steps=7) and mini.data == DataConfig()
    assert mini.backbone_stage == backbone_stage(BackboneConfig(unet_steps=7))


def test_parameters_are_given_back(setting: Setting) -> None:
    mini = {"name": "mini", "unet_steps": 7}
    for each in (
        setting,
        with_sam(selection="probe"),
        Setting.from_parameters(profile="mini", backbone=mini, data={}, train={"steps": 1}),
    ):
        again = Setting.from_parameters(**json.loads(json.dumps(each.parameters())))
        assert again == each


@pytest.mark.slow
def test_two_processes_train_and_score_what_one_does(setting: Setting) -> None:
    two = MachineConfig(processes=2)
    other = replace(setting.variant({"seed": 5, "selection": "original"}), machine=two)
    both = read_steps(other.trained() / "steps.jsonl")
    alone = list(other.training(other.untrained(), until=4))
    for a, b in zip(both, alone, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-2)  # bf16; in float32: test_train
    way = {"split": "test", "phrases": 9, "name": "one", "boundary": True}
    shared = other.scored(**way)
    shutil.rmtree(made_at(other.scores_stage(**way), profile="smoke"))
    again = replace(other, machine=MachineConfig()).scored(**way)
    assert np.array_equal(shared.annotation.image_id, again.annotation.image_id)
    assert shared.annotation.miou().value == pytest.approx(again.annotation.miou().value, rel=1e-3)
    broken = replace(setting.variant({"seed": 6, "batch": 3}), machine=two)
    with pytest.raises(RuntimeError, match="a batch of 3 can't be shared equally by 2 processes"):
        broken.trained()


def test_an_objective_is_part_of_a_run_s_name_and_the_plain_one_is_what_was_before(
    setting: Setting,
) -> None:
    assert setting.variant({"objective": "plain"}).train_stage == setting.train_stage
    assert "objective" not in setting.train_stage.config
    reshaped = setting.variant({"objective": "reshaped"})
    assert "-reshaped" in reshaped.train_stage.name
    losses = {
        name: next(run.training(run.untrained(), until=1)).loss
        for name in ("plain", "reshaped", "l2")
        if (run := setting.variant({"objective": name}))
    }
    assert len(set(losses.values())) == 3, losses
    with pytest.raises(ValueError, match="objective must be one of"):
        setting.variant({"objective": "classes"})


def test_a_variant_differs_in_its_training_alone(setting: Setting) -> None:
    other = setting.variant({"time": "one", "rank": 4})
    assert other == replace(setting, train=replace(setting.train, time="one", rank=4))
    assert other.train_stage.hash != setting.train_stage.hash
    assert other.data_stage.hash == setting.data_stage.hash
    with pytest.raises(ValueError, match="train: unknown times; known are"):
        setting.variant({"times": "one"})


FULL = {**TRAIN, "rank": 0, "seed": 3}


def going_on(setting: Setting, **changes: object) -> Setting:
    """The same run, on top of one of all parameters."""
    given = setting.parameters() | {"start": FULL}
    return Setting.from_parameters(**{**given, "train": {**given["train"], **changes}})


def test_a_run_goes_on_from_where_another_ended(setting: Setting) -> None:
    first, second = setting.variant({"rank": 0, "seed": 3}), going_on(setting)
    assert second.started() == first
    ended, begins = first.trained_unet(torch.device("cpu")), second.untrained()
    grown, pipe = second.trained_unet(torch.device("cpu")), second.pipeline(threshold=0.5, tol=0.2)
    z, c, t = latents(2, seed=1), texts(2), torch.ones(2)
    with torch.no_grad():
        goal = as_velocity(ended)(z, t, c)
        assert torch.equal(as_velocity(begins)(z, t, c), goal)  # an adapter changes nothing yet
        assert not torch.equal(as_velocity(setting.untrained())(z, t, c), goal)
        later = as_velocity(grown)(z, t, c)
        assert not torch.equal(later, goal)
        assert torch.allclose(pipe.velocity(z, t, c), later, atol=1e-5)
    adapter = load_file(second.trained() / "pytorch_lora_weights.safetensors")
    assert all(".lora" in name for name in adapter)  # only what was added is kept


def test_where_a_run_starts_is_part_of_what_it_is(setting: Setting) -> None:
    second = going_on(setting)
    other = Setting.from_parameters(**{**second.parameters(), "start": {**FULL, "steps": 5}})
    assert len({each.train_stage.hash for each in (setting, second, other)}) == 3
    assert Setting.from_parameters(**json.loads(json.dumps(second.parameters()))) == second
    assert going_on(setting, seed=1) == second.variant({"seed": 1})
    with pytest.raises(ValueError, match=r"start: .* all parameters \(rank 0\), not 2"):
        Setting.from_parameters(**{**setting.parameters(), "start": TRAIN})
    with pytest.raises(ValueError, match="start: unknown step;"):
        Setting.from_parameters(**{**setting.parameters(), "start": {"step": 2}})


def test_seeds_have_names_of_their_own(setting: Setting) -> None:
    names = [setting.variant({"seed": seed}).train_stage.name for seed in (42, 0, 7)]
    kind = "lora2-attention-uniform"
    assert names == [kind, f"{kind}-seed0", f"{kind}-seed7"]


def test_seeded_variants_differ_in_what_they_change_and_their_seed_alone(setting: Setting) -> None:
    kinds = ("original", "refined", "exact")
    runs = setting.seeded({kind: {"selection": kind} for kind in kinds}, [1, 2])
    assert len(runs) == len({run.train_stage.name for run in runs.values()}) == 6
    for (labels, seed), run in runs.items():
        assert run == setting.variant({"selection": labels, "seed": seed})


def test_scores_are_kept_and_found_without_the_weights(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = {"split": "test", "phrases": 4, "name": "aos", "tol": 0.2}
    scores = setting.scored(**way)
    exact = setting.scored(truth=True, **way)
    assert scores.truth is None
    codec = setting.codec()
    cache = setting.cache("test", codec)
    items = spaced(len(cache.pack), 4)
    assert len(items) == 4
    v = as_velocity(setting.trained_unet(codec.device))
    fresh = evaluate(v, cache, items, SamplerConfig(name="aos", tol=0.2))
    edges = setting.scored(boundary=True, **way).boundary
    level = fresh.annotation.miou().threshold
    f = boundaries(v, cache, items, SamplerConfig(name="aos", tol=0.2), threshold=level)
    assert edges is not None and edges.shape == (4,)
    np.testing.assert_allclose(edges, f, rtol=1e-6)
    monkeypatch.setattr(Setting, "trained_unet", None)  # not needed any more
    for again in (scores, exact, setting.scored(**way), setting.scored(truth=True, **way)):
        assert np.array_equal(again.annotation.histogram, fresh.annotation.histogram)
        assert np.array_equal(again.annotation.image_id, fresh.annotation.image_id)
    assert fresh.truth is not None
    for again in (exact, setting.scored(truth=True, **way)):
        assert np.array_equal(again.truth.histogram, fresh.truth.histogram)
    others = [way | {"tol": 0.3}, way | {"phrases": 5}, way | {"split": "val"}]
    hashes = {setting.scores_stage(**each).hash for each in (way, *others)}
    hashes |= {setting.scores_stage(**{kind: True}, **way).hash for kind in ("truth", "boundary")}
    assert len(hashes) == 6
    with pytest.raises(ValueError, match="sampler: unknown epsilon"):
        setting.scored(split="test", phrases=4, epsilon=0.1)


def test_parts_stay_until_every_process_has_read_them(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = {"split": "test", "phrases": 3, "name": "one", "boundary": True}
    final = made_at(setting.scores_stage(**way), profile="smoke")
    part = final.with_name(final.name + ".part")
    met: list[tuple[bool, bool]] = []

    def meet(_: object) -> None:
        met.append(((part / "parts").exists(), (part / "counts.npz").exists()))

    monkeypatch.setattr(PartialState, "wait_for_everyone", meet)
    setting.scored(**way)
    assert met[-1] == (True, True)  # all has been read, and nothing taken away
    assert not (final / "parts").exists()


@given(st.integers(1, 500), st.integers(1, 60))
def test_spaced_items_begin_at_the_first_and_keep_their_distance(count: int, most: int) -> None:
    items = spaced(count, most)
    assert items[0] == 0 and len(items) == min(count, most)
    steps = {b - a for a, b in pairwise([*items, count])}  # the last is as far from the end
    assert min(steps) >= 1 and max(steps) - min(steps) <= 1


def test_a_tables_cells_are_kept_with_what_made_them(setting: Setting) -> None:
    fixed = {"low": None, "high": None, "protocol": "a setting", "data": "none"}
    ours = {("LoRA Rank", "Value"): Result("2", **fixed, comparable="no: tiny")}
    path = setting.keep_results(8, ours)
    assert path.parts[-4:] == ("runs", "smoke", "results", "table_8.json")
    saved = load_results(path)
    assert saved.results["LoRA Rank", "Value"] == ours["LoRA Rank", "Value"]
    assert isinstance(saved.results["Random Seed", "Value"], Missing)
    assert Setting.from_parameters(**saved.provenance["parameters"]) == setting
    assert saved.provenance["training"] == setting.train_stage.hash
    with pytest.raises(UnknownCellError):
        setting.keep_results(8, {("LoRA Rank", "mIoU"): Missing()})


@pytest.mark.parametrize("place", ["backbone", "data", "train"])
def test_an_unknown_key_is_named_with_its_place(repo: Path, place: str) -> None:
    values: dict[str, dict[str, object]] = {
        "backbone": {"name": "mini"},
        "data": {},
        "train": {"steps": 1},
    }
    values[place]["learning_speed"] = 3
    with pytest.raises(ValueError, match=f"{place}: unknown learning_speed; known are"):
        Setting.from_parameters(profile="smoke", **values)


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        ("train", {"rank": -1}, "rank must be 0 .* got -1"),
        ("train", {"targets": "some"}, "targets must be one of .*'some'"),
        ("train", {"time": "late"}, "time must be one of .*'late'"),
        ("train", {"steps": 0}, "steps must be positive, got 0"),
        ("train", {"schedule": "step"}, "schedule must be one of .*'step'"),
        ("data", {"train": 0}, "train must be positive, got 0"),
    ],
)
def test_a_value_out_of_range_is_named(
    repo: Path, place: str, change: dict[str, object], message: str
) -> None:
    values: dict[str, dict[str, object]] = {"data": dict(DATA), "train": dict(TRAIN)}
    values[place].update(change)
    with pytest.raises(ValueError, match=message):
        Setting.from_parameters(profile="smoke", backbone={"name": "mini"}, **values)


def test_a_data_folder_that_is_not_there_is_named(repo: Path) -> None:
    for source in ("/no/data", "data/none"):
        with pytest.raises(FileNotFoundError, match=f"{source} is no folder"):
            Setting.from_parameters(
                profile="a100", backbone={"name": "./tiny"}, data={"source": source}, train=TRAIN
            )


def test_folders_are_found_from_any_folder_of_the_repository(
    repo: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repo / "data" / "phrases").mkdir(parents=True)
    outside = replace(setting, data=replace(setting.data, source="data/phrases"))
    monkeypatch.chdir(repo / "book")
    assert outside.source() == repo / "data" / "phrases"
    assert outside.backbone_location() == repo / "tiny"
    absolute = replace(outside, data=replace(outside.data, source=str(repo / "data")))
    assert absolute.source() == repo / "data"


def test_every_part_of_a_run_is_in_its_hash(setting: Setting) -> None:
    others = [
        setting,
        replace(setting, backbone="owner/name"),
        replace(setting, backbone="mini"),
        replace(setting, backbone="mini", recipe=BackboneConfig(seed=1)),
        replace(setting, backbone="random-sd15"),
        replace(setting, data=replace(setting.data, seed=6)),
        *(
            replace(setting, train=replace(setting.train, **change))
            for change in (
                {"steps": 5},
                {"rank": 0},
                {"targets": "everything"},
                {"time": "one"},
                {"batch": 2},
                {"lr": 0.5},
                {"warmup": 1},
                {"schedule": "cosine"},
                {"seed": 1},
            )
        ),
    ]
    assert len({each.train_stage.hash for each in others}) == len(others)
    assert replace(setting, profile="mini").train_stage.hash == setting.train_stage.hash


def test_a_hub_id_is_the_backbones_place_as_it_is(setting: Setting) -> None:
    assert replace(setting, backbone="owner/name").backbone_location() == "owner/name"


def test_a_folder_of_weights_stands_for_its_hub_id(repo: Path, setting: Setting) -> None:
    outside = replace(setting, backbone="owner/name")
    folder = repo / "weights" / "owner" / "name"
    folder.mkdir(parents=True)
    assert outside.backbone_location() == folder


def test_packed_items_are_the_scenes_tasks(setting: Setting) -> None:
    root = setting.source()
    exact = read_truth(root)
    for split in ("train", "val", "test"):
        pack = setting.pack(split)
        pack.validate()
        samples = list(phrasecut.read(root, split))
        assert len(pack) == len(samples) and len(pack.image_ids) == DATA[split]
        for number, sample in enumerate(samples):
            item = pack[number]
            assert (item.image_id, item.caption) == (sample.image_id, sample.caption)
            assert pack.ids(number) == (sample.ids["task_id"],)
            assert np.array_equal(item.mask, rasterise(sample))
            assert item.truth is not None
            assert np.array_equal(item.truth, exact[sample.ids["task_id"]].mask)
            assert item.image.shape == (16, 16, 3)
        assert setting.pack_report()[split]["phrases"] == len(samples)


def test_data_is_drawn_and_packed_once(setting: Setting) -> None:
    path = setting.pack("test").path
    made = path.stat().st_mtime_ns
    (setting.source() / "refer_test.json").touch()
    assert setting.pack("test").path == path and path.stat().st_mtime_ns == made


def test_phrasecuts_own_folder_has_no_exact_masks(setting: Setting) -> None:
    outside = replace(setting, data=replace(setting.data, source=str(setting.source())))
    pack, ours = outside.pack("test"), setting.pack("test")
    assert pack.path != ours.path and len(pack) == len(ours)
    assert pack[0].truth is None and np.array_equal(pack[0].mask, ours[0].mask)
    cache = outside.cache("test", outside.codec())
    v = as_velocity(outside.untrained().eval())
    scored = evaluate(v, cache, range(len(pack)), SamplerConfig(name="one"))
    assert scored.truth is None and len(scored.annotation) == len(pack)


@pytest.mark.parametrize("dataset", ["refcoco", "refcoco+", "refcocog", "cocostuff"])
def test_every_data_set_is_packed_and_trained_on(setting: Setting, dataset: str) -> None:
    other = replace(setting, data=replace(setting.data, dataset=dataset, test=12))
    assert other.train_stage.hash != setting.train_stage.hash
    assert tuple(other.splits.values()) == DATASETS[dataset].splits
    for split, name in other.splits.items():
        pack = other.pack(split)
        samples = list(read(dataset, other.source(), name, classes=MINI_CLASSES))
        assert {pack.caption(i) for i in range(len(pack))} == {s.caption for s in samples}
        first = samples[0]
        item = pack.find(first.image_id, first.caption)
        said = [s for s in samples if (s.image_id, s.caption) == (first.image_id, first.caption)]
        assert np.array_equal(
            pack.masks(item)[0], np.logical_or.reduce([rasterise(s) for s in said])
        )
        assert pack.masks(item)[1] is None
    losses = [step.loss for step in other.training(other.untrained(), until=2)]
    assert len(losses) == 2 and np.isfinite(losses).all()


def test_an_unknown_data_set_is_named(setting: Setting) -> None:
    with pytest.raises(ValueError, match=r"dataset must be one of phrasecut, .*got 'coco'"):
        replace(setting, data=replace(setting.data, dataset="coco"))


def test_training_ends_in_an_adapter_and_its_record(setting: Setting) -> None:
    folder = setting.trained()
    names = {"pytorch_lora_weights.safetensors", "steps.jsonl", "previews.npz", "stage.json"}
    assert {path.name for path in folder.iterdir()} == names
    steps = read_steps(folder / "steps.jsonl")
    assert [step.step for step in steps] == [1, 2, 3, 4]
    assert all(step.grad_norm > 0 and step.lr == 1e-2 for step in steps)
    record = read_record(folder)
    assert record["figures"]["loss_last_100"] == pytest.approx(np.mean([s.loss for s in steps]))
    assert record["inputs"]["data"] == setting.source_stage.hash
    written = (folder / "steps.jsonl").stat().st_mtime_ns
    assert setting.trained() == folder  # found, not made again
    assert (folder / "steps.jsonl").stat().st_mtime_ns == written


def test_latents_can_be_encoded_before_training(setting: Setting) -> None:
    other = replace(setting, data=replace(setting.data, seed=6))
    packs = [other.pack(split) for split in ("train", "val")]
    assert other.fill_latents() == sum(len(pack) + len(pack.image_ids) for pack in packs)
    assert other.fill_latents() == 0
    assert other.latents_stage("train").hash != setting.latents_stage("train").hash
    assert other.variant({"seed": 9}).latents_stage("val").hash == other.latents_stage("val").hash


def test_only_the_autoencoder_is_in_the_latents_hash(repo: Path) -> None:
    def latents_hash(**recipe: object) -> str:
        backbone = {"name": "mini", **recipe}
        given = {"profile": "smoke", "backbone": backbone, "data": DATA, "train": TRAIN}
        return Setting.from_parameters(**given).latents_stage("train").hash  # type: ignore[arg-type]

    assert latents_hash(unet_steps=3) == latents_hash() != latents_hash(vae_steps=3)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call")
@pytest.mark.parametrize(
    "machine",
    [
        MachineConfig(recompute=True),
        pytest.param(MachineConfig(compile="aot_eager"), marks=pytest.mark.slow),
    ],
)
def test_how_the_machine_is_used_does_not_change_what_is_learned(
    setting: Setting, machine: MachineConfig
) -> None:
    other = replace(setting, machine=machine)
    assert other.train_stage.hash == setting.train_stage.hash
    here, there = (
        [step.loss for step in each.training(each.untrained(), until=3)]
        for each in (setting, other)
    )
    assert there == pytest.approx(here, rel=2e-3)  # bf16
    assert here[0] != here[1]


def test_recomputing_keeps_less_for_the_backward_pass(setting: Setting) -> None:
    kept = []
    for recompute in (False, True):
        unet = replace(setting, machine=MachineConfig(recompute=recompute)).untrained().train()
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


def test_a_tracker_gets_every_step(setting: Setting) -> None:
    other = setting.variant({"seed": 77})
    folder = replace(other, machine=MachineConfig(tracker="tensorboard")).trained()
    (file,) = (folder / "tensorboard").glob("events*")
    events = list(read_events(file))
    steps = read_steps(folder / "steps.jsonl")
    for name in ("loss", "grad_norm", "lr", "seconds"):
        logged = {e.step: v.simple_value for e in events for v in e.summary.value if v.tag == name}
        wanted = {step.step: getattr(step, name) for step in steps}
        assert logged == pytest.approx(wanted, rel=1e-5)


def test_it_is_known_whether_training_was_done(setting: Setting) -> None:
    setting.trained()
    assert setting.is_trained and not setting.variant({"seed": 12345}).is_trained


def test_the_pipeline_segments_as_the_setting_does(setting: Setting) -> None:
    cache = setting.cache("test", setting.codec())
    v = as_velocity(setting.trained_unet(torch.device("cpu")))
    (wanted,) = predict(v, cache, [0, 1], SamplerConfig("aos", tol=0.15))
    pipe = setting.pipeline(threshold=0.3, tol=0.15)
    pipe.set_progress_bar_config(disable=True)
    pack = cache.pack
    for item, score in zip((0, 1), wanted.scores, strict=True):
        found = pipe(pack[item].image, pack.caption(item))
        # decoded in bfloat16 there, and from latents in half precision
        np.testing.assert_allclose(found.scores[0], score.numpy(), atol=0.03)
        assert np.array_equal(found.masks[0], found.scores[0] > 0.3)


def test_the_trained_unet_is_another_field_than_the_backbone(setting: Setting) -> None:
    z, t, c = latents(2, 0), torch.ones(2), texts(2)
    trained = setting.trained_unet(torch.device("cpu"))
    assert not any(p.requires_grad for p in trained.parameters())
    with torch.no_grad():
        plain = as_velocity(load_unet("./tiny").eval())(z, t, c)
        assert torch.equal(as_velocity(setting.untrained().eval())(z, t, c), plain)
        assert not torch.allclose(as_velocity(trained)(z, t, c), plain, atol=1e-4)


def test_a_live_run_repeats_the_records_first_steps(setting: Setting) -> None:
    recorded = read_steps(setting.trained() / "steps.jsonl")
    live = list(setting.training(setting.untrained(), until=2))
    assert [rounded(step).loss for step in live] == [step.loss for step in recorded[:2]]
    other = replace(setting, train=replace(setting.train, seed=1))
    (first,) = other.training(other.untrained(), until=1)
    assert first.loss != recorded[0].loss


def test_previews_show_what_the_unet_draws_at_that_step(setting: Setting) -> None:
    previews = read_previews(setting.trained())
    assert previews is not None and previews.steps.tolist() == [1, 2, 3, 4]
    cache = setting.cache("val", setting.codec())
    v = as_velocity(setting.trained_unet(torch.device("cpu")))
    (last,) = predict(v, cache, previews.items.tolist(), SamplerConfig("one"))
    wanted = last.scores.clamp(0, 1).numpy()
    assert np.abs(previews.scores[-1] - wanted).max() < 0.01
    assert np.abs(previews.scores[0] - wanted).max() > 0.01  # it learned something since
    assert read_previews(setting.pack("val").path.parent) is None


def test_an_interrupted_training_is_taken_up(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that dies after its last step, before saving, only has to save."""
    other = replace(setting, train=replace(setting.train, seed=8))
    with monkeypatch.context() as patch:

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("rlfseg.experiment.trainable.save_trained", die)
        with pytest.raises(KeyboardInterrupt):
            other.trained()
    with monkeypatch.context() as patch:
        seen: list[int] = []
        patch.setattr("rlfseg.experiment.trainable.flow_batch", lambda *a, **k: seen.append(1))
        folder = other.trained()
    assert not seen and len(read_steps(folder / "steps.jsonl")) == 4
    unet = other.untrained()
    for _ in other.training(unet, until=other.train.steps):
        pass
    save_trained(unet, folder.parent / "uninterrupted")
    file = "pytorch_lora_weights.safetensors"
    first, second = load_file(folder / file), load_file(folder.parent / "uninterrupted" / file)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_all_parameters_can_be_trained(setting: Setting) -> None:
    full = replace(setting, train=replace(setting.train, rank=0, steps=1, lr=1e-3))
    assert all(p.requires_grad for p in full.untrained().parameters())
    folder = full.trained()
    assert folder.name.startswith("full-uniform")
    assert (folder / "unet" / "config.json").is_file()
    unet, base = full.trained_unet(torch.device("cpu")), load_unet("./tiny")
    moved = [
        not torch.equal(a, b) for a, b in zip(unet.parameters(), base.parameters(), strict=True)
    ]
    assert sum(moved) > 0.9 * len(moved)


def test_everything_is_more_than_attention(setting: Setting) -> None:
    more = replace(setting, train=replace(setting.train, targets="everything"))
    counts = [
        sum(p.requires_grad for p in each.untrained().parameters()) for each in (setting, more)
    ]
    assert counts[0] < counts[1]


# --- refined labels ---------------------------------------------------------------------------

SAM = {"kind": "mini", "pixels": 16, "scenes": 6, "steps": 2, "images": 2, "prompts": 1}


def with_sam(**train: object) -> Setting:
    return Setting.from_parameters(
        profile="smoke",
        backbone={"name": "./tiny"},
        data=DATA,
        train={**TRAIN, **train},
        sam=SAM,
        refine={"anchors": 2, "iterations": 2},
    )


def test_refined_labels_lie_beside_the_annotations_of_a_copy(setting: Setting) -> None:
    folder = with_sam().refined("val")
    refined, plain = Pack(folder / "val.h5"), setting.pack("val")
    assert refined.content_hash == plain.content_hash
    for item in range(len(plain)):
        mask, truth, nothing = plain.masks(item)
        assert nothing is None
        again = refined.masks(item)
        assert np.array_equal(again[0], mask) and np.array_equal(again[1], truth)
        assert again[2] is not None and again[2].any()
    records = read_records(folder / "relabel")
    assert [record.item for record in records] == list(range(len(plain)))
    assert read_record(folder)["figures"]["masks"] == len(plain)


@pytest.mark.parametrize("selection", ["exact", "probe", "refined"])
def test_training_takes_the_labels_that_it_is_told_to(setting: Setting, selection: str) -> None:
    other = with_sam(selection=selection)
    assert other.train_stage.name == f"lora2-attention-uniform-{selection}"
    steps = read_steps(other.trained() / "steps.jsonl")
    assert len(steps) == 4
    assert all(("picked_original" in step.values) == (selection != "refined") for step in steps)
    losses = [step.loss for step in read_steps(setting.trained() / "steps.jsonl")]
    assert [step.loss for step in steps] != losses


def test_annotations_alone_do_not_depend_on_sam(setting: Setting) -> None:
    assert with_sam().train_stage == setting.train_stage
    more = replace(with_sam(selection="exact"), refine=RefineConfig(anchors=3))
    assert more.train_stage.hash != with_sam(selection="exact").train_stage.hash


def test_labels_are_scored_against_the_truth(setting: Setting) -> None:
    pack = setting.pack("val")
    items = list(range(len(pack)))[::-1]  # any order
    results = refine_items(pack, items, with_sam().predictor(), RefineConfig(anchors=2))
    scored = quality(pack, items, results)
    for place, item in enumerate(items):
        mask, truth, _ = pack.masks(item)
        for column, label in enumerate((mask, results[place].mask)):
            assert scored.iou[place, column] == (label & truth).sum() / (label | truth).sum()
            assert scored.boundary[place, column] == boundary_f(label, truth)
    assert np.array_equal(scored.worse, scored.iou[:, 1] < scored.iou[:, 0])


@pytest.mark.parametrize(
    ("sam", "message"),
    [
        ({"kind": "vit_x"}, "kind must be one of .*'vit_x'"),
        ({"kind": "vit_h"}, "vit_h needs a checkpoint"),
        ({"kind": "mini", "checkpoint": "a.pth"}, "mini needs no checkpoint"),
        ({"kind": "mini", "size": 3}, "sam: unknown size; known are"),
    ],
)
def test_a_sam_that_cannot_be_is_said_so(sam: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Setting.from_parameters(
            profile="smoke", backbone={"name": "mini"}, data={}, train={"steps": 1}, sam=sam
        )
