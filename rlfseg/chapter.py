"""What a chapter's parameters ask for: the runs that it trains or scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlfseg.identity import Identity

_PARTS = ("profile", "backbone", "data", "train", "sam", "refine", "machine", "start")


def run_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Of a chapter's parameters those that `Description.from_parameters` takes."""
    return {name: given[name] for name in _PARTS if name in given}


def runs(given: Mapping[str, Any]) -> list[Identity]:
    """The runs of a chapter, each after what it goes on from.

    They are its own run, unless the `variants` of it are what it has `scored`; the variants, each
    with each of `seeds`; those of `longer` and `once`; and the `supervised` ones on `others`' data.
    """
    own = Identity.from_parameters(**run_parameters(given))
    first = own.started()
    many = [first] if first is not None else []
    variants: dict[str, Mapping[str, Any]] = dict(given.get("variants", {}))
    if not ("scored" in given and variants):
        variants = {"": {}, **variants}
    many += own.seeded(variants, given.get("seeds", [own.train.seed])).values()
    for name in ("longer", "once"):
        many += [own.variant(changes) for changes in given.get(name, {}).values()]
    for name, changes in given.get("supervised", {}).items():
        other = run_parameters({**given, "data": given["others"][name]})
        many.append(Identity.from_parameters(**other).variant(changes))
    return many


def scorings(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How a chapter scores each of its runs: as `scored` says, by each of `samplers` if given."""
    scored = given.get("scored")
    if scored is None:
        return []
    return [{**scored, **way} for way in given.get("samplers", {"": {}}).values()]


def elsewhere(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How a chapter with `samplers` scores its own run on `others`' data: by one step and more."""
    if not {"scored", "samplers", "others"} <= set(given):
        return []
    asked = {"split": "val", "phrases": given["scored"]["phrases"]}
    ways = [way for way in given["samplers"].values() if way["name"] in ("one", "steps")]
    return [{**asked, "on": other, **way} for other in given["others"].values() for way in ways]
