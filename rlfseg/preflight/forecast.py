"""Predict how long a profile takes, by table and by stage, and compare it with what it took."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rlfseg.data.check import Line, Report
from rlfseg.device import gpus
from rlfseg.preflight.plan import Plan, Task, Work
from rlfseg.preflight.speed import Rates
from rlfseg.processes import own_cores
from rlfseg.stage import RECORD, Attempts, read_record, repository

_PACKERS = 8  # workers of a process that packs, as far as there are cores for all
MINIMAL = "all tables (MINIMAL=1)"
_LOADING = ("score", "baseline")


@dataclass(frozen=True)
class Forecast:
    """What a machine's rates make of a plan.

    Attributes:
        plan: what is asked for.
        rates: of this machine.
    """

    plan: Plan
    rates: Rates

    @property
    def devices(self) -> int:
        """How many devices share the work of several processes; those of a CPU share its cores."""
        return max(1, min(self.plan.processes, gpus()))

    def task(self, task: Task) -> float:
        """Return the seconds of a task."""
        taken = self.rates.seconds(task.kind, task.amount)
        if task.kind == "pack":
            return taken / min(_PACKERS * task.processes, own_cores())
        loading = task.kind in _LOADING or task.kind.startswith("train")
        return taken / min(task.processes, self.devices) + self.rates.load * loading

    def chapter(self, work: Work) -> float:
        """Return the seconds of a chapter: its tasks, its notebook, and its launches.

        One launch makes all that several processes share.
        """
        launches = any(task.processes > 1 for task in work.tasks)
        return sum(map(self.task, work.tasks)) + (1 + launches) * self.rates.start

    def total(self) -> float:
        """Return the seconds of all chapters."""
        return sum(map(self.chapter, self.plan.works))

    def stages(self) -> dict[str, float]:
        """Return the seconds of each stage by its folder; what it encodes on the way is its own.

        What a page does at its end is in no stage.
        """
        taken = {}
        for work in self.plan.works:
            before = 0.0
            for task in work.tasks:
                before += self.task(task)
                if task.stage is not None:
                    taken[task.stage.folder], before = before, 0.0
        return taken

    def lines(self) -> Iterator[Line]:
        """Say the time of every table and of all."""
        for work in self.plan.works:
            yield Line("ok", work.table, said(self.chapter(work), self.devices), counted(work))

    def all(self) -> str:
        """Say the time of all chapters."""
        return said(self.total(), self.devices)


def untimed(plan: Plan, least: Plan, reason: str) -> Iterator[Line]:
    """Say what every table asks for, where it can't be said how long that takes."""
    yield Line("note", "speed", f"not measured: {reason}")
    for work in plan.works:
        yield Line("note", work.table, counted(work))
    yield Line("note", MINIMAL, summed(least))


def taken(profile: str) -> dict[str, float]:
    """Return the seconds that each stage of a profile took that was made here, by its folder.

    A stage that was made within another's time, for it, is not counted in that.
    """
    spans = [
        (path.parent.name, *span)
        for path in (repository() / "runs" / profile / "stages").glob(f"*/{RECORD}")
        for span in _attempts(path.parent)
    ]
    own: dict[str, float] = {}
    for name, start, end in spans:
        own[name] = own.get(name, 0.0) + end - start
        around = [(e - s, n) for n, s, e in spans if n != name and s <= start and end <= e]
        if around:  # the innermost of them
            outer = min(around)[1]
            own[outer] = own.get(outer, 0.0) - (end - start)
    return own


def _attempts(folder: Path) -> Attempts:
    """When a stage was worked on: the last time, up to the writing of its record."""
    record, end = read_record(folder), (folder / RECORD).stat().st_mtime
    before = [(float(start), float(stop)) for start, stop in record.get("stopped", ())]
    last = float(record["seconds"]) - sum(stop - start for start, stop in before)
    return [*before, (end - last, end)]


def compared(path: Path, profile: str) -> Report:
    """Set a prediction by stage beside what the stages took since; the last line is of all.

    Args:
        path: the JSON of a preflight before the pass.
        profile: of both.

    Raises:
        ValueError: if the file holds no prediction.
        FileNotFoundError: if it is not there.
    """
    try:
        predicted = {str(k): float(v) for k, v in json.loads(path.read_text())["stages"].items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no prediction by stage ({error!r})") from error
    found = taken(profile)
    both = {name: (predicted[name], found[name]) for name in predicted if name in found}
    lines = [Line("ok", name, f"{had:.1f} s", f"{was:.1f} s") for name, (was, had) in both.items()]
    was, had = sum(w for w, _ in both.values()), sum(h for _, h in both.values())
    ratio = f", {had / was:.2f} times that" if was else ""
    what = f"{len(both)} of {len(predicted)} stages"
    lines.append(Line("ok", what, f"{had:.0f} s{ratio}", f"{was:.0f} s"))
    return Report(f"profile {profile}", str(repository()), tuple(lines))


def said(seconds: float, devices: int) -> str:
    """Say a time, and what it is in hours of a GPU where there are several."""
    if seconds < 5_400:
        return f"{seconds / 60:.1f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" + (f", {hours * devices:.0f} GPU-hours" if devices > 1 else "")


def counted(work: Work) -> str:
    """Say what a chapter adds."""
    trained = f"{len(work.runs)} runs, {work.trained:,} samples; " if work.runs else ""
    refined = f"{work.refined:,} masks; " if work.refined else ""
    others = f"{work.baselines:,} samples of baselines; " if work.baselines else ""
    return f"{trained}{refined}{others}{work.scored:,} phrases"


def summed(plan: Plan) -> str:
    """Say what the chapters of a plan train in all."""
    runs = sum(len(work.runs) for work in plan.works)
    return f"{runs} runs, {sum(work.trained for work in plan.works):,} samples"
