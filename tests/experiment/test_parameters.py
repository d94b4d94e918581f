"""Files of parameters: the good ones are read, and each spoilt one is told in one line."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.state import AcceleratorState
from conftest import ROOT

from rlfseg.chapters import CHAPTERS, chapter
from rlfseg.chapters.reading import chapter_file, chapters_of, run_file
from rlfseg.experiment import Run, read_run

PROFILES = ("smoke", "mini", "preflight", "a100", "rehearsal")
GONE, STRANGE = object(), object()  # a key that is taken away, and one that nobody knows
SPOILT = (
    *("text", "", "ünï ☃", None, True, -1, 0, -0.5, 10**30, 1e308, math.nan, math.inf),
    *([], [1, "a"], {}, {"a": 1}, {1: 2}, GONE, STRANGE),
)
DRAWN, CHUNKS = 1500, 10
Place = tuple[Any, ...]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the real parameters."""
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "params", root / "params")
    (root / "book").mkdir()
    return root


@pytest.fixture(autouse=True)
def _inside(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)


# --- good files ---------------------------------------------------------------------------------


def holds(held: object, said: object) -> bool:
    """Whether a checked value is what a file says; a list is held as a tuple."""
    if isinstance(said, dict):
        return all(holds(getattr(held, key), value) for key, value in said.items())
    return (list(held) if isinstance(held, tuple) else held) == said


@pytest.mark.parametrize("profile", PROFILES)
def test_good_files_are_read(profile: str) -> None:
    every = chapters_of(profile)
    assert list(every) == list(CHAPTERS)
    own = yaml.safe_load(Path("params", profile, "run.yml").read_text())
    for name, given in every.items():
        said = yaml.safe_load(Path("params", profile, f"{name}.yml").read_text())
        run = given.run
        assert run == read_run(profile, said["changes"]) and run.profile == said["profile"]
        for part, values in own.items():
            changed = said["changes"].get(part, {})
            if isinstance(values, dict):
                for key, value in {**values, **changed}.items():
                    assert holds(getattr(getattr(run, part), key), value), (name, part, key)
            elif part not in said["changes"]:
                held = getattr(run, part)
                assert (list(held) if part == "seeds" else held) == values, (name, part)


def test_a_notebook_s_variables_are_read_as_the_file_is() -> None:
    AcceleratorState._reset_state(True)  # other tests made one without mixed precision
    file = Path("params/mini/05_phrasecut.yml")
    variables = yaml.safe_load(file.read_text()) | {"np": math, "here": None, "_": 3}
    assert chapter("05_phrasecut", variables) == chapter_file(file)
    del variables["phrases"]
    with pytest.raises(ValueError, match=r"^chapter 05_phrasecut: phrases is missing$"):
        chapter("05_phrasecut", variables)


def test_changes_are_merged_into_the_run() -> None:
    plain = read_run("mini")
    assert read_run("mini", {"train": {"steps": 100}}) == plain.variant({"steps": 100})
    assert read_run("mini", {"seeds": [5]}).seeds == (5,)
    assert read_run("mini", {"data": {"train": 7}}).data.val == plain.data.val


def test_a_run_s_own_file_says_profile_and_changes(checkout: Path) -> None:
    file = checkout / "mine.yml"
    file.write_text("profile: mini\nchanges: {train: {steps: 100}}\n")
    assert run_file(file) == read_run("mini", {"train": {"steps": 100}})
    assert run_file(Path("params/mini/03_train.yml")) == read_run("mini")
    file.write_text("profile: mini\nchange: {}\n")
    with pytest.raises(ValueError, match=r"mine\.yml: change is unknown"):
        run_file(file)


# --- spoilt ones --------------------------------------------------------------------------------


def places(values: Any, path: Place = ()) -> Iterator[Place]:
    """The paths to all that lies in a document."""
    if path:
        yield path
    inner = values.items() if isinstance(values, dict) else ()
    inner = enumerate(values) if isinstance(values, list) else inner
    for key, value in inner:
        yield from places(value, (*path, key))


def spoilt(values: dict[str, Any], path: Place, how: Any) -> dict[str, Any]:
    """A copy with one value changed."""
    out = deepcopy(values)
    holder: Any = out
    for key in path[:-1]:
        holder = holder[key]
    if how is GONE:
        del holder[path[-1]]
    elif how is not STRANGE:
        holder[path[-1]] = how
    elif isinstance(holder, list):
        holder.append("unknown_key")
    else:
        holder["unknown_key"] = 1
    return out


def drawn() -> list[tuple[str, Place, int]]:
    """Files, places in them and ways to spoil them, the same ones each time."""
    cases = [
        (str(file.relative_to(ROOT)), path, how)
        for file in sorted(ROOT.glob("params/*/*.yml"))
        for path in places(yaml.safe_load(file.read_text()))
        for how in range(len(SPOILT))
    ]
    return random.Random(20).sample(cases, DRAWN)


CASES = drawn()


def judged(file: Path, path: Place, how: Any) -> str:
    """What is wrong with what is said about a spoilt file; nothing if all is well."""
    asked = file if file.stem != "run" else file.with_name("03_train.yml")
    left: Any = yaml.safe_load(file.read_text())
    for step in path[:-1]:
        left = left[step]
    # where the only name is gone that a user gave, what is empty now has to be named
    named = path[:-1] if how is GONE and left == {} else path
    key = "unknown_key" if how is STRANGE else [k for k in named if isinstance(k, str)][-1]
    try:
        given = chapter_file(asked)
        given.asks()
        assert isinstance(given.run, Run) and given.run.describe()
    except (ValueError, FileNotFoundError) as error:
        told = str(error)
        fine = len(told.splitlines()) == 1 and str(file) in told and key in told
        return "" if fine and len(told) < 1000 else told
    except Exception as error:
        return f"not told but failed: {error!r}"
    return ""


@pytest.mark.integration
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_spoilt_file_is_read_or_told_in_one_line(checkout: Path, chunk: int) -> None:
    wrong = []
    for name, path, how in CASES[chunk::CHUNKS]:
        file = checkout / name
        good = file.read_text()
        values = spoilt(yaml.safe_load(good), path, SPOILT[how])
        file.write_text(yaml.safe_dump(values, allow_unicode=True))
        try:
            said = judged(file, path, SPOILT[how])
        finally:
            file.write_text(good)
        if said:
            wrong.append(f"{name}, {path} spoilt by {SPOILT[how]!r}: {said}")
    assert not wrong, "\n".join(wrong)


def test_most_spoilt_files_are_refused(checkout: Path) -> None:
    """The test above would pass if everything were read."""
    refused = 0
    file = checkout / "params/mini/03b_labels.yml"
    good = file.read_text()
    values = yaml.safe_load(good)
    every = [path for path in places(values) if path != ("changes",)]
    for path in every:
        file.write_text(yaml.safe_dump(spoilt(values, path, math.nan)))
        try:
            chapter_file(file)
        except ValueError:
            refused += 1
        finally:
            file.write_text(good)
    assert refused == len(every) > 30


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profile: [mini", "is no YAML"),
        ("- profile\n- mini\n", "must hold names and their values"),
        ("", "must hold names and their values"),
        ("1: 2\n", "must hold names and their values"),
        ("profile: mini\nchanges: &a {train: *a}\n", "aliases"),
        ("profile: mini\nlive_steps: &a [*a]\n", "aliases"),
        ("profile: mini\nchanges: {profile: smoke}\n", "profile is unknown here"),
        ('profile: mini\nlive_steps: 3\nshown: 1\nagreement: 0.1\n"a\\nb\\e": 1\n', "is unknown"),
        ('profile: "mini\\nx"\n', "there is no profile"),
        ("profile: mini\nshown: " + "9" * 5000 + "\n", "is no YAML"),
        ("profile: mini\nlive_steps: 2020-01-01\n", "live_steps is '2020-01-01'"),
        ("profile: mini\nshown: 1\nshown: 2\n", "shown stands there twice"),
        ("profile: mini\nchanges:\n  train: {lr: 1, lr: 2}\n", "lr stands there twice"),
        (
            "profile: mini\nlive_steps: 3\nshown: 1\nagreement: 1e-4\n",
            r"agreement is '1e-4': .*YAML takes it for text: .* 1\.0e-4",
        ),
        ("profile: mini\nlive_steps: !!python/name:os.system x\n", "is no YAML"),
    ],
)
def test_what_is_no_file_of_parameters_is_told(checkout: Path, text: str, message: str) -> None:
    file = checkout / "params/smoke/03_train.yml"
    good = file.read_text()
    file.write_text(text)
    try:
        with pytest.raises(ValueError, match=message) as wrong:
            chapter_file(file)
    finally:
        file.write_text(good)
    told = str(wrong.value)
    assert len(told.splitlines()) == 1 and told.isprintable() and str(file) in told


def test_bytes_that_are_no_text_and_files_that_are_not_there(checkout: Path) -> None:
    file = checkout / "params/smoke/01_data.yml"
    good = file.read_bytes()
    file.write_bytes(b"profile: \xff\xfe\n")
    with pytest.raises(ValueError, match=r"01_data\.yml is no YAML"):
        chapter_file(file)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"01_data\.yml: there is no such file"):
        chapter_file(file)
    file.write_bytes(good)
    with pytest.raises(ValueError, match=r"there is no chapter '99_none'; they are 00_idea"):
        chapter_file(checkout / "params/smoke/99_none.yml")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("05_phrasecut", {"variants": {"b": {"weights": "random"}}}, "random weights need rank 0"),
        ("06_refcoco", {"supervised": {"visual": {}}}, "supervised: visual is none of others"),
        (
            "06_refcoco",
            {"baselines": {"LD-ZNet, zero-shot": {"kind": "ldznet", "steps": 2}}},
            "baselines: LD-ZNet, zero-shot would be trained here; take one of released weights",
        ),
        (
            "05_phrasecut",
            {"baselines": {"CLIPseg": {"kind": "clipseg", "steps": 2}}},
            "baselines is .*: 'CLIPseg' is no row of Table 1: .*; LD-ZNet",
        ),
        (
            "06_refcoco",
            {"others": {"refcoco+": {"source": "mini", "dataset": "refcoco"}}},
            r"others: dataset of refcoco\+ is refcoco; say the same",
        ),
        (
            "07_cocostuff",
            {"other": {"dataset": "phrasecut"}},
            "other: dataset is phrasecut; it must be",
        ),
        (
            "09_ranks",
            {"variants": {"48": {"rank": 48}}},
            "variants is .*: '48' is no row of Table 6",
        ),
        ("03b_labels", {"samplers": {"plain": {"name": "one"}}}, "samplers is .*: AOS is missing"),
        (
            "02_refine",
            {"sweep": {"tau": [0.5, 1.5]}},
            "tau is 1.5: .*less than or equal",
        ),
        ("08_speed", {"dtypes": ["float33"]}, "dtypes.0 is 'float33': .*'bfloat16'"),
        ("11_flowseg", {"early": {"step": 3}}, "early: step is unknown; known are"),
        ("11_flowseg", {"arms": {"vanilla": {}}}, "arms is .*: reshaped is missing"),
        ("09_ranks", {"longer": {"a": {"ranks": 3}}}, r"longer\.a is .*: ranks is unknown"),
        (
            "04_sampling",
            {"samplers": {"AOS": {"tols": 1}}},
            r"AOS\.tols is unknown; known",
        ),
        ("11b_objectives", {"baselines": {"a": {"kind": "sam"}}}, r"a\.kind is 'sam': known are"),
    ],
)
def test_what_a_chapter_cannot_ask_for_is_told_when_it_is_read(
    name: str, change: dict[str, Any], message: str
) -> None:
    given = yaml.safe_load(Path("params/mini", f"{name}.yml").read_text())
    with pytest.raises(ValueError, match=message) as wrong:
        chapter(name, {**given, **change})
    assert str(wrong.value).startswith(f"chapter {name}: ") and "\n" not in str(wrong.value)
