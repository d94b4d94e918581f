"""Make the package index's torchvision wheel importable beside a CPU-only torch.

The two are built for different devices: torchvision then fails at import because its compiled
`nms` operators are not registered. Declaring their signatures first is enough; nothing here calls
them. Where torch and torchvision agree, this module does nothing.
"""

import importlib.util

import torch

_SIGNATURES = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []


def declare_torchvision_operators() -> bool:
    """Declare torchvision's `nms` and `qnms` if, and only if, torchvision cannot be imported.

    Returns:
        True if the operators were declared now, False if there was no need.
    """
    if torch.version.cuda is not None or importlib.util.find_spec("torchvision") is None:
        return False
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return False
    library = torch.library.Library("torchvision", "DEF")
    for signature in _SIGNATURES:
        library.define(signature)
    _declared.append(library)  # the operators live as long as the library object
    return True


declare_torchvision_operators()
