"""Weights, whatever the model: begun at random, located on disk, identified, saved."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor, nn
from transformers import PreTrainedModel


def seeded(seed: int, make: Callable[[], nn.Module]) -> Any:
    """Make a module whose initial weights depend on the seed; torch's own state is untouched."""
    with torch.random.fork_rng():
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
