"""A pickle of plain data comes back whole, also one of Python 2; any other is refused, unrun."""

from __future__ import annotations

import io
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlfseg.data.files import field
from rlfseg.data.safe_pickle import load

REFS = [
    {
        "ref_id": 2,
        "ann_id": 1719310,
        "file_name": "COCO_train2014_000000581857_16.jpg",
        "category_id": 1,
        "split": "train",
        "sent_ids": [8, 9],
        "score": -0.5,
        "checked": True,
        "note": None,
        "big": 2**40,
        "box": (1, -2, 70_000),
        "sentences": [
            {"sent_id": 8, "raw": "Navy blue shirt", "tokens": ["navy", "it's", "a\\b\n"]},
            {"sent_id": 9, "raw": "caf\u00e9 \u2192 \U0001f98a", "tokens": []},
        ],
    }
]


def python2(value: Any, protocol: int) -> bytes:
    """What Python 2 writes: ASCII text as its `str`, other text as `unicode`."""
    out = io.BytesIO()
    if protocol == 2:
        out.write(b"\x80\x02")
    _emit(value, protocol, out)
    out.write(b".")
    return out.getvalue()


def _emit(value: Any, protocol: int, out: io.BytesIO) -> None:
    old = protocol == 0
    if value is None:
        out.write(b"N")
    elif isinstance(value, bool):
        out.write((b"I01\n" if value else b"I00\n") if old else (b"\x88" if value else b"\x89"))
    elif isinstance(value, int):
        if old:
            out.write(b"L%dL\n" % value if abs(value) >= 2**31 else b"I%d\n" % value)
        elif 0 <= value < 256:
            out.write(b"K" + bytes([value]))
        elif abs(value) < 2**31:
            out.write(b"J" + struct.pack("<i", value))
        else:
            digits = value.to_bytes(9, "little", signed=True)
            out.write(b"\x8a" + bytes([len(digits)]) + digits)
    elif isinstance(value, float):
        out.write(b"F%r\n" % value if old else b"G" + struct.pack(">d", value))
    elif isinstance(value, str) and value.isascii():
        body = value.encode()
        quoted = repr(body)[1:].encode()
        out.write(b"S" + quoted + b"\n" if old else b"U" + bytes([len(body)]) + body)
    elif isinstance(value, str):
        body = value.encode("raw-unicode-escape" if old else "utf-8")
        out.write(b"V" + body + b"\n" if old else b"X" + struct.pack("<I", len(body)) + body)
    elif isinstance(value, tuple):
        out.write(b"(")
        for item in value:
            _emit(item, protocol, out)
        out.write(b"t")
    elif isinstance(value, list):
        out.write(b"(l" if old else b"](")
        for item in value:
            _emit(item, protocol, out)
            out.write(b"a" if old else b"")
        out.write(b"" if old else b"e")
    else:
        out.write(b"(d" if old else b"}(")
        for key, item in value.items():
            _emit(key, protocol, out)
            _emit(item, protocol, out)
            out.write(b"s" if old else b"")
        out.write(b"" if old else b"u")


def written(folder: Path, content: bytes) -> Path:
    path = folder / "refs(unc).p"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", [0, 2])
def test_a_python_2_pickle_comes_back_whole(tmp_path: Path, protocol: int) -> None:
    content = python2(REFS, protocol)
    if protocol == 0:
        assert b"S'ref_id'\nI2\n" in content and b"\nV" in content
    else:
        assert b"U\x06ref_idK\x02" in content
    found = load(written(tmp_path, content))
    assert found == REFS
    assert all(type(key) is str for key in found[0])
    assert type(found[0]["box"]) is tuple and found[0]["checked"] is True


def test_a_python_2_text_is_utf_8_or_refused(tmp_path: Path) -> None:
    assert load(written(tmp_path, b"U\x05caf\xc3\xa9.")) == "café"
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p is not a complete pickle.*utf-8"):
        load(written(tmp_path, b"U\x04caf\xe9."))


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(trees, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_data_of_every_protocol_comes_back(
    tmp_path_factory: pytest.TempPathFactory, tree: Any, protocol: int
) -> None:
    path = written(tmp_path_factory.getbasetemp(), pickle.dumps(tree, protocol))
    assert load(path) == tree


def test_sets_and_bytes_of_new_protocols_come_back(tmp_path: Path) -> None:
    content = {"a": {1, 2}, "b": b"\x00\xff"}
    assert load(written(tmp_path, pickle.dumps(content, 4))) == content


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (b"cos\nsystem\n(S'touch MARK'\ntR.", "os.system"),
        (b"\x80\x02cos\nsystem\nU\x0atouch MARK\x85R.", "os.system"),
        (b'c__builtin__\neval\n(S\'open("MARK", "w")\'\ntR.', "__builtin__.eval"),
        (b"\x80\x02cbuiltins\neval\nU\x11open('MARK', 'w')\x85R.", "builtins.eval"),
        (b"(S'touch MARK'\nios\nsystem\n.", "os.system"),
        (b"(cos\nsystem\nS'touch MARK'\no.", "os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0atouch MARK\x85R.", "os.system"),
        (b"ccopy_reg\n_reconstructor\n(c__main__\nA\nc__builtin__\nobject\nNtR.", "copy_reg._rec"),
        (b"\x80\x02ccopyreg\n_reconstructor\n(cos\n_wrap_close\nNNtR.", "copyreg._reconstructor"),
        (b"\x80\x02csubprocess\nPopen\n)\x81}b.", "subprocess.Popen"),
        (pickle.dumps(OrderedDict(a=1), 0), "collections.OrderedDict"),
        (pickle.dumps({1, 2}, 2), "builtins.set|__builtin__.set"),
        (pickle.dumps(Path("a"), 4), "pathlib"),
        (b"S'MARK'\nQ.", "outside the file"),
        (b"PMARK\n.", "outside the file"),
        (b"\x80\x02\x82\x01.", "not a complete pickle"),  # a registered extension: none is
        (b"\x80\x02]}b.", "not a complete pickle"),  # BUILD on plain data
        (b"S'os.system'\n(S'touch MARK'\ntR.", "not a complete pickle"),  # REDUCE of a text
        (b"\x80\x02U\x02os)\x81.", "not a complete pickle"),  # NEWOBJ of a text
    ],
)
def test_a_pickle_that_asks_for_more_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: bytes, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ran: list[Any] = []
    monkeypatch.setattr(os, "system", ran.append)
    path = written(tmp_path, attack)
    with pytest.raises(ValueError, match=rf"refs\(unc\)\.p is .*({named})"):
        load(path)
    assert not ran and list(tmp_path.iterdir()) == [path]


def test_the_attacks_of_this_file_do_run_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the test above would notice."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(b"\x80\x02cbuiltins\neval\nU\x11open('MARK', 'w')\x85R.").close()
    assert (tmp_path / "MARK").is_file()


@pytest.mark.parametrize("protocol", [0, 2])
def test_a_truncated_file_is_named_wherever_it_ends(tmp_path: Path, protocol: int) -> None:
    whole = python2(REFS, protocol)
    for end in [*range(0, len(whole), 7), len(whole) - 1]:
        with pytest.raises(ValueError, match=r"refs\(unc\)\.p is not a complete pickle"):
            load(written(tmp_path, whole[:end]))


@pytest.mark.parametrize("content", [b"<html>404</html>", b"version https://git-lfs", b"\x80\xff."])
def test_a_file_that_is_no_pickle_is_named(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p is not a complete pickle"):
        load(written(tmp_path, content))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere.p")


def test_lists_that_share_lists_are_told_in_few_words(tmp_path: Path) -> None:
    """Each level doubles the text of all, so that some hundred bytes could fill the memory."""
    shared: list[Any] = []
    for _ in range(60):
        shared = [shared, shared]
    (entry,) = load(written(tmp_path, pickle.dumps([{"split": shared}], protocol=2)))
    with pytest.raises(ValueError, match=r"'split' is \[.*, of type list") as told:
        field(entry, "split", str, "here")
    assert len(str(told.value)) < 200
