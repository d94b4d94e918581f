"""Weights, whatever the model: begun at random, located on disk, identified, saved."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import diffusers
import torch
from diffusers import ModelMixin
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlfseg.stage import DAMAGE, of_the_system

Part = TypeVar("Part", bound=ModelMixin | PreTrainedModel)
_POINTER = 1024  # bytes; git-lfs leaves some 130


def seeded(seed: int, make: Callable[[], nn.Module]) -> Any:
    """Make a module whose initial weights depend on the seed; torch's own state is untouched."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        return make()


def backbone_location(backbone: str | Path) -> str:
    """Check that a backbone given as a folder is there; a hub id (`owner/name`) passes."""
    text = str(backbone)
    if Path(text).is_dir():
        return text
    looks_local = isinstance(backbone, Path) or text.startswith((".", "/", "~"))
    if looks_local or text.count("/") != 1:
        raise FileNotFoundError(
            f"backbone {text!r} is neither a folder here nor a hub id of the form owner/name"
        )
    return text


@contextmanager
def whole(place: str | Path) -> Iterator[None]:
    """Make of whatever a library raises over files of a model one error that names the place.

    Raises:
        ValueError: in one line, with what to do.
        FileNotFoundError: if the model isn't there.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except DAMAGE as error:
        if of_the_system(error):
            raise
        pointers = _pointers(Path(place))
        told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(
            f"{pointers[0]} is a pointer of git-lfs, not the file: fetch it by `git lfs pull`"
            if pointers
            else f"{place} can't be loaded ({told}): is it all there, as safetensors, and whole?"
        ) from error


def _pointers(folder: Path) -> list[Path]:
    """Return the files below a folder, or beside a file, that git-lfs left for others."""
    folder = folder.parent if folder.is_file() else folder
    small = (f for f in sorted(folder.rglob("*.safetensors")) if f.stat().st_size < _POINTER)
    return [file for file in small if file.read_bytes().startswith(b"version https://git-lfs")]


def without_code(folder: Path, parts: Iterable[str]) -> None:
    """Check that diffusers will run no Python file of a saved pipeline's folder.

    Older releases do, where the index names it, or it has the name of what the index names.

    Args:
        folder: in the diffusers layout; one without an index passes, as does what is no folder.
        parts: those that are loaded.

    Raises:
        ValueError: naming what is refused.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        return
    with whole(index):
        told = dict(json.loads(index.read_text()))
        named = {part: tuple(told.get(part) or (None, None)) for part in parts}
        odd = [part for part, (library, name) in named.items() if not _known(library, name)]
    odd += [] if isinstance(told.get("_class_name"), str) else ["_class_name"]
    if odd:
        raise ValueError(
            f"{index} has {odd[0]} as {told.get(odd[0])!r}: only what is of diffusers or "
            "transformers is loaded, and no code of a folder's own is run"
        )
    files = [folder / part / f"{library}.py" for part, (library, _) in named.items()]
    for file in (folder / "None.py", *files):  # the first is of the pipeline that nobody asked for
        if file.exists():
            raise ValueError(f"{file} might be run when {folder} is loaded: take it away")


def _known(library: object, name: object) -> bool:
    """Whether a class is a model of diffusers (no pipeline, which has an index too), or nothing."""
    if library == "diffusers":
        kind = getattr(diffusers, str(name), None)
        return isinstance(kind, type) and issubclass(kind, ModelMixin)
    return library is None or library == "transformers"


def load_part(kind: type[Part], model: str | Path, part: str) -> Part:
    """Load a part of a model in the diffusers layout, float32, from safetensors alone.

    Where a folder holds weights of the variant `fp16` and no others, those are taken.

    Args:
        kind: a class of diffusers' or transformers'.
        model: a folder or a hub id; see `backbone_location`.
        part: the folder in it.

    Raises:
        ValueError: if a file is damaged, or not safetensors.
        FileNotFoundError: if `model` looks like a folder and is not there.
    """
    where = backbone_location(model)
    here = sorted(file.name for file in Path(where, part).glob("*.safetensors"))
    half = bool(here) and all(".fp16." in name for name in here)
    with whole(Path(where, part)):
        loaded = kind.from_pretrained(
            where, subfolder=part, use_safetensors=True, variant="fp16" if half else None
        )
        return cast(Part, loaded.float())


def save_model(model: ModelMixin | PreTrainedModel, folder: Path) -> None:
    """Save a model as safetensors, without the path it was once loaded from."""
    model.save_pretrained(folder, safe_serialization=True)
    config = folder / "config.json"
    values = json.loads(config.read_text())
    values.pop("_name_or_path", None)
    config.write_text(json.dumps(values, indent=2) + "\n")


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """Return sixteen hexadecimal digits that identify weights by names, shapes and values."""
    sha = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        sha.update(f"{name} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().numpy().data)
    return sha.hexdigest()[:16]
