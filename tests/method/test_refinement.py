"""Anchors (Eq. 3), Algorithm 1 over fakes with closed forms, and SAM against its own predictor."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from safetensors.torch import save_file
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import Sam
from sklearn.cluster import KMeans
from torch import Tensor, nn

from rlfseg.config import OptimiserConfig, RefineConfig
from rlfseg.method.refinement import Predicted, anchors, logit_map, refine, refine_shown
from rlfseg.models.sam import PromptedSam, _quick_products, load_sam, mini_sam, save_sam
from rlfseg.stand_ins.mini_sam import (
    PromptCorpus,
    SamConfig,
    SamObjective,
    draw_prompts,
    prompt_batch,
    trained_sam,
)
from rlfseg.training.loop import fit

SIDE = 16


def box(top: int, left: int, height: int, width: int, side: int = SIDE) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def picture(height: int = SIDE, width: int = SIDE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


class Fake:
    """Answers at full size from logits of the image's own size, by a rule; counts what it does."""

    identity = "fake"
    side = SIDE

    def __init__(self, rule: Callable[[Tensor], Tensor]) -> None:
        self.rule = rule
        self.embedded = 0
        self.asked: list[int] = []
        self.points: list[Sequence[np.ndarray]] = []

    def embed(self, image: np.ndarray) -> np.ndarray:
        self.embedded += 1
        return image

    def predict(self, embedding: Any, points: Sequence[np.ndarray], logits: Tensor) -> Predicted:
        self.asked.append(len(points))
        self.points.append(points)
        masks = self.rule(logits[:, 0] > 0)
        return Predicted(masks[:, None] * 2.0 - 1, masks, torch.full((len(points),), 0.75))


def same(masks: Tensor) -> Tensor:
    return masks


def one_column_more(masks: Tensor) -> Tensor:
    """Add the column to the right."""
    return masks | masks.roll(1, -1)


def nothing(masks: Tensor) -> Tensor:
    return torch.zeros_like(masks)


# --- Eq. 3 ----------------------------------------------------------------------------------


def test_anchors_are_scikit_learns_and_the_centres_of_separate_parts() -> None:
    mask = box(1, 1, 3, 3) | box(1, 11, 3, 3) | box(10, 4, 5, 3)
    found = anchors(mask, n=3, seed=0)
    assert {tuple(point) for point in found} == {(2, 2), (12, 2), (5, 12)}  # x first
    rows, columns = np.nonzero(mask)
    theirs = KMeans(3, n_init=1, random_state=0).fit(np.stack([columns, rows], 1))
    np.testing.assert_allclose(found, theirs.cluster_centers_)


def test_the_anchor_of_a_ring_lies_on_the_ring() -> None:
    ring = box(2, 2, 11, 11) & ~box(4, 4, 7, 7)
    (anchor,) = anchors(ring, n=1, seed=0)
    assert ring[int(anchor[1]), int(anchor[0])]
    assert np.abs(anchor - 7).max() == 4  # of the ring's pixels one that is nearest to (7, 7)


@settings(max_examples=60, deadline=None)
@given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.integers(1, 6))
def test_anchors_are_distinct_pixels_of_the_mask(mask: np.ndarray, n: int) -> None:
    if not mask.any():
        with pytest.raises(ValueError, match="the mask is empty"):
            anchors(mask, n=n, seed=0)
        return
    found = anchors(mask, n=n, seed=3)
    columns, rows = found.astype(int).T
    assert np.array_equal(found, np.stack([columns, rows], 1))
    assert mask[rows, columns].all()
    assert len(np.unique(found, axis=0)) == len(found) == min(n, mask.sum())
    assert np.array_equal(anchors(mask, n=n, seed=3), found)


@pytest.mark.parametrize(
    ("mask", "n", "message"),
    [
        (np.zeros((4, 4), np.uint8), 2, "must be bool"),
        (np.zeros(4, bool), 2, "must be bool"),
        (np.ones((4, 4), bool), 0, "at least 1 anchor"),
    ],
)
def test_anchors_of_no_mask_are_refused(mask: np.ndarray, n: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        anchors(mask, n=n, seed=0)


# --- the first logits -----------------------------------------------------------------------


def test_the_first_logits_are_the_covered_share_of_each_cell() -> None:
    mask = torch.zeros(1, 4, 8, dtype=torch.bool)
    mask[0, :2, :2] = mask[0, 0, 4] = True
    found = logit_map(mask, side=4, scale=6.0)[0, 0]
    expected = torch.full((4, 4), -6.0)  # the lower half is padding
    expected[0, 0], expected[0, 2] = 6.0, -3.0
    assert torch.equal(found, expected)


# --- Algorithm 1 ----------------------------------------------------------------------------


def test_a_mask_that_comes_back_unchanged_stops_after_one_iteration() -> None:
    fake = Fake(same)
    mask = box(2, 3, 5, 6)
    (result,) = refine(picture(), [mask], fake, RefineConfig())
    assert (result.iterations, result.converged, result.reason) == (1, True, None)
    assert result.ious == (1.0,) and result.iou_original == 1.0 and result.score == 0.75
    assert np.array_equal(result.mask, mask) and len(result.anchors) == 5


def test_each_phrase_stops_when_its_own_mask_has_converged() -> None:
    """A box of width w grows by a column: IoU(M_t, M_{t-1}) = (w + t - 1) / (w + t)."""
    fake = Fake(one_column_more)
    widths = (3, 6, 1)
    masks = [box(2, 1, 4, width) for width in widths]
    config = RefineConfig(iterations=5, tau=0.855, anchors=3)
    results = refine(picture(), masks, fake, config)
    for width, result, steps in zip(widths, results, (4, 1, 5), strict=True):
        assert result.ious == pytest.approx([(width + t) / (width + t + 1) for t in range(steps)])
        assert result.converged == (steps < 5)
        assert np.array_equal(result.mask, box(2, 1, 4, width + steps))
        assert result.iou_original == pytest.approx(width / (width + steps))
        assert np.array_equal(result.steps[0], box(2, 1, 4, width + 1))
    assert fake.embedded == 1 and fake.asked == [3, 2, 2, 2, 1]
    for points in fake.points:  # the anchors stay fixed
        assert np.array_equal(points[-1], results[2].anchors)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.sampled_from([0.5, 0.8, 0.95, 1.0]))
def test_t_max_is_honoured(most: int, tau: float) -> None:
    fake = Fake(lambda masks: ~masks)  # no two masks in a row overlap
    config = RefineConfig(iterations=most, tau=tau)
    (result,) = refine(picture(), [box(0, 0, 8, 16)], fake, config)
    assert result.iterations == len(fake.asked) == most
    assert not result.converged and set(result.ious) == {0.0}


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (box(0, 0, 0, 0), "empty"),
        (box(0, 0, SIDE, SIDE), "full"),
        (box(3, 3, 1, 1), "tiny"),
    ],
)
def test_an_annotation_that_sam_cannot_better_is_kept_and_says_why(
    mask: np.ndarray, reason: str
) -> None:
    fake = Fake(one_column_more)
    kept, other = refine(picture(), [mask, box(2, 2, 3, 3)], fake, RefineConfig())
    assert kept.reason == reason and kept.iterations == 0 and kept.score is None
    assert kept.iou_original == 1.0 and np.array_equal(kept.mask, mask)
    assert other.reason is None and set(fake.asked) == {1}
    fake = Fake(same)
    (kept,) = refine(picture(), [mask], fake, RefineConfig())
    assert kept.reason == reason and fake.embedded == 0  # nothing to ask, so nothing to embed


def test_a_line_that_the_low_resolution_map_cannot_show_is_kept() -> None:
    fake = Fake(same)
    line = np.zeros((4 * SIDE, 4 * SIDE), bool)
    line[7] = True
    (kept,) = refine(picture(4 * SIDE, 4 * SIDE), [line], fake, RefineConfig())
    assert kept.reason == "tiny" and np.array_equal(kept.mask, line)


def test_the_annotation_is_kept_where_sam_returns_nothing() -> None:
    mask, fewer = box(2, 2, 4, 4), box(9, 9, 1, 3)
    results = refine(picture(), [mask, fewer], Fake(nothing), RefineConfig())
    for result, original in zip(results, (mask, fewer), strict=True):
        assert (result.reason, result.iterations, result.converged) == ("nothing", 1, False)
        assert np.array_equal(result.mask, original)
    assert len(results[1].anchors) == 3  # a mask of fewer pixels than N


def test_wrong_images_and_masks_are_refused() -> None:
    fake = Fake(same)
    with pytest.raises(ValueError, match="the image is float64"):
        refine(picture() / 255, [], fake, RefineConfig())
    for mask in (box(1, 1, 2, 2).astype(np.uint8), box(1, 1, 2, 2, side=8)):
        with pytest.raises(ValueError, match="like its image"):
            refine(picture(), [mask], fake, RefineConfig())
    assert refine(picture(), [], fake, RefineConfig()) == []
    for wrong in ({"anchors": 0}, {"iterations": 0}, {"tau": 1.5}, {"logit": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RefineConfig(**wrong)


# --- SAM ------------------------------------------------------------------------------------


def random_sam(seed: int = 1) -> Sam:
    """A small SAM in which nothing is left at zero, and whose masks are neither full nor empty."""
    sam = mini_sam(pixels=64, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sam.named_parameters():
            if "pos" in name:
                parameter.normal_(0, 0.5, generator=generator)
        sam.mask_decoder.output_hypernetworks_mlps[0].layers[-1].weight.mul_(5)
    return sam


@pytest.fixture(scope="module")
def prompted() -> PromptedSam:
    return PromptedSam(random_sam())


def masks_of(height: int, width: int) -> list[np.ndarray]:
    rows, columns = np.mgrid[:height, :width]
    disc = (rows - height / 2) ** 2 + (columns - width / 3) ** 2 < (height / 4) ** 2
    bar = (rows > 0.7 * height) & (columns > width / 2)
    few = (rows < 3) & (columns < 3)
    return [disc, bar, few, disc | bar]


@pytest.mark.parametrize("size", [(64, 64), (40, 100), (90, 31)])
def test_sam_answers_as_its_own_predictor_does(
    prompted: PromptedSam, size: tuple[int, int]
) -> None:
    image = picture(*size)
    masks = masks_of(*size)
    theirs = SamPredictor(prompted.sam)
    theirs.set_image(image)
    embedding = prompted.embed(image)
    assert torch.equal(embedding.features, theirs.features)
    points = [anchors(mask, n=12, seed=0) for mask in masks]
    assert {len(some) for some in points} == {9, 12}
    logits = logit_map(torch.from_numpy(np.stack(masks)), side=prompted.side, scale=6.0)
    for _ in range(2):  # the second time with the logits of the first
        ours = prompted.predict(embedding, points, logits)
        assert ours.masks.shape == (4, *size) and ours.logits.shape == logits.shape
        for row, some in enumerate(points):
            full, score, low = theirs.predict(
                some,
                np.ones(len(some)),
                mask_input=logits[row].numpy(),
                multimask_output=False,
                return_logits=True,
            )
            torch.testing.assert_close(ours.logits[row], torch.from_numpy(low))
            torch.testing.assert_close(ours.scores[row], torch.from_numpy(score)[0])
            clear = np.abs(full[0]) > 1e-4
            assert np.array_equal(ours.masks[row].numpy()[clear], full[0][clear] > 0)
        logits = ours.logits


def test_a_gpu_encodes_in_tensorfloat32_and_does_nothing_else_in_it(
    prompted: PromptedSam, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def note(*_: object) -> None:
        seen.append(torch.backends.cuda.matmul.allow_tf32)
        if len(seen) > 2:
            raise RuntimeError("no memory")

    hook = prompted.sam.image_encoder.register_forward_hook(note)
    prompted.embed(picture(8, 8))
    as_on_a_gpu = partial(_quick_products, torch.device("cuda"))
    monkeypatch.setattr("rlfseg.models.sam._quick_products", lambda device: as_on_a_gpu())
    prompted.embed(picture(8, 8))
    with hook, pytest.raises(RuntimeError, match="no memory"):
        prompted.embed(picture(8, 8))
    assert seen == [False, True, True] and not torch.backends.cuda.matmul.allow_tf32


def test_a_batch_of_phrases_equals_one_by_one(prompted: PromptedSam) -> None:
    image, masks = picture(40, 100), masks_of(40, 100)
    config = RefineConfig(anchors=12, iterations=3, tau=0.9)
    together = refine(image, masks, prompted, config)
    assert [len(result.anchors) for result in together] == [12, 12, 9, 12]
    assert [result.reason for result in together] == [None] * 4
    for mask, result in zip(masks, together, strict=True):
        (alone,) = refine(image, [mask], prompted, config)
        assert np.array_equal(alone.mask, result.mask)
        assert alone.reason == result.reason and alone.converged == result.converged
        assert alone.ious == pytest.approx(result.ious) and len(alone.ious) == result.iterations
        assert alone.score == pytest.approx(result.score, rel=1e-4)


def test_algorithm_1_equals_a_loop_over_sams_own_predictor(prompted: PromptedSam) -> None:
    image, mask = picture(64, 64), masks_of(64, 64)[0]
    config = RefineConfig(iterations=4, tau=0.999, anchors=4, logit=3.0, seed=5)
    (result,) = refine(image, [mask], prompted, config)
    theirs = SamPredictor(prompted.sam)
    theirs.set_image(image)
    low = logit_map(torch.from_numpy(mask)[None], side=prompted.side, scale=3.0)[0].numpy()
    points, before, shares = anchors(mask, n=4, seed=5), mask, []
    assert not np.array_equal(points, anchors(mask, n=4, seed=0))
    for _ in range(4):
        (now,), _, low = theirs.predict(points, np.ones(4), mask_input=low, multimask_output=False)
        shares.append((now & before).sum() / (now | before).sum())
        before = now
        if shares[-1] >= 0.999:
            break
    assert result.reason is None and np.array_equal(result.anchors, points)
    assert np.array_equal(result.mask, now)
    assert result.ious == pytest.approx(shares, rel=1e-4)


# --- a photograph at its own size ---------------------------------------------------------------


def at(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pillow's nearest neighbour."""
    return np.asarray(Image.fromarray(mask).resize(shape[::-1], Image.Resampling.NEAREST))


@pytest.mark.parametrize("shape", [(48, 100), (90, 31)])
def test_sam_is_shown_the_photograph_and_the_masks_come_back(
    prompted: PromptedSam, shape: tuple[int, int]
) -> None:
    photograph, masks = picture(*shape), masks_of(64, 64)
    config = RefineConfig(anchors=4, iterations=3, tau=0.9)
    theirs = refine(photograph, [at(mask, shape) for mask in masks], prompted, config)
    ours = refine_shown(photograph, masks, prompted, config)
    for mask, shown, result in zip(masks, theirs, ours, strict=True):
        assert np.array_equal(result.mask, mask if shown.reason else at(shown.mask, (64, 64)))
        assert result.iou_original == (mask & result.mask).sum() / (mask | result.mask).sum()
        assert (result.ious, result.converged, result.score, result.reason) == (
            *(shown.ious, shown.converged, shown.score, shown.reason),
        )
        for step, other in zip(result.steps, shown.steps, strict=True):
            assert np.array_equal(step, at(other, (64, 64)))
        x, y = result.anchors.round().astype(int).T
        assert mask[y, x].all()  # anchors lie on the annotation, in either frame
        share = (result.anchors + 0.5) / 64 * np.array(shape[::-1]) - 0.5
        assert np.allclose(share, shown.anchors)


def test_a_photograph_of_the_masks_size_changes_nothing(prompted: PromptedSam) -> None:
    image, masks = picture(64, 64), [*masks_of(64, 64), np.ones((64, 64), bool)]
    config = RefineConfig(anchors=4, iterations=3, tau=0.9)
    for one, other in zip(
        refine(image, masks, prompted, config),
        refine_shown(image, masks, prompted, config),
        strict=True,
    ):
        for field in fields(one):
            ours, theirs = getattr(one, field.name), getattr(other, field.name)
            assert np.array_equal(ours, theirs), field.name


def test_an_annotation_that_is_kept_is_the_one_that_was_given() -> None:
    rng = np.random.default_rng(2)
    odd = rng.random((40, 30)) < 0.5  # much of which is lost at a fourth of the size
    lost = np.zeros((40, 30), bool)
    lost[12, 17] = True
    empty, kept = refine_shown(picture(), [lost, odd], Fake(nothing), RefineConfig())
    assert (empty.reason, kept.reason) == ("empty", "nothing")
    assert np.array_equal(empty.mask, lost) and np.array_equal(kept.mask, odd)
    assert kept.iou_original == 1 and not kept.converged


def test_the_mini_sam_is_small_and_its_weights_depend_on_the_seed() -> None:
    sam = mini_sam()
    count = sum(p.numel() for p in sam.parameters())
    assert count < 1_000_000
    assert PromptedSam(sam).side == 64
    again, other = mini_sam().state_dict(), mini_sam(seed=1).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in sam.state_dict().items())
    assert not torch.equal(
        again["image_encoder.patch_embed.proj.weight"],
        other["image_encoder.patch_embed.proj.weight"],
    )
    with pytest.raises(ValueError, match="multiple of 8"):
        mini_sam(pixels=60)


def test_a_checkpoint_survives_in_both_formats(tmp_path: Path) -> None:
    sam = random_sam()
    save_sam(sam, tmp_path / "sam.safetensors")
    assert (tmp_path / "sam.safetensors").stat().st_size < 3 * 2**20
    loaded = load_sam("mini", tmp_path / "sam.safetensors", device="cpu")
    for name, value in sam.state_dict().items():
        assert torch.equal(loaded.sam.state_dict()[name], value.half().float())
    torch.save({k: v.half() for k, v in sam.state_dict().items()}, tmp_path / "sam.pth")
    same_one = load_sam("mini", tmp_path / "sam.pth", device="cpu")
    assert same_one.identity == loaded.identity != PromptedSam(random_sam(2)).identity
    assert not any(p.requires_grad for p in loaded.sam.parameters())
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["sam.pth", "sam.safetensors"]


class Trap:
    """What an unguarded `torch.load` would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("it was run",))


def test_bad_checkpoints_are_refused_with_one_clear_error(tmp_path: Path) -> None:
    def refused(name: str, message: str, kind: str = "mini") -> None:
        with pytest.raises(ValueError, match=message) as error:
            load_sam(kind, tmp_path / name, device="cpu")
        assert kind == "vit_x" or name in str(error.value)

    with pytest.raises(FileNotFoundError, match=r"there is no SAM checkpoint .*none\.pth"):
        load_sam("vit_h", tmp_path / "none.pth", device="cpu")
    refused("none.pth", "SAM type must be one of vit_b, vit_l, vit_h, mini", "vit_x")
    sam = mini_sam(pixels=64)
    save_sam(sam, tmp_path / "mini.safetensors")
    refused("mini.safetensors", "the SAM type is mini, not vit_b", "vit_b")
    state = {name: value.contiguous() for name, value in sam.state_dict().items()}
    wide = {**state, "image_encoder.patch_embed.proj.weight": torch.zeros(1280, 3, 16, 16)}
    save_file(wide, tmp_path / "huge.safetensors")
    refused("huge.safetensors", "the SAM type is vit_h, not mini")
    del state["mask_decoder.iou_token.weight"]
    save_file(state, tmp_path / "part.safetensors")
    refused("part.safetensors", "doesn't fit a SAM of type mini.*iou_token")
    save_file({"vision_encoder.layers": torch.zeros(1)}, tmp_path / "other.safetensors")
    refused("other.safetensors", "no SAM checkpoint with segment-anything's names")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0")
    refused("cut.safetensors", "no readable checkpoint")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "mini.safetensors").read_bytes()[:99])
    refused("cut.pth", "no readable checkpoint")
    with (tmp_path / "trap.pth").open("wb") as file:
        pickle.dump(Trap(), file, protocol=2)
    refused("trap.pth", "no readable checkpoint")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    refused("list.pth", "no plain dictionary of weights")


# --- the mini SAM's recipe ------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus() -> PromptCorpus:
    return draw_prompts(seed=1, count=2, pixels=64, workers=1)


def test_a_longer_prompt_corpus_begins_with_the_shorter_one(corpus: PromptCorpus) -> None:
    more = draw_prompts(seed=1, count=4, pixels=64, workers=1)
    for name in ("images", "truth", "coarse"):
        assert np.array_equal(getattr(more, name)[:2], getattr(corpus, name))
    assert more.targets[:2] == corpus.targets
    for scene, targets in enumerate(more.targets):
        for bits, points in zip(targets, more.points[scene], strict=True):
            exact, rough = more.truth[scene] & bits != 0, more.coarse[scene] & bits != 0
            columns, rows = points.astype(int).T
            assert exact[rows, columns].all() and len(points) == 5
            assert 0.3 < (exact & rough).sum() / (exact | rough).sum() < 1


def test_a_batch_of_prompts_is_a_function_of_the_step(corpus: PromptCorpus) -> None:
    def batch(step: int, seed: int = 0) -> Any:
        return prompt_batch(corpus, step, images=2, prompts=3, side=32, seed=seed)

    counts, masked = set(), 0
    for step in range(1, 41):
        one, again = batch(step), batch(step)
        assert torch.equal(one.points, again.points) and torch.equal(one.images, again.images)
        counts.add(one.points.shape[1])
        masked += one.logits is not None
        assert one.truth.shape == (6, 64, 64) and one.images.shape == (2, 3, 64, 64)
        x, y = one.points.long().unbind(-1)
        assert one.truth[torch.arange(6)[:, None], y, x].all()  # mirrored with the picture
        if one.logits is not None:
            full = nn.functional.interpolate(one.logits, (64, 64))[:, 0] > 0
            joint = (full & one.truth).sum((1, 2)) / (full | one.truth).sum((1, 2))
            assert joint.min() > 0.25 and joint.max() < 1
    assert counts == {1, 2, 3, 4, 5} and 20 < masked < 40
    assert not torch.equal(batch(1).images, batch(1, seed=1).images) or not torch.equal(
        batch(1).truth, batch(1, seed=1).truth
    )


def test_the_objective_answers_each_prompt_about_its_own_image(corpus: PromptCorpus) -> None:
    """Prompts of two images together, against each image by itself."""
    sam = random_sam()
    batch = prompt_batch(corpus, 3, images=2, prompts=2, side=32, seed=0)
    with torch.no_grad():
        both = SamObjective(sam)(batch)
        for row in range(2):
            part = slice(2 * row, 2 * row + 2)
            logits = None if batch.logits is None else batch.logits[part]
            one = batch._replace(
                images=batch.images[row : row + 1],
                points=batch.points[part],
                logits=logits,
                truth=batch.truth[part],
            )
            alone = SamObjective(sam)(one)
            torch.testing.assert_close(alone.loss, both.loss[part], rtol=1e-4, atol=1e-5)


@pytest.mark.integration
def test_the_recipe_overfits_two_scenes(corpus: PromptCorpus) -> None:
    sam = mini_sam(pixels=64)
    config = OptimiserConfig(steps=40, lr=2e-3, beta2=0.99)
    steps = list(
        fit(
            SamObjective(sam),
            lambda step: prompt_batch(corpus, step, images=2, prompts=4, side=32, seed=0),
            config,
            accelerator=Accelerator(cpu=True),
        )
    )
    first, last = steps[:5], steps[-10:]
    assert np.mean([s.loss for s in last]) < 0.7 * np.mean([s.loss for s in first])
    assert np.mean([s.values["iou"] for s in last]) > np.mean([s.values["iou"] for s in first])
    assert all(step.grad_norm > 0 for step in steps)


def test_the_recipe_ends_in_a_checkpoint_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accelerate_anew: None
) -> None:
    for name in ("params", "book"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    config = SamConfig(pixels=32, scenes=2, steps=2, images=2, prompts=2)
    path = trained_sam(config, profile="smoke")
    assert {p.name for p in path.parent.iterdir()} == {
        "sam.safetensors",
        "stage.json",
        "steps.jsonl",
    }
    sam = load_sam("mini", path, device="cpu")
    assert sam.side == 16
    moved = sam.sam.state_dict()["mask_decoder.iou_token.weight"]
    start = mini_sam(pixels=32).state_dict()["mask_decoder.iou_token.weight"]
    assert not torch.equal(moved, start.half().float())
    assert trained_sam(config, profile="smoke") == path


# --- full size ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vit_b", "vit_h"])
def test_sam_at_full_size_with_random_weights(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sam = sam_model_registry[kind]()
    prompted = PromptedSam(sam)
    assert prompted.side == 256
    calls: list[float] = []
    sam.image_encoder.register_forward_hook(lambda *_: calls.append(time.perf_counter()))
    image, masks = picture(768, 1024), masks_of(768, 1024)
    config = RefineConfig(iterations=2)
    took = []
    for count in (1, 4):
        start = time.perf_counter()
        results = refine(image, masks[:count], prompted, config)
        took.append((calls[-1] - start, time.perf_counter() - calls[-1]))
        assert len(results) == count and len(calls) == len(took)  # one embedding an image
        assert all(result.mask.shape == (768, 1024) for result in results)
    with capsys.disabled():
        further = (took[1][1] - took[0][1]) / 3
        print(f"\n  {kind}: embedding {took[1][0]:.1f} s, a further phrase {further:.2f} s")
