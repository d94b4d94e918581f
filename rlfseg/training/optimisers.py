"""What a training steps with: AdamW, or Muon for its matrices and AdamW for the rest."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer

from rlfseg.config import OptimiserConfig

#: In a group of parameters: its learning rate, in parts of the schedule's.
RELATIVE = "relative"


def optimisers(objective: nn.Module, config: OptimiserConfig) -> list[Optimizer]:
    """Return what steps on the parameters that require a gradient, each by one optimiser.

    With `config.muon` the weights of linear layers are Muon's [1]: it steps along the orthogonal
    matrix nearest to the gradient's running mean, so that rare directions get as far as frequent
    ones; scaled as in [2], a learning rate means what it does for AdamW.

    Raises:
        ValueError: if nothing requires a gradient, or Muon is asked for without a linear layer or
            of a PyTorch that doesn't have it.

    References:
        [1] Jordan and others, Muon: an optimizer for hidden layers in neural networks, 2024.
        [2] Liu and others, Muon is scalable for LLM training, arXiv 2502.16982, 2025.
    """
    parameters = [p for p in objective.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("nothing to train: no parameter of the objective requires a gradient")
    if not config.muon:
        return [_adamw(parameters, config)]
    linear = {layer.weight for layer in objective.modules() if isinstance(layer, nn.Linear)}
    matrices = [p for p in parameters if p in linear]
    rest = [p for p in parameters if p not in linear]
    if not matrices:
        raise ValueError("muon: no linear layer's weight is trained, so leave it at 0")
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(f"muon: PyTorch has it from 2.9 on, and this is {torch.__version__}")
    muon = torch.optim.Muon(
        [{"params": matrices, RELATIVE: config.muon / config.lr}],
        lr=config.muon,
        weight_decay=config.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return [muon, *([_adamw(rest, config)] if rest else [])]


def _adamw(parameters: Iterable[nn.Parameter], config: OptimiserConfig) -> Optimizer:
    return torch.optim.AdamW(
        [{"params": list(parameters), RELATIVE: 1.0}],
        lr=config.lr,
        betas=(0.9, config.beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )
