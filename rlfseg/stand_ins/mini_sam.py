"""The mini SAM's recipe: points and coarse masks of drawn scenes, answered with the truth."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from pydantic import Field
from pydantic.dataclasses import dataclass as settings
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional as F

from rlfseg.config import STRICT, Count, OptimiserConfig, Positive, Seed
from rlfseg.data.drawn.chunks import in_workers, ranges
from rlfseg.data.drawn.phrases import phrases
from rlfseg.data.drawn.scene import draw_scene
from rlfseg.data.drawn.write_phrasecut import annotate
from rlfseg.method.refinement import anchors, logit_map
from rlfseg.models.sam import decode, mini_sam, save_sam
from rlfseg.processes import together
from rlfseg.stage import Stage
from rlfseg.training.loop import Losses, fit_in_stage

_STREAM = 8  # keeps these scenes apart from those of the data splits and of the backbone
_POINTS = 5
_NO_MASK = 0.25  # share of the batches without a mask prompt
_LOGIT = 6.0  # magnitude of what shows it a coarse mask, as Algorithm 1 does
_FOCAL = 20.0  # weight against the dice loss, as SAM's


RANDOM = "random"


@settings(frozen=True, config=STRICT)
class SamConfig:
    """Which SAM refines labels, and the settings of the mini one's recipe.

    Attributes:
        kind: `mini`, or segment-anything's `vit_b`, `vit_l` or `vit_h`.
        checkpoint: the weights of the latter three, absolute or from the repository's root, or
            `random`. The other settings are of `mini` alone.
        pixels: side of the drawn scenes.
        scenes: how many are drawn.
        seed: of drawing, of the initial weights, and of every batch.
        images: of a batch.
        prompts: for each image of a batch.
    """

    UNHASHED: ClassVar = ("kind", "checkpoint")

    kind: Literal["mini", "vit_b", "vit_l", "vit_h"] = "mini"
    checkpoint: str = ""
    pixels: Annotated[int, Field(gt=0, le=8192)] = 128
    scenes: Count = 8192
    seed: Seed = 0
    steps: Count = 7000
    images: Count = 8
    prompts: Count = 4
    lr: Positive = 1e-3

    def __post_init__(self) -> None:
        if (self.kind == "mini") == bool(self.checkpoint):
            few = "no" if self.checkpoint else "a"
            raise ValueError(f"kind {self.kind} needs {few} checkpoint")
        if self.kind != "mini" and replace(self, kind="mini", checkpoint="") != SamConfig():
            raise ValueError(f"kind {self.kind} has no recipe here: give kind and checkpoint alone")


@dataclass(frozen=True, eq=False)
class PromptCorpus:
    """Scenes and what may be asked about them.

    Attributes:
        images: uint8 [n, p, p, 3].
        truth: uint8 [n, p, p]; bit i is the exact mask of a scene's thing number i.
        coarse: the same of masks drawn as coarsely as annotations are.
        targets: for each scene the things and phrases in it, as sets of such bits.
        points: for each target float [5, 2], anchors of its exact mask.
    """

    images: np.ndarray
    truth: np.ndarray
    coarse: np.ndarray
    targets: tuple[tuple[int, ...], ...]
    points: tuple[np.ndarray, ...]


class PromptBatch(NamedTuple):
    """Images float [b, 3, p, p] in [0, 255], and q prompts for each, one image after another.

    `points` [b q, k, 2] in pixels, `logits` [b q, 1, side, side] or None, `truth` bool [b q, p, p].
    """

    images: Tensor
    points: Tensor
    logits: Tensor | None
    truth: Tensor


class SamObjective(nn.Module):
    """Focal and dice loss of the mask, squared error of the estimated IoU, as SAM was trained.

    Each prompt is answered twice: the second time with the first answer's own logits as the mask
    prompt, which is how Algorithm 1 asks.
    """

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam

    def forward(self, batch: PromptBatch) -> Losses:
        """Return losses by prompt, the mean of both answers; `iou` is the second answer's."""
        features = self.sam.image_encoder(self.sam.preprocess(batch.images)).float()
        features = features.repeat_interleave(len(batch.points) // len(features), dim=0)
        truth = batch.truth.float()
        low, score = decode(self.sam, features, batch.points, batch.logits)
        first, first_iou = _mask_loss(low.float(), score.float(), truth)
        low, score = decode(self.sam, features, batch.points, low.detach().float())
        second, second_iou = _mask_loss(low.float(), score.float(), truth)
        return Losses((first + second) / 2, {"iou_first": first_iou, "iou": second_iou})


def _mask_loss(
    low: Float[Tensor, "b 1 side side"], score: Float[Tensor, " b"], truth: Float[Tensor, "b p p"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Return 20 focal + dice + (estimated IoU - IoU)^2, at the images' size; and the IoU.

    focal = mean (1 - p_t)^2 CE,    dice = 1 - (2 sum p y + 1) / (sum p + sum y + 1)
    """
    logits = F.interpolate(low, truth.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    focal = ((1 - torch.exp(-entropy)).square() * entropy).mean((1, 2))
    p = logits.sigmoid()
    dice = 1 - (2 * (p * truth).sum((1, 2)) + 1) / (p.sum((1, 2)) + truth.sum((1, 2)) + 1)
    mask = (logits > 0).float()
    shared = (mask * truth).sum((1, 2))
    iou = (shared / (mask.sum((1, 2)) + truth.sum((1, 2)) - shared)).detach()
    return _FOCAL * focal + dice + (score - iou).square(), iou


def prompt_batch(
    corpus: PromptCorpus, step: int, *, images: int, prompts: int, side: int, seed: int
) -> PromptBatch:
    """Make the batch of a step, a function of `seed` and `step`.

    All prompts of a batch have the same number of points, 1 to 5 chosen among the anchors, and a
    quarter of the batches has no mask prompt; pictures are mirrored at random.
    """
    rng = np.random.default_rng([seed, step])
    count = int(rng.integers(1, _POINTS + 1))
    with_mask, mirrored = rng.random() >= _NO_MASK, rng.random() < 0.5
    chosen = rng.integers(len(corpus.images), size=images)
    points, truth, coarse = [], [], []
    for scene in chosen:
        for target in rng.integers(len(corpus.targets[scene]), size=prompts):
            bits = corpus.targets[scene][target]
            points.append(rng.permutation(corpus.points[scene][target])[:count])
            truth.append(corpus.truth[scene] & bits != 0)
            coarse.append(corpus.coarse[scene] & bits != 0)
    pictures = torch.from_numpy(corpus.images[chosen]).permute(0, 3, 1, 2).float()
    clicks = torch.from_numpy(np.stack(points)).float()
    masks, rough = torch.from_numpy(np.stack(truth)), torch.from_numpy(np.stack(coarse))
    if mirrored:
        pictures, masks, rough = pictures.flip(-1), masks.flip(-1), rough.flip(-1)
        clicks[..., 0] = pictures.shape[-1] - 1 - clicks[..., 0]
    logits = logit_map(rough, side=side, scale=_LOGIT) if with_mask else None
    return PromptBatch(pictures, clicks, logits, masks)


def draw_prompts(*, seed: int, count: int, pixels: int, workers: int = 2) -> PromptCorpus:
    """Draw `count` scenes, with the targets and anchors of each.

    Scene number i depends on `seed` and i alone, so a longer corpus begins with a shorter one.
    Targets of fewer than 5 visible pixels are left out.
    """
    parts = in_workers(partial(_draw, seed=seed, pixels=pixels), ranges(count), workers=workers)
    scenes = [scene for part in parts for scene in part]
    images, truth, coarse, targets, points = zip(*scenes, strict=True)
    return PromptCorpus(np.stack(images), np.stack(truth), np.stack(coarse), targets, points)


def _draw(numbers: range, *, seed: int, pixels: int) -> list[tuple[Any, ...]]:
    scenes = []
    for number in numbers:
        rng = np.random.default_rng([seed, _STREAM, number])
        scene = draw_scene(rng, pixels=pixels, held_out=False)
        exact = np.zeros((pixels, pixels), np.uint8)
        coarse = np.zeros((pixels, pixels), np.uint8)
        for place, thing in enumerate(scene.things):
            exact |= thing.mask.astype(np.uint8) << place
            coarse |= _annotated(rng, thing.mask).astype(np.uint8) << place
        things = [(place,) for place in range(len(scene.things))]
        said = [phrase.targets for phrase in phrases(rng, scene)]
        wanted = dict.fromkeys(sum(1 << place for place in some) for some in [*things, *said])
        targets = tuple(bits for bits in wanted if np.count_nonzero(exact & bits) >= _POINTS)
        points = [anchors(exact & bits != 0, n=_POINTS, seed=seed) for bits in targets]
        scenes.append((scene.image, exact, coarse, targets, np.stack(points)))
    return scenes


def _annotated(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """Draw a mask as a hurried person would have drawn it."""
    drawn = Image.new("1", mask.shape[::-1])
    for polygon in annotate(rng, mask):
        ImageDraw.Draw(drawn).polygon([(x, y) for x, y in polygon], fill=1)
    return np.asarray(drawn)


def sam_stage(config: SamConfig) -> Stage:
    """Return the stage that trains the mini SAM."""
    return Stage.of("sam", 1, config)


def trained_sam(config: SamConfig, *, profile: str) -> Path:
    """Find or train the mini SAM; return its checkpoint, safetensors in half precision.

    The record keeps the mean loss and the mean IoU with the truth over the last hundred steps.
    """

    def make(folder: Path) -> dict[str, Any]:
        corpus = draw_prompts(seed=config.seed, count=config.scenes, pixels=config.pixels)
        sam = mini_sam(pixels=config.pixels, seed=config.seed)
        shape = {"images": config.images, "prompts": config.prompts, "seed": config.seed}
        side = sam.prompt_encoder.mask_input_size[0]
        return fit_in_stage(
            SamObjective(sam),
            lambda step: prompt_batch(corpus, step, side=side, **shape),
            OptimiserConfig.from_scratch(steps=config.steps, lr=config.lr, warmup=200),
            folder,
            title="mini SAM",
            save=lambda: save_sam(sam, folder / "sam.safetensors"),
        )

    return together(sam_stage(config), make, profile=profile) / "sam.safetensors"
