"""Checks the shipped artefacts against what the chapters ask for.

A shipped artefact is a cache filled beforehand. One that no chapter's parameters ask for any more
would silently be trained again, so it is an error.
"""

from pathlib import Path

from rlfseg.chapters.reading import chapters_of
from rlfseg.stage import RECORD, Stage, read_record, repository


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


def shipped_folders(profile: str) -> list[Path]:
    """Return the folders of the artefacts that ship with a profile."""
    root = repository() / "artefacts" / profile
    return [path.parent for path in root.glob(f"*/{RECORD}")]
