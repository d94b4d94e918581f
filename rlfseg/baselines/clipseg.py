"""A baseline after CLIPSeg: transformers' own class, with released weights or trained small.

Source: T. Lüddecke and A. Ecker, "Image segmentation using text and image prompts" (CVPR 2022).
With a checkpoint such as `CIDAS/clipseg-rd64-refined` the model is the authors', used as it is.
Otherwise it is a small one: on a mini CLIP, which is frozen as in the paper. Without one both
towers are trained together with the decoder, and the words' tower begins as the backbone's text
encoder; its decoder has 64 dimensions, as the released one has, and not the 128 of the paper's own.
Left out in each case: prompts that are pictures, and prompt templates (the phrase is said as it
is).
"""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    CLIPModel,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPTextModel,
    CLIPTokenizer,
)

from rlfseg.config import STRICT, Count, Positive, Seed
from rlfseg.experiment import Run, located
from rlfseg.method.types import Image
from rlfseg.models.latent_cache import LatentCache
from rlfseg.models.latent_codec import LatentCodec
from rlfseg.models.weights import seeded, whole
from rlfseg.stage import Stage
from rlfseg.stand_ins.mini_clip import ClipConfig, load_clip, trained_clip

Levels = tuple[float, float, float]
# means and spreads of the channels that a model's processor takes: the released one's ImageNet's
IMAGENET: tuple[Levels, Levels] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
UNIT: tuple[Levels, Levels] = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
_DECODER: dict[str, Any] = {
    "reduce_dim": 64,
    "decoder_intermediate_size": 256,
    "use_complex_transposed_convolution": True,
}


@dataclass(frozen=True, config=STRICT)
class ClipsegConfig:
    """Settings of the baseline.

    Attributes:
        checkpoint: released weights, a folder or hub id, which are not trained further; none for a
            small model that is trained here.
        steps: that the small model is trained for; 0 with a checkpoint.
        clip: the mini CLIP under a small model; without, its towers are trained along, and the next
            four settings are theirs.
        pixels: side at which the model sees pictures; 352 is what the released one was trained at.
        patch: side of its patches; a multiple of 4.
        width: channels of its vision tower.
        layers: of its vision tower, of which the decoder reads every other one.
        seed: of the initial weights and every batch.
        curve: phrases of the validation split that are scored while it trains.
    """

    UNHASHED: ClassVar = ("kind", "curve", "clip")

    kind: Literal["clipseg"] = "clipseg"
    checkpoint: str = ""
    steps: Annotated[int, Field(ge=0, le=10**9)] = 0
    batch: Count = 16
    lr: Positive = 1e-3
    pixels: Annotated[int, Field(gt=0, le=4096)] = 128
    patch: Annotated[int, Field(gt=0, multiple_of=4)] = 16
    width: Annotated[int, Field(gt=0, le=4096, multiple_of=4)] = 128
    layers: Annotated[int, Field(gt=1, le=64)] = 6
    seed: Seed = 42
    curve: Annotated[int, Field(ge=0, le=10**6)] = 0
    clip: ClipConfig | None = None

    def __post_init__(self) -> None:
        if bool(self.checkpoint) == bool(self.steps):
            raise ValueError(
                "clipseg needs a checkpoint to be used as it is, or steps to train a small model, "
                f"not both or neither: got checkpoint {self.checkpoint!r} and steps {self.steps}"
            )
        if self.checkpoint and self.curve:
            raise ValueError("clipseg: released weights are not trained, so they have no curve")

    @property
    def outside(self) -> Stage | None:
        """Identify released weights, by the name of their checkpoint."""
        if not self.checkpoint:
            return None
        return Stage("outside-clipseg", 1, {"name": self.checkpoint, "pixels": self.pixels})

    @property
    def source(self) -> tuple[str, str]:
        """Why its cells are not comparable, and what is said beside them."""
        if self.checkpoint:
            note = f"The released {self.checkpoint}, scored by us at its best threshold"
            return "no: another checkpoint", note
        note = "A small baseline of ours in its manner (`rlfseg.baselines.clipseg`)"
        return "no: ours, after its idea", note

    def model(self, run: Run, coder: LatentCodec) -> "Clipseg":
        """Return the model as it is before any training of ours.

        Raises:
            OSError: if there are no such released weights.
            ValueError: naming their folder, if a file in it is damaged or missing.
        """
        if self.checkpoint:
            where = located(self.checkpoint)
            with whole(where) if isinstance(where, Path) else nullcontext():  # the hub may lack it
                weights = CLIPSegForImageSegmentation.from_pretrained(where, use_safetensors=True)
                tokenizer = CLIPTokenizer.from_pretrained(where)
            return Clipseg(weights.float(), tokenizer, pixels=self.pixels, levels=IMAGENET)
        if self.clip is not None:
            clip, tokenizer = load_clip(trained_clip(self.clip, profile=run.profile))
            weights = seeded(self.seed, partial(clipseg_on, clip.cpu()))
            return Clipseg(weights, tokenizer, pixels=self.clip.pixels, levels=UNIT)
        weights = seeded(self.seed, partial(small_clipseg, self, coder.text_encoder))
        return Clipseg(weights, coder.tokenizer, pixels=self.pixels, levels=IMAGENET)


class Clipseg(nn.Module):
    """CLIPSegForImageSegmentation with gradients to whatever is not frozen, towers too."""

    def __init__(
        self,
        model: CLIPSegForImageSegmentation,
        tokenizer: CLIPTokenizer,
        *,
        pixels: int,
        levels: tuple[Levels, Levels],
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.pixels = pixels
        self.levels = levels

    def see(self, cache: LatentCache, items: np.ndarray) -> Image:
        """Return pictures as the model's processor prepares them."""
        numbers = cache.pack.item_image[items]
        images = np.stack([cache.pack.image(int(k)) for k in numbers])
        return prepared(images, self.pixels, *self.levels).to(self.model.device)

    def hear(self, cache: LatentCache, captions: Sequence[str]) -> Tensor:
        """Return token numbers [b, n], padded; what follows the end is not looked at."""
        tokens = self.tokenizer(
            list(captions),
            padding="max_length",
            max_length=self.model.config.text_config.max_position_embeddings,
            truncation=True,
            return_tensors="pt",
        )
        return tokens.input_ids.to(self.model.device)

    def forward(self, seen: Image, heard: Tensor) -> Tensor:
        """Return logits [b, pixels, pixels], as the class's own forward, but with gradients."""
        clip = self.model.clip
        states = clip.vision_model(
            seen, output_hidden_states=True, interpolate_pos_encoding=True
        ).hidden_states
        said = clip.text_projection(clip.text_model(heard).pooler_output)
        read = [states[k + 1] for k in self.model.config.extract_layers]
        return self.model.decoder(read, said).logits


def prepared(images: np.ndarray, pixels: int, mean: Levels, spread: Levels) -> Image:
    """Resize uint8 [b, H, W, 3] with antialiasing, and take away the channels' mean and spread."""
    unit = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    if unit.shape[-1] != pixels:
        size = (pixels, pixels)
        unit = functional.interpolate(unit, size, mode="bilinear", antialias=True)
    middle, scale = (torch.tensor(each)[:, None, None] for each in (mean, spread))
    return (unit - middle) / scale


def clipseg_on(clip: CLIPModel) -> CLIPSegForImageSegmentation:
    """Return a CLIPSeg on a CLIP, which is frozen, with an untrained decoder."""
    config = clip.config
    layers = int(config.vision_config.num_hidden_layers)
    model = CLIPSegForImageSegmentation(
        CLIPSegConfig(
            text_config=config.text_config.to_dict(),
            vision_config=config.vision_config.to_dict(),
            projection_dim=config.projection_dim,
            extract_layers=list(range(1, layers, 2)),
            **_DECODER,
        )
    )
    _as_pytorch_begins(model.decoder)
    model.clip.load_state_dict(clip.state_dict())
    model.clip.requires_grad_(False)
    return model


def _as_pytorch_begins(decoder: nn.Module) -> None:
    """Draw a decoder's first weights as PyTorch does by itself, as the authors' code does.

    transformers draws those of linear layers with a spread of 1: the first loss is then above 100,
    and on the way down the convolutions' units die, all of them.
    """
    for module in decoder.modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()


def small_clipseg(
    config: ClipsegConfig, text_encoder: CLIPTextModel
) -> CLIPSegForImageSegmentation:
    """Return an untrained CLIPSeg whose words' tower is the backbone's text encoder.

    What has no part in the logits is frozen: processes that train together wait for each gradient.
    """
    text = text_encoder.config
    same = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
        "hidden_act",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
    )
    model = CLIPSegForImageSegmentation(
        CLIPSegConfig(
            text_config={name: getattr(text, name) for name in same},
            vision_config={
                "hidden_size": config.width,
                "intermediate_size": 4 * config.width,
                "num_hidden_layers": config.layers,
                "num_attention_heads": 4,
                "image_size": config.pixels,
                "patch_size": config.patch,
            },
            projection_dim=text.hidden_size,
            extract_layers=list(range(1, config.layers, 2)),
            **_DECODER,
        )
    )
    _as_pytorch_begins(model.decoder)
    theirs = getattr(text_encoder, "text_model", text_encoder)  # one level deeper in older ones
    model.clip.text_model.load_state_dict(theirs.state_dict())
    vision = model.clip.vision_model
    model.clip.logit_scale.requires_grad_(False)
    unread = vision.encoder.layers[model.config.extract_layers[-1] + 1 :]
    for each in (model.clip.visual_projection, vision.post_layernorm, *unread):
        each.requires_grad_(False)
    return model
