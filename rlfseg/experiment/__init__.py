"""A `Run`, what is trained on what, and the verbs that find or make what comes of it.

run = read_run("mini", {"train": {"steps": 100}})
packed(run, "test")                                     a split's packed file
refined(run, "train")                                   the same with refined labels
trained(run)                                            the adapter or UNet
scored(run, Scoring(split="test", phrases=100))         its counts
"""

from rlfseg.experiment.curves import POINTS, Curve, Learning, curve_stage, further, kept_curve
from rlfseg.experiment.overlap import shared_images
from rlfseg.experiment.packing import (
    check_there,
    class_names,
    fill_latents,
    labels,
    latent_cache,
    left_out,
    native_masks,
    pack_report,
    packed,
    photographs,
    refined,
    source_folder,
)
from rlfseg.experiment.predictions import (
    item_names,
    scored_predictions,
    write_items,
)
from rlfseg.experiment.run import ClosedSet, Run, Scoring, read_run
from rlfseg.experiment.scoring import closed_set, field_and_data, pipeline, scored
from rlfseg.experiment.training import (
    base,
    first_steps,
    is_trained,
    learned,
    ready_to_train,
    trained,
    trained_unet,
    untrained,
    with_weights,
    work,
)
from rlfseg.experiment.weights import (
    backbone_folder,
    check_gpus,
    codec,
    loaded_tiny_decoder,
    located,
    outside,
    predictor,
    ready,
)
