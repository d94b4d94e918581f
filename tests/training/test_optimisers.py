"""Who steps on what, and how far: Muon for matrices, AdamW for the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from together import CONFIG, Regression, batch
from torch import nn

from rlfseg.training.loop import Losses, fit, learning_rate
from rlfseg.training.optimisers import optimisers

pytestmark = pytest.mark.skipif(
    not hasattr(torch.optim, "Muon"), reason="PyTorch has Muon from 2.9 on"
)
MUON = replace(CONFIG, muon=0.02)


class Mixed(nn.Module):
    """A table, a convolution and two linear layers, of which one is frozen."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.table = nn.Embedding(4, 6)
            self.convolution = nn.Conv1d(1, 2, 3)
            self.frozen = nn.Linear(6, 6).requires_grad_(False)
            self.linear = nn.Linear(6, 4)


def test_each_parameter_has_one_optimiser_and_matrices_have_muon() -> None:
    model = Mixed()
    muon, adamw = optimisers(model, MUON)
    owned = [p for each in (muon, adamw) for group in each.param_groups for p in group["params"]]
    assert muon.param_groups[0]["params"] == [model.linear.weight]
    assert {id(p) for p in owned} == {id(p) for p in model.parameters() if p.requires_grad}
    assert len(owned) == 4 + 1 and isinstance(muon, torch.optim.Muon)
    (alone,) = optimisers(model, CONFIG)
    assert isinstance(alone, torch.optim.AdamW) and len(alone.param_groups[0]["params"]) == 5


def test_a_matrix_goes_as_far_in_every_direction_at_the_size_of_adamws_steps() -> None:
    """The step of a matrix m x n is lr * 0.2 * sqrt(max(m, n)) times a near orthogonal one."""
    config = replace(MUON, weight_decay=0.0, warmup=0, schedule="constant", clip=100.0)
    torch.manual_seed(0)
    model, slopes = nn.Linear(6, 4, bias=False), torch.randn(4, 6)
    before = model.weight.detach().clone()

    class Slope(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> Losses:
            return Losses((self.model.weight * slopes).sum() + 0 * x)

    list(fit(Slope(), lambda step: torch.zeros(3), config, accelerator=Accelerator(), until=1))
    step = (before - model.weight.detach()) / (config.muon * 0.2 * 6**0.5)
    left, strength, right = torch.linalg.svd(slopes, full_matrices=False)
    turned = left.T @ step @ right.T  # in the gradient's own directions, all alike
    assert strength.max() > 2 * strength.min()
    torch.testing.assert_close(turned, torch.diag(turned.diag()), atol=0.05, rtol=0)
    assert float(turned.diag().min()) > 0.6 and float(turned.diag().max()) < 1.25


@pytest.mark.parametrize("stop", [1, 4, 10])
def test_a_resumed_run_by_muon_equals_an_uninterrupted_one(tmp_path: Path, stop: int) -> None:
    file, whole, parted = tmp_path / "checkpoint.safetensors", Regression(), Regression()
    expected = list(fit(whole, batch, MUON, accelerator=Accelerator()))
    first = fit(Regression(), batch, MUON, accelerator=Accelerator(), checkpoint=file, until=stop)
    steps = list(first)
    steps += fit(parted, batch, MUON, accelerator=Accelerator(), checkpoint=file)
    assert [step.loss for step in steps] == [step.loss for step in expected]
    assert torch.equal(parted.free.weight, whole.free.weight)
    assert torch.equal(parted.free.bias, whole.free.bias)


def test_both_follow_the_schedule_each_at_its_own_rate() -> None:
    """After the warm-up's first step of three, a bias has moved by a third of AdamW's rate."""
    config, model = replace(MUON, weight_decay=0.0), Regression()
    bias = model.free.bias.detach().clone()
    (step,) = fit(model, batch, config, accelerator=Accelerator(), until=1)
    assert step.lr == learning_rate(config, 1) == pytest.approx(config.lr / 3)
    moved = (model.free.bias.detach() - bias).abs()
    torch.testing.assert_close(moved, torch.full((2,), config.lr / 3), rtol=1e-3, atol=0)


def test_muon_without_a_matrix_or_of_an_old_torch_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match="muon: no linear layer's weight is trained"):
        optimisers(nn.Conv1d(1, 2, 3), MUON)
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ValueError, match=r"muon: PyTorch has it from 2\.9 on, and this is 2\."):
        optimisers(Mixed(), MUON)
