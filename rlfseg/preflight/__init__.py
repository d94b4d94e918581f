"""Say, before GPU-hours are spent, whether a profile can run on this machine, and how long."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from rlfseg.data.check import Line, Report
from rlfseg.preflight import disk, machine, memory, speed, weights_and_data
from rlfseg.preflight.forecast import MINIMAL, Forecast, compared, summed, untimed
from rlfseg.preflight.plan import Plan, read_minimal, read_plan
from rlfseg.stage import repository

__all__ = ["Plan", "Preflight", "compared", "preflight", "read_plan"]


@dataclass(frozen=True)
class Preflight(Report):
    """A report, and in its JSON the prediction.

    Attributes:
        stages: seconds that each stage will take, by its folder's name; empty if not predicted.
        seconds: that all chapters will take.
    """

    stages: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None


def preflight(profile: str, *, seconds: float = 60.0, start: float = 0.0) -> Preflight:
    """Look at software, devices, disk, weights and data, measure, and predict.

    Nothing is trained or packed, and nothing kept but random weights, where the profile is made for
    them. Speed is measured with the weights that are there: of a mini backbone that neither ships
    nor was trained, nothing is measured.

    Args:
        profile: a folder of `params/`.
        seconds: how long each kind of work is measured, at least two rounds of it.
        start: seconds that a fresh process takes to be ready to work.

    Returns:
        The report; `report.ok` is False if anything is in the way.

    Raises:
        ValueError: if there is no such profile, or a parameter is wrong.
    """
    plan, least = read_plan(profile), read_minimal(profile)
    found = list(_lines(plan))
    subject, root = f"profile {profile}", str(repository())
    if reason := _in_the_way(found):
        return Preflight(subject, root, (*found, *untimed(plan, least, reason)))
    rates = speed.measure(plan, seconds, start=start)
    forecast = Forecast(plan, rates)
    found += [*speed.lines(rates, plan.run), *forecast.lines()]
    found.append(Line("ok", "all chapters", forecast.all()))
    found.append(Line("ok", MINIMAL, Forecast(least, rates).all(), summed(least)))
    return Preflight(subject, root, tuple(found), forecast.stages(), forecast.total())


def _lines(plan: Plan) -> Iterator[Line]:
    yield from machine.software()
    yield from machine.devices(plan)
    weights = list(weights_and_data.weights(plan))
    yield from weights
    yield from weights_and_data.released(plan)
    yield from weights_and_data.data(plan)
    yield from disk.lines(plan)
    if weights[0].level == "ok":
        yield from memory.lines(plan)


def _in_the_way(found: list[Line]) -> str:
    """Why nothing can be measured, or nothing."""
    levels = {line.what: line.level for line in found}
    if levels["backbone"] != "ok" or levels.get("SAM") == "problem":
        return "the weights are not there"
    if any("memory: " in what and level == "problem" for what, level in levels.items()):
        return "the memory would not do"
    return ""
