"""The commands a person types.

    python -m rlfseg segment PICTURE PHRASE... what phrases mean, as masks and overlays
    python -m rlfseg check DATASET ROOT     what of a data set is on disk
    python -m rlfseg preflight              whether a profile can run here, and how long it takes
    python -m rlfseg artefacts              whether what ships is what the chapters ask for
    python -m rlfseg refine PARAMS          refines the labels that that training reads
    python -m rlfseg latents PARAMS         encodes what that training reads, before it
    python -m rlfseg train PARAMS           the training run of a file of parameters
    python -m rlfseg evaluate PARAMS        all that a chapter trains and scores, baselines too
    python -m rlfseg score DATASET SPLIT FOLDER   the masks that another program predicted

The four before the last are what a launcher starts, on as many GPUs and nodes as it is told:

    torchrun --nproc_per_node 8 -m rlfseg refine params/a100/03b_labels.yml
    torchrun --nproc_per_node 8 -m rlfseg latents params/a100/03_train.yml
    torchrun --nproc_per_node 8 -m rlfseg train params/a100/03_train.yml
    torchrun --nproc_per_node 8 -m rlfseg evaluate params/a100/04_sampling.yml

`evaluate PARAMS --weights FOLDER` scores an adapter or a UNet that was trained elsewhere.
"""

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import NoReturn

from rlfseg.data.check import DATASETS, check


@contextmanager
def _uncollected() -> Iterator[None]:
    """Import without a search for garbage, of which imports leave none: a fifth of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the command."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: what follows the program's name; None takes them from the command line.

    Returns:
        The exit status: 0 if all is well, 1 if a check found problems. What is wrong with a command
        or its files ends the program with 2, Ctrl-C with 130, and a signal that left a checkpoint
        with 75: the same command goes on.
    """
    parser = _Parser(prog="python -m rlfseg", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, work: Callable[[argparse.Namespace], int], about: str) -> _Parser:
        added = commands.add_parser(name, help=about, description=about)
        added.set_defaults(work=work)
        return added

    checking = command("check", _check, "say what of a data set is on disk against what should be")
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
    flying = command("preflight", _preflight, about)
    flying.add_argument("--profile", default="a100", help="a folder of params/ (a100)")
    flying.add_argument("--json", action="store_true", help="print the report as one JSON object")
    flying.add_argument(
        "--seconds", type=float, default=60, help="how long each kind of work is measured (60)"
    )
    flying.add_argument(
        "--against",
        metavar="FILE",
        help="what --json said before a pass: compare with what its stages have taken since",
    )
    about = (
        "say which shipped artefacts no chapter asks for, and which are missing; or make them all"
    )
    keeping = command("artefacts", _artefacts, about)
    keeping.add_argument("--profile", default="mini", help="a folder of artefacts/ (mini)")
    keeping.add_argument("--make", action="store_true", help="make them, or go on making them")
    asking = command("segment", _segment, "segment what a phrase means in a picture")
    asking.add_argument("picture", help="a picture file")
    asking.add_argument("phrase", nargs="+", help="what to segment, as in 'striped star' moon")
    asking.add_argument(
        "--also", nargs="+", default=[], metavar="PICTURE", help="more pictures, asked the same"
    )
    asking.add_argument(
        "-o",
        "--out",
        default="segmented.png",
        help="the overlay, the mask beside it; numbered where there are several",
    )
    asking.add_argument("--model", help="a saved pipeline's folder, or a file of parameters")
    asking.add_argument("--sampler", default="aos", help="aos, one, hss, steps or aos_signed")
    asking.add_argument("--threshold", type=float, help="of the scores, as in 0.5")
    works = {
        "refine": ("refine the labels of the training split, or find them refined", _refine),
        "latents": ("encode the pictures and masks that the training of a file reads", _latents),
        "train": ("train what a file of parameters describes, or find it trained", _train),
        "evaluate": ("train and score what a chapter asks for, or find it so", _evaluate),
    }
    for name, (about, work) in works.items():
        working = command(name, work, about)
        working.add_argument("parameters", help="a chapter's YAML, or one of profile and changes")
    commands.choices["evaluate"].add_argument(
        "--weights",
        metavar="FOLDER",
        help="score this adapter or UNet in the place of what the run's training ends in",
    )
    about = "score a folder of masks or score maps that another program predicted"
    scoring = command("score", _score, about)
    scoring.add_argument("dataset", choices=tuple(DATASETS))
    scoring.add_argument("split", help="of the packed data: val, test, testA, testB")
    scoring.add_argument("folder", nargs="?", help="holds <name>.png or <name>.npy for each item")
    scoring.add_argument("--list", metavar="FILE", help="write the items' names as CSV instead")
    scoring.add_argument("--row", help="of the data set's table that they fill, as in 'LD-ZNet'")
    scoring.add_argument("--profile", default="a100", help="a folder of params/ (a100)")
    scoring.add_argument("--source", help="the data set's folder, if not the profile's")
    scoring.add_argument("--pixels", type=int, help="side that is scored at, if not the profile's")
    given = parser.parse_args(arguments)
    if isinstance(sys.stdout, TextIOWrapper):  # a file's name need not be text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return int(given.work(given))
    except (OSError, ValueError) as error:
        commands.choices[given.command].error(str(error))
    except KeyboardInterrupt:
        commands.choices[given.command].exit(130, "stopped; the same command goes on\n")
    except RuntimeError as error:
        from rlfseg.processes import StoppedError

        if not isinstance(error, StoppedError):
            raise
        commands.choices[given.command].exit(os.EX_TEMPFAIL, f"{error}\n")


def _check(given: argparse.Namespace) -> int:
    report = check(given.dataset, given.root, coco_ids=given.coco_ids)
    print(report.to_json() if given.json else report.as_text())
    return 0 if report.ok else 1


def _preflight(given: argparse.Namespace) -> int:
    import psutil

    from rlfseg.preflight import compared, preflight

    if given.against:
        report = compared(Path(given.against), given.profile)
        print(report.to_json() if given.json else report.as_text())
        return 0
    start = time.time() - psutil.Process().create_time()
    report = preflight(given.profile, seconds=given.seconds, start=start)
    print(report.to_json() if given.json else report.as_text())
    return 0 if report.ok else 1


def _artefacts(given: argparse.Namespace) -> int:
    from rlfseg.chapters.shipped import lacking, make_artefacts, shipped_folders, stale
    from rlfseg.preflight.shipping import expected

    if given.make:
        for line in chain(expected(given.profile), make_artefacts(given.profile)):
            print(line, flush=True)
    messages = stale(given.profile) + lacking(given.profile)
    count = len(shipped_folders(given.profile))
    print("\n".join(messages) or f"{count} shipped artefacts, none stale, none missing")
    return 1 if messages else 0


def _segment(given: argparse.Namespace) -> int:
    with _uncollected():
        from rlfseg.segment import segment

    lines = segment(
        [given.picture, *given.also],
        given.phrase,
        Path(given.out),
        model=Path(given.model) if given.model else None,
        sampler=given.sampler,
        threshold=given.threshold,
    )
    print("\n".join(lines))
    return 0


def _refine(given: argparse.Namespace) -> int:
    from rlfseg.chapters.reading import run_file
    from rlfseg.experiment import check_gpus, refined
    from rlfseg.processes import joined

    with joined():
        check_gpus(run := run_file(Path(given.parameters)), 1)
        print(refined(run, "train"))
    return 0


def _latents(given: argparse.Namespace) -> int:
    from rlfseg.chapters.reading import run_file
    from rlfseg.experiment import check_gpus, fill_latents
    from rlfseg.processes import joined

    with joined():
        check_gpus(run := run_file(Path(given.parameters)), 1)
        missing = fill_latents(run)
        print(f"{missing} latents were missing here and are encoded")
    return 0


def _train(given: argparse.Namespace) -> int:
    from rlfseg.chapters.reading import run_file
    from rlfseg.experiment import check_gpus, is_trained, trained
    from rlfseg.processes import joined

    with joined():
        if not is_trained(run := run_file(Path(given.parameters))):
            check_gpus(run, run.machine.processes)
        print(trained(run))
    return 0


def _evaluate(given: argparse.Namespace) -> int:
    from rlfseg.chapters.given import scored_given
    from rlfseg.chapters.making import make, missing
    from rlfseg.chapters.reading import chapter_file
    from rlfseg.experiment import check_gpus
    from rlfseg.processes import joined

    with joined():
        file = Path(given.parameters)
        here = chapter_file(file)
        if given.weights or missing(here.run, here.asks()):
            check_gpus(here.run, here.run.machine.processes)
        if given.weights:
            print(scored_given(file.stem, here, Path(given.weights)))
        else:
            make(here.asks())
    return 0


def _score(given: argparse.Namespace) -> int:
    from rlfseg.book.paper.predicted import check_row, keep_predicted, read_all
    from rlfseg.chapters.reading import run_on
    from rlfseg.data.files import digest
    from rlfseg.experiment import scored_predictions, write_items

    changes = {name: getattr(given, name) for name in ("source", "pixels")}
    changes = {name: value for name, value in changes.items() if value is not None}
    run = run_on(given.profile, given.dataset, changes=changes)
    if given.list:
        count = write_items(run, given.split, Path(given.list))
        print(f"{given.list}: {count} items of {given.dataset} {given.split}")
        return 0
    if given.folder is None:
        raise ValueError("give the folder of predictions, or --list FILE for their names")
    if given.row:
        check_row(given.dataset, given.split, given.row)
    folder = Path(given.folder)
    found = scored_predictions(run, given.split, folder)
    for each in read_all(found):
        said = each.reason if each.value is None else f"{each.value:.2f}"
        print(f"{each.name:55} {said}" + (f" at {each.threshold:.2f}" if each.threshold else ""))
    if given.row:
        made_of = {"folder": folder.resolve().name, "sha256": digest(folder)}
        print(keep_predicted(run, given.row, found, made_of))
    return 0


if __name__ == "__main__":
    status = main()
    gc.freeze()  # else all that libraries have made is searched once more at the end, for a second
    sys.exit(status)
