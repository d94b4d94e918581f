"""Whether a backbone draws what it is told: a CLIP is asked what it sees in what was drawn.

Beside it stand scenes of one thing as training draws them: what the CLIP makes of those is the most
that can be asked of the backbone.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from accelerate import PartialState
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from pydantic import Field, dataclasses
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from rlfseg.config import STRICT, Count, Positive, Seed
from rlfseg.data.drawn.scene import COLOURS, HELD_OUT, SHAPES, draw_scene
from rlfseg.data.images import to_unit
from rlfseg.device import quick_dtype
from rlfseg.models.weights import whole
from rlfseg.stage import Stage, made, readable
from rlfseg.stand_ins.backbone import BackboneConfig, backbone, backbone_stage
from rlfseg.stand_ins.clip_batches import tokens
from rlfseg.stand_ins.clip_scores import Right
from rlfseg.stand_ins.mini_clip import heard, load_clip, seen, trained_clip

#: Every pair of a colour and a shape that training draws.
PAIRS = tuple((c, s) for c in COLOURS for s in SHAPES if (c, s) not in HELD_OUT)


_COUNTED, _KEPT = "recognised.json", "drawn.png"
#: What pictures of a backbone's are called among what is recognised.
DRAWN = "drawn by the backbone"


@dataclass(frozen=True)
class Recognised:
    """How often a CLIP finds the colour, the shape and both, of all pairs, in a picture."""

    colour: Right
    shape: Right
    both: Right


@dataclasses.dataclass(frozen=True, config=STRICT)
class RecognitionConfig:
    """How a backbone is asked: so many `pictures`, by so many `steps` of DDIM with `guidance`.

    `kept` of them, evenly spaced, stay to be looked at.
    """

    UNHASHED: ClassVar = ("kept",)

    pictures: Count = 500
    steps: Count = 25
    guidance: Positive = 3.0
    seed: Seed = 0
    kept: Annotated[int, Field(ge=0)] = 0


def recognition_stage(config: RecognitionConfig, of: BackboneConfig) -> Stage:
    """Identify what the backbone's own CLIP recognises in what it draws."""
    return Stage.of("recognition", 1, config, {"backbone": backbone_stage(of)})


def recognition(
    config: RecognitionConfig, of: BackboneConfig, *, profile: str
) -> dict[str, Recognised]:
    """Return what a mini backbone's CLIP recognises, counted, or found so.

    Args:
        config: how it is asked.
        of: the backbone, of ours.
        profile: of both.

    Returns:
        For pictures `drawn by the backbone`, one thing asked for in each, and for `true pictures`
        of one thing.
    """
    path = _asked(config, of, profile) / _COUNTED
    with readable(path):
        rows = json.loads(path.read_text())
        return {
            name: Recognised(**{what: Right(**right) for what, right in row.items()})
            for name, row in rows.items()
        }


def kept_pictures(
    config: RecognitionConfig, of: BackboneConfig, *, profile: str
) -> list[tuple[str, np.ndarray]]:
    """Return what was asked for in each picture that was kept, and it, uint8 [p, p, 3].

    Arguments as for `recognition`.
    """
    path = _asked(config, of, profile) / _KEPT
    wanted = [asked_for(config.pictures)[k] for k in _spaced(config)]
    with readable(path), Image.open(path) as strip:
        pictures = np.split(np.asarray(strip.convert("RGB")), len(wanted), axis=1)
    return [(" ".join(pair), each) for pair, each in zip(wanted, pictures, strict=True)]


def _spaced(config: RecognitionConfig) -> list[int]:
    return [int(k) for k in np.linspace(0, config.pictures - 1, config.kept)]


def _asked(config: RecognitionConfig, of: BackboneConfig, profile: str) -> Path:
    """Find or make the folder of what a backbone was asked."""
    asked, device = of.clip, PartialState().device

    def fill(folder: Path) -> dict[str, float]:
        clip, tokenizer = load_clip(trained_clip(asked, profile=profile))
        wanted = asked_for(config.pictures)
        drawn = draw(
            backbone(of, profile=profile),
            [f"{colour} {shape}" for colour, shape in wanted],
            pixels=of.pixels,
            device=device,
            seed=config.seed,
            steps=config.steps,
            guidance=config.guidance,
        )
        scenes, shown = true_pictures(config.pictures, pixels=of.pixels, seed=config.seed)
        found = {
            DRAWN: recognised(clip, tokenizer, drawn, wanted),
            "true pictures": recognised(clip, tokenizer, scenes, shown),
        }
        counted = {name: asdict(each) for name, each in found.items()}
        (folder / _COUNTED).write_text(json.dumps(counted, indent=1) + "\n")
        if config.kept:
            strip = np.concatenate(drawn[_spaced(config)], axis=1)
            Image.fromarray(strip).save(folder / _KEPT)
        return {name: each.both.share for name, each in found.items()}

    return made(recognition_stage(config, of), fill, profile=profile)


def true_pictures(
    count: int, *, pixels: int, seed: int
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Draw scenes of one thing, uint8 [n, p, p, 3]; return the colour and the shape of each too."""
    rng = np.random.default_rng([seed, 7])
    scenes = [draw_scene(rng, pixels=pixels, held_out=False, count=(1, 1)) for _ in range(count)]
    shown = [(scene.things[0].colour, scene.things[0].shape) for scene in scenes]
    return np.stack([scene.image for scene in scenes]), shown


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

    Raises:
        ValueError: naming the backbone, if a file of it is damaged.
    """
    with whole(backbone):
        pipeline = StableDiffusionPipeline.from_pretrained(
            backbone, torch_dtype=torch.float32, use_safetensors=True
        )
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
