"""The closed set: a confusion matrix against scikit-learn and torchmetrics, the argmax by hand."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, jaccard_score
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex

from rlfseg.config import SamplerConfig
from rlfseg.data.packed.prepare import Example
from rlfseg.data.packed.read import Pack
from rlfseg.data.packed.write import write_pack
from rlfseg.evaluation.closed_set import confusions, given_classes, true_classes
from rlfseg.evaluation.confusion import IGNORED, Confusion, miou_interval, pooled
from rlfseg.models.latent_cache import LatentCache

RNG = np.random.default_rng(5)
NAMES = ("star", "heart", "cross", "stone", "sand")
SIDE = 8


def test_it_counts_as_scikit_learn_and_torchmetrics_do() -> None:
    truth = RNG.integers(4, size=(3, 9, 7))
    given = np.where(RNG.random(truth.shape) < 0.6, truth, RNG.integers(4, size=truth.shape))
    found = Confusion.of(given, truth, classes=4)
    flat = truth.ravel(), given.ravel()
    assert np.array_equal(found.pixels, confusion_matrix(*flat))
    np.testing.assert_allclose(found.iou(), jaccard_score(*flat, average=None))
    theirs = MulticlassJaccardIndex(num_classes=4)(torch.tensor(given), torch.tensor(truth))
    assert found.miou() == pytest.approx(float(theirs))
    assert found.accuracy() == pytest.approx(float((given == truth).mean()))


def test_pictures_add_up_and_ignored_pixels_do_not_count() -> None:
    truth, given = RNG.integers(3, size=(2, 6, 6)), RNG.integers(3, size=(2, 6, 6))
    truth[:, :2] = IGNORED
    parts = [Confusion.of(g, t, classes=3) for g, t in zip(given, truth, strict=True)]
    whole = Confusion.of(given, truth, classes=3)
    assert np.array_equal((parts[0] + parts[1]).pixels, whole.pixels)
    assert np.array_equal(whole.pixels, Confusion.of(given[:, 2:], truth[:, 2:], classes=3).pixels)
    assert whole.pixels.sum() == 2 * 4 * 6


def test_a_class_that_is_nowhere_has_no_say_and_one_that_is_only_given_has() -> None:
    truth = np.array([0, 0, 1, 1])
    assert Confusion.of(truth, truth, classes=5).miou() == 1
    found = Confusion.of(np.array([0, 2, 1, 1]), truth, classes=5)
    np.testing.assert_array_equal(found.iou(), [0.5, 1, 0, np.nan, np.nan])
    assert found.miou() == 0.5


def test_the_interval_is_that_of_confusions_pooled_anew() -> None:
    truth = RNG.integers(5, size=(9, 6, 6))  # class 5 is given alone, class 6 nowhere
    given = np.where(RNG.random(truth.shape) < 0.6, truth, RNG.integers(6, size=truth.shape))
    parts = [Confusion.of(g, t, classes=7) for g, t in zip(given, truth, strict=True)]
    rng, values = np.random.default_rng(3), []
    for _ in range(1000):
        drawn = [parts[k] for k in rng.integers(9, size=9)]
        values.append(pooled(drawn).miou())
    assert miou_interval(parts, seed=3) == tuple(np.quantile(values, (0.025, 0.975)))


def test_the_interval_of_the_whole_closed_set_takes_no_minutes() -> None:
    parts = [Confusion(RNG.integers(99, size=(171, 171))) for _ in range(400)]
    started = time.process_time()
    miou_interval(parts, seed=0)
    assert time.process_time() - started < 10  # once a minute and more


@pytest.mark.parametrize(
    ("given", "truth", "said"),
    [
        ([0, 3], [0, 1], "given classes must be 0 to 2, got 0 to 3"),
        ([0, 1], [-1, 1], "true classes must be 0 to 2, got -1 to 1"),
        ([0, 1, 2], [0, 1], "differ in shape"),
    ],
)
def test_what_is_no_class_is_refused(given: list[int], truth: list[int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Confusion.of(np.array(given), np.array(truth), classes=3)


# --- asking for every name ---------------------------------------------------------------------


class Plain:
    """In the place of `LatentCodec`: a latent is a picture, a name its place among `NAMES`."""

    factor = 1
    identity = "plain"
    device = torch.device("cpu")
    vae = SimpleNamespace(config=SimpleNamespace(latent_channels=3))

    def __init__(self) -> None:
        self.said: list[str] = []

    def encode(self, image: Tensor) -> Tensor:
        return image

    def decode(self, z: Tensor) -> Tensor:
        return (z.mean(1) + 1) / 2

    def black(self, pixels: int) -> Tensor:
        return torch.full((1, 3, pixels, pixels), -1.0)

    def text(self, captions: Sequence[str]) -> Tensor:
        self.said += captions
        return torch.tensor([float(NAMES.index(c)) for c in captions])[:, None, None]


def plain_world(folder: Path, *, images: int = 3) -> tuple[LatentCache, np.ndarray]:
    """Pictures of which some pixels are of no class, and their classes."""
    classes = RNG.integers(len(NAMES), size=(images, SIDE, SIDE))
    classes[:, 0] = IGNORED
    pictures = RNG.integers(256, size=(images, SIDE, SIDE, 3), dtype=np.uint8)
    examples = [
        Example(str(k), pictures[k], name, found == n)
        for k, found in enumerate(classes)
        for n, name in enumerate(NAMES)
    ]
    write_pack(examples, folder / "a.h5", size=SIDE)
    return plain_cache(folder), classes


def plain_cache(folder: Path) -> LatentCache:
    """Latents of what `plain_world` wrote."""
    return LatentCache(folder / "cache", Pack(folder / "a.h5"), Plain())  # type: ignore[arg-type]


@pytest.fixture
def world(tmp_path: Path) -> tuple[LatentCache, np.ndarray]:
    return plain_world(tmp_path)


def test_the_highest_score_names_the_pixel(world: tuple[LatentCache, np.ndarray]) -> None:
    cache, classes = world
    wanted = torch.randn(3, len(NAMES), SIDE, SIDE) * 3  # beyond [0, 1]: not to be clamped
    z1 = cache.z1([cache.pack.find(str(k), NAMES[0]) for k in range(3)])

    def v(z: Tensor, t: Tensor, c: Tensor) -> Tensor:
        picture = int((z1 - z[:1]).flatten(1).abs().sum(1).argmin())
        z0 = wanted[picture, c[:, 0, 0].long()][:, None].expand_as(z) * 2 - 1
        return z - z0

    by_hand = Confusion.of(wanted.argmax(1).numpy(), classes, classes=len(NAMES))
    for batch in (2, 5, 32):
        cache.codec.said.clear()  # type: ignore[attr-defined]
        images = ["0", "1", "2"]
        given = given_classes(v, cache, images, NAMES, SamplerConfig("one"), batch=batch)
        found = pooled(confusions(given, cache.pack, images, NAMES))
        assert np.array_equal(found.pixels, by_hand.pixels)
        assert cache.codec.said == list(NAMES)  # type: ignore[attr-defined]
    (alone,) = given_classes(v, cache, ["2"], NAMES, SamplerConfig("one"))
    assert np.array_equal(alone, wanted[2].argmax(0).numpy())
    assert not np.allclose(by_hand.iou(), 1)
    wanted[1, 2, 0, 0] = torch.nan  # which argmax would take for the highest
    with pytest.raises(ValueError, match=rf"scores of image 1 for '{NAMES[2]}' are not finite"):
        list(given_classes(v, cache, ["0", "1"], NAMES, SamplerConfig("one")))


def test_the_true_classes_come_back_and_strange_names_are_told(
    world: tuple[LatentCache, np.ndarray],
) -> None:
    cache, classes = world
    assert np.array_equal(true_classes(cache.pack, "1", NAMES), classes[1])
    with pytest.raises(ValueError, match="'sand' of image 1 is not in the set"):
        true_classes(cache.pack, "1", NAMES[:-1])
