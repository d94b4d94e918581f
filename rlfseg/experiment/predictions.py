"""Predictions of other programs on a split: how their files are named, counted and identified."""

import csv
from pathlib import Path

from rlfseg.data.packed.read import Pack
from rlfseg.data.packed.schema import key_of
from rlfseg.evaluation.given import count_given
from rlfseg.evaluation.score import Evaluation
from rlfseg.experiment.packing import native_masks, packed
from rlfseg.experiment.run import Run
from rlfseg.stage import replaced


def item_names(pack: Pack) -> list[str]:
    """Return the name of each item's prediction: `<image id>/<id of its annotation>`.

    The second is PhraseCut's `task_id`, REFER's `sent_id` or COCO-Stuff's `category_id`; the first
    of them where equal phrases of an image are one item.

    Raises:
        ValueError: if two items would share a name.
    """
    names = []
    for item, image in enumerate(pack.item_image):
        folder = key_of(pack.image_ids[image], what="image id")
        names.append(f"{folder}/{key_of(pack.ids(item)[0], what='id')}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{pack.path}: two items are called {twice}")
    return names


def write_items(run: Run, split: str, path: Path) -> int:
    """List a split's items as CSV (name, image_id, phrase, ids); return how many there are."""
    pack = packed(run, split)
    with replaced(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("name", "image_id", "phrase", "ids"))
        for item, name in enumerate(item_names(pack)):
            image_id = pack.image_ids[pack.item_image[item]]
            rows.writerow((name, image_id, pack.caption(item), " ".join(pack.ids(item))))
    return len(pack)


def scored_predictions(run: Run, split: str, folder: Path) -> Evaluation:
    """Count a folder of predictions against a run's data; see `count_given` for what is raised."""
    pack = packed(run, split)
    native = native_masks(run, split) if run.photographed else None
    return count_given(folder, item_names(pack), pack, native=native)
