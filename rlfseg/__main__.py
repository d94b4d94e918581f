"""The commands a person types: `python -m rlfseg check DATASET ROOT`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

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
    parser = _Parser(prog="python -m rlfseg", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    about = "say what of a data set is on disk against what should be"
    command = commands.add_parser("check", help=about, description=about)
    command.add_argument("dataset", choices=tuple(DATASETS))
    command.add_argument("root", help="the folder that holds the data set's files")
    command.add_argument("--json", action="store_true", help="print the report as one JSON object")
    command.add_argument(
        "--coco-ids",
        action="append",
        default=[],
        metavar="FILE",
        help="count PhraseCut's images among those of FILE: COCO's JSON, or refs(*.p); repeatable",
    )
    given = parser.parse_args(arguments)
    try:
        report = check(given.dataset, given.root, coco_ids=given.coco_ids)
    except (OSError, ValueError) as error:
        command.error(str(error))
    print(report.to_json() if given.json else report.as_text())
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
