"""The 171 classes of COCO-Stuff: raw values of its pixel maps, names and prompts.

A raw value is COCO's category id less one. COCO reserved 91 ids for things (raw 0-90) and never
annotated 11 of them, hence the gaps; the 91 classes of stuff follow without a gap (raw 91-181).

A prompt is what a person would say for a class. It is the name, but for the names in `PROMPTS`:
without the endings "-other" and "-stuff" that only tell classes apart; with the material in front
("floor-wood", "wood floor"); with run-together words parted. No two classes have the same prompt,
since samples of an image with the same caption are united.

Deviation: the paper doesn't say which words it gave the text encoder for COCO-Stuff.
"""

from typing import NamedTuple


class Label(NamedTuple):
    """The data set's own name of a class, and what is said for it."""

    name: str
    prompt: str


#: Names by the raw value of the first; the others follow one by one.
_NAMES = {
    0: (
        "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, "
        "fire hydrant"
    ),
    12: (
        "stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, "
        "zebra, giraffe"
    ),
    26: "backpack, umbrella",
    30: (
        "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, "
        "baseball glove, skateboard, surfboard, tennis racket, bottle"
    ),
    45: (
        "wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, "
        "carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed"
    ),
    66: "dining table",
    69: "toilet",
    71: (
        "tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, "
        "refrigerator"
    ),
    83: "book, clock, vase, scissors, teddy bear, hair drier, toothbrush",
    91: (
        "banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, "
        "carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, "
        "curtain, desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, "
        "floor-tile, floor-wood, flower, fog, food-other, fruit, furniture-other, grass, "
        "gravel, ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss, "
        "mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic, platform, "
        "playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea, "
        "shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw, "
        "structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick, "
        "wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, "
        "waterdrops, window-blind, window-other, wood"
    ),
}
#: What is said where it is not the name itself.
PROMPTS = {
    "building-other": "building",
    "ceiling-other": "ceiling",
    "ceiling-tile": "tile ceiling",
    "desk-stuff": "desk",
    "door-stuff": "door",
    "floor-marble": "marble floor",
    "floor-other": "floor",
    "floor-stone": "stone floor",
    "floor-tile": "tile floor",
    "floor-wood": "wood floor",
    "food-other": "food",
    "furniture-other": "furniture",
    "ground-other": "ground",
    "mirror-stuff": "mirror",
    "plant-other": "plant",
    "playingfield": "playing field",
    "sky-other": "sky",
    "solid-other": "solid",
    "structural-other": "structure",
    "textile-other": "textile",
    "wall-brick": "brick wall",
    "wall-concrete": "concrete wall",
    "wall-other": "wall",
    "wall-panel": "panel wall",
    "wall-stone": "stone wall",
    "wall-tile": "tile wall",
    "wall-wood": "wood wall",
    "water-other": "water",
    "waterdrops": "water drops",
    "window-blind": "window blind",
    "window-other": "window",
}
#: The classes by raw value, in the order of their train ids 0-170.
COCO_STUFF = {
    first + place: Label(name, PROMPTS.get(name, name))
    for first, names in _NAMES.items()
    for place, name in enumerate(names.split(", "))
}
