"""Costs whose answer is known beforehand."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_backbone
from torch import nn

from rlfseg.evaluation.cost import Cost, copy_rate, costs_of, count_flop, in_turns, matrix_rate
from rlfseg.pipeline import RLFSegPipeline

CPU = torch.device("cpu")


def test_flops_are_those_of_the_formula() -> None:
    convolution = nn.Conv2d(3, 8, 5, padding=2)
    x = torch.rand(2, 3, 16, 16)
    assert count_flop(lambda: convolution(x)) == 2 * 2 * 8 * 16 * 16 * 3 * 25
    a, b = torch.rand(7, 11), torch.rand(11, 5)
    assert count_flop(lambda: a @ b) == 2 * 7 * 11 * 5
    assert count_flop(lambda: a + 1) == 0


def test_pieces_take_turns_and_the_median_counts() -> None:
    order: list[str] = []
    naps = iter([0.0, 0.0, 0.2, 0.0, 0.0, 0.0])

    def work(name: str) -> None:
        order.append(name)
        if name == "b":
            time.sleep(next(naps))

    taken = in_turns({"a": lambda: work("a"), "b": lambda: work("b")}, rounds=5, device=CPU)
    assert order == ["a", "b"] * 6 and taken["b"] < 0.1  # one slow round is not the median
    with pytest.raises(ValueError, match="at least 1, got 0"):
        in_turns({}, rounds=0, device=CPU)


def test_a_nap_is_measured() -> None:
    taken = in_turns({"nap": lambda: time.sleep(0.02)}, rounds=2, device=CPU)
    assert 0.02 <= taken["nap"] < 0.2


def test_parts_scale_with_the_batch_and_add_up(tmp_path: Path) -> None:
    pipe = RLFSegPipeline.from_backbone(tiny_backbone(tmp_path / "tiny"))
    (one, _), (three, whole) = (costs_of(pipe, batch=b, rounds=3) for b in (1, 3))
    assert list(one) == ["text", "encode", "UNet", "rescale", "decode"]
    for name in ("encode", "UNet", "decode", "text"):
        assert three[name].flop == 3 * one[name].flop > 0
    assert one["rescale"].flop == 0
    z = torch.rand(1, 4, 8, 8)
    c = pipe.codec.text(["a"])
    assert one["UNet"].flop == count_flop(lambda: pipe.velocity(z, torch.ones(1), c))
    assert all(part.seconds > 0 for part in three.values())
    assert whole > 0.5 * sum(part.seconds for part in three.values())
    weights = 4 * sum(p.numel() for p in pipe.unet.parameters())
    assert one["UNet"].bytes == weights + 4 * (z.numel() + c.numel() + z.numel())
    grown = three["UNet"].bytes - one["UNet"].bytes
    assert grown == 2 * 4 * (2 * z.numel() + c.numel())  # weights are moved once a batch


def test_rates() -> None:
    cost = Cost(seconds=0.5, flop=100, bytes=20)
    assert cost.rate == 200 and cost.intensity == 5
    assert matrix_rate("cpu", torch.float32, side=256, rounds=2) > 1e8
    assert copy_rate("cpu", megabytes=8, rounds=2) > 1e8


def test_rates_are_what_is_worked_and_moved_by_the_seconds_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flop: list[int] = []

    def half_a_second(works: Mapping[str, Callable[[], Any]], **_: object) -> dict[str, float]:
        flop.extend(map(count_flop, works.values()))
        return dict.fromkeys(works, 0.5)

    monkeypatch.setattr("rlfseg.evaluation.cost.in_turns", half_a_second)
    assert matrix_rate("cpu", torch.float32, side=7) == 2 * 7**3 / 0.5
    assert flop == [2 * 7**3]
    assert copy_rate("cpu", megabytes=3) == 2 * 3 * 2**20 / 0.5
