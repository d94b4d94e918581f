"""The registry of the book's chapters: all that is known of one is said here, once.

Notebooks, `evaluate`, the check of what ships, preflight's plan, the tables' "made by" and the
Snakefile read it. This module is light; what a chapter asks for lies in the class of its
parameters, which is loaded when it is asked for.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from rlfseg.stage import asked, forget


@dataclass(frozen=True)
class Chapter:
    """One chapter.

    Attributes:
        kind: the class of its parameters, as `module.Class` of this package; its `asks()` says
            which runs, scorings and baselines the chapter asks for.
        minutes: that it takes, about (`mini`, beside another chapter on two cores of a Zen 3).
        tables: the paper's tables that it fills.
        figures: the paper's figures that it has a counterpart of.
        needs: the chapters that make what it reads.
        alone: whether it measures time, and so is executed when nothing else runs.
        spared: parameters, or parts of them, that no table needs: see `chapters.minimal`.
    """

    kind: str
    minutes: float
    tables: tuple[int, ...] = ()
    figures: tuple[str, ...] = ()
    needs: tuple[str, ...] = ("03_train",)
    alone: bool = False
    spared: tuple[str, ...] = ()

    @property
    def parameters(self) -> Any:
        """The class of its parameters."""
        module, name = self.kind.split(".")
        return getattr(import_module(f"{__name__}.{module}"), name)


CHAPTERS = {
    "00_idea": Chapter("method.Idea", 0.5, needs=()),
    "01_data": Chapter("method.Data", 3.2, needs=()),
    "01b_datasets": Chapter("method.Datasets", 1.2, needs=()),
    "02_refine": Chapter("method.Refinement", 1.3, figures=("2a",), needs=("01_data",)),
    "03_train": Chapter("method.Training", 2.5, (8,), needs=("01_data",)),
    "03b_labels": Chapter("method.Labels", 1.0, (5,), ("5", "7"), spared=("variants.refined",)),
    "04_sampling": Chapter("method.Sampling", 1.2, (7, 9), ("3", "6")),
    "05_phrasecut": Chapter("results.PhraseCut", 3.3, (1,), ("4",)),
    "05b_ask": Chapter("results.Ask", 1.2, needs=("05_phrasecut",)),
    "06_refcoco": Chapter("results.Referring", 0.9, (2,)),
    "07_cocostuff": Chapter("results.CocoStuff", 0.9, (3,)),
    "08_speed": Chapter("results.Speed", 0.8, (4,), alone=True),
    "09_ranks": Chapter("ablations.Ranks", 0.8, (6,), spared=("longer",)),
    "10_protocols": Chapter("ablations.Protocols", 1.6),
    "11_flowseg": Chapter("ablations.FlowSeg", 0.8, needs=()),
    "11b_objectives": Chapter("ablations.Objectives", 0.5),
    "A1_backbone": Chapter("stand_ins.Backbone", 1.1, needs=("02_refine",)),
}


def assigned(source: str) -> list[str]:
    """Return the names that a cell of parameters sets."""
    lines = [line for line in ast.parse(source).body if isinstance(line, ast.Assign)]
    targets = [target for line in lines for target in line.targets]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def chapter(name: str, given: Any) -> Any:
    """Check a chapter's parameters and return them, with the run that they are of.

    Where the run's machine has several processes, they first make what the chapter asks for.

    Args:
        name: of the chapter.
        given: its parameters by name, among others, as `vars()` gives them in a notebook.

    Raises:
        ValueError: in one line, naming the parameter, its value and what is allowed.
        RuntimeError: if the processes fail.
    """
    from rlfseg.chapters.making import make_in_processes
    from rlfseg.chapters.reading import checked

    forget()
    here = checked(name, given)
    make_in_processes(here.run, here.asks())
    return here


def expect(given: Any, numbers: Mapping[str, tuple[float, float]]) -> None:
    """Hold what was measured against what is expected of it.

    On drawn scenes a shortfall is an error. On real data it is a finding, which is printed and kept
    in `findings/` beside the results: it must not stop the chapters that come after.

    Args:
        given: what `chapter` returned.
        numbers: by name, what was measured and what it should at least be.

    Raises:
        AssertionError: naming what falls short.
    """
    from rlfseg.chapters.place import name_of, place_of

    short = [
        f"{n}: {found:.4g} < {least:.4g}"
        for n, (found, least) in numbers.items()
        if not found >= least
    ]
    if short and given.run.data.source == "mini":
        raise AssertionError(f"less than the parameters expect (at_least): {'; '.join(short)}")
    name = name_of(given)
    file = place_of(given) / "findings" / f"{name}.txt"
    file.unlink(missing_ok=True)
    if short:
        print("FINDING:", *short, sep="\n  ")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{name}: {line}\n" for line in short))


def unasked(given: Any) -> list[str]:
    """Return the stages that this process has looked for and a chapter's entry does not name.

    Args:
        given: what `chapter` returned.
    """
    return sorted(set(asked()) - set(given.asks().stages()))
