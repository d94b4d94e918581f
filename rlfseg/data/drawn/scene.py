"""Draw scenes: coloured, textured shapes over varied grounds, with the exact mask of each object.

Shapes are drawn by Pillow at four times the size and averaged down: the image is antialiased, and
a pixel belongs to an object's mask when at least half of it is covered.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "moon")
COLOURS = {
    "red": (208, 40, 40),
    "orange": (240, 140, 30),
    "yellow": (238, 218, 60),
    "green": (40, 150, 60),
    "blue": (40, 80, 205),
    "purple": (140, 60, 170),
    "white": (246, 246, 246),
}
TEXTURES = ("plain", "striped", "dotted", "checkered")
SIZES = ("small", "medium", "large")
GROUNDS = ("sky", "sand", "grass", "wood", "slate")
#: Colour and shape never drawn together in the training split ("unseen combination").
HELD_OUT = frozenset(
    {
        ("red", "star"),
        ("blue", "heart"),
        ("green", "circle"),
        ("yellow", "moon"),
        ("white", "cross"),
    }
)
#: Range of a thing's radius in sides of the picture, at zoom 1.
RADII = {"small": (0.085, 0.115), "medium": (0.13, 0.16), "large": (0.175, 0.225)}
#: The same of a thing that fills the picture, and so is in the middle of it.
FILLING = {"small": (0.34, 0.36), "medium": (0.37, 0.40), "large": (0.41, 0.445)}
_GROUND_TONES = {
    "sky": ((150, 185, 215), (195, 212, 225)),
    "sand": ((196, 178, 140), (214, 200, 168)),
    "grass": ((92, 122, 72), (128, 150, 96)),
    "wood": ((124, 94, 68), (158, 124, 92)),
    "slate": ((84, 90, 100), (116, 122, 130)),
}
#: How near things are, unless said otherwise; their radii are multiplied by it.
ZOOM = 1.45
_SUPERSAMPLING = 4
_MIN_VISIBLE = 0.55


@dataclass(frozen=True)
class Thing:
    """One object: its words, its centre (x, y) in pixels, and its visible mask (bool [H, W])."""

    shape: str
    colour: str
    texture: str
    size: str
    centre: tuple[float, float]
    mask: np.ndarray


@dataclass(frozen=True)
class Scene:
    """An image (uint8 [H, W, 3]), its ground's name and its things, the nearest last."""

    image: np.ndarray
    ground: str
    things: tuple[Thing, ...]


def outline(shape: str, n: int = 48) -> np.ndarray:
    """Return the closed outline of a shape, [m, 2] in units of its radius, y downwards.

    Raises:
        ValueError: if there is no such shape.
    """
    turn = np.linspace(0, 2 * np.pi, n, endpoint=False)
    if shape == "circle":
        return np.stack([np.cos(turn), np.sin(turn)], 1)
    if shape == "square":
        return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.86
    if shape == "triangle":
        angle = np.array([0, 1, 2]) * 2 * np.pi / 3 - np.pi / 2
        return np.stack([np.cos(angle), np.sin(angle)], 1) * 1.15
    if shape == "star":
        angle = np.arange(10) * np.pi / 5 - np.pi / 2
        radius = np.where(np.arange(10) % 2 == 0, 1.2, 0.55)
        return np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None]
    if shape == "cross":
        a, b = 0.38, 1.05
        corners = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a)]
        return np.array(corners + [(-x, -y) for x, y in corners])
    if shape == "heart":
        x = 16 * np.sin(turn) ** 3
        y = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
        return np.stack([x, -y - 2.5], 1) / 15.5
    if shape == "moon":
        outer = np.linspace(0.32 * np.pi, 1.68 * np.pi, n // 2)
        tip_x, tip_y = np.cos(outer[0]), np.sin(outer[0])
        inner_radius = np.hypot(tip_x - 0.75, tip_y)
        start = np.arctan2(-tip_y, tip_x - 0.75) % (2 * np.pi)
        inner = np.linspace(start, 2 * np.pi - start, n // 2)
        back = np.stack([0.75 + inner_radius * np.cos(inner), inner_radius * np.sin(inner)], 1)
        return np.concatenate([np.stack([np.cos(outer), np.sin(outer)], 1), back]) * 1.1
    raise ValueError(f"unknown shape {shape!r}: choose one of {SHAPES}")


def draw_scene(
    rng: np.random.Generator,
    *,
    pixels: int,
    held_out: bool,
    count: tuple[int, int] = (2, 4),
    zoom: float = ZOOM,
    radii: Mapping[str, tuple[float, float]] = RADII,
) -> Scene:
    """Draw one scene.

    Args:
        rng: the only source of randomness.
        pixels: side of the square image.
        held_out: whether the colour and shape pairs of `HELD_OUT` may appear.
        count: smallest and largest number of things.
        zoom: how near the things are; their radii are multiplied by it.
        radii: range of a thing's radius by its size.

    Returns:
        A scene in which at least 55% of each thing is visible.
    """
    ground = str(rng.choice(GROUNDS))
    image = _ground(rng, ground, pixels)
    wanted = int(rng.integers(count[0], count[1] + 1))
    words: list[tuple[str, str, str, str]] = []
    things: list[Thing] = []
    whole: list[int] = []
    for _ in range(wanted * 12):
        if len(things) == wanted:
            break
        chosen = _choose_words(rng, words, held_out)
        shape, colour, texture, size = chosen
        low, high = radii[size]
        radius = float(rng.uniform(low, high)) * pixels * zoom
        x, y = (float(v) for v in rng.uniform(radius * 1.1, pixels - radius * 1.1, 2))
        coverage = _coverage(outline(shape), (x, y), radius, float(rng.normal(0, 0.15)), pixels)
        mask = coverage >= 0.5
        area = int(mask.sum())
        left = [thing.mask & ~mask for thing in things]
        if any(m.sum() < _MIN_VISIBLE * w for m, w in zip(left, whole, strict=True)):
            continue
        image = _paint(rng, image, coverage, colour, texture, pixels)
        things = [
            Thing(t.shape, t.colour, t.texture, t.size, t.centre, m)
            for t, m in zip(things, left, strict=True)
        ]
        things.append(Thing(shape, colour, texture, size, (x, y), mask))
        whole.append(area)
        words.append(chosen)
    noisy = image + rng.normal(0, 2.0, image.shape)
    return Scene(np.clip(noisy, 0, 255).round().astype(np.uint8), ground, tuple(things))


def draw_ground(rng: np.random.Generator, name: str, pixels: int) -> np.ndarray:
    """Draw a ground with nothing on it, uint8 [pixels, pixels, 3]."""
    return np.clip(_ground(rng, name, pixels), 0, 255).round().astype(np.uint8)


def _choose_words(
    rng: np.random.Generator, taken: list[tuple[str, str, str, str]], held_out: bool
) -> tuple[str, str, str, str]:
    """Choose a thing's words, often one in common with an earlier thing's: so phrases matter."""
    while True:
        shape, colour = str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS)))
        texture = "plain" if rng.random() < 0.4 else str(rng.choice(TEXTURES[1:]))
        size = str(rng.choice(SIZES))
        if taken and rng.random() < 0.5:
            other = taken[int(rng.integers(len(taken)))]
            shape, colour = (other[0], colour) if rng.random() < 0.6 else (shape, other[1])
        if held_out or (colour, shape) not in HELD_OUT:
            return shape, colour, texture, size


def _coverage(
    points: np.ndarray, centre: tuple[float, float], radius: float, angle: float, pixels: int
) -> np.ndarray:
    """Return the share of each pixel that the shape covers, float32 [pixels, pixels] in [0, 1]."""
    c, s = np.cos(angle), np.sin(angle)
    at = (points @ np.array([[c, s], [-s, c]]) * radius + np.array(centre)) * _SUPERSAMPLING
    sheet = Image.new("L", (pixels * _SUPERSAMPLING,) * 2)
    ImageDraw.Draw(sheet).polygon([tuple(p) for p in at.tolist()], fill=255)
    return np.asarray(sheet.reduce(_SUPERSAMPLING), np.float32) / 255


def _paint(
    rng: np.random.Generator,
    image: np.ndarray,
    coverage: np.ndarray,
    colour: str,
    texture: str,
    pixels: int,
) -> np.ndarray:
    main = np.array(COLOURS[colour], np.float32) + rng.normal(0, 8, 3)
    dark = main * 0.45
    period = pixels * float(rng.uniform(0.085, 0.1))
    angle = float(rng.normal(np.pi / 4 if texture == "striped" else 0, 0.1))
    rows, columns = (_extent(coverage.max(axis) > 0) for axis in (1, 0))
    y, x = np.mgrid[rows, columns].astype(np.float32)
    u = (x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period
    v = (-x * np.sin(angle) + y * np.cos(angle)) * 2 * np.pi / period
    if texture == "striped":
        pattern = np.clip(0.5 + 2 * np.sin(u), 0, 1)
    elif texture == "dotted":
        pattern = np.clip(2.5 * (np.cos(u) + np.cos(v)) - 1.6, 0, 1)
    elif texture == "checkered":
        pattern = np.clip(0.5 + 3 * np.sin(u * 0.62) * np.sin(v * 0.62), 0, 1)
    else:
        pattern = np.zeros_like(u)
    light = 1 + 0.12 * (x - y) / pixels
    paint = (main * (1 - pattern[..., None]) + dark * pattern[..., None]) * light[..., None]
    share = coverage[rows, columns, None]
    painted = image.copy()
    painted[rows, columns] = image[rows, columns] * (1 - share) + paint * share
    return painted


def _extent(covered: np.ndarray) -> slice:
    """Return the range from the first to the last place that is covered."""
    places = np.flatnonzero(covered)
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0)


def _ground(rng: np.random.Generator, name: str, pixels: int) -> np.ndarray:
    low, high = (np.array(c, np.float32) for c in _GROUND_TONES[name])
    cells = {"sky": (3, 3), "sand": (24, 24), "grass": (20, 20), "wood": (24, 2), "slate": (6, 6)}
    rows, columns = cells[name]
    noise = Image.fromarray(rng.random((rows, columns), np.float32))
    field = np.asarray(noise.resize((pixels, pixels), Image.Resampling.BICUBIC))
    slope = np.linspace(0, 1, pixels, dtype=np.float32)[:, None]
    blend = np.clip(0.75 * field + 0.25 * slope, 0, 1)[..., None]
    return low * (1 - blend) + high * blend + rng.normal(0, 6, 3)
