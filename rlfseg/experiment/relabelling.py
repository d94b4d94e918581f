"""Refinement as a stage: every mask of a packed file through Algorithm 1, over many processes.

Images are refined in chunks, by `rlfseg.processes`, in any number of processes; a run may be
killed at any point and goes on. What is finished lies in `parts/` of the output folder. Then the
first process writes the packed file with refined masks, and beside them, in the output folder,

    records.jsonl    one line a mask: see `MaskRecord`
    report.json      see `RelabelReport`
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from accelerate import PartialState

from rlfseg.config import RefineConfig
from rlfseg.data.packed.read import Pack
from rlfseg.data.packed.refined import add_refined, refined_by
from rlfseg.evaluation.label_quality import refine_items
from rlfseg.experiment.mask_records import (
    MaskRecord,
    RelabelReport,
    read_records,
    record_of,
    report_of,
)
from rlfseg.method.refinement import Predictor
from rlfseg.processes import cut, in_parts, until
from rlfseg.stage import readable, replaced, sweep

VERSION = 1
CHUNK = 16  # images


@dataclass(frozen=True, eq=False)
class _Job:
    pack: Pack
    config: RefineConfig
    photographs: Mapping[str, Path] | None
    made_of: str
    out: Path
    target: Path

    @property
    def chunks(self) -> list[range]:
        """The numbers of each chunk's images."""
        return cut(len(self.pack.image_ids), CHUNK)

    @property
    def parts(self) -> list[Path]:
        """Where the chunks' results lie when they are finished."""
        folder, made_of = self.out / "parts", self.made_of
        return [folder / f"{c.start:06d}-{c.stop:06d}-{made_of}.npz" for c in self.chunks]

    def finished(self) -> RelabelReport | None:
        """Return the report, if all is done."""
        path = self.out / "report.json"
        if not (path.is_file() and self.target.is_file()):
            return None
        with readable(path, folder=path):
            told = json.loads(path.read_text())
            report = RelabelReport(**{**told, "worst": tuple(told["worst"])})
        same = report.made_of == self.made_of == refined_by(self.target)
        return report if same else None


def relabel(
    path: Path | str,
    predictor: Predictor,
    config: RefineConfig,
    out: Path | str,
    *,
    target: Path | None = None,
    photographs: Mapping[str, Path] | None = None,
    known: Path | None = None,
) -> RelabelReport:
    """Refine every mask of a packed file and store the result as `mask_refined`.

    Run it in every process of an Accelerate launch, or in one alone: the result is the same. It
    returns when all is done, in the other processes too; the launcher ends them if one fails.

    Args:
        path: the packed file.
        predictor: SAM, on this process's device.
        config: of Algorithm 1.
        out: folder for what is finished, the records and the report, the same in every process.
        target: the packed file with refined masks, a copy; None for the packed file itself.
        photographs: the image files by image id, which SAM is shown at their own size; None shows
            it the packed images.
        known: a file that `keep_labels` wrote; if its masks were made in just this way they are
            taken, and SAM isn't asked.

    Returns:
        The report. If the file has just these refined masks already, nothing is done.

    Raises:
        FileNotFoundError: if there is no packed file.
        PackError: if it, or a photograph, can't be read, or its copy not be written.
        ValueError: if the file of known masks is damaged.
    """
    pack = Pack(path)
    made_of = _hash(pack.content_hash, predictor.identity, config, photographs is not None)
    job = _Job(pack, config, photographs, made_of, Path(out), target or pack.path)
    if job.finished() is None:
        parts = [known] if known is not None and _made_of(known) == made_of else job.parts
        if parts == job.parts:
            work = partial(_arrays, job, predictor)
            in_parts(parts, job.chunks, work, title="refining", unit="img")
        if PartialState().is_main_process:
            _put_together(job, parts)
    return until(job.finished)


def keep_labels(path: Path, out: Path, to: Path) -> None:
    """Write the refined masks of a packed file, and what was told of them, into one small file.

    Args:
        path: the packed file with refined masks.
        out: the folder that `relabel` left.
        to: an .npz; masks are kept as bits.
    """
    pack, records = Pack(path), read_records(out)
    arrays = _as_arrays(records, [pack.refined(record.item) for record in records])
    arrays["made_of"] = np.frombuffer((refined_by(path) or "").encode(), np.uint8)
    with replaced(to) as draft, draft.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _made_of(known: Path) -> str:
    with readable(known), np.load(known) as arrays:
        return str(arrays["made_of"].tobytes().decode())


def _arrays(job: _Job, predictor: Predictor, images: Sequence[int]) -> dict[str, np.ndarray]:
    """What is kept of some images until all are there."""
    records, masks = [], []
    for image in images:
        items = job.pack.items(job.pack.image_ids[image])
        results = refine_items(job.pack, items, predictor, job.config, job.photographs)
        for item, result in zip(items, results, strict=True):
            records.append(record_of(job.pack, item, job.pack.annotation(item), result))
            masks.append(result.mask)
    return _as_arrays(records, masks)


def _as_arrays(records: Sequence[MaskRecord], masks: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    text = json.dumps([asdict(record) for record in records])
    return {
        "records": np.frombuffer(text.encode(), np.uint8),
        "bits": np.concatenate([np.packbits(mask) for mask in masks]),
        "shapes": np.array([mask.shape for mask in masks]),
    }


def _records(part: Path) -> list[MaskRecord]:
    with readable(part), np.load(part) as arrays:
        return [MaskRecord(**one) for one in json.loads(arrays["records"].tobytes())]


def _masks(part: Path) -> Iterator[np.ndarray]:
    with readable(part):
        with np.load(part) as arrays:
            bits, shapes = arrays["bits"], arrays["shapes"]
        start = 0
        for height, width in shapes.tolist():
            end = start + -(-height * width // 8)
            flat = np.unpackbits(bits[start:end], count=height * width)
            yield flat.reshape(height, width).astype(np.bool_)
            start = end


def _put_together(job: _Job, parts: Sequence[Path]) -> None:
    """Write masks, records and report, in this order, each whole or not at all."""
    job.out.mkdir(parents=True, exist_ok=True)
    if not job.target.is_file() or refined_by(job.target) != job.made_of:
        masks = (mask for part in parts for mask in _masks(part))
        add_refined(job.pack, masks, made_of=job.made_of, target=job.target)
    records = [record for part in parts for record in _records(part)]
    lines = "".join(json.dumps(asdict(record)) + "\n" for record in records)
    _write(job.out / "records.jsonl", lines)
    report = report_of(records, job.made_of)
    _write(job.out / "report.json", json.dumps(asdict(report), indent=1) + "\n")
    shutil.rmtree(job.out / "parts", ignore_errors=True)
    sweep(job.out)


def _write(path: Path, text: str) -> None:
    with replaced(path) as draft:
        draft.write_text(text)


def _hash(content_hash: str, identity: str, config: RefineConfig, at_own_size: bool) -> str:
    made_of = [VERSION, content_hash, identity, asdict(config)]
    text = json.dumps([*made_of, *(["own size"] if at_own_size else [])], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
