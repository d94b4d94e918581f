"""params/rehearsal: params/a100's own files under an overlay of sizes.

python tests/rehearsal/derived.py    writes them anew, after a change to params/a100
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rlfseg.config import merged, read_yaml

ROOT = Path(__file__).resolve().parents[2]
WORLD = "runs/rehearsal/world"
_PLACES = ("data/", "weights/")
_HUB = ("stable-diffusion-v1-5/", "CIDAS/", "madebyollin/")
_SIZES = {"pixels": 64, "steps": 6, "batch": 8, "width": 16}
_SAMPLERS = ("samplers", "sampler")  # whose steps say what they are
_HEAD = "# Made by tests/rehearsal/derived.py of params/a100/{name}: change that, or the overlay.\n"


def files() -> dict[str, str]:
    """The text of each file below params/rehearsal."""
    a100, overlay = ROOT / "params/a100", read_yaml(Path(__file__).with_name("overlay.yml"))
    made = {}
    for file in sorted(a100.rglob("*.yml")):
        name = file.relative_to(a100).as_posix()
        given = merged(small(read_yaml(file)), overlay.get(file.stem, {}))
        given = {key: value for key, value in given.items()}
        if "profile" in given:
            given["profile"] = "rehearsal"
        text = yaml.safe_dump(given, sort_keys=False, allow_unicode=True, width=100)
        made[name] = _HEAD.format(name=name) + text
    return made


def small(given: Any) -> Any:
    """The same with places in the rehearsal's world, and short trainings of small models."""
    if isinstance(given, list):
        return [small(each) for each in given]
    if isinstance(given, str):
        place = next((p for p in _PLACES if given.startswith(p)), None)
        if place is None and given.startswith(_HUB):
            return f"{WORLD}/weights/{given}"
        return given if place is None else f"{WORLD}/{given}"
    if not isinstance(given, dict):
        return given
    return {
        key: value if key in _SAMPLERS else _SIZES.get(key, small(value))
        for key, value in given.items()
    }


if __name__ == "__main__":
    for name, text in files().items():
        path = ROOT / "params/rehearsal" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
