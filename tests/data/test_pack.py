"""The packed file: A.3.2 as plain h5py sees it, exact texts, safe writing, safe reading."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from urllib.parse import unquote

import h5py
import numpy as np
import pytest
from h5py import h5f, h5o
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from rlfseg.data.masks import rasterise
from rlfseg.data.packed.prepare import Example
from rlfseg.data.packed.read import Pack
from rlfseg.data.packed.refined import add_refined, refined_by
from rlfseg.data.packed.schema import PackError, key_of, keys_of
from rlfseg.data.packed.store import compress
from rlfseg.data.packed.write import PackReport, write_pack
from rlfseg.data.sample import Polygons, Sample

CAPTIONS = [
    "small striped star",
    "a/b",
    "/",
    ".",
    "..",
    "100% black & white?",
    "🦊 fox",
    "الكلب الأسود",
    " leading and trailing ",
    "e\N{COMBINING ACUTE ACCENT}",
    "é",
    "long " * 2000,
    "🦊" * 10_000,
]


def picture(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    """A smooth picture, so that resizing it is meaningful."""
    rows, columns = np.mgrid[:height, :width]
    planes = [rows * 7 + seed, columns * 5, (rows + columns) * 3]
    return np.stack(planes, -1).astype(np.uint8)


def blob(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width)) < 0.4


def examples(captions: list[str], image_id: str = "7", truth: bool = False) -> list[Example]:
    return [
        Example(
            image_id, picture(3), c, blob(n), blob(n + 50) if truth else None, (f"task{n}", "x")
        )
        for n, c in enumerate(captions)
    ]


def pack_of(path: Path, content: list[Example], size: int | None = None) -> Pack:
    write_pack(content, path, size=size)
    return Pack(path)


# Keys and captions


def test_plain_h5py_reads_the_file_as_the_paper_describes_it(tmp_path: Path) -> None:
    content = examples(CAPTIONS) + examples(["star"], image_id="a/8")
    write_pack(content, tmp_path / "a.h5", size=None)
    with h5py.File(tmp_path / "a.h5") as file:
        assert set(file) == {"7", "a%2F8"}
        assert set(file["7"]) == {"image", "mask"}
        np.testing.assert_array_equal(file["7"]["image"], picture(3))
        masks = {d.attrs["caption"].decode(): d for d in file["7"]["mask"].values()}
        assert set(masks) == set(CAPTIONS)
        for number, caption in enumerate(CAPTIONS):
            dataset = masks[caption]
            assert (dataset.dtype, dataset.compression) == (np.uint8, "gzip")
            assert dataset.compression_opts == 1
            np.testing.assert_array_equal(dataset, blob(number))
            assert list(dataset.attrs["ids"]) == [f"task{number}".encode(), b"x"]
            key = dataset.name.rsplit("/", 1)[1]
            if "#" not in key:
                assert unquote(key) == caption
        assert file["a%2F8"].attrs["image_id"] == b"a/8"


def test_texts_need_no_heap(tmp_path: Path) -> None:
    """In a damaged heap HDF5's library can look for a text for ever."""
    write_pack(examples(CAPTIONS), tmp_path / "a.h5", size=None)
    pack = Pack(tmp_path / "a.h5")
    masks = [pack.masks(number)[0] for number in range(len(pack))]
    add_refined(pack, masks, made_of="é")
    assert b"GCOL" not in (tmp_path / "a.h5").read_bytes()
    assert refined_by(tmp_path / "a.h5") == "é"


def test_texts_of_any_length_are_read_as_they_once_were_written(tmp_path: Path) -> None:
    write_pack(examples(CAPTIONS), tmp_path / "a.h5", size=None)
    with h5py.File(tmp_path / "a.h5") as file:
        before = dict(file.attrs)
    expected = Pack(tmp_path / "a.h5").ids(0)

    def earlier(_name: str, node: h5py.Group | h5py.Dataset) -> None:
        for name, value in dict(node.attrs).items():
            node.attrs[name] = value.decode() if name != "ids" else [i.decode() for i in value]

    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.visititems(earlier)
        for name in ("format", "content_hash"):
            file.attrs[name] = before[name].decode()
    assert b"GCOL" in (tmp_path / "a.h5").read_bytes()
    pack = Pack(tmp_path / "a.h5")
    pack.validate()
    assert pack.ids(0) == expected and isinstance(expected[0], str)


def test_our_reader_finds_every_caption(tmp_path: Path) -> None:
    pack = pack_of(tmp_path / "a.h5", examples(CAPTIONS))
    pack.validate()
    assert pack.captions("7") == tuple(CAPTIONS)
    for number, caption in enumerate(CAPTIONS):
        assert pack.find("7", caption) == number
        np.testing.assert_array_equal(pack[number].mask, blob(number))
        assert pack.ids(number) == (f"task{number}", "x")


@pytest.mark.parametrize(
    ("caption", "message"),
    [("", "empty caption"), ("a\0b", "NUL"), ("\ud800", "no valid Unicode")],
)
def test_captions_that_hdf5_cannot_keep_are_refused(
    tmp_path: Path, caption: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_pack(examples([caption]), tmp_path / "a.h5", size=None)
    with pytest.raises(ValueError, match=message.replace("caption", "image id")):
        write_pack(examples(["a"], image_id=caption), tmp_path / "a.h5", size=None)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(captions=st.lists(TEXT | st.text("./%#", min_size=1), min_size=1, max_size=6, unique=True))
@settings(max_examples=40, deadline=None)
def test_any_caption_comes_back(
    tmp_path_factory: pytest.TempPathFactory, captions: list[str]
) -> None:
    path = tmp_path_factory.mktemp("any") / "a.h5"
    pack = pack_of(path, examples(captions, image_id=captions[0]))
    pack.validate()
    assert [pack[n].caption for n in range(len(pack))] == captions
    assert pack.image_ids == (captions[0],)
    assert [pack[n].mask.tolist() for n in range(len(pack))] == [
        blob(n).tolist() for n in range(len(captions))
    ]


@given(text=TEXT)
def test_a_short_key_decodes_to_its_text(text: str) -> None:
    key = key_of(text)
    assert key.isascii() and "/" not in key and key.strip(".")
    assert len(key) <= 255
    if "#" not in key:
        assert unquote(key) == text


def test_long_captions_that_share_a_beginning_keep_apart() -> None:
    keys = {key_of("x" * 300 + end) for end in ("a", "b", "é")} | {key_of("x" * 254)}
    assert len(keys) == 4


@given(texts=st.lists(TEXT, max_size=4))
def test_equal_captions_of_an_image_have_keys_of_their_own(texts: list[str]) -> None:
    said = [*texts, *texts, "x" * 253, "x" * 253]
    keys = keys_of(said)
    assert len(set(keys)) == len(said) and all(len(key) <= 255 for key in keys)
    first = {text: keys[said.index(text)] for text in said}
    assert first == {text: key_of(text) for text in said}  # as where an image has each once


# Merging, truth, resizing


def test_duplicates_are_united_counted_and_keep_their_ids(tmp_path: Path) -> None:
    content = examples(["cat", "dog", "cat", "cat"], truth=True)
    report = write_pack(content, tmp_path / "a.h5", size=None)
    assert (report.images, report.phrases, report.merged) == (1, 2, 2)
    pack = Pack(tmp_path / "a.h5")
    item = pack[pack.find("7", "cat")]
    np.testing.assert_array_equal(item.mask, blob(0) | blob(2) | blob(3))
    np.testing.assert_array_equal(item.truth, blob(50) | blob(52) | blob(53))
    assert pack.ids(0) == ("task0", "x", "task2", "x", "task3", "x")
    assert pack.captions("7") == ("cat", "dog")


def test_the_same_caption_on_two_images_is_not_merged(tmp_path: Path) -> None:
    report = write_pack(
        examples(["cat"]) + examples(["cat", "dog"], image_id="8"), tmp_path / "a.h5", size=None
    )
    assert (report.images, report.phrases, report.merged) == (2, 3, 0)
    pack = Pack(tmp_path / "a.h5")
    assert pack.item_image.tolist() == [0, 1, 1]
    assert [pack.find("7", "cat"), pack.find("8", "cat")] == [0, 1]


def test_truth_and_refined_masks_are_read_where_they_are(tmp_path: Path) -> None:
    content = examples(["cat"], truth=True) + examples(["cat"], image_id="8")
    path = tmp_path / "a.h5"
    write_pack(content, path, size=None)
    with h5py.File(path, "a") as file:
        refined = file["8"].create_group("mask_refined")
        refined.create_dataset("cat", data=blob(9).astype(np.uint8)).attrs["caption"] = "cat"
    pack = Pack(path)
    pack.validate()
    first, second = pack[0], pack[-1]
    np.testing.assert_array_equal(first.truth, blob(50))
    np.testing.assert_array_equal(second.refined, blob(9))
    assert first.refined is None and second.truth is None
    assert second.mask.dtype == second.refined.dtype == np.bool_


def test_resizing_is_antialiased_for_the_image_and_nearest_for_masks(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 254
    half = np.zeros((64, 64), bool)
    half[:, 32:] = True
    pack = pack_of(tmp_path / "a.h5", [Example("1", stripes, "right half", half, half)], size=16)
    item = pack[0]
    assert item.image.shape == (16, 16, 3) and item.mask.shape == (16, 16)
    assert abs(item.image[:, 2:-2].astype(int) - 127).max() <= 2  # the stripes are averaged
    for mask in (item.mask, item.truth):
        assert mask[:, 8:].all() and not mask[:, :8].any()


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 700)),
    rows=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    density=st.sampled_from([0, 0.001, 0.5, 1]),
    seed=st.integers(0, 99),
)
@settings(max_examples=100, deadline=None)
def test_a_compressed_mask_is_a_zlib_stream_of_it(
    shape: tuple[int, int], rows: tuple[float, float], density: float, seed: int
) -> None:
    mask = (np.random.default_rng(seed).random(shape) < density).astype(np.uint8)
    first, last = sorted(round(part * len(mask)) for part in rows)
    mask[:first] = mask[last:] = 0
    assert zlib.decompress(compress(mask)) == mask.tobytes()


def test_a_large_mask_is_compressed_well() -> None:
    mask = np.zeros((3000, 4000), np.uint8)
    mask[1000:2000, 500:700] = 1
    packed = compress(mask)
    assert zlib.decompress(packed) == mask.tobytes()
    assert len(packed) < 1.1 * len(zlib.compress(mask, 1))


def test_native_sizes_are_kept(tmp_path: Path) -> None:
    tall = Example("2", picture(1, 40, 10), "a", blob(1, 40, 10))
    pack = pack_of(tmp_path / "a.h5", [*examples(["a"]), tall])
    assert [pack.image(k).shape for k in (0, 1)] == [(24, 32, 3), (40, 10, 3)]
    assert pack[1].mask.shape == (40, 10)


def test_an_image_file_is_decoded_once_for_its_records(tmp_path: Path) -> None:
    file = tmp_path / "p.png"
    Image.fromarray(picture(4)).convert("P").save(file)
    expected = np.asarray(Image.open(file).convert("RGB"))
    content = [Example("1", file, c, blob(0)) for c in ("a", "b")]
    np.testing.assert_array_equal(pack_of(tmp_path / "a.h5", content)[1].image, expected)


# What is refused


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([Example("9", picture(0), "cat", blob(0, 24, 31))], "image '9'.*31 x 24.*32 x 24"),
        ([Example("9", picture(0), "cat", blob(0).astype(np.uint8))], "image '9'.*bool"),
        ([Example("9", picture(0) / 255, "cat", blob(0))], "image '9' is float64"),
        ([*examples(["a"]), *examples(["a"], "8"), *examples(["b"])], "'7' returns"),
        ([*examples(["a"], truth=True), *examples(["b"])], "for some phrases only"),
        ([Example("7", picture(n), str(n), blob(n)) for n in (0, 1)], "different images"),
        (
            [Example("7", Path("none.jpg"), "a", blob(0))],
            r"image '7': there is no picture none\.jpg",
        ),
        ([], "no record"),
    ],
)
def test_records_that_contradict_themselves(
    tmp_path: Path, content: list[Example], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_pack(content, tmp_path / "a.h5", size=None)
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_photograph_is_named(tmp_path: Path) -> None:
    photo = tmp_path / "cut.jpg"
    Image.fromarray(picture(0, 200, 200)).save(photo)
    photo.write_bytes(photo.read_bytes()[:-600])
    with pytest.raises(PackError, match=r"cut\.jpg can't be read"):
        write_pack([Example("1", photo, "a", blob(0, 200, 200))], tmp_path / "a.h5", size=None)


# Writing


def test_the_content_hash_depends_on_the_content_alone(tmp_path: Path) -> None:
    def packed(name: str, content: list[Example]) -> PackReport:
        return write_pack(content, tmp_path / name, size=16)

    base = packed("a.h5", examples(["cat", "dog"], truth=True))
    assert packed("b.h5", examples(["cat", "dog"], truth=True)) == base
    assert base.bytes == (tmp_path / "a.h5").stat().st_size
    assert Pack(tmp_path / "a.h5").content_hash == base.content_hash
    others = [
        examples(["cat", "dog"]),
        examples(["dog", "cat"], truth=True),
        examples(["cat", "dogs"], truth=True),
        examples(["cat", "dog"], image_id="8", truth=True),
    ]
    hashes = {packed(f"{n}.h5", other).content_hash for n, other in enumerate(others)}
    assert len(hashes | {base.content_hash}) == 5


def _interrupted() -> Iterator[Example]:
    yield from examples(["a", "b"])
    yield from examples(["a"], image_id="8")
    raise KeyboardInterrupt


def _killed() -> Iterator[Example]:
    yield from examples(["a", "b"])
    yield from examples(["a"], image_id="8")
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_pack(_interrupted(), tmp_path / "a.h5", size=None)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_rewrite_leaves_the_earlier_file(tmp_path: Path) -> None:
    before = pack_of(tmp_path / "a.h5", examples(["cat"]))
    with pytest.raises(KeyboardInterrupt):
        write_pack(_interrupted(), tmp_path / "a.h5", size=None)
    after = Pack(tmp_path / "a.h5")
    after.validate()
    assert after.content_hash == before.content_hash


def test_a_killed_writer_leaves_no_file_at_the_final_name(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    worker = multiprocessing.get_context("fork").Process(
        target=write_pack, args=(_killed(), path), kwargs={"size": None}
    )
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    assert not path.exists()
    write_pack(examples(["a"]), path, size=None)
    assert len(Pack(path)) == 1


# Reading


def _digest(pack: Pack, number: int) -> bytes:
    item = pack[number]
    return item.caption.encode() + item.image.tobytes() + item.mask.tobytes()


def test_a_pickled_reader_and_forked_workers_read_the_same(tmp_path: Path) -> None:
    pack = pack_of(tmp_path / "a.h5", examples([f"thing {n}" for n in range(8)]))
    expected = [_digest(pack, n) for n in range(8)]  # the parent's handle is open when forking
    again = pickle.loads(pickle.dumps(pack))
    assert [_digest(again, n) for n in range(8)] == expected
    global _SHARED
    _SHARED = pack
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(2, mp_context=context) as workers:
        assert list(workers.map(_digest, [pack] * 8, range(8))) == expected
        assert list(workers.map(_inherited_digest, range(8))) == expected
    assert [_digest(pack, n) for n in range(8)] == expected


_SHARED: Pack


def _inherited_digest(number: int) -> bytes:
    return _digest(_SHARED, number)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    pack = pack_of(tmp_path / "a.h5", examples(["cat"]))
    with pytest.raises(KeyError, match="no caption 'dog'"):
        pack.find("7", "dog")
    with pytest.raises(KeyError, match="no image '8'"):
        pack.captions("8")
    for number in (1, -2):
        with pytest.raises(IndexError):
            pack[number]
    with pytest.raises(FileNotFoundError, match=r"b\.h5"):
        Pack(tmp_path / "b.h5")


def test_a_closed_reader_lets_others_write_and_opens_again(tmp_path: Path) -> None:
    pack = pack_of(tmp_path / "a.h5", examples(["cat"]))
    assert pack[0].refined is None
    pack.close()
    with h5py.File(pack.path, "a") as file:
        file["7/mask_refined/cat"] = blob(5).astype(np.uint8)
    np.testing.assert_array_equal(pack[0].refined, blob(5))


def test_a_reader_notices_that_its_file_was_packed_anew(tmp_path: Path) -> None:
    pack = pack_of(tmp_path / "a.h5", examples(["cat"]))
    write_pack(examples(["dog"]), tmp_path / "a.h5", size=None)
    before = h5f.get_obj_count(where=h5f.OBJ_ALL, types=h5f.OBJ_FILE)
    with pytest.raises(PackError, match=r"a\.h5 was packed anew") as told:
        pack[0]
    assert told.tb is not None  # whose frames have the file still
    assert h5f.get_obj_count(where=h5f.OBJ_ALL, types=h5f.OBJ_FILE) == before


@pytest.mark.parametrize("place", ["7", "7/mask/cat"])
def test_refined_masks_for_a_damaged_file_are_refused_naming_it(tmp_path: Path, place: str) -> None:
    pack = pack_of(tmp_path / "a.h5", examples(["cat"]))
    with h5py.File(pack.path) as file:
        start = h5o.get_info(file[place].id).addr
    with pack.path.open("r+b") as raw:
        raw.seek(start)
        raw.write(bytes(4))
    with pytest.raises(PackError, match=r"a\.h5: 7 can't be read .*: copy the file again"):
        add_refined(pack, [blob(5)], made_of="x")
    assert {path.name for path in tmp_path.glob(".*")} == set()


def test_an_index_that_the_system_cannot_read_is_not_called_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    pack_of(tmp_path / "a.h5", examples(["cat"]))
    monkeypatch.setattr(np, "load", fails)
    with pytest.raises(OSError, match="Input/output error"):
        Pack(tmp_path / "a.h5")


def test_broken_files_give_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    index = tmp_path / "a.h5.index.npz"
    write_pack(examples(["cat", "dog"]), path, size=None)
    whole, whole_index = path.read_bytes(), index.read_bytes()

    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PackError, match=r"a\.h5 is no readable HDF5 file"):
        Pack(path)
    path.write_bytes(b"not hdf5 at all")
    with pytest.raises(PackError, match=r"a\.h5 is no readable HDF5 file"):
        Pack(path)
    path.unlink()
    with h5py.File(path, "w") as file:
        file["image"] = 1
    with pytest.raises(PackError, match="not a packed file"):
        Pack(path)

    path.write_bytes(whole)
    for broken in (whole_index[:100], b"", b"nothing"):
        index.write_bytes(broken)
        with pytest.raises(PackError, match=r"index\.npz can't be read"):
            Pack(path)
    index.write_bytes(whole_index)
    with np.load(index) as arrays:
        held = dict(arrays)
    for first in (np.array(1), held["first"] + 1):
        np.savez(index, **{**held, "first": first})
        with pytest.raises(PackError, match=r"index\.npz can't be read"):
            Pack(path)
    index.unlink()
    with pytest.raises(PackError, match=r"index\.npz is missing"):
        Pack(path)

    write_pack(examples(["cat"]), tmp_path / "b.h5", size=None)
    shutil.copy(tmp_path / "b.h5.index.npz", index)
    with pytest.raises(PackError, match="belongs to another packed file"):
        Pack(path)
    index.write_bytes(whole_index)
    Pack(path).validate()


def _delete(place: str):
    return lambda file: file.__delitem__(place)


def _replace(place: str, value: np.ndarray):
    def change(file: h5py.File) -> None:
        attributes = dict(file[place].attrs)
        del file[place]
        file[place] = value
        file[place].attrs.update(attributes)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_delete("7/mask/cat"), "/7/mask lacks 'cat'"),
        (_delete("7/image"), "/7 lacks 'image'"),
        (lambda file: file.create_group("other"), "/ holds 'other'"),
        (lambda file: file["7"].create_group("maks"), "/7 holds 'maks'"),
        (lambda file: file["7"].create_group("mask_refined"), "/7/mask_refined lacks"),
        (lambda file: file["7/mask/cat"].attrs.__setitem__("caption", "cow"), "/7/mask/cat .*cow"),
        (lambda file: file["7/mask/cat"].attrs.__delitem__("ids"), "/7/mask/cat lacks.*ids"),
        (_replace("7/mask/cat", np.full((24, 32), 255, np.uint8)), "/7/mask/cat holds 255"),
        (_replace("7/mask/cat", np.ones((24, 31), np.uint8)), r"/7/mask/cat has shape \(24, 31\)"),
        (_replace("7/mask/cat", np.ones((24, 32))), "/7/mask/cat is no dataset of uint8"),
        (_replace("7/image", np.zeros((24, 32), np.uint8)), "/7/image has shape"),
        (_replace("7/mask/cat", np.ones((24, 32), np.uint8)), "differs from its content_hash"),
    ],
)
def test_validate_names_the_file_and_the_key(tmp_path: Path, change, message: str) -> None:
    path = tmp_path / "a.h5"
    write_pack(examples(["cat", "dog"]), path, size=None)
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(PackError, match=rf"a\.h5.*({message})"):
        Pack(path).validate()


def test_a_damaged_mask_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_pack(examples(["cat", "dog"]), path, size=None)
    with h5py.File(path) as file:
        chunk = file["7/mask/dog"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(data)
    pack = Pack(path)
    np.testing.assert_array_equal(pack[0].mask, blob(0))
    with pytest.raises(PackError, match=r"a\.h5: 7/mask/dog can't be read"):
        pack[1]
    with pytest.raises(PackError, match="/7/mask/dog can't be read"):
        pack.validate()


@pytest.mark.parametrize("place", ["7/image", "7/mask/cat"])
@pytest.mark.parametrize("value", [None, np.ones((24, 32))])
def test_a_strange_dataset_is_named_when_it_is_read(tmp_path: Path, place: str, value) -> None:
    path = tmp_path / "a.h5"
    write_pack(examples(["cat"]), path, size=None)
    with h5py.File(path, "a") as file:
        del file[place]
        if value is None:
            file.create_group(place)
        else:
            file[place] = value
    with pytest.raises(PackError, match=rf"a\.h5: {place} can't be read"):
        Pack(path)[0]


# Real photographs


@pytest.mark.inputs
def test_two_real_photographs_and_their_polygons(inputs: Path, tmp_path: Path) -> None:
    folder = inputs / "coco_train2017"
    coco = json.loads((folder / "instances_train2017.json").read_text())
    names = {c["id"]: c["name"] for c in coco["categories"]}
    drawn: list[Sample] = []
    theirs: dict[tuple[str, str], np.ndarray] = {}
    for entry in coco["images"]:
        photo = folder / "images" / entry["file_name"]
        if not photo.is_file() or len({s.image_id for s in drawn}) == 2:
            continue
        width, height, image_id = entry["width"], entry["height"], str(entry["id"])
        for annotation in (a for a in coco["annotations"] if a["image_id"] == entry["id"]):
            if annotation["iscrowd"]:
                continue
            caption, rings = names[annotation["category_id"]], annotation["segmentation"]
            region = Polygons((tuple(np.array(ring).reshape(-1, 2) for ring in rings),))
            ids = {"ann_id": annotation["id"]}
            drawn.append(Sample(image_id, photo, caption, "train", width, height, region, ids))
            mask = coco_mask.decode(coco_mask.frPyObjects(rings, height, width)).any(-1)
            theirs[image_id, caption] = theirs.get((image_id, caption), False) | mask
    content = [
        Example(s.image_id, s.image_path, s.caption, rasterise(s), ids=(str(s.ids["ann_id"]),))
        for s in drawn
    ]
    report = write_pack(content, tmp_path / "native.h5", size=None)
    assert (report.images, report.phrases) == (2, len(theirs))
    assert report.merged == len(drawn) - len(theirs)
    native = Pack(tmp_path / "native.h5")
    native.validate()
    square = pack_of(tmp_path / "square.h5", content, size=512)
    for (image_id, caption), mask in theirs.items():
        item = native[native.find(image_id, caption)]
        photo = next(s.image_path for s in drawn if s.image_id == image_id)
        np.testing.assert_array_equal(item.image, np.asarray(Image.open(photo).convert("RGB")))
        iou = (item.mask & mask).sum() / (item.mask | mask).sum()
        assert iou > (0.9 if mask.sum() > 2000 else 0.6)  # the two rasterisers differ at the border
        small = square[square.find(image_id, caption)]
        assert small.image.shape == (512, 512, 3)
        assert small.mask.mean() == pytest.approx(item.mask.mean(), rel=0.1, abs=2e-4)
