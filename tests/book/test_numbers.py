"""A number in a chapter's prose is made by the run, asserted, or quoted, and quotes name whom."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import yaml

from rlfseg.config import RefineConfig
from rlfseg.evaluation.grid import THRESHOLDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "book").glob("*.ipynb"))
QUOTED = yaml.safe_load(Path(__file__).with_name("quoted.yml").read_text())
#: What is no number of a run: code, formulas, links, references and names.
NAMES = re.compile(
    r"```.*?```|\$\$.*?\$\$|\{[a-z:]+\}`[^`]*`|\$[^$]*\$|`[^`]*`|<[^>]*>|\]\([^)]*\)|\([a-z]+-\d+\)="
    r"|\b(?:Tables?|Figures?|Eqs?\.|Sec\.|Algorithm) [\d.]+(?:\(?[a-c]\)?)?"
    r"(?:(?:, |-| and | to )\d+)*"
    r"|\bA\.\d(?:\.\d)*|\bStable Diffusion 1\.5|\b[A-Za-z][\w-]*\d(?:[\w.-]*\w)?",
    re.DOTALL,
)
WORDS = "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|half a|a quarter of a"
TYPED = re.compile(
    rf"\d[\d,.]*\d|\d|\b(?:{WORDS})(?: (?:and|or|to) \w+)?"
    r"(?= (?:points?|minutes?|seconds?|hours?|times|in a hundred|samples)\b)"
)


def prose(page: Path) -> str:
    """A chapter's Markdown, without what is no number of a run."""
    cells = json.loads(page.read_text())["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return NAMES.sub(" ", text)


def asserted(page: Path) -> set[str]:
    """The numbers that a chapter's assertions name."""
    cells = json.loads(page.read_text())["cells"]
    trees = [ast.parse("".join(c["source"])) for c in cells if c["cell_type"] == "code"]
    checks = [n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Assert)]
    inside = [n for check in checks for n in ast.walk(check) if isinstance(n, ast.Constant)]
    return {str(n.value) for n in inside if isinstance(n.value, int | float)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_number_in_prose_is_typed(page: Path) -> None:
    quoted = {str(n) for numbers in QUOTED.get(page.stem, {}).values() for n in numbers}
    known = quoted | asserted(page) | {"49", "95"}  # CLIPSeg's thresholds, and each interval's %
    typed = [match.group() for match in TYPED.finditer(prose(page))]
    assert not sorted(set(typed) - known), (
        "make it in the run (glue), assert it, or name its source"
    )
    assert not quoted - set(typed), "nothing quotes it any more"


@pytest.mark.parametrize(
    ("page", "head"),
    [("index", "### What held there"), ("deviations", "## What some of these choices move")],
)
def test_what_was_measured_is_told_by_the_chapters(page: str, head: str) -> None:
    text = (ROOT / "book" / f"{page}.md").read_text()
    section = re.split(r"\n## ", text.split(head, 1)[1])[0]
    section = re.sub(r"(?m)^\| \d(?:\([ab]\))?, ", "| ", section)  # the paper's figures
    assert len(re.findall(r"\{\{ \w+ \}\}", section)) > 9
    typed = {m.group() for m in TYPED.finditer(NAMES.sub(" ", re.sub(r"\{\{.*?\}\}", "", section)))}
    quoted = {str(n) for numbers in QUOTED.get(page, {}).values() for n in numbers}
    assert typed == quoted


def test_settings_that_the_paper_does_not_give_are_said_as_they_are() -> None:
    text = (ROOT / "book" / "deviations.md").read_text()
    ours = RefineConfig()
    assert f"$N = {ours.anchors}$, $T_{{max}} = {ours.iterations}$ and tau = {ours.tau}" in text
    sampler = yaml.safe_load((ROOT / "params/a100/run.yml").read_text())["sampler"]
    assert f"entry by entry; {sampler['tol']} for Stable Diffusion's" in text


def test_there_are_as_many_thresholds_as_is_said() -> None:
    assert len(THRESHOLDS) == 49


def test_what_is_quoted_of_a_table_stands_in_it() -> None:
    tables = yaml.safe_load((ROOT / "rlfseg/chapters/tables.yml").read_text())
    printed = set(re.findall(r"\d+\.\d+", str(tables)))
    of_tables = {
        str(n)
        for page in QUOTED.values()
        for source, numbers in page.items()
        if source.startswith("the paper, Table")
        for n in numbers
    }
    assert of_tables and of_tables <= printed, of_tables - printed


def test_it_finds_what_is_typed() -> None:
    found = TYPED.findall("gains 3.4 points, six points more, two to three minutes, 1,018 phrases")
    assert found == ["3.4", "six", "two to three", "1,018"]
    kept = NAMES.sub("", "HDF5, Eq. 4, Tables 7 and 9, Figure 2(a), Eqs. 6-7, $t = 1$, `x1`, A.3.2")
    assert not re.search(r"\d", kept), kept
