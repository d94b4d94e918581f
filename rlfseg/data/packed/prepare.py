"""Make one image's examples ready to be stored: loaded, drawn, checked, united, resized."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from rlfseg.data.images import read_rgb, scaled
from rlfseg.data.packed.schema import PackError, Stored, image_digest, key_of
from rlfseg.data.sample import AnnotationError

#: A mask, or a picklable function without arguments that draws it where it is needed.
MaskSource = np.ndarray | Callable[[], np.ndarray]


@dataclass(frozen=True, eq=False)
class Example:
    """One phrase of one image, ready to be packed.

    Attributes:
        image_id: the examples of an image must follow each other.
        image: uint8 [H, W, 3], or the image file; the same for all examples of an image. A file is
            taken as it is stored (no rotation by EXIF), as annotations are.
        caption: kept exactly; without one that `key_of` takes, the phrase is left out.
        mask: bool [H, W], the annotation; or what draws it, such as `partial(rasterise, sample)`,
            which a worker process calls. It must be picklable, even if there are no workers.
        truth: bool [H, W] or what draws it: the exact mask, where it is known (for all phrases of
            an image or none).
        ids: the data set's own ids of the annotation.
        item: tells examples of one caption apart: those of an image that agree in both are united,
            others are items of their own.
    """

    image_id: str
    image: np.ndarray | Path
    caption: str
    mask: MaskSource
    truth: MaskSource | None = None
    ids: tuple[str, ...] = ()
    item: str = ""


@dataclass(frozen=True)
class LeftOut:
    """A phrase that was not packed, because it has no mask in which something is marked.

    Attributes:
        image_id: its image.
        caption: the phrase.
        ids: the data set's own ids of the annotation.
        reason: "empty", the annotation itself marks no pixel; "vanished", it marks a few, all of
            which were lost when the mask was made smaller; or "malformed", it can't be drawn, or
            the phrase is none that can be kept.
        why: what is wrong with a malformed one.
    """

    image_id: str
    caption: str
    ids: tuple[str, ...]
    reason: Literal["empty", "vanished", "malformed"]
    why: str = ""


@dataclass(frozen=True, eq=False)
class Ready:
    """One image and its phrases at their final size, in the order of first appearance.

    Attributes:
        image_id: exactly.
        image: uint8 [H, W, 3].
        phrases: those that are stored; where there is none, the image isn't either.
        merged: how many examples were united with an earlier one.
        left_out: phrases that are not stored.
    """

    image_id: str
    image: np.ndarray
    phrases: tuple[Stored, ...]
    merged: int
    left_out: tuple[LeftOut, ...]

    def digest(self) -> bytes:
        """Return the image's part of the content hash."""
        return image_digest(self.image_id, self.image, self.phrases)


def prepare(image_id: str, examples: Sequence[Example], size: int | None) -> Ready:
    """Load, draw, check, unite and resize one image's examples; depend on nothing else.

    Args:
        image_id: of all the examples.
        examples: at least one.
        size: side of the result in pixels; None keeps the image's own.

    Raises:
        ValueError: naming image, file and caption: see `write_pack`.
    """
    key_of(image_id, what="image id")
    first = examples[0]
    place = f"image {image_id!r}"
    if isinstance(first.image, Path):
        place += f" ({first.image})"
    image = load_image(image_id, first.image)
    if any(not _same(example.image, first.image) for example in examples):
        raise ValueError(f"{place}: its records carry different images")
    if len({example.truth is None for example in examples}) > 1:
        raise ValueError(f"{place}: the exact mask is given for some phrases only")
    united: dict[tuple[str, str], Stored] = {}
    malformed: dict[tuple[str, str], str] = {}
    for example in examples:
        where = f"{place}, caption {example.caption!r:.80}"
        _check_ids(example, place)
        item, ids = (example.caption, example.item), example.ids
        try:
            _check_caption(example.caption)
            mask = _drawn(example.mask, image, where)
        except AnnotationError as error:
            malformed.setdefault(item, str(error))
            mask = np.zeros(image.shape[:2], np.uint8)
        truth = None if example.truth is None else _drawn(example.truth, image, where)
        earlier = united.get(item)
        if earlier is not None:
            mask, ids = mask | earlier.mask, earlier.ids + ids
            if truth is not None and earlier.truth is not None:
                truth = truth | earlier.truth
        united[item] = Stored(example.caption, ids, mask, truth)
    phrases, left_out = [], []
    for item, full in united.items():
        if item in malformed:
            why = malformed[item]
            left_out.append(LeftOut(image_id, full.caption, full.ids, "malformed", why))
            continue
        phrase = _shrunk(full, size)
        if phrase.mask.view(np.bool_).any():
            phrases.append(phrase)
        else:
            reason: Literal["empty", "vanished"] = "vanished" if full.mask.any() else "empty"
            left_out.append(LeftOut(image_id, full.caption, full.ids, reason))
    return Ready(
        image_id,
        _resize(image, size, Image.Resampling.BILINEAR),
        tuple(phrases),
        len(examples) - len(united),
        tuple(left_out),
    )


def load_image(image_id: str, image: np.ndarray | Path) -> np.ndarray:
    """Return an image as annotations see it, uint8 [H, W, 3]: as stored, not rotated by EXIF.

    Raises:
        PackError: if the file can't be read.
        ValueError: if the array is no image.
    """
    if isinstance(image, Path):
        try:
            return read_rgb(image, upright=False)
        except (OSError, ValueError) as error:
            raise PackError(
                f"image {image_id!r}: {error}; fetch it again (of PhraseCut, `leave_out` in "
                "run.yml can name it)"
            ) from error
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"image {image_id!r} is {image.dtype} {image.shape}; it must be uint8 (H, W, 3)"
        )
    return np.ascontiguousarray(image)


def _same(a: np.ndarray | Path, b: np.ndarray | Path) -> bool:
    if isinstance(a, Path) or isinstance(b, Path):
        return isinstance(a, Path) and isinstance(b, Path) and a == b
    return a is b or np.array_equal(a, b)


def _check_caption(caption: str) -> None:
    try:
        key_of(caption)
    except ValueError as error:
        raise AnnotationError(str(error)) from error


def _check_ids(example: Example, place: str) -> None:
    try:
        for name in filter(None, example.ids):
            key_of(name, what="id")
    except ValueError as error:
        raise ValueError(f"{place}: {error}: leave the phrase out, or mend it") from error


def _drawn(source: MaskSource, image: np.ndarray, where: str) -> np.ndarray:
    """Return a mask as uint8 after checking that it lies on its image."""
    mask = source() if callable(source) else source
    if mask.dtype != np.bool_ or mask.ndim != 2:
        raise ValueError(f"{where}: the mask is {mask.dtype} {mask.shape}; it must be bool (H, W)")
    if mask.shape != image.shape[:2]:
        raise ValueError(
            f"{where}: the annotation is {mask.shape[1]} x {mask.shape[0]} pixels, but the image "
            f"is {image.shape[1]} x {image.shape[0]}: fetch the image again, or mend its annotation"
        )
    return np.ascontiguousarray(mask).view(np.uint8)


def _shrunk(phrase: Stored, size: int | None) -> Stored:
    nearest = Image.Resampling.NEAREST
    truth = None if phrase.truth is None else _resize(phrase.truth, size, nearest)
    return Stored(phrase.caption, phrase.ids, _resize(phrase.mask, size, nearest), truth)


def _resize(array: np.ndarray, size: int | None, how: Image.Resampling) -> np.ndarray:
    if size is None or array.shape[:2] == (size, size):
        return array
    return scaled(array, size, how)
