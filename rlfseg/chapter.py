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

    They are its own run, or, where it compares several that are `scored`, those of `variants` (or
    of each kind of labels) with each of `seeds`, and those of `longer` and `once`; and the
    `supervised` ones on `others`' data.
    """
    own = Identity.from_parameters(**run_parameters(given))
    first = own.started()
    many = [first] if first is not None else []
    if not {"seeds", "scored"} & set(given):
        many.append(own)
    if "variants" in given:
        many += own.seeded(given["variants"], given.get("seeds", [own.train.seed])).values()
    else:
        many += own.label_runs(given.get("seeds", [])).values()
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
    return [{**scored, "name": name} for name in given.get("samplers", [])] or [scored]
