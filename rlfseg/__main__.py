"""The commands a person types.

    python -m rlfseg check DATASET ROOT     what of a data set is on disk
    python -m rlfseg latents PARAMS         encodes what that training reads, before it
    python -m rlfseg train PARAMS           the training run of a chapter's parameters

The last two are what a launcher starts, on as many GPUs and nodes as it is told:

    torchrun --nproc_per_node 8 -m rlfseg latents params/a100/03_train.yml
    torchrun --nproc_per_node 8 -m rlfseg train params/a100/03_train.yml
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import yaml

from rlfseg.check import DATASETS, check


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
    runs = {
        "latents": "encode the pictures and masks that the training of a chapter reads",
        "train": "train what a chapter's parameters describe, or find it trained",
    }
    running = {name: commands.add_parser(name, help=a, description=a) for name, a in runs.items()}
    for command in running.values():
        command.add_argument("parameters", help="a chapter's YAML file, or JSON of the same form")
    given = parser.parse_args(arguments)
    try:
        return _check(given) if given.command == "check" else _run(given)
    except (OSError, ValueError) as error:
        (running | {"check": checking})[given.command].error(str(error))


def _check(given: argparse.Namespace) -> int:
    report = check(given.dataset, given.root, coco_ids=given.coco_ids)
    print(report.to_json() if given.json else report.as_text())
    return 0 if report.ok else 1


def _run(given: argparse.Namespace) -> int:
    from rlfseg.launch import joined  # here, so that a check need not wait for torch
    from rlfseg.setting import Setting

    try:
        parameters = yaml.safe_load(Path(given.parameters).read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{given.parameters} is no YAML: {error}") from error
    wanted = ("profile", "backbone", "data", "train")
    missing = [name for name in wanted if name not in (parameters or ())]
    if missing or not isinstance(parameters, dict):
        raise ValueError(
            f"{given.parameters} has no {', '.join(missing or wanted)}: give a chapter's file"
        )
    parts = {
        name: parameters[name]
        for name in (*wanted, "sam", "refine", "machine")
        if name in parameters
    }
    with joined():
        setting = Setting.from_parameters(**parts)
        if given.command == "latents":
            print(f"{setting.fill_latents()} latents were missing here and are encoded")
        else:
            print(setting.trained())
    return 0


if __name__ == "__main__":
    sys.exit(main())
