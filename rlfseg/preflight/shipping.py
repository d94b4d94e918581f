"""How long it takes to make what ships with a profile and isn't there yet."""

from collections.abc import Iterator, Sequence

from rlfseg.chapters.asks import Also, Asks
from rlfseg.preflight import speed
from rlfseg.preflight.forecast import Forecast, counted, said
from rlfseg.preflight.plan import Plan, Work, read_plan
from rlfseg.stage import Stage, found, is_current, read_record, shipped

_SECONDS = 3.0  # that each kind of work is measured for


def expected(profile: str) -> Iterator[str]:
    """Say what of a profile's artefacts is to be made, and about how long that takes, in lines.

    Runs, scores and baselines are predicted from this machine's speed, as if one process made them.
    A small model's own recipe is not measured: it is said what it took where the one that ships was
    made.

    Args:
        profile: a folder of `params/`.
    """
    plan = read_plan(profile)
    works = [work for work in plan.works if _ships(work, plan.asks[work.chapter])]
    models = list(_models(plan, works))
    for stage in models:
        yield f"{stage.name}: to be made; {_took(stage, profile)}"
    if not works:
        return
    if any(stage.hash == plan.run.backbone_stage.hash for stage in models):
        for work in works:
            yield f"{work.chapter}: {counted(work)}; no prediction before the backbone is there"
        return
    forecast = Forecast(plan, speed.measure(plan, _SECONDS, start=0.0))
    for work in works:
        yield f"{work.chapter}: {counted(work)}; about {said(forecast.chapter(work), 1)}"
    yield f"all of these: about {said(sum(map(forecast.chapter, works)), 1)}"


def _models(plan: Plan, works: Sequence[Work]) -> Iterator[Stage]:
    """The small models that are missing, each once: what ships, and what works start from."""
    also: list[Also] = [each for asks in plan.asks.values() for each in asks.also if each.ships]
    stages = [each.stage for each in also]
    stages += [stage for asks in plan.asks.values() for stage in asks.backbones]
    runs = [run for work in works for run in work.runs if run.backbone.name == "mini"]
    stages += [run.backbone_stage for run in runs]
    for stage in {stage.hash: stage for stage in stages}.values():
        if found(stage, profile=plan.profile) is None:
            yield stage


def _took(stage: Stage, profile: str) -> str:
    kept = shipped(profile, stage)
    if not is_current(kept, stage):
        return "none has shipped, so its time is not known"
    return f"{said(float(read_record(kept)['seconds']), 1)} where the shipped one was made"


def _ships(work: Work, asks: Asks) -> bool:
    """Whether what is missing ships, rather than being made by the chapter's page."""
    ships = asks.ships()
    return any(task.stage is not None and task.stage.folder in ships for task in work.tasks)
