"""The repository keeps its own rules: floors, notebooks, parameters, pins."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from rlfseg.book import figures
from rlfseg.chapters import CHAPTERS
from rlfseg.chapters.reading import chapter_file, run_file

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "rlfseg"
PROFILES = ("smoke", "mini", "preflight", "a100", "rehearsal")
BOOK = ROOT / "book"
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))

# An import may only go to a lower floor. Rooms of one floor do not know each other.
FLOORS = {
    name: floor
    for floor, names in enumerate(
        (
            "config",
            "method device stage",
            "data processes",
            "models",
            "pipeline training",
            "evaluation stand_ins",
            "experiment flowseg",
            "baselines",
            "chapters",
            "book preflight segment",
            "__main__",
        )
    )
    for name in names.split()
}
# Some libraries belong to the rooms that wrap them.
OWNERS = {
    "matplotlib": {"book"},
    "h5py": {"data"},
    "peft": {"models"},
    "segment_anything": {"models", "stand_ins"},
    "sklearn": {"method"},
}


# --- imports run downwards ------------------------------------------------------------------


def imported(source: str, package: str) -> set[str]:
    """Dotted names of the modules that a source imports; `package` is where it lives."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, node.module or ""]).strip(".") if node.level else node.module
            if base == "rlfseg":
                names.update(f"rlfseg.{alias.name}" for alias in node.names)
            else:
                names.add(str(base))
    return names


def breaches(module: str, imports: set[str]) -> list[str]:
    """What a module (its name below `rlfseg`) imports though it may not."""
    found = []
    for name in sorted(imports):
        head, _, rest = name.partition(".")
        if head != "rlfseg":
            if module not in OWNERS.get(head, {module}):
                found.append(f"{module} imports {head}, which belongs to {OWNERS[head]}")
            continue
        other = rest.split(".")[0]
        if other != module and FLOORS.get(other, len(FLOORS)) >= FLOORS[module]:
            found.append(f"{module} imports {name}, which is not on a lower floor")
    return found


@pytest.mark.parametrize(
    ("source", "breached"),
    [
        ("from rlfseg.method.types import Latent", 0),
        ("from rlfseg import config, models", 1),
        ("from rlfseg.evaluation.counts import Counts", 1),
        ("def f():\n    import rlfseg.training.loop", 1),
        ("from . import models", 1),
        ("from .pipeline import x", 1),
        ("import matplotlib.pyplot as plt", 1),
    ],
)
def test_the_floor_check_sees_every_kind_of_import(source: str, breached: int) -> None:
    assert len(breaches("data", imported(source, "rlfseg"))) == breached


def test_what_the_package_imports_is_declared() -> None:
    """Nothing is there only because a notebook's tools happen to bring it."""
    named = {
        "PIL": "pillow",
        "sklearn": "scikit-learn",
        "skimage": "scikit-image",
        "yaml": "pyyaml",
    }
    declared = {normal(Requirement(r).name) for r in project()["project"]["dependencies"]}
    extras = project()["project"]["optional-dependencies"]
    declared |= {normal(Requirement(r).name) for r in extras["tracking"]}
    own = {*sys.stdlib_module_names, "rlfseg"}
    found = set()
    for path in PACKAGE.rglob("*.py"):
        found |= {name.split(".")[0] for name in imported(path.read_text(), "rlfseg")}
    missing = {n for n in found - own if normal(named.get(n, n)) not in declared}
    assert not missing


def test_the_top_level_stays_small() -> None:
    rooms = [path for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()]
    modules = list(PACKAGE.glob("*.py"))
    assert len(rooms) <= 12 and len(modules) <= 8, (rooms, modules)
    assert len(set(FLOORS.values())) <= 11
    assert {path.stem for path in (*rooms, *modules)} - {"__init__"} == set(FLOORS)


def test_no_class_of_ours_is_derived_from_a_derived_one() -> None:
    """Deeper hierarchies are for libraries that ask for them."""
    bases: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = {ast.unparse(base).split(".")[-1] for base in node.bases}
    deep = {
        name for name, over in bases.items() if any(bases.get(b, set()) & set(bases) for b in over)
    }
    assert bases and not deep


def test_imports_run_downwards() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts == ("__init__",):
            continue  # the package's own front door
        assert parts[0] in FLOORS, f"give rlfseg/{parts[0]} a floor in {Path(__file__).name}"
        package = ".".join(["rlfseg", *parts[:-1]])
        found += breaches(parts[0], imported(path.read_text(), package))
    assert not found, "\n".join(found)


# --- notebooks ------------------------------------------------------------------------------


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def parameters(notebook: dict) -> dict[str, object]:
    """The names and values of the one `parameters` cell; fails on anything but literals."""
    tagged = [c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1, f"{len(tagged)} cells are tagged `parameters`, not one"
    values = {}
    for statement in ast.parse("".join(tagged[0]["source"])).body:
        assert isinstance(statement, ast.Assign), ast.unparse(statement)
        (target,) = statement.targets
        assert isinstance(target, ast.Name), ast.unparse(statement)
        values[target.id] = ast.literal_eval(statement.value)
    return values


def pages(node: object) -> list[str]:
    """The pages of a table of contents."""
    if isinstance(node, list):
        return [page for item in node for page in pages(item)]
    if isinstance(node, dict):
        here = [str(node[key]) for key in ("root", "file") if key in node]
        return here + [page for value in node.values() for page in pages(value)]
    return []


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def chapter(request: pytest.FixtureRequest) -> tuple[str, dict]:
    return request.param.stem, json.loads(request.param.read_text())


def test_notebook_is_committed_clean(chapter: tuple[str, dict]) -> None:
    _, notebook = chapter
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert (notebook["nbformat"], notebook["nbformat_minor"]) >= (4, 5)
    for cell in code_cells(notebook):
        assert cell["outputs"] == [] and cell["execution_count"] is None, cell["id"]


def test_cell_ids_are_set_by_hand(chapter: tuple[str, dict]) -> None:
    ids = [cell["id"] for cell in chapter[1]["cells"]]
    assert len(set(ids)) == len(ids)
    for name in ids:
        assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name), name
        assert not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f-]+)?", name), f"{name}: a random id"


DRAWN = {name for name, made in vars(figures).items() if inspect.isfunction(made)}
DRAWN -= {"as_picture", "grid", "png_uri", "smoothed"}


def test_every_figure_says_what_it_shows_to_those_who_cannot_see_it(
    chapter: tuple[str, dict],
) -> None:
    for cell in code_cells(chapter[1]):
        tree = ast.walk(ast.parse("".join(cell["source"])))
        calls = {
            n.func.id for n in tree if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        }
        if calls & DRAWN - {"explorer", "walk_explorer"}:  # which say it themselves
            alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(alt.split()) >= 4, f"{cell['id']} has no alt text"


def test_every_figure_and_table_is_referred_to(chapter: tuple[str, dict]) -> None:
    pages = [path.read_text() for kind in ("ipynb", "md") for path in BOOK.glob(f"*.{kind}")]
    referred = set(re.findall(r"{numref}`([^`]+)`", "".join(pages)))
    referred |= set(re.findall(r"{ref}`Table \d <([^`]+)>`", "".join(pages)))
    for cell in code_cells(chapter[1]):
        source = "".join(cell["source"])
        names = set(re.findall(r'name="(table-[^"]+)"', source))
        names |= {cell["metadata"].get("mystnb", {}).get("figure", {}).get("name")} - {None}
        if "display(" in source:  # not drawn in every profile: there would be nothing to refer to
            assert not names & referred, cell["id"]
        else:
            assert names <= referred, f"{names - referred}: say it in the text, as {{numref}}"


def test_every_equation_of_the_paper_can_be_linked_to() -> None:
    pages = "".join(path.read_text() for path in NOTEBOOKS)
    labels = re.findall(r"\(eq-(\d+)\)=", pages)
    assert sorted(map(int, labels)) == list(range(2, 11))  # each once; Eq. 1 is not used


def test_cells_are_short_and_define_nothing(chapter: tuple[str, dict]) -> None:
    for cell in code_cells(chapter[1]):
        source = "".join(cell["source"])
        shown = not {"remove-cell", "hide-input"} & set(cell["metadata"].get("tags", []))
        lines = source.splitlines()
        assert len(lines) <= (12 if shown else 16), cell["id"]
        assert not shown or max(map(len, lines)) <= 72, cell["id"]
        for node in ast.walk(ast.parse(source)):
            definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
            assert not isinstance(node, definition), cell["id"]


def test_a_chapter_asks_answers_and_leaves_something_to_do(chapter: tuple[str, dict]) -> None:
    name, notebook = chapter
    told = (cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    text = "\n".join(map("".join, told))
    head, _, rest = text.partition(":::{admonition} Answer")
    assert "**Question.**" in head and "{glue:text}" in rest.split(":::")[0]
    assert re.search(r"\*\*Try next\.\*\*|Things to try", rest)
    asked, solved = (re.findall(rf"{{{kind}}}.*", text) for kind in ("exercise", "solution"))
    assert len(asked) == len(solved) and (len(asked) >= 2 or name == "05b_ask")  # which is one


def test_a_chapter_is_looked_up_by_its_name_and_says_when_it_asks_for_more(
    chapter: tuple[str, dict],
) -> None:
    name, notebook = chapter
    sources = ["".join(cell["source"]) for cell in code_cells(notebook)]
    first = next(k for k, source in enumerate(sources) if f'chapter("{name}", vars())' in source)
    last = next(k for k, source in enumerate(sources) if "not unasked(here)" in source)
    assert first < last and last >= len(sources) - 2


def test_last_cell_asserts(chapter: tuple[str, dict]) -> None:
    last = "".join(code_cells(chapter[1])[-1]["source"])
    assert any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(last)))


@pytest.mark.parametrize("name", ["05_phrasecut", "09_ranks"])
def test_what_a_chapter_takes_is_short(name: str) -> None:
    notebook = json.loads((BOOK / f"{name}.ipynb").read_text())
    (cell,) = (c for c in code_cells(notebook) if "parameters" in c["metadata"].get("tags", []))
    source = "".join(cell["source"])
    assert len(ast.parse(source).body) <= 8 and len(source.splitlines()) <= 13


def test_a_notebook_by_itself_is_of_the_mini_profile(chapter: tuple[str, dict]) -> None:
    name, notebook = chapter
    given = yaml.safe_load((ROOT / "params" / "mini" / f"{name}.yml").read_text())
    assert given == parameters(notebook)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_gives_the_parameters(chapter: tuple[str, dict], profile: str) -> None:
    name, notebook = chapter
    given = yaml.safe_load((ROOT / "params" / profile / f"{name}.yml").read_text())
    assert set(given) == set(parameters(notebook))


def test_book_and_parameters_hold_the_same_chapters() -> None:
    names = {path.stem for path in NOTEBOOKS}
    assert names == set(CHAPTERS)
    contents = pages(yaml.safe_load((ROOT / "book" / "_toc.yml").read_text()))
    assert len(set(contents)) == len(contents)
    assert names <= set(contents)
    readme, index = (ROOT / "README.md").read_text(), (BOOK / "index.md").read_text()
    for name in names:
        assert f"](book/{name}.ipynb)" in readme and f"| {{doc}}`{name}` |" in index, name
    for page in set(contents) - names:
        assert (ROOT / "book" / f"{page}.md").is_file(), page
    assert {folder.name for folder in (ROOT / "params").iterdir()} == set(PROFILES)
    for profile in PROFILES:
        files = {path.stem for path in (ROOT / "params" / profile).glob("*.yml")}
        assert files == names | {"run"}


def test_the_registry_fits_the_book() -> None:
    contents = pages(yaml.safe_load((ROOT / "book" / "_toc.yml").read_text()))
    assert [page for page in contents if page in CHAPTERS] == list(CHAPTERS)
    tables = [number for chapter in CHAPTERS.values() for number in chapter.tables]
    assert sorted(tables) == list(range(1, 10))
    done: set[str] = set()
    for name, entry in CHAPTERS.items():
        assert set(entry.needs) <= (set(CHAPTERS) if entry.alone else done), name
        done.add(name)
        kept = re.findall(r"keep_results\(here, (\d), ours\)", (BOOK / f"{name}.ipynb").read_text())
        assert sorted(map(int, kept)) == sorted(entry.tables), name
        assert entry.minutes > 0


# --- pins -----------------------------------------------------------------------------------


LOCKS = ("requirements.lock", "requirements-paper.lock")


def test_no_pool_outlives_who_started_it() -> None:
    pools = [
        (path, line)
        for path in (ROOT / "rlfseg").rglob("*.py")
        for line in path.read_text().splitlines()
        if "ProcessPoolExecutor(" in line
    ]
    assert pools and all("initializer=begin" in line for _, line in pools), pools


def lock_lines(name: str = "requirements.lock") -> list[str]:
    lines = (ROOT / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("name", ["refcoco", "refcoco+", "refcocog"])
def test_a_supervised_run_is_the_one_its_chapter_looks_for(name: str) -> None:
    folder = ROOT / "params" / "a100"
    run = run_file(folder / "runs" / f"{name}.yml")
    assert run.profile == "a100" and run.data.dataset == name
    assert run.train.batch % run.machine.processes == 0
    own = chapter_file(folder / "06_refcoco.yml").own[name]
    assert own.train_stage.hash == run.train_stage.hash


def test_nothing_but_what_is_made_is_ignored() -> None:
    kept = [f"{folder}/a.yml" for folder in ("params/a100/runs", "book/runs", "rlfseg/data")]
    asked = subprocess.run(["git", "check-ignore", *kept], cwd=ROOT, capture_output=True, text=True)
    if asked.returncode == 128:
        pytest.skip(f"no git checkout: {asked.stderr.strip()}")
    assert not asked.stdout, f"git would leave out {asked.stdout}"


@pytest.mark.parametrize("name", LOCKS)
def test_lock_is_exact_and_names_no_place(name: str) -> None:
    pins = lock_lines(name)
    for line in pins:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line), line
    names = [normal(line.split("==")[0]) for line in pins]
    assert len(set(names)) == len(names)


def test_each_lock_holds_its_versions() -> None:
    assert "torch==2.13.0" in lock_lines()
    paper = {"torch==2.5.1", "diffusers==0.33.1", "transformers==4.52.4", "accelerate==1.7.0"}
    assert paper <= set(lock_lines("requirements-paper.lock"))


@pytest.mark.parametrize("name", LOCKS)
def test_lock_satisfies_pyproject(name: str) -> None:
    pins = {normal(name): version for name, version in (p.split("==") for p in lock_lines(name))}
    extras = project()["project"]["optional-dependencies"].values()
    wanted = [
        *project()["build-system"]["requires"],
        *project()["project"]["dependencies"],
        *(requirement for extra in extras for requirement in extra),
    ]
    for requirement in map(Requirement, wanted):
        if normal(requirement.name) == "rlfseg":
            continue
        version = pins[normal(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} against {version}"


def test_conda_environment_has_the_same_pins() -> None:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = (entry["pip"] for entry in entries if isinstance(entry, dict))
    assert pip == lock_lines()
    (python,) = (e.split("=")[1] for e in entries if isinstance(e, str) and "python=" in e)
    assert SpecifierSet(project()["project"]["requires-python"]).contains(python)
