"""A baseline after SemFlow: a flow without words, from a picture to a coloured map of its classes.

Source: C. Wang et al., "SemFlow: binding semantic segmentation and image synthesis via rectified
flow" (NeurIPS 2024). Left out of it: the way back, from maps to pictures, and with it the
perturbation of the colours that it is trained with; its training length and resolution. Changed:
which colours stand for the classes, and what they are compared with (`spread`, `calibrated`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from accelerate import PartialState
from safetensors.torch import load_file, save_file

from rlfseg.baselines.palette import Palette, calibrated, spread
from rlfseg.book.paper import Result
from rlfseg.config import OptimiserConfig, SamplerConfig
from rlfseg.evaluation.closed_set import confusions, true_classes
from rlfseg.evaluation.confusion import Confusion, miou_interval, pooled
from rlfseg.evaluation.predict import spaced
from rlfseg.experiment.description import build
from rlfseg.experiment.identity import Identity
from rlfseg.experiment.setting import Setting
from rlfseg.method.sampling import sample
from rlfseg.method.types import Velocity
from rlfseg.models.latent_cache import LatentCache
from rlfseg.models.unet import as_velocity, for_sampling, load_trained, load_unet, save_trained
from rlfseg.stage import Stage, run
from rlfseg.training.flow_batch import FlowBatch, batch_items, draw_times
from rlfseg.training.flow_objective import RectifiedFlowObjective
from rlfseg.training.loop import fit_in_stage

_COUNTED, _PALETTE = "confusions.npz", "palette.safetensors"
_OF_SCORING = ("euler", "scenes")  # the second is in the data's identity
_T = TypeVar("_T", bound=Identity)
_CALIBRATED = 64  # training pictures that the returned colours are measured on


@dataclass(frozen=True)
class SemflowConfig:
    """Settings of the baseline.

    Attributes:
        steps: that all parameters of the backbone's UNet are trained for.
        scenes: that are drawn to train on, where the data are drawn ones.
        euler: steps of a sampled map.
        seed: of every batch.
    """

    steps: int
    batch: int = 16
    lr: float = 1e-3
    scenes: int = 1
    euler: int = 25
    seed: int = 42


def semflow_batch(
    cache: LatentCache,
    palette: Palette,
    names: Sequence[str],
    step: int,
    *,
    size: int,
    seed: int,
    share: tuple[int, int] = (0, 1),
) -> FlowBatch:
    """One process's share of a step's batch: pictures and their painted maps, and no words.

    Args:
        cache: of the packed training split, whose captions are `names`.
        palette: that the maps are painted with.
        names: the closed set, in the order of the classes.
        step: number from 1.
        size: global batch size.
        seed: of the run.
        share: this process's number and how many there are.
    """
    rank, world = share
    pack, codec = cache.pack, cache.codec
    chosen = batch_items(len(pack.image_ids), size, seed=seed, step=step)[rank::world]
    ids = [pack.image_ids[k] for k in chosen]
    maps = np.stack([true_classes(pack, image_id, names) for image_id in ids])
    return FlowBatch(
        z1=cache.z1([pack.find(image_id, pack.captions(image_id)[0]) for image_id in ids]),
        z0=codec.encode(palette.paint(maps)),
        c=codec.text([""]).expand(len(ids), -1, -1),
        t=draw_times(size, kind="uniform", seed=seed, step=step)[rank::world],
        names=tuple(f"image {image_id}" for image_id in ids),
    )


def named_by_colour(
    v: Velocity, cache: LatentCache, palette: Palette, images: Sequence[str], *, euler: int
) -> Iterator[np.ndarray]:
    """Samples a coloured map for each picture and gives every pixel the nearest colour's class.

    Yields:
        For each picture, class numbers (H, W), int64.
    """
    codec, pack, way = cache.codec, cache.pack, SamplerConfig("steps", steps=euler)
    c, zb = codec.text([""]), codec.black(cache.pixels)
    for image_id in images:
        z1 = cache.z1([pack.find(image_id, pack.captions(image_id)[0])])
        z0 = sample(way, v, z1=z1, c=c, zb=zb).z0
        yield palette.nearest(codec.decode_image(z0))[0]


def train_stage(of: Identity, choice: Mapping[str, Any]) -> Stage:
    """Identifies the trained baseline; `of` describes the closed set's data."""
    config = build(SemflowConfig, "semflow", choice)
    kept = {name: value for name, value in asdict(config).items() if name not in _OF_SCORING}
    learned = _to_learn(of, config)
    inputs = {"backbone": of.backbone_stage, "data": learned.source_stage}
    return Stage("semflow", 1, kept, inputs)


def scores_stage(of: Identity, choice: Mapping[str, Any], *, images: int) -> Stage:
    """Identifies its confusions on evenly spaced pictures of the validation split."""
    config = build(SemflowConfig, "semflow", choice)
    inputs = {"training": train_stage(of, choice), "data": of.data_stage}
    return Stage("scores-semflow", 1, {"images": images, "euler": config.euler}, inputs)


def _to_learn(of: _T, config: SemflowConfig) -> _T:
    """The same with as many scenes as training takes; an outside data set as it is."""
    if of.data.source != "mini":
        return of
    return replace(of, data=replace(of.data, train=config.scenes, val=1))


def trained(setting: Setting, choice: Mapping[str, Any], names: Sequence[str]) -> Path:
    """The folder of the trained UNet and its palette; trained, or found so."""
    config = build(SemflowConfig, "semflow", choice)

    def make(folder: Path) -> dict[str, Any]:
        codec, state = setting.codec(), PartialState()
        cache = _to_learn(setting, config).cache("train", codec)
        some = spaced(len(cache.pack.image_ids), _CALIBRATED)
        ids = [cache.pack.image_ids[k] for k in some]
        maps = np.stack([true_classes(cache.pack, image_id, names) for image_id in ids])
        palette = calibrated(codec, spread(codec, len(names) + 1), maps)
        unet = load_unet(setting.backbone_location()).requires_grad_(True)

        def save() -> None:
            save_trained(unet, folder)
            save_file(vars(palette), folder / _PALETTE)

        batch = partial(
            semflow_batch,
            cache,
            palette,
            names,
            size=config.batch,
            seed=config.seed,
            share=(state.process_index, state.num_processes),
        )
        return fit_in_stage(
            RectifiedFlowObjective(unet),
            batch,
            OptimiserConfig.from_scratch(steps=config.steps, lr=config.lr, warmup=100),
            folder,
            title="training semflow",
            save=save,
        )

    return run(train_stage(setting, choice), make, profile=setting.profile)


@dataclass(frozen=True)
class Named:
    """Confusions of pictures, one each: of the baseline, and of the true maps come back.

    The second is what the autoencoder alone lets through.
    """

    given: list[Confusion]
    carried: list[Confusion]


def named(
    setting: Setting, choice: Mapping[str, Any], names: Sequence[str], *, images: int
) -> Named:
    """Scores the baseline in the closed set, or finds it scored.

    Args:
        setting: of the closed set's data.
        choice: fields of `SemflowConfig`.
        names: the closed set, in the order of the classes.
        images: how many pictures of the validation split, evenly spaced.
    """
    config = build(SemflowConfig, "semflow", choice)

    def make(folder: Path) -> None:
        first, codec = trained(setting, choice, names), setting.codec()
        unet = for_sampling(load_trained(setting.backbone_location(), first), codec.device)
        palette, cache = Palette(**load_file(first / _PALETTE)), setting.cache("val", codec)
        ids = cache.pack.image_ids
        chosen = [ids[k] for k in spaced(len(ids), images)]
        found = named_by_colour(as_velocity(unet), cache, palette, chosen, euler=config.euler)
        true = (true_classes(cache.pack, image_id, names)[None] for image_id in chosen)
        coded = (codec.encode(palette.paint(classes)) for classes in true)
        back = (palette.nearest(codec.decode_image(z0))[0] for z0 in coded)
        given, carried = (
            np.stack([c.pixels for c in confusions(maps, cache.pack, chosen, names)])
            for maps in (found, back)
        )
        np.savez_compressed(folder / _COUNTED, given=given, carried=carried)

    stage = scores_stage(setting, choice, images=images)
    with np.load(run(stage, make, profile=setting.profile) / _COUNTED) as kept:
        return Named(*([Confusion(p) for p in kept[kind]] for kind in ("given", "carried")))


def semflow_cell(pictures: Sequence[Confusion]) -> Result:
    """The baseline's cell of Table 3, with a 95% interval over pictures, marked as ours.

    It is never comparable with the paper's: it is trained far shorter, and on less.
    """
    return Result.percent(
        pooled(pictures).miou(),
        miou_interval(pictures, seed=0),
        protocol="Closed set: every pixel gets one of all names; mIoU of the confusion matrix",
        comparable="no: ours, after its idea",
        data=f"{len(pictures)} pictures of val",
        note="A small baseline of ours in its manner (`rlfseg.baselines.semflow`)",
    )
