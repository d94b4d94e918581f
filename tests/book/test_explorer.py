"""The page that a reader can ask holds the very masks, and nothing in it can break it."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.classification import binary_jaccard_index

from rlfseg.book.figures import Answered, Asked, explorer

RNG = np.random.default_rng(0)
NASTY = '</script><img src=x onerror="alert(1)"> & "quoted" ${data}'


def mask() -> np.ndarray:
    return RNG.random((16, 16)) < 0.4


def answered(ways: tuple[str, ...] = ("one step", "AOS")) -> Answered:
    return Answered(mask(), {way: mask() for way in ways})


def asked(phrases: dict[str, Answered]) -> Asked:
    return Asked(RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8), phrases)


class Tags(HTMLParser):
    """Collects the tags of a page, and the text of its script."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.script = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        if self.tags[-1] == "script":
            self.script += data


def data_of(html: str) -> dict:
    parser = Tags()
    parser.feed(html)
    assert parser.tags.count("script") == 1 and parser.tags.count("img") == 4
    found = re.search(r"const data = (.*);\n", parser.script)
    assert found
    return json.loads(found[1])


def opened(uri: str) -> np.ndarray:
    file = io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))
    return np.asarray(Image.open(file).convert("RGBA"))


def test_what_is_larger_than_is_shown_is_made_smaller() -> None:
    """A page of photographs of 512 pixels would otherwise hold half a megabyte for each."""
    wide = RNG.integers(0, 256, (512, 512, 3), dtype=np.uint8)
    half = np.zeros((512, 512), bool)
    half[:, 256:] = True
    page = explorer([Asked(wide, {"right": Answered(half, {"AOS": ~half})})])._repr_html_()
    ((shown,),) = [data_of(page)["asked"]]
    assert shown["picture"].startswith("data:image/jpeg;base64,")
    (told,) = shown["phrases"]
    assert told["iou"] == [0]
    seen = opened(told["annotation"])[..., 3] > 0
    assert seen.shape == (256, 256) and seen[:, 128:].all() and not seen[:, :128].any()


def test_the_page_holds_pictures_masks_and_their_iou() -> None:
    given = [asked({"star": answered(), NASTY: answered()}), asked({"moon": answered()})]
    data = data_of(explorer(given)._repr_html_())
    assert data["ways"] == ["one step", "AOS"]
    for one, shown in zip(given, data["asked"], strict=True):
        assert np.array_equal(opened(shown["picture"])[..., :3], one.picture)
        for (phrase, each), told in zip(one.phrases.items(), shown["phrases"], strict=True):
            assert told["phrase"] == phrase
            assert np.array_equal(opened(told["annotation"])[..., 3] > 0, each.annotation)
            for made, uri, iou in zip(each.masks.values(), told["masks"], told["iou"], strict=True):
                assert np.array_equal(opened(uri)[..., 3] > 0, made)
                true = binary_jaccard_index(
                    torch.from_numpy(made), torch.from_numpy(each.annotation)
                )
                assert abs(iou - 100 * float(true)) <= 0.5


def test_two_of_them_on_a_page_do_not_meet() -> None:
    names = {
        re.search(r'id="(ask-[0-9a-f]{8})"', explorer([asked({"star": answered()})]).html)[1]  # type: ignore[index]
        for _ in range(2)
    }
    assert len(names) == 2


def test_nothing_to_ask_and_other_ways_are_refused() -> None:
    with pytest.raises(ValueError, match="same ways"):
        explorer([])
    with pytest.raises(ValueError, match="same ways"):
        explorer([asked({"star": answered(), "moon": answered(("AOS",))})])
    with pytest.raises(ValueError, match="same ways"):
        explorer([asked({"star": answered()}), asked({})])
