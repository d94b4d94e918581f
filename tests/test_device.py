"""In which precision and with which kernels a machine works."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from tiny import latents, texts, tiny_unet

from rlfseg.device import check_compiler, quick_accelerator, quick_dtype
from rlfseg.models.unet import add_lora, as_velocity, for_sampling


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without instructions for bfloat16."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)


@pytest.mark.usefixtures("emulated")
def test_a_cpu_that_emulates_bfloat16_keeps_float32_and_a_gpu_does_not() -> None:
    assert (quick_dtype("cpu"), quick_dtype("cuda")) == (torch.float32, torch.bfloat16)


@pytest.mark.parametrize(("has", "mode"), [(True, "bf16"), (False, "no")])
def test_training_takes_the_quicker_precision_and_no_attention_of_cudnn(
    has: bool, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has)
    AcceleratorState._reset_state(True)
    torch.backends.cuda.enable_cudnn_sdp(True)
    assert quick_accelerator().mixed_precision == mode
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    AcceleratorState._reset_state(True)


def test_a_field_takes_float32_whatever_its_own_precision() -> None:
    unet = tiny_unet().eval()
    z, t, c = latents(2, 0), torch.tensor([1.0, 0.3]), texts(2)
    with torch.no_grad():
        wanted = as_velocity(unet)(z, t, c)
        found = as_velocity(unet.to(torch.bfloat16))(z, t, c)
    assert found.dtype == torch.float32
    assert 0 < float((found - wanted).norm() / wanted.norm()) < 0.05


def test_for_sampling_an_adapter_is_merged_and_changes_nothing() -> None:
    unet = tiny_unet()
    add_lora(unet, rank=2, seed=1)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
        given = latents(2, 0), torch.tensor([1.0, 0.3]), texts(2)
        wanted = as_velocity(unet.eval())(*given)
        merged = for_sampling(unet, torch.device("cpu"))
        torch.testing.assert_close(as_velocity(merged)(*given), wanted, rtol=1e-4, atol=1e-5)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert not any(p.requires_grad for p in merged.parameters())


def test_what_can_not_be_compiled_is_said_beforehand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    check_compiler("eager")  # writes no C++
    with pytest.raises(
        ValueError, match=r"`inductor` needs a C\+\+ compiler, and g\+\+ isn't found"
    ):
        check_compiler("inductor")
    (tmp_path / "mine").write_text("#!/bin/sh\n")
    (tmp_path / "mine").chmod(0o755)
    monkeypatch.setenv("CXX", "mine")
    check_compiler("inductor")
