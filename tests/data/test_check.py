"""The check finds each planted fault, names file and key, and reports nothing else."""

from __future__ import annotations

import io
import json
import pickle
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_phrasecut import task
from test_refer import REFS, content, ref
from test_refer import image as entry
from test_safe_pickle import python2

from rlfseg.__main__ import main
from rlfseg.data.catalogue import REFERRING, read
from rlfseg.data.check import DATASETS, Line, Report, check, cocostuff, images, phrasecut, refer
from rlfseg.data.check.images import Seen, look
from rlfseg.data.cocostuff_names import COCO_STUFF
from rlfseg.data.drawn.write_cocostuff import write_cocostuff
from rlfseg.data.drawn.write_phrasecut import write_phrasecut
from rlfseg.data.drawn.write_refer import write_refer
from rlfseg.data.phrasecut import CLIPSEG_LEFT_OUT

SIZE = (20, 12)


def noise(*, size: tuple[int, int] = SIZE, form: str = "JPEG", **options: Any) -> bytes:
    """An image file that does not compress to nothing."""
    out = io.BytesIO()
    Image.effect_noise(size, 90).convert(options.pop("mode", "RGB")).save(out, form, **options)
    return out.getvalue()


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Change what a JSON file holds."""
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def texts(line: Line) -> str:
    every = [line.what, line.found, line.expected, *line.examples, line.advice]
    return " ".join(text for text in every if text)


def only_problem(report: Report, *words: str) -> Line:
    """The one problem of a report; it names all these."""
    (line,) = (line for line in report.lines if line.level == "problem")
    for word in words:
        assert word in texts(line), (word, line)
    assert not report.ok
    assert report.as_text().encode() and report.to_json().encode()
    return line


def notes(report: Report) -> str:
    return " | ".join(texts(line) for line in report.lines if line.level == "note")


# --- the report -------------------------------------------------------------------------------


@given(
    st.lists(
        st.builds(
            Line,
            level=st.sampled_from(["ok", "note", "problem"]),
            what=st.text(max_size=60),
            found=st.text(max_size=120),
            expected=st.text(max_size=60),
            examples=st.lists(st.text(max_size=150), max_size=7),
            advice=st.text(max_size=200),
        ),
        max_size=4,
    )
)
@settings(max_examples=40, deadline=None)
def test_a_report_is_readable_by_people_and_machines(lines: list[Line]) -> None:
    report = Report("phrasecut", "/data/" + "folder/" * 30, tuple(lines))
    for width in (60, 100):
        text = report.as_text(width=width)
        assert max(map(len, text.split("\n"))) <= width
        shown = "".join(text.split())
        for line in lines:
            for part in (*line.examples, line.advice):
                assert "".join(part.split()) in shown
    back = json.loads(report.to_json())
    assert [Line(**held) for held in back["lines"]] == lines
    assert all(len(held["examples"]) <= 5 for held in back["lines"])
    assert back["ok"] is report.ok is all(line.level != "problem" for line in lines)


def test_columns_are_aligned() -> None:
    found = "images/a_long_name_that_wraps.jpg and more words than a column holds " * 2
    lines = (
        Line("ok", "first", "2 images", "2 images"),
        Line("problem", "second", found, "3 images", ["one", "two"], "mend it"),
    )
    rows = Report("refcoco", "there", lines).as_text().splitlines()
    at = rows[1].index("expected")
    assert rows[2][at:] == rows[2][rows[2].rindex("2 images") :] == "2 images"
    assert rows[3].startswith("problem  second  images/") and rows[3][at:] == "3 images"
    assert {"         - one", "         - two", "         -> mend it"} <= set(rows)
    assert rows[-1] == "problems: 1, notes: 0, ok: 1"


# --- image files ------------------------------------------------------------------------------

KINDS = {
    "plain": {},
    "gray": {"mode": "L"},
    "four inks": {"mode": "CMYK"},
    "progressive": {"progressive": True},
    "long profile": {"icc_profile": random.Random(0).randbytes(150_000)},  # three segments
    "thumbnail": {"exif": b"Exif\0\0" + noise(size=(8, 8))},
    "png": {"form": "PNG"},
    "palette": {"form": "PNG", "mode": "P"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_pillows_and_a_file_cut_anywhere_is_cut_short(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "1.jpg"
    whole = noise(size=(37, 23), **KINDS[kind])
    for tail in (b"", b"\0" * 3000):  # some programs write on after the end
        path.write_bytes(whole + tail)
        assert look(path) == Seen((37, 23))
    for length in (8, 9, len(whole) - 1, *range(10, len(whole), max(1, len(whole) // 90))):
        path.write_bytes(whole[:length])
        seen = look(path)
        assert seen.fault == "cut short" and seen.size in (None, (37, 23)), length


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "1.jpg"
    for written, seen in (
        (noise(form="GIF", mode="L"), Seen(SIZE)),
        (b"<html>", Seen(None, "no image")),
        (b"", Seen(None, "cut short")),
        (noise().replace(b"\xff\xdb", b"\xff\xff\xff\xdb", 1), Seen(SIZE)),  # fill bytes
    ):
        path.write_bytes(written)
        assert look(path) == seen
    assert look(tmp_path / "2.jpg") == Seen(None, "missing")
    assert look(tmp_path) == look(tmp_path / "\0.jpg") == Seen(None, "unreadable")


@given(st.binary(max_size=80), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]))
@settings(max_examples=60, deadline=None)
def test_no_bytes_stop_a_look(more: bytes, start: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(start + more)
        look(Path(file.name))


@pytest.mark.inputs
def test_real_photos_are_whole(inputs: Path) -> None:
    paths = sorted(p for p in inputs.rglob("*.jpg"))
    assert len(paths) > 30
    for path, seen in zip(paths, images.in_threads(look, paths), strict=True):
        with Image.open(path) as image:
            assert seen == Seen(image.size)


# --- PhraseCut --------------------------------------------------------------------------------


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """PhraseCut's files: two images in val, one in test, one of them COCO's."""
    (tmp_path / "images").mkdir()
    for image_id in (5, 11, 20):
        (tmp_path / "images" / f"{image_id}.jpg").write_bytes(noise())
    table = [
        {"image_id": i, "width": 20, "height": 12, "split": "val", "coco_id": coco}
        for i, coco in ((5, None), (11, 1100), (20, None), (30, 3000))  # 30 has no phrase
    ]
    (tmp_path / "image_data_split.json").write_text(json.dumps(table))
    (tmp_path / "refer_val.json").write_text(json.dumps([task(11), task(5, 1), task(11, 2)]))
    (tmp_path / "refer_test.json").write_text(json.dumps([task(20)]))
    return tmp_path


def phrasecuts(root: Path, **options: Any) -> Report:
    return check("phrasecut", root, **{"official": False, **options})


def test_a_clean_set_has_no_problem(cut: Path) -> None:
    report = phrasecuts(cut)
    assert report.ok, report.as_text()
    assert "refer_val.json 2 images, 3 phrases not the official set" in notes(report)
    assert "with a coco_id: val 1, test 0" in notes(report)
    found = {line.what: line.found for line in report.lines if line.level == "ok"}
    assert found["image files"] == "3 there and whole"
    assert found["image_data_split.json"] == "4 images"


def drop(path: str, size: int) -> Callable[[Path], object]:
    """Cut a file's last bytes off."""
    return lambda root: (root / path).write_bytes((root / path).read_bytes()[:-size])


def put_tasks(*tasks: Any, split: str = "val") -> Callable[[Path], object]:
    return lambda root: (root / f"refer_{split}.json").write_text(json.dumps(tasks))


def grow_table(*more: dict[str, Any]) -> Callable[[Path], object]:
    return lambda root: edit(root / "image_data_split.json", lambda table: [*table, *more])


FAULTS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "truncated JSON": (drop("refer_val.json", 40), ("refer_val.json", "at byte", "bytes")),
    "truncated table": (drop("image_data_split.json", 5), ("image_data_split.json", "at byte")),
    "no UTF-8": (
        lambda root: (root / "refer_test.json").write_bytes(b'["\xff"]'),
        ("refer_test.json", "no UTF-8 text: at byte 2 of 5 bytes"),
    ),
    "another kind": (
        lambda root: (root / "refer_test.json").write_text("{}"),
        ("refer_test.json", "holds a dict, not a list"),
    ),
    "no table": (lambda root: (root / "image_data_split.json").unlink(), ("split3000.json",)),
    "missing image": (
        lambda root: (root / "images" / "5.jpg").unlink(),
        ("1 of 3 missing", "images/5.jpg (image 5)"),
    ),
    "cut JPEG": (drop("images/11.jpg", 9), ("1 of 3 cut short", "images/11.jpg (image 11)")),
    "web page": (
        lambda root: (root / "images" / "11.jpg").write_bytes(b"<html>"),
        ("1 of 3 no image", "images/11.jpg"),
    ),
    "EPS": (
        lambda root: Image.new("RGB", (9, 9)).save(root / "images" / "11.jpg", "EPS"),
        ("1 of 3 no image", "images/11.jpg"),  # packing doesn't take it
    ),
    "no images": (lambda root: (root / "images").rename(root / "pictures"), ("images not there",)),
    "unknown image": (
        put_tasks(task(5), task(77)),
        ("refer_val.json, task number 1: image_id '77'", "not in the table"),
    ),
    "overlap": (
        put_tasks(task(20, 7), task(5), split="test"),
        ("splits", "refer_val.json and refer_test.json: image_id '5'"),
    ),
    "task twice": (put_tasks(task(5), task(5)), ("task_id '5__0' 2 times",)),
    "image twice": (
        grow_table({"image_id": 5, "width": 20, "height": 12}),
        ("image_data_split.json: image_id '5' 2 times",),
    ),
    "climbing name": (
        grow_table({"image_id": "../9", "width": 20, "height": 12}),
        ("image_data_split.json, entry number 4", "no plain file name"),
    ),
    "no phrase": (put_tasks(task(5), task(11, 1, phrase=None)), ("task number 1", "'phrase'")),
    "empty phrase": (put_tasks(task(5, phrase="")), ("task number 0", "'phrase' is ''")),
    "half a letter": (
        put_tasks(task(5, phrase="a\ud800")),
        ("task number 0", "packing leaves out"),
    ),
    "NUL": (put_tasks(task(5, phrase="a\0b")), ("task number 0", "packing leaves out")),
    "flat polygons": (
        put_tasks(task(5, Polygons=[[1, 2]])),
        ("refer_val.json 1 of 1 can't be drawn", "task number 0: Polygons is not"),
    ),
    "no task": (put_tasks(task(5), 3), ("refer_val.json, task number 1", "'image_id' is missing")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_nothing_else(cut: Path, fault: str) -> None:
    plant, words = FAULTS[fault]
    plant(cut)
    only_problem(phrasecuts(cut), *words)


def test_images_in_the_folders_of_their_archives_are_not_fetched_again(cut: Path) -> None:
    (cut / "images").rename(cut / "VG_100K")
    (cut / "images").mkdir()
    (cut / "VG_100K").rename(cut / "images" / "VG_100K")
    (line,) = [each for each in phrasecuts(cut).lines if "folders in it" in each.found]
    assert line.level == "problem" and "images/VG_100K" in line.found and "Move" in line.advice


def test_the_byte_where_json_ends_is_named(cut: Path) -> None:
    whole = json.dumps([task(5, phrase="Fuß")], ensure_ascii=False).encode()
    (cut / "refer_val.json").write_bytes(whole[:-1])
    line = only_problem(phrasecuts(cut), f"at byte {len(whole) - 1} of {len(whole) - 1} bytes")
    assert line.what == "refer_val.json"


def test_tasks_that_draw_nothing_are_a_note(cut: Path) -> None:
    put_tasks(task(5, Polygons=[[], [[]], [[[1, 2]]]]), task(11, Polygons=[]))(cut)
    report = phrasecuts(cut)
    assert report.ok
    assert "2 draw nothing" in notes(report) and "refer_val.json, task number 1" in notes(report)


def test_counts_are_compared_with_the_published_ones(
    cut: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = {"val": ((9, 9), (2, 3)), "test": ((1, 1),), "miniv": ((100, 821),)}
    monkeypatch.setattr(phrasecut, "PUBLISHED", published)
    report = phrasecuts(cut, official=None)
    assert report.ok, report.as_text()
    assert "refer_miniv.json not there" in notes(report)
    (val,) = (line for line in report.lines if line.what == "refer_val.json")
    assert (val.level, val.found) == ("ok", "2 images, 3 phrases")
    published["test"] = ((1, 1_234),)
    only_problem(phrasecuts(cut, official=True), "refer_test.json", "1 images, 1,234 phrases")
    monkeypatch.setitem(phrasecut.EARLIER, "test", (1, 1))
    report = phrasecuts(cut, official=True)
    assert report.ok and "earlier release" in notes(report)
    (cut / "refer_test.json").unlink()
    only_problem(phrasecuts(cut, official=True), "refer_test.json not there")


def test_the_published_counts_add_up() -> None:
    first = [counts[0] for split, counts in phrasecut.PUBLISHED.items() if split != "miniv"]
    assert [sum(column) for column in zip(*first, strict=True)] == [77_262, 345_486]
    assert sum(images for images, _ in phrasecut.EARLIER.values()) == 77_262
    refs = [sum(splits.values()) for splits in refer.PUBLISHED.values()]
    assert refs == [50_000, 49_856, 49_822]


def put_sizes(root: Path, image_ids: set[str]) -> None:
    """A set of images whose files all have another size than annotated."""
    table = [{"image_id": int(i), "width": 20, "height": 12} for i in sorted(image_ids)]
    (root / "image_data_split.json").write_text(json.dumps(table))
    put_tasks(*(task(int(i)) for i in image_ids))(root)
    (root / "refer_test.json").unlink(missing_ok=True)
    picture = noise(size=(12, 20))
    for image_id in image_ids:
        (root / "images" / f"{image_id}.jpg").write_bytes(picture)


def test_clipsegs_17_images_are_known_by_name(cut: Path) -> None:
    put_sizes(cut, set(CLIPSEG_LEFT_OUT))
    report = phrasecuts(cut)
    assert report.ok, report.as_text()
    assert "17 of 17 differ, exactly CLIPSeg's 17" in notes(report)
    assert all(image_id in notes(report) for image_id in CLIPSEG_LEFT_OUT)
    assert "no coco_id" in notes(report)
    put_sizes(cut, {"150417", "285665"})
    assert "2 of 2 differ, all 2 among CLIPSeg's 17" in notes(phrasecuts(cut))
    put_sizes(cut, {"150417", "4"})
    report = phrasecuts(cut)
    assert report.ok  # packing leaves out any image whose size differs, on a list or not
    assert "2 of 2 differ, 1 of them of CLIPSeg's 17" in notes(report)
    assert "image 4: the file is 12 x 20" in report.as_text() and "4, 150417" in notes(report)
    for image_id in ("150417", "4"):
        (cut / "images" / f"{image_id}.jpg").write_bytes(noise())
    assert "1 of the 17 that CLIPSeg leaves out" in phrasecuts(cut).as_text()


def test_images_shared_with_coco_sets_are_counted(cut: Path, tmp_path: Path) -> None:
    grow_table({"image_id": 40, "width": 20, "height": 12, "coco_id": 4000})(cut)
    put_tasks(task(20), task(40), split="test")(cut)
    (cut / "images" / "40.jpg").write_bytes(noise())
    coco = tmp_path / "instances_val2017.json"
    coco.write_text(json.dumps({"images": [{"id": 1100}, {"id": 1}, {"id": 3000}]}))
    refs = tmp_path / "refs(unc).p"
    refs.write_bytes(python2([ref(1, 4000, 1, "testA", "a"), ref(2, 7, 2, "train", "b")], 2))
    report = phrasecuts(cut, coco_ids=[coco, str(refs)])
    assert report.ok, report.as_text()
    shared = [(line.what, line.found) for line in report.lines if "shared" in line.what]
    assert shared == [
        ("shared with instances_val2017.json", "of its 3 images: val 1, test 0"),
        ("shared with refs(unc).p testA", "of its 1 images: val 0, test 1"),
        ("shared with refs(unc).p train", "of its 1 images: val 0, test 0"),
    ]
    coco.write_text("{}")
    only_problem(phrasecuts(cut, coco_ids=[coco]), "instances_val2017.json", "'images' is missing")


# --- REFER ------------------------------------------------------------------------------------


@pytest.fixture
def said(tmp_path: Path) -> Path:
    """RefCOCO of UNC with two images, one a split."""
    (tmp_path / "refcoco").mkdir()
    put_refs(*REFS)(tmp_path)
    (tmp_path / "refcoco" / "instances.json").write_text(json.dumps(content()))
    folder = tmp_path / "train2014"
    folder.mkdir()
    for image_id in (5, 11):
        (folder / entry(image_id)["file_name"]).write_bytes(noise())
    return tmp_path


def put_refs(*refs: Any, partition: str = "unc") -> Callable[[Path], object]:
    def write(root: Path) -> None:
        (root / "refcoco" / f"refs({partition}).p").write_bytes(python2(list(refs), 2))

    return write


def change(number: int, **values: Any) -> Callable[[Path], object]:
    """Write the refs with one of them changed."""
    return put_refs(*(r | values if n == number else r for n, r in enumerate(REFS)))


def set_instances(change: Callable[[Any], object]) -> Callable[[Path], object]:
    def write(root: Path) -> None:
        held = content()
        change(held)
        (root / "refcoco" / "instances.json").write_text(json.dumps(held))

    return write


def test_clean_refs_have_no_problem(said: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = check("refcoco", said, official=False)
    assert report.ok, report.as_text()
    assert "refs(unc).p train 2 refs, 4 sentences, 1 images not the official" in notes(report)
    monkeypatch.setitem(refer.PUBLISHED, ("refcoco", "unc"), {"train": 2, "testA": 1})
    put_refs(*REFS, partition="google")(said)
    report = check("refcoco", said)
    assert report.ok, report.as_text()
    assert "refs(google).p train 2 refs, 4 sentences, 1 images no published count" in notes(report)
    monkeypatch.setitem(refer.PUBLISHED, ("refcoco", "unc"), {"train": 2, "testA": 1, "testB": 7})
    only_problem(check("refcoco", said), "refs(unc).p testB 0 refs", "7 refs")


ORPHAN = {"id": 1, "image_id": 4, "segmentation": []}
REFER_FAULTS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no refs": (
        lambda root: (root / "refcoco" / "refs(unc).p").unlink(),
        ("refs(unc).p not there",),
    ),
    "cut pickle": (drop("refcoco/refs(unc).p", 9), ("refs(unc).p", "not a complete pickle")),
    "code": (
        lambda root: (root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(print)),
        ("refs(unc).p", "refused", "nothing was run"),
    ),
    "no list": (
        lambda root: (root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(3)),
        ("refs(unc).p", "holds a int"),
    ),
    "cut instances": (drop("refcoco/instances.json", 9), ("instances.json", "at byte")),
    "unknown annotation": (change(1, ann_id=7), ("refs(unc).p, ref number 1: ann_id 7",)),
    "unknown image": (change(1, image_id=7), ("refs(unc).p, ref number 1: image_id 7",)),
    "another image": (
        change(1, ann_id=100),
        ("ref number 1: image_id is 5, its annotation's 11",),
    ),
    "ref twice": (change(1, ref_id=1), ("refs(unc).p: ref_id 1 2 times",)),
    "sentence twice": (
        change(1, sentences=REFS[0]["sentences"]),
        ("refs(unc).p: sent_id 10 2 times",),
    ),
    "shared image": (
        change(2, split="testA"),
        ("train and testA 1", "image 11 in train and testA"),
    ),
    "no split": (change(0, split=None), ("ref number 0: 'split' is None",)),
    "empty sentence": (
        change(0, sentences=[{"sent_id": 1, "raw": "", "sent": ""}]),
        ("ref number 0, sentence number 0: 'sent' is ''",),
    ),
    "annotation twice": (
        set_instances(lambda held: held["annotations"].append(held["annotations"][0])),
        ("instances.json: annotation id 100 2 times",),
    ),
    "annotation of nothing": (
        set_instances(lambda held: held["annotations"].append(ORPHAN)),
        ("instances.json, annotation 1: image_id 4",),
    ),
    "unspeakable name": (
        set_instances(lambda held: held["images"][0].update(file_name="\ud800.jpg")),
        ("1 of 2 unreadable", "(image 5)"),
    ),
    "wrong size": (
        set_instances(lambda held: held["images"][1].update(width=21)),
        ("image 11: the file is 20 x 12, annotated 21 x 12",),
    ),
    "missing image": (
        lambda root: (root / "train2014" / entry(5)["file_name"]).unlink(),
        ("1 of 2 missing", "train2014/COCO_train2014_000000000005.jpg (image 5)"),
    ),
    "no images": (lambda root: (root / "train2014").rename(root / "x"), ("images not there",)),
    "no folder": (lambda root: (root / "refcoco").rename(root / "x"), ("refcoco no such folder",)),
}


@pytest.mark.parametrize("fault", REFER_FAULTS)
def test_a_fault_of_refer_is_found_and_nothing_else(said: Path, fault: str) -> None:
    plant, words = REFER_FAULTS[fault]
    plant(said)
    only_problem(check("refcoco", said, official=False), *words)


def test_googles_splits_may_share_images(said: Path) -> None:
    other = {**REFS[2], "split": "val"}
    put_refs(REFS[0], other, partition="google")(said)
    report = check("refcoco", said, official=False)
    assert report.ok, report.as_text()
    assert "train and val 1" in notes(report) and "part the objects" in notes(report)


# --- COCO-Stuff -------------------------------------------------------------------------------

MAP = np.array([[0, 91], [181, 255]], np.uint8)


@pytest.fixture
def stuff(tmp_path: Path) -> Path:
    """COCO-Stuff's val2017 of two images, as maps and as JSON."""
    for name in ("stuffthingmaps/val2017", "images/val2017", "annotations"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("000000000007", "000000000009"):
        Image.fromarray(MAP).save(tmp_path / "stuffthingmaps" / "val2017" / f"{name}.png")
        picture = tmp_path / "images" / "val2017" / f"{name}.jpg"
        picture.write_bytes(noise(size=(2, 2)))
    converted = tmp_path / "stuffthingmaps" / "val2017" / "000000000007_labelTrainIds.png"
    converted.write_bytes(b"")
    categories = [{"id": i + 1, "name": x.name} for i, x in COCO_STUFF.items() if i > 90]
    held = {
        "images": [
            {"id": i, "file_name": f"{i:012d}.jpg", "width": 2, "height": 2} for i in (7, 9)
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 92, "segmentation": []},
            {"id": 2, "image_id": 9, "category_id": 183, "segmentation": []},
        ],
        "categories": [*categories, {"id": 183, "name": "other"}],
    }
    (tmp_path / "annotations" / "stuff_val2017.json").write_text(json.dumps(held))
    return tmp_path


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images are the published count."""
    monkeypatch.setattr(cocostuff, "PUBLISHED", {"val2017": 2})


def test_clean_maps_have_no_problem(stuff: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cocostuff.PUBLISHED == {"val2017": 5_000, "train2017": 118_287}
    monkeypatch.setattr(cocostuff, "PUBLISHED", {"val2017": 2})
    report = check("cocostuff", stuff)
    assert report.ok and not notes(report), report.as_text()
    found = {line.found for line in report.lines}
    assert {"2 maps", "2 images, 2 annotations", "values of 2 of 2 are classes"} <= found
    (stuff / "annotations" / "stuff_val2017.json").unlink()
    assert check("cocostuff", stuff).ok
    monkeypatch.setattr(cocostuff, "PUBLISHED", {"val2017": 2, "train2017": 118_287})
    report = check("cocostuff", stuff)  # one split of it is enough for all but SemFlow's row
    assert report.ok and "train2017 maps not there" in notes(report), report.as_text()
    monkeypatch.setattr(cocostuff, "PUBLISHED", {"val2017": 3})
    only_problem(check("cocostuff", stuff), "val2017 maps 2 maps 3 maps")


def put_map(values: Any, name: str = "000000000009") -> Callable[[Path], object]:
    def write(root: Path) -> None:
        picture = Image.fromarray(np.asarray(values, np.uint8))
        picture.save(root / "stuffthingmaps" / "val2017" / f"{name}.png")

    return write


def set_stuff(part: str, number: int, **values: Any) -> Callable[[Path], object]:
    def update(held: Any) -> Any:
        held[part][number].update(values)
        return held

    return lambda root: edit(root / "annotations" / "stuff_val2017.json", update)


STUFF_FAULTS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "unknown value": (put_map([[0, 200], [0, 0]]), ("000000000009.png: value 200", "last class")),
    "no maps": (
        lambda root: (root / "stuffthingmaps").rename(root / "x"),
        ("val2017 maps not there",),
    ),
    "colours": (
        put_map(np.zeros((2, 2, 3))),
        ("of 2 looked into", "000000000009.png is of mode RGB"),
    ),
    "cut map": (
        drop("stuffthingmaps/val2017/000000000009.png", 9),
        ("1 of 2 cut short", "stuffthingmaps/val2017/000000000009.png"),
    ),
    "map of another size": (
        put_map([[0, 91]]),
        ("000000000009.png is 2 x 1, in the JSON 2 x 2",),
    ),
    "missing image": (
        lambda root: (root / "images" / "val2017" / "000000000009.jpg").unlink(),
        ("val2017 images 1 of 2 missing", "images/val2017/000000000009.jpg"),
    ),
    "image of another size": (
        lambda root: (root / "images" / "val2017" / "000000000009.jpg").write_bytes(noise()),
        ("image 9: the file is 20 x 12, annotated 2 x 2",),
    ),
    "no images": (lambda root: (root / "images").rename(root / "x"), ("val2017 images not there",)),
    "cut JSON": (drop("annotations/stuff_val2017.json", 9), ("stuff_val2017.json", "at byte")),
    "another table": (set_stuff("categories", 0, name="x"), ("category 92 is 'x'",)),
    "unknown image": (set_stuff("annotations", 0, image_id=8), ("annotation 1: image_id 8",)),
    "unknown category": (
        set_stuff("annotations", 0, category_id=66),
        ("annotation 1: category_id 66",),
    ),
    "annotation twice": (set_stuff("annotations", 0, id=2), ("annotation id 2 2 times",)),
    "no category": (
        set_stuff("annotations", 0, category_id=None),
        ("annotation number 0: 'category_id'",),
    ),
}


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("fault", STUFF_FAULTS)
def test_a_fault_of_stuff_is_found_and_nothing_else(stuff: Path, fault: str) -> None:
    plant, words = STUFF_FAULTS[fault]
    plant(stuff)
    only_problem(check("cocostuff", stuff), *words)


@pytest.mark.usefixtures("two")
def test_an_id_that_coco_gave_up_is_a_note_as_packing_takes_it(stuff: Path) -> None:
    put_map([[0, 11], [0, 0]])(stuff)
    report = check("cocostuff", stuff)
    assert report.ok and "000000000009.png: value 11" in notes(report)
    samples = list(read("cocostuff", stuff, "val2017"))
    assert [sample.caption for sample in samples] == ["person", "banner", "wood", "person"]


@pytest.mark.usefixtures("two")
def test_images_without_a_map_are_a_note(stuff: Path) -> None:
    (stuff / "images" / "val2017" / "extra.jpg").write_bytes(noise())
    report = check("cocostuff", stuff)
    assert report.ok and "1 images have none extra.jpg" in notes(report)


# --- all of them ------------------------------------------------------------------------------


def test_the_mini_world_passes_by_its_own_counts(tmp_path: Path) -> None:
    options: dict[str, Any] = {"seed": 1, "pixels": 64, "workers": 1}
    for write in (write_phrasecut, write_refer, write_cocostuff):
        write(tmp_path / write.__name__, counts={"train": 3, "val": 2}, **options)
    roots = {"phrasecut": "write_phrasecut", "cocostuff": "write_cocostuff"}
    roots |= dict.fromkeys(REFERRING, "write_refer")
    assert roots.keys() == set(DATASETS)
    for dataset, root in roots.items():
        report = check(dataset, tmp_path / root)
        assert report.ok, report.as_text()
        assert "not the official set: counts are its own" in notes(report)
    assert not check("phrasecut", tmp_path / "write_phrasecut", official=True).ok


KEYS = [
    *("image_id", "width", "height", "coco_id", "file_name", "id", "split"),
    *("task_id", "ann_ids", "phrase", "Polygons", "phrase_structure"),
    *("images", "annotations", "categories", "category_id", "name", "segmentation"),
]
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=9,
        )
    ),
    max_leaves=12,
)


@given(ANY_JSON, ANY_JSON)
@settings(max_examples=50, deadline=None)
def test_no_content_stops_a_check(one: Any, other: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("refcoco", "annotations", "images/val2017"):
            (root / name).mkdir(parents=True)
        for name in ("refcoco/instances.json", "annotations/stuff_val2017.json", "coco.json"):
            (root / name).write_text(json.dumps(other))
        (root / "image_data_split.json").write_text(json.dumps([other]))
        (root / "refer_val.json").write_text(json.dumps([one]))
        (root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps([one], 2))
        for dataset in ("phrasecut", "refcoco", "cocostuff"):
            ids = [root / "coco.json"] if dataset == "phrasecut" else []
            assert check(dataset, root, coco_ids=ids).as_text()


def test_a_wrong_call_is_refused(cut: Path) -> None:
    with pytest.raises(ValueError, match="unknown data set 'ade'"):
        check("ade", cut)
    with pytest.raises(NotADirectoryError, match="nowhere"):
        check("phrasecut", cut / "nowhere")
    with pytest.raises(ValueError, match="PhraseCut's images only, not refcoco's"):
        check("refcoco", cut, coco_ids=["x.json"])


def test_the_command_says_by_its_status_how_it_went(
    cut: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cut / "mini_truth.json").write_text("{}")
    assert main(["check", "phrasecut", str(cut)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("problems: 0")
    for wrong in (["check", "ade", str(cut)], ["check", "phrasecut", str(cut / "no")], []):
        with pytest.raises(SystemExit) as left:
            main(wrong)
        error = capsys.readouterr().err
        assert left.value.code == 2 and error.count("\n") == 1, error
        assert error.startswith("python -m rlfseg")


@pytest.mark.integration
def test_the_command_prints_json(cut: Path) -> None:
    (cut / "mini_truth.json").write_text("{}")
    (cut / "images" / "5.jpg").unlink()
    (cut / "coco.json").write_text(json.dumps({"images": [{"id": 1100}]}))
    command = ["-m", "rlfseg", "check", "phrasecut", str(cut), "--json"]
    done = subprocess.run(
        [sys.executable, *command, "--coco-ids", str(cut / "coco.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    report = json.loads(done.stdout)
    assert (report["subject"], report["root"], report["ok"]) == ("phrasecut", str(cut), False)
    (problem,) = (line for line in report["lines"] if line["level"] == "problem")
    assert problem["examples"] == ["images/5.jpg (image 5)"]
    assert report["lines"][-1]["found"] == "of its 1 images: val 1, test 0"
