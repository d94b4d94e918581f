"""What training holds at most, counted on tensors without storage: no weights are read."""

import json
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Literal

import psutil
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from transformers import CLIPTextConfig, CLIPTextModel

from rlfseg.config import MachineConfig, TrainConfig
from rlfseg.data.check import Line
from rlfseg.device import quick_dtype
from rlfseg.experiment import Run, backbone_folder, outside, ready_to_train
from rlfseg.models.latent_codec import LatentCodec
from rlfseg.models.unet import with_fast_attention
from rlfseg.preflight.plan import Plan, share, training
from rlfseg.stage import found
from rlfseg.stand_ins.full_size import UNET

_GB = 1e9
_MOMENTS = 8  # bytes of a trained parameter's two moments in AdamW
_FLOAT = 4


class Held(TorchDispatchMode):
    """Counts the bytes of what is made under it for as long as it lives; `most` is their peak.

    What is `there` already is not counted, nor views of it.
    """

    def __init__(self, there: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._there = [tensor.untyped_storage() for tensor in there]
        self._known = {id(storage) for storage in self._there}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation and take note of the storages that it gives back."""
        out = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._note, out)
        return out

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def lines(plan: Plan) -> Iterator[Line]:
    """Set free memory of the device that trains against what each kind of training needs."""
    gpu = torch.cuda.is_available()
    if gpu:
        free, what = torch.cuda.mem_get_info()[0], "GPU memory"
    else:
        free, what = psutil.virtual_memory().available, "memory"
    for kind, run in largest(plan).items():
        need, samples = needed(run, gpu=gpu), share(run)
        said, where = f"{free / _GB:.1f} GB free", f"{what}: {kind}"
        wanted = f"about {need / _GB:.1f} GB for {samples} samples at a time"
        if free >= need:
            yield Line("ok", where, said, wanted)
            continue
        advice = (
            "Give `machine: {accumulate: 2}` or more, `machine: {recompute: true}`, which takes a "
            "third more time, or more processes."
        )
        yield Line("problem", where, said, wanted, advice=advice)


def largest(plan: Plan) -> dict[str, Run]:
    """Return the run of each kind of training that needs most; the default run if none is due.

    All on the profile's own backbone: another recipe's would have to be trained first.
    """
    runs = [run for work in plan.works for run in work.runs] or [plan.run]
    ranked = sorted(runs, key=lambda run: (share(run), run.train.rank))
    return {training(run): replace(run, backbone=plan.run.backbone) for run in ranked}


def needed(run: Run, *, gpu: bool) -> int:
    """Return the bytes that a run's training needs on a GPU; without one, in all its processes.

    A step is run forward and backward on tensors without storage, by the same attention and in the
    same precisions, and what lives at once is counted; so is the encoding of the next batch, which
    the first epoch does meanwhile. To that come weights (autoencoder and text encoder too), the
    optimiser's moments, and where processes exchange gradients a second copy of these. What CUDA,
    its libraries' workspaces and fragmentation take is not in it.
    """
    (every, trained), codec, several = parameters(run), _codec(run), run.machine.processes
    every += sum(p.numel() for part in (codec.vae, codec.text_encoder) for p in part.parameters())
    kept = _FLOAT * every + _MOMENTS * trained + _FLOAT * trained * (several > 1)
    unet, side = _without_storage(_unet_config(run), run.train, run.machine), run.data.pixels
    both = "two labels" in training(run)
    step = held(unet, samples=share(run), side=side // codec.factor, gpu=gpu, both=both)
    total = kept + step + encoded(codec, pictures=max(1, run.train.batch // several), side=side)
    return total if gpu else total * several


def held(
    unet: UNet2DConditionModel, *, samples: int, side: int, gpu: bool, both: bool = False
) -> int:
    """Return the most bytes that a step's activations and gradients take at once.

    Args:
        unet: on the meta device; it is left on fake tensors.
        samples: that are trained at once.
        side: of the latents.
        gpu: whether norms are taken in float32, as autocast does there.
        both: whether two labels of each are scored before, without gradient.
    """
    half = gpu or quick_dtype("cpu") == torch.bfloat16
    width = int(unet.config.cross_attention_dim)
    with FakeTensorMode():
        _fake(unet)
        for module in unet.modules():
            if gpu and isinstance(module, nn.GroupNorm | nn.LayerNorm):
                module.register_forward_pre_hook(lambda _, given: (given[0].float(),))
        unet.train()

        def predicted(count: int) -> Tensor:
            z, c = torch.empty(count, 4, side, side), torch.empty(count, 77, width)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                return unet(z, torch.ones(count), c).sample.float()

        with Held(unet.parameters()) as counted:
            if both:
                with torch.no_grad():
                    predicted(2 * samples)
            predicted(samples).square().mean().backward()
    return counted.most


def encoded(codec: LatentCodec, *, pictures: int, side: int) -> int:
    """Return the most bytes that it takes at once to encode some pictures.

    Args:
        codec: on the meta device; its autoencoder is left on fake tensors.
        pictures: as many as a process trains in a step.
        side: of the pictures.
    """
    with FakeTensorMode():
        _fake(codec.vae)
        with Held(codec.vae.parameters()) as counted:
            codec.encode(torch.empty(pictures, 3, side, side))
    return counted.most


def _fake(model: nn.Module) -> None:
    """Put fake tensors in the place of a model's parameters."""
    for module in model.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            fake = nn.Parameter(torch.empty(p.shape), requires_grad=p.requires_grad)
            setattr(module, name, fake)


def parameters(run: Run) -> tuple[int, int]:
    """Return how many parameters the run's UNet has, adapters included, and how many it trains.

    A backbone that is not there is taken for one of Stable Diffusion 1.5's size, ours for nothing.
    """
    name = run.backbone.name
    if name == "mini" and found(run.backbone_stage, profile=run.profile) is None:
        return 0, 0
    there = name == "mini" or outside(name) is not None
    config = json.dumps(_unet_config(run) if there else UNET, default=str)
    return _sizes(config, run.train.rank, run.train.targets)


@cache
def _sizes(config: str, rank: int, targets: Literal["attention", "everything"]) -> tuple[int, int]:
    train = TrainConfig(steps=1, rank=rank, targets=targets)
    unet = _without_storage(json.loads(config), train, MachineConfig())
    sizes = [(p.numel(), p.requires_grad) for p in unet.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, free in sizes if free)


def _unet_config(run: Run) -> dict[str, Any]:
    return dict(UNet2DConditionModel.load_config(backbone_folder(run), subfolder="unet"))


def _without_storage(
    config: Mapping[str, Any], train: TrainConfig, machine: MachineConfig
) -> UNet2DConditionModel:
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(dict(config)).requires_grad_(False)
        return ready_to_train(with_fast_attention(unet), train, replace(machine, compile=""))


def _codec(run: Run) -> LatentCodec:
    """The run's codec without storage, and without its tokenizer."""
    folder = backbone_folder(run)
    text = CLIPTextConfig.from_pretrained(folder, subfolder="text_encoder")
    with init_empty_weights():
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(folder, subfolder="vae"))
        return LatentCodec(vae, None, CLIPTextModel(text))
