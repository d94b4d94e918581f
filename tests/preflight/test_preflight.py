"""Preflight passes where all is there, and names each thing that is not."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import psutil
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from conftest import ROOT
from diffusers import AutoencoderTiny, UNet2DConditionModel
from tiny import tiny_backbone

from rlfseg.__main__ import main
from rlfseg.chapters import CHAPTERS, Chapter, reading
from rlfseg.config import DataConfig, read_yaml
from rlfseg.data.check import Line, Report
from rlfseg.data.drawn.write_cocostuff import MINI_CLASSES
from rlfseg.data.drawn.write_phrasecut import TRUTH_FILE, write_phrasecut
from rlfseg.experiment import Run, curve_stage, loaded_tiny_decoder, read_run, untrained
from rlfseg.models.sam import mini_sam, save_sam
from rlfseg.preflight import counts, disk, machine, memory, preflight, speed, weights_and_data
from rlfseg.preflight.forecast import Forecast, compared, taken
from rlfseg.preflight.plan import Plan, Task, Work, read_plan
from rlfseg.preflight.shipping import expected
from rlfseg.preflight.speed import Rates, measure
from rlfseg.stage import Stage, made_at, shipped

TRAIN = {"steps": 3, "rank": 2, "batch": 2, "lr": 0.001}
DRAWN = {"source": "mini", "pixels": 16, "train": 5, "val": 1, "test": 2}
QUIET = {
    "changes": {},
    "data": {},
    "variants": {},
    "browser": None,
    "shorter": None,
    "worth": None,
    "parts": [],
    "recipe": None,
    "longer": {},
    "once": {},
    "supervised": {},
    "others": {},
    "tols": [],
    "baselines": {},
}
MEASURE = speed.measure
Usage = namedtuple("Usage", "total used free")
Memory = namedtuple("Memory", "available")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository with one profile: a tiny backbone and SAM of its own, and drawn scenes."""
    for folder in ("book", "params/tiny"):
        (tmp_path / folder).mkdir(parents=True)
    for each in ROOT.glob("requirements*.lock"):
        shutil.copy(each, tmp_path)
    tiny_backbone(tmp_path / "backbone")
    write_run(tmp_path)
    for chapter in CHAPTERS:
        write(tmp_path, chapter)
    monkeypatch.chdir(tmp_path)
    sam = shipped("tiny", read_run("tiny").sam_stage)
    mark(sam, read_run("tiny").sam_stage)
    save_sam(mini_sam(pixels=16), sam / "sam.safetensors")
    kinds = ("pack", "encode", "refine", "score", "train", "train, all parameters")
    rates = Rates(dict.fromkeys(kinds, 1.0))
    monkeypatch.setattr(speed, "measure", lambda plan, seconds, start: rates)
    monkeypatch.setattr(memory, "held", lambda unet, samples, side, gpu, both: 1000 * samples)
    monkeypatch.setattr(memory, "encoded", lambda codec, pictures, side: 0)
    AcceleratorState._reset_state(True)  # other tests made one without mixed precision
    yield tmp_path
    AcceleratorState._reset_state(True)


def write_run(place: Path, **changes: object) -> None:
    """Writes what the run is."""
    given = {"backbone": {"name": "backbone"}, "data": DRAWN, "train": TRAIN, **changes}
    (place / "params/tiny/run.yml").write_text(yaml.safe_dump(given))


def write(place: Path, chapter: str, **changes: object) -> None:
    """Writes a chapter's parameters: the smoke profile's without variants, with changes."""
    given = read_yaml(ROOT / "params/smoke" / f"{chapter}.yml")
    given |= {name: value for name, value in QUIET.items() if name in given}
    path = place / "params/tiny" / f"{chapter}.yml"
    path.write_text(yaml.safe_dump({**given, "profile": "tiny", **changes}))


def mark(folder: Path, stage: Stage) -> None:
    """Makes a folder look as if a stage had ended in it."""
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text(json.dumps({"hash": stage.hash}))


def end(*stages: Stage) -> None:
    """Marks stages as made here."""
    for stage in stages:
        mark(made_at(stage, profile="tiny"), stage)


def work(chapter: str) -> Work:
    """What a chapter adds, as its parameters are now."""
    return next(work for work in read_plan("tiny").works if work.chapter == chapter)


def ranks() -> dict[str, list[int]]:
    """The ranks of the runs that each chapter adds."""
    every = {w.chapter: [run.train.rank for run in w.runs] for w in read_plan("tiny").works}
    return {chapter: found for chapter, found in every.items() if found}


def problem(report: Report, what: str) -> Line:
    """The one problem of a report, which is about this."""
    (line,) = (line for line in report.lines if line.level == "problem")
    assert line.what == what and not report.ok
    return line


@pytest.mark.integration
def test_all_is_there(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "measure", MEASURE)
    assert main(["preflight", "--profile", "tiny", "--seconds", "0", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    found = {line["what"]: line for line in report["lines"]}
    stages = {read_run("tiny").train_stage.folder, read_run("tiny").refined_stage("val").folder}
    assert stages < set(report["stages"]) and min(report["stages"].values()) > 0
    assert sum(report["stages"].values()) < report["seconds"]
    assert report["ok"] and len(found) == len(report["lines"])
    assert found["Table 8 (03_train)"]["expected"].startswith("1 runs, 6 samples")
    assert found["02_refine"]["expected"] == "4 masks; 0 phrases"
    for kind in ("encode", "train", "score", "refine"):
        assert float(found[f"speed: {kind}"]["found"].split()[0]) > 0
    assert not (place / "runs").exists(), "preflight keeps nothing"
    names = list(found)
    assert names[names.index("backbone") :] == [
        *("backbone", "SAM", "phrasecut", "cocostuff"),
        *(f"disk: {what}" for what in ("packed files", "packed files with refined labels")),
        *("disk: latents", "disk: weights", "disk: counts", "disk", "memory: train"),
        *(f"speed: {kind}" for kind in ("pack", "encode", "refine", "score")),
        *("speed: train", "speed: train, all parameters", "speed: start"),
        *("01_data", "02_refine", "Table 8 (03_train)", "Tables 7 and 9 (04_sampling)"),
        *("Table 1 (05_phrasecut)", "05b_ask", "Table 3 (07_cocostuff)"),
        *("Table 4 (08_speed)", "10_protocols", "all chapters"),
        "all tables (MINIMAL=1)",
    ]  # the others compare variants, and have none here


def test_a_chapter_is_known_by_the_registry_alone(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CHAPTERS, "12_more", Chapter("method.Training", 1, (10, 11)))
    given = {
        "profile": "tiny",
        "changes": {"train": {"rank": 9, "batch": 3}, "machine": {"processes": 3}},
    }
    given |= {"live_steps": 1, "shown": 1, "agreement": 1.0}
    (place / "params/tiny/12_more.yml").write_text(yaml.safe_dump(given))
    assert work("12_more").table == "Tables 10 and 11 (12_more)"
    assert ranks()["12_more"] == [9]
    assert (read_plan("tiny").processes, read_plan("tiny").run.train.rank) == (3, 2)


@pytest.mark.integration
def test_sam_is_looked_at_where_it_is_asked_for(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(place, sam={"kind": "vit_b", "checkpoint": "sam.pth"})
    assert "sam.pth" in problem(preflight("tiny"), "SAM").found
    (place / "sam.pth").write_bytes(b"no weights")
    assert "sam.pth" in problem(preflight("tiny"), "SAM").found
    others = {name: c for name, c in CHAPTERS.items() if name not in ("02_refine", "A1_backbone")}
    monkeypatch.setattr(reading, "CHAPTERS", others)
    monkeypatch.setattr(speed, "measure", MEASURE)
    assert not {"SAM", "speed: refine"} & {each.what for each in preflight("tiny", seconds=0).lines}
    write(place, "03b_labels", variants={"exact": {"selection": "exact"}})
    assert "sam.pth" in problem(preflight("tiny"), "SAM").found


def test_what_a_run_would_go_on_from_is_not_trained(place: Path) -> None:
    write_run(place, start={**TRAIN, "rank": 0})
    assert preflight("tiny", seconds=0).ok and not (place / "runs").exists()
    assert ranks()["03_train"] == [0, 2]


def test_missing_weights(place: Path) -> None:
    (place / "backbone/unet/diffusion_pytorch_model.safetensors").unlink()
    line = problem(preflight("tiny", seconds=0), "backbone")
    assert "unet" in line.examples[0] and "not there" in line.examples[0]


def test_a_tokenizer_may_be_one_file(place: Path) -> None:
    folder = place / "backbone/tokenizer"
    (folder / "vocab.json").unlink()
    (folder / "tokenizer.json").touch()
    line = weights_and_data._folder(place / "backbone", "backbone")
    assert line.level == "ok", line
    (folder / "tokenizer.json").unlink()
    line = weights_and_data._folder(place / "backbone", "backbone")
    assert "vocab.json is not there" in line.examples[0]


def test_weights_of_half_precision_alone_are_as_good(place: Path) -> None:
    for path in (place / "backbone").rglob("*.safetensors"):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    assert preflight("tiny", seconds=0).ok
    cut = place / "backbone/vae/diffusion_pytorch_model.fp16.safetensors"
    os.truncate(cut, cut.stat().st_size - 1)
    assert str(cut) in problem(preflight("tiny", seconds=0), "backbone").examples[0]


def test_truncated_weights(place: Path) -> None:
    path = place / "backbone/vae/diffusion_pytorch_model.safetensors"
    os.truncate(path, path.stat().st_size - 1)
    line = problem(preflight("tiny", seconds=0), "backbone")
    assert str(path) in line.examples[0]


def test_backbone_of_the_hub_that_is_not_here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(place, backbone={"name": "no-one/nothing"})
    assert "hf download no-one/nothing" in problem(preflight("tiny"), "backbone").advice


def test_a_baselines_released_weights_and_its_training_are_counted(place: Path) -> None:
    some = {"CLIPSeg (PC+)": {"kind": "clipseg", "checkpoint": "given", "pixels": 16}}
    more = some | {"LD-ZNet": {"kind": "ldznet", "steps": 5, "batch": 3}}
    counts = {"shown": 1, "compared": 1, "baselines": 2}
    write(place, "05_phrasecut", baselines=some, phrases=counts)
    before = work("05_phrasecut")
    write(place, "05_phrasecut", baselines=more, phrases=counts)
    after = work("05_phrasecut")
    assert (before.baselines, after.baselines, after.scored - before.scored) == (0, 15, 2)
    write(place, "05_phrasecut", baselines=more, phrases=counts | {"baselines": 1000})
    assert work("05_phrasecut").scored - after.scored == 2 * (8 - 2)  # of two drawn scenes
    ldznet = read_plan("tiny").asks["05_phrasecut"].rivals[1]
    end(ldznet.training)
    assert (work("05_phrasecut").baselines, work("05_phrasecut").scored) == (0, after.scored + 12)
    shutil.rmtree(place / "runs")
    end(ldznet.scores)  # its weights are then not needed
    assert (work("05_phrasecut").baselines, work("05_phrasecut").scored) == (0, after.scored + 4)


def test_missing_weights_of_a_baseline_or_a_decoder_cost_a_row_and_not_the_hours(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(name: str) -> Line:
        lines = weights_and_data.released(read_plan("tiny"))
        return next(line for line in lines if line.expected == name)

    write(
        place,
        "05_phrasecut",
        baselines={"CLIPSeg (PC+)": {"kind": "clipseg", "checkpoint": "given"}},
    )
    write(place, "08_speed", tiny={"name": "no-one/taesd"})
    assert found("given").level == "note" and "hf download given" in found("given").advice
    assert found("no-one/taesd").what == "weights for 08_speed"
    report = preflight("tiny", seconds=0)
    assert report.ok and "all chapters" in [line.what for line in report.lines]
    folder = place / "weights/given"
    folder.mkdir(parents=True)
    assert "no safetensors" in found("given").found
    shutil.copy(place / "backbone/text_encoder/model.safetensors", folder)
    assert found("given").level == "ok"
    os.truncate(folder / "model.safetensors", 100)
    assert found("given").level == "note" and "model.safetensors" in found("given").found
    AutoencoderTiny().save_pretrained(place / "weights/no-one/taesd")
    assert found("no-one/taesd").level == "ok"
    run, tiny = read_run("tiny"), read_plan("tiny").chapters["08_speed"].tiny
    assert loaded_tiny_decoder(run, tiny) is not None
    shutil.rmtree(place / "weights")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert loaded_tiny_decoder(run, tiny) is None


def test_wrong_counts(place: Path) -> None:
    """Drawn scenes that don't say so are taken for the official set, and are too few."""
    folder = place / "given"
    write_phrasecut(folder, seed=0, counts={"train": 3, "val": 1, "test": 1}, pixels=64)
    (folder / TRUTH_FILE).unlink()
    write_run(place, data={"source": "given", "pixels": 16})
    lines = preflight("tiny", seconds=0).lines
    (line,) = (line for line in lines if line.what == "phrasecut")
    assert line.level == "problem" and any("71746" in t.replace(",", "") for t in line.examples)
    (gpus,) = (line for line in lines if line.what == "GPUs")
    assert (gpus.level, gpus.expected) == ("ok", "none needed")  # for pictures of 16 pixels


def test_data_that_are_not_there(place: Path) -> None:
    write_run(place, data={"source": "nowhere", "pixels": 16})
    lines = [line for line in preflight("tiny", seconds=0).lines if line.what == "phrasecut"]
    assert lines[0].level == "problem" and "nowhere" in lines[0].found


def test_too_little_disk(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 10**12, 1000))
    assert "GB free" in problem(preflight("tiny", seconds=0), "disk").found


@pytest.mark.skipif(torch.cuda.is_available(), reason="looks at the GPU's memory")
def test_too_little_memory(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(1000))
    report = preflight("tiny", seconds=0)
    assert "accumulate" in problem(report, "memory: train").advice
    assert not [line for line in report.lines if line.what.startswith("speed:")]


@pytest.mark.integration
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_where_one_is_demanded() -> None:
    line = next(line for line in preflight("a100").lines if line.what == "GPUs")
    assert (line.level, line.found, line.expected) == ("problem", "none", "8")


def test_unknown_profile(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["preflight", "--profile", "h100"])
    assert "smoke" in capsys.readouterr().err


def test_library_of_another_version_is_a_note_and_a_missing_one_a_problem(place: Path) -> None:
    own = machine.lock()
    assert own.parent == place
    own.write_text(own.read_text() + "numpy==1.0\n")
    lines = {line.what: line for line in preflight("tiny", seconds=0).lines}
    assert (
        lines["libraries"].level == "note" and "1.0 in the lock" in lines["libraries"].examples[0]
    )
    own.write_text(own.read_text() + "no-such-library==1.0\n")
    assert problem(preflight("tiny", seconds=0), "libraries").examples == ("no-such-library",)


def test_an_environment_of_the_other_lock_is_set_against_that_one(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for have, name in (("2.5.1+cu124", "requirements-paper.lock"), ("9.9", "requirements.lock")):
        monkeypatch.setattr(machine, "version", lambda _, have=have: have)
        assert machine.lock() == place / name


def test_a_run_is_counted_once_and_only_if_it_is_not_there(place: Path) -> None:
    write(place, "05_phrasecut", variants={"wide": {"rank": 4}})
    some = {"variants": {"16": {"rank": 4}, "32": {"rank": 5}}, "longer": {"c": {"rank": 6}}}
    write(place, "09_ranks", **some)
    assert ranks() == {"03_train": [2], "05_phrasecut": [4], "09_ranks": [5, 6]}
    end(read_run("tiny").variant({"rank": 4}).train_stage)
    assert ranks() == {"03_train": [2], "09_ranks": [5, 6]}


def test_a_run_of_which_only_scores_are_wanted_is_counted_unless_they_are_there(
    place: Path,
) -> None:
    write(place, "09_ranks", variants={"16": {"rank": 4}, "32": {"rank": 5}})
    (four, scoring), (five, _) = read_plan("tiny").asks["09_ranks"].scored
    assert (ranks()["09_ranks"], work("09_ranks").scored) == ([4, 5], 2 * 8)
    end(four.scores_stage(scoring))
    assert (ranks()["09_ranks"], work("09_ranks").scored) == ([5], 8)
    write(place, "10_protocols", changes={"train": {"rank": 4}})  # which reads the weights
    assert ranks() == {"03_train": [2], "09_ranks": [5], "10_protocols": [4]}
    end(five.train_stage)
    assert "09_ranks" not in ranks() and work("09_ranks").scored == 8


def test_a_learning_curve_needs_its_training_unless_it_is_kept(place: Path) -> None:
    short = {"train": {}, "also": ["a"], "heads": {}}
    write(place, "05_phrasecut", shorter=short)
    with pytest.raises(ValueError, match=r"shorter.also: there is no run 'a'; there are none"):
        work("05_phrasecut")
    four = {"shorter": short, "longer": {"a": {"rank": 4}}}
    write(place, "05_phrasecut", **four)
    quiet = work("05_phrasecut").scored  # of runs without a curve none is drawn
    write(place, "05_phrasecut", changes={"train": {"curve": 3}}, **four)
    (own, four, *_) = read_plan("tiny").asks["05_phrasecut"].learned
    assert (own.train.rank, four.train.rank) == (2, 4)
    assert ranks()["05_phrasecut"] == [2, 4]
    assert work("05_phrasecut").scored - quiet == 2 * 3 * 2 * 7  # two words, seven lengths
    end(curve_stage(four.train_stage))
    assert ranks()["05_phrasecut"] == [2]
    assert work("05_phrasecut").scored - quiet == 3 * 2 * 7


def test_a_baselines_curve_needs_its_training_and_no_second_score(place: Path) -> None:
    ldznet = {"LD-ZNet": {"kind": "ldznet", "steps": 5, "batch": 3, "curve": 2}}
    counts = {"shown": 1, "compared": 1, "baselines": 2}
    write(place, "05_phrasecut", baselines=ldznet, phrases=counts)
    (rival,) = read_plan("tiny").asks["05_phrasecut"].rivals
    both = work("05_phrasecut")
    end(rival.scores)
    curve = work("05_phrasecut")
    assert (both.baselines, curve.baselines, both.scored - curve.scored) == (15, 15, 2)
    assert rival.curve is not None
    end(rival.curve)
    assert work("05_phrasecut").baselines == 0


def test_phrases_are_those_there_are_times_the_passes_of_the_sampler(place: Path) -> None:
    """A split of two scenes has about eight phrases; of 1000 that are asked for, too."""
    walk = {"name": "hss", "steps": 2}
    for many, passes, sampler in ((3, 1, {}), (1000, 1, {}), (1000, 3, walk)):
        scoring = {"split": "test", "phrases": many, "sampler": sampler}
        write(place, "09_ranks", variants={"16": {"rank": 4}}, scoring=scoring)
        assert work("09_ranks").scored == min(many, 8) * passes
    refcoco = {"refcoco": {**DRAWN, "dataset": "refcoco", "val": 2, "test": 3}}
    write(place, "06_refcoco", others=refcoco)
    assert work("06_refcoco").scored == 8 + 2 * 8  # both test sets are of the same scenes
    samplers = {"1 step": {"name": "one"}, "AOS": {"name": "aos", "tol": 0.7}}
    one = {"scoring": {"split": "test", "phrases": 5}, "samplers": samplers}
    write(place, "04_sampling", **one, shown=2, others=refcoco, tols=[0.1, 0.1, 0.3])
    assert work("04_sampling").scored == (2 + 1 + 2 * 2) * 5 + 4 * 2  # the same only once
    run, scoring = read_plan("tiny").asks["04_sampling"].scored[0]
    end(run.scores_stage(scoring))
    assert work("04_sampling").scored == (1 + 1 + 2 * 2) * 5 + 4 * 2


def test_where_outlines_are_measured_each_phrase_is_segmented_twice(place: Path) -> None:
    for boundary, times in ((False, 1), (True, 2)):
        scoring = {"split": "test", "phrases": 3, "boundary": boundary}
        write(place, "09_ranks", variants={"16": {"rank": 4}}, scoring=scoring)
        assert work("09_ranks").scored == 3 * times


def test_a_closed_set_asks_each_picture_for_all_names(place: Path) -> None:
    stuff = {**DRAWN, "dataset": "cocostuff", "val": 3}
    baseline = {"steps": 7, "batch": 2, "scenes": 4, "euler": 5}
    for many in (2, 1000):
        write(place, "07_cocostuff", other=stuff, images=many, semflow={**baseline})
        plan, images = read_plan("tiny"), min(many, 3)
        rival = 5 * min(many, 12)
        asked = work("07_cocostuff")
        assert asked.scored == 12 + images * len(MINI_CLASSES) + rival and asked.baselines == 14
    run, closed = plan.asks["07_cocostuff"].closed[0]
    end(run.closed_stage(closed))
    assert work("07_cocostuff").scored == 12 + rival


def test_semflows_maps_are_encoded_at_each_step_and_not_kept(place: Path) -> None:
    stuff = {**DRAWN, "dataset": "cocostuff"}
    write(place, "07_cocostuff", other=stuff, semflow={"steps": 7, "batch": 2, "scenes": 4})
    encoded = [t for t in work("07_cocostuff").tasks if t.kind == "encode" and t.split == "train"]
    assert [(task.amount, task.kept) for task in encoded] == [(4, True), (14, False)]
    assert [disk.written(task).kept for task in encoded] == [4 * 16 * 16 / 8, 0]
    end(read_plan("tiny").asks["07_cocostuff"].rivals[0].training)
    assert all(task.kept for task in work("07_cocostuff").tasks)


def test_what_a_launch_refines_packs_and_names_is_shared_by_its_processes(place: Path) -> None:
    write_run(place, train={**TRAIN, "batch": 6}, machine={"processes": 3})
    with pytest.raises(ValueError, match="semflow: a batch of 2 can't be shared equally by 3 pr"):
        work("07_cocostuff")
    write(place, "07_cocostuff", semflow={"steps": 2, "batch": 3, "scenes": 4, "euler": 2})
    rival = {"kind": "ldznet", "steps": 2, "batch": 4, "width": 16}
    write(place, "05_phrasecut", baselines={"LD-ZNet": rival})
    with pytest.raises(ValueError, match="LD-ZNet: a batch of 4 can't be shared equally by 3 pr"):
        work("05_phrasecut")
    write(place, "05_phrasecut")
    tasks = work("02_refine").tasks + work("07_cocostuff").tasks
    shared = [task for task in tasks if task.of.data.dataset == "cocostuff"]
    shared += [task for task in tasks if task.kind == "refine"]
    assert {task.kind for task in shared} == {
        *("pack", "encode", "refine", "score"),
        "train, all parameters, 1 at a time",  # which is timed so, and not as the run's two
    }
    assert list(speed.kinds(read_plan("tiny"))) == ["train", "train, all parameters, 1 at a time"]
    assert {task.processes for task in shared} == {3}


def test_a_split_of_coco_stuff_is_there_if_it_can_be_read(place: Path) -> None:
    stuff = DataConfig(source="stuff", dataset="cocostuff", pixels=16)
    maps, converted = place / "stuff/stuffthingmaps/train2017", place / "stuff/annotations/val2017"

    def found() -> tuple[int, int]:
        counts._there.cache_clear()
        return counts.pictures(stuff, "train"), counts.phrases(stuff, "train")

    assert found() == (118_287, 8 * 118_287)  # as published
    for folder in (maps, maps.with_name("val2017"), converted):
        folder.mkdir(parents=True)
        for name in ("1.png", "1_labelTrainIds.png", "2.png"):
            (folder / name).touch()
    converted.rename(converted.with_name("train2017"))  # where maps may lie too
    assert found() == (0, 0)  # the maps' archive has both splits
    write(place, "07_cocostuff", other={"source": "stuff", "dataset": "cocostuff", "pixels": 16})
    assert work("07_cocostuff").baselines == 0
    (place / "stuff/train2017").mkdir()
    assert found() == (2, 16)
    assert work("07_cocostuff").baselines > 0


def test_labels_are_refined_once_and_only_for_runs_that_are_not_there(place: Path) -> None:
    labels = {"refined": {"selection": "refined"}, "exact": {"selection": "exact"}}
    write(place, "03b_labels", variants=labels)
    run = read_run("tiny")
    assert (work("02_refine").refined, work("03b_labels").refined) == (4, 20)
    end(run.refined_stage("val"), run.variant(labels["exact"]).train_stage)
    assert (work("02_refine").refined, work("03b_labels").refined) == (0, 20)
    end(run.variant(labels["refined"]).train_stage)
    assert work("03b_labels").refined == 0
    shutil.rmtree(place / "runs")
    end(run.refined_stage("train"))
    assert len(work("03b_labels").runs) == 2 and work("03b_labels").refined == 0


def test_space_is_for_every_packed_file(place: Path) -> None:
    needs = []
    for scenes in (4, 1004):
        baseline = {"steps": 1, "scenes": scenes}
        stuff = {**DRAWN, "dataset": "cocostuff"}
        write(place, "07_cocostuff", other=stuff, semflow=baseline)
        needs.append(disk.by_kind(read_plan("tiny"))["packed files"])
    assert needs[1] - needs[0] == 1000 * (16 * 16 * 3 + 4 * 6000)


def test_masks_are_refined_on_a_photograph_where_the_data_have_some(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[tuple[int, ...], int]] = []

    def note(image: np.ndarray, masks: list[np.ndarray], *_: object) -> None:
        share = [mask.mean() for mask in masks]
        assert share == pytest.approx([200 * 200 / (480 * 640)] * 4, rel=0.25)
        seen.append((image.shape, len(masks[0])))

    monkeypatch.setattr(speed, "refine_shown", note)
    run = read_run("tiny")
    for source in ("mini", "files"):
        speed._refine_rate(replace(run, data=replace(run.data, source=source, pixels=64)), 0)
    assert set(seen[:3]) == {((64, 64, 3), 64)} and set(seen[3:]) == {((480, 640, 3), 64)}


def test_processes_share_what_they_are_launched_for(place: Path) -> None:
    plan = read_plan("tiny")
    rates = Rates({"pack": 3.0, "train": 2.0, "score": 5.0, "refine": 4.0}, load=7.0, start=9.0)
    forecast, run = Forecast(plan, rates), plan.run
    train = Task("train", 12, run, run.train_stage, "train", processes=4)
    page, head = Task("score", 20, run), Task("baseline", 6, run, processes=2, of_a_baseline=True)
    work = Work("09_ranks", (), (train, page, head))
    assert forecast.devices == 1  # those of a CPU share its cores
    assert forecast.chapter(work) == (12 / 2 + 7) + (20 / 5 + 7) + (6 / 2 + 7) + 2 * 9
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "device_count", lambda: 4)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(Plan, "processes", 4)
        assert forecast.chapter(work) == (12 / 2 / 4 + 7) + (20 / 5 + 7) + (6 / 2 / 2 + 7) + 2 * 9


def test_a_stage_s_time_holds_nothing_of_the_page_before(place: Path) -> None:
    plan, rates = read_plan("tiny"), Rates({"score": 1.0, "encode": 1.0}, load=0.0, start=0.0)
    stages = [plan.run.packed_stage(split) for split in ("val", "test")]
    works = tuple(
        Work(name, (), (Task("encode", 3, plan.run), Task("score", 20, plan.run, stage), page))
        for name, stage, page in zip(
            ("04_sampling", "05_phrasecut"),
            stages,
            [Task("score", 1000, plan.run)] * 2,
            strict=True,
        )
    )
    vars(plan)["works"] = works
    told = Forecast(plan, rates).stages()
    assert told == {stage.folder: 23.0 for stage in stages}


@pytest.mark.integration
def test_what_starts_from_another_backbone_is_measured_on_the_profile_s(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else preflight would first have to train the other."""
    plan = read_plan("tiny")
    other = replace(plan.run, backbone=replace(plan.run.backbone, name="./elsewhere"))
    task = Task("train", 12, other, other.train_stage, "train")
    vars(plan)["works"] = (Work("A1_backbone", (), (task,)),)
    assert {run.backbone.name for run in memory.largest(plan).values()} == {plan.run.backbone.name}
    asked: list[str] = []

    def noted(run: Run) -> UNet2DConditionModel:
        asked.append(run.backbone.name)
        return untrained(run)

    monkeypatch.setattr(speed, "untrained", noted)
    measure(plan, 0, start=0)
    assert asked and set(asked) == {plan.run.backbone.name}


def test_the_disk_holds_shards_beside_a_packed_file_and_two_checkpoints(place: Path) -> None:
    run = replace(read_plan("tiny").run, data=DataConfig(pixels=100, train=50, val=5, test=20))
    train = 50 * (100 * 100 * 3 + 4 * 6000)
    packed = disk.written(Task("pack", 50, run, run.packed_stage("train"), "train"))
    assert packed == disk.Written(train, train)
    refined = disk.written(Task("refine", 200, run, run.refined_stage("train"), "train"))
    assert refined == disk.Written(train + 200 * 6000, 200 * 6000)
    assert disk.written(Task("encode", 9, run)).kept == 9 * 100 * 100 / 8
    full = run.variant({"rank": 0})
    size = sum(p.numel() for p in untrained(full).parameters())
    trained = disk.written(Task("train, all parameters", 6, full, full.train_stage))
    assert trained == disk.Written(2 * size + 200 * full.train.steps, 24 * size)


def test_a_prediction_is_compared_with_what_stages_took_without_those_within(place: Path) -> None:
    def end(name: str, at: float, seconds: float, **more: object) -> None:
        folder = place / "runs/tiny/stages" / name
        folder.mkdir(parents=True)
        record = {"hash": name, "seconds": seconds, **more}
        (folder / "stage.json").write_text(json.dumps(record))
        os.utime(folder / "stage.json", (at, at))

    end("data-1", at=1030, seconds=30)
    end("refined-1", at=1090, seconds=50)
    # refined within it, from 1040 to 1090, and the data between its attempts
    end("lora-1", at=1100, seconds=90, stopped=[[970, 990]])
    assert taken("tiny") == pytest.approx({"data-1": 30, "refined-1": 50, "lora-1": 40})
    said = {"stages": {"data-1": 15.0, "lora-1": 25.0, "other": 5.0}}
    (place / "before.json").write_text(json.dumps(said))
    *stages, whole = compared(place / "before.json", "tiny").lines
    assert [(line.what, line.found) for line in stages] == [
        ("data-1", "30.0 s"),
        ("lora-1", "40.0 s"),
    ]
    assert whole.what == "2 of 3 stages" and whole.found == "70 s, 1.75 times that"
    assert main(["preflight", "--profile", "tiny", "--against", "before.json"]) == 0
    (place / "before.json").write_text("[]")
    with pytest.raises(ValueError, match=r"before\.json holds no prediction"):
        compared(place / "before.json", "tiny")


def test_every_chapter_that_trains_or_scores_is_counted() -> None:
    others = {"00_idea", "01_data", "01b_datasets", "11_flowseg"}
    for profile in ("smoke", "mini", "preflight", "a100"):
        counted = [work.chapter for work in read_plan(profile).works]
        counted = [name for name in counted if name != "01_data"]  # which may be packed
        none = (
            others if profile in ("smoke", "mini") else {*others, "A1_backbone"}
        )  # is pretraining worth it?
        assert counted == [name for name in CHAPTERS if name not in none]


def test_what_ships_is_predicted_where_it_is_not_there(place: Path) -> None:
    """At one unit of work a second, a run's samples and a score's phrases are seconds."""
    write(place, "09_ranks", variants={"16": {"rank": 4}})
    told = list(expected("tiny"))
    (ranks,) = (line for line in told if line.startswith("09_ranks"))
    seconds = Forecast(read_plan("tiny"), speed.measure(read_plan("tiny"), 0, start=0)).chapter(
        work("09_ranks")
    )
    assert f"about {seconds / 60:.1f} min" in ranks and "1 runs" in ranks
    assert not [line for line in told if line.startswith("sam")]  # it ships
    sam = read_run("tiny").sam_stage
    shutil.rmtree(shipped("tiny", sam))
    told = list(expected("tiny"))
    assert [line for line in told if line.startswith("sam: to be made; none has shipped")]
    mark(shipped("tiny", sam), sam)
    record = shipped("tiny", sam) / "stage.json"
    record.write_text(json.dumps({"hash": sam.hash, "seconds": 90.0}))
    assert not [line for line in expected("tiny") if line.startswith("sam")]


def test_what_shipped_says_how_long_it_took_where_all_is_made_anew(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sam = read_run("tiny").sam_stage
    (shipped("tiny", sam) / "stage.json").write_text(
        json.dumps({"hash": sam.hash, "seconds": 90.0})
    )
    monkeypatch.setenv("FRESH", "1")
    assert "sam: to be made; 1.5 min where the shipped one was made" in list(expected("tiny"))
