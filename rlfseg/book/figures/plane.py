"""Paths and walks in a plane, on paper and with sliders."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlfseg.book.figures.charts import COLOURS, finished
from rlfseg.book.figures.explorer import Interactive

_KINDS = (COLOURS[0], COLOURS[1])
_SIDES = ((-0.4, 1.6), (-1.6, 1.6))  # what is seen of the plane


@dataclass(frozen=True)
class Walked:
    """A world of pairs, its field, and the walks along it.

    Attributes:
        pictures: where pairs begin [n, 2].
        masks: where they end [n, 2].
        kind: of each pair [n].
        places: where the field is shown [m, 2].
        field: the velocity there [m, 2], by time.
        walks: all points of the walks from the pictures [k + 1, n, 2], by their number of steps.
    """

    pictures: np.ndarray
    masks: np.ndarray
    kind: np.ndarray
    places: np.ndarray
    field: Mapping[float, np.ndarray]
    walks: Mapping[int, np.ndarray]

    def missed(self, steps: int) -> float:
        """Return how far the walks of so many steps end from their own masks, on average."""
        return float(np.linalg.norm(self.walks[steps][-1] - self.masks, axis=1).mean())


def grid(count: int) -> np.ndarray:
    """Return places [count * 2 * count, 2] all over what is seen of the plane."""
    across, up = (np.linspace(*side, n) for side, n in zip(_SIDES, (count, 2 * count), strict=True))
    return np.stack(np.meshgrid(across, up), -1).reshape(-1, 2).astype(np.float32)


def walks(worlds: Mapping[str, Walked], *, time: float, steps: Sequence[int]) -> Figure:
    """Draw a row for each world: its paths, its field at a time, and walks of so many steps."""
    titles = ["paths", f"mean velocity at t = {time:g}"]
    titles += [f"{n} step{'s' * (n > 1)}" for n in steps]
    size = (2.1 * len(titles), 2.9 * len(worlds) + 0.3)
    figure, axes = plt.subplots(
        len(worlds), len(titles), figsize=size, squeeze=False, layout="constrained",
        sharex=True, sharey=True,
    )  # fmt: skip
    for row, (name, world) in zip(axes, worlds.items(), strict=True):
        _walk(row[0], world, np.stack([world.pictures, world.masks]), ends=False)
        off = -world.field[time]  # a walk goes from t = 1 down, against the velocity
        row[1].quiver(*world.places.T, *off.T, color="#777777", angles="xy", width=0.009)
        for axis, n in zip(row[2:], steps, strict=True):
            _walk(axis, world, world.walks[n], ends=True)
        row[0].set_ylabel(f"{name}\n\nan entry on the thing")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("an entry on the ground")
    axes[0][0].set(xlim=_SIDES[0], ylim=_SIDES[1])
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return finished(figure)


def _walk(axis: Axes, world: Walked, points: np.ndarray, *, ends: bool) -> None:
    """Draw walks [k, n, 2] over the pictures (dots) and the masks (crosses)."""
    for kind, colour in enumerate(_KINDS):
        own = world.kind == kind
        axis.plot(points[:, own, 0], points[:, own, 1], color=colour, lw=0.7, alpha=0.5)
        axis.plot(*world.pictures[own].T, "o", color=colour, ms=3)
        axis.plot(*world.masks[own].T, "x", color=colour, ms=5)
        if ends:
            axis.plot(*points[-1, own].T, "o", mfc="none", color=colour, ms=6)


def walk_explorer(worlds: Mapping[str, Walked]) -> Interactive:
    """Let a reader choose a world, a time, a number of steps and a length of the one step.

    All is computed beforehand but where a lengthened step ends; the page draws it.

    Raises:
        ValueError: if worlds differ in their times or numbers of steps, or one step isn't there.
    """
    same = {(tuple(world.field), tuple(world.walks)) for world in worlds.values()}
    if len(same) != 1:
        raise ValueError(f"all worlds must have the same times and steps, got {sorted(same)}")
    ((times, steps),) = same
    if 1 not in steps:
        raise ValueError(f"a walk of one step is needed, got {steps}")
    content = {
        "times": times,
        "steps": steps,
        "colours": _KINDS,
        "worlds": [_kept(name, world) for name, world in worlds.items()],
    }
    data = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    name = f"walk-{sha256(data.encode()).hexdigest()[:8]}"
    (left, right), (low, high) = _SIDES
    box = f"{left} {-high} {right - left:g} {high - low:g}"
    return Interactive(_PAGE.replace("NAME", name).replace("BOX", box).replace("DATA", data))


def _kept(name: str, world: Walked) -> dict[str, object]:
    return {
        "name": name,
        "pictures": _short(world.pictures),
        "masks": _short(world.masks),
        "kind": world.kind.tolist(),
        "places": _short(world.places),
        "field": [_short(each) for each in world.field.values()],
        "walks": [_short(each) for each in world.walks.values()],
    }


def _short(numbers: np.ndarray) -> list[object]:
    return np.round(numbers.astype(np.float64), 3).tolist()


_PAGE = """<div class="walked" id="NAME">
<style>
#NAME { display: flex; flex-wrap: wrap; gap: 1rem 1.5rem; align-items: flex-start; }
#NAME svg { flex: 1 1 14rem; max-width: 19rem; width: 100%; border: 1px solid #8888; }
#NAME svg line, #NAME svg polyline { vector-effect: non-scaling-stroke; fill: none; }
#NAME .choices { flex: 1 1 15rem; display: grid; gap: .7rem; }
#NAME label { display: grid; gap: .2rem; }
#NAME label.tick { display: flex; gap: .5rem; align-items: center; }
#NAME select { font: inherit; padding: .45rem; max-width: 100%; }
#NAME input[type=range] { width: 100%; min-height: 1.8rem; }
#NAME output { font-weight: 600; }
</style>
<svg viewBox="BOX" role="img" aria-label="the plane of two latent entries"></svg>
<div class="choices">
<label>world <select class="world"></select></label>
<label><span>time <b class="said-t"></b> (1 the picture, 0 the mask)</span>
<input class="t" type="range" min="0"></label>
<label><span>steps <b class="said-k"></b></span><input class="k" type="range" min="0"></label>
<label><span>the one step's length <b class="said-g"></b></span>
<input class="g" type="range" min="50" max="150" value="100"></label>
<label class="tick"><input class="field" type="checkbox" checked> the mean velocity</label>
<label class="tick"><input class="paths" type="checkbox" checked> the straight paths</label>
<output aria-live="polite"></output>
<noscript>To move the sliders, this page needs JavaScript.</noscript>
</div>
<script>
(() => {
  const data = DATA;
  const root = document.getElementById("NAME"), find = (name) => root.querySelector(name);
  const svg = find("svg"), world = find(".world"), t = find(".t"), k = find(".k"), g = find(".g");
  const field = find(".field"), paths = find(".paths");
  const put = (name, given) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(given).forEach(([key, value]) => made.setAttribute(key, value));
    svg.append(made);
  };
  const line = (points, colour, width) => put("polyline", {
    points: points.map(([x, y]) => `${x},${-y}`).join(" "), stroke: colour, "stroke-width": width});
  const dot = ([x, y], r, given) => put("circle", {cx: x, cy: -y, r: r, ...given});
  const between = (a, b, s) => a.map((each, n) => s * each + (1 - s) * b[n]);
  const draw = () => {
    const here = data.worlds[world.value], time = data.times[t.value];
    const steps = data.steps[k.value], one = steps === 1, reach = g.value / 100;
    g.disabled = !one;
    find(".said-t").textContent = time.toFixed(1);
    find(".said-k").textContent = steps;
    find(".said-g").textContent = one ? `times ${reach.toFixed(2)}` : "(of one step only)";
    svg.replaceChildren();
    if (field.checked) here.places.forEach(([x, y], n) => {
      const [dx, dy] = here.field[t.value][n], s = 0.08 / Math.max(1, Math.hypot(dx, dy));
      line([[x, y], [x - s * dx, y - s * dy]], "#8889", 1);
      dot([x - s * dx, y - s * dy], 0.008, {fill: "#888a"});
    });
    let off = 0;
    here.pictures.forEach((start, n) => {
      const colour = data.colours[here.kind[n]], mask = here.masks[n];
      if (paths.checked) line([start, mask], colour + "55", 1);
      const walk = here.walks[k.value].map((points) => points[n]);
      if (one) walk[1] = between(walk[1], start, reach);
      const end = walk[walk.length - 1];
      line(walk, colour, 1.5);
      dot(start, 0.018, {fill: colour});
      dot(end, 0.028, {fill: "none", stroke: colour, "stroke-width": 0.008});
      const [x, y] = mask, r = 0.02;
      line([[x - r, y - r], [x + r, y + r]], colour, 1.5);
      line([[x - r, y + r], [x + r, y - r]], colour, 1.5);
      dot(between(start, mask, time), 0.013, {fill: colour, "fill-opacity": 0.6});
      off += Math.hypot(end[0] - x, end[1] - y) / here.masks.length;
    });
    find("output").textContent = `from its own mask, a walk ends ${off.toFixed(2)} away`;
  };
  data.worlds.forEach((each, n) => {
    const option = document.createElement("option");
    option.value = n; option.textContent = each.name;
    world.append(option);
  });
  t.max = data.times.length - 1; t.value = t.max;
  k.max = data.steps.length - 1; k.value = 0;
  [world, t, k, g, field, paths].forEach((each) => each.addEventListener("input", draw));
  draw();
})();
</script>
</div>"""
