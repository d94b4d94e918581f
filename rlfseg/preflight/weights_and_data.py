"""Look at the weights and data of a profile: there, whole, readable, and what they are."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from rlfseg.data.check import Line, check
from rlfseg.experiment import Run, outside
from rlfseg.models.sam import load_sam
from rlfseg.preflight.plan import Plan
from rlfseg.stage import found, repository
from rlfseg.stand_ins.backbone import RANDOM
from rlfseg.stand_ins.full_size import random_stable_diffusion
from rlfseg.stand_ins.mini_sam import RANDOM as RANDOM_SAM

_PARTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "tokenizer": "vocab.json",
}
_FETCH = "Fetch it once, where there is a network"


def weights(plan: Plan) -> Iterator[Line]:
    """Look at the backbone and, where it is asked for, SAM; they are ok if they can be loaded."""
    yield _backbone(plan.run)
    if plan.refining is not None:
        yield _sam(plan.refining)


def released(plan: Plan) -> Iterator[Line]:
    """Look at outside weights that cost a row where they are missing: baselines', a decoder's."""
    for chapter, asks in plan.asks.items():
        names = [*(rival.outside for rival in asks.rivals if rival.outside), *asks.outside]
        yield from (_released(chapter, name) for name in dict.fromkeys(names))


def data(plan: Plan) -> Iterator[Line]:
    """Look at each data set that is packed."""
    for dataset, source in dict.fromkeys((r.data.dataset, r.data.source) for r in plan.packed):
        yield _data(dataset, source)


def _backbone(run: Run) -> Line:
    name = run.backbone.name
    if name == RANDOM:
        return _folder(random_stable_diffusion(profile=run.profile), RANDOM)
    if name == "mini":
        there = found(run.backbone_stage, profile=run.profile)
        if there is None:
            return Line("note", "backbone", "not made yet: the first run trains it", "mini")
        return _folder(there, "mini")
    folder = outside(name)
    if folder is None:
        where = f"its folder, in the diffusers layout, at weights/{name}"
        advice = f"{_FETCH} (hf download {name}), or put {where}."
        return Line("problem", "backbone", "not there", name, advice=advice)
    return _folder(folder, name)


def _released(chapter: str, name: str) -> Line:
    """Whether weights that a chapter can do without are there and whole."""
    folder, what = outside(name), f"weights for {chapter}"
    advice = (
        f"It costs its row. {_FETCH} (hf download {name}), or put its folder at weights/{name}."
    )
    if folder is None:
        return Line("note", what, "not there", name, advice=advice)
    files = sorted(folder.glob("*.safetensors"))
    faults = [f"{path}: {fault}" for path in files if (fault := broken(path))]
    if faults or not files:
        said = faults[0] if faults else f"{folder}: no safetensors in it"
        return Line("note", what, said, name, advice=advice)
    return Line("ok", what, str(folder), name)


def _folder(folder: Path, name: str) -> Line:
    """Whether a folder's parts are there and whole; its UNet's hash tells which it is."""
    faults, paths = [], {part: _file(folder / part / file) for part, file in _PARTS.items()}
    for path in paths.values():
        if not path.is_file():
            faults.append(f"{path} is not there")
        elif path.suffix == ".safetensors" and (fault := broken(path)):
            faults.append(f"{path}: {fault}")
    if faults:
        advice = "Fetch these files again; they must be safetensors, in the diffusers layout."
        return Line("problem", "backbone", f"{len(faults)} faults", name, faults, advice)
    return Line("ok", "backbone", f"{folder}, UNet {sha256(paths['unet'])}", name)


def _file(path: Path) -> Path:
    """Return the file that is loaded in its place, where it isn't there and another will do."""
    half = path.name.replace(".safetensors", ".fp16.safetensors")
    instead = path.with_name("tokenizer.json" if path.name == "vocab.json" else half)
    return instead if instead.is_file() and not path.is_file() else path


def _sam(run: Run) -> Line:
    kind, checkpoint = run.sam.kind, run.sam.checkpoint
    if checkpoint == RANDOM_SAM:
        return Line("ok", "SAM", "made of random weights when first needed", kind)
    if kind == "mini":
        made = found(run.sam_stage, profile=run.profile) is not None
        said = "there" if made else "not made yet: the first run trains it"
        return Line("ok" if made else "note", "SAM", said, kind)
    path = repository() / checkpoint
    try:
        load_sam(kind, path, device="cpu")
    except (OSError, ValueError) as error:
        return Line("problem", "SAM", str(error), kind, advice="Fetch the checkpoint again.")
    return Line("ok", "SAM", f"{path}, {sha256(path)}", kind)


def _data(dataset: str, source: str) -> Line:
    if source == "mini":
        return Line("ok", dataset, "drawn when they are first needed", "drawn scenes")
    folder = repository() / source
    if not folder.is_dir():
        advice = (
            f"Give the folder of its files as `data: {{source: ...}}`, or put them in {folder}."
        )
        return Line("problem", dataset, f"{folder} is no folder", source, advice=advice)
    report = check(dataset, folder)
    wrong = [line for line in report.lines if line.level == "problem"]
    if not wrong:
        return Line("ok", dataset, f"{len(report.lines)} things checked", source)
    told = [f"{line.what}: {line.found}, not {line.expected or 'this'}" for line in wrong]
    advice = f"See all of it: python -m rlfseg check {dataset} {source}."
    return Line("problem", dataset, f"{len(wrong)} problems", source, told, advice)


def broken(path: Path) -> str:
    """Say what is wrong with a safetensors file, or nothing; its length must fit its header."""
    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        return " ".join(str(error).split())
    return ""


def sha256(path: Path) -> str:
    """Return the first sixteen hexadecimal digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
