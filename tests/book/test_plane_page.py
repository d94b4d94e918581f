"""The page of the plane holds what was walked, and refuses what it can't show."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from rlfseg.book.figures import Walked, grid, walk_explorer, walks

RNG = np.random.default_rng(0)


def world(steps: tuple[int, ...] = (1, 4)) -> Walked:
    places = grid(3)
    start, end = RNG.normal(size=(2, 5, 2)).astype(np.float32)
    taken = {
        n: np.stack([start, *RNG.normal(size=(n - 1, 5, 2)), end]).astype(np.float32) for n in steps
    }
    field = {t: RNG.normal(size=places.shape).astype(np.float32) for t in (0.0, 0.5, 1.0)}
    return Walked(start, end, np.arange(5) % 2, places, field, taken)


def data_of(html: str) -> dict:
    found = re.search(r"const data = (.*);\n", html)
    assert found
    return json.loads(found[1])


def test_the_page_holds_the_very_walks() -> None:
    worlds = {"one": world(), "</script><b>": world()}
    html = walk_explorer(worlds).html
    assert html.count("<script>") == html.count("</script>") == 1
    kept = data_of(html)
    assert kept["times"] == [0.0, 0.5, 1.0] and kept["steps"] == [1, 4]
    for shown, (name, given) in zip(kept["worlds"], worlds.items(), strict=True):
        assert shown["name"] == name and shown["kind"] == given.kind.tolist()
        for key in ("pictures", "masks", "places"):
            assert np.allclose(shown[key], getattr(given, key), atol=1e-3)
        for found, each in zip(shown["walks"], given.walks.values(), strict=True):
            assert np.allclose(found, each, atol=1e-3)
        assert np.allclose(shown["field"], list(given.field.values()), atol=1e-3)


def test_a_walk_that_ends_on_its_mask_has_missed_by_nothing() -> None:
    here = world()
    assert here.missed(1) == here.missed(4) == 0
    away = replace(here, masks=here.masks + np.array([3.0, 4.0], np.float32))
    assert away.missed(4) == pytest.approx(5)


def test_worlds_that_differ_in_their_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="same times and steps"):
        walk_explorer({"one": world(), "two": world((1, 3))})
    with pytest.raises(ValueError, match="one step is needed"):
        walk_explorer({"one": world((2, 4))})


def test_places_cover_what_is_drawn() -> None:
    figure = walks({"one": world()}, time=0.5, steps=(1, 4))
    axis = figure.axes[0]
    places = grid(3)
    assert places.min(0) == pytest.approx([axis.get_xlim()[0], axis.get_ylim()[0]])
    assert places.max(0) == pytest.approx([axis.get_xlim()[1], axis.get_ylim()[1]])
    assert [each.get_title() for each in figure.axes] == [
        "paths", "mean velocity at t = 0.5", "1 step", "4 steps",
    ]  # fmt: skip
