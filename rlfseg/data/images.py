"""Pictures in any form made uint8 RGB, and a mask laid over one."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

Picture: TypeAlias = Image.Image | np.ndarray | Tensor
Given: TypeAlias = Picture | str | Path
_TINT = (38, 115, 235)
#: Pixels that a byte of a file can hold at most: deflate's 1032 bytes, of eight pixels each.
_PIXELS_A_BYTE = 8 * 1032
_BY_DEFLATE_OR_LESS = ("PNG", "JPEG", "MPO", "TIFF", "BMP")
#: Pillow's names of what is taken; for others it may start a program, as Ghostscript for EPS.
_TAKEN = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM", "AVIF")
#: What Pillow raises over a damaged file.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    IndexError,
    ZeroDivisionError,
    OverflowError,
    RuntimeError,  # of too deep a recursion, and of AVIF's decoder
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


def read_picture(path: Path | str) -> Image.Image:
    """Open a picture file, turned upright as its camera noted.

    Raises:
        OSError: if there is no such file, or it can't be read whole; with what to do.
    """
    return _upright(as_stored(path), f"{path}")


def as_stored(path: Path | str) -> Image.Image:
    """Open a picture file as its pixels lie there, which is how annotations see it.

    Raises:
        OSError: as for `read_picture`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no picture {path}")
    try:
        with bounded(Path(path)) as opened:
            opened.load()
            return opened
    except UnidentifiedImageError as error:
        raise OSError(f"{path} is no picture that can be read here: give a JPEG or PNG") from error
    except Image.DecompressionBombError as error:
        raise OSError(f"{path} is too large a picture ({error}): make it smaller") from error
    except DAMAGE as error:
        system = isinstance(error, OSError) and error.errno is not None
        asked = "" if system else ": is the file whole?"
        raise OSError(f"{path} can't be read ({error}){asked}") from error


@cache
def taken() -> tuple[str, ...]:
    """Return Pillow's names of the formats that are taken: those of them that it knows."""
    Image.init()
    return tuple(name for name in _TAKEN if name in Image.OPEN)


def bounded(path: Path, formats: tuple[str, ...] | None = None) -> Image.Image:
    """Open a picture so that it takes no more memory than its file can account for.

    Args:
        path: the file.
        formats: Pillow's names of those that are taken; None takes `taken()`.

    Raises:
        ValueError: if it claims more pixels than a file of its size can hold. Formats that can hold
            any number, as fax pages and WebP, are left to Pillow's own bound.
    """
    content = path.read_bytes()  # of a file, a chunk's claimed length would be allocated
    opened = Image.open(BytesIO(content), formats=formats or taken())
    fax = str(opened.info.get("compression", "")).startswith(("group", "tiff_ccitt"))
    claimed, held = opened.width * opened.height, _PIXELS_A_BYTE * len(content)
    if opened.format in _BY_DEFLATE_OR_LESS and not fax and claimed > held:
        raise ValueError(
            f"it claims {opened.width} x {opened.height} pixels, and its {len(content)} bytes hold "
            "fewer"
        )
    return opened


def read_rgb(path: Path | str, *, upright: bool = True) -> np.ndarray:
    """Read a picture file as uint8 [H, W, 3].

    Args:
        path: the file.
        upright: turned as its camera noted, as people see it; or as stored, as annotations do.

    Raises:
        OSError: as for `read_picture`.
        ValueError: naming the file, if its values are not finite or out of range.
    """
    image = read_picture(path) if upright else as_stored(path)
    try:
        return rgb_of(image)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _upright(image: Image.Image, name: str) -> Image.Image:
    """Turn a picture as its camera noted, if it did."""
    try:
        return ImageOps.exif_transpose(image)
    except DAMAGE as error:
        raise OSError(
            f"{name} has EXIF notes that can't be read ({type(error).__name__}: {error}): save it "
            "anew, without them"
        ) from error


def as_rgb(picture: Picture) -> np.ndarray:
    """Make a picture uint8 [H, W, 3].

    A PIL image is turned upright as its camera noted, see `rgb_of` for its modes.

    Args:
        picture: a PIL image; an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], uint8, uint16 or
            float in [0, 1]; or a tensor [3, H, W], [1, H, W] or [1, 3, H, W], uint8 or float in
            [0, 1].

    Raises:
        ValueError: if it has another shape or type, no pixels, or values that are not finite or
            out of range.
    """
    if isinstance(picture, Image.Image):
        return rgb_of(_upright(picture, "the picture"))
    if isinstance(picture, Tensor):
        flat = picture[0] if picture.ndim == 4 and len(picture) == 1 else picture
        if flat.ndim != 3 or flat.shape[0] not in (1, 3):
            raise ValueError(
                f"a picture's tensor is (3, H, W) or (1, 3, H, W), got {tuple(picture.shape)}"
            )
        if flat.dtype.is_floating_point:
            flat = flat.float()
        return as_rgb(flat.permute(1, 2, 0).cpu().numpy())
    array = np.asarray(picture)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if (
        not array.size
        or array.ndim not in (2, 3)
        or (array.ndim == 3 and array.shape[2] not in (3, 4))
    ):
        raise ValueError(f"a picture is (H, W), (H, W, 3) or (H, W, 4), got {array.shape}")
    return rgb_of(Image.fromarray(_eight_bits(array)))


def _eight_bits(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # of either byte order
        return (array / 257).round().astype(np.uint8)
    if array.dtype.kind != "f":
        raise ValueError(f"a picture's values are uint8, uint16 or float, got {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError("the picture has values that are not finite (NaN or infinite)")
    if array.min() < 0 or array.max() > 1:
        raise ValueError(
            f"a picture of floats lies in [0, 1], got {array.min():g} to {array.max():g}"
        )
    return (array * 255).round().astype(np.uint8)


def rgb_of(image: Image.Image) -> np.ndarray:
    """Make a PIL image of any mode uint8 [H, W, 3], not turned.

    Transparent pixels are laid on white, 16 bits and more are scaled by their range, and all other
    modes are converted by PIL (grey, palette, CMYK, ...).

    Raises:
        ValueError: if it has no pixels, or floats that are not finite or not in [0, 1].
    """
    if not image.width or not image.height:
        raise ValueError(f"the picture has no pixels: {image.width} x {image.height}")
    if image.mode.startswith("I"):  # 16 or 32 bits
        deep = np.asarray(image).astype(np.float64)
        most = deep.max(initial=0)
        eight = image.mode == "I" and most <= 255  # an 8-bit picture that became wide on its way
        top = 255.0 if eight else 65535.0 if most <= 65535 else most
        image = Image.fromarray((deep.clip(0) / top * 255).round().astype(np.uint8))
    if image.mode == "F":
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def paired(
    image: Given | Sequence[Given], phrases: str | Iterable[str] | Iterable[Iterable[str]]
) -> tuple[list[np.ndarray], list[tuple[int, str]]]:
    """Return pictures as uint8 [H, W, 3], and (number of the picture, phrase) in order.

    Args:
        image: one picture or the path of its file, or several; a batch [b, ...] of an array or a
            tensor is several.
        phrases: for one picture, a phrase or several; for several, one or several for each, or one
            for all of them.

    Raises:
        ValueError: naming the picture or phrase that can't be taken.
        OSError: if a file can't be read.
    """
    single = isinstance(image, str | Path | Image.Image | np.ndarray | Tensor)
    batch = isinstance(image, np.ndarray | Tensor) and image.ndim == 4
    pictures: Sequence[Given] = [image] if single and not batch else image  # type: ignore[list-item, assignment]
    if phrases is None or isinstance(phrases, Mapping):
        raise ValueError(f"phrases are a text, or several, got {type(phrases).__name__}")
    said: list[str | Iterable[str]]
    if isinstance(phrases, str):
        said = [phrases] * len(pictures)
    else:
        said = [tuple(phrases)] if len(pictures) == 1 and single else list(phrases)  # type: ignore[arg-type]
    if len(said) != len(pictures) or not len(pictures):
        raise ValueError(
            f"{len(pictures)} pictures need as many phrases, or lists of phrases, got {len(said)}"
        )
    arrays = []
    for number, picture in enumerate(pictures):
        try:
            made = read_rgb(picture) if isinstance(picture, str | Path) else as_rgb(picture)
            arrays.append(made)
        except ValueError as error:
            raise ValueError(f"picture {number}: {error}") from error
    pairs = []
    for number, own in enumerate(said):
        for phrase in [own] if isinstance(own, str) or own is None else own:
            if not isinstance(phrase, str) or not phrase.strip():
                raise ValueError(f"picture {number}: {phrase!r} is no phrase; say what to segment")
            pairs.append((number, str(phrase)))
    if not pairs:
        raise ValueError("there is no phrase: say what to segment")
    return arrays, pairs


def overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Tint a picture, uint8 [H, W, 3], blue where the mask, bool [H, W], is; pale the rest."""
    tinted = 0.45 * image + 0.55 * np.array(_TINT)
    paler = 0.75 * image + 0.25 * 255
    return np.where(mask[..., None], tinted, paler).round().astype(np.uint8)


def scaled(image: np.ndarray, side: int, how: Image.Resampling) -> np.ndarray:
    """Scale an image [H, W] or [H, W, 3] to side x side, without regard to its aspect."""
    return np.asarray(Image.fromarray(image).resize((side, side), how))


def to_unit(images: Tensor) -> Tensor:
    """Turn uint8 [b, H, W, 3] into [b, 3, H, W] in [-1, 1]."""
    return images.permute(0, 3, 1, 2) / 127.5 - 1
