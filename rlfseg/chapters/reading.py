"""From notebooks' variables and YAML files to checked parameters."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rlfseg.chapters import CHAPTERS, assigned
from rlfseg.config import DataConfig, read_yaml, validated
from rlfseg.experiment import Run, read_run
from rlfseg.stage import repository

_OF_THE_RUN = ("profile", "changes")


def checked(name: str, given: Mapping[str, Any], *, where: str = "") -> Any:
    """Return a chapter's checked parameters, whose `run` is the profile's with `changes`.

    Args:
        name: of the chapter.
        given: its parameters, among others if `where` is empty.
        where: the file that holds just them; empty for a notebook's variables.

    Raises:
        ValueError: in one line.
    """
    kind, place = CHAPTERS[name].parameters, where or f"chapter {name}"
    own = [field.name for field in fields(kind) if field.name != "run"]
    if unknown := [each for each in _injected(given) if each not in (*own, *_OF_THE_RUN)]:
        known = ", ".join((*_OF_THE_RUN, *own))
        raise ValueError(f"{place}: {unknown[0]} is no parameter of it; they are {known}")
    values = {key: given[key] for key in (given if where else own) if key in given}
    run = run_of(given, where=place)
    values = {key: value for key, value in values.items() if key not in _OF_THE_RUN}
    found = validated(kind, {"run": asdict(run), **values}, where=place)
    try:
        found.asks()  # so that a variant that can't be is noticed here
    except ValueError as error:
        raise ValueError(f"{place}: {' '.join(str(error).split())}") from error
    return found


def _injected(given: Mapping[str, Any]) -> list[str]:
    """Return the names that papermill set in a notebook, whose variables these are.

    Of a name that the notebook doesn't know it only warns.
    """
    told = [text for text in given.get("In", ()) if str(text).startswith("# Parameters\n")]
    return [name for text in told for name in assigned(text)]


def run_of(given: Mapping[str, Any], *, where: str) -> Run:
    """Return the run of parameters: the profile's, with their `changes`.

    Raises:
        ValueError: in one line, if they name no profile, or a change is wrong.
    """
    profile, changes = given.get("profile"), given.get("changes", {})
    if not isinstance(profile, str):
        raise ValueError(f"{where}: profile is {profile!r}: it must name a folder of params/")
    if not isinstance(changes, Mapping):
        raise ValueError(f"{where}: changes is {changes!r}: it must map parts of run.yml")
    return read_run(profile, changes, where=where)


def run_file(file: Path) -> Run:
    """Return the run that a file is of: a chapter's, or `profile` and `changes` alone.

    Raises:
        ValueError: in one line, naming the file.
    """
    if file.stem in CHAPTERS:
        return chapter_file(file).run
    given = read_yaml(file)
    if unknown := sorted(set(given) - set(_OF_THE_RUN)):
        raise ValueError(
            f"{file}: {unknown[0]} is unknown; a run's file says profile and changes, and a "
            f"chapter's is named as the chapter"
        )
    return run_of(given, where=str(file))


def chapter_file(file: Path) -> Any:
    """Return the checked parameters of a chapter's YAML file, which is named as the chapter.

    Raises:
        ValueError: in one line, naming the file.
    """
    if file.stem not in CHAPTERS:
        known = ", ".join(CHAPTERS)
        raise ValueError(f"{file}: there is no chapter {file.stem!r}; they are {known}")
    return checked(file.stem, read_yaml(file), where=str(file))


def run_on(profile: str, dataset: str, *, changes: Mapping[str, Any]) -> Run:
    """Return a profile's run on a data set, packed as its chapters have it.

    Args:
        profile: a folder of `params/`.
        dataset: one of `DATASETS`.
        changes: fields of `DataConfig` that are otherwise.

    Raises:
        ValueError: in one line.
    """
    run, every = read_run(profile), chapters_of(profile)
    known = {run.data.dataset: run.data, **every["06_refcoco"].others}
    known["cocostuff"] = every["07_cocostuff"].other
    if dataset not in known and "source" not in changes:
        raise ValueError(f"{profile}: no chapter has {dataset}; say where it is: --source FOLDER")
    data = {**asdict(known.get(dataset, run.data)), "dataset": dataset, **changes}
    return run.on(validated(DataConfig, data, where=f"{profile}, {dataset}"))


def chapters_of(profile: str) -> dict[str, Any]:
    """Return the checked parameters of all chapters of a profile, in the registry's order.

    Raises:
        ValueError: if there is no such profile, or a file is wrong.
    """
    read_run(profile)
    folder = repository() / "params" / profile
    return {name: chapter_file(folder / f"{name}.yml") for name in CHAPTERS}
