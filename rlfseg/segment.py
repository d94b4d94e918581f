"""Segmentation from a shell: pictures and phrases in, overlays and masks out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

from accelerate import PartialState
from PIL import Image

from rlfseg.chapters.reading import chapter_file, run_file
from rlfseg.data.images import overlay, read_rgb
from rlfseg.experiment import Run, is_trained, pipeline
from rlfseg.pipeline import RLFSegPipeline
from rlfseg.stage import replaced, repository


def segment(
    pictures: Sequence[str],
    phrases: Sequence[str],
    out: Path,
    *,
    model: Path | None = None,
    sampler: str = "aos",
    threshold: float | None = None,
) -> list[str]:
    """Segment what each phrase means in each picture.

    Args:
        pictures: their files.
        phrases: what is asked of each.
        out: the overlay's file, a PNG; its mask is named `<stem>_mask.png`. Where there are several
            answers, theirs are numbered from 1, phrase by phrase of each picture.
        model: a saved pipeline's folder, or a file of parameters; None is the mini world's best,
            the one that the page to ask has.
        sampler: `aos`, `one`, `hss`, `steps` or `aos_signed`.
        threshold: of the scores; None is the pipeline's own.

    Returns:
        A line for each answer: the mask's share of the picture, and both files.

    Raises:
        ValueError: `out` isn't named as a PNG, or would overwrite a picture; the model isn't
            trained.
        OSError: a picture can't be read.
    """
    asked = list(product(pictures, phrases))
    files = _outputs(out, len(asked))
    written = {file.resolve() for pair in files for file in pair}
    if spoilt := written & {Path(name).resolve() for name in pictures}:
        raise ValueError(f"{spoilt.pop()} is a picture that is asked: give another name with -o")
    images = {name: read_rgb(name) for name in pictures}
    segmenter = _loaded(model) if model else pipeline(_best())
    segmenter.set_progress_bar_config(disable=True)
    found = segmenter(
        [images[name] for name in pictures],
        [list(phrases)] * len(pictures),
        sampler=sampler,
        threshold=threshold,
    )
    told = []
    for (name, phrase), mask, pair in zip(asked, found.masks, files, strict=True):
        for file, image in zip(pair, (overlay(images[name], mask), mask), strict=True):
            with replaced(file) as draft:
                Image.fromarray(image).save(draft, "PNG")
        told.append(f"{phrase!r} is {mask.mean():.1%} of {name}: {pair[0]} and {pair[1]}")
    return told


def _outputs(out: Path, count: int) -> list[tuple[Path, Path]]:
    """The files of each answer: overlay and mask."""
    if out.suffix.lower() != ".png":
        raise ValueError(f"the overlay is written as PNG: give -o a name that ends so, not {out}")
    stems = [out.stem] if count == 1 else [f"{out.stem}_{n}" for n in range(1, count + 1)]
    return [(out.with_name(f"{stem}.png"), out.with_name(f"{stem}_mask.png")) for stem in stems]


def _best() -> Run:
    """The run of the mini world whose weights ship for asking."""
    ask = chapter_file(repository() / "params" / "mini" / "05b_ask.yml")
    return ask.run.variants(ask.variants)[ask.browser]


def _loaded(model: Path) -> RLFSegPipeline:
    if model.is_dir():
        return RLFSegPipeline.from_pretrained(model).to(PartialState().device)
    run = run_file(model)
    if not is_trained(run):
        raise ValueError(f"what {model} describes isn't trained: python -m rlfseg train {model}")
    return pipeline(run)
