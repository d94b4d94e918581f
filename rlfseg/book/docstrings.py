"""A Sphinx extension: formulas in docstrings, which stand indented, keep their lines and signs."""

from typing import Any

_FIRST = 400  # before napoleon's 500, which rewrites what it knows


def setup(app: Any) -> dict[str, bool]:
    """Let Sphinx ask for every docstring."""
    app.connect("autodoc-process-docstring", _literal, priority=_FIRST)
    return {"parallel_read_safe": True}


def _literal(_app: Any, _what: str, _name: str, _it: Any, _options: Any, lines: list[str]) -> None:
    lines[:] = literal(lines)


def literal(lines: list[str]) -> list[str]:
    """Put `::` before each block that stands indented between blank lines of a docstring.

    What follows a section's name, as `Args:`, has no blank line before it and stays as it is.
    """
    marked: list[str] = []
    for line in lines:
        opens = line.startswith(" ") and marked and not marked[-1]
        said = next((before for before in reversed(marked) if before), "")
        if opens and not said.startswith(" "):
            marked += ["::", ""]
        marked.append(line)
    return marked
