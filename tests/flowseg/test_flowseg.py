"""FlowSeg in miniature: scenes, the pixel neural field, its variants, and what training keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from rlfseg import stage
from rlfseg.data.drawn.scene import GROUNDS
from rlfseg.flowseg import recipe
from rlfseg.flowseg.network import PixelField, cosine_features
from rlfseg.flowseg.objective import ARMS, FieldBatch, FieldObjective
from rlfseg.flowseg.recipe import Curves, FieldConfig, arm, arm_stage, gains, scored
from rlfseg.flowseg.scenes import NAMES, Labelled, draw_labelled
from rlfseg.method.flow import interpolate
from rlfseg.method.reshaping import kronecker, one_hot, potential
from rlfseg.training.steps import Step, recorded

MU = kronecker(len(NAMES))
SCENES = draw_labelled(seed=0, split=0, count=12, pixels=16)


def batch(count: int = 6, time: float | None = None) -> FieldBatch:
    t = torch.linspace(0.2, 1, count) if time is None else torch.full((count,), time)
    return FieldBatch(SCENES.image[:count], SCENES.classes[:count], t)


# --- scenes ---------------------------------------------------------------------------------


def test_scenes_have_many_classes_and_depend_on_their_number_alone() -> None:
    assert len(NAMES) == len(set(NAMES)) >= 20
    again = draw_labelled(seed=0, split=0, count=3, pixels=16)
    assert torch.equal(again.image, SCENES.image[:3])
    assert torch.equal(again.classes, SCENES.classes[:3])
    other = draw_labelled(seed=0, split=1, count=3, pixels=16)
    assert not torch.equal(again.image, other.image)


def test_a_scene_has_one_ground_and_places_lie_where_they_say() -> None:
    grounds = SCENES.classes < len(GROUNDS)
    for classes, ground in zip(SCENES.classes, grounds, strict=True):
        assert len(classes[ground].unique()) == 1
    for number, name in enumerate(NAMES):
        columns = torch.nonzero(SCENES.classes == number)[:, 2].float()
        if len(columns) and name.startswith("left"):
            assert columns.max() < 16 / 3
        if len(columns) and name.startswith("right"):
            assert columns.min() > 2 * 16 / 3 - 1


# --- the network ----------------------------------------------------------------------------


def test_the_cosine_features_are_orthogonal() -> None:
    f = cosine_features(4)
    torch.testing.assert_close(f.T @ f / 16, torch.eye(16), atol=1e-6, rtol=0)


def test_every_patch_has_weights_of_its_own_and_they_are_normalised() -> None:
    field = PixelField()
    into, back = field.patch_weights(SCENES.image[:2], torch.tensor([0.3, 1.0]))
    for weights in (into, back):
        torch.testing.assert_close(weights.norm(dim=-2), torch.ones_like(weights[..., 0, :]))
        assert (weights[0, 0] - weights[0, 1]).abs().max() > 1e-3


def test_an_untrained_field_stands_still_and_learns_at_once() -> None:
    field = PixelField()
    v = field(SCENES.image[:2], torch.tensor([0.5, 1.0]))
    assert v.shape == (2, 3, 16, 16) and (v == 0).all()
    v.sub(1).square().sum().backward()
    assert field.head.weight.grad is not None and field.head.weight.grad.abs().sum() > 0


def test_a_pixel_comes_back_to_its_place_and_sees_its_own_value() -> None:
    torch.manual_seed(3)
    field = PixelField().requires_grad_(False)
    nn.init.normal_(field.head.weight)
    weights = field.patch_weights(SCENES.image[:1], torch.ones(1))
    field.patch_weights = lambda *a: weights  # type: ignore[method-assign]  # the trunk held still
    image = SCENES.image[:1].clone()
    before = field(image, torch.ones(1))
    image[0, :, 6, 9] += 1
    moved = (field(image, torch.ones(1)) - before).abs().sum(1)[0]
    assert moved[6, 9] > 1e-3
    moved[6, 9] = 0
    assert moved.max() == 0


def test_time_and_far_patches_matter() -> None:
    field = PixelField()
    a = field.patch_weights(SCENES.image[:1], torch.tensor([0.1]))[0]
    b = field.patch_weights(SCENES.image[:1], torch.tensor([0.9]))[0]
    image = SCENES.image[:1].clone()
    image[..., 12:, 12:] = 0
    c = field.patch_weights(image, torch.tensor([0.1]))[0]
    assert (a - b).abs().max() > 1e-4 and (a - c)[0, 0].abs().max() > 1e-5


def test_pictures_must_be_a_whole_number_of_patches() -> None:
    with pytest.raises(ValueError, match="multiple of the patch's 4"):
        PixelField(pixels=18)


# --- objectives -----------------------------------------------------------------------------


class Still(nn.Module):
    """In the network's place: a field that is one number everywhere."""

    def __init__(self, out: int = 3) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.full((out,), 0.1))

    def forward(self, zt: Tensor, t: Tensor) -> Tensor:
        return self.value[:, None, None].expand(len(zt), -1, *zt.shape[2:])


def grad(name: str) -> Tensor:
    still = Still()
    FieldObjective(still, MU, arm=name)(batch()).loss.mean().backward()
    assert still.value.grad is not None
    return still.value.grad


def test_the_reshaped_objective_is_flow_matching_and_a_cross_entropy() -> None:
    still, b = Still(), batch()
    z0 = MU[b.classes][..., 0, 0].movedim(-1, 1)
    zt = interpolate(z0=z0, z1=b.image, t=b.t)
    v = still(zt, b.t)
    t = b.t[:, None, None, None]
    phi = potential(zt - t * v, y=one_hot(b.classes, len(MU)), mu=MU) / b.t[:, None, None]
    loss = (v - (b.image - z0)).square().mean() + 2 * phi.mean() / 3  # a mean over 3 channels
    loss.backward()
    assert still.value.grad is not None
    torch.testing.assert_close(grad("reshaped"), still.value.grad, rtol=1e-4, atol=1e-5)


def test_every_variant_is_its_own_and_the_parts_add_up() -> None:
    g = {name: grad(name) for name in ARMS if name != "classes"}
    parts = g["attraction"] + g["repulsion"] - g["plain"]
    torch.testing.assert_close(parts, g["reshaped"], rtol=1e-4, atol=1e-5)
    names = list(g)
    for k, a in enumerate(names):
        for b in names[k + 1 :]:
            assert not torch.allclose(g[a], g[b], rtol=1e-2), (a, b)
    with pytest.raises(ValueError, match="objective must be one of"):
        FieldObjective(Still(), MU, arm="both")


class Oracle(nn.Module):
    """The straight way from a batch's pictures to their classes' centroids; notes when asked."""

    def __init__(self, b: FieldBatch) -> None:
        super().__init__()
        self.way = b.image - MU[b.classes][..., 0, 0].movedim(-1, 1)
        self.times: list[float] = []

    def forward(self, zt: Tensor, t: Tensor) -> Tensor:
        self.times.append(round(float(t[0]), 3))
        return self.way


def test_classes_are_named_by_the_nearest_centroid_or_the_highest_score() -> None:
    b = batch()
    flow = FieldObjective(Oracle(b), MU, arm="plain")
    for steps in (1, 10):
        assert torch.equal(flow.predict_classes(b.image, steps=steps), b.classes)
    scores = Still(len(NAMES))
    scores.value.data[7] = 1.0
    classifier = FieldObjective(scores, MU, arm="classes")
    assert (classifier.predict_classes(b.image, steps=1) == 7).all()


def test_the_classifiers_loss_is_the_cross_entropy_of_its_scores_at_the_picture() -> None:
    b, asked = batch(), []
    scores = torch.randn(6, len(NAMES), 16, 16)

    class Known(nn.Module):
        def forward(self, zt: Tensor, t: Tensor) -> Tensor:
            asked.append((zt, t))
            return scores

    loss = FieldObjective(Known(), MU, arm="classes")(b).loss
    likely = scores.double().softmax(1).gather(1, b.classes[:, None])
    torch.testing.assert_close(loss.double(), -likely.log().mean((1, 2, 3)))
    ((zt, t),) = asked
    assert torch.equal(zt, b.image) and torch.equal(t, torch.ones(6))


# --- the recipe -----------------------------------------------------------------------------

TINY = {"steps": 4, "every": 2, "scenes": 16, "test": 3, "batch": 4, "seeds": [0, 1]}


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for folder in ("params", "book"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    AcceleratorState._reset_state(True)
    yield tmp_path
    AcceleratorState._reset_state(True)


def test_an_arm_keeps_curves_of_every_seed_and_little_else(repo: Path) -> None:
    config = FieldConfig().with_changes({**TINY, "objective": "reshaped", "time": "one"})
    curves = arm(config, profile="smoke")
    assert curves.step.tolist() == [2, 4] and curves.loss.shape == (2, 2)
    assert curves.loss[0, 0] != curves.loss[1, 0] and set(curves.miou) == {1, 10}
    folder = repo / "runs" / "smoke" / "stages" / arm_stage(config).folder
    assert {path.name for path in folder.iterdir()} == {"curves.json", "stage.json"}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10_000
    again = arm(config, profile="smoke")
    assert np.array_equal(again.loss, curves.loss)
    one = arm(replace(config, seeds=(1,)), profile="smoke")  # a seed's run is its own
    assert np.allclose(one.loss[0], curves.loss[1], rtol=1e-3)


@pytest.mark.integration
def test_a_kill_before_the_stage_is_finished_trains_no_seed_again(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FieldConfig().with_changes({**TINY, "objective": "reshaped", "time": "one"})

    def killed(*_: object, **__: object) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage, "finished", killed)
        with pytest.raises(KeyboardInterrupt):
            arm(config, profile="smoke")
    monkeypatch.setattr(recipe, "fit_in_stage", killed)
    curves = arm(config, profile="smoke")
    assert curves.loss.shape == (2, 2)
    folder = repo / "runs" / "smoke" / "stages" / arm_stage(config).folder
    assert {path.name for path in folder.iterdir()} == {"curves.json", "stage.json"}


def test_the_loss_of_a_curve_is_of_all_steps_since_the_last_of_them(tmp_path: Path) -> None:
    config = FieldConfig().with_changes({**TINY, "time": "one"})
    field = PixelField(pixels=16, out=3)
    objective = FieldObjective(field, kronecker(len(NAMES)), arm="plain")
    steps = [Step(k, 10.0 * k, 0.0, 0.0, 0.0, {}, "no" if k == 3 else "") for k in range(1, 7)]

    def told(which: list[Step]) -> list[dict[str, float]]:
        folder = tmp_path / str(len(which))
        folder.mkdir()
        watch = recipe._Watch(folder / "curve.json", objective, SCENES, replace(config, steps=6))
        for step in recorded(iter(steps), folder / "steps.jsonl", total=6, title=""):
            if step in which:  # the others were before a kill
                watch(step)
        return list(json.loads((folder / "curve.json").read_text()))

    whole = told(steps)
    assert [row["loss"] for row in whole] == [15.0, 40.0, 55.0]
    assert told(steps[1::2]) == whole


def test_a_perfect_field_scores_everything_and_strays_nowhere() -> None:
    b = batch()
    oracle = Oracle(b)
    found = scored(FieldObjective(oracle, MU, arm="plain"), Labelled(b.image, b.classes))
    assert found == {"miou_1": 100, "miou_10": 100, "stray": 0}
    assert oracle.times == [1, *(k / 10 for k in range(10, 0, -1))]


def test_one_class_everywhere_strays_in_the_pictures_that_lack_it() -> None:
    b = batch()
    there = int(b.classes[0, 0, 0])
    constant = Still(len(NAMES))
    constant.value.data[there] = 1.0
    found = scored(FieldObjective(constant, MU, arm="classes"), Labelled(b.image, b.classes))
    has = (b.classes == there).any(2).any(1).tolist()
    assert 0 < sum(has) < 6
    assert found["stray"] == pytest.approx(100 * (1 - sum(has) / 6), abs=0.005)
    share = float((b.classes == there).float().mean()) / len(b.classes.unique())
    assert found["miou_1"] == found["miou_10"] == pytest.approx(100 * share, abs=0.005)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="field: step is unknown; known are"):
        FieldConfig().with_changes({"step": 3})
    for wrong in ({"objective": "vanilla"}, {"time": "zero"}, {"seeds": ()}, {"steps": 9}):
        with pytest.raises(ValueError):
            FieldConfig(**wrong)
    stage = arm_stage(FieldConfig())
    assert json.loads(json.dumps(stage.config))["seeds"] == [0, 1, 2]


def test_gains_are_taken_seed_by_seed() -> None:
    def curves(last: list[float]) -> Curves:
        rows = np.array([[0.0, value] for value in last])
        return Curves(np.array([1, 2]), rows, {1: rows, 10: rows - 1}, rows)

    found = gains({"a": curves([1, 20, 300]), "b": curves([2, 22, 303])}, "a", steps=1)
    mean, (low, high) = found["b"]
    assert set(found) == {"b"} and mean == 2
    assert high - mean == pytest.approx(4.3027 / 3**0.5, rel=1e-4) == mean - low


@pytest.mark.slow
def test_reshaping_helps_early(repo: Path) -> None:
    given = {"steps": 200, "every": 200, "seeds": [0], "lr": 0.006}
    plain, reshaped = (
        arm(FieldConfig().with_changes({**given, "objective": name}), profile="smoke")
        for name in ("plain", "reshaped")
    )
    assert reshaped.miou[1][0, -1] > plain.miou[1][0, -1] + 3
    assert reshaped.stray[0, -1] < plain.stray[0, -1] - 3
