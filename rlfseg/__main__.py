"""The commands a person types.

    python -m rlfseg segment PICTURE PHRASE what the phrase means, as a mask and an overlay
    python -m rlfseg check DATASET ROOT     what of a data set is on disk
    python -m rlfseg preflight              whether a profile can run here, and how long it takes
    python -m rlfseg latents PARAMS         encodes what that training reads, before it
    python -m rlfseg train PARAMS           the training run of a chapter's parameters
    python -m rlfseg evaluate PARAMS        the scores that a chapter's parameters ask for

The last three are what a launcher starts, on as many GPUs and nodes as it is told:

    torchrun --nproc_per_node 8 -m rlfseg latents params/a100/03_train.yml
    torchrun --nproc_per_node 8 -m rlfseg train params/a100/03_train.yml
    torchrun --nproc_per_node 8 -m rlfseg evaluate params/a100/04_sampling.yml
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from rlfseg.data.check import DATASETS, check

if TYPE_CHECKING:
    from rlfseg.experiment.setting import Setting


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the command."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: what follows the program's name; None takes them from the command line.

    Returns:
        The exit status: 0 if all is well, 1 if the check found problems, 2 for a wrong command.
    """
    parser = _Parser(prog="python -m rlfseg", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    about = "say what of a data set is on disk against what should be"
    checking = commands.add_parser("check", help=about, description=about)
    checking.add_argument("dataset", choices=tuple(DATASETS))
    checking.add_argument("root", help="the folder that holds the data set's files")
    checking.add_argument("--json", action="store_true", help="print the report as one JSON object")
    checking.add_argument(
        "--coco-ids",
        action="append",
        default=[],
        metavar="FILE",
        help="count PhraseCut's images among those of FILE: COCO's JSON, or refs(*.p); repeatable",
    )
    about = "say whether a profile can run on this machine, and how long it takes"
    flying = commands.add_parser("preflight", help=about, description=about)
    flying.add_argument("--profile", default="a100", help="a folder of params/ (a100)")
    flying.add_argument("--json", action="store_true", help="print the report as one JSON object")
    flying.add_argument(
        "--seconds", type=float, default=60, help="how long each kind of work is measured (60)"
    )
    about = "segment what a phrase means in a picture"
    asking = commands.add_parser("segment", help=about, description=about)
    asking.add_argument("picture", help="a picture file")
    asking.add_argument("phrase", help="what to segment, as in 'striped star'")
    asking.add_argument(
        "-o", "--out", default="segmented.png", help="the overlay; the mask lies beside it"
    )
    asking.add_argument("--model", help="a saved pipeline's folder, or a YAML of chapter 05")
    asking.add_argument("--sampler", default="aos", help="aos, one, hss, steps or aos_signed")
    asking.add_argument("--threshold", type=float, help="of the scores, as in 0.5")
    runs = {
        "latents": "encode the pictures and masks that the training of a chapter reads",
        "train": "train what a chapter's parameters describe, or find it trained",
        "evaluate": "score each run of a chapter as its `scored` says, or find it scored",
    }
    for name, about in runs.items():
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("parameters", help="a chapter's YAML file, or JSON of the same form")
        command.set_defaults(work=_run)
    checking.set_defaults(work=_check)
    flying.set_defaults(work=_preflight)
    asking.set_defaults(work=_segment)
    given = parser.parse_args(arguments)
    try:
        return int(given.work(given))
    except (OSError, ValueError) as error:
        commands.choices[given.command].error(str(error))


def _check(given: argparse.Namespace) -> int:
    report = check(given.dataset, given.root, coco_ids=given.coco_ids)
    print(report.to_json() if given.json else report.as_text())
    return 0 if report.ok else 1


def _preflight(given: argparse.Namespace) -> int:
    from rlfseg.preflight import preflight

    report = preflight(given.profile, seconds=given.seconds)
    print(report.to_json() if given.json else report.as_text())
    return 0 if report.ok else 1


def _segment(given: argparse.Namespace) -> int:
    from PIL import Image

    from rlfseg.data.images import as_rgb, overlay, read_picture
    from rlfseg.pipeline import RLFSegPipeline
    from rlfseg.stage import repository

    picture, out = as_rgb(read_picture(given.picture)), Path(given.out)
    if out.suffix.lower() != ".png":
        raise ValueError(f"the overlay is written as PNG: give -o a name that ends so, not {out}")
    model = Path(given.model or repository() / "params" / "mini" / "05_phrasecut.yml")
    if model.is_dir():
        pipeline = RLFSegPipeline.from_pretrained(model)
    else:
        parameters = _parameters(model, "sampler", "threshold")
        setting = _setting(parameters)
        if not setting.is_trained:
            raise ValueError(
                f"what {model} describes isn't trained: python -m rlfseg train {model}"
            )
        pipeline = setting.pipeline(
            threshold=parameters["threshold"], tol=parameters["sampler"]["tol"]
        )
    pipeline.set_progress_bar_config(disable=True)
    done = pipeline(picture, given.phrase, sampler=given.sampler, threshold=given.threshold)
    mask = out.with_name(f"{out.stem}_mask.png")
    Image.fromarray(overlay(picture, done.masks[0])).save(out)
    Image.fromarray(done.masks[0]).save(mask)
    print(f"{done.masks[0].mean():.1%} of the picture; {out} and {mask}")
    return 0


def _run(given: argparse.Namespace) -> int:
    from rlfseg.processes import joined  # here, so that a check need not wait for torch

    with joined():
        if given.command == "evaluate":
            return _evaluate(Path(given.parameters))
        setting = _setting(_parameters(Path(given.parameters)))
        if given.command == "latents":
            print(f"{setting.fill_latents()} latents were missing here and are encoded")
        else:
            print(setting.trained())
    return 0


def _evaluate(file: Path) -> int:
    from rlfseg.chapter import beside, runs, scorings

    parameters = _parameters(file)
    alone = beside(parameters)
    if not alone and not {"scored", "closed"} & set(parameters):
        raise ValueError(f"{file} has no `scored`: give a chapter's file that says what is scored")
    for run in runs(parameters):
        setting = _setting(run.parameters())
        for way in scorings(parameters):
            best = setting.scored(**way).annotation.miou().value
            print(f"{run.train_stage.name} {way}: best mIoU {100 * best:.1f}")
        if "closed" in parameters:
            setting.closed(**parameters["closed"])
    own = _setting(parameters)
    for way in alone:
        best = own.scored(**way).annotation.miou().value
        print(f"{way}: best mIoU {100 * best:.1f}")
    return 0


def _parameters(file: Path, *more: str) -> dict[str, Any]:
    """A chapter's parameters, which must say what a run is, and what else is named."""
    try:
        parameters = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no YAML: {error}") from error
    wanted = ("profile", "backbone", "data", "train", *more)
    missing = [name for name in wanted if name not in (parameters or ())]
    if missing or not isinstance(parameters, dict):
        raise ValueError(f"{file} has no {', '.join(missing or wanted)}: give a chapter's file")
    return parameters


def _setting(parameters: Mapping[str, Any]) -> Setting:
    from rlfseg.chapter import run_parameters
    from rlfseg.experiment.setting import Setting

    return Setting.from_parameters(**run_parameters(parameters))


if __name__ == "__main__":
    sys.exit(main())
