"""What a run puts beside the paper's cells."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

from rlfseg.chapters.tables import Cell, paper_table
from rlfseg.evaluation.counts import Counts
from rlfseg.evaluation.readings import Reading, readings

NOT_RUN = "not run on this profile"


@dataclass(frozen=True)
class Result:
    """What this run has for a cell.

    Attributes:
        value: percent for mIoU and AP, seconds for times, a text for settings.
        low: lower end of the 95% interval, or None where there is no interval.
        high: upper end.
        protocol: how it was measured, with the scoring size.
        comparable: `yes`, or `yes: ...`, `no: ...` or `unknown: ...` with the reason.
        data: what was measured on, with counts.
        threshold: the threshold that was chosen or fixed, or None where there is none.
        note: shown below the table.
        seeds: the value of this run and of those that differ from it by their seed alone; empty
            where there is one seed.
        readings: what the counts that it was read from say under every protocol in use.
    """

    value: float | str
    low: float | None
    high: float | None
    protocol: str
    comparable: str
    data: str
    threshold: float | None = None
    note: str = ""
    seeds: tuple[float, ...] = ()
    readings: tuple[Reading, ...] = ()

    def __post_init__(self) -> None:
        word, _, reason = self.comparable.partition(":")
        if word not in ("yes", "no", "unknown") or (word != "yes" and not reason.strip()):
            raise ValueError(
                "comparable must be 'yes', 'yes: ...', 'no: <reason>' or 'unknown: <reason>', "
                f"got {self.comparable!r}"
            )
        if not self.protocol.strip() or not self.data.strip():
            raise ValueError("a result must say its protocol and its data")
        if (self.low is None) != (self.high is None):
            raise ValueError(f"an interval has two ends, got low={self.low}, high={self.high}")
        several = (self.value, self.low, self.high, *self.seeds)
        numbers = [n for n in several if isinstance(n, float | int)]
        if not all(math.isfinite(n) for n in numbers):
            raise ValueError(f"{numbers} is not finite; give Missing with the reason instead")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"the interval {self.low} to {self.high} is upside down")

    @classmethod
    def percent(
        cls,
        fraction: float,
        interval: tuple[float, float] | None,
        *,
        protocol: str,
        comparable: str,
        data: str,
        threshold: float | None = None,
        note: str = "",
        seeds: Sequence[float] = (),
        readings: Sequence[Reading] = (),
    ) -> Self:
        """Make a result in percent of a reading in [0, 1] and its interval, as `Counts` gives them.

        Raises:
            ValueError: if a number is not in [0, 1].
        """
        low, high = interval or (None, None)
        for number in (fraction, low, high, *seeds):
            if number is not None and not 0 <= number <= 1:
                raise ValueError(f"{number} is not a fraction in [0, 1]")
        return cls(
            value=100 * fraction,
            low=None if low is None else 100 * low,
            high=None if high is None else 100 * high,
            protocol=protocol,
            comparable=comparable,
            data=data,
            threshold=threshold,
            note=note,
            seeds=tuple(100 * each for each in seeds),
            readings=tuple(readings),
        )

    @property
    def is_comparable(self) -> bool:
        """Whether the value may be set against the paper's."""
        return self.comparable.partition(":")[0] == "yes"


@dataclass(frozen=True)
class Missing:
    """Why this run has nothing for a cell, such as the command that would make it."""

    reason: str = NOT_RUN


Results = Mapping[tuple[str, str], Result | Missing]
"""What a run has for a table, by the names of row and column."""


def difference(cell: Cell, result: Result | Missing) -> float | None:
    """Return this run minus the paper, in the cell's unit; None unless they can be compared."""
    if not isinstance(result, Result) or not result.is_comparable or cell.value is None:
        return None
    return None if isinstance(result.value, str) else result.value - cell.value


def complete(table: int, results: Results) -> dict[tuple[str, str], Result | Missing]:
    """Return the results of all cells in the paper's order; those not given are `Missing`.

    Where it isn't known how the paper measured a cell, no result is comparable with it.

    Raises:
        UnknownCellError: if a result belongs to no cell of the table.
        ValueError: if a setting is no text, or a measurement is one.
    """
    printed = paper_table(table)
    for (row, column), result in results.items():
        setting = printed.cell(row, column).column.metric == "value"
        if isinstance(result, Result) and isinstance(result.value, str) != setting:
            raise ValueError(
                f"Table {table}, {row!r}, {column!r}: {result.value!r} must be "
                f"{'a text' if setting else 'a number'}"
            )
    return {
        (cell.row, cell.column.name): _as_far_as_known(
            cell, results.get((cell.row, cell.column.name), Missing())
        )
        for cell in printed.cells()
    }


def _as_far_as_known(cell: Cell, result: Result | Missing) -> Result | Missing:
    if isinstance(result, Result) and result.is_comparable and cell.unknown:
        return replace(result, comparable=f"unknown: {cell.unknown}")
    return result


def measured(
    counts: Counts,
    *,
    data: str,
    comparable: str,
    chosen: float | str,
    native: Counts | str,
    method: str = "",
    dataset: str = "",
    again: Sequence[Counts] = (),
) -> dict[str, Result]:
    """Return the best mIoU and AP of some counts, with 95% bootstrap intervals over images.

    Args:
        counts: of one run.
        data: what was measured on, as it stands below the table.
        comparable: whether data and model are the paper's: see `Result`.
        chosen: a threshold, and
        native: counts at the photographs' size, or why there are none: see `readings`.
        method: which parts of the paper's it has (`Run.method`), for the note.
        dataset: goes before the columns' names, where a table has several data sets.
        again: of runs that differ from the first by their seed alone.

    Returns:
        By column: `mIoU`, at the threshold that is best on these very counts, and `AP`, the
        step-wise average precision, mean over samples.
    """
    best, before = counts.miou(), f"{dataset} " if dataset else ""
    side = math.isqrt(int(counts.pixels[0]))
    percent = partial(
        Result.percent,
        comparable=comparable,
        data=data,
        readings=readings(counts, chosen=chosen, native=native),
    )

    def cell(read: Callable[[Counts], float], protocol: str, **more: Any) -> Result:
        said = f"{protocol}, scored at {side} x {side}"
        span = counts.bootstrap(read, seed=0)
        seeds = [read(each) for each in (counts, *again)] if again else []
        return percent(read(counts), span, protocol=said, seeds=seeds, **more)

    top = cell(
        lambda c: c.miou().value,
        "best mIoU as CLIPSeg and LD-ZNet have it",
        threshold=best.threshold,
        note=method,
    )
    ap = cell(lambda c: c.ap_mean(), "step-wise AP, mean over samples", note=method)
    return {f"{before}mIoU": top, f"{before}AP": ap}
