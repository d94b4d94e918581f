"""The phrase-by-phrase baselines as stages: identified, trained, scored, or found so."""

import errno
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from accelerate import PartialState
from pydantic import Field
from pydantic.dataclasses import dataclass
from safetensors.torch import load_file, save_file

from rlfseg.baselines.clipseg import Clipseg, ClipsegConfig
from rlfseg.baselines.ldznet import Ldznet, LdznetConfig
from rlfseg.baselines.segmenter import MaskObjective, evaluate_segmenter, phrase_batch
from rlfseg.baselines.unethead import UnetHead, UnetHeadConfig
from rlfseg.config import STRICT, Count, OptimiserConfig
from rlfseg.evaluation.counts import Counts
from rlfseg.evaluation.predict import spaced
from rlfseg.evaluation.score import scored_in_parts
from rlfseg.experiment import Curve, Learning, Run, codec, kept_curve, latent_cache, ready
from rlfseg.processes import as_first, launch_for, together
from rlfseg.stage import PARTS, Stage, found, readable
from rlfseg.stand_ins.mini_clip import clip_stage
from rlfseg.training.loop import fit_in_stage
from rlfseg.training.steps import Step

Baseline = Annotated[ClipsegConfig | LdznetConfig | UnetHeadConfig, Field(discriminator="kind")]
_WEIGHTS = "weights.safetensors"
_VERSIONS = {"clipseg": 2}  # 1 began with weights that let it learn nothing


@dataclass(frozen=True, config=STRICT)
class PhraseSet:
    """Which phrases a baseline is scored on: evenly spaced ones of a split, all if there are fewer.

    Attributes:
        split: of the packed data.
        phrases: how many.
    """

    split: Annotated[str, Field(min_length=1)]
    phrases: Count


def train_stage(run: Run, baseline: Baseline) -> Stage:
    """Identify a trained baseline, or an outside one by the name of its checkpoint."""
    if baseline.outside is not None:
        return baseline.outside
    inputs = {"backbone": run.backbone_stage, "data": run.source_stage}
    if isinstance(baseline, ClipsegConfig) and baseline.clip is not None:
        inputs["clip"] = clip_stage(baseline.clip)
    return Stage.of(baseline.kind, _VERSIONS.get(baseline.kind, 1), baseline, inputs)


def scores_stage(run: Run, baseline: Baseline, on: PhraseSet) -> Stage:
    """Identify a baseline's scores."""
    training = train_stage(run, baseline)
    inputs = {"training": training, "data": run.data_stage}
    return Stage.of(f"scores-{training.name}", 1, on, inputs)


def trained_model(run: Run, baseline: Baseline) -> Clipseg | Ldznet | UnetHead:
    """Return the trained baseline on this machine's device, frozen; trained, or found so.

    It is trained by `machine.processes` processes, or, in a process of a launch, by those.

    Raises:
        RuntimeError: if the processes fail.
        ValueError: if a file of weights is damaged, or another model's.
    """
    if baseline.steps:
        launch_for(
            train_stage(run, baseline),
            trained_model,
            run,
            baseline,
            processes=run.machine.processes,
            profile=run.profile,
            before=lambda: ready(run),
        )
    coder = codec(run)
    model = baseline.model(run, coder)
    if baseline.steps:

        def train(folder: Path) -> dict[str, Any]:
            state = PartialState()
            batch = partial(
                phrase_batch,
                model,
                latent_cache(run, "train", coder),
                size=baseline.batch,
                seed=baseline.seed,
                share=(state.process_index, state.num_processes),
            )
            free = {name: p for name, p in model.named_parameters() if p.requires_grad}

            def save() -> None:
                kept = {name: p.detach().cpu().contiguous() for name, p in free.items()}
                save_file(kept, folder / _WEIGHTS)

            def count(items: Sequence[int], captions: Sequence[str]) -> Counts:
                model.eval()
                counted = evaluate_segmenter(model, seen, items, captions=captions).annotation
                model.train()
                return counted

            def watch(step: Step) -> None:
                if learning is not None:
                    learning(step)

            learning = None
            if baseline.curve:
                seen = latent_cache(run, "val", coder)
                asked = {"phrases": baseline.curve, "steps": baseline.steps}
                learning = Learning(folder, count, seen, batch=baseline.batch, **asked)
            optimiser = OptimiserConfig.from_scratch(
                steps=baseline.steps, lr=baseline.lr, warmup=100
            )
            return fit_in_stage(
                MaskObjective(model),
                batch,
                optimiser,
                folder,
                title=f"training {baseline.kind}",
                save=save,
                watch=watch,
                machine=run.machine,
            )

        folder = together(train_stage(run, baseline), train, profile=run.profile)
        with readable(folder / _WEIGHTS):
            fit = model.load_state_dict(load_file(folder / _WEIGHTS), strict=False)
            free = {name for name, p in model.named_parameters() if p.requires_grad}
            if unfit := {*fit.unexpected_keys, *free.intersection(fit.missing_keys)}:
                raise ValueError(f"it holds weights of another model, by {min(unfit)}")
    model.requires_grad_(False).eval().to(coder.device)
    return model


def learned(run: Run, baseline: Baseline) -> Curve:
    """Return the learning curve of a baseline, found by itself or left by its training.

    Raises:
        ValueError: if it has no `curve`.
    """
    stage = train_stage(run, baseline)

    def folder() -> Path:
        trained_model(run, baseline)
        there = found(stage, profile=run.profile)
        assert there is not None
        return there

    return kept_curve(stage, folder, profile=run.profile)


def scored(run: Run, baseline: Baseline, on: PhraseSet) -> Counts:
    """Score a baseline against the annotations as ours is scored, or find it scored.

    Args:
        run: whose backbone and data it is given.
        baseline: which one, and its settings.
        on: which phrases.
    """
    stage = scores_stage(run, baseline, on)
    if (there := found(stage, profile=run.profile)) is not None:
        return Counts.load(there / "counts.npz")
    model = trained_model(run, baseline)

    def score(folder: Path) -> None:
        cache = latent_cache(run, on.split, codec(run))
        items, work = spaced(len(cache.pack), on.phrases), partial(evaluate_segmenter, model, cache)
        found = scored_in_parts(folder / PARTS, cache.pack, items, work, title=stage.name)
        if PartialState().is_main_process:
            found.annotation.save(folder / "counts.npz")

    return Counts.load(together(stage, score, profile=run.profile) / "counts.npz")


def scored_if_there(run: Run, some: Mapping[str, Baseline], on: PhraseSet) -> dict[str, Counts]:
    """Score baselines by name; one whose released weights are missing is said and left out."""
    counts = {}
    for name, baseline in some.items():
        stage = scores_stage(run, baseline, on)
        unscored = baseline.outside is not None and found(stage, profile=run.profile) is None
        if unscored and (why := as_first(partial(_missing, run, baseline))):
            print(f"{name} is left out: {why}")
        else:
            counts[name] = scored(run, baseline, on)
    return counts


def _missing(run: Run, baseline: Baseline) -> str:
    """Why released weights can't be had; nothing if they can."""
    try:
        trained_model(run, baseline)
    except OSError as error:
        if error.errno not in (None, errno.ENOENT):  # there, and not to be read
            raise
        return " ".join(str(error).split())[:200]
    return ""
