"""Writes stages.json anew, when a change of what the profiles ask for is meant:

python tests/golden/renew.py
"""

from __future__ import annotations

import json
from pathlib import Path

from rlfseg.chapters.reading import chapters_of

PROFILES = ("smoke", "mini", "preflight", "a100", "rehearsal")
FILE = Path(__file__).with_name("stages.json")


def stages() -> dict[str, list[str]]:
    """The folder, name and hash, of every stage that each profile's chapters may look for."""
    asked: dict[str, list[str]] = {}
    for profile in PROFILES:
        chapters = chapters_of(profile).values()
        asked[profile] = sorted({folder for each in chapters for folder in each.asks().stages()})
    return asked


if __name__ == "__main__":
    FILE.write_text(json.dumps(stages(), indent=0) + "\n")
