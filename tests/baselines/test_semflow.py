"""The flow to colours: exact colours give exact classes, and Euler steps arrive where they lead."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny import tiny_unet
from tiny_run import given_run
from torch import Tensor

from rlfseg.baselines import semflow
from rlfseg.baselines.palette import Palette, calibrated, spread
from rlfseg.baselines.semflow import (
    SemflowConfig,
    named,
    named_by_colour,
    named_if_there,
    scores_stage,
    semflow_batch,
    train_stage,
)
from rlfseg.data.drawn.write_cocostuff import MINI_CLASSES
from rlfseg.evaluation.closed_set import confusions, true_classes
from rlfseg.evaluation.confusion import IGNORED, Confusion, miou_interval, pooled
from rlfseg.evaluation.predict import spaced
from rlfseg.experiment import Run, codec, packed, source_folder
from rlfseg.models.latent_cache import LatentCache
from rlfseg.models.unet import as_velocity, load_unet, save_trained
from rlfseg.models.weights import seeded
from rlfseg.processes import StoppedError
from rlfseg.stage import made_at

NAMES = [MINI_CLASSES[raw].prompt for raw in sorted(MINI_CLASSES)]
CHOICE = SemflowConfig(steps=2, batch=2, scenes=3, euler=3)


def plain(change: object = None) -> SimpleNamespace:
    """An autoencoder whose latents are the pictures, which come back changed, if at all."""
    back = change if callable(change) else (lambda x: x)
    return SimpleNamespace(
        encode=lambda x: x,
        decode_image=back,
        text=lambda said: torch.zeros(len(said), 1, 1),
        black=lambda pixels: torch.full((1, 3, pixels, pixels), -1.0),
    )


@pytest.mark.integration
@given(st.integers(2, 171), st.integers(0, 2**16))
def test_exact_colours_give_the_exact_classes(count: int, seed: int) -> None:
    colours = spread(plain(), count + 1)
    assert torch.pdist(colours).min() > 0.1
    palette = Palette(colours, colours[:-1])
    classes = np.random.default_rng(seed).integers(count, size=(2, 5, 4))
    assert np.array_equal(palette.nearest(palette.paint(classes)), classes)
    classes[0, 0] = IGNORED
    picture = palette.paint(classes)
    assert torch.equal(picture[0, :, 0, 0], colours[-1])
    assert palette.nearest(picture).max() < count  # every pixel gets a name


def test_colours_keep_their_names_up_to_half_their_distance() -> None:
    colours = spread(plain(), 9)
    palette = Palette(colours, colours[:-1])
    classes = np.arange(8).reshape(1, 2, 4)
    way = torch.nn.functional.normalize(torch.randn(1, 3, 2, 4), dim=1)
    gap = torch.pdist(colours[:-1]).min()
    assert np.array_equal(palette.nearest(palette.paint(classes) + 0.49 * gap * way), classes)


def test_colours_are_chosen_by_what_comes_back() -> None:
    def red_alone(x: Tensor) -> Tensor:
        return x * torch.tensor([1.0, 0.0, 0.0])[:, None, None]

    assert sorted(spread(plain(red_alone), 5)[:, 0].tolist()) == [-1, -0.5, 0, 0.5, 1]


def test_colours_that_come_back_changed_are_compared_with_what_they_became() -> None:
    def twisted(x: Tensor) -> Tensor:
        return 0.2 * x.roll(1, 1) + 0.3

    colours = spread(plain(twisted), 7)
    maps = np.arange(40).reshape(5, 2, 4) % 5  # class 5 is nowhere
    palette = calibrated(plain(twisted), colours, maps)
    back = twisted(colours[:-1, :, None, None])[..., 0, 0]
    assert torch.allclose(palette.returned[:5], back[:5], atol=1e-6)
    assert torch.equal(palette.returned[5], colours[5])
    assert np.array_equal(palette.nearest(twisted(palette.paint(maps))), maps)
    assert not np.array_equal(
        Palette(colours, colours[:-1]).nearest(twisted(palette.paint(maps))), maps
    )


def test_what_comes_back_is_averaged_over_all_pictures_however_many_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def shifted(x: Tensor) -> Tensor:
        return 0.5 * x + x.mean((2, 3), keepdim=True)  # by another colour in each picture

    monkeypatch.setattr("rlfseg.baselines.palette._AT_ONCE", 2)
    colours = spread(plain(), 6)
    maps = np.random.default_rng(0).choice([0, 1, 2, 3, 4, IGNORED], size=(7, 3, 4))
    palette = calibrated(plain(shifted), colours, maps)
    painted = colours.numpy()[np.where(maps == IGNORED, 5, maps)]
    back = 0.5 * painted + painted.mean((1, 2), keepdims=True)
    for number, found in enumerate(palette.returned.numpy()):
        np.testing.assert_allclose(found, back[maps == number].mean(0), atol=1e-6)


class Pictures:
    """Three pictures whose latents are themselves."""

    def __init__(self, goals: Tensor) -> None:
        self.codec, self.pixels = plain(), goals.shape[-1]
        self.latents = torch.randn(goals.shape)
        self.pack = SimpleNamespace(captions=lambda i: ["a"], find=lambda i, caption: int(i))

    def z1(self, items: list[int]) -> Tensor:
        return self.latents[items]


@pytest.mark.parametrize("euler", [1, 25])
def test_a_straight_field_leads_to_the_exact_classes(euler: int) -> None:
    colours = spread(plain(), 7)
    palette = Palette(colours, colours[:-1])
    classes = np.random.default_rng(0).integers(6, size=(3, 8, 8))
    goals = palette.paint(classes)
    world = Pictures(goals)
    asked: list[float] = []

    def v(z: Tensor, t: Tensor, c: Tensor) -> Tensor:
        asked.append(float(t[0]))
        number = int((world.latents - z).flatten(1).abs().sum(1).argmin()) if t[0] == 1 else now[-1]
        now.append(number)
        return world.latents[number][None] - goals[number][None]

    now: list[int] = []
    found = list(named_by_colour(v, world, palette, ["0", "1", "2"], euler=euler))
    assert np.array_equal(np.stack(found), classes)
    assert len(asked) == 3 * euler and asked.count(1.0) == 3
    assert len(set(asked)) == euler and min(asked) == pytest.approx(1 / euler)


def test_an_interval_over_pictures_holds_the_pooled_value_and_narrows_to_it() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(3, size=(30, 6, 6))
    given_ = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(3, size=truth.shape))
    each = [Confusion.of(g, t, classes=3) for g, t in zip(given_, truth, strict=True)]
    assert np.array_equal(pooled(each).pixels, Confusion.of(given_, truth, classes=3).pixels)
    low, high = miou_interval(each, seed=0)
    assert low < pooled(each).miou() < high and high - low < 0.2
    alike = miou_interval([each[0]] * 5, seed=0)
    assert alike == pytest.approx((each[0].miou(),) * 2)


@pytest.fixture(scope="module")
def stuff(repo: Path) -> Run:
    data = {"source": "mini", "dataset": "cocostuff", "pixels": 16, "train": 1, "val": 3}
    return given_run(data=data, train={"steps": 1})


def test_a_batch_is_pictures_and_their_painted_maps(stuff: Run) -> None:
    coder = codec(stuff)
    cache = LatentCache(Path("some-latents"), packed(stuff, "val"), coder)
    colours = torch.rand(len(NAMES) + 1, 3) * 2 - 1
    palette = Palette(colours, colours[:-1])
    batch = semflow_batch(cache, palette, NAMES, 1, size=3, seed=4)
    for k, name in enumerate(batch.names):
        image_id = name.removeprefix("image ")
        item = cache.pack.find(image_id, cache.pack.captions(image_id)[0])
        assert torch.equal(batch.z1[k], cache.z1([item])[0])
        painted = palette.paint(true_classes(cache.pack, image_id, NAMES)[None])
        assert torch.allclose(batch.z0[k], coder.encode(painted)[0], atol=1e-5)
        assert torch.equal(batch.c[k], coder.text([""])[0])
    assert ((batch.t >= 0) & (batch.t <= 1)).all() and len(set(batch.t.tolist())) == 3


def test_the_trained_networks_maps_are_scored_and_the_true_ones_that_come_back(
    stuff: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet, colours = seeded(7, tiny_unet), spread(plain(), len(NAMES) + 1)
    palette = Palette(colours, colours[:-1].roll(1, 1).contiguous())
    save_trained(unet, tmp_path)
    save_file(vars(palette), tmp_path / "palette.safetensors")
    monkeypatch.setattr(semflow, "trained", lambda *_: tmp_path)
    found = named(stuff, replace(CHOICE, euler=2), NAMES, images=2)

    coder, pack = codec(stuff), packed(stuff, "val")
    cache = LatentCache(tmp_path / "latents", pack, coder)
    some = [pack.image_ids[k] for k in spaced(3, 2)]
    truth = [true_classes(pack, image_id, NAMES) for image_id in some]

    def pixels(maps: Iterable[np.ndarray]) -> list[list[list[int]]]:
        pairs = zip(maps, truth, strict=True)
        return [Confusion.of(g, t, classes=len(NAMES)).pixels.tolist() for g, t in pairs]

    def drawn(unet: UNet2DConditionModel, euler: int) -> list[list[list[int]]]:
        unet.requires_grad_(False).eval()
        return pixels(named_by_colour(as_velocity(unet), cache, palette, some, euler=euler))

    trained = load_unet(tmp_path)  # as it was saved, in half precision
    given_, carried = ([each.pixels.tolist() for each in kind] for kind in vars(found).values())
    assert given_ == drawn(trained, 2)
    assert given_ not in (drawn(trained, 3), drawn(load_unet("./tiny"), 2))
    back = (coder.decode_image(coder.encode(palette.paint(t[None]))) for t in truth)
    assert carried == pixels(palette.nearest(picture)[0] for picture in back) != given_


@pytest.mark.integration
def test_the_colours_are_measured_once_and_a_training_that_was_stopped_goes_on_with_them(
    stuff: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []

    def counted(*given: object) -> Palette:
        measured.append(1)
        return calibrated(*given)  # type: ignore[arg-type]

    def stopped(*_: object, **__: object) -> None:
        raise StoppedError("by SIGTERM")

    monkeypatch.setattr(semflow, "calibrated", counted)
    with monkeypatch.context() as patched, pytest.raises(StoppedError):
        patched.setattr(semflow, "fit_in_stage", stopped)
        semflow.trained(stuff, CHOICE, NAMES)
    there = semflow.trained(stuff, CHOICE, NAMES)
    assert measured == [1] and (there / "palette.safetensors").is_file()


@pytest.mark.integration
def test_it_is_scored_on_the_pictures_that_ours_is_and_found_again(stuff: Run) -> None:
    found = named(stuff, CHOICE, NAMES, images=2)
    again = named(stuff, CHOICE, NAMES, images=2)
    pack = packed(stuff, "val")
    chosen = [pack.image_ids[0], pack.image_ids[1]]
    exact = (true_classes(pack, i, NAMES) for i in chosen)
    truth = pooled(confusions(exact, pack, chosen, NAMES))
    for kind in ("given", "carried"):
        first, second = getattr(found, kind), getattr(again, kind)
        assert len(first) == 2
        assert np.array_equal(pooled(first).pixels, pooled(second).pixels)
        assert np.array_equal(pooled(first).pixels.sum(1), truth.pixels.sum(1))
    longer, more = replace(CHOICE, euler=4), replace(CHOICE, scenes=4)
    hashes = {scores_stage(stuff, choice, images=2).hash for choice in (CHOICE, longer, more)}
    hashes |= {scores_stage(stuff, CHOICE, images=3).hash}
    assert len(hashes) == 4
    assert train_stage(stuff, longer).hash == train_stage(stuff, CHOICE).hash


@pytest.mark.parametrize("processes", [1, 2])
def test_without_train2017_its_row_alone_is_missing(
    stuff: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
) -> None:
    stuff = replace(stuff, machine=replace(stuff.machine, processes=processes))
    monkeypatch.setattr(semflow, "launch_for", None)  # nothing is started
    for name in ("stuffthingmaps", "images"):
        shutil.copytree(source_folder(stuff) / name / "val2017", tmp_path / name / "val2017")
    val_only = stuff.on(replace(stuff.data, source=str(tmp_path)))
    assert len(packed(val_only, "val").image_ids) == 3
    assert not made_at(val_only.packed_stage("train"), profile="smoke").exists()
    assert named_if_there(val_only, CHOICE, NAMES, images=2) is None
    assert "train2017 is not there" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="train2017 is not there"):
        packed(val_only, "train")


def test_the_record_holds_every_setting() -> None:
    stuff = given_run(data={"dataset": "cocostuff"})
    assert train_stage(stuff, CHOICE).settings == asdict(CHOICE)
    with pytest.raises(ValueError, match="euler_steps"):
        SemflowConfig(steps=2, euler_steps=3)  # type: ignore[call-arg]
