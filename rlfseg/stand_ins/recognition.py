"""Whether a backbone draws what it is told: a CLIP is asked what it sees in what was drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from rlfseg.data.drawn.scene import COLOURS, HELD_OUT, SHAPES
from rlfseg.data.images import to_unit
from rlfseg.device import quick_dtype
from rlfseg.stand_ins.clip_batches import tokens
from rlfseg.stand_ins.clip_scores import Right
from rlfseg.stand_ins.mini_clip import heard, seen

#: Every pair of a colour and a shape that training draws.
PAIRS = tuple((c, s) for c in COLOURS for s in SHAPES if (c, s) not in HELD_OUT)


@dataclass(frozen=True)
class Recognised:
    """How often a CLIP finds the colour, the shape and both, of all pairs, in a picture."""

    colour: Right
    shape: Right
    both: Right


def asked_for(count: int) -> list[tuple[str, str]]:
    """Return so many pairs, each as often as any other or once more."""
    return [PAIRS[k % len(PAIRS)] for k in range(count)]


@torch.no_grad()
def draw(
    backbone: Path,
    texts: Sequence[str],
    *,
    pixels: int,
    device: torch.device,
    seed: int = 0,
    steps: int = 25,
    guidance: float = 3.0,
    batch: int = 50,
) -> np.ndarray:
    """Draw a picture for each text by DDIM with classifier-free guidance, uint8 [n, p, p, 3].

    Args:
        backbone: a folder in the hub's layout.
        texts: what is asked for.
        pixels: side of a picture.
        device: that draws, in its quick precision.
        seed: of the noise, which is drawn on the CPU.
        steps: of DDIM.
        guidance: scale of it.
        batch: pictures at once.
    """
    pipeline = StableDiffusionPipeline.from_pretrained(backbone, torch_dtype=torch.float32)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device)
    half, images = quick_dtype(device) == torch.bfloat16, []
    generator = torch.Generator().manual_seed(seed)
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        for first in range(0, len(texts), batch):
            drawn = pipeline(
                list(texts[first : first + batch]),
                height=pixels,
                width=pixels,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=generator,
                output_type="np",
            )
            images.append((drawn.images * 255).round().astype(np.uint8))
    return np.concatenate(images)


@torch.no_grad()
def recognised(
    clip: CLIPModel,
    tokenizer: CLIPTokenizer,
    images: np.ndarray,
    wanted: Sequence[tuple[str, str]],
) -> Recognised:
    """Ask a CLIP, in evaluation mode, which of all pairs each picture shows.

    Args:
        clip: on its own device.
        tokenizer: its own.
        images: uint8 [n, p, p, 3].
        wanted: colour and shape of each.
    """
    said = tokens(tokenizer, [f"{colour} {shape}" for colour, shape in PAIRS]).to(clip.device)
    pictures = to_unit(torch.from_numpy(images)).split(64)
    likeness: Tensor = torch.cat([seen(clip, some.to(clip.device)) for some in pictures])
    best = (likeness @ heard(clip, said).T).argmax(1).tolist()
    colour, shape = (
        np.array([PAIRS[k][part] == pair[part] for k, pair in zip(best, wanted, strict=True)])
        for part in (0, 1)
    )
    return Recognised(Right.of(colour), Right.of(shape), Right.of(colour & shape))
