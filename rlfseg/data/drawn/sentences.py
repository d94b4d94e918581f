"""Sentences about drawn scenes as arrays, so that thousands are held against many scenes at once.

A sentence mentions one to four things, may relate the first to the second ("red star left of the
blue moon"), and may name the ground. It is true of a scene if every mention fits a thing there, the
relation holds between two such things, and the ground is the one named.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from rlfseg.data.drawn.phrases import MARGIN, RELATIONS, Phrase
from rlfseg.data.drawn.scene import COLOURS, GROUNDS, HELD_OUT, SHAPES, SIZES, TEXTURES, Scene

PARTS = ("shape", "colour", "texture", "size")
WORDS = (SHAPES, tuple(COLOURS), TEXTURES, SIZES)
_SPOKEN = (3, 1, 2, 0)  # the order of the parts in a mention
_MUTE = np.array([-1, -1, TEXTURES.index("plain"), SIZES.index("medium")], np.int8)  # never said
_HELD_OUT = [(SHAPES.index(name), list(COLOURS).index(colour)) for colour, name in HELD_OUT]
_OPPOSITE = np.array([1, 0, 3, 2])  # of the relations
_MOST = 4  # things in a scene, and mentions in a sentence
_ANY, _NONE = -1, -9
_SAID = np.array([1.0, 0.65, 0.5, 0.4])  # how often a mention has its words
_FROM_SCENE = 0.6  # how often a changed word is another thing's in the picture


@dataclass(frozen=True, eq=False)
class Layout:
    """What is where in n scenes.

    Attributes:
        things: int8 [n, 4, 4], the words of each thing as numbers in `WORDS`; -9 for no thing.
        centres: float32 [n, 4, 2], x and y in sides of the picture.
        grounds: int8 [n].
    """

    things: np.ndarray
    centres: np.ndarray
    grounds: np.ndarray

    def __getitem__(self, chosen: np.ndarray | slice) -> Self:
        """Choose scenes."""
        return replace(
            self,
            things=self.things[chosen],
            centres=self.centres[chosen],
            grounds=self.grounds[chosen],
        )

    @property
    def there(self) -> np.ndarray:
        """Whether each of the four is a thing, bool [n, 4]."""
        return self.things[:, :, 0] != _NONE

    @property
    def counts(self) -> np.ndarray:
        """How many things each scene has."""
        return self.there.sum(1)

    def mirrored(self, chosen: np.ndarray) -> Self:
        """Return the layout with the chosen scenes (bool [n]) seen in a mirror."""
        centres = self.centres.copy()
        centres[chosen, :, 0] = 1 - centres[chosen, :, 0]
        return replace(self, centres=centres)


@dataclass(frozen=True, eq=False)
class Sentences:
    """n sentences.

    Attributes:
        mentions: int8 [n, 4, 4], numbers in `WORDS`; -1 for a word left out, -9 for no mention.
        relations: int8 [n], numbers in `RELATIONS`, of the first mention to the second, or -1.
        grounds: int8 [n], numbers in `GROUNDS`, or -1.
    """

    mentions: np.ndarray
    relations: np.ndarray
    grounds: np.ndarray

    def __len__(self) -> int:
        return len(self.mentions)

    def __getitem__(self, chosen: np.ndarray | slice) -> Self:
        """Choose sentences."""
        return replace(
            self,
            mentions=self.mentions[chosen],
            relations=self.relations[chosen],
            grounds=self.grounds[chosen],
        )

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Put sentences behind each other."""
        return cls(
            np.concatenate([part.mentions for part in parts]),
            np.concatenate([part.relations for part in parts]),
            np.concatenate([part.grounds for part in parts]),
        )

    def unique(self) -> Self:
        """Keep one of those that are the same."""
        flat = self.mentions.reshape(len(self), -1)
        rows = np.column_stack((flat, self.relations, self.grounds))
        return self[np.unique(rows, axis=0, return_index=True)[1]]

    @property
    def unseen(self) -> np.ndarray:
        """Whether each names a colour and shape pair that training never draws, bool [n]."""
        shape, colour = self.mentions[..., 0], self.mentions[..., 1]
        return np.any([((shape == s) & (colour == c)).any(1) for s, c in _HELD_OUT], axis=0)

    def texts(self) -> list[str]:
        """The sentences as a person would say them."""
        rows = zip(self.mentions.tolist(), self.relations, self.grounds, strict=True)
        return [_text(mentions, int(r), int(g)) for mentions, r, g in rows]


def layout_of(scenes: Iterable[Scene]) -> Layout:
    """Describe drawn scenes of at most four things."""
    things, centres, grounds = [], [], []
    for scene in scenes:
        words = np.full((_MOST, len(PARTS)), _NONE, np.int8)
        where = np.zeros((_MOST, 2), np.float32)
        for k, thing in enumerate(scene.things):
            said = (thing.shape, thing.colour, thing.texture, thing.size)
            words[k] = [known.index(word) for known, word in zip(WORDS, said, strict=True)]
            where[k] = np.array(thing.centre) / thing.mask.shape[0]
        things.append(words)
        centres.append(where)
        grounds.append(GROUNDS.index(scene.ground))
    return Layout(np.stack(things), np.stack(centres), np.array(grounds, np.int8))


def sentences_of(phrases: Sequence[Phrase]) -> Sentences:
    """Turn phrases of the data sets into sentences; their texts are the same."""
    mentions = np.full((len(phrases), _MOST, len(PARTS)), _NONE, np.int8)
    relations = np.full(len(phrases), -1, np.int8)
    for k, phrase in enumerate(phrases):
        mentions[k, 0] = _numbers((phrase.name, *phrase.attributes))
        if phrase.relation is not None:
            relations[k] = RELATIONS.index(phrase.relation[0])
            mentions[k, 1] = _numbers(phrase.relation[1].split()[1:])
    return Sentences(mentions, relations, np.full(len(phrases), -1, np.int8))


def describe(
    rng: np.random.Generator, scenes: Layout, *, whole: bool, related: float, ground: float = 0.0
) -> Sentences:
    """Say one true sentence about each scene.

    Args:
        rng: the only source of randomness.
        scenes: n of them.
        whole: mention all things in any order, or one.
        related: how often, where there is one, the relation of the first to another is told; the
            other is then mentioned by colour and shape.
        ground: how often the ground is named.
    """
    n = len(scenes.things)
    order = np.where(scenes.things[:, :, 0] == _NONE, 2, rng.random((n, _MOST))).argsort(1)
    things = np.take_along_axis(scenes.things, order[..., None], 1)
    centres = np.take_along_axis(scenes.centres, order[..., None], 1)
    said = (rng.random(things.shape) < _SAID) & (things != _MUTE)
    mentions = np.where(said, things, _ANY).astype(np.int8)
    holds = _holds(centres)[:, :, 0, 1].T & (scenes.counts >= 2)[:, None]
    tell = holds.any(1) & (rng.random(n) < related)
    chosen = np.where(holds, rng.random(holds.shape), -1).argmax(1)
    mentions[tell, 1, :2], mentions[tell, 1, 2:] = things[tell, 1, :2], _ANY
    kept = scenes.counts if whole else 1 + tell
    mentions[np.arange(_MOST) >= kept[:, None]] = _NONE
    grounds = np.where(rng.random(n) < ground, scenes.grounds, -1)
    return Sentences(mentions, np.where(tell, chosen, -1).astype(np.int8), grounds.astype(np.int8))


def one_changed(
    rng: np.random.Generator, sentences: Sentences, scenes: Layout
) -> tuple[Sentences, np.ndarray]:
    """Change one word of each sentence, or its relation to the opposite.

    More often than not the new word is that of another thing in the sentence's scene. The changed
    sentence may happen to be true of the scene.

    Returns:
        The changed sentences, and what was changed: numbers in `PARTS`, 4 for the relation.
    """
    n, rows = len(sentences), np.arange(len(sentences))
    mentions, relations = sentences.mentions.copy(), sentences.relations.copy()
    place = np.where(mentions >= 0, rng.random(mentions.shape), -1).reshape(n, -1).argmax(1)
    at, part = np.divmod(place, len(PARTS))
    now = mentions[rows, at, part]
    turned = (relations >= 0) & (rng.random(n) < 0.5)
    known = np.array([len(words) for words in WORDS])
    numbers = np.arange(known.max())
    open_ = (numbers < known[part, None]) & (numbers != now[:, None])
    open_ &= numbers != _MUTE[part, None]
    new = np.where(open_, rng.random(open_.shape), -1).argmax(1)
    other = scenes.things[rows, rng.integers(_MOST, size=n), part]
    fits = (other >= 0) & open_[rows, np.maximum(other, 0)] & (rng.random(n) < _FROM_SCENE)
    mentions[rows, at, part] = np.where(turned, now, np.where(fits, other, new))
    relations[turned] = _OPPOSITE[relations[turned]]
    changed = Sentences(mentions, relations, sentences.grounds)
    return changed, np.where(turned, len(PARTS), part)


def true_of(sentences: Sentences, scenes: Layout) -> np.ndarray:
    """Return whether each sentence is true of each scene, bool [sentences, scenes]."""
    absent = sentences.mentions[:, :, 0] == _NONE
    fits = _fits(sentences.mentions, scenes)
    true = (fits.any(3) | absent[..., None]).all(1)
    true &= (sentences.grounds[:, None] < 0) | (sentences.grounds[:, None] == scenes.grounds)
    told = np.flatnonzero(sentences.relations >= 0)
    true[told] &= _related(sentences, fits, told, scenes).any((2, 3))
    return true


def meant(sentences: Sentences, scenes: Layout) -> np.ndarray:
    """Return whether a sentence's first mention means each thing, bool [sentences, scenes, 4].

    It does if the words fit, and the relation, if one is told, holds to a thing that the second
    mention fits.
    """
    fits = _fits(sentences.mentions[:, :2], scenes)
    first = fits[:, 0].copy()
    told = np.flatnonzero(sentences.relations >= 0)
    first[told] = _related(sentences, fits, told, scenes).any(3)
    return first


def _fits(mentions: np.ndarray, scenes: Layout) -> np.ndarray:
    """Return whether the words of mentions [t, m, 4] fit each thing, bool [t, m, n, 4]."""
    said, things = mentions[:, :, None, None], scenes.things
    fits = np.broadcast_to(scenes.there, (*mentions.shape[:2], *things.shape[:2]))
    for part in range(len(PARTS)):
        fits = fits & ((said[..., part] == _ANY) | (said[..., part] == things[..., part]))
    return fits


def _related(
    sentences: Sentences, fits: np.ndarray, told: np.ndarray, scenes: Layout
) -> np.ndarray:
    """Return the pairs of things that sentences with a relation relate, bool [told, n, 4, 4]."""
    pairs = fits[told, 0, :, :, None] & fits[told, 1, :, None, :]
    return pairs & _holds(scenes.centres)[sentences.relations[told]]


def _holds(centres: np.ndarray) -> np.ndarray:
    """Return [4, n, a, b]: whether a is left of, right of, above, below b."""
    x, y = np.moveaxis(centres[:, :, None] - centres[:, None], -1, 0)
    return np.stack([-x > MARGIN, x > MARGIN, -y > MARGIN, y > MARGIN])


def _numbers(words: Iterable[str]) -> list[int]:
    wanted = set(words)
    return [next((known.index(w) for w in known if w in wanted), _ANY) for known in WORDS]


def _text(mentions: list[list[int]], relation: int, ground: int) -> str:
    said = [
        " ".join(WORDS[part][mention[part]] for part in _SPOKEN if mention[part] >= 0)
        for mention in mentions
        if mention[0] != _NONE
    ]
    if relation >= 0:
        said[:2] = [f"{said[0]} {RELATIONS[relation]} the {said[1]}"]
    return ", ".join(said) + (f" on {GROUNDS[ground]}" if ground >= 0 else "")
