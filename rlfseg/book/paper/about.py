"""What stands below a table: the run's profile, and on what and how its cells were measured."""

from collections.abc import Mapping

from rlfseg.book.myst import flat
from rlfseg.book.paper.results import Result, Results

Place = tuple[str, str]  # the names of a row and a column

DRAWN_PROFILES = {
    "smoke": "drawn scenes and a small model trained for a few steps",
    "mini": "drawn scenes and a small model of our own",
    "preflight": "drawn scenes and the full-size model with random weights",
    "rehearsal": "drawn scenes in the official layouts and a small model of random weights",
}
"""Profiles whose scores are no evidence about the paper's numbers, and what they run."""


def this_run(filled: Results, profile: str) -> str:
    """Say profile, protocols, data and best thresholds of the cells that were run."""
    where = f"**This run:** profile `{profile}`"
    if profile in DRAWN_PROFILES:
        where += f" ({DRAWN_PROFILES[profile]}; its scores are no evidence about the paper's)"
    run = {place: each for place, each in filled.items() if isinstance(each, Result)}
    if not run:
        return f"{where}. Nothing of this table was run."
    lines = [f"{where}.", ""]
    lines += _each_once({place: each.protocol for place, each in run.items()})
    lines += _each_once({place: each.data for place, each in run.items()})
    alone = len({row for row, _ in run}) == 1
    chosen: dict[str, list[str]] = {}
    for (row, column), each in run.items():
        if each.threshold is not None:
            said = f"{each.threshold:.2f}"
            chosen.setdefault(column, []).append(said if alone else f"{row}: {said}")
    if chosen:
        form = "{} {}" if alone else "{} ({})"
        listed = (form.format(column, ", ".join(rows)) for column, rows in chosen.items())
        lines.append(f"- Best thresholds: {'; '.join(listed)}.")
    if any(len(each.seeds) > 1 for each in run.values()):
        lines.append("- In brackets 95 % over images, first seed; ± 95 % over seeds, same phrases.")
    return "\n".join(lines)


def _each_once(texts: Mapping[Place, str]) -> list[str]:
    """Say each text once, after the columns, the rows, or the cells of which it is said."""
    groups: dict[str, list[Place]] = {}
    for place, text in texts.items():
        groups.setdefault(flat(text), []).append(place)
    lines = []
    for text, places in groups.items():
        others = texts.keys() - places
        for axis in (1, 0):
            names = dict.fromkeys(place[axis] for place in places)
            if not names.keys() & {place[axis] for place in others}:
                break
        else:
            names = dict.fromkeys(f"{row} ({column})" for row, column in places)
        lines.append(f"- {', '.join(names) if others else 'All'}: {text}.")
    return lines
