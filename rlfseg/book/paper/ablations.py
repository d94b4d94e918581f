"""Tables 5-9: ablations, settings and sampling steps. Every printed text is the paper's own."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rlfseg.book.paper.comparisons import AP_OF_FULL_METHOD, PHRASECUT_TEST
from rlfseg.book.paper.tables import OURS, SETTING, Column, Row, Table, flag, paired

_AP_ONE_STEP = "One step without AOS: AP 77.1 in Table 9, 76.9 in Table 5"
_SAME_PAIR = (
    "55.3 / 76.7 stands twice: rank 16 in Table 6, and rank 64 without RDS and AOS in Table 5"
)

ABLATIONS = (
    Table(
        number=5,
        title="RDS and AOS, alone and together",
        stub="Method",
        columns=PHRASECUT_TEST,
        rows=(
            Row("RF", ("55.3", "76.7"), OURS, flag(_SAME_PAIR, "mIoU", "AP")),
            Row(
                "RF + AOS",
                ("55.4", "78.5"),
                OURS,
                flag("The highest AP of the table, 1.2 above the full method's", "AP"),
            ),
            Row("RF + RDS", ("55.8", "76.9"), OURS, flag(_AP_ONE_STEP, "AP")),
            Row("RF + RDS + AOS", ("56.1", "77.3"), OURS, flag(AP_OF_FULL_METHOD, "AP")),
        ),
        notes=("Printed with ticks and crosses for RDS and AOS; RF is the row without either",),
    ),
    Table(
        number=6,
        title="LoRA rank, and full parameters",
        stub="Rank",
        columns=PHRASECUT_TEST,
        rows=(
            Row("16", ("55.3", "76.7"), OURS, flag(_SAME_PAIR, "mIoU", "AP")),
            Row("32", ("55.7", "76.3"), OURS),
            Row("64", ("56.1", "77.0"), OURS, flag(AP_OF_FULL_METHOD, "AP")),
            Row("128", ("56.1", "76.6"), OURS, flag("Ties with rank 64", "mIoU")),
            Row("256", ("56.0", "77.5"), OURS),
            Row("Full Params", ("51.9", "73.1"), OURS),
        ),
    ),
    Table(
        number=7,
        title="AOS and HSS",
        stub="Method",
        columns=PHRASECUT_TEST,
        rows=(
            Row("RLFSeg with AOS", ("56.1", "77.2"), OURS, flag(AP_OF_FULL_METHOD, "AP")),
            Row("RLFSeg with HSS", ("56.1", "77.3"), OURS),
        ),
    ),
    Table(
        number=8,
        title="Training hyperparameters",
        stub="Hyperparameter",
        columns=(Column("Value", "value"),),
        rows=(
            Row("Fine-tuning Method", ("LoRA (Low-Rank Adaptation)",), SETTING, cite="hu2022lora"),
            Row(
                "LoRA Rank",
                ("64",),
                SETTING,
                flag("Neither the layers that are adapted nor alpha are stated", "Value"),
            ),
            Row(
                "Optimizer",
                ("AdamW",),
                SETTING,
                flag("Section 4.1 says Adam", "Value"),
                cite="loshchilov2019adamw",
            ),
            Row(
                "Learning Rate",
                ("1e-4",),
                SETTING,
                flag(
                    "“For each mini-batch sample on each GPU” (4.1): whether it grows with the "
                    "8 GPUs is not clear; no schedule is stated",
                    "Value",
                ),
            ),
            Row(
                "Batch Size (per GPU)",
                ("8",),
                SETTING,
                flag("On 8 A100 (4.1), so 64 in all", "Value"),
            ),
            Row("Training Epochs", ("10",), SETTING),
            Row("Image Resolution", ("512 × 512",), SETTING),
            Row("Random Seed", ("42",), SETTING, flag("One seed; no spread is stated", "Value")),
        ),
    ),
    Table(
        number=9,
        title="Sampling steps, without AOS",
        stub="Steps",
        columns=paired("PhraseCut", "RefCOCO", "RefCOCO+", "G-Ref"),
        rows=(
            Row(
                "1",
                ("55.8", "77.1", "42.2", "49.3", "43.1", "51.0", "51.6", "59.3"),
                OURS,
                flag(_AP_ONE_STEP, "PhraseCut AP"),
            ),
            Row("2", ("47.2", "72.7", "37.0", "44.2", "36.7", "45.2", "44.2", "53.8"), OURS),
            Row("5", ("46.0", "71.1", "36.4", "43.5", "36.0", "44.3", "43.6", "52.6"), OURS),
            Row("15", ("44.5", "69.7", "35.6", "43.0", "35.2", "43.8", "42.7", "51.8"), OURS),
        ),
        notes=("A.4 calls AOS “Add-on-Saliency”; it is Adaptive One-Step Sampling",),
    ),
)

ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "Debian GNU/Linux": "12",
        "CUDA": "12.4",
        "Python": "3.11.2",
        "torch": "2.5.1",
        "transformers": "4.52.4",
        "diffusers": "0.33.1",
        "accelerate": "1.7.0",
    }
)
"""The versions of A.3.1."""
