"""Phrases of PhraseCut's kind about a drawn scene.

A phrase has a name, attributes (colour, texture, size) and at most one relation ("left of the red
star"); every thing it fits is its target, so several may match.
"""

from dataclasses import dataclass

import numpy as np

from rlfseg.data.drawn.scene import HELD_OUT, Scene, Thing

RELATIONS = ("left of", "right of", "above", "below")
_KINDS = ("name", "colour", "texture", "size", "colour texture", "size colour", "relation")
_KIND_ODDS = (0.16, 0.26, 0.14, 0.10, 0.14, 0.08, 0.12)
MARGIN = 0.08  # of the image's side: closer centres are neither left nor right of each other


@dataclass(frozen=True)
class Phrase:
    """A phrase and the numbers of the things it fits.

    `relation` is None or (relation, words of the other thing); `kind` tells which words it uses.
    """

    name: str
    attributes: tuple[str, ...]
    relation: tuple[str, str] | None
    targets: tuple[int, ...]
    kind: str

    @property
    def text(self) -> str:
        """The phrase as a person would say it."""
        words = " ".join((*self.attributes, self.name))
        return words if self.relation is None else f"{words} {self.relation[0]} {self.relation[1]}"

    @property
    def unseen(self) -> bool:
        """Whether it names a colour and shape pair that the training split never draws."""
        return any((word, self.name) in HELD_OUT for word in self.attributes)


def phrases(rng: np.random.Generator, scene: Scene, *, most: int = 4) -> list[Phrase]:
    """Make 1 to `most` phrases with different texts, each about a thing chosen at random."""
    found: dict[str, Phrase] = {}
    for attempt in range(most * 3):
        if len(found) == most:
            break
        about = int(rng.integers(len(scene.things)))
        kind = str(rng.choice(_KINDS, p=_KIND_ODDS)) if found or attempt % 3 < 2 else "name"
        phrase = _phrase(rng, scene, about, kind)
        if phrase is not None:
            found.setdefault(phrase.text, phrase)
    return list(found.values())


def truth(scene: Scene, phrase: Phrase) -> np.ndarray:
    """Return the exact mask of a phrase, bool [H, W]: the union of its targets' visible masks."""
    return np.any([scene.things[i].mask for i in phrase.targets], axis=0)


def _words(thing: Thing, kind: str) -> tuple[str, ...] | None:
    """Return the attributes a kind of phrase gives a thing, or None where it has no such word."""
    parts = {"size": thing.size, "colour": thing.colour, "texture": thing.texture}
    said = tuple(parts[part] for part in ("size", "colour", "texture") if part in kind.split())
    return None if {"medium", "plain"} & set(said) else said


def _fits(thing: Thing, name: str, attributes: tuple[str, ...]) -> bool:
    return thing.shape == name and set(attributes) <= {thing.size, thing.colour, thing.texture}


def _phrase(rng: np.random.Generator, scene: Scene, about: int, kind: str) -> Phrase | None:
    thing = scene.things[about]
    if kind == "relation":
        return _relation_phrase(rng, scene, about)
    attributes = _words(thing, kind)
    if attributes is None:
        return None
    fits = [i for i, t in enumerate(scene.things) if _fits(t, thing.shape, attributes)]
    return Phrase(thing.shape, attributes, None, tuple(fits), kind)


def _relation_phrase(rng: np.random.Generator, scene: Scene, about: int) -> Phrase | None:
    """Make a phrase with a relation to another thing that its own words single out."""
    thing = scene.things[about]
    other = int(rng.integers(len(scene.things)))
    anchor = scene.things[other]
    alone = [t for t in scene.things if _fits(t, anchor.shape, (anchor.colour,))]
    relation = _relation(rng, thing, anchor)
    if other == about or len(alone) > 1 or relation is None:
        return None
    attributes = (thing.colour,) if rng.random() < 0.4 else ()
    fits = [
        i
        for i, t in enumerate(scene.things)
        if i != other and _fits(t, thing.shape, attributes) and _holds(t, relation, anchor)
    ]
    said = f"the {anchor.colour} {anchor.shape}"
    return Phrase(thing.shape, attributes, (relation, said), tuple(fits), "relation")


def _holds(thing: Thing, relation: str, anchor: Thing) -> bool:
    margin = MARGIN * thing.mask.shape[0]
    across = thing.centre[0] - anchor.centre[0]
    down = thing.centre[1] - anchor.centre[1]
    distance = {"left of": -across, "right of": across, "above": -down, "below": down}[relation]
    return distance > margin


def _relation(rng: np.random.Generator, thing: Thing, anchor: Thing) -> str | None:
    true = [relation for relation in RELATIONS if _holds(thing, relation, anchor)]
    return str(rng.choice(true)) if true else None
