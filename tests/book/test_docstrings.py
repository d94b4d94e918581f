"""Formulas in docstrings stay as they are typed; sections stay sections."""

from __future__ import annotations

from rlfseg.book.docstrings import literal

SAID = """Lengthen a step (Eq. 7).

    gamma = sum |a| / sum |b|
    more  = 1

Args:
    a: what is missing.
    b: what was walked,
        on two lines.

Returns:
    gamma."""


def test_a_formula_is_literal_and_a_section_is_not() -> None:
    marked = literal(SAID.splitlines())
    at = marked.index("::")
    assert marked[at + 1 : at + 3] == ["", "    gamma = sum |a| / sum |b|"]
    assert marked.count("::") == 1
    assert [line for line in marked if line != "::"] != marked
    kept = [line for i, line in enumerate(marked) if i not in (at, at + 1)]
    assert kept == SAID.splitlines()
