"""What a CLIP recognises in pictures: the measure itself, on pictures whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_backbone
from torch import Tensor

from rlfseg.stand_ins import recognition
from rlfseg.stand_ins.recognition import PAIRS, asked_for, draw, recognised


def test_each_pair_is_asked_for_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asked_for(500)
    counts = {pair: asked.count(pair) for pair in PAIRS}
    assert len(asked) == 500 and set(counts.values()) == {500 // len(PAIRS), 500 // len(PAIRS) + 1}
    assert ("red", "star") not in counts  # held out


def test_colour_and_shape_are_counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures say by their level which pair they are seen as."""

    def seen(_: object, pictures: Tensor) -> Tensor:
        number = ((pictures[:, 0, 0, 0] + 1) * 127.5).round().long()
        return torch.eye(len(PAIRS))[number]

    monkeypatch.setattr(recognition, "seen", seen)
    monkeypatch.setattr(recognition, "heard", lambda *_: torch.eye(len(PAIRS)))
    monkeypatch.setattr(recognition, "tokens", lambda *_: torch.zeros(1))
    clip = torch.nn.Linear(1, 1)
    clip.device = torch.device("cpu")  # type: ignore[assignment]
    wanted = list(PAIRS[:3])
    red_circle = next(k for k, pair in enumerate(PAIRS) if pair[0] == PAIRS[2][0] and k != 2)
    shown = [0, next(k for k, p in enumerate(PAIRS) if p[1] == PAIRS[1][1] and k != 1), red_circle]
    images = np.array(shown, np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    found = recognised(clip, None, images, wanted)  # type: ignore[arg-type]
    assert found.both.share == pytest.approx(1 / 3)
    assert found.shape.share == found.colour.share == pytest.approx(2 / 3)
    assert found.both.asked == 3


@pytest.mark.integration
def test_pictures_are_drawn_by_their_texts_and_the_seed(tmp_path: Path) -> None:
    folder = tiny_backbone(tmp_path)
    how = {"pixels": 16, "device": torch.device("cpu"), "steps": 2, "batch": 2}
    texts = ["red star", "small blue circle", "green heart"]
    first, again = (draw(folder, texts, **how) for _ in range(2))  # type: ignore[arg-type]
    assert first.shape == (3, 16, 16, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, draw(folder, texts, seed=1, **how))  # type: ignore[arg-type]
    other = draw(folder, ["blue moon", *texts[1:]], **how)  # type: ignore[arg-type]
    assert not np.array_equal(first[0], other[0])
    assert np.array_equal(first[2], other[2])
    (file,) = (folder / "unet").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match=f"{folder} can't be loaded"):
        draw(folder, texts, **how)  # type: ignore[arg-type]
