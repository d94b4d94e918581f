"""Values that the parameters of several chapters have, and what they must be."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from rlfseg.chapters.tables import paper_table
from rlfseg.config import SamplerConfig, TrainConfig, validated


def _changes_of_train(given: dict[str, Any]) -> dict[str, Any]:
    validated(TrainConfig, {"steps": 1, "rank": 0, **given}, where="train")
    return given


TrainChanges = Annotated[dict[str, Any], AfterValidator(_changes_of_train)]
"""Fields of `TrainConfig` that a variant of a run changes."""


def having(*names: str) -> AfterValidator:
    """Return a check that a mapping has some names."""

    def check(given: dict[str, Any]) -> dict[str, Any]:
        if missing := [name for name in names if name not in given]:
            raise ValueError(f"{missing[0]} is missing")
        return given

    return AfterValidator(check)


def rows_of(table: int) -> AfterValidator:
    """Return a check that a mapping's names are rows of a table of the paper, and none of ours.

    A name that is none would be noticed only when all is trained, scored, and set in the table.
    """
    rows = [row for row in paper_table(table).row_names if "Ours" not in row]

    def check(given: dict[str, Any]) -> dict[str, Any]:
        if unknown := [name for name in given if name not in rows]:
            raise ValueError(f"{unknown[0]!r} is no row of Table {table}: {'; '.join(rows)}")
        return given

    return AfterValidator(check)


Variants = dict[str, TrainChanges]
Samplers = Annotated[dict[str, SamplerConfig], Field(min_length=1)]
