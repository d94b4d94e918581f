"""What training and scoring read, found or made: backbone, packed data, labels, latents."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from diffusers import AutoencoderTiny

from rlfseg.data.catalogue import DATASETS, read
from rlfseg.data.cocostuff_names import COCO_STUFF, Label
from rlfseg.data.drawn.write_cocostuff import MINI_CLASSES, write_cocostuff
from rlfseg.data.drawn.write_phrasecut import read_truth, write_phrasecut
from rlfseg.data.drawn.write_refer import write_refer
from rlfseg.data.masks import rasterise
from rlfseg.data.packed.prepare import Record
from rlfseg.data.packed.read import Pack
from rlfseg.data.packed.schema import index_path
from rlfseg.data.packed.write import write_pack
from rlfseg.data.sample import by_image
from rlfseg.device import quick_dtype
from rlfseg.experiment.description import RANDOM, RANDOM_SAM, tiny_config
from rlfseg.experiment.identity import Identity
from rlfseg.experiment.relabelling import relabel
from rlfseg.models.latent_cache import LatentCache
from rlfseg.models.latent_codec import LatentCodec, load_codec
from rlfseg.models.sam import PromptedSam, load_sam, random_sam, save_sam
from rlfseg.stage import made_at, read_record, repository, run
from rlfseg.stand_ins.backbone import backbone
from rlfseg.stand_ins.full_size import random_stable_diffusion
from rlfseg.stand_ins.mini_sam import trained_sam
from rlfseg.stand_ins.tiny_decoder import tiny_decoder

_WORKERS = min(8, os.cpu_count() or 1)
_NUMBERS = {"phrasecut": "task_id", "cocostuff": "category_id"}  # which id a packed item keeps


def located(name: str) -> Path | str:
    """Where outside weights lie: a folder from the repository's root or in its `weights/`.

    A hub id for which there is no such folder is left to the hub's client.
    """
    for folder in (repository() / name, repository() / "weights" / name):
        if folder.is_dir():
            return folder
    return name


@dataclass(frozen=True)
class Inputs(Identity):
    """A description whose backbone, data, labels and latents can be had.

    Raises:
        FileNotFoundError: if the data's source is neither `mini` nor a folder.
        ValueError: if the data set is unknown.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data.dataset not in DATASETS:
            known = ", ".join(DATASETS)
            raise ValueError(f"data: dataset must be one of {known}, got {self.data.dataset!r}")
        if self.data.source != "mini":
            self.source()

    def backbone_location(self) -> Path | str:
        """The backbone's folder, trained or built if it is ours and missing, or its hub id."""
        if self.backbone == "mini":
            return backbone(self.recipe, profile=self.profile)
        if self.backbone == RANDOM:
            return random_stable_diffusion(profile=self.profile)
        return located(self.backbone)

    @property
    def splits(self) -> dict[str, str]:
        """The splits that are packed, and what the data set calls them (`val2017` for `val`).

        PhraseCut's `miniv` is left out: it is a part of its `val`.
        """
        names = DATASETS[self.data.dataset].splits
        return {name.removesuffix("2017"): name for name in names if name != "miniv"}

    def source(self) -> Path:
        """The folder in the data set's own format: the given one, or the drawn scenes."""
        if self.data.source != "mini":
            folder = repository() / self.data.source
            if not folder.is_dir():
                raise FileNotFoundError(
                    f"data source {folder} is no folder: give that of "
                    f"{DATASETS[self.data.dataset].title}'s files, or 'mini'"
                )
            return folder
        write = {"phrasecut": write_phrasecut, "cocostuff": write_cocostuff}
        names = ("train", "val") if self.data.dataset == "cocostuff" else ("train", "val", "test")
        counts = {split: getattr(self.data, split) for split in names}

        def make(folder: Path) -> None:
            write.get(self.data.dataset, write_refer)(
                folder, seed=self.data.seed, counts=counts, pixels=self.data.pixels
            )

        return run(self.source_stage, make, profile=self.profile)

    def pack(self, split: str) -> Pack:
        """A split's packed file (A.3.2), with exact masks where the world is ours."""
        dataset, mini = self.data.dataset, self.data.source == "mini"
        number = _NUMBERS.get(dataset, "sent_id")

        def make(folder: Path) -> dict[str, Any]:
            root = self.source()
            exact = read_truth(root) if mini and dataset == "phrasecut" else {}
            reports = {}
            for packed, name in self.splits.items():
                records = (
                    Record(
                        sample.image_id,
                        sample.image_path,
                        sample.caption,
                        partial(rasterise, sample),
                        exact[sample.ids[number]].mask if exact else None,
                        (str(sample.ids[number]),),
                    )
                    for sample in by_image(read(dataset, root, name, classes=self._classes))
                )
                path = folder / f"{packed}.h5"
                report = write_pack(records, path, size=self.data.pixels, workers=_WORKERS)
                reports[packed] = asdict(report)
            return reports

        return Pack(run(self.data_stage, make, profile=self.profile) / f"{split}.h5")

    @property
    def names(self) -> list[str]:
        """The closed set of COCO-Stuff, or of the drawn scenes in its format, in order."""
        return [self._classes[raw].prompt for raw in sorted(self._classes)]

    @property
    def _classes(self) -> Mapping[int, Label]:
        return MINI_CLASSES if self.data.source == "mini" else COCO_STUFF

    def pack_report(self) -> dict[str, Any]:
        """What packing counted, by split."""
        return dict(read_record(self.pack("test").path.parent)["figures"])

    def predictor(self) -> PromptedSam:
        """The SAM that refines labels, on this machine's device; trained if ours is missing."""
        if self.sam.kind == "mini":
            checkpoint = trained_sam(self.sam.recipe, profile=self.profile)
        elif self.sam.checkpoint == RANDOM_SAM:

            def make(folder: Path) -> None:
                save_sam(random_sam(self.sam.kind), folder / "sam.safetensors")

            checkpoint = run(self.sam_stage, make, profile=self.profile) / "sam.safetensors"
        else:
            checkpoint = repository() / self.sam.checkpoint
        return load_sam(self.sam.kind, checkpoint, device=PartialState().device)

    def refined(self, split: str) -> Path:
        """A folder: the split's packed file with refined masks beside the annotations.

        In `relabel/` lie the records and the report of `rlfseg.experiment.relabelling`.
        """

        def make(folder: Path) -> dict[str, Any]:
            packed = self.pack(split).path
            for source in (index_path(packed), packed):
                copy = folder / source.name
                if not copy.exists():
                    shutil.copy(source, folder / "copy.tmp")
                    os.replace(folder / "copy.tmp", copy)
            path, out = folder / packed.name, folder / "relabel"
            return asdict(relabel(path, self.predictor(), self.refine, out))

        return run(self.refined_stage(split), make, profile=self.profile)

    def codec(self) -> LatentCodec:
        """Autoencoder and text encoder on this machine's device."""
        codec = load_codec(self.backbone_location(), device=PartialState().device)
        return replace(codec, decoding=quick_dtype(codec.device))

    def tiny_decoder(self, choice: Mapping[str, Any]) -> AutoencoderTiny:
        """A decoder of TAESD's class on this machine's device.

        Args:
            choice: `name`, a folder or hub id of one, or `mini`, with the fields of `TinyConfig`,
                which is trained if it is missing.
        """
        where: Path | str = choice["name"]
        if choice["name"] == "mini":
            where = tiny_decoder(tiny_config(choice), self.recipe, profile=self.profile)
        else:
            where = located(choice["name"])
        tiny = AutoencoderTiny.from_pretrained(where, torch_dtype=torch.float32)
        return tiny.requires_grad_(False).eval().to(PartialState().device)

    def cache(self, split: str, codec: LatentCodec, *, refined: bool = False) -> LatentCache:
        """The latent cache of a split, over the packed file with refined masks if asked for."""
        folder = made_at(self.latents_stage(split), profile=self.profile)
        pack = Pack(self.refined(split) / f"{split}.h5") if refined else self.pack(split)
        return LatentCache(folder, pack, codec)

    def fill_latents(self) -> int:
        """Encodes what training reads, before it; returns how many latents were missing here.

        Training fills the cache too, as it goes. Done beforehand, in the processes of a launch or
        of several, it keeps the autoencoder out of the training's time.
        """
        state, count = PartialState(), 0
        codec, share = self.codec(), (state.process_index, state.num_processes)
        for split in ("train", "val"):
            refined = split == "train" and self.train.selection != "original"
            with state.main_process_first():  # which makes the cache's files
                cache = self.cache(split, codec, refined=refined)
            count += cache.fill(share=share)
        state.wait_for_everyone()
        return count
