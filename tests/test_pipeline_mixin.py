"""The tests that diffusers has for every pipeline of its own, from its source: no package has them.

`DIFFUSERS_SOURCE` says where its repository lies; the command stands in book/withstands.md.
"""

from __future__ import annotations

import importlib
import os
import sys
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from test_pipeline import PICTURES
from tiny import tiny_backbone

from rlfseg import RLFSegPipeline

SOURCE = os.environ.get("DIFFUSERS_SOURCE")
if not SOURCE:
    pytest.skip(
        "DIFFUSERS_SOURCE doesn't say where diffusers' repository lies", allow_module_level=True
    )


def mixin() -> type:
    """Import diffusers' own tests, under the name `tests` that they have there."""
    sys.path.insert(0, SOURCE)
    try:
        return importlib.import_module("tests.pipelines.test_pipelines_common").PipelineTesterMixin
    finally:
        sys.path.remove(SOURCE)


class Scored(RLFSegPipeline):
    """What comes first are the scores, which are compared; a generator changes nothing here."""

    def __call__(self, image, phrases, *, generator=None, return_dict=True):
        masks, scores, gamma = super().__call__(image, phrases, return_dict=False)
        return np.stack(scores), masks, gamma

    @property
    def components(self) -> dict[str, object]:
        """Without the numbers that go with ours; diffusers' pipelines have parts alone."""
        return {k: v for k, v in super().components.items() if not isinstance(v, float)}

    def save_pretrained(self, save_directory, *, safe_serialization=True, **more) -> None:
        """As safetensors, whatever is asked: pickles aren't read."""
        super().save_pretrained(save_directory, **more)


class TestAsOneOfDiffusers(mixin(), unittest.TestCase):
    """What a text-to-image call has and this one hasn't is skipped by the tests themselves."""

    pipeline_class = Scored
    params = frozenset({"image", "phrases"})
    batch_params = params
    required_optional_params = frozenset({"return_dict"})
    test_group_offloading = True
    test_layerwise_casting = True

    def setUp(self) -> None:
        super().setUp()
        self.folder = self.enterContext(TemporaryDirectory())

    def get_dummy_components(self) -> dict[str, object]:
        backbone = tiny_backbone(Path(self.folder) / "tiny")
        return RLFSegPipeline.from_pretrained(backbone).components

    def get_dummy_inputs(self, device: object, seed: int = 0) -> dict[str, object]:
        return {"image": PICTURES[0], "phrases": "red star"}

    def test_inference_batch_single_identical(self) -> None:
        self._test_inference_batch_single_identical(additional_params_copy_to_batched_inputs=())
