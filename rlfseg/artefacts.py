"""Checks the shipped artefacts against the parameters: `python -m rlfseg.artefacts [PROFILE]`.

A shipped artefact is a cache filled beforehand. One that no chapter's parameters ask for any more
would silently be trained again, so it is an error.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rlfseg.baselines.asked import asked
from rlfseg.chapter import beside, run_parameters, runs, scorings
from rlfseg.experiment.identity import Identity
from rlfseg.flowseg.recipe import FieldConfig, arm_stage
from rlfseg.stage import RECORD, Stage, read_record, repository


def wanted(profile: str) -> dict[str, str]:
    """Names the artefacts that a profile's chapters ask for, by hash."""
    found = {}
    for path in sorted((repository() / "params" / profile).glob("*.yml")):
        given = yaml.safe_load(path.read_text())
        found.update({stage.hash: stage.name for stage in _fields(given)})
        if "train" not in given:
            continue  # a chapter without runs
        own, many = Identity.from_parameters(**run_parameters(given)), runs(given)
        stages = [own.backbone_stage, *own.backbone_stage.inputs.values()]
        stages += [run.train_stage for run in many]
        if "sam" in given:
            stages.append(own.sam_stage)
        if given.get("tiny", {}).get("name") == "mini":
            stages.append(own.tiny_stage(given["tiny"]))
        stages += [run.scores_stage(**way) for run in many for way in scorings(given)]
        stages += [own.scores_stage(**way) for way in beside(given)]
        for each in asked(given):
            stages += [each.training, each.scores]
        found.update({stage.hash: stage.name for stage in stages})
    return found


def _fields(given: Mapping[str, Any]) -> list[Stage]:
    """The pixel neural fields of a chapter: all its `arms`, and two of them at its `rates`."""
    arms = given.get("arms", {})
    made = [FieldConfig.of(given["field"], changes) for changes in arms.values()]
    for rate in given.get("rates", []):
        early = {**given["field"], **given["early"], "lr": rate}
        made += [FieldConfig.of(early, arms[name]) for name in ("vanilla", "reshaped")]
    return [arm_stage(config) for config in made]


def stale(profile: str) -> list[str]:
    """Says, for each shipped artefact that nothing asks for, what is wrong with it."""
    hashes = wanted(profile)
    messages = []
    for folder in sorted(_shipped(profile)):
        record = read_record(folder)
        if record["hash"] not in hashes:
            now = [key for key, name in hashes.items() if name == record["name"]]
            messages.append(
                f"{folder}: made as {record['hash']}, but the parameters now ask for "
                f"{now[0] if now else 'no artefact of that name'}; train it again or remove it"
            )
    return messages


def _shipped(profile: str) -> list[Path]:
    root = repository() / "artefacts" / profile
    return [path.parent for path in root.glob(f"*/{RECORD}")]


def main(arguments: list[str]) -> int:
    """Prints what is stale; returns the exit status."""
    profile = arguments[0] if arguments else "mini"
    messages = stale(profile)
    print("\n".join(messages) or f"{len(_shipped(profile))} shipped artefacts, none stale")
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
