"""SAM as Algorithm 1 asks it, and its models made, written and read.

Models are of the segment-anything package's own classes: the mini SAM, random ones at full size,
and those of checkpoints.
"""

import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from segment_anything import sam_model_registry
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor, nn

from rlfseg.method.refinement import Predicted
from rlfseg.models.weights import seeded, weights_hash
from rlfseg.stage import replaced

#: Types of SAM and the width of their image encoder, by which a checkpoint is told.
KINDS = {"vit_b": 768, "vit_l": 1024, "vit_h": 1280, "mini": 96}
_PATCH = 8  # of the mini SAM, in pixels
_PATCHES = "image_encoder.patch_embed.proj.weight"
_POSITIONS = "image_encoder.pos_embed"


@dataclass(frozen=True, eq=False)
class Embedding:
    """An encoded image; sizes are (H, W), scaled to the encoder's and of the image itself."""

    features: Float[Tensor, "1 c h w"]
    input_size: tuple[int, int]
    original_size: tuple[int, int]


class PromptedSam:
    """A SAM that answers points and a mask prompt with one mask each.

    Attributes:
        sam: the model; its device is where the work is done.
        side: side of its low-resolution logits, a quarter of its image size for SAM (256 of 1024),
            a half for the mini SAM.
        identity: a hash of its weights.
    """

    def __init__(self, sam: Sam) -> None:
        """Take a model and freeze it."""
        self.sam = sam.requires_grad_(False).eval()
        self.side: int = sam.prompt_encoder.mask_input_size[0]
        self.identity = weights_hash(sam.state_dict())
        self._transform = ResizeLongestSide(sam.image_encoder.img_size)

    @torch.no_grad()
    def embed(self, image: np.ndarray) -> Embedding:
        """Encode an image, uint8 [H, W, 3], prepared as segment-anything's predictor does it.

        A GPU multiplies matrices in TensorFloat-32 meanwhile: in float32 ViT-H would take an A100
        over six hours for PhraseCut's training images. By it the mini SAM's features move by less
        than a thousandth (emulated).
        """
        scaled = self._transform.apply_image(image)
        pixels = torch.from_numpy(scaled).to(self.sam.device).permute(2, 0, 1)[None]
        with _quick_products(self.sam.device):
            features = self.sam.image_encoder(self.sam.preprocess(pixels))
        return Embedding(features.float(), scaled.shape[:2], image.shape[:2])

    @torch.no_grad()
    def predict(
        self, embedding: Embedding, points: Sequence[np.ndarray], logits: Tensor
    ) -> Predicted:
        """Answer b phrases of an image together.

        Phrases with the same number of points go through the decoder as one batch: filling up with
        "not a point" would change SAM's answer.

        Args:
            embedding: of the image.
            points: for each phrase float [k, 2], k >= 1, x and y in the image's pixels; all mean
                foreground.
            logits: the mask prompts, [b, 1, side, side], as `logit_map` or an earlier answer.
        """
        device = self.sam.device
        logits = logits.to(device)
        answers = torch.empty_like(logits)
        scores = torch.empty(len(points), device=device)
        counts = np.array([len(some) for some in points])
        for count in np.unique(counts):
            rows = torch.from_numpy(np.flatnonzero(counts == count)).to(device)
            stack = np.stack([points[row] for row in rows.tolist()])
            scaled = self._transform.apply_coords(stack, embedding.original_size)
            clicks = torch.as_tensor(scaled, dtype=torch.float, device=device)
            low, score = decode(self.sam, embedding.features, clicks, logits[rows])
            answers[rows], scores[rows] = low.float(), score.float()
        full = self.sam.postprocess_masks(answers, embedding.input_size, embedding.original_size)
        return Predicted(answers, full[:, 0] > self.sam.mask_threshold, scores)


@contextmanager
def _quick_products(device: torch.device) -> Iterator[None]:
    """Let a GPU multiply float32 matrices as torch lets it convolve, in TensorFloat-32."""
    if device.type != "cuda":
        yield
        return
    products, before = torch.backends.cuda.matmul, torch.backends.cuda.matmul.allow_tf32
    products.allow_tf32 = True
    try:
        yield
    finally:
        products.allow_tf32 = before


def decode(
    sam: Sam,
    features: Float[Tensor, "#b c h w"],
    points: Float[Tensor, "b k 2"],
    logits: Float[Tensor, "b 1 side side"] | None,
) -> tuple[Float[Tensor, "b 1 side side"], Float[Tensor, " b"]]:
    """Run prompt encoder and mask decoder on b prompts, of one image or of b.

    The decoder adds one image's features to the prompts' dense embeddings. Adding them beforehand,
    and zeros in their place, is the same sum and lets every prompt have an image of its own.

    Args:
        sam: the model.
        features: of the image encoder, for all prompts or for each.
        points: foreground points in the frame of the encoder's input.
        logits: mask prompts, or None.

    Returns:
        Low-resolution logits of the single-mask output, and the estimated IoU.
    """
    labels = torch.ones(points.shape[:2], dtype=torch.int, device=points.device)
    with torch.autocast(points.device.type, enabled=False):  # positions need all their digits
        sparse, dense = sam.prompt_encoder(points=(points, labels), boxes=None, masks=logits)
        pe = sam.prompt_encoder.get_dense_pe()
    low, scores = sam.mask_decoder(
        image_embeddings=torch.zeros_like(features[:1]),
        image_pe=pe,
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=features + dense,
        multimask_output=False,
    )
    return low, scores[:, 0]


def mini_sam(*, pixels: int = 128, seed: int = 0) -> Sam:
    """Make a small untrained SAM: segment-anything's own classes, 0.8 million parameters.

    Args:
        pixels: side of the images that it is made for, a multiple of 8.
        seed: of the initial weights.

    Raises:
        ValueError: if the side is no multiple of the patch.
    """
    if pixels < _PATCH or pixels % _PATCH:
        raise ValueError(f"pixels must be a multiple of {_PATCH}, got {pixels}")
    grid, width = pixels // _PATCH, 64

    def make() -> Sam:
        encoder = ImageEncoderViT(
            img_size=pixels,
            patch_size=_PATCH,
            embed_dim=KINDS["mini"],
            depth=5,
            num_heads=4,
            out_chans=width,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            global_attn_indexes=tuple(range(5)),
        )
        prompts = PromptEncoder(
            embed_dim=width,
            image_embedding_size=(grid, grid),
            input_image_size=(pixels, pixels),
            mask_in_chans=16,
        )
        transformer = TwoWayTransformer(depth=2, embedding_dim=width, num_heads=4, mlp_dim=256)
        decoder = MaskDecoder(
            transformer_dim=width, transformer=transformer, iou_head_hidden_dim=width
        )
        return Sam(encoder, prompts, decoder).eval()

    return seeded(seed, make)


def random_sam(kind: str, *, seed: int = 0) -> Sam:
    """Make a SAM of full size, as `vit_h`, with random weights, to prove a machine."""
    return seeded(seed, sam_model_registry[kind])


def save_sam(sam: Sam, path: Path) -> None:
    """Write a SAM as safetensors in half precision, whole or not at all."""
    tensors = {name: t.detach().cpu().half().contiguous() for name, t in sam.state_dict().items()}
    with replaced(path) as draft:
        save_file(tensors, draft)


def load_sam(kind: str, checkpoint: Path | str, *, device: torch.device | str) -> PromptedSam:
    """Load a SAM in float32.

    Args:
        kind: one of `KINDS`.
        checkpoint: a `.safetensors` file, which is preferred, or segment-anything's `.pth`, of
            which nothing but tensors is unpickled; keys as segment-anything names them.
        device: where it is to work.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the type is unknown, the file unreadable, or of another type or model.
    """
    if kind not in KINDS:
        raise ValueError(f"SAM type must be one of {', '.join(KINDS)}, got {kind!r}")
    path = Path(checkpoint)
    if not path.is_file():
        raise FileNotFoundError(f"there is no SAM checkpoint {path}: give the file of type {kind}")
    state = _read(path)
    if _PATCHES not in state or _POSITIONS not in state:
        raise ValueError(
            f"{path} holds no {_PATCHES}: it is no SAM checkpoint with segment-anything's names"
        )
    width = len(state[_PATCHES])
    if width != KINDS[kind]:
        known = [name for name, other in KINDS.items() if other == width]
        found = known[0] if known else f"unknown (its image encoder is {width} wide)"
        raise ValueError(f"{path}: the SAM type is {found}, not {kind}: give the type it has")
    if kind == "mini":
        sam = mini_sam(pixels=_PATCH * state[_POSITIONS].shape[1])
    else:
        sam = sam_model_registry[kind]()
    try:
        sam.load_state_dict(state)
    except RuntimeError as error:
        said = " ".join(str(error).split())[:300]
        raise ValueError(f"{path} doesn't fit a SAM of type {kind}: {said}") from error
    return PromptedSam(sam.to(device))


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise ValueError(
            f"{path} is no readable checkpoint ({' '.join(str(error).split())[:200]}): "
            "fetch it again"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ValueError(f"{path} is no plain dictionary of weights, as SAM's checkpoints are")
    return state
