"""The pipeline's networks as ONNX files, which a browser can run."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from transformers import CLIPTextModel

from rlfseg.method.flow import at_time
from rlfseg.method.types import Image, Latent, Score, Text
from rlfseg.models.latent_codec import LatentCodec
from rlfseg.models.unet import as_velocity
from rlfseg.stage import replaced

_LARGE = 256  # entries from which on a weight is kept in half precision


class _Words(nn.Module):
    """Token numbers [1, n] to the text encoder's states [1, n, d]."""

    def __init__(self, encoder: CLIPTextModel) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Tensor) -> Text:
        return self.encoder(tokens).last_hidden_state


class _Encode(nn.Module):
    """A picture in [-1, 1] to its latent, scaled."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, image: Image) -> Latent:
        return self.vae.encode(image).latent_dist.mode() * self.vae.config.scaling_factor


class _Field(nn.Module):
    """A picture's latent and a phrase's states to the velocity at t = 1."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, z1: Latent, c: Text) -> Latent:
        return as_velocity(self.unet)(z1, at_time(1.0, like=z1), c)


class _Decode(nn.Module):
    """A mask's latent, scaled, to scores [1, H, W]."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, z0: Latent) -> Score:
        return (self.vae.decode(z0 / self.vae.config.scaling_factor).sample.mean(1) + 1) / 2


#: The networks by the names of their files, and what each takes.
PARTS = {"words": ("tokens",), "encode": ("image",), "field": ("z1", "c"), "decode": ("z0",)}


def _networks(codec: LatentCodec, unet: UNet2DConditionModel) -> dict[str, nn.Module]:
    made = {
        "words": _Words(codec.text_encoder),
        "encode": _Encode(codec.vae),
        "field": _Field(unet),
        "decode": _Decode(codec.vae),
    }
    return {name: network.eval() for name, network in made.items()}


def _inputs(codec: LatentCodec, pixels: int, *, seed: int) -> dict[str, tuple[Tensor, ...]]:
    """Draw what each network takes, one sample each."""
    g = torch.Generator().manual_seed(seed)
    encoder = codec.text_encoder.config
    n, side = codec.length, pixels // codec.factor
    z = torch.randn(1, codec.vae.config.latent_channels, side, side, generator=g)
    return {
        "words": (torch.randint(encoder.vocab_size, (1, n), generator=g),),
        "encode": (torch.rand(1, 3, pixels, pixels, generator=g) * 2 - 1,),
        "field": (z, torch.randn(1, n, encoder.hidden_size, generator=g)),
        "decode": (z,),
    }


@torch.no_grad()
def export(codec: LatentCodec, unet: UNet2DConditionModel, folder: Path, *, pixels: int) -> None:
    """Write `words.onnx`, `encode.onnx`, `field.onnx` and `decode.onnx`, for one sample each.

    Weights are kept in half precision, and turned to float32 when they are loaded.

    Args:
        codec: the frozen parts, on the CPU.
        unet: the field, float32, on the CPU, without adapters beside its layers.
        folder: is made.
        pixels: side of the pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    inputs = _inputs(codec, pixels, seed=0)
    for name, network in _networks(codec, unet).items():
        with replaced(folder / f"{name}.onnx") as path, _quiet():
            torch.onnx.export(
                network,
                inputs[name],
                path,
                input_names=list(PARTS[name]),
                output_names=["out"],
                dynamo=True,
                external_data=False,
                verbose=False,
            )
            onnx.save(_halved(onnx.load(path)), path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep a page free of lines about operators."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """Keep a model's large weights in half precision; each is cast back before its use."""
    graph, casts = model.graph, []
    for weight in graph.initializer:
        name, large = weight.name, int(np.prod(weight.dims)) >= _LARGE
        if weight.data_type == TensorProto.FLOAT and large:
            values = numpy_helper.to_array(weight)
            if np.abs(values).max() > np.finfo(np.float16).max:
                continue  # no weight: what masks attention
            half = values.astype(np.float16)
            weight.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    for node in nodes:
        del node.metadata_props[:]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return model


@torch.no_grad()
def largest_differences(
    codec: LatentCodec, unet: UNet2DConditionModel, folder: Path, *, pixels: int, seed: int = 1
) -> dict[str, float]:
    """Return by how much each file's output differs from PyTorch's, on inputs of its own."""
    import onnxruntime

    found = {}
    inputs = _inputs(codec, pixels, seed=seed)
    for name, network in _networks(codec, unet).items():
        session = onnxruntime.InferenceSession(folder / f"{name}.onnx")
        given = {key: x.numpy() for key, x in zip(PARTS[name], inputs[name], strict=True)}
        (got,) = session.run(None, given)
        found[name] = float(np.abs(got - network(*inputs[name]).numpy()).max())
    return found
