"""Weights that were trained elsewhere, scored as a chapter scores its run."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import PartialState

from rlfseg.evaluation.readings import readings
from rlfseg.experiment import Run, Scoring, scored, with_weights
from rlfseg.stage import provenance, replaced, repository


def scored_given(name: str, here: Any, folder: Path) -> Path:
    """Score given weights as a chapter scores its run, apart from the run's own scores.

    Args:
        name: of the chapter.
        here: its checked parameters.
        folder: of an adapter or a UNet: see `with_weights`.

    Returns:
        A JSON file, `runs/<profile>/given/<hash>/<chapter>.json`, of all readings of each
        scoring, with the folder's name and SHA-256.

    Raises:
        ValueError: if the chapter doesn't score its run, or the weights aren't of its UNet.
    """
    own, asks = here.run.train_stage.hash, here.asks()
    ways = {way: None for run, way in asks.scored if run.train_stage.hash == own}
    if not ways:
        raise ValueError(f"{name} scores no phrases by its run: take another chapter's file")
    run = with_weights(here.run, folder)
    entries = [_entry(run, way) for way in ways]
    path = repository() / "runs" / run.profile / "given" / run.train_stage.hash / f"{name}.json"
    if PartialState().is_main_process:
        made_of = {"weights": run.given.provenance if run.given else {}, **provenance()}
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as draft:
            text = json.dumps([{**each, "provenance": made_of} for each in entries], indent=1)
            draft.write_text(text + "\n", encoding="utf-8")
    return path


def _entry(run: Run, way: Scoring) -> dict[str, Any]:
    """Score by one way; return where, how, and what all readings say."""
    found, choosing = scored(run, way), run.choosing(way)
    chosen: float | str = "no validation split apart was asked for"
    if choosing is not None:
        chosen = scored(run, choosing).annotation.miou().threshold
    native = found.annotation if found.native is None else found.native
    said = readings(found.annotation, chosen=chosen, native=native)
    where = run.on(way.on).data.dataset
    best = found.annotation.miou().value
    print(f"{where} {way.split}, {way.sampler.name}: best mIoU {100 * best:.1f}", flush=True)
    return {"dataset": where, **asdict(way), "readings": [asdict(each) for each in said]}
