"""The baselines by phrase: what is frozen, what they equal, how they are scored and found."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import ROOT
from diffusers import DDPMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import latents, texts, tiny_unet
from tiny_run import given_run
from transformers import ViTImageProcessor

from rlfseg.baselines import phrases
from rlfseg.baselines.clipseg import IMAGENET, UNIT, Clipseg, ClipsegConfig, clipseg_on, prepared
from rlfseg.baselines.ldznet import Ldznet, LdznetConfig
from rlfseg.baselines.phrases import (
    Baseline,
    PhraseSet,
    scored,
    scores_stage,
    train_stage,
    trained_model,
)
from rlfseg.baselines.segmenter import (
    MaskObjective,
    PhraseBatch,
    enlarged,
    evaluate_segmenter,
    phrase_batch,
    scores,
)
from rlfseg.baselines.unethead import UnetHead, UnetHeadConfig
from rlfseg.chapters.asks import Rival
from rlfseg.chapters.reading import chapter_file
from rlfseg.config import OptimiserConfig, validated
from rlfseg.data.images import to_unit
from rlfseg.evaluation.counting import count
from rlfseg.evaluation.counts import Counts
from rlfseg.evaluation.predict import spaced
from rlfseg.experiment import Run, codec, latent_cache
from rlfseg.models.latent_cache import LatentCache
from rlfseg.models.weights import seeded
from rlfseg.stage import read_record, repository
from rlfseg.stand_ins.mini_clip import ClipConfig, load_clip, mini_clip
from rlfseg.stand_ins.text_to_image import save_tokenizer, small_tokenizer
from rlfseg.training.flow_batch import batch_items
from rlfseg.training.loop import fit

LDZNET = LdznetConfig(steps=3, batch=4, width=8)
CLIPSEG = ClipsegConfig(steps=3, batch=4, pixels=16, patch=4, width=16)
UNETHEAD = UnetHeadConfig(steps=3, batch=4, rank=2)
CHOICES = {"ldznet": LDZNET, "clipseg": replace(CLIPSEG, layers=2), "unethead": UNETHEAD}


def small_ldznet() -> Ldznet:
    config = LdznetConfig(steps=1, width=8, timestep=300)
    return seeded(1, lambda: Ldznet(tiny_unet(), config, magnify=2, words=16))


def test_its_features_are_the_unets_own_at_one_timestep() -> None:
    model, z1, c = small_ldznet(), latents(3, seed=1), texts(3)
    kept: list[torch.Tensor] = []
    for block in model.unet.up_blocks:
        block.register_forward_hook(lambda module, given, out: kept.append(out))
    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    share = schedule.alphas_cumprod[300]
    noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(42))
    with torch.no_grad():
        model.unet(share.sqrt() * z1 + (1 - share).sqrt() * noise, 300, c)
    expected, found = list(kept), model.features(z1, c)
    assert len(expected) == len(found) == 2
    for a, b in zip(expected, found, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_training_changes_the_head_and_nothing_of_the_unet() -> None:
    model = small_ldznet()
    mask = torch.zeros(4, 16, 16, dtype=torch.bool)
    mask[:, 4:9, 2:12] = True
    batch = PhraseBatch(latents(4, seed=2), texts(4), mask)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    features = model.features(batch.seen, batch.heard)
    config = OptimiserConfig(steps=40, lr=1e-2)
    steps = list(fit(MaskObjective(model), lambda _: batch, config, accelerator=Accelerator()))
    assert steps[-1].loss < 0.3 * steps[0].loss
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("unet."), name
    for a, b in zip(features, model.features(batch.seen, batch.heard), strict=True):
        assert torch.equal(a, b)


def test_the_phrase_matters_to_the_head_and_the_size_is_the_pictures() -> None:
    model, z1 = small_ldznet(), latents(2, seed=3)
    one, other = (
        model.head([z1, *model.features(z1, texts(2))], c) for c in (texts(2), texts(2, 4))
    )
    assert one.shape == (2, 16, 16) and not torch.allclose(one, other, atol=1e-4)


def test_a_timestep_outside_the_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"timestep\s.*less than or equal to 999"):
        LdznetConfig(steps=1, timestep=1000)


def small_unethead(unet: UNet2DConditionModel) -> UnetHead:
    config = UnetHeadConfig(steps=1, rank=2)
    return seeded(1, lambda: UnetHead(unet, config, magnify=2))


def test_the_yardstick_is_the_unet_at_the_picture_with_another_last_layer() -> None:
    unet = tiny_unet()
    model = small_unethead(copy.deepcopy(unet))
    kept: list[torch.Tensor] = []
    for one in (model.unet, unet):
        one.conv_act.register_forward_hook(lambda module, given, out: kept.append(out))
    with torch.no_grad():
        logits = model(latents(2, seed=1), texts(2))
        unet(latents(2, seed=1), 999, texts(2))
        assert torch.allclose(kept[0], kept[1], atol=1e-5)  # the adapter starts at nothing
        channels = model.unet.conv_out[0](kept[0])
    assert logits.shape == (2, 16, 16)
    for k in range(4):  # each position's channels are its pixels, row by row
        assert torch.allclose(logits[:, k // 2 :: 2, k % 2 :: 2], channels[:, k], atol=1e-5)


@pytest.mark.integration
def test_the_yardstick_trains_its_adapter_and_last_layer_alone() -> None:
    model = small_unethead(tiny_unet().requires_grad_(False))
    mask = torch.zeros(4, 16, 16, dtype=torch.bool)
    mask[:, 4:9, 2:12] = True
    batch = PhraseBatch(latents(4, seed=2), texts(4), mask)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = OptimiserConfig(steps=40, lr=1e-2)
    steps = list(fit(MaskObjective(model), lambda _: batch, config, accelerator=Accelerator()))
    assert steps[-1].loss < 0.5 * steps[0].loss
    for name, value in model.state_dict().items():
        free = "lora" in name or "conv_out" in name
        assert torch.equal(value, before[name]) != free, name


@pytest.fixture(scope="module")
def clipseg(run: Run) -> Clipseg:
    model = CHOICES["clipseg"].model(run, codec(run))
    assert isinstance(model, Clipseg)
    return model.eval()


def test_its_logits_are_transformers_own(clipseg: Clipseg, run: Run) -> None:
    cache = latent_cache(run, "val", codec(run))
    items = np.arange(3)
    seen = clipseg.see(cache, items)
    heard = clipseg.hear(cache, [cache.pack.caption(i) for i in items])
    with torch.no_grad():
        expected = clipseg.model(input_ids=heard, pixel_values=seen).logits
        assert torch.allclose(clipseg(seen, heard), expected, atol=1e-5)
    assert len(expected) == 3 and expected.std() > 0


def test_gradients_reach_both_of_its_towers(clipseg: Clipseg) -> None:
    clipseg(torch.randn(2, 3, 16, 16), torch.tensor([[5, 6, 7], [8, 9, 10]])).sum().backward()
    towers = clipseg.model.clip
    for part in (towers.vision_model.embeddings, towers.text_model.embeddings):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    clipseg.zero_grad()


def test_its_words_begin_as_the_backbones(clipseg: Clipseg, run: Run) -> None:
    encoder = codec(run).text_encoder
    theirs = getattr(encoder, "text_model", encoder).state_dict()
    for name, value in clipseg.model.clip.text_model.state_dict().items():
        assert torch.equal(value, theirs[name]), name


def test_its_decoder_begins_undecided_and_learns(clipseg: Clipseg) -> None:
    """Of transformers' own first weights the loss is above 100, and all units of a layer die."""
    tokens = torch.tensor([[5, 6, 1], [8, 9, 1]])
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(2, 3, 16, 16, generator=generator)
    mask = torch.zeros(2, 16, 16, dtype=torch.bool)
    mask[0, :8], mask[1, :, 8:] = True, True
    objective = MaskObjective(copy.deepcopy(clipseg))
    optimiser = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], 3e-3)
    losses = []
    for _ in range(60):
        loss = objective(PhraseBatch(pictures, tokens, mask)).loss.mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert 0.5 < losses[0] < 1.2
    assert losses[-1] < 0.3  # a constant reaches log 2


def test_on_a_mini_clip_the_decoder_alone_is_trained() -> None:
    """What CLIP says of a picture and of words is what the decoder is given."""
    clip = mini_clip(small_tokenizer(("red star", "blue moon")), pixels=32).eval()
    model = seeded(0, lambda: clipseg_on(clip)).eval()
    free = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert free == {"decoder"}
    pixels, ids = torch.randn(2, 3, 32, 32), torch.tensor([[5, 6, 1], [8, 9, 1]])
    with torch.no_grad():
        said = clip.get_text_features(input_ids=ids)
        said = getattr(said, "pooler_output", said)  # a tensor itself in older transformers
        states = clip.vision_model(pixels, output_hidden_states=True).hidden_states
        expected = model.decoder([states[k] for k in (2, 4, 6)], said).logits
        got = Clipseg(model, None, pixels=32, levels=UNIT)(pixels, ids)  # type: ignore[arg-type]
    torch.testing.assert_close(got, expected)
    white = np.full((1, 32, 32, 3), 255, np.uint8)
    assert torch.equal(prepared(white, 32, *UNIT), to_unit(torch.from_numpy(white)))


def test_a_small_model_on_a_mini_clip_sees_and_reads_as_that_clip_does(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, asked = small_tokenizer(("red star", "blue moon")), []
    seeded(3, lambda: mini_clip(tokenizer, pixels=32)).save_pretrained(tmp_path)
    save_tokenizer(tokenizer, tmp_path)

    def there(config: ClipConfig, *, profile: str) -> Path:
        asked.append((config, profile))
        return tmp_path

    monkeypatch.setattr("rlfseg.baselines.clipseg.trained_clip", there)
    config = ClipsegConfig(steps=3, pixels=16, clip=ClipConfig(pixels=32))
    model = config.model(run, codec(run))
    assert asked == [(config.clip, "smoke")]
    assert (model.levels, model.pixels) == (UNIT, 32)
    assert model.tokenizer.get_vocab() == tokenizer.get_vocab()
    clip, _ = load_clip(tmp_path)
    for name, value in model.model.clip.state_dict().items():
        assert torch.equal(value, clip.state_dict()[name]), name
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == name.startswith("model.decoder."), name


def test_released_weights_are_taken_from_the_folder_of_weights(clipseg: Clipseg, run: Run) -> None:
    """By the name that the hub gives them, in float32 whatever they were saved in."""
    folder = repository() / "weights" / "owner" / "clipseg"
    copy.deepcopy(clipseg.model).half().save_pretrained(folder)
    clipseg.tokenizer.save_pretrained(folder)
    released = ClipsegConfig(checkpoint="owner/clipseg", pixels=16)
    model = released.model(run, codec(run))
    assert model.model.dtype == torch.float32
    for name, value in model.model.state_dict().items():
        assert torch.allclose(value, clipseg.model.state_dict()[name], atol=1e-2), name
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(ValueError, match=f"{folder} can't be loaded"):
        released.model(run, codec(run))


def test_a_missing_baseline_costs_its_row_alone(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    released = ClipsegConfig(checkpoint="no/folder/here", pixels=16)  # no hub id either
    on = PhraseSet("val", 2)
    found = phrases.scored_if_there(run, {"released": released, "ours": LDZNET}, on)
    assert list(found) == ["ours"] and len(found["ours"]) == 2
    assert "released is left out" in capsys.readouterr().out


def test_pictures_are_prepared_as_the_released_processor_does() -> None:
    smooth = np.array(
        Image.fromarray(
            np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        ).resize((64, 64), Image.Resampling.BICUBIC)
    )
    size = {"height": 32, "width": 32}
    processor = ViTImageProcessor(
        size=size, resample=2, image_mean=(0.485, 0.456, 0.406), image_std=(0.229, 0.224, 0.225)
    )
    expected = processor(Image.fromarray(smooth), return_tensors="pt").pixel_values
    assert (
        prepared(smooth[None], 32, *IMAGENET) - expected
    ).abs().max() < 0.02  # it rounds to bytes


class Stub(torch.nn.Module):
    """Logits that are the picture's first channel, at half the size, plus the phrase's length."""

    def see(self, cache, items):  # type: ignore[no-untyped-def]
        return (
            torch.stack(
                [
                    torch.from_numpy(
                        cache.pack.image(int(cache.pack.item_image[i]))[::2, ::2, 0].copy()
                    )
                    for i in items
                ]
            )
            / 255.0
        )

    def hear(self, cache, captions):  # type: ignore[no-untyped-def]
        return torch.tensor([float(len(caption)) for caption in captions])

    def forward(self, seen, heard):  # type: ignore[no-untyped-def]
        return seen + heard[:, None, None] / 100


def counted(cache: LatentCache, items: Sequence[int], captions: Sequence[str]) -> Counts:
    """What the stub says of items, each alone and with its caption."""
    stub, parts = Stub(), []
    for i, caption in zip(items, captions, strict=True):
        score = enlarged(stub(stub.see(cache, [i]), stub.hear(cache, [caption])), 16).sigmoid()
        name = cache.pack.image_ids[cache.pack.item_image[i]]
        parts.append(count(score, torch.from_numpy(cache.pack.annotation(i))[None], [name]))
    return Counts.concatenate(parts)


def test_scores_are_counted_as_everything_is(run: Run) -> None:
    cache = latent_cache(run, "test", codec(run))
    items = spaced(len(cache.pack), 5)
    found = evaluate_segmenter(Stub(), cache, items)
    by_hand = counted(cache, items, [cache.pack.caption(i) for i in items])
    assert np.array_equal(found.annotation.histogram, by_hand.histogram)
    assert np.array_equal(found.annotation.image_id, by_hand.image_id)
    np.testing.assert_allclose(found.annotation.ap, by_hand.ap)
    assert found.truth is not None and len(found.truth) == len(items)


def test_other_captions_are_said_in_the_place_of_the_items_own(run: Run) -> None:
    cache, stub = latent_cache(run, "test", codec(run)), Stub()
    items, others = spaced(len(cache.pack), 5), ["a" * (50 + 40 * k) for k in range(5)]
    found = evaluate_segmenter(stub, cache, items, captions=others).annotation.histogram
    own = evaluate_segmenter(stub, cache, items).annotation.histogram
    assert np.array_equal(found, counted(cache, items, others).histogram)
    assert (found != own).any((1, 2)).all()
    ((_, whole),) = scores(stub, cache, items, captions=others)
    parts = [part for _, part in scores(stub, cache, items, captions=others, batch=2)]
    assert len(parts) == 3 and torch.equal(torch.cat(parts), whole)


def test_the_loss_is_the_cross_entropy_of_each_mask_by_hand() -> None:
    logits, mask = torch.randn(3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.bool)
    mask[0, :1], mask[1, :, 2:3], mask[2, :3] = True, True, True
    found = MaskObjective(Stub())(PhraseBatch(logits - 0.07, torch.full((3,), 7.0), mask)).loss
    p, inside = 1 / (1 + np.exp(-logits.double().numpy())), mask.numpy()
    by_hand = -np.log(np.where(inside, p, 1 - p)).mean((1, 2))
    np.testing.assert_allclose(found.numpy(), by_hand, rtol=1e-5)


def test_a_batch_is_of_annotations_and_of_their_own_pictures_and_phrases(run: Run) -> None:
    cache = latent_cache(run, "train", codec(run))
    batch = phrase_batch(Stub(), cache, 2, size=4, seed=1)
    items = batch_items(len(cache.pack), 4, seed=1, step=2)
    samples = [cache.pack[i] for i in items.tolist()]
    assert not any(np.array_equal(each.mask, each.truth) for each in samples)
    assert len({each.image.tobytes() for each in samples}) > 1 < len(set(batch.heard.tolist()))
    for k, each in enumerate(samples):
        assert np.array_equal(batch.mask[k].numpy(), each.mask)
        assert np.array_equal(batch.seen[k].numpy(), each.image[::2, ::2, 0] / np.float32(255))
        assert batch.heard[k] == len(each.caption)


def test_processes_share_a_batch_without_overlap(run: Run) -> None:
    cache, stub = latent_cache(run, "train", codec(run)), Stub()
    whole = phrase_batch(stub, cache, 2, size=4, seed=1)
    halves = [phrase_batch(stub, cache, 2, size=4, seed=1, share=(k, 2)) for k in (0, 1)]
    for k in range(3):
        both = torch.stack([half[k] for half in halves], 1).flatten(0, 1)
        assert torch.equal(both, whole[k])


@pytest.mark.integration
@pytest.mark.parametrize("kind", CHOICES)
def test_what_is_trained_is_kept_alone_and_scores_are_found_without_it(
    run: Run, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice, way = CHOICES[kind], PhraseSet("test", 4)
    counts = scored(run, choice, way)
    stage = train_stage(run, choice)
    folder = repository() / "runs" / "smoke" / "stages" / stage.folder
    assert read_record(folder)["settings"] == asdict(choice)  # defaults included
    kept = load_file(folder / "weights.safetensors")
    model, again = trained_model(run, choice), trained_model(run, choice)
    theirs = [name for name in kept if name.startswith("unet.")]
    assert all("lora" in name or "conv_out" in name for name in theirs)
    assert bool(theirs) == (kind == "unethead")
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
        assert name not in kept or torch.equal(value, kept[name])
    cache = latent_cache(run, "test", codec(run))
    fresh = evaluate_segmenter(model, cache, spaced(len(cache.pack), 4)).annotation
    assert np.array_equal(fresh.histogram, counts.histogram)
    name, file = min(kept), folder / "weights.safetensors"
    less = {key: value for key, value in kept.items() if key != name}
    for other in (less, {**kept, "more": torch.zeros(1)}):
        save_file(other, file)
        missing = name if other is less else "more"
        with pytest.raises(ValueError, match=f"{file} can't be read .*another model, by {missing}"):
            trained_model(run, choice)
    save_file(kept, file)
    monkeypatch.setattr(phrases, "trained_model", None)  # not needed any more
    assert np.array_equal(scored(run, choice, way).histogram, counts.histogram)


def test_every_choice_is_in_the_hash() -> None:
    run, way = given_run(), PhraseSet("test", 4)
    some = [
        LDZNET,
        replace(LDZNET, timestep=7),
        replace(LDZNET, seed=1),
        CLIPSEG,
        replace(CLIPSEG, lr=1.0),
    ]
    hashes = {scores_stage(run, choice, way).hash for choice in some}
    hashes |= {scores_stage(run, LDZNET, PhraseSet(*other)).hash for other in OTHERS}
    assert len(hashes) == len(some) + len(OTHERS)
    other = given_run(data={**asdict(run.data), "seed": 6})
    assert scores_stage(other, LDZNET, way).hash not in hashes


OTHERS = (("val", 4), ("test", 5))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"kind": "sam"}, "kind is 'sam': known are 'clipseg', 'ldznet', 'unethead'"),
        ({"steps": 3}, "kind is missing"),
        (
            {"kind": "ldznet", "steps": 3, "depth": 3},
            "depth is unknown; known are .*width",
        ),
        ({"kind": "ldznet"}, " steps is missing"),
        ({"kind": "clipseg", "steps": 3, "patch": 6}, r" patch is 6: .*multiple of 4"),
        (
            {"kind": "clipseg", "steps": 3, "checkpoint": "owner/name"},
            "a checkpoint to be used as it is, or steps",
        ),
        ({"kind": "clipseg"}, "a checkpoint to be used as it is, or steps"),
    ],
)
def test_a_strange_choice_is_named(choice: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as wrong:
        validated(Baseline, choice, where="baselines")
    assert "\n" not in str(wrong.value) and str(wrong.value).startswith("baselines: ")


def test_the_full_profile_asks_for_the_released_weights_and_the_mini_one_trains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)

    def rivals(name: str) -> tuple[Rival, ...]:
        return chapter_file(Path("params") / f"{name}.yml").asks().rivals

    released, ldznet = rivals("a100/05_phrasecut")
    assert released.training.config["name"] == released.outside == "CIDAS/clipseg-rd64-refined"
    assert released.samples == 0 and ldznet.samples > 100_000 and not ldznet.outside
    assert [each.samples for each in rivals("mini/05_phrasecut")] == [
        5000 * 16,
        500 * 64,
        250 * 64,
    ]
    (semflow,) = rivals("mini/07_cocostuff")
    assert semflow.samples == 900 * 8
