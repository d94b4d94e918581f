"""Set free space where runs are kept against what each stage of a profile will write there."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from rlfseg.data.check import Line
from rlfseg.preflight.counts import phrases, pictures
from rlfseg.preflight.memory import parameters
from rlfseg.preflight.plan import Plan, Task
from rlfseg.stage import made_at, repository
from rlfseg.stand_ins.backbone import RANDOM

_GB = 1e9
_LATENT = 2 * 4 / 64  # bytes of a float16 latent for each pixel: 4 channels, 8 x 8 pixels
_MASK = 6_000  # bytes of a packed mask, about
_COUNTS = 1_000  # bytes of the counts of a phrase, about
_STEP = 200  # bytes of a step's record, about
_CHECKPOINT = 12  # bytes of a trained parameter in a checkpoint: itself and two moments
_RANDOM = 4.3e9  # bytes of the random backbone's folder
_SAID = {
    "pack": "packed files",
    "encode": "latents",
    "refine": "packed files with refined labels",
    "score": "counts",
}


@dataclass(frozen=True)
class Written:
    """What a piece of work writes, in bytes.

    Attributes:
        kept: that stays.
        draft: that is there besides while it works.
    """

    kept: float
    draft: float = 0.0


def lines(plan: Plan) -> Iterator[Line]:
    """Say what each kind of stage keeps, and whether there is room for all and the drafts."""
    runs = repository() / "runs"  # which may be a link to another disk
    free = shutil.disk_usage(runs if runs.exists() else repository()).free
    need, kept = peak(plan), by_kind(plan)
    for what, size in kept.items():
        yield Line("ok", f"disk: {what}", f"{size / _GB:.1f} GB")
    said, wanted = f"{free / _GB:.1f} GB free", f"{need / _GB:.1f} GB at the most, with drafts"
    if free >= need:
        yield Line("ok", "disk", said, wanted)
        return
    advice = f"Free some, or make {repository() / 'runs'} a link to a larger disk."
    yield Line("problem", "disk", said, wanted, advice=advice)


def by_kind(plan: Plan) -> dict[str, float]:
    """Return the bytes that stay, by what they are."""
    kept: dict[str, float] = {}
    for task in _tasks(plan):
        what = _SAID.get(task.kind, "weights")
        kept[what] = kept.get(what, 0.0) + written(task).kept
    if random := _random(plan):
        kept["weights"] = kept.get("weights", 0.0) + random
    return kept


def peak(plan: Plan) -> float:
    """Return the most bytes that are there at once, the work done in the order of the plan."""
    kept, most = _random(plan), _random(plan)
    for task in _tasks(plan):
        here = written(task)
        kept += here.kept
        most = max(most, kept + here.draft)
    return most


def written(task: Task) -> Written:
    """Return what a task writes: shards beside a packed file, a checkpoint beside its successor."""
    data = task.of.data
    if task.kind == "pack":
        return Written(_packed(task), _packed(task))
    if task.kind == "refine":
        return Written(_packed(task) + _MASK * task.amount, _MASK * task.amount)
    if task.kind == "encode":
        return Written(task.amount * data.pixels**2 * _LATENT if task.kept else 0.0)
    if task.kind == "score":
        return Written(_COUNTS * task.amount if task.stage else 0.0)
    whole, trained = parameters(task.of)
    if task.kind == "baseline":
        trained = 0  # a head, small beside all others
    elif "all parameters" in task.kind:
        trained = whole
    return Written(2 * trained + _STEP * task.of.train.steps, 2 * _CHECKPOINT * trained)


def _packed(task: Task) -> float:
    data, split = task.of.data, task.split
    return pictures(data, split) * data.pixels**2 * 3 + phrases(data, split) * _MASK


def _tasks(plan: Plan) -> list[Task]:
    return [task for work in plan.works for task in work.tasks]


def _random(plan: Plan) -> float:
    """The folder of random weights, where it is asked for and not there."""
    run = plan.run
    made = made_at(run.backbone_stage, profile=plan.profile).is_dir()
    return _RANDOM if run.backbone.name == RANDOM and not made else 0.0
