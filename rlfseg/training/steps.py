"""The record of a training: one step after the other, as JSON lines."""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from accelerate.tracking import TensorBoardTracker
from accelerate.utils import is_tensorboard_available
from tqdm.auto import tqdm

from rlfseg.stage import full_disk_named, replaced

_FINITE = ("loss", "grad_norm")  # of every step that was not skipped


@dataclass(frozen=True)
class Step:
    """What one optimiser step was: number from 1, mean loss, gradient norm before clipping, ...

    `skipped` says why it changed nothing: loss or gradient was not finite. In the file these are
    null then, and nan when they are read again.
    """

    step: int
    loss: float
    grad_norm: float
    lr: float
    seconds: float
    values: Mapping[str, float] = field(default_factory=dict)
    skipped: str = ""


def recorded(steps: Iterator[Step], path: Path, *, total: int, title: str) -> Iterator[Step]:
    """Pass steps on, appending each to a file of JSON lines, with a progress bar.

    Lines of steps that are now done again (a resumed run goes back to its last checkpoint) are
    dropped, so the file always holds each step once, in order. Numbers keep six digits.

    Raises:
        ValueError: if the file is damaged.
        OSError: if it can't be written.
    """
    kept = read_steps(path)
    with tqdm(total=total, desc=title, leave=False) as bar, ExitStack() as at_end:
        file = None
        for step in steps:
            if file is None:
                kept = [k for k in kept if k.step < step.step]
                with replaced(path) as draft:
                    draft.write_text("".join(map(_line, kept)))
                file = at_end.enter_context(path.open("a", buffering=1))
                bar.update(step.step - 1)
            with full_disk_named(path):
                file.write(_line(step))
            bar.update()
            bar.set_postfix(loss=f"{step.loss:.4f}", refresh=False)
            if step.skipped:
                bar.write(f"step {step.step} is skipped: {step.skipped}", file=sys.stderr)
            yield step


def rounded(step: Step) -> Step:
    """Return a step as the record keeps it, its numbers to six digits."""
    loss, norm, lr, seconds = map(_six, (step.loss, step.grad_norm, step.lr, step.seconds))
    values = {name: _six(value) for name, value in step.values.items()}
    return Step(step.step, loss, norm, lr, seconds, values, step.skipped)


def _six(number: float) -> float:
    return float(f"{number:.6g}")


def _line(step: Step) -> str:
    kept = asdict(rounded(step))
    for name in _FINITE:
        kept[name] = kept[name] if math.isfinite(kept[name]) else None
    for name in ("values", "skipped"):
        if not kept[name]:
            del kept[name]
    return json.dumps(kept) + "\n"


def read_steps(path: Path) -> list[Step]:
    """Read the steps that `recorded` wrote to a file; none if there is no file.

    A last line that was cut off, by a kill or a full disk, is passed over.

    Raises:
        ValueError: if another line is no step.
    """
    if not path.exists():
        return []
    lines = path.read_text(errors="replace").splitlines(keepends=True)
    steps = []
    for number, line in enumerate(lines, start=1):
        try:
            read = json.loads(line)
            lost = {name: math.nan for name in _FINITE if read[name] is None}
            steps.append(Step(**{**read, **lost}))
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):
                break
            raise ValueError(
                f"{path}, line {number}, is no step of a training ({error}): take it out"
            ) from error
    return steps


class Tracked:
    """Called after every step; writes its values to `folder/tensorboard`."""

    def __init__(self, folder: Path) -> None:
        """Open the tracker.

        Raises:
            ValueError: if the package that writes its files isn't installed.
        """
        if not is_tensorboard_available():
            raise ValueError(
                "tracker 'tensorboard' needs the package tensorboardX or tensorboard: install one, "
                "or set tracker to ''"
            )
        self._tracker = TensorBoardTracker("tensorboard", logging_dir=folder)
        if hasattr(self._tracker, "start"):  # older ones start when they are made
            self._tracker.start()

    def __call__(self, step: Step) -> None:
        """Log loss, gradient norm, learning rate, seconds, and the named values of the step."""
        values = {"loss": step.loss, "grad_norm": step.grad_norm, "lr": step.lr}
        self._tracker.log({**values, "seconds": step.seconds, **step.values}, step=step.step)

    def finish(self) -> None:
        """Close the files."""
        self._tracker.finish()
