"""The mini CLIP's recipe: drawn scenes and sentences about them, told apart.

Deviation: CLIP's captions come from the web, and every other caption of a batch counts as wrong.
Here the truth is known: a sentence that happens to be true of another picture counts as right, and
each picture is also shown sentences of which one word is wrong. And CLIP's pictures are whole: here
the patch at each thing's centre is held against the phrases too, so that what a thing is shows
while which of many it is would be guessed; four hundred million pictures teach that without.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from accelerate import PartialState
from jaxtyping import Bool, Float
from pydantic import Field
from pydantic.dataclasses import dataclass as settings
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from rlfseg.config import STRICT, Count, OptimiserConfig, Positive, Seed
from rlfseg.data.images import to_unit
from rlfseg.models.weights import save_model, seeded, whole
from rlfseg.processes import together
from rlfseg.stage import PARTS, Stage
from rlfseg.stand_ins.clip_batches import (
    PATCHES,
    ClipBatch,
    Gallery,
    clip_batch,
    draw_gallery,
    vocabulary,
)
from rlfseg.stand_ins.text_to_image import save_tokenizer, small_text_encoder, small_tokenizer
from rlfseg.training.loop import Losses, fit_in_stage

_NOISE = 1e-4  # against the strongest direction, so that the weakest aren't noise alone
_WHITENED = 512  # pictures whose patches are looked at


@settings(frozen=True, config=STRICT)
class ClipConfig:
    """Settings of the mini CLIP's recipe.

    Attributes:
        pixels: side of the drawn scenes.
        scenes: how many are drawn; a quarter of them with one thing alone.
        seed: of drawing, of the initial weights, and of every batch.
        alone: the first steps, whose pictures have one thing and are seen through a window around
            it.
        steps: all of them.
        batch: pictures of a step.
        lr: peak learning rate of AdamW.
        muon: that of Muon for the weights of linear layers (`optimisers`); 0 for AdamW alone.
    """

    UNHASHED: ClassVar = ("muon",)

    pixels: Annotated[int, Field(gt=0, le=8192)] = 128
    scenes: Count = 32768
    seed: Seed = 0
    alone: Annotated[int, Field(ge=0)] = 1400
    steps: Count = 8000
    batch: Count = 64
    lr: Positive = 1e-3
    muon: Annotated[float, Field(ge=0, le=1)] = 0.0


def mini_clip(tokenizer: CLIPTokenizer, *, pixels: int = 128) -> CLIPModel:
    """Make an untrained CLIPModel; its text encoder is of the mini backbone's make."""
    width = 128
    text = small_text_encoder(tokenizer).config.to_dict()
    vision = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "image_size": pixels,
        "patch_size": pixels // PATCHES,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=2 * width))


def whitened(clip: CLIPModel, images: np.ndarray) -> CLIPModel:
    """Start a CLIP's patches as decorrelated features of equal strength.

    From random weights a patch is its mean colour and little else, and a place is hardly to be
    told from its neighbour.

    Args:
        clip: untrained.
        images: uint8 [n, p, p, 3], some hundred.
    """
    vision = clip.vision_model.embeddings
    weights = vision.patch_embedding.weight
    cut = F.unfold(to_unit(torch.from_numpy(images)), vision.patch_size, stride=vision.patch_size)
    rows = cut.transpose(1, 2).reshape(-1, cut.shape[1])
    strength, axes = torch.linalg.eigh(torch.cov(rows.T))
    strength, axes = strength.flip(0)[: len(weights)], axes.flip(1)[:, : len(weights)]
    mixed = torch.linalg.qr(torch.randn(len(weights), axes.shape[1]))[0]
    with torch.no_grad():
        white = mixed @ (axes / (strength + _NOISE * strength[0]).sqrt()).T
        weights.copy_(white.view_as(weights))
        vision.position_embedding.weight.normal_(0, 0.5)
        vision.class_embedding.normal_(0, 1)
    return clip


def load_clip(folder: Path) -> tuple[CLIPModel, CLIPTokenizer]:
    """Load what `trained_clip` returns, in float32, for evaluation, on this machine's device.

    Raises:
        ValueError: naming the folder, if a file in it is damaged.
    """
    with whole(folder):
        clip = CLIPModel.from_pretrained(folder, torch_dtype=torch.float32, use_safetensors=True)
        tokenizer = CLIPTokenizer.from_pretrained(folder)
    return clip.eval().to(PartialState().device), tokenizer


def states(clip: CLIPModel, pictures: Tensor, patches: Tensor | None = None) -> Tensor:
    """Return the last states of pictures, float [b, 3, p, p] in [-1, 1]: [b, 1 + k, d].

    Args:
        clip: the model.
        pictures: of the size it was made for.
        patches: int64 [b, k], the patches that are seen, each at its own place; None for all.
    """
    vision = clip.vision_model
    first = vision.embeddings(pictures)
    if patches is not None:
        chosen = patches[..., None].expand(-1, -1, first.shape[-1])
        first = torch.cat([first[:, :1], first[:, 1:].gather(1, chosen)], dim=1)
    return vision.encoder(inputs_embeds=vision.pre_layrnorm(first)).last_hidden_state


def pointed(clip: CLIPModel, some: Float[Tensor, "*n w"]) -> Float[Tensor, "*n d"]:
    """Return last states as unit vectors: of a picture by its first one, or of a patch."""
    pooled = clip.vision_model.post_layernorm(some)
    return F.normalize(clip.visual_projection(pooled), dim=-1)


def seen(clip: CLIPModel, pictures: Tensor) -> Float[Tensor, "b d"]:
    """Return pictures, float [b, 3, p, p] in [-1, 1], as unit vectors."""
    return pointed(clip, states(clip, pictures)[:, 0])


def heard(clip: CLIPModel, tokens: Tensor) -> Float[Tensor, "t d"]:
    """Return token numbers, int64 [t, k], as unit vectors."""
    pooled = clip.text_model(input_ids=tokens).pooler_output
    return F.normalize(clip.text_projection(pooled), dim=-1)


def contrast(
    likeness: Float[Tensor, "n m"], true: Bool[Tensor, "n m"]
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Return the loss of each row, and whether it has one.

        loss_i = mean over true j of log(1 + sum over untrue k of exp(l_ik - l_ij))

    With one true entry in a row it is the cross-entropy that CLIP is trained with. A row that has
    no true entry has no loss: 0.
    """
    lowest = torch.finfo(likeness.dtype).min  # not -inf: where all are true, the gradient is 0
    against = likeness.masked_fill(true, lowest).logsumexp(1, keepdim=True)
    each = F.softplus(against - likeness).masked_fill(~true, 0).sum(1)
    count = true.sum(1)
    return each / count.clamp(min=1), count > 0


class ClipObjective(nn.Module):
    """The mean of `contrast` over pictures and over sentences, and over things and over phrases."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, batch: ClipBatch) -> Losses:
        """Return losses by picture; each carries the mean of the sentences' and of the things'.

        All is computed in float32: for matrices as small as these bfloat16 is slower on a CPU.
        `picked` is the share of pictures whose likeliest sentence is a true one, `things` the loss
        of things.
        """
        with torch.autocast(batch.pictures.device.type, enabled=False):
            return self._losses(batch)

    def _losses(self, batch: ClipBatch) -> Losses:
        clip, there = self.clip, batch.places >= 0
        texts = torch.cat([heard(clip, batch.short), heard(clip, batch.long)])
        last = states(clip, batch.pictures, batch.patches)
        at = batch.places.clamp(min=0)[..., None].expand(-1, -1, last.shape[-1])
        pictures, things = (
            pointed(clip, some) for some in (last[:, 0], last[:, 1:].gather(1, at)[there])
        )
        scale = clip.logit_scale.exp().clamp(max=100)
        likeness = scale * pictures @ texts.T
        one_by_one = scale * things @ texts[: len(batch.short)].T
        by_picture, _ = contrast(likeness, batch.true)
        by_sentence = _mean(likeness.T, batch.true.T)
        meant = batch.meant[there]
        by_thing = (_mean(one_by_one, meant) + _mean(one_by_one.T, meant.T)) / 2
        picked = batch.true.gather(1, likeness.argmax(1, keepdim=True))[:, 0].float()
        loss = (by_picture + by_sentence) / 2 + by_thing
        return Losses(loss, {"picked": picked, "things": by_thing.expand_as(picked)})


def _mean(likeness: Float[Tensor, "n m"], true: Bool[Tensor, "n m"]) -> Float[Tensor, ""]:
    """Average `contrast` over the rows that have one."""
    loss, told = contrast(likeness, true)
    return loss.sum() / told.sum().clamp(min=1)


def clip_gallery(config: ClipConfig, *, kept: Path) -> Gallery:
    """Return the scenes that it is trained on, from a file or drawn into it."""
    return draw_gallery(seed=config.seed, count=config.scenes, pixels=config.pixels, kept=kept)


def clip_stage(config: ClipConfig) -> Stage:
    """Return the stage that trains the mini CLIP."""
    return Stage.of("clip", 1, config)


def trained_clip(config: ClipConfig, *, profile: str) -> Path:
    """Find or train the mini CLIP; return its folder: the model in half precision, the tokenizer.

    The record keeps the mean loss over the last hundred steps, and the share of pictures whose
    likeliest sentence was true.
    """

    def make(folder: Path) -> dict[str, Any]:
        gallery = clip_gallery(config, kept=folder / PARTS / "gallery.npz")
        tokenizer = small_tokenizer(vocabulary(gallery.layout, seed=config.seed))
        some = gallery.images[:_WHITENED]
        clip = seeded(
            config.seed, lambda: whitened(mini_clip(tokenizer, pixels=config.pixels), some)
        )
        shape = {"size": config.batch, "seed": config.seed, "alone": config.alone}

        def save() -> None:
            save_model(clip.cpu().half(), folder)
            save_tokenizer(tokenizer, folder)

        return fit_in_stage(
            ClipObjective(clip),
            lambda step: clip_batch(gallery, tokenizer, step, **shape),
            OptimiserConfig.from_scratch(
                steps=config.steps,
                lr=config.lr,
                warmup=200,
                weight_decay=0.05,
                muon=config.muon,
            ),
            folder,
            title="mini CLIP",
            save=save,
        )

    return together(clip_stage(config), make, profile=profile)
