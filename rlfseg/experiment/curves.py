"""How fast a training learns to segment, and to hear the words: scores at doubled lengths.

Beside the phrase's own score stands that of another phrase of its picture. Whoever only finds
things scores both alike; whoever listens scores the second low.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from scipy.special import expit, logit

from rlfseg.evaluation.counts import Counts
from rlfseg.evaluation.predict import other_captions, spaced
from rlfseg.models.latent_cache import LatentCache
from rlfseg.processes import by_first
from rlfseg.stage import Stage, found, readable, replaced
from rlfseg.training.steps import Step

_FILE = "curve.json"
_COLUMNS = ("samples", "phrase", "another")
_DOUBLED = 6  # times
_PACED = 4  # points that tell how fast it goes on
_LEAST = 1e-3  # from 0 and from 1, where log-odds have no end
POINTS = 2 * (_DOUBLED + 1)
"""Each phrase of a curve is segmented so many times: as it is and by another, at each length."""
Scores = Callable[[Sequence[int], Sequence[str]], Counts]
"""Segments items of a cache, each by a caption, and counts against their annotations."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Best mIoU in [0, 1] after so many samples, of the phrase and of another of its picture.

    Each is that of the phrases of the validation split whose picture has another.

    Attributes:
        samples: int64 [k], increasing.
        phrase: float64 [k].
        another: float64 [k].
    """

    samples: np.ndarray
    phrase: np.ndarray
    another: np.ndarray

    def after(self, times: float) -> float:
        """Guess the phrase's score in [0, 1] after so many times the samples.

        See `further`.
        """
        return further(self.samples.tolist(), self.phrase.tolist(), times)

    def until(self, samples: int) -> Self:
        """Return the curve up to so many samples."""
        kept = self.samples <= samples
        return replace(
            self, samples=self.samples[kept], phrase=self.phrase[kept], another=self.another[kept]
        )

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read the curve that a training left in its folder; None if it left none.

        Raises:
            ValueError: if the file is damaged; it is named.
        """
        path = folder / _FILE
        if not path.is_file():
            return None
        with readable(path):
            rows = json.loads(path.read_text())
            return cls(*(np.array([row[name] for row in rows]) for name in _COLUMNS))


def further(samples: Sequence[int], scores: Sequence[float], times: float) -> float:
    """Guess a score in [0, 1] after so many times the samples.

    The least-squares line through the log-odds of the last four points, ln(s / (1 - s)), over the
    logarithm of samples, goes on: a guess that may err to either side, and knows no ceiling but 1.

    Args:
        samples: increasing, at least one.
        scores: after so many samples.
        times: the last of them.
    """
    if len(scores) < 2:
        return float(scores[-1])
    odds = logit(np.clip(scores[-_PACED:], _LEAST, 1 - _LEAST))
    pace, _ = np.polyfit(np.log(samples[-_PACED:]), odds, 1)
    return float(expit(odds[-1] + pace * np.log(times)))


def curve_stage(training: Stage) -> Stage:
    """Identify the curve of a training, which ships where the weights don't."""
    return Stage(f"curve-{training.name}", 2, {}, {"training": training})


def kept_curve(training: Stage, folder: Callable[[], Path], *, profile: str) -> Curve:
    """Return the curve of a training, found by itself or taken from the training's folder.

    Args:
        training: the stage.
        folder: finds or makes it; asked only if the curve isn't there, by all processes of a
            launch.
        profile: of both.

    Raises:
        ValueError: if the training left none.
    """
    stage = curve_stage(training)
    there = found(stage, profile=profile)
    if there is None:
        path = folder() / _FILE
        if not path.is_file():
            raise ValueError(
                f"{path.parent} has no {_FILE}: its training had no `curve`, or none of the "
                "phrases that it asks has another in its picture"
            )
        there = by_first(stage, lambda draft: _copied(path, draft), profile=profile)
    curve = Curve.load(there)
    assert curve is not None
    return curve


def _copied(path: Path, folder: Path) -> None:
    shutil.copy(path, folder)


class Learning:
    """Called after every step; scores after all steps, half of them, a quarter, to a 64th."""

    def __init__(
        self,
        folder: Path,
        scores: Scores,
        cache: LatentCache,
        *,
        phrases: int,
        steps: int,
        batch: int,
    ) -> None:
        """Take what is asked, and on what.

        Args:
            folder: of the training, where the curve is kept.
            scores: of what is trained.
            cache: of the validation split.
            phrases: how many are asked, evenly spaced, before those without another go.
            steps: of the whole training.
            batch: samples of a step.
        """
        self._path, self._scores, self._batch = folder / _FILE, scores, batch
        self._items, self._others = other_captions(cache, spaced(len(cache.pack), phrases))
        self._own = [cache.pack.caption(item) for item in self._items]
        self._at = {steps >> k for k in range(_DOUBLED + 1)} - {0}

    def __call__(self, step: Step) -> None:
        """Score if it is time to; rows of later steps, of before a kill, go."""
        if step.step not in self._at or not self._items:
            return
        samples = step.step * self._batch
        rows = json.loads(self._path.read_text()) if self._path.is_file() else []
        rows = [row for row in rows if row["samples"] < samples]
        said = {"phrase": self._own, "another": self._others}
        best = {name: self._scores(self._items, each).miou().value for name, each in said.items()}
        with replaced(self._path) as draft:
            draft.write_text(json.dumps([*rows, {"samples": samples, **best}]) + "\n")
