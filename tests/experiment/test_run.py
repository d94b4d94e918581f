"""A run as a value: read from parameters and given back, its variants, its identity."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tiny_run import DATA, TRAIN, given_run, with_sam

from rlfseg.config import (
    DataConfig,
    MachineConfig,
    RefineConfig,
    SamplerConfig,
    TrainConfig,
    validated,
)
from rlfseg.experiment import ClosedSet, Run, Scoring
from rlfseg.stand_ins.backbone import BackboneConfig, backbone_stage

FULL = {**TRAIN, "rank": 0, "seed": 3}


def test_parameters_become_a_run() -> None:
    run = given_run()
    assert run.train == TrainConfig(steps=4, rank=2, batch=4, lr=1e-2)
    assert run.data == DataConfig(pixels=16, train=6, val=2, test=3, seed=5)
    mini = given_run(backbone={"name": "mini", "unet_steps": 7}, data={}, train={"steps": 1})
    assert mini.backbone == BackboneConfig(unet_steps=7) and mini.data == DataConfig()
    assert mini.backbone_stage == backbone_stage(BackboneConfig(unet_steps=7))


def test_parameters_are_given_back() -> None:
    mini = {"name": "mini", "unet_steps": 7}
    for run in (
        given_run(),
        with_sam(selection="probe"),
        given_run(start=FULL, seeds=[1, 2], threshold=0.4, machine={"processes": 2}),
        given_run(profile="mini", backbone=mini, data={}, train={"steps": 1}),
    ):
        plain = json.loads(json.dumps(asdict(run)))
        assert validated(Run, plain, where="run") == run


def test_making_a_run_touches_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the repository is looked for."""
    monkeypatch.chdir(tmp_path)
    run = given_run(start=FULL).variant({"selection": "exact"})
    scoring = Scoring("test", on=DataConfig(dataset="refcoco"))
    stages = [run.train_stage, run.scores_stage(scoring), run.refined_stage("val")]
    assert len({stage.hash for stage in stages}) == 3
    assert list(tmp_path.iterdir()) == []


# --- what is wrong is said ----------------------------------------------------------------------


@pytest.mark.parametrize("place", ["backbone", "data", "train", "sam", "refine", "machine"])
def test_an_unknown_key_is_named_with_its_place(place: str) -> None:
    known = {"backbone": {"name": "mini"}, "train": {"steps": 1}}
    values = {place: {**known.get(place, {}), "learning_speed": 3}}
    with pytest.raises(ValueError, match=rf"{place}\.learning_speed is unknown; known are .*\w"):
        given_run(**values)


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        ("train", {"rank": -1}, r"train\.rank is -1: .*greater than or equal to 0"),
        ("train", {"targets": "some"}, r"train\.targets is 'some': .*'attention' or 'everything'"),
        ("train", {"time": "late"}, r"train\.time is 'late': .*'uniform' or 'one'"),
        ("train", {"steps": 0}, r"train\.steps is 0: .*greater than 0"),
        ("train", {"steps": "4"}, r"train\.steps is '4': .*valid integer"),
        ("train", {"schedule": "step"}, r"train\.schedule is 'step': .*'constant' or 'cosine'"),
        ("train", {"objective": "classes"}, r"train\.objective is 'classes': .*'reshaped'"),
        ("train", {"rank": 4, "weights": "random"}, "random weights need rank 0 .*got rank 4"),
        ("data", {"train": 0}, r"data\.train is 0: .*greater than 0"),
        ("data", {"dataset": "coco"}, r"data\.dataset is 'coco': .*'phrasecut', 'refcoco'"),
        ("sam", {"kind": "vit_x"}, r"sam\.kind is 'vit_x': .*'mini', 'vit_b'"),
        ("sam", {"kind": "vit_h"}, "kind vit_h needs a checkpoint"),
        ("sam", {"kind": "mini", "checkpoint": "a.pth"}, "kind mini needs no checkpoint"),
        ("sam", {"kind": "vit_h", "checkpoint": "a.pth", "steps": 3}, "vit_h has no recipe here"),
        ("backbone", {"unet_steps": 7}, r"backbone \./tiny has no recipe here"),
        ("start", TRAIN, r"start: .* all parameters \(rank 0\), not 2"),
        ("start", {"step": 2}, r"start\.step is unknown; known are"),
    ],
)
def test_a_value_out_of_range_is_named(place: str, change: dict[str, object], message: str) -> None:
    known = {"data": DATA, "train": TRAIN, "backbone": {"name": "./tiny"}}
    with pytest.raises(ValueError, match=message) as wrong:
        given_run(**{place: {**known.get(place, {}), **change}})
    assert "\n" not in str(wrong.value)
    assert str(wrong.value).startswith("run: ")


def test_what_is_made_without_a_file_is_checked_too() -> None:
    run = given_run()
    with pytest.raises(ValueError, match="'phrasecut', 'refcoco'"):
        replace(run.data, dataset="coco")
    with pytest.raises(ValueError, match="random weights need rank 0"):
        TrainConfig(steps=1, rank=4, weights="random")
    with pytest.raises(ValueError, match="epsilon"):
        Scoring("test", 4, sampler=SamplerConfig("aos", epsilon=0.1))  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="a run goes on from one of all parameters"):
        replace(run, start=run.train)
    fresh = replace(run.train, rank=0, weights="random")
    with pytest.raises(ValueError, match=r"start: with `weights: random` in train nothing goes on"):
        replace(run, train=fresh, start=replace(run.train, rank=0))


def test_a_seed_that_occurs_twice_and_a_batch_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(ValueError, match=r"seeds is .*: a seed occurs twice"):
        given_run(seeds=[42, 7, 42])
    with pytest.raises(ValueError, match=r"batch of 4 .* 3 processes \(machine.processes\)"):
        given_run(machine={"processes": 3})


# --- variants -----------------------------------------------------------------------------------


def test_a_variant_differs_in_its_training_alone() -> None:
    run = given_run()
    other = run.variant({"time": "one", "rank": 4})
    assert other == replace(run, train=replace(run.train, time="one", rank=4))
    assert other.train_stage.hash != run.train_stage.hash
    assert other.data_stage.hash == run.data_stage.hash
    with pytest.raises(ValueError, match="train: times is unknown; known are"):
        run.variant({"times": "one"})


def test_seeds_have_names_of_their_own() -> None:
    names = [given_run().variant({"seed": seed}).train_stage.name for seed in (42, 0, 7)]
    kind = "lora2-attention-uniform"
    assert names == [kind, f"{kind}-seed0", f"{kind}-seed7"]


def test_seeded_variants_differ_in_what_they_change_and_their_seed_alone() -> None:
    run = given_run(seeds=[1, 2])
    kinds = ("original", "refined", "exact")
    runs = run.seeded({kind: {"selection": kind} for kind in kinds})
    assert len(runs) == len({each.train_stage.name for each in runs.values()}) == 6
    for (labels, seed), each in runs.items():
        assert each == run.variant({"selection": labels, "seed": seed})


def test_a_run_is_described_by_what_matters_to_it() -> None:
    told = given_run().describe()
    assert "./tiny" in told and "unet_steps" not in told  # it has no recipe
    for name, value in asdict(given_run().train).items():
        assert f"{name}={value}" in told.replace("\n" + " " * 9, " ")
    assert "anchors" not in told and "start" not in told
    more = replace(with_sam(selection="exact"), start=TrainConfig(**FULL)).describe()
    assert "anchors=2" in more and "prompts=1" in more and "\nstart " in more


# --- identity -----------------------------------------------------------------------------------


def test_an_objective_is_part_of_a_run_s_name_and_the_plain_one_is_what_was_before() -> None:
    run = given_run()
    assert run.variant({"objective": "plain"}).train_stage == run.train_stage
    assert "objective" not in run.train_stage.config
    assert "-reshaped" in run.variant({"objective": "reshaped"}).train_stage.name


def test_where_a_run_starts_is_part_of_what_it_is() -> None:
    run, second = given_run(), given_run(start=FULL)
    other = given_run(start={**FULL, "steps": 5})
    assert len({each.train_stage.hash for each in (run, second, other)}) == 3
    assert second.first() == run.variant({"rank": 0, "seed": 3}) and run.first() is None
    assert given_run(start=FULL, train={**TRAIN, "seed": 1}) == second.variant({"seed": 1})


def test_every_part_of_a_run_is_in_its_hash() -> None:
    run = given_run()
    others = [
        run,
        replace(run, backbone=BackboneConfig("owner/name")),
        replace(run, backbone=BackboneConfig()),
        replace(run, backbone=BackboneConfig(seed=1)),
        replace(run, backbone=BackboneConfig("random-sd15")),
        replace(run, data=replace(run.data, seed=6)),
        *(
            replace(run, train=replace(run.train, **change))
            for change in (
                {"steps": 5},
                {"rank": 0},
                {"rank": 0, "weights": "random"},
                {"targets": "everything"},
                {"time": "one"},
                {"batch": 2},
                {"lr": 0.5},
                {"warmup": 1},
                {"schedule": "cosine"},
                {"seed": 1},
                {"objective": "l2"},
                {"selection": "probe"},
            )
        ),
    ]
    assert len({each.train_stage.hash for each in others}) == len(others)
    same = (
        {"profile": "mini"},
        {"seeds": (3,)},
        {"threshold": 0.9},
        {"sampler": SamplerConfig("hss")},
        {"machine": MachineConfig(processes=2, recompute=True)},
    )
    for change in same:
        assert replace(run, **change).train_stage.hash == run.train_stage.hash, change


def test_annotations_alone_do_not_depend_on_sam() -> None:
    assert with_sam().train_stage == given_run().train_stage
    more = replace(with_sam(selection="exact"), refine=RefineConfig(anchors=3))
    assert more.train_stage.hash != with_sam(selection="exact").train_stage.hash


def test_only_the_autoencoder_is_in_the_latents_hash() -> None:
    def latents_hash(**recipe: object) -> str:
        return given_run(backbone={"name": "mini", **recipe}).latents_stage("train").hash

    assert latents_hash(unet_steps=3) == latents_hash() != latents_hash(vae_steps=3)


def test_how_it_is_scored_is_in_the_scores_hash() -> None:
    run, aos = given_run(), SamplerConfig("aos", tol=0.2)
    way = Scoring("test", 4, sampler=aos)
    ways = [
        way,
        way.by(replace(aos, tol=0.3)),
        replace(way, phrases=5),
        replace(way, phrases=None),
        replace(way, split="val"),
        replace(way, truth=True),
        replace(way, boundary=True),
        replace(way, on=DataConfig(dataset="refcoco")),
    ]
    assert len({run.scores_stage(each).hash for each in ways}) == len(ways)
    closed = ClosedSet(4, DataConfig(dataset="cocostuff"), aos)
    others = [closed, replace(closed, images=5), replace(closed, sampler=SamplerConfig("one"))]
    others += [replace(closed, on=replace(closed.on, seed=1))]
    assert len({run.closed_stage(each).hash for each in others}) == len(others)
    assert replace(run, train=replace(run.train, seed=1)).scores_stage(way).hash not in {
        run.scores_stage(each).hash for each in ways
    }
