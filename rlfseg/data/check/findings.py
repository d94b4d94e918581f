"""What the checks of all data sets do alike: read a file or say where it breaks, count, compare."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rlfseg.data.check.images import Survey
from rlfseg.data.check.report import Level, Line
from rlfseg.data.packed.schema import key_of
from rlfseg.data.phrasecut import SizeMismatch

NOT_OFFICIAL = "not the official set: counts are its own"
_FETCH = "Fetch the file again."


def attempt(read: Callable[[Path], Any], path: Path) -> Any:
    """Read a file; return its content, or the `Line` that says what is wrong with it."""
    try:
        return read(path)
    except FileNotFoundError:
        return Line("problem", path.name, "not there", advice=_FETCH)
    except (OSError, ValueError) as error:
        return Line("problem", path.name, _fault(error, path), advice=_FETCH)


def first_folder(root: Path, names: Iterable[str]) -> Path | None:
    """Return the first of the folders that is there."""
    return next((root / name for name in names if (root / name).is_dir()), None)


def count_line(
    what: str,
    found: Sequence[int],
    units: Sequence[str],
    published: Sequence[Sequence[int]],
    *,
    official: bool,
) -> Line:
    """Compare counts with the published ones.

    Args:
        what: what was counted.
        found: the counts.
        units: of each count, its name.
        published: any of these is right; each may leave out the last counts. None: not published.
        official: whether they apply.
    """
    said = _counts(found, units)
    if not official:
        return Line("note", what, said, NOT_OFFICIAL)
    if not published:
        return Line("note", what, said, "no published count")
    expected = " or ".join(_counts(counts, units) for counts in published)
    if any(tuple(found[: len(counts)]) == tuple(counts) for counts in published):
        return Line("ok", what, said, expected)
    advice = (
        "If every file is complete, this is another release: state these counts beside every number"
    )
    return Line("problem", what, said, expected, advice=f"{advice}.")


def fault_line(what: str, faults: Sequence[str], unit: str, advice: str = "") -> list[Line]:
    """Return one line on what is at fault, where anything is.

    Args:
        what: what was looked at.
        faults: one text each, naming file and key.
        unit: what the faults are of.
        advice: what to do.
    """
    found = f"{len(faults):,} {unit}"
    return [Line("problem", what, found, examples=faults, advice=advice)] if faults else []


def left_out_lines(what: str, malformed: Sequence[str], total: int) -> list[Line]:
    """Return one line on annotations that can't be drawn, where there are any.

    Packing leaves them out, and fails where there is nothing else.

    Args:
        what: what was looked at.
        malformed: one text each, naming file and place.
        total: how many annotations there are.
    """
    if not malformed:
        return []
    found = f"{len(malformed):,} of {total:,} can't be drawn"
    advice = "Packing leaves them out and says so below the tables."
    level: Level = "note" if len(malformed) < total else "problem"
    return [Line(level, what, found, examples=malformed, advice=advice)]


def size_line(survey: Survey, *, what: str = "image sizes") -> Line:
    """Say whether the image files have the sizes that the annotations refer to."""
    mismatches = survey.mismatches
    if not mismatches:
        return Line("ok", what, f"{survey.sized:,} looked at", "as annotated")
    found = f"{len(mismatches):,} of {survey.sized:,} differ"
    advice = "Masks would not lie on these images: fetch the images again, or leave them out."
    examples = [size_text(mismatch) for mismatch in mismatches]
    return Line("problem", what, found, "as annotated", examples, advice)


def size_text(mismatch: SizeMismatch) -> str:
    """Say both sizes of an image in words."""
    width, height = mismatch.annotated
    stored = " x ".join(map(str, mismatch.stored or ()))
    return f"image {mismatch.image_id}: the file is {stored}, annotated {width} x {height}"


def repeated(what: str, ids: Iterable[Any], where: str) -> list[str]:
    """List a text for each id that occurs more than once."""
    return [
        f"{where}: {what} {value!r:.60} {count} times"
        for value, count in Counter(ids).items()
        if count > 1
    ]


def unfit(text: str) -> bool:
    """Tell whether a phrase can't be the name of a mask in a packed file."""
    try:
        key_of(text)
    except ValueError:
        return True
    return False


def _counts(counts: Sequence[int], units: Sequence[str]) -> str:
    return ", ".join(f"{count:,} {unit}" for count, unit in zip(counts, units, strict=False))


def _fault(error: Exception, path: Path) -> str:
    """Say what is wrong with a file, of JSON the byte at which it stops making sense."""
    cause = error.__cause__
    size = f"of {path.stat().st_size:,} bytes" if path.is_file() else ""
    if isinstance(cause, json.JSONDecodeError):
        byte = len(cause.doc[: cause.pos].encode("utf-8"))
        return f"no complete JSON: at byte {byte:,} {size}, {cause.msg}"
    if isinstance(cause, UnicodeDecodeError):
        return f"no UTF-8 text: at byte {cause.start:,} {size}"
    return str(error)
