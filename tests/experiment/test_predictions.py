"""Predictions of other programs: a run's own come back exactly, and what is wrong is named."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bounds import little_memory
from PIL import Image

from rlfseg.book.paper import Result, predicted_cells
from rlfseg.book.paper.predicted import check_row, keep_predicted
from rlfseg.config import SamplerConfig
from rlfseg.data.files import digest
from rlfseg.evaluation.given import read_prediction, resized
from rlfseg.evaluation.predict import predict
from rlfseg.experiment import (
    Run,
    Scoring,
    field_and_data,
    item_names,
    packed,
    scored,
    scored_predictions,
    source_folder,
    write_items,
)

pytestmark = pytest.mark.integration

ONE = SamplerConfig("one")


@pytest.fixture(scope="module")
def folder(run: Run, repo: Path) -> Path:
    """The run's own score maps of its test split."""
    v, cache = field_and_data(run, "test")
    names, out = item_names(cache.pack), repo / "own"
    for part in predict(v, cache, range(len(names)), ONE):
        for item, score in zip(part.items, part.scores.numpy(), strict=True):
            path = out / f"{names[item]}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, score)
    return out


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def first(run: Run, folder: Path) -> Path:
    return folder / f"{item_names(packed(run, 'test'))[0]}.npy"


def test_a_runs_own_predictions_have_its_own_numbers(run: Run, folder: Path, repo: Path) -> None:
    ours, theirs = (
        scored(run, Scoring("test", sampler=ONE)),
        scored_predictions(run, "test", folder),
    )
    assert np.array_equal(ours.annotation.histogram, theirs.annotation.histogram)
    assert np.array_equal(ours.annotation.ap, theirs.annotation.ap)
    assert np.array_equal(ours.annotation.image_id, theirs.annotation.image_id)
    made_of = {"folder": "own", "sha256": digest(folder)}
    path = keep_predicted(run, "LD-ZNet", theirs, made_of)
    assert path.parent == repo / "runs" / "smoke" / "predictions" / "table_1"
    cells = predicted_cells(run, 1)
    assert set(cells) == {("LD-ZNet", "mIoU"), ("LD-ZNet", "AP")}
    miou = cells["LD-ZNet", "mIoU"]
    assert isinstance(miou, Result) and not miou.is_comparable
    assert miou.value == pytest.approx(100 * ours.annotation.miou().value)
    assert made_of["sha256"][:16] in miou.note and miou.readings
    assert json.loads(path.read_text())[0]["provenance"]["predictions"] == made_of
    assert predicted_cells(run, 3) == {}


def test_masks_as_png_of_either_depth_are_the_same_masks(run: Run, copy: Path) -> None:
    level = scored_predictions(run, "test", copy).annotation.oiou(0.5)
    for number, path in enumerate(sorted(copy.rglob("*.npy"))):
        mask = np.load(path) > 0.5
        kinds = (mask.astype(np.uint8) * 255, mask.astype(np.uint16) * 65535, mask)
        Image.fromarray(kinds[number % 3]).save(path.with_suffix(".png"))
        path.unlink()
    assert scored_predictions(run, "test", copy).annotation.oiou(0.5) == level


def test_real_pictures_may_be_predicted_at_their_own_size(run: Run, tmp_path: Path) -> None:
    root = source_folder(run)
    small = run.on(replace(run.data, source=str(root), pixels=8))
    pack, whole = packed(small, "test"), packed(run, "test")
    for item, name in enumerate(item_names(pack)):
        place = pack.image_ids[pack.item_image[item]], pack.caption(item)
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(whole.masks(whole.find(*place))[0]).save(path)
    found = scored_predictions(small, "test", tmp_path)
    assert found.native is not None
    assert found.native.oiou(0.5) == 1 and set(found.native.pixels) == {256}
    assert found.annotation.oiou(0.5) == 1 and set(found.annotation.pixels) == {64}


def test_a_mask_is_resized_by_its_nearest_pixel_and_a_score_between_them() -> None:
    mask = np.kron(np.eye(2, dtype=np.float32), np.ones((3, 3), np.float32))
    assert np.array_equal(resized(mask, 2, 2)[0].numpy(), np.eye(2))
    between = resized(0.5 * mask, 4, 4)[0].numpy()
    assert len(np.unique(between)) > 2


def test_the_list_names_every_item(run: Run, folder: Path, tmp_path: Path) -> None:
    count = write_items(run, "test", tmp_path / "items.csv")
    with (tmp_path / "items.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    pack = packed(run, "test")
    assert count == len(rows) == len(pack)
    for item, row in enumerate(rows):
        assert (folder / f"{row['name']}.npy").is_file()
        assert row["phrase"] == pack.caption(item) and row["ids"].split() == list(pack.ids(item))


def test_what_is_missing_is_named_with_its_number(run: Run, copy: Path) -> None:
    path = first(run, copy)
    path.unlink()
    count = len(packed(run, "test"))
    with pytest.raises(FileNotFoundError, match=rf"1 of {count} .* missing.*{path.stem}"):
        scored_predictions(run, "test", copy)
    with pytest.raises(FileNotFoundError, match="is no folder of predictions"):
        scored_predictions(run, "test", copy / "none")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((16, 9), np.float32), "is 9 x 16; it must be square, or 16 x 16"),
        (np.zeros((16, 16), np.uint8), r"holds uint8 \(16, 16\); it must be floats"),
        (np.zeros((1, 16, 16), np.float32), "it must be floats"),
        (np.full((16, 16), np.nan, np.float32), "its values go from nan"),
        (np.full((16, 16), 7.0), "of logits, take the sigmoid"),
        (np.array([[{"a": 1}]], dtype=object), "Python objects in dtype"),
    ],
)
def test_a_wrong_array_is_named(run: Run, copy: Path, array: np.ndarray, message: str) -> None:
    path = first(run, copy)
    np.save(path, array)
    with pytest.raises(ValueError, match=message) as error:
        scored_predictions(run, "test", copy)
    assert str(path) in str(error.value)


def test_an_arrays_header_is_no_longer_than_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((4, 4), np.float32))
    content = bytearray(path.read_bytes())
    content[6:7] = b"\x03"  # whose length has four bytes, here from the text behind
    path.write_bytes(content)
    told = pytest.raises(ValueError, match=r"a.npy is no prediction: its header claims more than")
    with little_memory(), told:
        read_prediction(path)


def test_a_wrong_picture_is_named(run: Run, copy: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (16, 16)).save(path)
    with pytest.raises(ValueError, match=r"a\.png .* mode RGB; it must be grey"):
        read_prediction(path)
    Image.fromarray(np.eye(16, dtype=np.uint8)).save(path)
    with pytest.raises(ValueError, match="holds 0 and 1 of 255; a mask is 0 and 255"):
        read_prediction(path)
    path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a\.png is no prediction"):
        read_prediction(path)
    own = first(run, copy)
    Image.new("L", (16, 16)).save(own.with_suffix(".png"))
    with pytest.raises(ValueError, match="is there twice"):
        scored_predictions(run, "test", copy)


def test_a_row_is_of_its_tables_split() -> None:
    check_row("refcoco", "val", "VPD, fully supervised")
    with pytest.raises(ValueError, match="Table 1 has no row 'SemFlow'; it has RMI"):
        check_row("phrasecut", "test", "SemFlow")
    with pytest.raises(ValueError, match="Table 2's rows are of the split val, not testA"):
        check_row("refcoco", "testA", "VPD, fully supervised")
