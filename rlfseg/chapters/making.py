"""All runs, labels, scores and baselines that a chapter asks for, made by one launch."""

from dataclasses import replace

from accelerate import PartialState

from rlfseg.chapters.asks import Asks
from rlfseg.experiment import (
    Run,
    check_gpus,
    closed_set,
    curve_stage,
    learned,
    ready,
    refined,
    scored,
    trained,
)
from rlfseg.processes import launch
from rlfseg.stage import Stage, found, logs_of


def make(asks: Asks) -> None:
    """Train and score what is asked for, or find it, telling each; in all processes of a launch.

    A process alone makes the small models and the rest too, whose recipes are for one.
    """
    for run in asks.runs:
        print(f"{run.train_stage.name}: {trained(run)}", flush=True)
    for run, split in asks.refined:
        print(f"{run.data.dataset} {split}, refined: {refined(run, split)}", flush=True)
    for run, scoring in asks.scored:
        best = scored(run, scoring).annotation.miou().value
        where = scoring.on.dataset if scoring.on else run.data.dataset
        told = f"{run.train_stage.name}, {where} {scoring.split}, {scoring.sampler.name}"
        print(f"{told}: best mIoU {100 * best:.1f}", flush=True)
    for run, closed in asks.closed:
        counted = len(closed_set(run, closed))
        print(f"{run.train_stage.name}: {counted} pictures counted", flush=True)
    for run in asks.learned:
        print(f"{run.train_stage.name}: {len(learned(run).samples)} lengths scored", flush=True)
    for rival in asks.rivals:
        if rival.make():
            print(f"{rival.scores.name}: {found(rival.scores, profile=rival.data[0].profile)}")
    if PartialState().num_processes == 1:
        for also in asks.also:
            also.make()
            print(f"{also.stage.name}: made", flush=True)


def missing(run: Run, asks: Asks) -> list[Stage]:
    """Return what `make` would train, refine or score for a chapter of a run, rather than find.

    A baseline that can't be made here, for what it takes from elsewhere is missing, is not in it.
    """
    return [stage for _, stage in _due(run, asks)]


def _due(run: Run, asks: Asks) -> list[tuple[Run, Stage]]:
    """Return the same, each with the run that has to be ready for it."""
    every = [(each, each.train_stage) for each in asks.runs]
    every += [(each, each.refined_stage(split)) for each, split in asks.refined]
    every += [(each, each.scores_stage(scoring)) for each, scoring in asks.scored]
    every += [(each, each.closed_stage(closed)) for each, closed in asks.closed]
    every += [(each, curve_stage(each.train_stage)) for each in asks.learned]
    due = [(each, stage) for each, stage in every if found(stage, profile=run.profile) is None]
    for rival in asks.rivals:
        its = [stage for stage in (rival.scores, rival.curve) if stage is not None]
        unmade = [stage for stage in its if found(stage, profile=run.profile) is None]
        if unmade and (rival.there is None or rival.there()):
            due += [(rival.data[0], stage) for stage in unmade]
    return due


def make_in_processes(run: Run, asks: Asks) -> None:
    """Start `machine.processes` of a chapter's run once for all that is missing, if several.

    Each would start them by itself, which takes longer than a short score.

    Raises:
        RuntimeError: if the processes fail.
        ValueError: as `check_gpus`.
    """
    due = _due(run, asks)
    if due:
        check_gpus(run, run.machine.processes)
    if due and run.machine.processes > 1:
        for each, _ in due:
            ready(replace(each, machine=run.machine))
        logs = logs_of(due[0][1], profile=run.profile)
        launch(make, asks, processes=run.machine.processes, logs=logs)
