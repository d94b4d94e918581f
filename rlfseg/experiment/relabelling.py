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
from rlfseg.method.refinement import Predictor, Refined
from rlfseg.processes import cut, in_parts, until
from rlfseg.stage import readable, replaced, sweep

_WORST = 12
_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class MaskRecord:
    """How one mask was refined.

    Attributes:
        item: its number in the packed file.
        pixels: foreground pixels of the annotation.
        anchors: number of anchors, at most N.
        iterations: how often SAM was asked.
        converged: whether IoU(M_t, M_{t-1}) reached tau.
        iou_previous: IoU of the last two masks; None if SAM wasn't asked.
        iou_original: IoU of what is stored as refined with the annotation.
        score: SAM's own estimate of its last mask's IoU.
        reason: why the annotation was kept (see `algorithm.Reason`); None if it wasn't.
    """

    item: int
    image_id: str
    caption: str
    pixels: int
    anchors: int
    iterations: int
    converged: bool
    iou_previous: float | None
    iou_original: float
    score: float | None
    reason: str | None


@dataclass(frozen=True)
class RelabelReport:
    """What refinement did to a packed file.

    Attributes:
        made_of: identifies the packed file's content, SAM's weights and the configuration.
        masks: how many there are.
        kept: how many annotations were kept, by reason; the others were refined.
        converged: how many masks converged.
        iterations: how many masks took how many iterations.
        iou_previous: 5%, 25%, 50%, 75% and 95% quantiles over the refined masks, as the next two.
        iou_original: with the annotation.
        score: SAM's own estimate.
        worst: the items whose refined masks differ most from their annotations, worst first.
    """

    made_of: str
    masks: int
    kept: dict[str, int]
    converged: int
    iterations: dict[str, int]
    iou_previous: dict[str, float]
    iou_original: dict[str, float]
    score: dict[str, float]
    worst: tuple[int, ...]


def read_records(out: Path | str) -> list[MaskRecord]:
    """Return the records that `relabel` wrote, in the items' order."""
    path = Path(out) / "records.jsonl"
    with readable(path):
        return [MaskRecord(**json.loads(line)) for line in path.read_text().splitlines()]


def record_of(pack: Pack, item: int, mask: np.ndarray, result: Refined) -> MaskRecord:
    """Record what became of an item's annotation."""
    return MaskRecord(
        item=item,
        image_id=pack.image_ids[pack.item_image[item]],
        caption=pack.caption(item),
        pixels=int(mask.sum()),
        anchors=len(result.anchors),
        iterations=result.iterations,
        converged=result.converged,
        iou_previous=result.ious[-1] if result.ious else None,
        iou_original=result.iou_original,
        score=result.score,
        reason=result.reason,
    )


def report_of(records: Sequence[MaskRecord], made_of: str) -> RelabelReport:
    """Sum the records up."""
    refined = [record for record in records if record.reason is None]
    worst = sorted(refined, key=lambda record: (record.iou_original, record.item))
    return RelabelReport(
        made_of=made_of,
        masks=len(records),
        kept=_counts([record.reason for record in records if record.reason is not None]),
        converged=sum(record.converged for record in records),
        iterations=_counts([str(record.iterations) for record in records]),
        iou_previous=_quantiles([record.iou_previous for record in refined]),
        iou_original=_quantiles([record.iou_original for record in refined]),
        score=_quantiles([record.score for record in refined]),
        worst=tuple(record.item for record in worst[:_WORST]),
    )


def _counts(values: Sequence[str]) -> dict[str, int]:
    return {value: values.count(value) for value in sorted(set(values))}


def _quantiles(values: Sequence[float | None]) -> dict[str, float]:
    known = [value for value in values if value is not None]
    if not known:
        return {}
    found = np.quantile(known, _SHARES).tolist()
    return {str(share): value for share, value in zip(_SHARES, found, strict=True)}


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
        folder = self.out / "parts"
        return [folder / f"{number:06d}-{self.made_of}.npz" for number in range(len(self.chunks))]

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

    Returns:
        The report. If the file has just these refined masks already, nothing is done.

    Raises:
        FileNotFoundError: if there is no packed file.
        PackError: if it, or a photograph, can't be read, or its copy not be written.
    """
    pack = Pack(path)
    made_of = _hash(pack.content_hash, predictor.identity, config, photographs is not None)
    job = _Job(pack, config, photographs, made_of, Path(out), target or pack.path)
    if job.finished() is None:
        work = partial(_arrays, job, predictor)
        in_parts(job.parts, job.chunks, work, title="refining", unit="img")
        if PartialState().is_main_process:
            _put_together(job)
    return until(job.finished)


def _arrays(job: _Job, predictor: Predictor, images: Sequence[int]) -> dict[str, np.ndarray]:
    """What is kept of some images until all are there."""
    records, bits, shapes = [], [], []
    for image in images:
        items = np.flatnonzero(job.pack.item_image == image).tolist()
        results = refine_items(job.pack, items, predictor, job.config, job.photographs)
        for item, result in zip(items, results, strict=True):
            mask = job.pack.masks(item)[0]
            records.append(asdict(record_of(job.pack, item, mask, result)))
            bits.append(np.packbits(result.mask))
            shapes.append(mask.shape)
    text = np.frombuffer(json.dumps(records).encode(), np.uint8)
    return {"records": text, "bits": np.concatenate(bits), "shapes": np.array(shapes)}


def _records(part: Path) -> list[MaskRecord]:
    with np.load(part) as arrays:
        return [MaskRecord(**one) for one in json.loads(arrays["records"].tobytes())]


def _masks(part: Path) -> Iterator[np.ndarray]:
    with np.load(part) as arrays:
        bits, shapes = arrays["bits"], arrays["shapes"]
    start = 0
    for height, width in shapes.tolist():
        end = start + -(-height * width // 8)
        flat = np.unpackbits(bits[start:end], count=height * width)
        yield flat.reshape(height, width).astype(np.bool_)
        start = end


def _put_together(job: _Job) -> None:
    """Write masks, records and report, in this order, each whole or not at all."""
    if not job.target.is_file() or refined_by(job.target) != job.made_of:
        masks = (mask for part in job.parts for mask in _masks(part))
        add_refined(job.pack, masks, made_of=job.made_of, target=job.target)
    records = [record for part in job.parts for record in _records(part)]
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
