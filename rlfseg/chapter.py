"""What a chapter's parameters ask for: the runs that it trains or scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlfseg.data.catalogue import DATASETS
from rlfseg.experiment.identity import Identity

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


def beside(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a chapter scores of its own run alone, beside `scorings`.

    With one `sampler`, whole splits: of `others` or of the `other`, or the test split of its own
    data. With `samplers`, one step and more on `others`, and AOS at each of `tols`.
    """
    others = given.get("others", {}).values()
    if "sampler" in given:
        ways = [{"split": split, "on": on} for on in others for split in _scored_splits(on)]
        if "other" in given:
            ways = [{"split": "val", "on": given["other"]}]
        own = {"split": "test", "truth": given["data"]["source"] == "mini"}
        return [{**way, **given["sampler"]} for way in ways or [own]]
    if not {"scored", "samplers"} <= set(given):
        return []
    steps = [way for way in given["samplers"].values() if way["name"] in ("one", "steps")]
    asked = {"split": "val", "phrases": given["scored"].get("phrases")}
    ways = [{**asked, "on": on, **way} for on in others for way in steps]
    swept = [(name, tol) for tol in given.get("tols", []) for name in ("aos", "aos_signed")]
    return ways + [{**given["scored"], "name": name, "tol": tol} for name, tol in swept]


def _scored_splits(data: Mapping[str, Any]) -> list[str]:
    names = DATASETS[data["dataset"]].splits
    return [name.removesuffix("2017") for name in names if name not in ("train", "miniv")]
