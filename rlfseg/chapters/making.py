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
    stages = [each.train_stage for each in asks.runs]
    stages += [each.refined_stage(split) for each, split in asks.refined]
    stages += [each.scores_stage(scoring) for each, scoring in asks.scored]
    stages += [each.closed_stage(closed) for each, closed in asks.closed]
    stages += [curve_stage(each.train_stage) for each in asks.learned]
    due = [stage for stage in stages if found(stage, profile=run.profile) is None]
    for rival in asks.rivals:
        its = [stage for stage in (rival.scores, rival.curve) if stage is not None]
        unmade = [stage for stage in its if found(stage, profile=run.profile) is None]
        due += unmade if unmade and (rival.there is None or rival.there()) else []
    return due


def make_in_processes(run: Run, asks: Asks) -> None:
    """Start `machine.processes` of a chapter's run once for all that is missing, if several.

    Each would start them by itself, which takes longer than a short score.

    Raises:
        RuntimeError: if the processes fail.
        ValueError: as `check_gpus`.
    """
    due = missing(run, asks)
    if due:
        check_gpus(run, run.machine.processes)
    if due and run.machine.processes > 1:
        first = [*asks.trained, *(each for each, _ in asks.refined)]
        for each in (*first, *(rival.data[0] for rival in asks.rivals)):
            ready(replace(each, machine=run.machine))
        logs = logs_of(due[0], profile=run.profile)
        launch(make, asks, processes=run.machine.processes, logs=logs)
