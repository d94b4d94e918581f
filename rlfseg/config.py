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
        save_every: steps between checkpoints.
    """

    steps: int
    lr: float
    warmup: int = 0
    schedule: str = "constant"
    weight_decay: float = 0.01
    beta2: float = 0.999
    clip: float = 1.0
    save_every: int = 100

    def __post_init__(self) -> None:
        _positive(steps=self.steps, lr=self.lr, clip=self.clip, save_every=self.save_every)
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(f"schedule must be 'constant' or 'cosine', got {self.schedule!r}")
