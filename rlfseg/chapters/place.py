"""Where a chapter keeps what it measured: in its pass, or apart from it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from rlfseg.chapters import CHAPTERS
from rlfseg.chapters.minimal import minimal
from rlfseg.chapters.reading import checked
from rlfseg.config import read_yaml
from rlfseg.stage import kept, repository


def name_of(here: Any) -> str:
    """Return the name of the chapter whose checked parameters these are."""
    return next(name for name, each in CHAPTERS.items() if each.parameters is type(here))


def file_of(here: Any) -> Path:
    """Return the file of the chapter's parameters in its profile."""
    return repository() / "params" / here.run.profile / f"{name_of(here)}.yml"


def of_the_pass(here: Any) -> bool:
    """Tell whether these are the parameters of the chapter's own file, whatever the machine.

    Where the environment says `MINIMAL=1`, the file's are those of such a pass.
    """
    file, name = file_of(here), name_of(here)
    if not file.is_file():
        return False
    given = read_yaml(file)
    if kept(here.run.profile).name == "minimal":
        given = minimal(name, given)
    own = checked(name, given, where=str(file))
    return bool(own == replace(here, run=replace(here.run, machine=own.run.machine)))


def place_of(here: Any) -> Path:
    """Return the folder for the chapter's results and findings.

    With parameters other than its file's, that is `changed/` in the pass's, so that what was tried
    by hand never stands in the place of what the pass measured.
    """
    folder = kept(here.run.profile)
    return folder if of_the_pass(here) else folder / "changed"
