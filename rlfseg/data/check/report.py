"""What a check has to say: lines that are fine, worth knowing or wrong, for people and machines."""

import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["ok", "note", "problem"]
EXAMPLES = 5
_LEVEL = len("problem")
_WHAT, _EXPECTED = 0.34, 0.26  # share of the width, at most; what was found takes the rest


@dataclass(frozen=True)
class Line:
    """One thing that was looked at.

    Attributes:
        level: ok; note, for what one should know; problem, for what is to be mended.
        what: what was looked at.
        found: what is there.
        expected: what should be there; empty where nothing else was to be expected.
        examples: the first five cases, each naming file and key; a longer sequence is cut.
        advice: what to do.
    """

    level: Level
    what: str
    found: str
    expected: str = ""
    examples: Sequence[str] = ()
    advice: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "examples", tuple(self.examples[:EXAMPLES]))


@dataclass(frozen=True)
class Report:
    """All that a check has to say.

    Attributes:
        subject: what was checked: the name of a data set, or a profile.
        root: the folder that was checked.
        lines: in the order of the work.
    """

    subject: str
    root: str
    lines: tuple[Line, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return all(line.level != "problem" for line in self.lines)

    def to_json(self) -> str:
        """Return one JSON object: `subject`, `root`, `ok`, and `lines` with what a `Line` has."""
        content = asdict(self)
        return json.dumps({**content, "ok": self.ok}, indent=2)

    def as_text(self, width: int = 100) -> str:
        """Lay the report out in columns, no line over `width` characters (at least 60)."""
        what = max((len(line.what) for line in self.lines), default=0)
        expected = max(len(line.expected) for line in (*self.lines, _HEAD))
        widths = [_LEVEL, min(what, int(_WHAT * width)), 0, min(expected, int(_EXPECTED * width))]
        widths[2] = width - sum(widths) - 2 * (len(widths) - 1)
        out = textwrap.wrap(f"{self.subject} in {self.root}", width, break_on_hyphens=False)
        for line in (_HEAD, *self.lines):
            cells = (line.level if line is not _HEAD else "", line.what, line.found, line.expected)
            out += _row(cells, widths)
            out += [part for example in line.examples for part in _below("- ", example, width)]
            out += _below("-> ", line.advice, width) if line.advice else []
        levels = Counter(line.level for line in self.lines)
        out.append(f"problems: {levels['problem']}, notes: {levels['note']}, ok: {levels['ok']}")
        return "\n".join(out).encode("utf-8", "backslashreplace").decode("utf-8")


_HEAD = Line("ok", "", "found", "expected")


def _row(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Lay out one row, each cell wrapped within its column."""
    columns = [
        textwrap.wrap(cell, width, break_on_hyphens=False) if cell else []
        for cell, width in zip(cells, widths, strict=True)
    ]
    return [
        "  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip()
        for parts in zip_longest(*columns, fillvalue="")
    ]


def _below(mark: str, text: str, width: int) -> list[str]:
    indent = " " * (_LEVEL + 2)
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent + mark,
        subsequent_indent=indent + " " * len(mark),
        break_on_hyphens=False,
    )
