"""The phrase-by-phrase baselines as stages: identified, trained, scored, or found so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

from rlfseg.baselines.clipseg import Clipseg, ClipsegConfig, small_clipseg
from rlfseg.baselines.ldznet import Ldznet, LdznetConfig
from rlfseg.baselines.segmenter import MaskObjective, evaluate_segmenter, phrase_batch
from rlfseg.baselines.unethead import UnetHead, UnetHeadConfig
from rlfseg.book.paper import Result, measured
from rlfseg.config import OptimiserConfig
from rlfseg.evaluation.counts import Counts
from rlfseg.evaluation.predict import spaced
from rlfseg.experiment.description import build
from rlfseg.experiment.identity import Identity
from rlfseg.experiment.setting import Setting
from rlfseg.models.latent_codec import LatentCodec
from rlfseg.models.unet import load_unet
from rlfseg.stage import Stage, run
from rlfseg.stand_ins.backbone import seeded
from rlfseg.training.loop import fit_in_stage

Config = ClipsegConfig | LdznetConfig | UnetHeadConfig
Model = Clipseg | Ldznet | UnetHead
_KINDS: dict[str, type[ClipsegConfig] | type[LdznetConfig] | type[UnetHeadConfig]] = {
    "clipseg": ClipsegConfig,
    "ldznet": LdznetConfig,
    "unethead": UnetHeadConfig,
}
_WEIGHTS = "weights.safetensors"


def phrase_config(choice: Mapping[str, Any]) -> Config:
    """A baseline's settings, from a chapter's parameter: `kind` and that kind's fields.

    Raises:
        ValueError: naming a kind or a field that is unknown.
    """
    kind = choice.get("kind")
    if kind not in _KINDS:
        raise ValueError(f"baselines: kind must be one of {', '.join(_KINDS)}, got {kind!r}")
    rest = {name: value for name, value in choice.items() if name != "kind"}
    return build(_KINDS[kind], f"baselines: {kind}", rest)


def train_stage(of: Identity, choice: Mapping[str, Any]) -> Stage:
    """Identifies a trained baseline, or an outside one by the name of its checkpoint."""
    config = phrase_config(choice)
    if isinstance(config, ClipsegConfig) and config.checkpoint:
        return Stage("outside-clipseg", 1, {"name": config.checkpoint, "pixels": config.pixels})
    inputs = {"backbone": of.backbone_stage, "data": of.source_stage}
    return Stage(str(choice["kind"]), 1, asdict(config), inputs)


def scores_stage(of: Identity, choice: Mapping[str, Any], *, split: str, phrases: int) -> Stage:
    """Identifies a baseline's scores on evenly spaced phrases of a split."""
    training = train_stage(of, choice)
    inputs = {"training": training, "data": of.data_stage}
    return Stage(f"scores-{training.name}", 1, {"split": split, "phrases": phrases}, inputs)


def trained(setting: Setting, choice: Mapping[str, Any]) -> Model:
    """The trained baseline on this machine's device, frozen; trained, or found so."""
    config, codec = phrase_config(choice), setting.codec()
    model = _untrained(setting, config, codec)
    if config.steps:

        def make(folder: Path) -> dict[str, Any]:
            state = PartialState()
            batch = partial(
                phrase_batch,
                model,
                setting.cache("train", codec),
                size=config.batch,
                seed=config.seed,
                share=(state.process_index, state.num_processes),
            )
            free = {name: p for name, p in model.named_parameters() if p.requires_grad}

            def save() -> None:
                kept = {name: p.detach().cpu().contiguous() for name, p in free.items()}
                save_file(kept, folder / _WEIGHTS)

            optimiser = OptimiserConfig.from_scratch(steps=config.steps, lr=config.lr, warmup=100)
            title = f"training {choice['kind']}"
            return fit_in_stage(
                MaskObjective(model), batch, optimiser, folder, title=title, save=save
            )

        folder = run(train_stage(setting, choice), make, profile=setting.profile)
        model.load_state_dict(load_file(folder / _WEIGHTS), strict=False)
    model.requires_grad_(False).eval().to(codec.device)
    return model


def _untrained(setting: Setting, config: Config, codec: LatentCodec) -> Model:
    if isinstance(config, UnetHeadConfig):
        unet = load_unet(setting.backbone_location())
        return seeded(config.seed, partial(UnetHead, unet, config, magnify=codec.factor))
    if isinstance(config, LdznetConfig):
        unet, words = load_unet(setting.backbone_location()), codec.text_encoder.config.hidden_size
        make = partial(Ldznet, unet, config, magnify=codec.factor, words=words)
        return seeded(config.seed, make)
    if config.checkpoint:
        weights = CLIPSegForImageSegmentation.from_pretrained(
            config.checkpoint, dtype=torch.float32, use_safetensors=True
        )
        tokenizer = CLIPTokenizer.from_pretrained(config.checkpoint)
    else:
        weights = seeded(config.seed, partial(small_clipseg, config, codec.text_encoder))
        tokenizer = codec.tokenizer
    return Clipseg(weights, tokenizer, pixels=config.pixels)


def scored(setting: Setting, choice: Mapping[str, Any], *, split: str, phrases: int) -> Counts:
    """Scores a baseline against the annotations as ours is scored, or finds it scored.

    Args:
        setting: whose backbone and data it is given.
        choice: the baseline, as for `phrase_config`.
        split: of the packed data.
        phrases: how many, evenly spaced; all if there are fewer.
    """
    stage = scores_stage(setting, choice, split=split, phrases=phrases)

    def make(folder: Path) -> None:
        model = trained(setting, choice)
        cache = setting.cache(split, setting.codec())
        scores = evaluate_segmenter(model, cache, spaced(len(cache.pack), phrases))
        scores.annotation.save(folder / "counts.npz")

    return Counts.load(run(stage, make, profile=setting.profile) / "counts.npz")


def baseline_cells(
    counts: Counts, choice: Mapping[str, Any], *, data: str, profile: str
) -> dict[str, Result]:
    """The cells of a baseline's row, marked as ours and never as comparable with the paper's."""
    config = phrase_config(choice)
    if isinstance(config, ClipsegConfig) and config.checkpoint:
        why = "no: another checkpoint"
        note = f"The released {config.checkpoint}, scored by us at its best threshold"
    else:
        why = "no: ours, after its idea"
        note = f"A small baseline of ours in its manner (`rlfseg.baselines.{choice['kind']}`)"
    cells = measured(counts, data=data, profile=profile)
    return {
        column: replace(cell, comparable=why, note="; ".join(filter(None, (cell.note, note))))
        for column, cell in cells.items()
    }
