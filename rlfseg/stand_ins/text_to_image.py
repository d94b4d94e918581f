"""The mini backbone's second stage: text-to-image by noise prediction, with SD1.5's schedule.

The mini CLIP's text encoder is taken, frozen, as Stable Diffusion takes CLIP's.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from rlfseg.data.drawn.sentences import Layout, describe
from rlfseg.models.unet import with_fast_attention
from rlfseg.training.flow_batch import batch_items
from rlfseg.training.loop import Losses

_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"
#: What CLIP cuts a text into before any merge.
_PIECES = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
_WIDTH = 128
_TOKENS = 32
_EMPTIED = 0.1  # share of the captions


def small_tokenizer(captions: tuple[str, ...]) -> CLIPTokenizer:
    """Make a CLIPTokenizer (byte-level BPE) whose merges are learned from the captions."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=2000, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator(sorted(set(captions)), trainer=trainer)
    learned = [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]
    words = [*alphabet, *(a + "</w>" for a in alphabet)]
    words += [left + right for left, right in learned if left + right not in words]
    vocabulary = {word: number for number, word in enumerate([*words, _BEGIN, _END])}
    with TemporaryDirectory() as name:  # files are what every transformers makes one from
        folder = Path(name)
        _write_merges(folder, vocabulary, learned)
        return CLIPTokenizer.from_pretrained(folder, model_max_length=_TOKENS)


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Save a tokenizer in the layout of transformers 5 and in the older one, beside each other."""
    tokenizer.save_pretrained(folder)
    if (folder / "tokenizer.json").is_file():  # an older transformers writes the other two alone
        model = json.loads((folder / "tokenizer.json").read_text())["model"]
        _write_merges(folder, model["vocab"], model["merges"])


def _write_merges(
    folder: Path, vocabulary: Mapping[str, int], merges: Iterable[Sequence[str]]
) -> None:
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = "".join(f"{left} {right}\n" for left, right in merges)
    (folder / "merges.txt").write_text("#version: 0.2\n" + lines)


def small_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Make an untrained CLIPTextModel for the tokenizer's vocabulary."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=_WIDTH,
            intermediate_size=4 * _WIDTH,
            projection_dim=_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def small_unet(
    side: int,
    channels: tuple[int, ...] = (48, 96, 128),
    heads: tuple[int, ...] = (1, 2, 4),
    layers: int = 1,
) -> UNet2DConditionModel:
    """Make an untrained UNet2DConditionModel of SD1.5's blocks, for latents [4, side, side].

    Args:
        side: of the latents.
        channels: of its three levels.
        heads: of the attention at each level.
        layers: residual blocks on the way down at each; SD1.5 has two.
    """
    unet = UNet2DConditionModel(
        sample_size=side,
        block_out_channels=channels,
        layers_per_block=layers,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=_WIDTH,
        attention_head_dim=heads,  # diffusers reads this as the number of heads
        norm_num_groups=8,
    )
    return with_fast_attention(unet)


def noise_schedule() -> DDPMScheduler:
    """Return SD1.5's scheduler settings."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        clip_sample=False,
        steps_offset=1,
    )


class Noised(NamedTuple):
    """A batch: latents [b, 4, h, w], tokens [b, n], and the seed of noise and timesteps.

    `pictures`, [b], is how probable it is that a sample's noise is another picture.
    """

    latents: Tensor
    tokens: Tensor
    pictures: Tensor
    seed: int


def mixed_noise(latents: Tensor, generator: torch.Generator, pictures: Tensor) -> Tensor:
    """Draw white noise or, for some samples, take another picture's latent of the batch.

    Where the noise is strongest, a noise predictor need only copy its input. Trained on white noise
    alone, the small UNet copies white noise and little else: it takes what looks like a picture for
    the signal, and removes it. A flow that starts from pictures then finds no path through the
    frozen layers, and adapters learn hardly anything. Pictures in the place of noise mend that, and
    where two of them lie over each other, only the words tell which is meant.

    Deviation: Stable Diffusion 1.5 saw white noise; its size and its billions of pictures are not
    to be had here.

    Args:
        latents: [b, 4, h, w] in scaled units.
        generator: on the CPU.
        pictures: [b], in [0, 1], how probable it is that a sample's noise is a picture.
    """
    white = torch.randn(latents.shape, generator=generator).to(latents.device)
    chosen = torch.rand(len(latents), generator=generator) < pictures.cpu()
    return torch.where(chosen.to(latents.device)[:, None, None, None], latents.roll(1, 0), white)


class TextToImageObjective(nn.Module):
    """Mean squared error of the predicted noise, as Stable Diffusion's, or weighted.

    With `min_snr`, the gamma of Hang et al. 2023, each error is multiplied by min(SNR, gamma) /
    SNR: those of what is hardly noisy are small, and a small network spends itself on them.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        schedule: DDPMScheduler,
        *,
        min_snr: float = 0.0,
    ) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder
        self.schedule = schedule
        self.min_snr = min_snr

    def forward(self, batch: Noised) -> Losses:
        """Draw noise and timesteps from the batch's seed and score the prediction."""
        latents = batch.latents
        generator = torch.Generator().manual_seed(batch.seed)
        noise = mixed_noise(latents, generator, batch.pictures)
        steps = int(self.schedule.config.num_train_timesteps)
        t = torch.randint(steps, (len(latents),), generator=generator).to(latents.device)
        text = self.text_encoder(batch.tokens).last_hidden_state
        noisy = self.schedule.add_noise(latents, noise, t)
        predicted = self.unet(noisy, t, text).sample.float()
        error = (predicted - noise).square().mean((1, 2, 3))
        return Losses(error * self._weights(t) if self.min_snr else error)

    def _weights(self, t: Tensor) -> Tensor:
        kept = self.schedule.alphas_cumprod.to(t.device)[t]
        return (self.min_snr * (1 - kept) / kept).clamp(max=1)


@dataclass(frozen=True)
class EncodedGallery:
    """Latents [n, 4, h, w] in scaled units, and what is on the pictures, for CLIP's tokenizer.

    `pictures` is how probable it is that one's noise is another picture.
    """

    latents: Tensor
    layout: Layout
    tokenizer: CLIPTokenizer
    pictures: float = 0.5


def described_batch(
    galleries: Sequence[EncodedGallery],
    step: int,
    *,
    size: int,
    seed: int,
    share: tuple[int, int] = (0, 1),
) -> Noised:
    """Make a batch without replacement within an epoch, each picture with a caption made for it.

    Half of the captions tell all things, the others one; a tenth are emptied. Each process has its
    own pictures, words and noise: how many there are changes what is drawn, not how.

    Args:
        galleries: of one tokenizer, in equal parts of the batch.
        step: from 1.
        size: of the batch, of all processes.
        seed: of all that is chosen.
        share: number of the process, and how many there are.
    """
    rng = np.random.default_rng([seed, 1, step, share[0]])
    latents, told, pictures = [], [], []
    for k, gallery in enumerate(galleries):
        part = (size + k) // len(galleries)
        chosen = batch_items(len(gallery.latents), part, seed=seed, step=step, share=share)
        latents.append(gallery.latents[chosen])
        told += _told(rng, gallery.layout[chosen])
        pictures.append(torch.full((len(chosen),), gallery.pictures))
    ids = galleries[0].tokenizer(told, padding="max_length", truncation=True, return_tensors="pt")
    made = torch.cat(latents), ids.input_ids, torch.cat(pictures)
    return Noised(*made, seed=int(rng.integers(2**31)))


def _told(rng: np.random.Generator, scenes: Layout) -> list[str]:
    """Make a caption for each scene."""
    whole = describe(rng, scenes, whole=True, related=0.3, ground=0.5).texts()
    one = describe(rng, scenes, whole=False, related=0.2).texts()
    kind = rng.random(len(whole))
    return [
        "" if k < _EMPTIED else all_ if k < (1 + _EMPTIED) / 2 else single
        for k, all_, single in zip(kind, whole, one, strict=True)
    ]
