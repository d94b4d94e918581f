"""Tables in MyST's markup hold what they were given, each text in its cell."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from rlfseg.book.myst import DASH, grid, tabled

TEXT = st.text("ab| \n", min_size=1).map(str.strip).filter(bool)


@given(st.lists(TEXT, min_size=2, max_size=4, unique=True), st.data())
def test_a_reader_of_markdown_finds_every_text_in_its_cell(
    heads: list[str], data: st.DataObject
) -> None:
    row = st.lists(TEXT, min_size=len(heads), max_size=len(heads))
    lines = data.draw(st.lists(row, min_size=1, max_size=3))
    html = MarkdownIt().enable("table").render(grid(heads, lines))
    cells = re.findall(r"<t[hd]>(.*?)</t[hd]>", html)
    assert cells == [" ".join(text.split()) for line in (heads, *lines) for text in line]


def test_what_is_not_said_of_a_thing_is_a_dash() -> None:
    rows = {"a": {"x": "1"}, "b": {"y": "2"}}
    said = tabled(rows, stub="of", caption="two\nthings", name="table-two").data
    assert said.startswith(":::{table} two things\n:name: table-two\n")
    assert said.splitlines()[3:6] == [
        "| of | x | y |",
        "| --- | --- | --- |",
        f"| a | 1 | {DASH} |",
    ]
    assert said.splitlines()[6:] == [f"| b | {DASH} | 2 |", ":::"]
