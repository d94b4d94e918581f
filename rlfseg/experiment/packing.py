"""The data of a run, found or made: files, packed splits, refined labels, latents."""

import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from rlfseg.data.catalogue import DATASETS, REFERRING, read
from rlfseg.data.cocostuff_names import COCO_STUFF, Label
from rlfseg.data.drawn.write_cocostuff import MINI_CLASSES, write_cocostuff
from rlfseg.data.drawn.write_phrasecut import read_truth, write_phrasecut
from rlfseg.data.drawn.write_refer import write_refer
from rlfseg.data.masks import rasterise
from rlfseg.data.packed.prepare import Example
from rlfseg.data.packed.read import Pack
from rlfseg.data.packed.schema import index_path
from rlfseg.data.packed.write import make_shards, write_pack
from rlfseg.data.phrasecut import image_ids, size_mismatches
from rlfseg.data.sample import by_image
from rlfseg.experiment.relabelling import keep_labels, relabel
from rlfseg.experiment.run import Run
from rlfseg.experiment.weights import codec, predictor
from rlfseg.models.latent_cache import LatentCache
from rlfseg.models.latent_codec import LatentCodec
from rlfseg.processes import by_first, meet, own_cores, together
from rlfseg.stage import found, made_at, read_record, replaced, repository

_LABELS = "labels.npz"
_WORKERS = 8  # at most, of each process
#: By data set: which id a packed item keeps, and what writes the drawn world in its format.
_NUMBERS = {"phrasecut": "task_id", "cocostuff": "category_id"} | dict.fromkeys(
    REFERRING, "sent_id"
)
_WRITERS: dict[str, Callable[..., object]] = {
    "phrasecut": write_phrasecut,
    "cocostuff": write_cocostuff,
    **dict.fromkeys(REFERRING, write_refer),
}


def source_folder(run: Run) -> Path:
    """Return the folder in the data set's own format: the given one, or the drawn scenes.

    Raises:
        FileNotFoundError: if the given one is no folder.
    """
    data = run.data
    if data.source != "mini":
        folder = repository() / data.source
        if not folder.is_dir():
            raise FileNotFoundError(
                f"data source {folder} is no folder: give that of "
                f"{DATASETS[data.dataset].title}'s files, or 'mini'"
            )
        return folder
    names = ("train", "val") if data.dataset == "cocostuff" else ("train", "val", "test")
    counts = {split: getattr(data, split) for split in names}

    def draw(folder: Path) -> None:
        _WRITERS[data.dataset](folder, seed=data.seed, counts=counts, pixels=data.pixels)

    return by_first(run.source_stage, draw, profile=run.profile)


def packed(run: Run, split: str) -> Pack:
    """Return a split's packed file (A.3.2), with exact masks where the world is ours.

    The processes of a launch pack it together; all of them must ask for it.

    Raises:
        ValueError: if the data set has no such split, or can't be read.
        FileNotFoundError: if a file of the split is missing.
    """

    def pack(folder: Path) -> dict[str, Any]:
        root, state = source_folder(run), PartialState()
        passed_over = _passed_over(run, root, run.splits[split])
        # each time anew: what is read before packing forks its workers would be theirs too
        examples = partial(_examples, run, root, run.splits[split], passed_over)
        path, size = folder / f"{split}.h5", run.data.pixels
        own = own_cores()
        workers = min(_WORKERS, own) if own > 1 else 0
        if state.num_processes > 1:
            share = (state.process_index, state.num_processes)
            make_shards(examples(), path, size=size, workers=workers, share=share)
            meet(folder, "shards")
        if not state.is_main_process:
            return {}
        report = write_pack(examples(), path, size=size, workers=workers)
        return {**asdict(report), "passed_over": passed_over}

    return Pack(together(run.packed_stage(split), pack, profile=run.profile) / f"{split}.h5")


def check_there(run: Run, split: str) -> None:
    """Read the beginning of a split that isn't packed yet: before processes are started for it.

    What is missing is then this process's error, and not one of theirs.

    Raises:
        FileNotFoundError: if a file or folder of the split is missing.
    """
    if found(run.packed_stage(split), profile=run.profile) is None:
        next(_examples(run, source_folder(run), run.splits[split], ()), None)


def _examples(run: Run, root: Path, split: str, passed_over: Collection[str]) -> Iterator[Example]:
    """What is packed of a split, by the data set's own name of it."""
    dataset = run.data.dataset
    exact = read_truth(root) if dataset == "phrasecut" and run.data.source == "mini" else {}
    number = _NUMBERS[dataset]
    samples = read(dataset, root, split, classes=classes(run), leave_out=passed_over)
    for sample in by_image(samples):
        ids = sample.ids
        yield Example(
            sample.image_id,
            sample.image_path,
            sample.caption,
            partial(rasterise, sample),
            exact[ids[number]].mask if exact else None,
            (str(ids[number]),),
            f"{ids['ref_id']} {ids['sent_id']}" if dataset in REFERRING else "",
        )


def native_masks(run: Run, split: str) -> Callable[[int], np.ndarray]:
    """Return what draws the annotation of a packed item at its photograph's own size, bool [H, W].

    The data set's files are read again; no picture is.
    """
    root, pack = source_folder(run), packed(run, split)
    passed_over = pack_report(run, split)["passed_over"]
    drawn: dict[tuple[str, ...], Any] = {}
    for each in _examples(run, root, run.splits[split], passed_over):
        drawn[each.image_id, each.caption, *each.ids] = each.mask

    def draw(item: int) -> np.ndarray:
        image_id, caption = pack.image_ids[pack.item_image[item]], pack.caption(item)
        masks = [drawn[image_id, caption, name]() for name in pack.ids(item)]
        return np.logical_or.reduce(masks)

    return draw


def _passed_over(run: Run, root: Path, split: str) -> list[str]:
    """The ids of the split's images that are not packed: see `DataConfig.leave_out`."""
    data = run.data
    if data.dataset != "phrasecut" or data.source == "mini":
        return []
    if data.leave_out != "auto":
        named = set(map(str, data.leave_out))
        return [image_id for image_id in image_ids(root, split) if image_id in named]
    return [each.image_id for each in size_mismatches(root, split) if each.stored is not None]


def pack_report(run: Run, split: str) -> dict[str, Any]:
    """Return what packing a split counted: see `PackReport`, and `passed_over`, ids of images."""
    return dict(read_record(packed(run, split).path.parent)["figures"])


def left_out(run: Run, split: str) -> str:
    """Say in words what packing a split has left out or united; nothing where that is nothing.

    It stands beside what is measured on the split. Of drawn scenes, where that takes nothing away,
    what was united isn't said. Nothing is packed for it.
    """
    folder = found(run.packed_stage(split), profile=run.profile)
    if folder is None:
        return ""
    report = read_record(folder)["figures"]
    counts = Counter(each["reason"] for each in report["left_out"])
    counts["images"] = len(report["passed_over"])
    auto = run.data.leave_out == "auto"
    kinds = {
        "images": ("image", "of another size than annotated" if auto else "that leave_out names"),
        "malformed": ("phrase", "whose annotation can't be drawn"),
        "empty": ("phrase", "without a marked pixel"),
        "vanished": ("phrase", "too small for a pixel at this size"),
    }
    said = [
        f"{counts[kind]:,} {noun}{'s' if counts[kind] > 1 else ''} {which}"
        for kind, (noun, which) in kinds.items()
        if counts[kind]
    ]
    told = [f"left out: {', '.join(said)}"] if said else []
    if report["merged"] and run.data.source != "mini":
        told.append(f"{report['merged']:,} united with another of the same caption")
    return "; ".join(told)


def classes(run: Run) -> Mapping[int, Label]:
    """Return COCO-Stuff's classes, or those of the drawn scenes in its format."""
    return MINI_CLASSES if run.data.source == "mini" else COCO_STUFF


def class_names(run: Run) -> list[str]:
    """Return the closed set's names, in the order of the classes."""
    return [label.prompt for _, label in sorted(classes(run).items())]


def refined(run: Run, split: str) -> Path:
    """Return a folder: the split's packed file with refined masks beside the annotations.

    In `relabel/` lie the records and the report of `rlfseg.experiment.relabelling`. Where just
    these masks are kept as labels, SAM is loaded and not asked.

    Raises:
        FileNotFoundError: if the photographs that SAM is to be shown are no longer there.
    """

    def refine(folder: Path) -> dict[str, Any]:
        annotated = packed(run, split)
        target = folder / annotated.path.name
        with replaced(index_path(target)) as draft:
            shutil.copy(index_path(annotated.path), draft)
        out = folder / "relabel"
        kept = found(run.labels_stage(split), profile=run.profile)
        made = relabel(
            annotated.path,
            predictor(run),
            run.refine,
            out,
            target=target,
            photographs=photographs(run, split),
            known=kept / _LABELS if kept else None,
        )
        return asdict(made)

    return together(run.refined_stage(split), refine, profile=run.profile)


def labels(run: Run, split: str) -> Path:
    """Return a folder: a split's refined masks alone, small enough to ship."""

    if found(run.labels_stage(split), profile=run.profile) is None:
        refined(run, split)  # by all processes; the first alone keeps them

    def keep(folder: Path) -> None:
        there = refined(run, split)
        keep_labels(there / f"{split}.h5", there / "relabel", folder / _LABELS)

    return by_first(run.labels_stage(split), keep, profile=run.profile)


def photographs(run: Run, split: str) -> dict[str, Path] | None:
    """Return a split's image files by image id; None of drawn ones, which are packed as they are.

    Raises:
        FileNotFoundError: if the data set's files are not there.
    """
    if run.data.source == "mini":
        return None
    root, passed_over = source_folder(run), pack_report(run, split)["passed_over"]
    samples = read(run.data.dataset, root, run.splits[split], leave_out=passed_over)
    return {sample.image_id: sample.image_path for sample in samples}


def latent_cache(
    run: Run, split: str, coder: LatentCodec, *, with_refined: bool = False
) -> LatentCache:
    """Return the latent cache of a split, over the file with refined masks if asked for."""
    folder = made_at(run.latents_stage(split), profile=run.profile)
    pack = Pack(refined(run, split) / f"{split}.h5") if with_refined else packed(run, split)
    return LatentCache(folder, pack, coder)


def fill_latents(run: Run) -> int:
    """Encode what training reads, before it; return how many latents were missing here.

    Training fills the cache too, as it goes. Done beforehand, in the processes of a launch or of
    several, it keeps the autoencoder out of the training's time.
    """
    state, count = PartialState(), 0
    coder, share = codec(run), (state.process_index, state.num_processes)
    for split in ("train", "val"):
        both = split == "train" and run.uses_refined
        cache = latent_cache(run, split, coder, with_refined=both)
        count += cache.fill(share=share)
    state.wait_for_everyone()
    return count
