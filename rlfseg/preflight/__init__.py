"""Say, before GPU-hours are spent, whether a profile can run on this machine, and how long."""

from collections.abc import Iterator

from rlfseg.data.check import Line, Report
from rlfseg.preflight import machine, speed, weights_and_data
from rlfseg.preflight.plan import Plan, read_plan
from rlfseg.stage import repository

__all__ = ["Plan", "preflight", "read_plan"]


def preflight(profile: str, *, seconds: float = 60.0) -> Report:
    """Look at software, devices, disk, weights and data, measure, and predict.

    Nothing is trained or packed, and nothing kept but random weights, where the profile is made for
    them. Speed is measured with the weights that are there: of a mini backbone that neither ships
    nor was trained, nothing is measured.

    Args:
        profile: a folder of `params/`.
        seconds: how long each kind of work is measured, at least two rounds of it.

    Returns:
        The report; `report.ok` is False if anything is in the way.

    Raises:
        ValueError: if there is no such profile, or a parameter is wrong.
    """
    plan = read_plan(profile)
    return Report(f"profile {profile}", str(repository()), tuple(_lines(plan, seconds)))


def _lines(plan: Plan, seconds: float) -> Iterator[Line]:
    yield from machine.software()
    yield from machine.devices(plan)
    yield machine.disk(plan)
    weights = list(weights_and_data.weights(plan))
    yield from weights
    yield from weights_and_data.released(plan)
    yield from weights_and_data.data(plan)
    if any(line.level != "ok" for line in weights):
        yield from speed.untimed(plan, "the weights are not there")
        return
    enough = machine.memory(speed.memory(plan.run))
    yield enough
    if enough.level == "problem":
        yield from speed.untimed(plan, "the memory would not do")
        return
    yield from speed.lines(plan, seconds)
