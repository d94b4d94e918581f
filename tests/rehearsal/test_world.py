"""The rehearsal's world has the oddities that it is made for, and all readers take it."""

from __future__ import annotations

import pickletools
from collections import Counter
from pathlib import Path

import numpy as np
import official
import pytest
from PIL import Image

from rlfseg.data.catalogue import read
from rlfseg.data.check import check
from rlfseg.data.masks import rasterise
from rlfseg.data.phrasecut import size_mismatches
from rlfseg.data.sample import by_image

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("official")
    official.write(folder)
    return folder


def test_it_depends_on_the_seed_alone(data: Path, tmp_path: Path) -> None:
    official.write(tmp_path)
    files = [path.relative_to(data) for path in sorted(data.rglob("*")) if path.is_file()]
    assert len(files) > 100
    assert all((data / f).read_bytes() == (tmp_path / f).read_bytes() for f in files)


def test_pictures_have_every_aspect(data: Path) -> None:
    sizes = [Image.open(path).size for path in (data / "refer").rglob("*.jpg")]
    assert min(w / h for w, h in sizes) < 0.75 and max(w / h for w, h in sizes) > 1.33


def test_turned_pictures_are_found_by_check_and_by_packing(data: Path) -> None:
    root = data / "VGPhraseCut_v0"
    found = {each.image_id for s in official.COUNTS for each in size_mismatches(root, s)}
    assert found == {str(n) for n in (*official.TURNED.values(), *official.ON_ITS_SIDE.values())}
    assert f"{len(found)} of 40 differ" in check("phrasecut", root).as_text()


def test_the_check_finds_nothing_wrong_but_that_it_is_another_release(data: Path) -> None:
    for name, folder in (("phrasecut", "VGPhraseCut_v0"), *((n, "refer") for n in REFER)):
        lines = [line for line in check(name, data / folder).lines if line.level == "problem"]
        assert lines and all("another release" in line.advice for line in lines)


REFER = ("refcoco", "refcoco+", "refcocog")


@pytest.mark.parametrize("dataset", REFER)
def test_sentences_are_said_twice_of_a_picture(data: Path, dataset: str) -> None:
    said = Counter((s.image_id, s.caption) for s in read(dataset, data / "refer", "train"))
    assert max(said.values()) > 1


def test_pickles_are_as_python_2_wrote_them(data: Path) -> None:
    written = (data / "refer/refcoco/refs(unc).p").read_bytes()
    names = {opcode.name for opcode, _, _ in pickletools.genops(written)}
    assert {"SHORT_BINSTRING", "BINPUT", "BINGET"} <= names and "BINUNICODE" not in names


def test_every_mask_of_every_set_is_drawn(data: Path) -> None:
    sets = [("phrasecut", "VGPhraseCut_v0", s) for s in official.COUNTS]
    sets += [(name, "refer", "val") for name in REFER] + [("cocostuff", "cocostuff", "val2017")]
    for name, folder, split in sets:
        areas = [rasterise(sample).mean() for sample in by_image(read(name, data / folder, split))]
        assert len(areas) > 10 and np.mean(areas) > 0.01
