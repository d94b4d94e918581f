"""params/rehearsal is params/a100 under an overlay, and nothing else."""

from __future__ import annotations

import yaml
from derived import ROOT, WORLD, files, small


def test_the_files_are_those_of_a100_under_the_overlay() -> None:
    folder = ROOT / "params/rehearsal"
    there = {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.yml")
    }
    assert there == files()  # else: python tests/rehearsal/derived.py


def test_what_the_method_is_stays() -> None:
    real, own = (
        yaml.safe_load((ROOT / f"params/{p}/run.yml").read_text()) for p in ("a100", "rehearsal")
    )
    sizes = {"steps", "batch"}
    assert {k: v for k, v in real["train"].items() if k not in sizes} == {
        k: v for k, v in own["train"].items() if k not in sizes
    }
    for part in ("refine", "sampler", "threshold"):
        assert real[part] == own[part]


def test_places_and_sizes_change_and_samplers_stay() -> None:
    given = {
        "source": "data/refer",
        "coco_ids": ["data/refer/a.p"],
        "tiny": {"name": "madebyollin/taesd"},
        "samplers": {"2": {"steps": 2}},
        "train": {"steps": 48300, "rank": 64},
    }
    assert small(given) == {
        "source": f"{WORLD}/data/refer",
        "coco_ids": [f"{WORLD}/data/refer/a.p"],
        "tiny": {"name": f"{WORLD}/weights/madebyollin/taesd"},
        "samplers": {"2": {"steps": 2}},
        "train": {"steps": 6, "rank": 64},
    }
