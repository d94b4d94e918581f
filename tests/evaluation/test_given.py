"""Predictions at the size of a photograph that is no square, as masks of other programs are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rlfseg.data.packed.prepare import Example
from rlfseg.data.packed.read import Pack
from rlfseg.data.packed.write import write_pack
from rlfseg.evaluation.given import count_given, read_prediction

NAMES = ("low", "wide", "corner")


def masks() -> list[np.ndarray]:
    """Of photographs of 9 rows and 16 columns."""
    found = np.zeros((3, 9, 16), bool)
    found[0, 6:, 2:11] = found[1, 2:4, 1:] = found[2, :5, 9:] = True
    return list(found)


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    photo = np.zeros((9, 16, 3), np.uint8)
    examples = [Example(n, photo, "a thing", m) for n, m in zip(NAMES, masks(), strict=True)]
    write_pack(examples, tmp_path / "a.h5", size=8)
    return Pack(tmp_path / "a.h5")


def predicted(folder: Path, some: list[np.ndarray]) -> Path:
    folder.mkdir()
    for name, mask in zip(NAMES, some, strict=True):
        Image.fromarray(mask).save(folder / f"{name}.png")
    return folder


def test_a_mask_of_the_photographs_own_size_is_counted_at_it(pack: Pack, tmp_path: Path) -> None:
    found = count_given(predicted(tmp_path / "p", masks()), NAMES, pack, native=masks().__getitem__)
    assert found.native is not None and set(found.native.pixels) == {9 * 16}
    assert found.native.iou[:, 24].tolist() == [1, 1, 1]
    assert found.native.positives.tolist() == [mask.sum() for mask in masks()]
    assert set(found.annotation.pixels) == {8 * 8} and found.annotation.miou_lavt(0.5) == 1
    assert found.native.image_id.tolist() == found.annotation.image_id.tolist() == list(NAMES)


def test_an_array_without_values_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", np.zeros((0, 5), np.float32))
    with pytest.raises(ValueError, match=r"none\.npy is no prediction: it holds float32 \(0, 5\)"):
        read_prediction(tmp_path / "none.npy")


def test_a_square_is_stretched_to_the_photograph(pack: Pack, tmp_path: Path) -> None:
    square = [np.kron(mask, np.ones((16, 9), bool)) for mask in masks()]  # 144 x 144
    found = count_given(predicted(tmp_path / "p", square), NAMES, pack, native=masks().__getitem__)
    assert found.native is not None and found.native.miou_lavt(0.5) == 1


def test_a_photographs_size_on_its_side_is_refused(pack: Pack, tmp_path: Path) -> None:
    folder = predicted(tmp_path / "p", [mask.T for mask in masks()])
    with pytest.raises(ValueError, match=r"low\.png is 9 x 16; it must be square, or 16 x 9"):
        count_given(folder, NAMES, pack, native=masks().__getitem__)
    folder = predicted(tmp_path / "q", masks())
    with pytest.raises(ValueError, match=r"low\.png is 16 x 9; it must be square, or 8 x 8"):
        count_given(folder, NAMES, pack)
