"""Preflight passes where all is there, and names each thing that is not."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from tiny import tiny_backbone

from rlfseg.__main__ import main
from rlfseg.data.check import Line, Report
from rlfseg.data.drawn.write_phrasecut import TRUTH_FILE, write_phrasecut
from rlfseg.preflight import machine, preflight, speed
from rlfseg.preflight.plan import Work, read_plan
from rlfseg.preflight.speed import Rates
from rlfseg.stage import repository

TRAIN = {"steps": 3, "rank": 2, "batch": 2, "lr": 0.001}
Usage = namedtuple("Usage", "total used free")
Memory = namedtuple("Memory", "available")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository with one profile: a tiny backbone of its own and drawn scenes."""
    locks = list(repository().glob("requirements*.lock"))
    for folder in ("book", "params/tiny"):
        (tmp_path / folder).mkdir(parents=True)
    for each in locks:
        shutil.copy(each, tmp_path)
    tiny_backbone(tmp_path / "backbone")
    write(tmp_path, "03_train")
    monkeypatch.chdir(tmp_path)
    AcceleratorState._reset_state(True)  # other tests made one without mixed precision
    yield tmp_path
    AcceleratorState._reset_state(True)


def write(place: Path, chapter: str, **changes: object) -> None:
    """Writes a chapter's parameters."""
    given = {
        "profile": "tiny",
        "backbone": {"name": "backbone"},
        "data": {"source": "mini", "pixels": 16, "train": 5, "val": 1, "test": 2},
        "train": TRAIN,
    }
    path = place / "params" / "tiny" / f"{chapter}.yml"
    path.write_text(yaml.safe_dump({**given, **changes}))


def problem(report: Report, what: str) -> Line:
    """The one problem of a report, which is about this."""
    (line,) = (line for line in report.lines if line.level == "problem")
    assert line.what == what and not report.ok
    return line


def test_all_is_there(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(place, "10_protocols", phrases=1000)
    assert main(["preflight", "--profile", "tiny", "--seconds", "0", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    found = {line["what"]: line for line in report["lines"]}
    assert report["ok"]
    assert found["Table 8 (03_train)"]["expected"].startswith("1 runs, 6 samples")
    assert found["10_protocols"]["expected"] == "8 phrases"  # of two drawn scenes, not 1000
    for work in ("encode", "train", "score"):
        assert float(found[f"speed: {work}"]["found"].split()[0]) > 0
    assert not (place / "runs").exists(), "preflight keeps nothing"


def test_missing_weights(place: Path) -> None:
    (place / "backbone/unet/diffusion_pytorch_model.safetensors").unlink()
    line = problem(preflight("tiny", seconds=0), "backbone")
    assert "unet" in line.examples[0] and "not there" in line.examples[0]


def test_truncated_weights(place: Path) -> None:
    path = place / "backbone/vae/diffusion_pytorch_model.safetensors"
    os.truncate(path, path.stat().st_size - 1)
    line = problem(preflight("tiny", seconds=0), "backbone")
    assert str(path) in line.examples[0]


def test_backbone_of_the_hub_that_is_not_here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place, "03_train", backbone={"name": "no-one/nothing"})
    assert "hf download no-one/nothing" in problem(preflight("tiny"), "backbone").advice


def test_missing_and_foreign_sam(place: Path) -> None:
    none = {"variants": {}, "seeds": [], "samplers": {}}
    write(place, "03b_labels", sam={"kind": "vit_b", "checkpoint": "sam.pth"}, **none)
    assert "sam.pth" in problem(preflight("tiny"), "SAM").found
    (place / "sam.pth").write_bytes(b"no weights")
    assert "sam.pth" in problem(preflight("tiny"), "SAM").found


def test_a_baselines_released_weights_and_its_training_are_counted(place: Path) -> None:
    some = {"a": {"kind": "clipseg", "checkpoint": "given", "pixels": 16}}
    more = some | {"b": {"kind": "ldznet", "steps": 5, "batch": 3}}
    rest = {"compared": 1, "variants": {}, "baselines_scored": {"split": "test", "phrases": 2}}
    write(place, "05_phrasecut", baselines=some, **rest)
    (before,) = (w for w in read_plan("tiny").works() if w.chapter == "05_phrasecut")
    write(place, "05_phrasecut", baselines=more, **rest)
    (after,) = (w for w in read_plan("tiny").works() if w.chapter == "05_phrasecut")
    assert (before.baselines, after.baselines, after.scored - before.scored) == (0, 15, 2)
    line = problem(preflight("tiny", seconds=0), "baseline")
    assert line.expected == "given" and "hf download given" in line.advice
    (place / "given").mkdir()
    shutil.copy(place / "backbone/text_encoder/model.safetensors", place / "given")
    assert not [x for x in preflight("tiny", seconds=0).lines if x.level == "problem"]
    os.truncate(place / "given/model.safetensors", 100)
    assert "model.safetensors" in problem(preflight("tiny", seconds=0), "baseline").found


def test_wrong_counts(place: Path) -> None:
    """Drawn scenes that don't say so are taken for the official set, and are too few."""
    folder = place / "given"
    write_phrasecut(folder, seed=0, counts={"train": 3, "val": 1, "test": 1}, pixels=64)
    (folder / TRUTH_FILE).unlink()
    write(place, "03_train", data={"source": "given", "pixels": 16})
    lines = preflight("tiny", seconds=0).lines
    (line,) = (line for line in lines if line.what == "phrasecut")
    assert line.level == "problem" and any("71746" in t.replace(",", "") for t in line.examples)
    (gpus,) = (line for line in lines if line.what == "GPUs")
    assert gpus.level == ("ok" if torch.cuda.is_available() else "problem")


def test_data_that_are_not_there(place: Path) -> None:
    write(place, "03_train", data={"source": "nowhere", "pixels": 16})
    lines = [line for line in preflight("tiny", seconds=0).lines if line.what == "phrasecut"]
    assert lines[0].level == "problem" and "nowhere" in lines[0].found


def test_too_little_disk(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 10**12, 1000))
    assert "GB free" in problem(preflight("tiny", seconds=0), "disk").found


@pytest.mark.skipif(torch.cuda.is_available(), reason="looks at the GPU's memory")
def test_too_little_memory(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(1000))
    report = preflight("tiny", seconds=0)
    assert "recompute" in problem(report, "memory").advice
    assert not [line for line in report.lines if line.what.startswith("speed:")]


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
    wider = {**TRAIN, "rank": 4}
    rest = {"baselines": {}, "baselines_scored": {"split": "test", "phrases": 1}, "compared": 1}
    write(place, "05_phrasecut", variants={"wide": {"rank": 4}}, **rest)
    ranks = {"variants": {"a": {"rank": 4}, "b": {"rank": 5}}, "longer": {"c": {"rank": 6}}}
    write(place, "09_ranks", scored=SCORED, seeds=[42], **ranks)
    plan = read_plan("tiny")
    runs = {work.chapter: [run.train.rank for run in work.runs] for work in plan.works()}
    assert runs == {"03_train": [2], "05_phrasecut": [4], "09_ranks": [5, 6]}
    stage = plan.main.variant(wider).train_stage
    there = place / "runs/tiny/stages" / f"{stage.name}-{stage.hash}"
    there.mkdir(parents=True)
    (there / "stage.json").write_text(json.dumps({"hash": stage.hash}))
    runs = {work.chapter: [run.train.rank for run in work.runs] for work in plan.works()}
    assert runs == {"03_train": [2], "05_phrasecut": [], "09_ranks": [5, 6]}


SCORED = {"split": "test", "phrases": 3, "name": "aos", "tol": 0.1}


def test_processes_share_all_work_but_the_baselines() -> None:
    rates = Rates(encode=10, train=2, score=5, refine=4)
    work = Work("09_ranks", (), scored=50, refined=8, baselines=6)
    assert rates.seconds(work, encoded=20, processes=1) == 2 + 10 + 2 + 3
    assert rates.seconds(work, encoded=20, processes=7) == (2 + 10 + 2) / 7 + 3


def test_memory_counts_sixteen_bytes_for_each_parameter_of_an_adapter(place: Path) -> None:
    needs, trained = [], []
    for rank in (2, 5):
        write(place, "03_train", train={**TRAIN, "rank": rank})
        setting = read_plan("tiny").setting()
        unet = setting.untrained()
        trained.append(sum(p.numel() for p in unet.parameters() if p.requires_grad))
        needs.append(speed.memory(setting))
    assert needs[1] - needs[0] == 16 * (trained[1] - trained[0]) > 0
    weights = sum(p.numel() for p in unet.parameters()) - trained[1]
    assert needs[1] > 4 * weights + 16 * trained[1]


def test_every_chapter_that_trains_or_scores_is_counted() -> None:
    folder = repository() / "params" / "a100"
    about_runs = {path.stem for path in folder.glob("*.yml") if "train:" in path.read_text()}
    assert set(read_plan("a100").chapters) == about_runs - {"01_data", "02_refine", "A1_backbone"}
