"""The models that a run starts from, found or made: backbone, SAM, tiny decoder."""

import os
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState
from diffusers import AutoencoderTiny
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from rlfseg.device import OLD_DRIVER, gpus, quick_dtype
from rlfseg.experiment.run import Run
from rlfseg.models.latent_codec import LatentCodec, load_codec
from rlfseg.models.sam import PromptedSam, load_sam, random_sam, save_sam
from rlfseg.processes import by_first, launch_for
from rlfseg.stage import repository
from rlfseg.stand_ins.backbone import RANDOM, backbone, backbone_parts
from rlfseg.stand_ins.full_size import random_stable_diffusion
from rlfseg.stand_ins.mini_sam import RANDOM as RANDOM_SAM
from rlfseg.stand_ins.mini_sam import trained_sam
from rlfseg.stand_ins.tiny_decoder import TinyConfig, tiny_decoder

_LARGE = 512  # pixels of a side, from which a CPU is too slow


def located(name: str) -> Path | str:
    """Return where outside weights lie: a folder from the repository's root or in its `weights/`.

    A hub id for which there is no such folder is left to the hub's client.
    """
    for folder in (repository() / name, repository() / "weights" / name):
        if folder.is_dir():
            return folder
    return name


def outside(name: str) -> Path | None:
    """Return where outside weights lie, here or in the hub client's cache; None if they don't."""
    folder = located(name)
    if isinstance(folder, Path):
        return folder
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def backbone_folder(run: Run) -> Path | str:
    """Return the backbone's folder, trained or built if it is ours and missing, or its hub id.

    Its UNet is trained by `machine.processes` processes, or, in a process of a launch, by those;
    the autoencoder and the CLIP by one.
    """
    if run.backbone.name == "mini":
        launch_for(
            run.backbone_stage,
            backbone_folder,
            run,
            processes=run.machine.processes,
            profile=run.profile,
            before=lambda: backbone_parts(run.backbone, profile=run.profile),
        )
        return backbone(run.backbone, profile=run.profile)
    if run.backbone.name == RANDOM:
        return random_stable_diffusion(profile=run.profile)
    return located(run.backbone.name)


def check_gpus(run: Run, processes: int) -> None:
    """Refuse to spend hours of a CPU on what is meant for GPUs.

    Args:
        run: whose work it is.
        processes: that will share it on this machine, unless a launcher has started them already.

    Raises:
        ValueError: if data are outside ones of Stable Diffusion's size, and torch can use fewer
            GPUs here than there are processes on this machine.
    """
    wanted = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    there = gpus()
    if run.photographed and run.data.pixels >= _LARGE and there < wanted:
        raise ValueError(
            f"{wanted} processes want a GPU each, and torch {torch.__version__} can use {there} "
            "here: ask for more GPUs, or give fewer in machine: {processes: ...}"
            + ("; " + OLD_DRIVER if torch.cuda.device_count() > there else "")
        )


def ready(run: Run) -> None:
    """Train what of ours a run starts from, before it is shared by several processes."""
    backbone_folder(run)
    if run.uses_refined and run.sam.kind == "mini":
        trained_sam(run.sam, profile=run.profile)


def codec(run: Run) -> LatentCodec:
    """Return autoencoder and text encoder on this machine's device."""
    return codec_of(backbone_folder(run))


def codec_of(backbone: Path | str) -> LatentCodec:
    """Return a backbone's autoencoder and text encoder on this machine's device."""
    loaded = load_codec(backbone, device=PartialState().device)
    return replace(loaded, decoding=quick_dtype(loaded.device))


def predictor(run: Run) -> PromptedSam:
    """Return the SAM that refines labels, on this machine's device; trained if ours is missing."""
    if run.sam.kind == "mini":
        checkpoint = trained_sam(run.sam, profile=run.profile)
    elif run.sam.checkpoint == RANDOM_SAM:

        def save(folder: Path) -> None:
            save_sam(random_sam(run.sam.kind), folder / "sam.safetensors")

        checkpoint = by_first(run.sam_stage, save, profile=run.profile) / "sam.safetensors"
    else:
        checkpoint = repository() / run.sam.checkpoint
    return load_sam(run.sam.kind, checkpoint, device=PartialState().device)


def loaded_tiny_decoder(run: Run, config: TinyConfig) -> AutoencoderTiny | None:
    """Return a decoder of TAESD's class on this machine's device; trained if ours is missing.

    An outside one that is missing is said and left out.
    """
    mini = config.name == "mini"
    where = (
        tiny_decoder(config, run.backbone, profile=run.profile) if mini else located(config.name)
    )
    try:
        tiny = AutoencoderTiny.from_pretrained(
            where, torch_dtype=torch.float32, use_safetensors=True
        )
    except OSError as error:
        if mini:
            raise
        print(f"{config.name} is left out: {' '.join(str(error).split())[:200]}")
        return None
    return tiny.requires_grad_(False).eval().to(PartialState().device)
