"""torchvision as the reference for pre-processing, with any build of torch of the same version.

The binaries of torchvision are built for one build of torch. With another one, such as a CPU build in CI, they do not load,
and the import fails at the first operator that they would have registered. The transforms of PIL images need no operator,
so each is declared without an implementation first.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from lambda_src.images.preprocess import Preprocess


def torchvision() -> ModuleType:
    """Return torchvision.

    Raises:
        ModuleNotFoundError: it or torch is not installed.
    """
    missing = [name for name in ("torch", "torchvision") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"{' and '.join(missing)} not installed: pip install torch torchvision onnx onnxscript"
        )
    try:
        return importlib.import_module("torchvision")
    except RuntimeError:
        _declare_operators()
        return importlib.import_module("torchvision")


def transform(spec: Preprocess, mean: Sequence[float], std: Sequence[float]) -> Callable[[Image.Image], Any]:
    """Return torchvision's transform of a PIL image for these parameters: a float32 tensor [3, H, W]."""
    torchvision()
    from torchvision import transforms as t

    preset: Callable[[Image.Image], Any] = (
        t.Compose(  # the steps of torchvision.transforms._presets.ImageClassification
            [
                t.Resize(spec.resize, t.InterpolationMode[spec.interpolation.upper()], antialias=True),
                t.CenterCrop(spec.crop),
                t.ToTensor(),
                t.Normalize(mean, std),
            ]
        )
    )
    return preset


def _declare_operators() -> None:
    import torch

    spec = importlib.util.find_spec("torchvision")
    assert spec and spec.origin
    source = Path(spec.origin).with_name("_meta_registrations.py").read_text()
    library = torch.library.Library("torchvision", "DEF")
    for name in sorted(set(re.findall(r'register_meta\("(\w+)"\)|torchvision::(\w+)"', source))):
        library.define(f"{name[0] or name[1]}() -> ()")
    torchvision_library.append(library)  # its destructor would undo the declarations


torchvision_library: list[object] = []
