"""LoRA and full parameters: what training touches, and that what is saved is what was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import load_file
from tiny import latents, texts, tiny_backbone
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from rlfseg.config import OptimiserConfig
from rlfseg.models import unet as model
from rlfseg.models.unet import (
    ATTENTION,
    EVERYTHING,
    add_lora,
    as_velocity,
    load_trained,
    load_unet,
    save_trained,
    timestep,
    with_fast_attention,
)
from rlfseg.training.flow_batch import FlowBatch
from rlfseg.training.flow_objective import RectifiedFlowObjective
from rlfseg.training.loop import fit
from rlfseg.training.steps import Step

RANK = 3
FILE = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_backbone(tmp_path_factory.mktemp("backbone"))


def field(unet: UNet2DConditionModel) -> Tensor:
    """The field's value at three fixed points."""
    with torch.no_grad():
        return as_velocity(unet.eval())(latents(3, 1), torch.tensor([0.0, 0.4, 1.0]), texts(3))


def halve(unet: UNet2DConditionModel) -> None:
    """Round what is trained as saving does, so that what is loaded can equal it."""
    with torch.no_grad():
        for parameter in unet.parameters():
            if parameter.requires_grad:
                parameter.copy_(parameter.half())


def train(unet: UNet2DConditionModel, *, steps: int = 3, clip: float = 1.0) -> list[Step]:
    config = OptimiserConfig(steps=steps, lr=1e-2, clip=clip)

    def batch(step: int) -> FlowBatch:
        return FlowBatch(latents(4, step), latents(4, step + 99), texts(4), torch.rand(4))

    return list(fit(RectifiedFlowObjective(unet), batch, config, accelerator=Accelerator()))


def with_lora(backbone: Path, targets: tuple[str, ...] = ATTENTION) -> UNet2DConditionModel:
    unet = load_unet(backbone)
    add_lora(unet, rank=RANK, targets=targets, seed=5)
    return unet


@pytest.mark.parametrize("targets", [ATTENTION, EVERYTHING])
def test_an_untrained_adapter_changes_nothing(backbone: Path, targets: tuple[str, ...]) -> None:
    assert torch.equal(field(with_lora(backbone, targets)), field(load_unet(backbone)))


def test_training_moves_the_adapter_and_leaves_the_base_alone(backbone: Path) -> None:
    unet = with_lora(backbone)
    before = {name: p.detach().clone() for name, p in unet.named_parameters()}
    train(unet)
    moved = {name for name, p in unet.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if ".lora_" in name}
    base = load_unet(backbone).state_dict()
    now = {name.replace(".base_layer", ""): p for name, p in unet.state_dict().items()}
    assert all(torch.equal(now[name], weight) for name, weight in base.items())
    assert not torch.equal(field(unet), field(load_unet(backbone)))


def test_adapters_are_where_they_were_asked_for_with_their_rank(backbone: Path) -> None:
    for targets in (ATTENTION, EVERYTHING):
        unet = with_lora(backbone, targets)
        got = {name.split(".lora_")[0] for name, p in unet.named_parameters() if p.requires_grad}
        plain = load_unet(backbone)
        wanted = {
            n for n, _ in plain.named_modules() if n.endswith(tuple(f".{t}" for t in targets))
        }
        assert got == wanted and wanted
        ranks = {p.shape[0] for n, p in unet.named_parameters() if ".lora_A." in n}
        assert ranks == {RANK}
        assert {p.dtype for p in unet.parameters()} == {torch.float32}


def test_the_seed_alone_decides_the_initial_adapter(backbone: Path) -> None:
    torch.manual_seed(1)
    first = with_lora(backbone).state_dict()
    after = torch.rand(1)
    torch.manual_seed(2)
    second = with_lora(backbone).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))  # torch's own generator was left alone


def test_the_gradient_is_clipped_to_the_norm_that_was_asked_for(backbone: Path) -> None:
    seen: list[float] = []

    def look(optimiser: torch.optim.Optimizer, *_: object) -> None:
        grads = [p.grad for group in optimiser.param_groups for p in group["params"]]
        seen.append(torch.cat([g.flatten() for g in grads if g is not None]).norm().item())

    handle = register_optimizer_step_pre_hook(look)
    try:
        steps = train(with_lora(backbone), clip=1e-3)
    finally:
        handle.remove()
    assert all(step.grad_norm > 1e-2 for step in steps)
    assert seen == pytest.approx([1e-3] * len(steps), rel=1e-2)


@pytest.mark.parametrize("targets", [ATTENTION, EVERYTHING])
def test_a_loaded_adapter_is_the_trained_one(
    backbone: Path, tmp_path: Path, targets: tuple[str, ...]
) -> None:
    unet = with_lora(backbone, targets)
    train(unet)
    halve(unet)
    save_trained(unet, tmp_path)
    loaded = load_trained(backbone, tmp_path)
    assert torch.equal(field(loaded), field(unet))
    assert not any(p.requires_grad for p in loaded.parameters()) and not loaded.training


@pytest.mark.parametrize("targets", [ATTENTION, EVERYTHING])
def test_diffusers_alone_reads_the_adapter(
    backbone: Path, tmp_path: Path, targets: tuple[str, ...]
) -> None:
    unet = with_lora(backbone, targets)
    train(unet)
    halve(unet)
    save_trained(unet, tmp_path)
    stock = UNet2DConditionModel.from_pretrained(backbone / "unet", torch_dtype=torch.float32)
    stock.load_lora_adapter(tmp_path, weight_name=FILE, prefix="unet")
    assert torch.equal(field(with_fast_attention(stock)), field(unet))
    pipeline = StableDiffusionPipeline.from_pretrained(backbone, torch_dtype=torch.float32)
    pipeline.load_lora_weights(tmp_path)
    assert torch.equal(field(with_fast_attention(pipeline.unet)), field(unet))


@pytest.mark.parametrize("targets", [ATTENTION, EVERYTHING])
def test_peft_alone_reads_the_adapter(
    backbone: Path, tmp_path: Path, targets: tuple[str, ...]
) -> None:
    unet = with_lora(backbone, targets)
    train(unet)
    halve(unet)
    save_trained(unet, tmp_path)
    stock = UNet2DConditionModel.from_pretrained(backbone / "unet", torch_dtype=torch.float32)
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(targets))
    inject_adapter_in_model(config, stock)
    state = {k.removeprefix("unet."): v for k, v in load_file(tmp_path / FILE).items()}
    result = set_peft_model_state_dict(stock, state)
    assert not result.unexpected_keys
    assert torch.equal(field(with_fast_attention(stock)), field(unet))


def test_the_adapters_file_holds_nothing_of_the_base(backbone: Path, tmp_path: Path) -> None:
    unet = with_lora(backbone)
    save_trained(unet, tmp_path)
    saved = load_file(tmp_path / FILE)
    trained = [p for p in unet.parameters() if p.requires_grad]
    assert sum(t.numel() for t in saved.values()) == sum(p.numel() for p in trained)
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE]


def test_all_parameters_survive_in_half_precision(backbone: Path, tmp_path: Path) -> None:
    unet = load_unet(backbone).requires_grad_(True)
    train(unet)
    before = {name: p.detach().clone() for name, p in unet.named_parameters()}
    save_trained(unet, tmp_path)
    assert all(torch.equal(p, before[name]) for name, p in unet.named_parameters())
    assert {p.dtype for p in unet.parameters()} == {torch.float32}  # saving leaves it as it was
    loaded = load_trained(backbone, tmp_path)
    assert all(torch.equal(p, before[n].half().float()) for n, p in loaded.named_parameters())
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    save_trained(loaded, tmp_path / "again")
    assert torch.equal(field(load_trained(backbone, tmp_path / "again")), field(loaded))
    saved = [*tmp_path.rglob("*.json"), *backbone.rglob("*.json")]
    assert saved and not any(str(backbone) in path.read_text() for path in saved)
    assert not any(str(tmp_path) in path.read_text() for path in saved)


def test_plain_attention_agrees_with_the_fused_one(backbone: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "quick_dtype", lambda device: torch.bfloat16)
        plain = load_unet(backbone)
        patch.setattr(model, "quick_dtype", lambda device: torch.float32)
        fused = load_unet(backbone)
    given = (latents(3, 1), torch.tensor([0, 500, 999]), texts(3))
    with torch.no_grad():
        torch.testing.assert_close(plain(*given).sample, fused(*given).sample)
    for unet, kind in ((plain, "AttnProcessor"), (fused, "AttnProcessor2_0")):
        assert {type(p).__name__ for p in unet.attn_processors.values()} == {kind}


def test_what_cannot_be_adapted_is_named(backbone: Path) -> None:
    unet = load_unet(backbone)
    with pytest.raises(ValueError, match="to_nothing"):
        add_lora(unet, rank=4, targets=("to_q", "to_nothing"), seed=0)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        add_lora(unet, rank=0, seed=0)
    assert not any(p.requires_grad for p in unet.parameters())


def test_a_folder_without_weights_is_named(backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load_trained(backbone, tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_unet(tmp_path / "nowhere")


def test_time_runs_from_the_first_timestep_to_the_last(backbone: Path) -> None:
    assert timestep(torch.tensor([0.0, 0.5, 1.0])).tolist() == [0, 499.5, 999]
    unet = load_unet(backbone).eval()
    z, c = latents(2, 3), texts(2)
    with torch.no_grad():
        for t, number in ((0.0, 0), (1.0, 999)):
            asked = as_velocity(unet)(z, torch.full((2,), t), c)
            torch.testing.assert_close(asked, unet(z, number, c).sample)
        assert not torch.allclose(asked, unet(z, 0, c).sample)
