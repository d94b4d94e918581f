"""Checkpoints of a training run: one safetensors file, written whole or not at all.

All randomness of a run is a function of its seed and the step's number, so weights, optimiser
moments and the step are the whole state; settings and git commit are kept beside it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from rlfseg.config import OptimiserConfig
from rlfseg.stage import commit, of_the_system, replaced


def save_checkpoint(
    path: Path,
    parameters: Mapping[str, Tensor],
    optimisers: Sequence[Optimizer],
    config: OptimiserConfig,
    step: int,
) -> None:
    """Write weights, optimisers' states and step; an older file at `path` is replaced at the end.

    Raises:
        OSError: if it can't be written; the older file stays as it is.
    """
    tensors = {f"weight/{name}": p.detach().cpu().contiguous() for name, p in parameters.items()}
    for optimiser in optimisers:
        states = optimiser.state_dict()["state"]
        for number, name in enumerate(_names(parameters, optimiser)):
            for key, value in states.get(number, {}).items():
                tensors[f"optimiser/{name}/{key}"] = torch.as_tensor(value).cpu().contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = json.dumps(asdict(config), sort_keys=True)
    meta = {"step": str(step), "config": settings, "commit": commit()}
    with replaced(path) as draft:
        save_file(tensors, draft, metadata=meta)


def load_checkpoint(
    path: Path,
    parameters: Mapping[str, Tensor],
    optimisers: Sequence[Optimizer],
    config: OptimiserConfig,
) -> int:
    """Restore what `save_checkpoint` wrote, in place, and return the step it was written after.

    Raises:
        ValueError: if the file is damaged, or was written with another configuration (the fields
            that differ are named), or for other parameters.
        OSError: if the system can't read it.
    """
    path.open("rb").close()  # else safetensors says of whatever the system refuses: no such file
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            step, then = int(meta["step"]), dict(json.loads(meta["config"]))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        if of_the_system(error):
            raise
        raise ValueError(f"{path}: not one of our checkpoints ({error}); delete it") from error
    usual = {each.name: each.default for each in fields(config)}  # of a setting added since
    _check_config(path, {**usual, **then}, asdict(config))
    unfit = [
        name
        for name, parameter in parameters.items()
        if f"weight/{name}" not in tensors or tensors[f"weight/{name}"].shape != parameter.shape
    ]
    if unfit:
        raise ValueError(f"{path}: holds no weights that fit {unfit[:3]}; it is of another model")
    for name, parameter in parameters.items():
        with torch.no_grad():
            parameter.copy_(tensors[f"weight/{name}"])
    for optimiser in optimisers:
        state: dict[int, dict[str, Tensor]] = {}
        for number, name in enumerate(_names(parameters, optimiser)):
            prefix = f"optimiser/{name}/"
            state[number] = {
                k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)
            }
        optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    return step


def _names(parameters: Mapping[str, Tensor], optimiser: Optimizer) -> list[str]:
    """Return the names of an optimiser's parameters, in the order of its state's numbers."""
    names = {parameter: name for name, parameter in parameters.items()}
    return [names[each] for group in optimiser.param_groups for each in group["params"]]


def _check_config(path: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    differ = [f"{k}: {then.get(k)!r} -> {v!r}" for k, v in now.items() if then.get(k) != v]
    if differ:
        raise ValueError(f"{path}: written with other settings ({'; '.join(differ)}); delete it")
