"""A run's values for those who watch it from afar, by Accelerate's trackers."""

from __future__ import annotations

from pathlib import Path

from accelerate.tracking import TensorBoardTracker
from accelerate.utils import is_tensorboard_available

from rlfseg.record import Step


class Tracked:
    """Called after every step; writes its values to `folder/tensorboard`."""

    def __init__(self, folder: Path) -> None:
        """Opens the tracker.

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
        """Logs loss, gradient norm, learning rate, seconds, and the named values of the step."""
        values = {"loss": step.loss, "grad_norm": step.grad_norm, "lr": step.lr}
        self._tracker.log({**values, "seconds": step.seconds, **step.values}, step=step.step)

    def finish(self) -> None:
        """Closes the files."""
        self._tracker.finish()
