"""Sentences that each single out one thing of a drawn scene, in the manner of REFER's data sets.

    refcoco    location words, relations and looks: "left star", "star right of the blue circle"
    refcoco+   looks alone: "small red star"
    refcocog   longer: "the small red star that is left of the blue circle"

A location word names the one fitting thing whose centre lies in that third of the picture; it is
then the leftmost (rightmost, topmost, lowest) of them too, so both readings agree.
"""

import numpy as np

from rlfseg.data.drawn.phrases import phrases
from rlfseg.data.drawn.scene import Scene, Thing

LOCATIONS = ("left", "right", "top", "bottom")
_TRIES = 40  # different phrases of a scene, of which those about one thing are taken


def expressions(rng: np.random.Generator, scene: Scene, dataset: str) -> list[list[str]]:
    """Make the sentences of a scene.

    Args:
        rng: chooses among the sentences that are true.
        scene: the scene.
        dataset: refcoco, refcoco+ or refcocog.

    Returns:
        For each thing up to three different sentences that fit it alone; none where there is no
        such sentence.
    """
    alone = [p for p in phrases(rng, scene, most=_TRIES) if len(p.targets) == 1]
    said = []
    for number, thing in enumerate(scene.things):
        looks = [p.text for p in alone if p.targets == (number,) and p.relation is None]
        relations = [p for p in alone if p.targets == (number,) and p.relation is not None]
        if dataset == "refcoco+":
            kinds = [looks, looks]
        elif dataset == "refcoco":
            kinds = [_located(scene, number), [p.text for p in relations], looks]
        else:
            words = _all_words(thing)
            related = [f"the {words} that is {' '.join(p.relation or ())}" for p in relations]
            unique = _fitting(scene, words) == [number]
            kinds = [related, [f"the {words} that lies on the {scene.ground}"] if unique else []]
        chosen = [str(rng.choice(kind)) for kind in kinds if kind]
        said.append(list(dict.fromkeys(chosen)))
    return said


def _all_words(thing: Thing) -> str:
    words = (thing.size, thing.colour, thing.texture, thing.shape)
    return " ".join(word for word in words if word not in ("medium", "plain"))


def _fitting(scene: Scene, words: str) -> list[int]:
    """Return the numbers of the things that have all these words."""
    wanted = set(words.split())
    return [
        number
        for number, thing in enumerate(scene.things)
        if wanted <= {thing.shape, thing.size, thing.colour, thing.texture}
    ]


def _located(scene: Scene, number: int) -> list[str]:
    """List every sentence in which a location word singles a thing out."""
    thing, side = scene.things[number], scene.image.shape[0]
    said = []
    for words in (thing.shape, f"{thing.colour} {thing.shape}"):
        fitting = _fitting(scene, words)
        for location in LOCATIONS:
            if [i for i in fitting if _lies(scene.things[i], location, side)] == [number]:
                joint = "on the" if location in ("left", "right") else "at the"
                said += [f"{location} {words}", f"{words} {joint} {location}"]
    return said


def _lies(thing: Thing, location: str, side: int) -> bool:
    x, y = thing.centre
    along = {"left": x, "right": side - x, "top": y, "bottom": side - y}[location]
    return along < side / 3
