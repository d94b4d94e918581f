"""The cheapest pass that fills all tables: one seed, and no run that no cell of them needs.

What it makes are stages of the full pass: a full one later goes on from it.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from rlfseg.chapters import CHAPTERS
from rlfseg.chapters.reading import checked
from rlfseg.config import merged, read_yaml
from rlfseg.experiment import read_run
from rlfseg.stage import repository


def minimal(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a chapter's parameters without what no table needs.

    Args:
        name: of the chapter.
        given: its parameters, as in `params/<profile>/<chapter>.yml`.
    """
    first = read_run(given["profile"], given.get("changes")).seeds[0]
    found = merged(deepcopy(dict(given)), {"changes": {"seeds": [first]}})
    for spared in CHAPTERS[name].spared:
        key, _, part = spared.partition(".")
        if part:
            found[key].pop(part, None)
        else:
            found[key] = type(found[key])()
    return found


def chapters_of_tables(profile: str) -> dict[str, Any]:
    """Return the checked parameters of the pass: of chapters that fill tables, and what they need.

    Raises:
        ValueError: if there is no such profile, or a file is wrong.
    """
    read_run(profile)
    folder = repository() / "params" / profile
    files = {name: folder / f"{name}.yml" for name in _wanted()}
    return {n: checked(n, minimal(n, read_yaml(f)), where=str(f)) for n, f in files.items()}


def _wanted() -> list[str]:
    wanted = {name for name, chapter in CHAPTERS.items() if chapter.tables}
    while more := {need for name in wanted for need in CHAPTERS[name].needs} - wanted:
        wanted |= more
    return [name for name in CHAPTERS if name in wanted]
