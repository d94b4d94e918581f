"""Whether a CLIP tells the drawn scenes' words apart."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import binomtest
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from rlfseg.data.drawn.chunks import Chunk
from rlfseg.data.drawn.phrases import Phrase, phrases
from rlfseg.data.drawn.sentences import (
    PARTS,
    WORDS,
    Sentences,
    layout_of,
    meant,
    one_changed,
    sentences_of,
    true_of,
)
from rlfseg.data.images import to_unit
from rlfseg.stand_ins.clip_batches import Gallery, places_of, tokens
from rlfseg.stand_ins.mini_clip import heard, pointed, states

#: How many phrases CLIP chooses among.
AMONG = 32
_CHANGES = 4  # of each phrase
_BATCH = 64


@dataclass(frozen=True, eq=False)
class Quiz:
    """A split's scenes, their phrases as the data sets have them, and whose each phrase is."""

    gallery: Gallery
    phrases: tuple[Phrase, ...]
    scene: np.ndarray


@dataclass(frozen=True)
class Right:
    """How many were asked, and the share answered right."""

    share: float
    asked: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share; all of [0, 1] where nothing was asked."""
        if not self.asked:
            return 0.0, 1.0
        found = binomtest(round(self.share * self.asked), self.asked)
        low, high = found.proportion_ci(method="wilson")
        return float(low), float(high)

    @classmethod
    def of(cls, answers: Sequence[bool] | np.ndarray) -> "Right":
        """Count answers; none make a share of 0."""
        return cls(float(np.mean(answers)) if len(answers) else 0.0, len(answers))


@dataclass(frozen=True)
class ClipScores:
    """How a CLIP does.

    Attributes:
        among: the scene's phrase is likelier than each of 31 of other scenes, untrue of this one.
        placed: the same, by the patch at the centre of a thing that the phrase means, in the place
            of the whole picture: what is known of a thing by one who is told where it is.
        unseen: the same, for colour and shape pairs that training never saw.
        kinds: the same, by `Phrase.kind`.
        words: the phrase is likelier than itself with one word changed so that it is untrue; by
            what was changed: a name in `PARTS`, or `relation`.
    """

    among: Right
    placed: Right
    unseen: Right
    kinds: dict[str, Right]
    words: dict[str, Right]

    @property
    def answers(self) -> dict[str, Right]:
        """All but `kinds`, by the question in words."""
        words = {f"one wrong word: {what}": found for what, found in self.words.items()}
        return {
            "right among 32": self.among,
            "among 32, told where": self.placed,
            "among 32, an unseen pair": self.unseen,
            **words,
        }


def draw_quiz(*, seed: int, count: int, pixels: int) -> Quiz:
    """Draw the test split's first scenes, as the data sets' writers do, and their phrases."""
    scenes, said = [], []
    for _, scene, rng in Chunk(Path(), seed, "test", 0, count, pixels).scenes():
        scenes.append(scene)
        said.append(phrases(rng, scene))
    return Quiz(
        Gallery(np.stack([scene.image for scene in scenes]), layout_of(scenes)),
        tuple(phrase for own in said for phrase in own),
        np.repeat(np.arange(count), [len(own) for own in said]),
    )


@torch.no_grad()
def clip_scores(clip: CLIPModel, tokenizer: CLIPTokenizer, quiz: Quiz, *, seed: int) -> ClipScores:
    """Score a CLIP, in evaluation mode, on its own device.

    Raises:
        ValueError: if there are too few phrases to choose 31 untrue ones for a scene.
    """
    pictures, patches = _looked(clip, quiz.gallery.images)
    said, rng = sentences_of(quiz.phrases), np.random.default_rng(seed)
    phrases, layout = _heard(clip, tokenizer, said), quiz.gallery.layout
    things = meant(said, layout)[np.arange(len(said)), quiz.scene].argmax(1)
    there = patches[quiz.scene, places_of(layout)[quiz.scene, things]]
    likeness, placed = ((each @ phrases.T).cpu().numpy() for each in (pictures, there))
    picked = np.array(
        [
            [each[item] > each[others].max() for each in (likeness[scene], placed[item])]
            for item, (scene, others) in enumerate(_choices(quiz, said, rng))
        ]
    )
    right: dict[str, list[bool]] = {name: [] for name in (*PARTS, "relation")}
    rows, own = np.arange(len(said)), layout[quiz.scene]
    for _ in range(_CHANGES):
        changed, what = one_changed(rng, said, own)
        wrong = ~true_of(changed, layout)[rows, quiz.scene]
        against = (pictures[quiz.scene] * _heard(clip, tokenizer, changed)).sum(1).cpu().numpy()
        won = likeness[quiz.scene, rows] > against
        for name, part in zip(right, range(len(right)), strict=True):
            right[name] += won[wrong & (what == part)].tolist()
    among, by_patch = picked.T
    kinds = np.array([phrase.kind for phrase in quiz.phrases])
    return ClipScores(
        among=Right.of(among),
        placed=Right.of(by_patch),
        unseen=Right.of(among[[phrase.unseen for phrase in quiz.phrases]]),
        kinds={str(kind): Right.of(among[kinds == kind]) for kind in np.unique(kinds)},
        words={name: Right.of(answers) for name, answers in right.items()},
    )


def bag_of_words(quiz: Quiz, *, seed: int) -> float:
    """Return how often one would be right among 32 who knows no more than a picture's words.

    Each word that fits a thing of the picture is known, but not which of them fit the same thing,
    and of the phrases whose words all fit one is taken by chance. What a CLIP has above this, it
    has from words together.

    Args:
        quiz: as for `clip_scores`.
        seed: the same for the same choices.

    Raises:
        ValueError: as `clip_scores`.
    """
    said, layout = sentences_of(quiz.phrases), quiz.gallery.layout
    words = said.mentions[:, :, None, :]  # [t, m, 1, part]
    known = np.array([(layout.things == word).any(1) for word in range(max(map(len, WORDS)))])
    chance = []
    for item, (scene, others) in enumerate(_choices(quiz, said, np.random.default_rng(seed))):
        asked = words[[item, *others]]
        fits = known[np.maximum(asked, 0), scene, np.arange(len(PARTS))]
        left = (fits | (asked < 0)).all((1, 2, 3))
        chance.append(1 / left.sum())
    return float(np.mean(chance))


def _choices(
    quiz: Quiz, said: Sentences, rng: np.random.Generator
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each phrase's scene, and the numbers of 31 of other scenes that are untrue of it."""
    untrue = ~true_of(said, quiz.gallery.layout).T
    for scene in quiz.scene.tolist():
        others = np.flatnonzero(untrue[scene] & (quiz.scene != scene))
        if len(others) < AMONG - 1:
            raise ValueError(f"{len(others)} phrases are untrue of scene {scene}: draw more scenes")
        yield scene, rng.choice(others, AMONG - 1, replace=False)


def _looked(clip: CLIPModel, images: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return pictures and their patches as unit vectors, [n, d] and [n, k, d]."""
    batches = np.array_split(images, -(-len(images) // _BATCH))
    units = (to_unit(torch.from_numpy(some)).to(clip.device) for some in batches)
    every = pointed(clip, torch.cat([states(clip, some) for some in units]))
    return every[:, 0], every[:, 1:]


def _heard(clip: CLIPModel, tokenizer: CLIPTokenizer, said: Sentences) -> Float[Tensor, "t d"]:
    parts = tokens(tokenizer, said.texts()).to(clip.device).split(16 * _BATCH)
    return torch.cat([heard(clip, part) for part in parts])
