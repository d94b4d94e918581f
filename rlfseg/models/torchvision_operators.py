"""Make the package index's torchvision wheel importable beside a CPU-only torch.

The two are built for different devices: torchvision then fails at import because its compiled
`nms` operators are not registered. Declaring their signatures first is enough; nothing here calls
them. Where torch and torchvision agree, this module does nothing.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

_SIGNATURES = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[Any] = []


class _Torchvision(SourceFileLoader):
    """Declares the operators if, and only if, torchvision can't be imported without them."""

    def exec_module(self, module: ModuleType) -> None:
        try:
            super().exec_module(module)
        except RuntimeError as error:
            import torch  # torchvision has imported it

            if torch.version.cuda is not None or "torchvision::" not in str(error):
                raise
            library = torch.library.Library("torchvision", "DEF")
            for signature in _SIGNATURES:
                library.define(signature)
            _declared.append(library)  # the operators live as long as the library object
            super().exec_module(module)


class _Finder(MetaPathFinder):
    """Finds torchvision as ever, when somebody imports it, and has it loaded as above."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torchvision":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Torchvision(spec.loader.name, spec.loader.path)
        return spec


sys.meta_path.insert(0, _Finder())
