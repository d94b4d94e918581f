"""All runs and scores that a chapter asks for, made by one launch."""

from rlfseg.chapters.asks import Asks
from rlfseg.experiment import Run, closed_set, ready, scored, trained
from rlfseg.processes import launch
from rlfseg.stage import found, logs_of


def make(asks: Asks) -> None:
    """Train and score what is asked for, or find it, telling each; in all processes of a launch.

    Baselines are trained by their chapters.
    """
    for run in asks.runs:
        print(f"{run.train_stage.name}: {trained(run)}", flush=True)
    for run, scoring in asks.scored:
        best = scored(run, scoring).annotation.miou().value
        where = scoring.on.dataset if scoring.on else run.data.dataset
        told = f"{run.train_stage.name}, {where} {scoring.split}, {scoring.sampler.name}"
        print(f"{told}: best mIoU {100 * best:.1f}", flush=True)
    for run, closed in asks.closed:
        counted = len(closed_set(run, closed))
        print(f"{run.train_stage.name}: {counted} pictures counted", flush=True)


def make_in_processes(run: Run, asks: Asks) -> None:
    """Start `machine.processes` of a run once for all that is missing, if there are several.

    Each run and score would start them by itself, which takes longer than a short score.

    Raises:
        RuntimeError: if the processes fail.
    """
    stages = [each.train_stage for each in asks.runs]
    stages += [each.scores_stage(scoring) for each, scoring in asks.scored]
    stages += [each.closed_stage(closed) for each, closed in asks.closed]
    missing = [stage for stage in stages if found(stage, profile=run.profile) is None]
    if missing and run.machine.processes > 1:
        for each in asks.trained:
            ready(each)
        logs = logs_of(missing[0], profile=run.profile)
        launch(make, asks, processes=run.machine.processes, logs=logs)
