"""The paper's numbers are the paper's, and what is known of each is said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import ROOT

from rlfseg.chapters.tables import UnknownCellError, cell, paper_table, paper_tables

OURS = "RLFSeg(Ours)"

# Typed from the paper, apart from the package: rows and columns, and sums of what is printed.
SHAPES = {1: (8, 2), 2: (7, 6), 3: (2, 2), 4: (3, 1), 5: (4, 2), 6: (6, 2), 7: (2, 2), 8: (8, 1)}
SHAPES[9] = (4, 8)
TABLE_1 = """
RMI 21.1 -
Mask-RCNN Top 39.4 -
HulaNet 41.3 -
CLIPSeg (PC+) 43.4 76.7
CLIPSeg (PC, D=128) 48.2 78.2
RGBNet 46.7 77.2
LD-ZNet 52.7 78.9
RLFSeg(Ours) 56.1 77.3
"""
TABLE_9_ROW_SUMS = {"1": 429.4, "2": 381.0, "5": 373.5, "15": 366.3}
TABLE_2_COLUMN_SUMS = (367.6, 179.6, 339.6, 175.1, 364.1, 216.4)
SPOTS = [
    (2, "VPD, fully supervised", "RefCOCO+ mIoU", "62.7"),
    (2, "ADDP, fully supervised", "RefCOCO AP", "-"),
    (3, "SemFlow", "mIoU", "38.6"),
    (3, "Ours", "AP", "59.0"),
    (4, "SemFlow", "Inference time (s)", "1.09"),
    (5, "RF + AOS", "AP", "78.5"),
    (6, "64", "AP", "77.0"),
    (6, "Full Params", "mIoU", "51.9"),
    (7, "RLFSeg with AOS", "AP", "77.2"),
    (8, "Learning Rate", "Value", "1e-4"),
    (8, "Random Seed", "Value", "42"),
    (9, "5", "RefCOCO+ mIoU", "36.0"),
]


@pytest.mark.parametrize("number", range(1, 10))
def test_shapes(number: int) -> None:
    table = paper_table(number)
    assert (len(table.rows), len(table.columns)) == SHAPES[number]
    assert len(list(table.cells())) == len(table.rows) * len(table.columns)


def test_table_1_is_the_printed_one() -> None:
    typed = [line.rsplit(" ", 2) for line in TABLE_1.split("\n") if line]
    assert [[row.name, *row.printed] for row in paper_tables()[1].rows] == typed


def test_sums_of_tables_2_and_9() -> None:
    for row, total in TABLE_9_ROW_SUMS.items():
        values = [c.value for c in paper_tables()[9].cells() if c.row == row]
        assert sum(v for v in values if v is not None) == pytest.approx(total)
    for column, total in zip(paper_tables()[2].column_names, TABLE_2_COLUMN_SUMS, strict=True):
        values = [c.value for c in paper_tables()[2].cells() if c.column.name == column]
        assert sum(v for v in values if v is not None) == pytest.approx(total)


@pytest.mark.parametrize(("table", "row", "column", "printed"), SPOTS)
def test_spot_values(table: int, row: str, column: str, printed: str) -> None:
    assert cell(table, row, column).printed == printed


@pytest.mark.inputs
def test_every_value_stands_in_the_paper_in_this_order(inputs: Path) -> None:
    path = inputs.parent / "paper" / "rlfseg.txt"
    if not path.is_file():
        pytest.skip("the paper's text is not here")
    text = path.read_text()
    for number, table in paper_tables().items():
        block = text[text.index(f"\nTable {number}: ") :].splitlines()
        tabbed = [line.split("\t")[1:] for line in block if "\t" in line]
        # Ticks and crosses of Table 5 and group headings hold no value of ours.
        printed = [[v for v in values if v not in "×✓"] for values in tabbed]
        starts = printed.index(list(table.rows[0].printed))
        kept = [p for p in printed[starts:] if p][: len(table.rows)]
        assert kept == [list(row.printed) for row in table.rows], number


def test_every_printed_number_says_how_it_was_measured() -> None:
    for table in paper_tables().values():
        for c in table.cells():
            assert bool(c.protocol) == (c.printed != "-"), (c.table, c.row, c.column.name)


def test_the_known_inconsistencies_are_flagged() -> None:
    assert "0.3" in cell(1, "CLIPSeg (PC+)", "mIoU").protocol
    assert "best" in cell(1, "LD-ZNet", "mIoU").protocol
    for row in ("RMI", "Mask-RCNN Top", "HulaNet"):
        assert "PhraseCut's own evaluator" in cell(1, row, "mIoU").protocol
    assert "overall IoU" in cell(2, "VPD, fully supervised", "G-Ref mIoU").protocol
    for table, row in ((1, OURS), (5, "RF + RDS + AOS"), (6, "64"), (7, "RLFSeg with AOS")):
        assert any("77.0 in Table 6" in flag for flag in cell(table, row, "AP").flags)
    for table, row, column in ((5, "RF + RDS", "AP"), (9, "1", "PhraseCut AP")):
        assert any("76.9 in Table 5" in flag for flag in cell(table, row, column).flags)


def test_lookups_name_what_exists() -> None:
    with pytest.raises(UnknownCellError, match=r"Table 4 .* 'Ours'"):
        cell(4, "RLFSeg", "Inference time (s)")
    with pytest.raises(UnknownCellError, match=r"column 'oIoU'; it has 'mIoU', 'AP'"):
        cell(1, "RMI", "oIoU")
    with pytest.raises(UnknownCellError, match="1 to 9"):
        cell(10, "RMI", "mIoU")
    assert cell(1, "LD-ZNet", "mIoU").value == 52.7
    assert cell(1, "RMI", "AP").value is None


def test_every_cited_work_is_in_the_bibliography() -> None:
    keys = set(re.findall(r"^@\w+\{([^,]+),", (ROOT / "book/references.bib").read_text(), re.M))
    cited = {row.cite for table in paper_tables().values() for row in table.rows} - {""}
    pages = "".join(page.read_text() for page in (ROOT / "book").glob("*.md"))
    cited |= {k for group in re.findall(r"\{cite\}`([^`]+)`", pages) for k in group.split(",")}
    assert cited <= keys
