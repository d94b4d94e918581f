"""What README says of the mini world is what ships."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import ROOT

from rlfseg.chapters.reading import chapter_file
from rlfseg.chapters.results import OURS
from rlfseg.chapters.starts import OTHER, OWN
from rlfseg.experiment.curves import curve_stage
from rlfseg.stage import Stage, found
from rlfseg.stand_ins.recognition import DRAWN

README = (ROOT / "README.md").read_text().splitlines()


def they_ship(*curves: Stage) -> None:
    """Fail where a curve would be trained for."""
    missing = [stage.folder for stage in curves if found(stage, profile="mini") is None]
    assert not missing, "make artefacts"


def test_its_table_is_of_the_curves_that_ship() -> None:
    here = chapter_file(ROOT / "params" / "mini" / "05_phrasecut.yml")
    asks = here.asks()
    they_ship(
        *(curve_stage(run.train_stage) for run in asks.learned),
        *(rival.curve for rival in asks.rivals if rival.curve),
    )
    rows = []
    for name, seeds in here.curves().items():
        phrase, another = (
            100 * np.mean([getattr(curve, column)[-1] for curve in seeds])
            for column in ("phrase", "another")
        )
        samples = f"{seeds[0].samples[-1]:,}"
        rows.append(f"| {name} | {samples} | {len(seeds)} | {phrase:.1f} | {another:.1f} |")
    own, doubled = here.curves()[OURS], here.curves()["paper's way, longer"]
    assert doubled[0].samples[-1] == 2 * own[0].samples[-1]
    assert 0 < doubled[0].phrase[-1] - own[0].phrase[-1] < 0.005
    assert "a schedule twice as long brings less than half a point" in " ".join(README)
    (every,) = here.curves()["all, uniform t"]
    assert every.samples[-1] == own[0].samples[-1]
    assert 100 * (every.phrase[-1] - own[0].phrase[-1]) == pytest.approx(10, abs=0.5)
    assert every.another[-1] < own[0].another[-1] - 0.03
    assert "All parameters trained just so end ten points higher" in " ".join(README)
    (best,) = here.curves()["all, t = 1"]
    assert best.phrase[-1] - best.phrase[-2] > 0.02
    assert "the score still rises at the end" in " ".join(README)
    (random,) = here.curves()["from scratch, t = 1"]
    assert best.samples[-1] == 2 * random.samples[-1]
    assert best.phrase[-1] == pytest.approx(random.phrase[-1], abs=0.015)
    assert "ends where the pretrained one does with twice its samples" in " ".join(README)
    head = README.index("| trained | samples | seeds | the phrase | another phrase |")
    assert README[head + 2 : head + 2 + len(rows)] == rows, "\n".join(rows)


def test_random_weights_end_ahead() -> None:
    here = chapter_file(ROOT / "params" / "mini" / "A1_backbone.yml")
    they_ship(*(curve_stage(run.train_stage) for run in here.asks().learned))
    pretrained, random = here.longer().values()
    ahead = pretrained.phrase - random.phrase
    assert ahead[0] > 0 > ahead[-1]
    said = "starts behind and, in a longer schedule for both, ends ahead"
    assert said in " ".join(README)


def test_a_backbone_that_draws_helps_all_parameters_alone() -> None:
    here = chapter_file(ROOT / "params" / "mini" / "A1_backbone.yml")
    they_ship(*(curve_stage(run.train_stage) for run in here.asks().learned))
    told, said = here.of_another(), " ".join(README)
    assert told is not None
    drawn = [100 * told[0].both.share, 100 * here.recognition()[DRAWN].both.share]
    assert "in {:.0f} % of its pictures, the shipped one in {:.0f}.".format(*drawn) in said
    ends = {
        way: [np.mean([curve.phrase[-1] for curve in both[name]]) for name in (OWN, OTHER)]
        for way, both in here.on_both().items()
    }
    gained = {way: 100 * (other - own) for way, (own, other) in ends.items()}
    assert gained.pop("all, t = 1") == pytest.approx(3, abs=0.5)
    assert len(gained) == 2 and max(gained.values()) < 0
    assert gained["LoRA 64, t = 1"] == pytest.approx(-5, abs=0.5)
