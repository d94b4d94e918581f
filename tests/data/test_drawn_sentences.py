"""Sentences about drawn scenes: what they say, and of which scenes it is true."""

from __future__ import annotations

import numpy as np
import pytest

from rlfseg.data.drawn import phrases as drawn
from rlfseg.data.drawn.phrases import MARGIN, RELATIONS, Phrase, phrases
from rlfseg.data.drawn.scene import Scene, draw_scene
from rlfseg.data.drawn.sentences import (
    PARTS,
    WORDS,
    Layout,
    Sentences,
    describe,
    layout_of,
    one_changed,
    sentences_of,
    true_of,
)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    rng = np.random.default_rng(3)
    counts = [(1, 1), (2, 4), (2, 4), (4, 4)] * 6
    return [draw_scene(rng, pixels=32, held_out=True, count=count) for count in counts]


@pytest.fixture(scope="module")
def layout(scenes: list[Scene]) -> Layout:
    return layout_of(scenes)


def said(layout: Layout, *, seed: int = 0) -> Sentences:
    rng = np.random.default_rng(seed)
    short = [describe(rng, layout, whole=False, related=0.5) for _ in range(3)]
    long = [describe(rng, layout, whole=True, related=0.5, ground=0.5) for _ in range(2)]
    return Sentences.joined([*short, *long])


def parsed_truth(text: str, scene: Scene) -> bool:
    """Read a sentence as a person would, and look at the scene."""
    text, _, ground = text.partition(" on ")
    mentions = text.split(", ")
    relation = next((r for r in RELATIONS if f" {r} the " in mentions[0]), None)
    if relation is not None:
        mentions[:1] = mentions[0].split(f" {relation} the ")

    def fits(mention: str) -> list[int]:
        words = set(mention.split())
        things = enumerate(scene.things)
        return [i for i, t in things if words <= {t.shape, t.colour, t.texture, t.size}]

    def holds(a: int, b: int) -> bool:
        (ax, ay), (bx, by) = scene.things[a].centre, scene.things[b].centre
        apart = {"left of": bx - ax, "right of": ax - bx, "above": by - ay, "below": ay - by}
        return apart[str(relation)] > MARGIN * len(scene.image)

    if not all(fits(mention) for mention in mentions) or ground not in ("", scene.ground):
        return False
    return relation is None or any(
        holds(a, b) for a in fits(mentions[0]) for b in fits(mentions[1])
    )


def test_truth_is_what_a_person_reads_in_the_text(scenes: list[Scene], layout: Layout) -> None:
    own = said(layout)
    about = np.tile(np.arange(len(scenes)), 5)
    sentences = Sentences.joined(
        [own, one_changed(np.random.default_rng(1), own, layout[about])[0]]
    )
    true = true_of(sentences, layout)
    expected = [[parsed_truth(text, scene) for scene in scenes] for text in sentences.texts()]
    assert np.array_equal(true, expected)
    assert true[np.arange(len(own)), about].all()  # a scene's own sentences
    assert 0.02 < true.mean() < 0.6
    told = sentences.relations >= 0
    assert true[told].any() and not true[told].all()


def test_the_data_sets_phrases_are_sentences(scenes: list[Scene], layout: Layout) -> None:
    rng = np.random.default_rng(0)
    own: list[tuple[int, Phrase]] = [
        (k, phrase) for k, scene in enumerate(scenes) for phrase in phrases(rng, scene)
    ]
    sentences = sentences_of([phrase for _, phrase in own])
    assert sentences.texts() == [phrase.text for _, phrase in own]
    true = true_of(sentences, layout)
    assert all(true[row, k] for row, (k, _) in enumerate(own))
    for row, (_, phrase) in enumerate(own):
        if phrase.relation is None:
            fits = [any(_fits(t, phrase) for t in scene.things) for scene in scenes]
            assert true[row].tolist() == fits
    assert {phrase.kind for _, phrase in own} == set(drawn._KINDS)


def _fits(thing: object, phrase: Phrase) -> bool:
    return drawn._fits(thing, phrase.name, phrase.attributes)  # type: ignore[arg-type]


def test_a_whole_description_mentions_each_thing_once(layout: Layout) -> None:
    rng = np.random.default_rng(0)
    sentences = describe(rng, layout, whole=True, related=0.0)
    shapes = [sorted(m[m >= 0].tolist()) for m in sentences.mentions[:, :, 0]]
    assert shapes == [sorted(t[t >= 0].tolist()) for t in layout.things[:, :, 0]]
    one = describe(rng, layout, whole=False, related=0.0)
    assert all("," not in text and " the " not in text for text in one.texts())
    related = describe(rng, layout, whole=False, related=1.0)
    assert (related.relations[layout.counts == 1] == -1).all()
    assert (related.relations[layout.counts > 1] >= 0).mean() > 0.8
    quiet = {"plain", "medium"}
    assert not quiet & {word for text in said(layout).texts() for word in text.split()}


def test_one_word_is_changed_often_for_another_of_the_scene(layout: Layout) -> None:
    layout = layout[np.tile(np.arange(len(layout.things)), 20)]
    rng = np.random.default_rng(0)
    own = describe(rng, layout, whole=True, related=0.5)
    before = (own.mentions.copy(), own.relations.copy())
    changed, what = one_changed(rng, own, layout)
    assert np.array_equal(own.mentions, before[0]) and np.array_equal(own.relations, before[1])
    differ = changed.mentions != own.mentions
    turned = changed.relations != own.relations
    assert ((differ.sum((1, 2)) + turned) == 1).all()
    assert np.array_equal(what == len(PARTS), turned)
    row, _, part = np.nonzero(differ)
    assert np.array_equal(what[row], part)
    new = changed.mentions[differ]
    assert (new >= 0).all() and (new < [len(WORDS[p]) for p in part]).all()
    assert not ((part == 2) & (new == 0)).any() and not ((part == 3) & (new == 1)).any()
    pairs = {
        (RELATIONS[a], RELATIONS[b])
        for a, b in zip(own.relations[turned], changed.relations[turned], strict=True)
    }
    assert (
        pairs
        <= {
            ("left of", "right of"),
            ("right of", "left of"),
            ("above", "below"),
            ("below", "above"),
        }
        and len(pairs) == 4
    )
    colours = row[part == 1]
    present = [v in layout.things[r, :, 1] for r, v in zip(colours, new[part == 1], strict=True)]
    assert 0.25 < np.mean(present) < 0.9


def test_a_mirror_turns_left_and_right(scenes: list[Scene], layout: Layout) -> None:
    every = np.ones(len(scenes), bool)
    sentences = describe(np.random.default_rng(0), layout, whole=False, related=1.0)
    rows = np.flatnonzero((sentences.relations >= 0) & (sentences.relations < 2))
    sentences, own = sentences[rows], layout[rows]
    assert len(rows) > 3
    seen = true_of(sentences, own.mirrored(every[rows]))
    turned = Sentences(sentences.mentions, 1 - sentences.relations, sentences.grounds)
    assert np.array_equal(seen, true_of(turned, own))
    assert np.array_equal(true_of(sentences, own.mirrored(~every[rows])), true_of(sentences, own))


def test_equal_sentences_are_said_once(layout: Layout) -> None:
    sentences = said(layout)
    twice = Sentences.joined([sentences, sentences]).unique()
    texts = twice.texts()
    assert len(texts) == len(set(texts)) and set(texts) == set(sentences.texts())
