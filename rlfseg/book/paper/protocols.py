"""How the printed numbers were measured, by metric, as far as it is known.

Each label is a sentence that a rendered table shows as a note; what was not verified says so.
"""

from __future__ import annotations

_CLIPSEG_AP = (
    "AP of CLIPSeg's protocol: counts pooled over the set, Simpson's rule over recall, no anchors"
)

PHRASECUT = {"mIoU": "From PhraseCut's own evaluator: mean over phrases of the IoU of a hard mask"}
CLIPSEG = {"mIoU": "CLIPSeg's protocol at the fixed threshold 0.3", "AP": _CLIPSEG_AP}
LDZNET = {
    "mIoU": "CLIPSeg's protocol at the best of its thresholds, chosen on the test set itself",
    "AP": _CLIPSEG_AP,
}
LDZNET_REFER = {
    "mIoU": "By the text, LD-ZNet's protocol; which threshold each row uses was not verified",
    "AP": _CLIPSEG_AP,
}
OURS = {
    "mIoU": "Best mIoU “following LD-ZNet”, so at the best threshold on the test set; it is not "
    "printed",
    "AP": "AP “following LD-ZNet”; which of the rules of that name was used was not verified",
}
VPD = {
    "mIoU": "Not mIoU but overall IoU, pooled over the validation set (VPD's abstract: 73.3 oIoU "
    "on RefCOCO val)"
}
ADDP = {"mIoU": "Which IoU and which split this is was not verified"}
SEMFLOW = {"mIoU": "Closed set: every pixel gets one of 171 names; mIoU of the confusion matrix"}
LATENCY = {"seconds": "Mean of 100 runs on an RTX 3090; batch and precision are not stated"}
SETTING = {"value": "A setting, not a measurement"}
