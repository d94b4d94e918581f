"""The pipeline that people import: pictures and phrases in, masks out.

Annotations are no texts in this module: diffusers reads those of the constructor.
"""

import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, overload

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline, UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.utils import BaseOutput
from PIL.Image import Resampling
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from rlfseg.config import SamplerConfig, validated
from rlfseg.data.images import Given, paired, scaled, to_unit
from rlfseg.device import check_compiler
from rlfseg.method.sampling import sample
from rlfseg.method.types import Image, Latent, Score, Text, Time
from rlfseg.models.latent_codec import LatentCodec, load_codec
from rlfseg.models.unet import as_velocity, load_trained, load_unet, merged
from rlfseg.models.weights import whole, without_code

_log = logging.getLogger(__name__)
_PARTS = ("vae", "text_encoder", "tokenizer", "unet", "tiny_vae")
_SHRUNK = 64  # times, from which CUDA has no kernel that makes scores smaller without aliasing
_Pictures = Given | Sequence[Given]
_Phrases = str | Iterable[str] | Iterable[Iterable[str]]
_Plain = tuple[list[np.ndarray], list[np.ndarray], list[float]]


@dataclass
class SegmentationOutput(BaseOutput):
    """One entry for each picture and phrase, the phrases of a picture together.

    Attributes:
        masks: bool [H, W], at the picture's size.
        scores: float32 [H, W], about 0 on the background and 1 on what is meant, not clamped.
        gamma: by how much the step was lengthened; 0 for samplers that don't.
    """

    masks: list[np.ndarray]
    scores: list[np.ndarray]
    gamma: list[float]


class RLFSegPipeline(DiffusionPipeline, StableDiffusionLoraLoaderMixin):
    """Text-based segmentation by a rectified flow from a picture's latent to a mask's.

    The UNet must have been trained for it; `load_lora_weights` puts an adapter on Stable Diffusion
    1.5, `from_backbone` does all at once. Saved and loaded as any diffusers pipeline is.

    Args:
        vae: between pictures and latents.
        text_encoder: CLIP's.
        tokenizer: of the text encoder.
        unet: the velocity field.
        tiny_vae: decodes in the place of `vae` where `decoder="taesd"` is asked for (TAESD).
        threshold: of the scores, above which a pixel is in the mask.
        tol: the epsilon of Eqs. 6 and 9, in scaled latent units; it goes with the autoencoder.
    """

    _optional_components: ClassVar[list[str]] = ["tiny_vae"]
    model_cpu_offload_seq = "text_encoder->unet->vae"

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        tiny_vae: AutoencoderTiny | None = None,
        threshold: float = 0.5,
        tol: float = SamplerConfig.tol,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, tiny_vae=tiny_vae
        )
        self.register_to_config(threshold=threshold, tol=tol)
        self._kept_black: tuple[object, Latent] | None = None

    @classmethod
    def from_backbone(
        cls,
        backbone: str | Path,
        trained: str | Path | None = None,
        *,
        base: str | Path | None = None,
        device: torch.device | str = "cpu",
        fast: bool = False,
        threshold: float = 0.5,
        tol: float = SamplerConfig.tol,
    ) -> Self:
        """Put what was trained on its backbone; an adapter is merged into the weights.

        Args:
            backbone: a folder in the diffusers layout, or a hub id of one.
            trained: the folder with the adapter or the UNet; None takes the backbone's own UNet.
            base: where the UNet lies that an adapter was trained on, if not in the backbone.
            device: where it works.
            fast: bfloat16, channels last, and compiled: the first call takes minutes.
            threshold: as for the class.
            tol: as for the class.

        Raises:
            FileNotFoundError: if a folder is not there, or holds nothing that was trained.
            ValueError: if it is to be fast and nothing can be compiled here.
        """
        codec = load_codec(backbone)
        unet = load_trained(base or backbone, trained) if trained else load_unet(backbone)
        parts = (codec.vae, codec.text_encoder, codec.tokenizer, merged(unet).eval())
        made = cls(*parts, threshold=threshold, tol=tol).to(device)
        if fast:
            check_compiler()
            made.to(torch.bfloat16)
            for part in (made.unet, made.vae):
                part.to(memory_format=torch.channels_last)
            for part in (made.unet, made.vae.encoder, made.vae.decoder):
                part.compile()
        return made

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **more: object) -> Self:
        """Load a saved pipeline as any of diffusers: in float32 and safetensors unless told else.

        Raises:
            ValueError: if a file of it is damaged, a pointer of git-lfs, a pickle, or code.
        """
        without_code(Path(pretrained_model_name_or_path), _PARTS)
        given = {"use_safetensors": True, **more}
        if not {"dtype", "torch_dtype"} & set(more):
            given["torch_dtype"] = torch.float32
        with whole(pretrained_model_name_or_path):
            return super().from_pretrained(pretrained_model_name_or_path, **given)

    @property
    def components(self) -> dict[str, object]:
        """Its parts, and the numbers that go with them: `RLFSegPipeline(**pipe.components)`."""
        return {**super().components, "threshold": self.config.threshold, "tol": self.config.tol}

    @property
    def side(self) -> int:
        """Side in pixels at which pictures go through the model.

        It is the UNet's `sample_size`, or where that isn't said the autoencoder's.

        Raises:
            ValueError: if it is not the same in both directions.
        """
        size = self.unet.config.sample_size
        if size is None:
            return int(self.vae.config.sample_size)
        sides = {size} if isinstance(size, int) else set(size)
        if len(sides) != 1:
            raise ValueError(f"the UNet's sample_size is {size}: pictures must be squares here")
        return int(sides.pop()) * self._parts().factor

    @overload
    def __call__(
        self, image: _Pictures, phrases: _Phrases, *, return_dict: Literal[False], **options: Any
    ) -> _Plain: ...

    @overload
    def __call__(
        self, image: _Pictures, phrases: _Phrases, **options: Any
    ) -> SegmentationOutput: ...

    @torch.no_grad()  # type: ignore[misc]  # the two above leave the options open
    def __call__(
        self,
        image: _Pictures,
        phrases: _Phrases,
        *,
        sampler: str = "aos",
        num_steps: int = 5,
        tol: float | None = None,
        threshold: float | None = None,
        decoder: str = "vae",
        batch_size: int = 8,
        return_dict: bool = True,
    ) -> SegmentationOutput | _Plain:
        """Segment what the phrases name; each picture is encoded once.

        Pictures of any size and aspect are scaled to `side` x `side`, as in training, and scores
        are scaled back by linear interpolation.

        Args:
            image: one picture (see `as_rgb`) or its file, or several.
            phrases: for one picture, a phrase or several; for several, one or several for each, or
                one for all.
            sampler: `aos`, `one`, `hss`, `steps` or `aos_signed`.
            num_steps: of `steps`, and of the reference in `hss`.
            tol: in the place of the pipeline's own.
            threshold: in the place of the pipeline's own.
            decoder: `vae`, or `taesd`, which is quicker, where the pipeline has one.
            batch_size: phrases, or pictures to be encoded, at a time.
            return_dict: give the output by name; else a tuple, as diffusers' pipelines do.

        Returns:
            Masks, scores and gamma, one for each picture and phrase.

        Raises:
            ValueError: naming the picture or phrase that can't be taken, or the unknown option; or
                the part of the model whose values aren't finite even in float32.
            OSError: if a picture's file can't be read.
        """
        asked = {
            "name": sampler,
            "steps": num_steps,
            "tol": self.config.tol if tol is None else tol,
        }
        config = validated(SamplerConfig, asked, where="sampler")
        level = self.config.threshold if threshold is None else threshold
        if not isinstance(level, int | float) or not math.isfinite(level):
            raise ValueError(f"threshold must be a number, as in 0.5, got {level!r}")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number from 1 on, got {batch_size!r}")
        if decoder not in ("vae", "taesd") or (decoder == "taesd" and self.tiny_vae is None):
            known = "'vae'" + (" or 'taesd'" if self.tiny_vae is not None else "")
            raise ValueError(f"decoder must be {known} here, got {decoder!r}")
        pictures, pairs = paired(image, phrases)
        self._warn_of_cuts([phrase for _, phrase in pairs])
        codec = self.codec  # looked up once: diffusers asks every part for its device
        z1 = torch.cat(list(self._encoded(codec, pictures, batch_size)))
        zb = self._black(codec)
        out = SegmentationOutput(masks=[], scores=[], gamma=[])
        with self.progress_bar(total=len(pairs)) as bar:
            for start in range(0, len(pairs), batch_size):
                some = pairs[start : start + batch_size]
                c = self._text(codec, [phrase for _, phrase in some])
                at = torch.tensor([number for number, _ in some], device=z1.device)
                sampled = sample(config, self.velocity, z1=z1[at], c=c, zb=zb)
                scores = self._scores(codec, sampled.z0, decoder)
                for (number, _), small in zip(some, scores, strict=True):
                    size = pictures[number].shape[:2]
                    if min(size) < self.side / _SHRUNK:
                        small = small.cpu()
                    full = F.interpolate(small[None, None], size, mode="bilinear", antialias=True)
                    out.scores.append(full[0, 0].cpu().numpy())
                    out.masks.append(out.scores[-1] > level)
                out.gamma += sampled.gamma.tolist()
                bar.update(len(some))
        return out if return_dict else out.to_tuple()

    def save_pretrained(self, save_directory: str | Path, **more: object) -> None:
        """Save the parts as any diffusers pipeline does, and a model card, `README.md`.

        Adapters are merged into the weights that are written, at the strength that they have.
        """
        kept = self.unet
        try:
            if getattr(kept, "peft_config", None):
                self.register_modules(unet=merged(copy.deepcopy(kept)))
            super().save_pretrained(save_directory, **more)
        finally:
            self.register_modules(unet=kept)
        card = Path(save_directory) / "README.md"
        card.write_text(_CARD.format(side=self.side, threshold=self.config.threshold))

    @property
    def codec(self) -> LatentCodec:
        """Its autoencoder and text encoder, as the rest of the package takes them."""
        return replace(self._parts(), place=self._execution_device)

    def _parts(self) -> LatentCodec:
        return LatentCodec(self.vae, self.tokenizer, self.text_encoder)

    def velocity(self, z: Latent, t: Time, c: Text) -> Latent:
        """Return the field v(z, t, c), in float32 whatever the UNet's own precision."""
        return self._sound("the UNet", self.unet, lambda unet: as_velocity(unet)(z, t, c))

    def _sound(
        self, name: str, part: nn.Module, compute: Callable[[nn.Module], torch.Tensor]
    ) -> torch.Tensor:
        """Compute with a part; again in float32 if what comes out isn't finite."""
        found = compute(part)
        if torch.isfinite(found).all():
            return found
        if part.dtype != torch.float32:
            _log.warning("%s overflowed in %s: computing again in float32", name, part.dtype)
            found = compute(copy.deepcopy(part).float())
            if torch.isfinite(found).all():
                return found
        raise ValueError(f"{name} gives values that are not finite: are its weights whole?")

    def _text(self, codec: LatentCodec, phrases: Sequence[str]) -> Text:
        def states(encoder: nn.Module) -> Text:
            return replace(codec, text_encoder=encoder).text(phrases)

        return self._sound("the text encoder", self.text_encoder, states)

    def _encode(self, codec: LatentCodec, unit: Image) -> Latent:
        def latents(vae: nn.Module) -> Latent:
            return replace(codec, vae=vae).encode(unit)

        return self._sound("the encoder", self.vae, latents)

    def _black(self, codec: LatentCodec) -> Latent:
        """Encode a black picture, once for an autoencoder as it is."""
        weight = next(self.vae.parameters())
        version = None if weight.is_inference() else weight._version  # those have none
        of = (self.vae, self.side, weight.device, weight.dtype, version)
        if self._kept_black is None or self._kept_black[0] != of:
            black = torch.full((1, 3, self.side, self.side), -1.0)
            self._kept_black = of, self._encode(codec, black)
        return self._kept_black[1]

    def _encoded(
        self, codec: LatentCodec, pictures: Sequence[np.ndarray], batch: int
    ) -> Iterator[Latent]:
        side = self.side
        for start in range(0, len(pictures), batch):
            some = pictures[start : start + batch]
            small = [scaled(each, side, Resampling.BILINEAR) for each in some]
            yield self._encode(codec, to_unit(torch.from_numpy(np.stack(small))))

    def _scores(self, codec: LatentCodec, z0: Latent, decoder: str) -> Score:
        if decoder == "taesd":

            def quick(tiny: nn.Module) -> Score:
                return replace(codec, tiny=tiny).decode(z0)

            return self._sound("the tiny decoder", self.tiny_vae, quick)

        def scores(vae: nn.Module) -> Score:
            return replace(codec, vae=vae).decode(z0)

        return self._sound("the decoder", self.vae, scores)

    def _warn_of_cuts(self, phrases: Sequence[str]) -> None:
        most = self._parts().length
        for phrase in dict.fromkeys(phrases):
            tokens = self.tokenizer(phrase).input_ids
            if len(tokens) > most:
                lost = self.tokenizer.decode(tokens[most - 1 : -1])
                _log.warning("a phrase has more than %d tokens; this was cut: %r", most, lost)


# DiffusionPipeline.from_pretrained looks a saved pipeline's class up by name, there.
diffusers.RLFSegPipeline = RLFSegPipeline

_CARD = """---
library_name: diffusers
pipeline_tag: image-segmentation
---
# Text-based segmentation by a rectified flow

A picture and a phrase in, a mask out, in one step of a rectified flow between latents.

    from rlfseg import RLFSegPipeline
    from PIL import Image

    pipe = RLFSegPipeline.from_pretrained("this folder")
    out = pipe(Image.open("photo.jpg"), ["short hair", "tree"])
    out.masks[0], out.scores[0]

Pictures are scaled to {side} x {side}; scores above {threshold} are in the mask. The scores are no
probabilities: choose the threshold on data of your own. What the weights were trained on, and how
good they are, stands in the record `stage.json` of the training run they come from.
"""
