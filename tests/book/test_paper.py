"""Nothing of ours is passed off as comparable with the paper's numbers."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from rlfseg.book.paper import (
    NOT_RUN,
    Missing,
    Result,
    difference,
    load_results,
    measured,
    render,
    save_results,
)
from rlfseg.book.paper.about import DRAWN_PROFILES
from rlfseg.chapters import CHAPTERS
from rlfseg.chapters.reading import chapter_file
from rlfseg.chapters.tables import UnknownCellError, paper_table, paper_tables
from rlfseg.evaluation.counting import count
from rlfseg.evaluation.counts import Counts
from rlfseg.evaluation.readings import Reading, readings

OURS = ("RLFSeg(Ours)", "mIoU")


def result(value: float | str = 40.0, comparable: str = "no: mini world", **rest: object) -> Result:
    fields = {"low": 39.0, "high": 41.0, "protocol": "best mIoU at 128 x 128", "data": "test"}
    return Result(value, comparable=comparable, **{**fields, **rest})  # type: ignore[arg-type]


def plain(text: str) -> list[list[str]]:
    """The cells of the first pipe table, without footnote marks."""
    after = dropwhile(lambda line: not line.startswith("|"), text.splitlines())
    lines = takewhile(lambda line: line.startswith("|"), after)
    bare = (re.sub(r"\s*\{(sup|cite)\}`[^`]*`", "", line) for line in lines)
    return [[part.strip() for part in line.strip("|").split(" | ")] for line in bare]


def body(text: str) -> list[list[str]]:
    """The same below its head."""
    return plain(text)[2:]


# --- results --------------------------------------------------------------------------------

percent = st.floats(0, 100)


@given(percent)
def test_difference_is_value_minus_paper(value: float) -> None:
    said = ("yes: same set", "no: mini world", "unknown: which AP")
    yes, no, unknown = (result(value, c, low=None, high=None) for c in said)
    for c in paper_tables()[2].cells():
        gap = None if c.printed == "-" else pytest.approx(value - float(c.printed))
        assert difference(c, yes) == gap
        assert difference(c, no) is difference(c, unknown) is None


def test_fractions_become_percent() -> None:
    made = Result.percent(
        0.5, (0.4, 0.625), protocol="p", comparable="no: mini", data="d", threshold=0.42
    )
    assert (made.value, made.low, made.high, made.threshold) == (50, 40, 62.5, 0.42)
    with pytest.raises(ValueError, match=r"56\.1 is not a fraction"):
        Result.percent(56.1, None, protocol="p", comparable="yes", data="d")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"comparable": "no"}, "comparable must be"),
        ({"comparable": "unknown: "}, "comparable must be"),
        ({"comparable": "perhaps"}, "comparable must be"),
        ({"protocol": " "}, "protocol and its data"),
        ({"data": ""}, "protocol and its data"),
        ({"low": None}, "two ends"),
        ({"low": 41.5}, "upside down"),
        ({"value": float("nan")}, "not finite"),
    ],
)
def test_a_result_says_what_it_is(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        result(**wrong)  # type: ignore[arg-type]


def test_json_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "results" / "table_1.json"
    given = {
        OURS: result(
            threshold=0.42,
            note="One seed – “öü”",
            readings=(Reading("AP", 40.5), Reading("IoU", None, 0.3, "not counted")),
        ),
        ("LD-ZNet", "AP"): result(low=None, high=None),
        ("RMI", "AP"): Missing("not run: `make runs`"),
    }
    provenance = {"commit": "abc", "libraries": {"torch": "2"}}
    save_results(path, 1, given, provenance)
    saved = load_results(path)
    assert (saved.table, saved.provenance) == (1, provenance)
    assert {key: saved.results[key] for key in given} == given
    assert len(saved.results) == 16
    assert saved.results["LD-ZNet", "mIoU"] == Missing(NOT_RUN)
    cells = json.loads(path.read_text(encoding="utf-8"))
    assert [c["row"] for c in cells][::2] == list(paper_tables()[1].row_names)
    assert all(c["provenance"] == provenance for c in cells)
    (ours,) = (c for c in cells if (c["row"], c["column"]) == OURS)
    assert (ours["paper"], ours["value"], ours["interval"]) == ("56.1", 40.0, [39.0, 41.0])
    assert cells[0] | {"provenance": 0} == {
        "table": 1,
        "row": "RMI",
        "column": "mIoU",
        "paper": "21.1",
        "value": None,
        "reason": NOT_RUN,
        "provenance": 0,
    }
    assert [p.name for p in path.parent.iterdir()] == ["table_1.json"]


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    path = tmp_path / "table_1.json"
    save_results(path, 1, {OURS: result()}, {})
    with pytest.raises(TypeError):
        save_results(path, 1, {}, {"not JSON": object()})
    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_results(path, 1, {}, {})
    assert load_results(path).results[OURS] == result()
    assert [p.name for p in tmp_path.iterdir()] == ["table_1.json"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda cells: cells[:-1],
        lambda cells: [{**c, "paper": "99.9"} for c in cells],
        lambda cells: [{k: v for k, v in c.items() if k != "value"} for c in cells],
        lambda cells: [{**cells[0], "provenance": {"commit": "other"}}, *cells[1:]],
        lambda cells: {"cells": cells},
        lambda cells: [],
    ],
)
def test_load_refuses_another_table(tmp_path: Path, spoil) -> None:
    path = tmp_path / "table_7.json"
    save_results(path, 7, {}, {"commit": "abc"})
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=r"table_7\.json .*run again"):
        load_results(path)


# --- the rendered table ---------------------------------------------------------------------


def maker(table: int, profile: str = "a100") -> Any:
    """The parameters of the chapter that fills a table."""
    (name,) = (name for name, chapter in CHAPTERS.items() if table in chapter.tables)
    return chapter_file(ROOT / "params" / profile / f"{name}.yml")


def shown(table: int, results: dict, profile: str = "a100") -> str:
    here = maker(table, profile)
    return str(render(here, table, results, caption="A caption", name="tab-x").data)


@pytest.mark.parametrize("number", range(1, 10))
def test_render_keeps_the_papers_order_and_admits_what_was_not_run(number: int) -> None:
    text = shown(number, {})
    rows, printed = body(text), paper_table(number)
    if number in (2, 9):  # side by side
        names = printed.row_names
        assert plain(text)[0][1:] == list(names)
        assert [row[0] for row in rows] == list(printed.column_names)
        said = {
            (name, row[0]): cell for row in rows for name, cell in zip(names, row[1:], strict=True)
        }
        for c in printed.cells():
            told = "–" if c.printed == "-" else f"{NOT_RUN}<br>paper {c.printed}"
            assert said[c.row, c.column.name] == told
    else:
        assert [row[0] for row in rows if row[0]] == list(printed.row_names)
        assert [row[-2] for row in rows] == [c.printed for c in printed.cells() if c.printed != "-"]
        assert {row[-1] for row in rows} == {NOT_RUN}
    assert "Nothing of this table was run" in text and "other rows" not in text
    assert text.startswith(f":::{{table}} Paper, Table {number}: A caption\n:name: tab-x\n\n|")


def test_rows_of_which_nothing_was_run_are_folded() -> None:
    missing = {("LD-ZNet", "mIoU"): Missing("its weights are missing")}
    text = shown(1, {OURS: result(), **missing})
    first, folded, notes = text.split("::::{dropdown}")
    assert [row[0] for row in body(first) if row[0]] == ["LD-ZNet", OURS[0]]
    assert body(first)[0][3] == "its weights are missing"
    assert f"was run here ({len(paper_table(1).row_names) - 2})" in folded.splitlines()[0]
    assert {len(row) for row in body(folded)} == {3}
    marks = {int(n) for found in re.findall(r"{sup}`([\d,]+)`", text) for n in found.split(",")}
    assert notes.startswith(f" Notes ({len(marks)})\n") and f"\n{max(marks)}. " in notes
    names = {row[0] for row in body(folded) if row[0]}
    assert names == set(paper_table(1).row_names) - {OURS[0], "LD-ZNet"}


def test_a_column_that_says_the_same_everywhere_is_a_sentence() -> None:
    text = shown(1, {OURS: result(), (OURS[0], "AP"): result()}, "mini")
    assert "Comparable with the paper: no: mini world." in text
    assert [row[1:] for row in body(text)[:1]] == [["mIoU", "56.1", "40.0 (39.0 to 41.0)"]]
    mixed = shown(1, {OURS: result(), (OURS[0], "AP"): result(comparable="no: other")}, "mini")
    assert [row[-1] for row in body(mixed)[:2]] == ["no: mini world", "no: other"]


def test_render_shows_what_was_run() -> None:
    run = result(56.14, "yes", low=54.96, high=57.3, threshold=0.42, data="2,545 images")
    text = shown(1, {OURS: run, ("RLFSeg(Ours)", "AP"): result(70, "no: another AP")})
    miou, ap = body(text)[-2:]
    assert miou[1:] == ["mIoU", "56.1", "56.1 (55.0 to 57.3)", "+0.0", "yes"]
    assert ap[1:] == ["AP", "77.3", "70.0 (39.0 to 41.0)", "–", "no: another AP"]
    lines = text.splitlines()
    assert "- All: best mIoU at 128 x 128." in lines  # `result` has it for both
    assert "- mIoU: 2,545 images." in lines
    assert "- Best thresholds: mIoU 0.42." in lines
    assert "profile `a100`" in text


def test_a_difference_has_the_papers_decimals_and_a_sign() -> None:
    fast = result(0.113, "yes", low=None, high=None)
    rows = body(shown(4, {("Ours", "Inference time (s)"): fast}))
    assert len(rows) == 1 and rows[0][1:] == [
        "0.19",
        "0.11 (no interval)",
        "−0.08",
        "yes",
    ]


def test_settings_are_texts() -> None:
    size = result("128 × 128", "no: mini world", low=None, high=None)
    rows = body(shown(8, {("Image Resolution", "Value"): size}))
    assert rows == [["Image Resolution", "512 × 512", "128 × 128"]]
    with pytest.raises(ValueError, match="must be a text"):
        shown(8, {("LoRA Rank", "Value"): result(64)})
    with pytest.raises(ValueError, match="must be a number"):
        shown(1, {OURS: result("56.1")})


def test_cells_the_paper_leaves_empty_appear_only_when_run() -> None:
    assert len(body(shown(1, {}))) == 13
    rows = body(shown(1, {("RMI", "AP"): result(30.0, "yes")}))
    assert rows[1] == ["", "AP", "–", "30.0 (39.0 to 41.0)", "yes"]


def test_a_wide_table_has_its_rows_side_by_side() -> None:
    run = {("1", "PhraseCut mIoU"): result(57.8, "yes"), ("2", "PhraseCut AP"): result(70.0)}
    text = shown(9, run)
    head, _, miou, ap, *rest = plain(text)
    assert head == ["metric, by steps", "1", "2"]
    assert miou == [
        "PhraseCut mIoU",
        "57.8 (39.0 to 41.0)<br>paper 55.8<br>difference +2.0<br>comparable? yes",
        f"{NOT_RUN}<br>paper 47.2",
    ]
    assert ap[2] == "70.0 (39.0 to 41.0)<br>paper 72.7<br>comparable? no: mini world"
    assert [row[0] for row in rest] == list(paper_table(9).column_names[2:])
    folded = text.split("::::{dropdown}")[1]
    assert plain(folded)[0] == ["metric, by steps", "5", "15"]
    assert body(folded)[0] == ["PhraseCut mIoU", "46.0", "44.5"]


def test_what_holds_for_many_cells_is_said_once_of_their_rows_or_columns() -> None:
    theirs = result(data="130 phrases", protocol="another")
    cells = {("LD-ZNet", column): theirs for column in ("mIoU", "AP")}
    cells |= {(OURS[0], column): result(data=f"all of {column}") for column in ("mIoU", "AP")}
    lines = shown(1, cells).splitlines()
    assert "- LD-ZNet: another." in lines and f"- {OURS[0]}: best mIoU at 128 x 128." in lines
    assert "- LD-ZNet: 130 phrases." in lines
    split = {place: result(threshold=0.4) for place in (OURS, ("LD-ZNet", "mIoU"))}
    both = shown(1, split).splitlines()
    assert f"- Best thresholds: mIoU (LD-ZNet: 0.40, {OURS[0]}: 0.40)." in both
    assert f"- {OURS[0]} (mIoU): all of mIoU." in lines


def test_footnotes_are_numbered_once_and_all_listed() -> None:
    text = shown(1, {OURS: result(note="Trained | twice")})
    used = {int(n) for group in re.findall(r"\{sup\}`([\d,]+)`", text) for n in group.split(",")}
    listed = re.findall(r"^(\d+)\. (.+)$", text, re.M)
    assert sorted(used) == [int(n) for n, _ in listed] == list(range(1, len(listed) + 1))
    texts = [note for _, note in listed]
    assert len(set(texts)) == len(texts)
    assert "Trained | twice." in texts


def test_nothing_compares_with_a_cell_whose_protocol_is_not_known(tmp_path: Path) -> None:
    said = "yes: but for the scoring size"
    ours = {(OURS[0], column): result(50.0, said, low=None, high=None) for column in ("mIoU", "AP")}
    miou, ap = body(shown(1, ours))[-2:]
    assert miou[-2:] == ["−6.1", said]
    assert ap[-2:] == ["–", "unknown: which of the APs of that name the paper prints"]
    path = tmp_path / "table_1.json"
    save_results(path, 1, ours, {})
    kept = load_results(path).results
    assert kept[OURS].is_comparable and not kept[OURS[0], "AP"].is_comparable
    theirs = {"2": "split", "3": "classes that are present", "9": "split"}
    for number, why in theirs.items():
        for c in paper_tables()[int(number)].cells():
            if "Ours" in c.row or (c.row == "1" and "PhraseCut" not in c.column.name):
                assert why in c.unknown, c
    for number in (1, 5, 6, 7):  # the text says which mIoU it is, and not which AP
        for c in paper_tables()[number].cells():
            if c.row == OURS[0] or number != 1:
                assert bool(c.unknown) == (c.column.metric == "AP"), c


def test_all_profiles_but_the_published_one_are_of_drawn_scenes() -> None:
    assert {*DRAWN_PROFILES, "a100"} == {path.name for path in (ROOT / "params").iterdir()}


@pytest.mark.parametrize("profile", DRAWN_PROFILES)
def test_drawn_scenes_are_never_comparable(profile: str) -> None:
    with pytest.raises(ValueError, match=r"Table 1, 'RLFSeg\(Ours\)', 'mIoU'.*not comparable"):
        shown(1, {OURS: result(56.1, "yes")}, profile)
    text = shown(1, {OURS: result(56.1)}, profile)
    assert "Comparable with the paper: no: mini world." in text
    assert f"profile `{profile}` (drawn scenes" in text


def test_only_a_full_size_model_may_be_timed() -> None:
    timed = {("Ours", "Inference time (s)"): result(0.19, "yes")}
    assert "+0.00" in shown(4, timed, "preflight")
    for small in ("mini", "rehearsal"):
        with pytest.raises(ValueError, match="not comparable"):
            shown(4, timed, small)


def test_render_refuses_what_would_break_the_page() -> None:
    with pytest.raises(ValueError, match="'Tab 1'"):
        render(maker(1), 1, {}, caption="A", name="Tab 1")
    with pytest.raises(ValueError, match="caption is empty"):
        render(maker(1), 1, {}, caption=" ", name="tab-1")
    with pytest.raises(UnknownCellError, match="'RLFSeg'"):
        shown(1, {("RLFSeg", "mIoU"): result()})
    odd = {OURS: result(comparable="no: a | b\nc")}
    text = str(render(maker(1, "mini"), 1, odd, caption="A\nb", name="t").data)
    assert text.startswith(":::{table} Paper, Table 1: A b\n")
    assert "Comparable with the paper: no: a | b c." in text


# --- the page of deviations -----------------------------------------------------------------


def defined(name: str) -> bool:
    """Whether a dotted name below `rlfseg`, with `(argument)` or not, exists in the source."""
    dotted, _, argument = name.rstrip(")").partition("(")
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        path = ROOT.joinpath("rlfseg", *parts[:cut])
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if path.is_file():
            break
    else:
        return False
    node: ast.AST | None = ast.parse(path.read_text())
    imports = (n for n in ast.walk(node) if isinstance(n, ast.ImportFrom))
    for source in imports if path.name == "__init__.py" else ():
        if source.module and parts[cut] in {alias.name for alias in source.names}:
            home = source.module.removeprefix("rlfseg.")
            return defined(".".join([home, *parts[cut:]]) + (f"({argument})" if argument else ""))
    for part in parts[cut:]:
        found = None
        for child in getattr(node, "body", []):
            targets = [getattr(child, "target", None), *getattr(child, "targets", [])]
            names = {getattr(child, "name", None), *(getattr(t, "id", None) for t in targets)}
            found = child if part in names else found
        if found is None:
            return False
        node = found
    if not argument:
        return True
    assert isinstance(node, ast.FunctionDef)
    return argument in {a.arg for a in node.args.args + node.args.kwonlyargs}


def test_several_seeds_stand_behind_the_value_and_are_kept(tmp_path: Path) -> None:
    text = shown(1, {OURS: result(seeds=(40.0, 42.0, 44.0))})
    assert "40.0 (39.0 to 41.0); 3 seeds 42.0 ± 5.0" in text  # 4.303 times 2 / sqrt 3
    told = "± 95 % over seeds"
    assert told in text and told not in shown(1, {OURS: result()})
    path = tmp_path / "table_1.json"
    save_results(path, 1, {OURS: result(seeds=(40.0, 42.0))}, {})
    kept = load_results(path).results[OURS]
    assert isinstance(kept, Result) and kept.seeds == (40.0, 42.0)
    with pytest.raises(ValueError, match="not finite"):
        result(seeds=(40.0, float("nan")))


def test_a_table_names_the_chapter_that_fills_it() -> None:
    text = shown(7, {})
    assert "{doc}`04_sampling` with `params/a100/04_sampling.yml` at commit `" in text
    assert "{download}`table_7.json <results/table_7.json>`" in text


def test_a_table_of_other_parameters_does_not_name_the_file_s() -> None:
    here = maker(7)
    other = replace(here, run=replace(here.run, seeds=(7,)))
    text = str(render(other, 7, {}, caption="A caption", name="tab-x").data)
    assert "with other parameters than those of `params/a100/04_sampling.yml` at commit" in text
    assert "`runs/a100/changed/results/table_7.json`" in text and "{download}" not in text


def test_every_knob_on_the_page_exists() -> None:
    page = (ROOT / "book/deviations.md").read_text()
    rows = [line.strip("| \n").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    knobs = [k for row in rows if len(row) == 3 for k in re.findall(r"`([a-z_]+\.[^`]+)`", row[2])]
    assert len(knobs) > 20
    assert [knob for knob in knobs if not defined(knob)] == []
    for wrong in (
        "method.sampling.two_step",
        "config.SamplerConfig.eps",
        "data.packed.write.write_pack(pixels)",
    ):
        assert not defined(wrong)


def test_the_page_has_the_papers_versions_and_the_locks() -> None:
    page = (ROOT / "book/deviations.md").read_text()
    lock = dict(
        line.split("==")
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if "==" in line
    )
    environment = yaml.safe_load((ROOT / "rlfseg/chapters/tables.yml").read_text())["environment"]
    for library in ("torch", "transformers", "diffusers", "accelerate"):
        assert f"| {library} | {environment[library]} | {lock[library]} |" in page
    assert f"| peft | not stated | {lock['peft']} |" in page
    assert f"| Python | {environment['Python']} |" in page


def some_counts(seed: int) -> Counts:
    """Counts of 24 masks of 12 images."""
    rng = np.random.default_rng(seed)
    masks = rng.random((24, 12, 12)) < 0.4
    scores = (0.4 * masks + 0.6 * rng.random(masks.shape)).astype(np.float32)
    names = [str(k // 2) for k in range(24)]
    return count(torch.from_numpy(scores), torch.from_numpy(masks), names)


def test_counts_become_the_two_cells_that_most_tables_have() -> None:
    counts = some_counts(0)
    about = {"chosen": 0.5, "native": "not counted"}
    no, yes = ({"comparable": word, **about} for word in ("no: another world", "yes: alike"))
    cells = measured(counts, data="24 masks", dataset="PhraseCut", **no)
    miou, ap = cells["PhraseCut mIoU"], cells["PhraseCut AP"]
    best = counts.miou()
    assert miou.value == pytest.approx(100 * best.value) and miou.threshold == best.threshold
    assert ap.value == pytest.approx(100 * counts.ap_mean()) and ap.threshold is None
    span = counts.bootstrap(lambda c: c.miou().value, n=1000, seed=0)
    assert (miou.low, miou.high) == pytest.approx((100 * span[0], 100 * span[1]))
    assert ap.low is not None and ap.high is not None and ap.low <= ap.value <= ap.high
    assert not miou.is_comparable and not ap.is_comparable
    assert measured(counts, data="d", **yes)["mIoU"].is_comparable
    assert "12 x 12" in miou.protocol
    assert miou.readings == ap.readings == readings(counts, **about)
    rows = {("1", column): value for column, value in cells.items()}
    assert "24 masks" in shown(9, rows, "mini")


def test_cells_have_the_value_of_each_seed_in_their_order() -> None:
    first, *again = every = [some_counts(seed) for seed in range(3)]
    about = {"data": "d", "comparable": "no: drawn", "chosen": 0.5, "native": "not counted"}
    cells = measured(first, again=again, **about)
    assert cells["mIoU"].seeds == pytest.approx([100 * each.miou().value for each in every])
    assert cells["AP"].seeds == pytest.approx([100 * each.ap_mean() for each in every])
    assert measured(first, **about)["AP"].seeds == ()
