"""Frozen settings, validated when made, and their round trip through JSON."""

from __future__ import annotations

from dataclasses import dataclass


def _positive(**values: float) -> None:
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"{name} must be positive, got {value!r}")


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW and its schedule.

    Attributes:
        steps: optimiser steps of the whole schedule.
        lr: peak learning rate.
        warmup: steps of linear warm-up.
        schedule: `constant` (the paper's) or `cosine` (to 2% of the peak).
        clip: largest gradient norm.
        accumulate: equal parts of a batch that go through the network one after the other.
        save_every: steps between checkpoints.
    """

    steps: int
    lr: float
    warmup: int = 0
    schedule: str = "constant"
    weight_decay: float = 0.01
    beta2: float = 0.999
    clip: float = 1.0
    accumulate: int = 1
    save_every: int = 100

    @classmethod
    def from_scratch(
        cls, *, steps: int, lr: float, warmup: int, weight_decay: float = 0.01
    ) -> OptimiserConfig:
        """What the mini models are trained with: cosine, quick second moments, a short warm-up."""
        return cls(
            steps=steps,
            lr=lr,
            warmup=min(warmup, steps // 10 + 1),
            schedule="cosine",
            weight_decay=weight_decay,
            beta2=0.99,
        )

    def __post_init__(self) -> None:
        _positive(steps=self.steps, lr=self.lr, clip=self.clip)
        _positive(accumulate=self.accumulate, save_every=self.save_every)
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(f"schedule must be 'constant' or 'cosine', got {self.schedule!r}")


@dataclass(frozen=True)
class DataConfig:
    """Which data, and how large.

    Attributes:
        source: `mini` for drawn scenes, or the folder of the data set's own files, absolute or from
            the repository's root.
        dataset: `phrasecut`, `refcoco`, `refcoco+`, `refcocog` or `cocostuff`, in whose own format
            the files are.
        pixels: side of the packed images; of the drawn scenes too.
        train: scenes to draw in the training split (`mini` only, as the next three).
        val: scenes in the validation split.
        test: scenes in the test split.
        seed: of the drawing.
    """

    source: str = "mini"
    dataset: str = "phrasecut"
    pixels: int = 128
    train: int = 4000
    val: int = 100
    test: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        _positive(pixels=self.pixels, train=self.train, val=self.val, test=self.test)


@dataclass(frozen=True)
class TrainConfig:
    """A rectified flow run; the defaults are the paper's (Table 8), for one process.

    Attributes:
        rank: of the LoRA; 0 trains all parameters.
        targets: `attention` (its projections) or `everything` (feed-forward and convolutions too).
        time: `uniform` on [0, 1] or `one` (only t = 1, where sampling starts).
        objective: `plain` (Eq. 2), `reshaped` (FlowSeg's correction towards the black or the white
            latent) or `l2` (the distance in the place of its square).
        selection: which labels: the `original` or the `refined` ones alone, or of both the easier
            one (Eq. 4), found in the `exact` way or by a `probe` at t = 1.
        batch: global batch size.
        weights: `pretrained`, or `random`: the same UNet as if the backbone had never been trained
            (of all parameters only).
    """

    steps: int
    rank: int = 64
    targets: str = "attention"
    time: str = "uniform"
    selection: str = "original"
    batch: int = 64
    lr: float = 1e-4
    warmup: int = 0
    schedule: str = "constant"
    seed: int = 42
    objective: str = "plain"
    weights: str = "pretrained"

    def __post_init__(self) -> None:
        _positive(steps=self.steps, batch=self.batch, lr=self.lr)
        if self.rank < 0:
            raise ValueError(f"rank must be 0 (all parameters) or more, got {self.rank}")
        for name, value, choices in (
            ("targets", self.targets, ("attention", "everything")),
            ("time", self.time, ("uniform", "one")),
            ("objective", self.objective, ("plain", "reshaped", "l2")),
            ("selection", self.selection, ("original", "refined", "exact", "probe")),
            ("schedule", self.schedule, ("constant", "cosine")),
            ("weights", self.weights, ("pretrained", "random")),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {value!r}")
        if self.weights == "random" and self.rank:
            raise ValueError(f"random weights need rank 0 (all parameters), got rank {self.rank}")


@dataclass(frozen=True)
class MachineConfig:
    """How training uses a machine; what is trained doesn't depend on it, but for rounding.

    Attributes:
        processes: that train together, a GPU each; without GPUs they share the CPU.
        compile: a backend of `torch.compile` for the UNet (`inductor`), or nothing. The first step
            then takes minutes, the others less than before (mini, 2 CPU cores: two thirds).
        recompute: what the backward pass needs is computed again (gradient checkpointing): a third
            more work, and much less memory.
        tracker: `tensorboard` (its files lie beside the record), or nothing.
    """

    processes: int = 1
    compile: str = ""
    recompute: bool = False
    tracker: str = ""

    def __post_init__(self) -> None:
        _positive(processes=self.processes)
        if self.tracker not in ("", "tensorboard"):
            raise ValueError(f"tracker must be 'tensorboard' or '', got {self.tracker!r}")


@dataclass(frozen=True)
class SamplerConfig:
    """How a velocity field is turned into a mask latent.

    Attributes:
        name: `one` (Eq. 5), `steps` (Eq. 8), `aos` (Eqs. 6-7), `hss` (Eqs. 9-10) or `aos_signed`.
        steps: of `steps` and of the reference in `hss`.
        tol: the epsilon of Eqs. 6 and 9, in scaled latent units.
    """

    name: str = "aos"
    steps: int = 5
    tol: float = 0.2

    def __post_init__(self) -> None:
        _positive(steps=self.steps, tol=self.tol)
        choices = ("one", "steps", "aos", "hss", "aos_signed")
        if self.name not in choices:
            raise ValueError(f"sampler must be one of {choices}, got {self.name!r}")


@dataclass(frozen=True)
class RefineConfig:
    """Parameters of Eq. 3 and Algorithm 1.

    Deviation: the paper names N, T_max and tau, and gives none of their values.

    Attributes:
        anchors: N, the points that k-means places in a mask.
        iterations: T_max, how often SAM is asked at most.
        tau: the IoU of a mask with its predecessor at which it has converged.
        logit: magnitude of the logits that show SAM the annotation, + inside and - outside.
        seed: of k-means.
    """

    anchors: int = 5
    iterations: int = 5
    tau: float = 0.95
    logit: float = 6.0
    seed: int = 0

    def __post_init__(self) -> None:
        _positive(anchors=self.anchors, iterations=self.iterations, logit=self.logit)
        if not 0 < self.tau <= 1:
            raise ValueError(f"tau is an IoU above 0 and at most 1, got {self.tau!r}")
