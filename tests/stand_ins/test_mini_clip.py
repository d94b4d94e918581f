"""The mini CLIP's recipe: the loss, its batches, training that is taken up again, the scores."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTokenizer

from rlfseg.config import OptimiserConfig
from rlfseg.data.drawn.phrases import Phrase
from rlfseg.data.drawn.scene import COLOURS, HELD_OUT, SHAPES
from rlfseg.data.drawn.sentences import PARTS, WORDS, Layout, Sentences, describe, meant, true_of
from rlfseg.data.images import to_unit
from rlfseg.stand_ins import clip_batches as drawing
from rlfseg.stand_ins import clip_scores as scoring
from rlfseg.stand_ins.clip_batches import (
    PATCHES,
    ClipBatch,
    Gallery,
    clip_batch,
    draw_gallery,
    places_of,
    tokens,
    vocabulary,
)
from rlfseg.stand_ins.clip_scores import Quiz, Right, bag_of_words, clip_scores, draw_quiz
from rlfseg.stand_ins.mini_clip import (
    ClipConfig,
    ClipObjective,
    contrast,
    heard,
    load_clip,
    pointed,
    seen,
    states,
    trained_clip,
    whitened,
)
from rlfseg.stand_ins.text_to_image import small_tokenizer
from rlfseg.training.loop import fit


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    return draw_gallery(seed=1, count=16, pixels=32, workers=1)


@pytest.fixture(scope="module")
def tokenizer(gallery: Gallery) -> CLIPTokenizer:
    rng = np.random.default_rng(0)
    said = [describe(rng, gallery.layout, whole=True, related=0.5, ground=1) for _ in range(9)]
    return small_tokenizer(tuple(Sentences.joined(said).texts()))


@pytest.fixture(scope="module")
def quiz() -> Quiz:
    return draw_quiz(seed=0, count=40, pixels=32)


def tiny_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 32, "num_hidden_layers": 1}
    text |= {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("bos", "eos", "pad")}
    vision = {"image_size": 32, "patch_size": 4, "num_hidden_layers": 1}
    return CLIPModel(
        CLIPConfig(text_config=shape | text, vision_config=shape | vision, projection_dim=32)
    )


def batch(
    gallery: Gallery, tokenizer: CLIPTokenizer, step: int, *, size: int = 8, alone: int = 0
) -> ClipBatch:
    return clip_batch(gallery, tokenizer, step, size=size, seed=0, alone=alone)


# --- the loss -------------------------------------------------------------------------------


def test_with_one_true_sentence_each_it_is_clips_cross_entropy() -> None:
    likeness = torch.randn(6, 6, dtype=torch.float64) * 5
    loss, told = contrast(likeness, torch.eye(6, dtype=torch.bool))
    expected = F.cross_entropy(likeness, torch.arange(6), reduction="none")
    torch.testing.assert_close(loss, expected)
    assert told.all()


def test_true_sentences_are_not_held_against_each_other() -> None:
    likeness = torch.randn(5, 9, dtype=torch.float64) * 3
    true = torch.rand(5, 9) < 0.4
    true[0], true[1] = False, True
    loss, told = contrast(likeness, true)
    for row in range(5):
        own, other = likeness[row][true[row]], likeness[row][~true[row]]
        each = [-torch.log(s.exp() / (s.exp() + other.exp().sum())) for s in own]
        expected = torch.stack(each).mean() if each else torch.zeros((), dtype=torch.float64)
        torch.testing.assert_close(loss[row], expected)
    assert told.tolist() == [False, True, *true[2:].any(1).tolist()]


def test_a_sentence_true_of_every_picture_teaches_nothing() -> None:
    likeness = torch.randn(3, 4, requires_grad=True)
    true = torch.zeros(3, 4, dtype=torch.bool)
    true[0] = True
    contrast(likeness, true)[0].sum().backward()
    assert torch.equal(likeness.grad, torch.zeros(3, 4))


def test_the_objective_is_the_mean_over_pictures_and_sentences_and_over_things(
    gallery: Gallery, tokenizer: CLIPTokenizer
) -> None:
    clip, asked = tiny_clip(tokenizer).eval(), batch(gallery, tokenizer, 1)
    losses = ClipObjective(clip)(asked)
    with torch.no_grad():
        texts = torch.cat([heard(clip, asked.short), heard(clip, asked.long)])
        last = states(clip, asked.pictures)[:, 1:]
        own = [  # each thing's place, one by one
            (last[k, place], asked.meant[k, thing])
            for k, places in enumerate(asked.places.tolist())
            for thing, place in enumerate(places)
            if place >= 0
        ]
        things, meant = (
            pointed(clip, torch.stack([s for s, _ in own])),
            torch.stack([m for _, m in own]),
        )
        one = clip.logit_scale.exp() * things @ texts[: len(asked.short)].T
        ways = [(one, meant), (one.T, meant.T)]
        by_thing = sum(contrast(a, b)[0][b.any(1)].mean() for a, b in ways) / 2
        likeness = clip.logit_scale.exp() * seen(clip, asked.pictures) @ texts.T
        rows, columns = contrast(likeness, asked.true)[0], contrast(likeness.T, asked.true.T)[0]
    sentences = columns[asked.true.any(0)].mean()
    assert not asked.true.any(0).all()
    assert not meant.any(0).all() and meant.any()
    torch.testing.assert_close(losses.loss.mean(), (rows.mean() + sentences) / 2 + by_thing)
    best = likeness.argmax(1)
    assert losses.values["picked"].tolist() == [
        float(asked.true[row, best[row]]) for row in range(len(best))
    ]


def test_a_window_of_all_patches_hides_nothing(gallery: Gallery, tokenizer: CLIPTokenizer) -> None:
    clip = tiny_clip(tokenizer).eval()
    pictures = to_unit(torch.from_numpy(gallery.images[:2]))
    with torch.no_grad():
        pooled = clip.vision_model(pixel_values=pictures).pooler_output
        expected = F.normalize(clip.visual_projection(pooled), dim=-1)
        torch.testing.assert_close(seen(clip, pictures), expected)
        every = torch.arange(PATCHES**2).expand(2, -1)

        def through(pictures: Tensor, patches: Tensor) -> Tensor:
            return pointed(clip, states(clip, pictures, patches)[:, 0])

        torch.testing.assert_close(through(pictures, every.flip(1)), expected)
        covered = pictures.clone()
        covered[:, :, 16:] = 0
        upper = every[:, : PATCHES**2 // 2]
        torch.testing.assert_close(through(covered, upper), through(pictures, upper))
        assert not torch.allclose(seen(clip, covered), seen(clip, pictures))


def test_patches_start_as_features_of_equal_strength(
    gallery: Gallery, tokenizer: CLIPTokenizer
) -> None:
    clip = tiny_clip(tokenizer)
    vision = clip.vision_model.embeddings

    def strengths() -> Tensor:
        features = vision.patch_embedding(to_unit(torch.from_numpy(gallery.images)))
        return torch.linalg.eigvalsh(torch.cov(features.detach().transpose(0, 1).flatten(1)))

    before = strengths()
    assert whitened(clip, gallery.images) is clip
    after = strengths()
    assert before[-1] / before[4] > 20 and after[-1] / after[4] < 3
    assert float(after.max()) == pytest.approx(1, abs=0.1)


def test_padding_changes_no_sentence(tokenizer: CLIPTokenizer) -> None:
    clip = tiny_clip(tokenizer).eval()
    alone = heard(clip, tokens(tokenizer, ["red star"]))
    beside = heard(clip, tokens(tokenizer, ["red star", "small blue circle left of the red star"]))
    torch.testing.assert_close(alone[0], beside[0])
    torch.testing.assert_close(alone.norm(dim=-1), torch.ones(1))


# --- batches --------------------------------------------------------------------------------


def test_the_worlds_words_are_one_token_each() -> None:
    layout = draw_gallery(seed=1, count=128, pixels=16, workers=1).layout
    tokenizer = small_tokenizer(vocabulary(layout, seed=0))
    for word in (*SHAPES, *COLOURS):
        assert len(tokenizer(word).input_ids) == 3  # between the two special tokens


def test_a_longer_gallery_begins_with_the_shorter_one(gallery: Gallery) -> None:
    less = draw_gallery(seed=1, count=5, pixels=32, workers=1)
    assert np.array_equal(less.images, gallery.images[:5])
    assert np.array_equal(less.layout.things, gallery.layout.things[:5])
    assert (gallery.layout.counts == 1)[::4].all() and (gallery.layout.counts > 1).any()


def test_of_filled_pictures_each_has_one_large_thing_in_its_middle() -> None:
    pixels = 64
    filled = draw_gallery(seed=1, count=12, pixels=pixels, filled=True, workers=1)
    assert (filled.layout.counts == 1).all()
    assert np.abs(filled.layout.centres[:, 0] - 0.5).max() < 0.13
    usual = draw_gallery(seed=1, count=12, pixels=pixels, workers=1)
    assert not np.array_equal(filled.images, usual.images)


def test_a_gallery_that_is_kept_is_not_drawn_again(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "parts" / "gallery.npz"
    for _ in range(2):
        again = draw_gallery(seed=1, count=16, pixels=32, workers=1, kept=kept)
        assert np.array_equal(again.images, gallery.images)
        for name, array in vars(gallery.layout).items():
            assert np.array_equal(vars(again.layout)[name], array)
        monkeypatch.setattr(drawing, "in_workers", lambda *a, **k: pytest.fail("drawn again"))
    kept.write_bytes(kept.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"gallery\.npz can't be read"):
        draw_gallery(seed=1, count=16, pixels=32, workers=1, kept=kept)


def test_a_batch_is_a_function_of_the_step(gallery: Gallery, tokenizer: CLIPTokenizer) -> None:
    before = gallery.images.copy()
    first, again, other = (batch(gallery, tokenizer, step) for step in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.pictures, other.pictures)
    assert np.array_equal(gallery.images, before)
    assert first.true.shape == (8, len(first.short) + len(first.long))
    assert first.true.any(1).all() and first.pictures.abs().max() <= 1


def test_the_first_pictures_have_one_thing_behind_a_window(
    gallery: Gallery, tokenizer: CLIPTokenizer
) -> None:
    numbered = np.broadcast_to(
        np.arange(16, dtype=np.uint8)[:, None, None, None], gallery.images.shape
    )
    marked = Gallery(numbered, gallery.layout)

    def alone(asked: ClipBatch) -> float:
        number = ((asked.pictures[:, 0, 0, 0] + 1) * 127.5).round().int().numpy()
        return float((gallery.layout.counts[number] == 1).mean())

    first, later = (batch(marked, tokenizer, step, size=200, alone=2) for step in (2, 3))
    assert alone(first) == 1 and alone(later) == pytest.approx(0.15, abs=0.08)
    assert torch.equal(later.patches, torch.arange(PATCHES**2).expand(200, -1))
    seen_at = first.patches.gather(1, first.places[:, :1])[:, 0]
    assert (first.places[:, 1:] == -1).all() and (first.places[:, 0] >= 0).all()
    number = ((first.pictures[:, 0, 0, 0] + 1) * 127.5).round().int().numpy()
    column = (gallery.layout.centres[number, 0, 0] * PATCHES).astype(int)
    told = torch.from_numpy(np.stack([column, PATCHES - 1 - column], 1))  # one may be mirrored
    assert (seen_at[:, None] % PATCHES == told).any(1).all()
    place = first.patches.view(-1, 5, 5)
    assert torch.equal(place[:, 0] + PATCHES, place[:, 1])
    assert torch.equal(place[:, :, 0] + 1, place[:, :, 1])
    assert int(place.min()) >= 0 and int(place.max()) < PATCHES**2
    x, y = place[:, 2, 2] % PATCHES, place[:, 2, 2] // PATCHES
    middle = torch.stack([x, y], 1).numpy()
    centres = gallery.layout.centres[gallery.layout.counts == 1, 0] * PATCHES
    both = np.stack([centres, np.stack([PATCHES - centres[:, 0], centres[:, 1]], 1)])
    apart = np.abs(both.clip(2.5, 5.5)[None] - (middle + 0.5)[:, None, None]).max(-1)
    assert (apart.min((1, 2)) <= 1).all()


def test_a_mirrored_picture_has_mirrored_sentences(tokenizer: CLIPTokenizer) -> None:
    """Some pictures have a red star; the others have a red moon to the right of it."""
    things = np.full((2, 4, 4), -9, np.int8)
    things[:, 0], things[1, 1] = (3, 0, 0, 1), (6, 0, 0, 1)
    centres = np.zeros((2, 4, 2), np.float32)
    centres[:, 0], centres[:, 1] = (0.2, 0.5), (0.8, 0.5)
    images = np.zeros((2, 32, 32, 3), np.uint8)
    images[:, :, :12] = 255  # white on the left
    told = Gallery(images, Layout(things, centres, np.zeros(2, np.int8)))
    asked = batch(told, tokenizer, 39, size=60)
    texts = [
        text.removeprefix("<|startoftext|>").partition("<|endoftext|>")[0].strip()
        for text in tokenizer.batch_decode(asked.short)
    ]
    plain = asked.pictures[:, 0, 16, 0] > 0
    two = asked.true[:, texts.index("moon")]
    for text, right in (("left of", plain), ("right of", ~plain)):
        column = asked.true[:, texts.index(f"star {text} the red moon")]
        assert torch.equal(column, two & right) and 5 < int(column.sum()) < 50


def test_things_are_held_against_what_means_them(
    gallery: Gallery, tokenizer: CLIPTokenizer
) -> None:
    asked = batch(gallery, tokenizer, 5)
    there = asked.places >= 0
    assert there.any(1).all() and not there.all()
    assert not asked.meant[~there].any()
    short = asked.true[:, : len(asked.short)]
    assert torch.equal(asked.meant.any(1), short)  # who means a thing is true, and the reverse


def test_no_sentence_names_a_pair_that_is_held_out(
    gallery: Gallery, tokenizer: CLIPTokenizer
) -> None:
    """It would be wrong of every picture."""
    said = [batch(gallery, tokenizer, step) for step in range(1, 40)]
    texts = [t for b in said for ids in (b.short, b.long) for t in tokenizer.batch_decode(ids)]
    assert len(texts) > 500 and any("red circle" in text for text in texts)
    named = [f"{colour} {shape}" for colour, shape in HELD_OUT]
    assert not [text for text in texts if re.search(rf"\b({'|'.join(named)})\b", text)]


# --- training -------------------------------------------------------------------------------


@pytest.mark.integration
def test_the_recipe_overfits_a_few_scenes(gallery: Gallery, tokenizer: CLIPTokenizer) -> None:
    config = OptimiserConfig(steps=110, lr=3e-3, beta2=0.99)
    objective = ClipObjective(tiny_clip(tokenizer))
    few = Gallery(gallery.images[:4], gallery.layout[:4])
    steps = list(
        fit(
            objective,
            lambda step: batch(few, tokenizer, step, alone=10),
            config,
            accelerator=Accelerator(cpu=True),
        )
    )
    first, last = steps[10:20], steps[-10:]  # the windows come before
    assert np.mean([s.loss for s in last]) < 0.7 * np.mean([s.loss for s in first])
    picked = [float(np.mean([s.values["picked"] for s in some])) for some in (first, last)]
    assert picked[1] > picked[0] + 0.2


def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    gallery: Gallery, tokenizer: CLIPTokenizer, tmp_path: Path
) -> None:
    config = OptimiserConfig.from_scratch(steps=4, lr=1e-3, warmup=1)

    def trained(checkpoint: Path, *stops: int | None) -> dict[str, Tensor]:
        for until in stops:
            objective = ClipObjective(tiny_clip(tokenizer))
            steps = fit(
                objective,
                lambda step: batch(gallery, tokenizer, step, alone=3),
                config,
                accelerator=Accelerator(cpu=True),
                checkpoint=checkpoint,
                until=until,
            )
            assert len(list(steps))
        return objective.state_dict()

    whole = trained(tmp_path / "whole.safetensors", None)
    parts = trained(tmp_path / "parts.safetensors", 2, None)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_stage_ends_in_a_clip_and_its_text_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accelerate_anew: None
) -> None:
    for name in ("params", "book"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    config = ClipConfig(pixels=32, scenes=8, alone=1, steps=2, batch=4)
    folder = trained_clip(config, profile="smoke")
    assert not (folder / "checkpoint.safetensors").exists()
    clip, tokenizer = CLIPModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
    ids = tokens(tokenizer, ["small red star", "moon"])
    alone = CLIPTextModel.from_pretrained(folder)
    with torch.no_grad():
        states = [m(input_ids=ids).last_hidden_state for m in (alone, clip.text_model)]
    torch.testing.assert_close(*states)
    assert states[0].shape[-1] == 128 and tokenizer.model_max_length == 32
    assert trained_clip(config, profile="smoke") == folder
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match=f"{folder} can't be loaded"):
        load_clip(folder)


# --- scores ---------------------------------------------------------------------------------


def scored(
    quiz: Quiz, monkeypatch: pytest.MonkeyPatch, *, deaf: int | None, elsewhere: int = 0
) -> scoring.ClipScores:
    """The scores of one who knows the truth, but for a part of the words, or some patches off."""

    def heard_by(clip: object, tokenizer: object, said: Sentences) -> Tensor:
        mentions = said.mentions.copy()
        if deaf is not None:
            part = mentions[:, :, deaf]
            part[part >= 0] = -1
        less, layout = Sentences(mentions, said.relations, said.grounds), quiz.gallery.layout
        there = np.zeros((len(said), len(images), PATCHES**2), np.float32)
        for row, scene, thing in np.argwhere(meant(less, layout)):
            there[row, scene, places_of(layout)[scene, thing]] = 1
        whole = torch.from_numpy(true_of(less, layout)).float()
        return torch.cat([whole, torch.from_numpy(there).flatten(1)], dim=1)

    images = quiz.gallery.images
    every = torch.eye(len(images) * (1 + PATCHES**2))
    looked = every[: len(images)], every[len(images) :].unflatten(0, (len(images), -1))
    looked = looked[0], looked[1].roll(elsewhere, dims=1)
    monkeypatch.setattr(scoring, "_heard", heard_by)
    monkeypatch.setattr(scoring, "_looked", lambda clip, images: looked)
    clip = torch.nn.Linear(1, 1)
    clip.device = torch.device("cpu")  # type: ignore[assignment]
    return clip_scores(clip, None, quiz, seed=0)  # type: ignore[arg-type]


def test_who_knows_the_truth_is_always_right(quiz: Quiz, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = scored(quiz, monkeypatch, deaf=None)
    assert scores.among.share == 1 and scores.among.asked == len(quiz.phrases)
    assert all(right.share == 1 for right in scores.words.values())
    assert set(scores.words) == {*PARTS, "relation"}
    assert sum(right.asked for right in scores.kinds.values()) == scores.among.asked
    assert 0 < scores.unseen.asked < scores.among.asked
    assert scores.placed == scores.among


def test_what_is_known_where_a_thing_is_is_asked_there(
    quiz: Quiz, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = scored(quiz, monkeypatch, deaf=None, elsewhere=PATCHES // 2)
    assert scores.among.share == 1 and scores.placed.share < 0.1


@pytest.mark.parametrize("deaf", [1, 2, 3])
def test_who_is_deaf_to_a_word_fails_where_it_counts(
    quiz: Quiz, monkeypatch: pytest.MonkeyPatch, deaf: int
) -> None:
    scores = scored(quiz, monkeypatch, deaf=deaf)
    assert scores.words[PARTS[deaf]].share == 0 and scores.words[PARTS[deaf]].asked > 3
    assert scores.words["shape"].share > 0.5
    assert scores.among.share < 1


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (("circle", "red"), ("square", "red"), (1 / 2 + 1) / 2),  # it is the circle that is red
        (("square", "blue"), ("star", "red"), 1.0),  # there is no star, nor anything blue there
        (("circle", "red"), ("square", "red", "red"), 1.0),  # of the red star; there is none
    ],
)
def test_who_knows_words_alone_guesses_among_those_that_all_fit(
    ours: tuple[str, ...],
    theirs: tuple[str, ...],
    expected: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One picture has a red circle and a blue square, the other a red square and a red star."""
    monkeypatch.setattr(scoring, "AMONG", 2)
    word = {name: k for known in WORDS for k, name in enumerate(known)}
    things = np.full((2, 4, 4), -9, np.int8)
    said = [[("circle", "red"), ("square", "blue")], [("square", "red"), ("star", "red")]]
    for scene, named in enumerate(said):
        for k, (shape, colour) in enumerate(named):
            things[scene, k] = word[shape], word[colour], word["plain"], word["medium"]
    layout = Layout(things, np.full((2, 4, 2), 0.5, np.float32), np.zeros(2, np.int8))
    phrases = tuple(
        Phrase(name, tuple(colours), None, (0,), "colour")
        if len(colours) < 2
        else Phrase(name, colours[:1], ("left of", f"the {colours[1]} star"), (0,), "relation")
        for name, *colours in (ours, theirs)
    )
    asked = Quiz(Gallery(np.zeros((2, 8, 8, 3), np.uint8), layout), phrases, np.array([0, 1]))
    assert bag_of_words(asked, seed=0) == expected


def test_a_bag_of_words_is_less_than_the_truth_and_more_than_chance(quiz: Quiz) -> None:
    assert 0.4 < bag_of_words(quiz, seed=0) < 0.8


def test_an_untrained_clip_guesses(quiz: Quiz, tokenizer: CLIPTokenizer) -> None:
    scores = clip_scores(tiny_clip(tokenizer).eval(), tokenizer, quiz, seed=0)
    assert scores.among.share < 0.2
    assert 0.3 < scores.words["shape"].share < 0.7


def test_too_few_scenes_to_choose_from_are_named(quiz: Quiz, tokenizer: CLIPTokenizer) -> None:
    few = draw_quiz(seed=0, count=3, pixels=32)
    with pytest.raises(ValueError, match="draw more scenes"):
        clip_scores(tiny_clip(tokenizer).eval(), tokenizer, few, seed=0)


def test_shares_have_wilsons_interval() -> None:
    """Of 100 with 64 right: the closed form, with z = 1.96."""
    share, n, z = 0.64, 100, 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    assert Right(share, n).interval == pytest.approx((middle - half, middle + half), abs=1e-6)
    assert Right.of([]).interval == (0, 1)
