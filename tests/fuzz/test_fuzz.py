"""Damaged files of every kind: each is read, or refused in one line, within bounds.

A seed file is damaged at random, byte by byte, and read. `FUZZ=10000` says how many times for each
kind; what a seed makes is the same on every machine, so that a find can be made again. Bounds: ten
seconds and 256 MB of Python's memory for a file.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from tiny import tiny_backbone, tiny_text, tiny_tokenizer
from transformers import CLIPTextModel

from rlfseg.config import read_yaml
from rlfseg.data.files import load_json
from rlfseg.data.images import as_rgb, read_picture, taken
from rlfseg.data.masks import pixel_map
from rlfseg.data.packed.prepare import Example
from rlfseg.data.packed.read import Pack
from rlfseg.data.packed.schema import PackError, index_path
from rlfseg.data.packed.write import write_pack
from rlfseg.data.safe_pickle import load as load_pickle
from rlfseg.evaluation.counting import count
from rlfseg.evaluation.counts import Counts
from rlfseg.evaluation.given import read_prediction
from rlfseg.models.unet import add_lora, load_trained, load_unet, save_trained
from rlfseg.models.weights import load_part, save_model

TIMES = int(os.environ.get("FUZZ", "25"))
SECONDS, BYTES = 10, 256_000_000
RNG = np.random.default_rng(0)
RGB = RNG.integers(256, size=(24, 20, 3), dtype=np.uint8)


def picture(path: Path, **more: object) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(path, exif=exif, **more)
    return path


def class_map(folder: Path) -> Path:
    path = folder / "map.png"
    Image.fromarray(RGB[..., 0] % 7).save(path)
    return path


def packed(folder: Path) -> Path:
    target = folder / "pack.h5"
    mask = RGB[..., 0] > 99
    write_pack(
        [Example("1", RGB, "a star", mask), Example("1", RGB, "b", ~mask)], target, size=None
    )
    return target


def read_pack(path: Path) -> None:
    """Beside a damaged file lies the index of the whole one, as it would."""
    pack = Pack(path)
    pack.validate()
    for number in range(len(pack)):
        pack[number], pack.ids(number)


def index(folder: Path) -> tuple[Path, Callable[[Path], object]]:
    """Damaged beside a packed file that is whole."""
    target = packed(folder)
    return index_path(target), lambda _: read_pack(target)


def counts(folder: Path) -> Path:
    scores = torch.from_numpy(RNG.random((2, 8, 8), dtype=np.float32))
    count(scores, scores > 0.5, ["1", "2"]).save(folder / "counts.npz")
    return folder / "counts.npz"


def json_file(folder: Path) -> Path:
    path = folder / "a.json"
    entry = {"id": 3, "file_name": "a.jpg", "width": 4, "polygons": [[1.5, 2, 3]], "said": "é"}
    path.write_text(json.dumps({"images": [entry] * 4}), "utf-8")
    return path


def pickled(folder: Path, protocol: int) -> Path:
    path = folder / f"refs{protocol}.p"
    refs = [{"ref_id": n, "sentences": [{"sent": "left man", "raw": "x" * 40}]} for n in range(4)]
    path.write_bytes(pickle.dumps(refs, protocol))
    return path


def parameters(folder: Path) -> Path:
    path = folder / "p.yml"
    path.write_text(
        yaml.safe_dump({"profile": "mini", "changes": {"train": {"lr": 1e-4}}, "a": [1]})
    )
    return path


def prediction(folder: Path, suffix: str) -> Path:
    path, scores = folder / f"seen{suffix}", RNG.random((12, 12), dtype=np.float32)
    if suffix == ".npy":
        np.save(path, scores)
    else:
        Image.fromarray((scores * 255).astype(np.uint8)).save(path)
    return path


def part(folder: Path) -> tuple[Path, Callable[[Path], object]]:
    save_model(tiny_text(tiny_tokenizer()), folder / "clip" / "text")
    file = folder / "clip" / "text" / "model.safetensors"
    return file, lambda path: load_part(CLIPTextModel, path.parent.parent, path.parent.name)


def adapter(folder: Path) -> tuple[Path, Callable[[Path], object]]:
    backbone = tiny_backbone(folder / "backbone")
    unet = load_unet(backbone)
    add_lora(unet, rank=1, targets=("to_q",), seed=0)
    save_trained(unet, folder / "adapter")
    (file,) = (folder / "adapter").glob("*.safetensors")
    return file, lambda path: load_trained(backbone, path.parent)


KINDS: dict[str, Callable[[Path], tuple[Path, Callable[[Path], object]]]] = {
    "jpeg": lambda f: (picture(f / "a.jpg", quality=90), lambda p: as_rgb(read_picture(p))),
    "png": lambda f: (picture(f / "a.png"), lambda p: as_rgb(read_picture(p))),
    "tiff": lambda f: (picture(f / "a.tiff"), lambda p: as_rgb(read_picture(p))),
    "webp": lambda f: (picture(f / "a.webp"), lambda p: as_rgb(read_picture(p))),
    "json": lambda f: (json_file(f), lambda p: load_json(p, dict)),
    "pickle 0": lambda f: (pickled(f, 0), load_pickle),
    "pickle 2": lambda f: (pickled(f, 2), load_pickle),
    "pickle 4": lambda f: (pickled(f, 4), load_pickle),
    "yaml": lambda f: (parameters(f), read_yaml),
    "prediction npy": lambda f: (prediction(f, ".npy"), read_prediction),
    "prediction png": lambda f: (prediction(f, ".png"), read_prediction),
    "pixel map": lambda f: (class_map(f), pixel_map),
    "npz": lambda f: (counts(f), Counts.load),
    "hdf5": lambda f: (packed(f), read_pack),
    "index": index,
    "safetensors": part,
    "adapter": adapter,
}
if "AVIF" in taken():  # not of each Pillow
    KINDS["avif"] = lambda f: (picture(f / "a.avif"), lambda p: as_rgb(read_picture(p)))


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip, set, cut out, double or cut off a few places."""
    spoilt = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        at, how = int(rng.integers(max(1, len(spoilt)))), int(rng.integers(6))
        length = int(rng.integers(1, 9))
        if how == 0 and spoilt:
            spoilt[at] ^= 1 << int(rng.integers(8))
        elif how in (1, 2):
            spoilt[at : at + length] = rng.integers(256, size=length, dtype=np.uint8).tobytes()
        elif how == 3:
            del spoilt[at : at + length]
        elif how == 4:
            spoilt[at:at] = spoilt[at : at + length] * int(rng.integers(1, 4))
        elif rng.random() < 0.3:
            del spoilt[at:]
    return bytes(spoilt)


@pytest.mark.integration
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_read_or_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    path, read = KINDS[kind](tmp_path)
    whole = path.read_bytes()
    read(path)
    times = max(4, TIMES // 10) if kind == "adapter" else TIMES  # a UNet is built for each
    for number in range(times):
        path.write_bytes(damaged(whole, np.random.default_rng([number, len(whole)])))
        tracemalloc.start()
        started = time.monotonic()
        signal.alarm(3 * SECONDS)  # a library that never comes back ends with this process
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(path)
        except (OSError, ValueError, PackError) as error:
            assert path.stem in str(error) or path.parent.name in str(error), (number, str(error))
            assert len(str(error).splitlines()) == 1, (number, str(error))
        except Exception as error:
            raise AssertionError(f"{kind}, damage {number}: {error!r}") from error
        finally:
            signal.alarm(0)
            took, (_, most) = time.monotonic() - started, tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert took < SECONDS and most < BYTES, (number, took, most)


def test_a_pickle_of_a_few_bytes_gets_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.p"
    path.write_bytes(b"\x80\x02]r\xff\xff\xff\x7f.")
    started = time.monotonic()
    with pytest.raises(ValueError, match="numbers an object 2147483647, and has 9 bytes"):
        load_pickle(path)
    assert time.monotonic() - started < 1


def test_a_yaml_of_aliases_is_refused(tmp_path: Path) -> None:
    path, lines = tmp_path / "laughs.yml", ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"aliases .* are not taken"):
        read_yaml(path)
    path.write_text("a: " + "x" * 2_000_000)
    with pytest.raises(ValueError, match="no file of parameters"):
        read_yaml(path)


def test_an_array_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.npy"
    np.save(path, np.zeros((4, 4), np.float32))
    content = path.read_bytes().replace(b"(4, 4), }        ", b"(400000, 400000),}")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"huge\.npy is no prediction"):
        read_prediction(path)


def test_weights_that_are_no_adapter_are_told(tmp_path: Path) -> None:
    file, read = adapter(tmp_path)
    save_file({"a": torch.zeros(3)}, file)
    with pytest.raises(ValueError, match="holds no adapter"):
        read(file)


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}', encoding="utf-8-sig")
    assert load_json(path, dict) == {"a": 1}
