"""Train the pixel neural field in one variant with several seeds, and keep how it went."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from accelerate import PartialState
from pydantic import Field
from pydantic.dataclasses import dataclass as settings

from rlfseg.config import STRICT, Count, OptimiserConfig, Positive, Seeds, validated
from rlfseg.evaluation.confusion import Confusion
from rlfseg.evaluation.seeds import Gain, mean_gain
from rlfseg.flowseg.network import PixelField
from rlfseg.flowseg.objective import ARMS, FieldBatch, FieldObjective
from rlfseg.flowseg.scenes import NAMES, Labelled, draw_labelled
from rlfseg.method.reshaping import kronecker
from rlfseg.models.weights import seeded
from rlfseg.stage import PARTS, Stage, made, readable, replaced
from rlfseg.training.flow_batch import batch_items, draw_times
from rlfseg.training.loop import fit_in_stage
from rlfseg.training.steps import Step, read_steps

#: Euler steps by which a flow is scored.
STEPS = (1, 10)


@settings(frozen=True, config=STRICT)
class FieldConfig:
    """One variant and how it is trained.

    Attributes:
        objective: one of `ARMS`.
        time: `uniform` on [0, 1] or `one` (only t = 1, where sampling starts).
        steps: of the schedule.
        pixels: side of the drawn scenes.
        scenes: that are trained on.
        test: scenes that are scored.
        every: steps between two scores.
        seeds: a run for each; of initial weights and batches, while the scenes are the same.
    """

    objective: Literal[ARMS] = "plain"  # type: ignore[valid-type]
    time: Literal["uniform", "one"] = "uniform"
    steps: Count = 700
    batch: Count = 16
    lr: Positive = 4e-3
    pixels: Annotated[int, Field(gt=0, le=8192)] = 16
    scenes: Count = 1500
    test: Count = 150
    every: Count = 100
    seeds: Seeds = (0, 1, 2)

    def __post_init__(self) -> None:
        if self.steps < self.every:
            raise ValueError(f"{self.steps} steps, scored every {self.every}: never scored")

    def with_changes(self, changes: Mapping[str, Any], *, where: str = "field") -> Self:
        """Return the same with some fields changed; ValueError names a wrong one, and `where`."""
        return validated(type(self), {**asdict(self), **changes}, where=where)


@dataclass(frozen=True)
class Curves:
    """What was measured while a variant trained, by seed.

    Attributes:
        step: numbers of the steps at which it was scored [n].
        loss: mean loss since the last of them [seeds, n].
        miou: by the number of Euler steps, % [seeds, n]; pooled over the test scenes' pixels.
        stray: % of pixels that got a class which is nowhere in their picture, in one Euler step.
    """

    step: np.ndarray
    loss: np.ndarray
    miou: dict[int, np.ndarray]
    stray: np.ndarray

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `arm` kept; ValueError if the file is damaged."""
        path = folder / "curves.json"
        with readable(path):
            kept = list(json.loads(path.read_text()).values())
        rows = {key: np.array([[row[key] for row in run] for run in kept]) for key in kept[0][0]}
        miou = {steps: rows[f"miou_{steps}"] for steps in STEPS}
        return cls(rows["step"][0], rows["loss"], miou, rows["stray"])


def arm_stage(config: FieldConfig) -> Stage:
    """Return the stage that trains and scores a variant."""
    return Stage.of(f"flowseg-{config.objective}-{config.time}", 1, config)


def arm(config: FieldConfig, *, profile: str) -> Curves:
    """Find or train a variant with each seed; only what was measured is kept, no weights."""

    def make(folder: Path) -> dict[str, Any]:
        train, test = (
            draw_labelled(seed=0, split=split, count=count, pixels=config.pixels)
            for split, count in enumerate((config.scenes, config.test))
        )
        kept = {}
        for seed in config.seeds:
            one = folder / PARTS / f"seed{seed}"  # until the stage is finished
            one.mkdir(parents=True, exist_ok=True)
            _train(replace(config, seeds=(seed,)), train, test, one)
            kept[seed] = _rows(one / "curve.json")
        (folder / "curves.json").write_text(json.dumps(kept) + "\n")
        return {f"miou_{n}": [rows[-1][f"miou_{n}"] for rows in kept.values()] for n in STEPS}

    return Curves.load(made(arm_stage(config), make, profile=profile))


def gains(curves: Mapping[str, Curves], base: str, *, steps: int) -> dict[str, Gain]:
    """Return by how much each variant's last mIoU exceeds that of `base`, seed by seed.

    Returns:
        By name, the mean and the ends of its 95 % interval over seeds; nan for one seed alone.
    """
    last = {name: each.miou[steps][:, -1] for name, each in curves.items()}
    return {name: mean_gain(last[name] - last[base]) for name in curves if name != base}


class _Watch:
    """Called after every step: scores the field every so often, and keeps the scores in a file."""

    def __init__(
        self, path: Path, objective: FieldObjective, test: Labelled, config: FieldConfig
    ) -> None:
        self._path, self._objective, self._test, self._config = path, objective, test, config

    def __call__(self, step: Step) -> None:
        if step.step % self._config.every and step.step != self._config.steps:
            return
        self._objective.eval()
        kept = [each for each in _rows(self._path) if each["step"] < step.step]
        since = kept[-1]["step"] if kept else 0
        steps = read_steps(self._path.with_name("steps.jsonl"))  # before a kill, too
        losses = [each.loss for each in steps if each.step > since and not each.skipped]
        row = {"step": step.step, "loss": round(float(np.mean(losses or [math.nan])), 4)}
        row |= scored(self._objective, self._test)
        self._objective.train()
        with replaced(self._path) as draft:
            draft.write_text(json.dumps([*kept, row]))


def scored(objective: FieldObjective, test: Labelled) -> dict[str, float]:
    """Measure mIoU by the number of Euler steps and the share of stray pixels (`Curves`), in %."""
    values = {}
    image = test.image.to(objective.mu.device)
    truth = test.classes.numpy()
    for steps in STEPS:
        given = objective.predict_classes(image, steps=steps).cpu().numpy()
        values[f"miou_{steps}"] = 100 * Confusion.of(given, truth, classes=len(NAMES)).miou()
        if steps == 1:
            there = np.zeros((len(truth), len(NAMES)), bool)
            scene = np.arange(len(truth))[:, None, None]
            there[scene, truth] = True
            values["stray"] = 100 * float(1 - there[scene, given].mean())
    return {name: round(value, 2) for name, value in values.items()}


def _rows(path: Path) -> list[dict[str, float]]:
    """What `_Watch` has kept until now; nothing if there is no file."""
    with readable(path):
        return list(json.loads(path.read_text())) if path.exists() else []


def _train(config: FieldConfig, train: Labelled, test: Labelled, folder: Path) -> None:
    """Train one seed's field in a folder, unless it is done already."""
    (seed,), count = config.seeds, len(NAMES)
    path = folder / "curve.json"
    if (known := _rows(path)) and known[-1]["step"] == config.steps:
        return
    out = count if config.objective == "classes" else 3
    field = seeded(seed, lambda: PixelField(pixels=config.pixels, out=out))
    objective = FieldObjective(field, kronecker(count), arm=config.objective)
    objective.to(PartialState().device)

    def batch(step: int) -> FieldBatch:
        chosen = torch.from_numpy(batch_items(len(train.image), config.batch, seed=seed, step=step))
        times = draw_times(config.batch, kind=config.time, seed=seed, step=step)
        return FieldBatch(train.image[chosen], train.classes[chosen], times)

    fit_in_stage(
        objective,
        batch,
        OptimiserConfig.from_scratch(steps=config.steps, lr=config.lr, warmup=50),
        folder,
        title=f"{config.objective}, t {config.time}, seed {seed}",
        save=lambda: None,
        watch=_Watch(path, objective, test, config),
    )
