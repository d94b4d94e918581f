"""The UNet that becomes a velocity field: LoRA or full parameters, saving and loading."""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig, PeftModel
from peft.utils import get_peft_model_state_dict

from rlfseg.device import quick_dtype
from rlfseg.method.types import Latent, Text, Time, Velocity
from rlfseg.models.weights import load_part, save_model, seeded, whole
from rlfseg.stage import RECORD, readable

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
EVERYTHING = (*ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2")
_TRAIN_TIMESTEPS = 1000
_LORA = "pytorch_lora_weights.safetensors"  # diffusers' name
_FEW = 32  # latents of up to this side have short enough attention maps to be written out


def timestep(t: Time) -> Time:
    """Map flow time to the UNet's timesteps, for training and sampling alike: t -> 999 t.

    t = 1, the image, where sampling starts, is the timestep at which the backbone starts too.

    Deviation: the paper does not say how t enters the UNet.
    """
    return t * (_TRAIN_TIMESTEPS - 1)


def load_unet(backbone: str | Path) -> UNet2DConditionModel:
    """Load a backbone's UNet in float32, frozen; `backbone` as for `load_codec`."""
    return with_fast_attention(
        load_part(UNet2DConditionModel, backbone, "unet").requires_grad_(False)
    )


def fresh_unet(unet: UNet2DConditionModel, *, seed: int) -> UNet2DConditionModel:
    """Make the same network, float32, with random weights, as pretraining begins with."""
    return with_fast_attention(seeded(seed, lambda: UNet2DConditionModel.from_config(unet.config)))


def with_fast_attention(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Give a UNet for small latents plain attention on a CPU that has bfloat16; return the UNet.

    The fused attention that diffusers otherwise takes is slower there, its gradient above all
    (a step of the mini UNet takes 1.2 times as long); in float32 it is quicker. The values agree
    up to rounding.
    """
    side, half = unet.config.sample_size, quick_dtype("cpu") == torch.bfloat16
    if half and not torch.cuda.is_available() and isinstance(side, int) and side <= _FEW:
        unet.set_attn_processor(AttnProcessor())
    return unet


def add_lora(
    unet: UNet2DConditionModel, *, rank: int, targets: Sequence[str] = ATTENTION, seed: int
) -> None:
    """Add trainable low-rank adapters, alpha = rank, in place; at first they change nothing.

    Deviation: the paper names neither targets nor alpha; the attention projections are the common
    choice for SD1.5.

    Args:
        unet: frozen.
        rank: 64 in the paper.
        targets: ends of the names of the layers that get an adapter.
        seed: of the initial weights.

    Raises:
        ValueError: if the rank is not positive or a target matches no layer.
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    names = [name for name, _ in unet.named_modules()]
    for target in targets:
        if not any(name == target or name.endswith("." + target) for name in names):
            raise ValueError(f"LoRA target {target!r} matches no layer of the UNet")
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets))
    seeded(seed, lambda: unet.add_adapter(config))


def as_velocity(unet: UNet2DConditionModel) -> Velocity:
    """Return the field v(z, t, c) that a UNet computes; c is the text encoder's hidden state.

    What goes in is brought to the UNet's own precision, and what comes out is float32.
    """

    def v(z: Latent, t: Time, c: Text) -> Latent:
        dtype = unet.dtype
        return unet(z.to(dtype), timestep(t), c.to(dtype)).sample.float()

    return v


def merged(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Add a UNet's adapters, if it has any, to the weights of their layers, in place."""
    if getattr(unet, "peft_config", None):
        unet.fuse_lora()
        unet.unload_lora()
    return unet


def for_sampling(unet: UNet2DConditionModel, device: torch.device) -> UNet2DConditionModel:
    """Freeze a UNet, merge its adapters and put it on a device, in place; bfloat16 on a GPU.

    An adapter beside its layer costs the mini UNet a quarter of its time. Matrix products run in
    bfloat16 during training too; a CPU keeps float32: most have no quick arithmetic for less.
    """
    unet = merged(unet).requires_grad_(False).eval()
    return unet.to(device, torch.bfloat16 if device.type == "cuda" else torch.float32)


def save_trained(unet: UNet2DConditionModel, folder: Path) -> None:
    """Write what was trained: the adapter alone if there is one, else the whole UNet.

    Both are written in half precision, which moves the field by a ten-thousandth (mini). An
    adapter's file is the one that diffusers' `load_lora_weights` reads.
    """
    if getattr(unet, "peft_config", None):
        # peft's own names: diffusers reads them for every kind of layer
        state = {name: t.half() for name, t in get_peft_model_state_dict(unet).items()}
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=state)
    else:
        save_model(copy.deepcopy(unet).half(), folder / "unet")


def load_trained(backbone: str | Path, folder: str | Path) -> UNet2DConditionModel:
    """Load an adapter on top of the backbone it was trained on, or a whole UNet; frozen, eval.

    Args:
        backbone: as for `load_codec`.
        folder: what `save_trained` wrote, a LoRA folder of peft's (`adapter_config.json`), or the
            folder of a UNet itself (`config.json`); all as safetensors.

    Raises:
        FileNotFoundError: if the folder holds none of these.
        ValueError: if the adapter doesn't belong to this UNet, or a file of ours is damaged.
    """
    folder = Path(folder)
    if (folder / _LORA).is_file():
        unet = load_unet(backbone)
        with _as_ours(folder / _LORA), whole(folder / _LORA):
            unet.load_lora_adapter(folder, weight_name=_LORA, prefix="unet")
        if not getattr(unet, "peft_config", None):
            raise ValueError(f"{folder / _LORA} holds no adapter of a UNet")
    elif (folder / "adapter_model.safetensors").is_file():
        bare = load_unet(backbone)
        with whole(folder):
            unet = PeftModel.from_pretrained(bare, folder).merge_and_unload()
    elif (folder / "unet").is_dir():
        with _as_ours(folder / "unet"):
            unet = load_unet(folder)
    elif list(folder.glob("diffusion_pytorch_model*.safetensors")):
        unet = with_fast_attention(load_part(UNet2DConditionModel, folder.parent, folder.name))
    else:
        raise FileNotFoundError(
            f"{folder}: neither an adapter nor a UNet was saved here as safetensors"
        )
    return unet.requires_grad_(False).eval()


def _as_ours(path: Path) -> AbstractContextManager[None]:
    """Name a damaged file with what to delete, if it was made here and can be made again."""
    return readable(path) if (path.parent / RECORD).is_file() else nullcontext()
