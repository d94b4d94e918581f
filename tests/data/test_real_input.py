"""Real photographs, polygons and latents, and CLIP's vocabulary, where they are at hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
import torch
import yaml
from accelerate import Accelerator
from conftest import ROOT
from diffusers import AutoencoderTiny, UNet2DConditionModel
from pycocotools.coco import COCO
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from rlfseg.config import OptimiserConfig
from rlfseg.data.packed.prepare import Example
from rlfseg.data.packed.read import Pack
from rlfseg.data.packed.write import write_pack
from rlfseg.evaluation.counting import count
from rlfseg.method.sampling import one_step
from rlfseg.models.unet import as_velocity
from rlfseg.training.flow_batch import FlowBatch
from rlfseg.training.flow_objective import RectifiedFlowObjective
from rlfseg.training.loop import fit

pytestmark = [pytest.mark.slow, pytest.mark.inputs]
ITEMS = 4
STEPS = 400


def examples(inputs: Path) -> Iterator[Example]:
    """An example for each category of each photograph: the union of its polygons, its name."""
    annotations = inputs / "coco_train2017" / "instances_train2017.json"
    coco = COCO(annotations)
    for image in json.loads(annotations.read_text())["images"]:
        path = inputs / "coco_train2017" / "images" / image["file_name"]
        if not path.is_file():
            continue
        found = coco.loadAnns(coco.getAnnIds(imgIds=image["id"], iscrowd=False))
        for category in sorted({a["category_id"] for a in found}):
            masks = [coco.annToMask(a) for a in found if a["category_id"] == category]
            (name,) = coco.loadCats([category])
            mask = np.any(masks, axis=0)
            yield Example(str(image["id"]), path, name["name"], mask, None, (str(category),))


def as_phrasecut(inputs: Path, root: Path) -> dict[str, int]:
    """The photographs and their polygons in PhraseCut's own files; returns phrases by split."""
    annotations = inputs / "coco_train2017" / "instances_train2017.json"
    coco = COCO(annotations)
    (root / "images").mkdir(parents=True)
    table, tasks = [], {"train": [], "val": [], "test": []}
    photos = [e for e in coco.loadImgs(coco.getImgIds())]
    photos = [e for e in photos if (annotations.parent / "images" / e["file_name"]).is_file()]
    for number, image in enumerate(photos):
        split = ("train", "train", "train", "val", "test")[number % 5]
        size = {"width": image["width"], "height": image["height"]}
        table.append({"image_id": image["id"], "split": split, **size})
        source = annotations.parent / "images" / image["file_name"]
        shutil.copy(source, root / "images" / f"{image['id']}.jpg")
        found = coco.loadAnns(coco.getAnnIds(imgIds=image["id"], iscrowd=False))
        for category in sorted({a["category_id"] for a in found}):
            own = [a for a in found if a["category_id"] == category]
            polygons = [
                [np.array(part).reshape(-1, 2).tolist() for part in a["segmentation"]] for a in own
            ]
            tasks[split].append(
                {
                    "task_id": f"{image['id']}__{category}",
                    "image_id": image["id"],
                    "ann_ids": [a["id"] for a in own],
                    "instance_boxes": [a["bbox"] for a in own],
                    "Polygons": polygons,
                    "phrase": coco.loadCats([category])[0]["name"],
                    "phrase_structure": None,
                }
            )
    (root / "image_data_split.json").write_text(json.dumps(table))
    for split, some in tasks.items():
        (root / f"refer_{split}.json").write_text(json.dumps(some))
    return {split: len(some) for split, some in tasks.items()}


@pytest.mark.parametrize("chapter", ["02_refine", "03b_labels"])
def test_the_chapters_on_labels_run_on_real_photographs(
    chapter: str, inputs: Path, tmp_path: Path
) -> None:
    count = as_phrasecut(inputs, tmp_path / "photos")
    given = yaml.safe_load((ROOT / "params" / "smoke" / f"{chapter}.yml").read_text())
    given["data"] = {"source": str(tmp_path / "photos"), "pixels": 128}
    given.get("scored", {}).pop("truth", None)
    out = tmp_path / "out.ipynb"
    papermill.execute_notebook(
        ROOT / "book" / f"{chapter}.ipynb", out, given, cwd=ROOT, progress_bar=False
    )
    cells = {cell["id"]: cell for cell in nbformat.read(out, 4).cells}
    said = {
        name: "".join(
            o.get("text", "") for o in cell.get("outputs", ()) if o.get("name") != "stderr"
        )
        for name, cell in cells.items()
    }
    if chapter == "02_refine":
        assert f"{min(given['items'], count['test'])} masks" in said["steps"]
        assert said["stage"].splitlines()[0].split() == ["masks", str(count["val"])]
        assert "truth" not in said["truth"]  # which nobody knows here
    else:
        assert "against the annotations" in said["gain-table"]
        assert "truth" not in said["gain-table"]


def test_masks_of_real_photographs_are_learned_and_found_again(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = write_pack(examples(inputs), tmp_path / "coco.h5", size=512)
    assert report.images >= 30 and report.merged == 0
    pack = Pack(tmp_path / "coco.h5")
    pack.validate()
    area = [pack.masks(i)[0].mean() for i in range(len(pack))]
    items = [i for i in range(len(pack)) if area[i] > 0.02][:: len(pack) // ITEMS // 3][:ITEMS]

    taesd = AutoencoderTiny()
    (weights,) = (inputs / "taesd_sd15").glob("*.safetensors")
    taesd.load_state_dict({k: w.float() for k, w in load_file(weights).items()})
    taesd.requires_grad_(False).eval()
    images = torch.from_numpy(np.stack([pack[i].image for i in items])).permute(0, 3, 1, 2)
    masks = torch.from_numpy(np.stack([pack[i].mask for i in items]))
    z1 = taesd.encode(images / 127.5 - 1).latents
    z0 = taesd.encode(masks[:, None].expand(-1, 3, -1, -1) * 2.0 - 1).latents
    assert z1.shape == (ITEMS, 4, 64, 64)

    def scores(z: Tensor) -> Tensor:
        return (taesd.decode(z).sample.mean(1) + 1) / 2

    tokenizer = CLIPTokenizer.from_pretrained(inputs / "clip_tokenizer", model_max_length=77)
    wanted = [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("a photo of a cat").input_ids == wanted
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
    text = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), num_hidden_layers=1, **sizes))
    captions = [pack.caption(i) for i in items]
    tokens = tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
    c = text.requires_grad_(False)(tokens).last_hidden_state
    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=2,
        norm_num_groups=8,
    )

    def batch(step: int) -> FlowBatch:
        times = torch.from_numpy(np.random.default_rng([0, step]).random(ITEMS, np.float32))
        return FlowBatch(z1=z1, z0=z0, c=c, t=times)

    optimiser = OptimiserConfig(steps=STEPS, lr=2e-3, warmup=20, schedule="cosine")
    accelerator = Accelerator(cpu=True)
    losses = [
        s.loss for s in fit(RectifiedFlowObjective(unet), batch, optimiser, accelerator=accelerator)
    ]
    ids = [pack[i].image_id for i in items]
    carried = count(scores(z0), masks, ids).miou()
    found = count(scores(one_step(as_velocity(unet.eval()), z1=z1, c=c).z0), masks, ids).miou()
    with capsys.disabled():
        print(f"\n  {report.phrases} phrases packed; items {captions}")
        print(f"  loss {losses[0]:.3f} -> {np.mean(losses[-20:]):.4f}")
        print(f"  IoU carried by TAESD {carried.value:.3f}, found in one step {found.value:.3f}")
    assert carried.value > 0.9
    assert found.value > 0.8
    assert np.mean(losses[-20:]) < 0.1 * losses[0]
