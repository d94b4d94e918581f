"""The shipped artefacts: made, and checked against what the chapters ask for.

A shipped artefact is a cache filled beforehand. One that no chapter's parameters ask for any more
would silently be trained again, so it is an error.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from zipfile import ZIP_LZMA, ZipFile, ZipInfo

from accelerate import PartialState

from rlfseg.chapters.making import make, make_in_processes
from rlfseg.chapters.reading import chapters_of
from rlfseg.device import gpus
from rlfseg.stage import PARTS, RECORD, Stage, is_current, made_at, read_record, repository, shipped

_RECORDED = "steps.jsonl"  # and what ends so: records of trainings
_EVERY = 5  # steps, of which one ships


def wanted(profile: str) -> dict[str, Stage]:
    """Return the stages that a profile's chapters ask for, by folder."""
    every: dict[str, Stage] = {}
    for given in chapters_of(profile).values():
        every |= given.asks().stages()
    return every


def stale(profile: str) -> list[str]:
    """Say, for each shipped artefact that nothing asks for, what is wrong with it."""
    hashes = {stage.hash: stage.name for stage in wanted(profile).values()}
    messages = []
    for folder in sorted(shipped_folders(profile)):
        record = read_record(folder)
        if record["hash"] not in hashes:
            now = [key for key, name in hashes.items() if name == record["name"]]
            messages.append(
                f"{folder}: made as {record['hash']}, but the parameters now ask for "
                f"{now[0] if now else 'no artefact of that name'}; train it again or remove it"
            )
    return messages


def lacking(profile: str) -> list[str]:
    """Say what should ship and doesn't; nothing of a profile of which nothing ships at all."""
    there = {folder.name for folder in shipped_folders(profile)}
    asked = {
        folder: name
        for name, given in chapters_of(profile).items()
        for folder in given.asks().ships()
        if there and folder not in there
    }
    return [
        f"artefacts/{profile}/{folder}: {name} asks for it, and it doesn't ship; `make artefacts`"
        for folder, name in asked.items()
    ]


def shipped_folders(profile: str) -> list[Path]:
    """Return the folders of the artefacts that ship with a profile."""
    root = repository() / "artefacts" / profile
    return [path.parent for path in root.glob(f"*/{RECORD}")]


def make_artefacts(profile: str) -> Iterator[str]:
    """Make all that ships with a profile, or find it; copy it to its place, and take away the rest.

    It is resumed as any chapter is. With `FRESH=1` in the environment what ships is made anew too.
    A process on each GPU shares the work, or two on a CPU: one thread each is quicker than two
    threads of one.

    Yields:
        What was done, in lines.
    """
    PartialState()
    ships: dict[str, Stage] = {}
    for name, given in chapters_of(profile).items():
        yield f"== {name}"
        asks = given.asks()
        machine = replace(given.run.machine, processes=_processes())
        make_in_processes(replace(given.run, machine=machine), asks)
        make(asks)
        ships |= asks.ships()
    for stage in ships.values():
        made, kept = made_at(stage, profile=profile), shipped(profile, stage)
        if is_current(made, stage):
            _ship(made, kept)
            yield f"{kept.name}: ships"
        elif not is_current(kept, stage):
            yield f"{kept.name}: NOT made"
    for folder in shipped_folders(profile):
        if folder.name not in ships:
            shutil.rmtree(folder)
            yield f"{folder.name}: taken away, nothing asks for it"


def _processes() -> int:
    return gpus() or min(2, os.cpu_count() or 1)


def _ship(made: Path, kept: Path) -> None:
    """Copy an artefact, whole or not at all, smaller in two ways.

    Of its trainings' records every fifth step stays, and its arrays are compressed by LZMA instead
    of deflate, which `np.load` reads just so: labels take two thirds of the room.
    """
    draft = kept.with_name(f".{kept.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(made, draft, ignore=shutil.ignore_patterns(PARTS))
    for record in draft.rglob(f"*{_RECORDED}"):
        lines = record.read_text().splitlines(keepends=True)
        last = len(lines) - 1
        thin = [
            line
            for k, line in enumerate(lines)
            if k in (0, last) or json.loads(line)["step"] % _EVERY == 0
        ]
        record.write_text("".join(thin))
    for arrays in draft.rglob("*.npz"):
        _compress(arrays)
    shutil.rmtree(kept, ignore_errors=True)
    draft.rename(kept)


def _compress(arrays: Path) -> None:
    """Write an .npz anew; bytes depend on what is in it alone."""
    with ZipFile(arrays) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with ZipFile(arrays, "w", ZIP_LZMA) as new:
        for name, content in members.items():
            new.writestr(ZipInfo(name), content, ZIP_LZMA)
