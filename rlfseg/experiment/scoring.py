"""The scores of a run, found or made, and its model as people use it."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

from accelerate import PartialState

from rlfseg.config import DataConfig
from rlfseg.evaluation.closed_set import confusions_in_parts, given_classes
from rlfseg.evaluation.confusion import Confusion, load_confusions, save_confusions
from rlfseg.evaluation.predict import spaced
from rlfseg.evaluation.score import (
    Evaluation,
    boundaries,
    boundaries_in_parts,
    evaluate,
    scored_in_parts,
)
from rlfseg.experiment.packing import class_names, latent_cache, native_masks
from rlfseg.experiment.run import ClosedSet, Run, Scoring
from rlfseg.experiment.training import base, trained
from rlfseg.experiment.weights import backbone_folder, codec_of
from rlfseg.method.types import Velocity
from rlfseg.models.latent_cache import LatentCache
from rlfseg.models.latent_codec import LatentCodec
from rlfseg.models.unet import as_velocity, for_sampling, load_trained
from rlfseg.pipeline import RLFSegPipeline
from rlfseg.processes import launch_for, together
from rlfseg.stage import PARTS, Stage

_CLOSED = "confusions.npz"


def scored(run: Run, scoring: Scoring) -> Evaluation:
    """Score the trained model on evenly spaced phrases of a split, or find it scored.

    The counts are kept, so that any number can be read off them later, without the weights. It is
    scored by `machine.processes` processes, or, in a process of a launch, by those; what was scored
    before an interruption stays.

    Raises:
        ValueError: if the truth is asked for and isn't known.
        RuntimeError: if the processes fail.
    """
    stage, on = run.scores_stage(scoring), run.on(scoring.on)

    def score(folder: Path) -> None:
        v, cache = field_and_data(run, scoring.split, scoring.on)
        items, parts = spaced(len(cache.pack), scoring.phrases), folder / PARTS
        own = native_masks(on, scoring.split) if on.photographed else None
        if scoring.truth and cache.pack.masks(0)[1] is None:
            raise ValueError(f"{cache.pack.path} has no exact masks: leave truth away")
        work = partial(evaluate, v, cache, config=scoring.sampler, native=own)
        scores = scored_in_parts(parts, cache.pack, items, work, title=stage.name)
        boundary = None
        if scoring.boundary:
            level = scores.annotation.miou().threshold
            measure = partial(boundaries, v, cache, config=scoring.sampler, threshold=level)
            boundary = boundaries_in_parts(parts, cache.pack, items, measure, title=stage.name)
        truth = scores.truth if scoring.truth else None
        kept = replace(scores, truth=truth, boundary=boundary)
        if PartialState().is_main_process:
            kept.save(folder)

    _in_processes(run, stage, scored, scoring)
    return Evaluation.load(together(stage, score, profile=run.profile))


def closed_set(run: Run, closed: ClosedSet) -> list[Confusion]:
    """Find or count what the trained model makes of a closed set of names, picture by picture.

    Processes share the pictures as those of `scored` do the phrases.

    Raises:
        RuntimeError: if the processes fail.
    """
    stage = run.closed_stage(closed)

    def count(folder: Path) -> None:
        v, cache = field_and_data(run, "val", closed.on)
        ids, names = cache.pack.image_ids, class_names(run.on(closed.on))
        chosen = [ids[k] for k in spaced(len(ids), closed.images)]
        asking = partial(given_classes, v, cache, names=names, config=closed.sampler)
        counted = confusions_in_parts(folder / PARTS, cache.pack, chosen, names, asking)
        if PartialState().is_main_process:
            save_confusions(folder / _CLOSED, counted)

    _in_processes(run, stage, closed_set, closed)
    return load_confusions(together(stage, count, profile=run.profile) / _CLOSED)


def field_and_data(
    run: Run, split: str, on: DataConfig | None = None
) -> tuple[Velocity, LatentCache]:
    """Return the trained field, and the latents of a split of its own data or of other data.

    The model of the call before is kept, so that a run that is scored in many ways is loaded once.
    """
    v, coder = _model(backbone_folder(run), base(run), trained(run))
    return v, latent_cache(run.on(on), split, coder)


@lru_cache(maxsize=1)
def _model(backbone: Path | str, base: Path | str, trained: Path) -> tuple[Velocity, LatentCodec]:
    coder = codec_of(backbone)
    unet = for_sampling(load_trained(base, trained), coder.device)
    return as_velocity(unet), coder


def pipeline(run: Run) -> RLFSegPipeline:
    """Return the trained model as what people import, on this machine's device.

    Its threshold and its tolerance are the run's.
    """
    return RLFSegPipeline.from_backbone(
        backbone_folder(run),
        trained(run),
        base=base(run),
        device=PartialState().device,
        threshold=run.threshold,
        tol=run.sampler.tol,
    )


def _in_processes(run: Run, stage: Stage, verb: Callable[..., object], how: object) -> None:
    """Start the run's processes for a score that is missing; the model is trained by then."""
    several, profile = run.machine.processes, run.profile
    launch_for(
        stage, verb, run, how, processes=several, profile=profile, before=lambda: trained(run)
    )
