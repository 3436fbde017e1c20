"""Determine the input of an ONNX classifier and its preprocessing, from the graph and the user's options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from lambda_src.errors import FaultError
from lambda_src.images.preprocess import Preprocess
from lambda_src.inference.metadata import Metadata

from ..errors import UsageError, VerificationError
from .modelfile import Port, in_words
from .source import Answers, json_object, no_classifier

MAX_BATCH = 1024  # a fixed batch of this size is filled up with copies of each image
_DTYPES = {"float": "float32", "float16": "float16", "uint8": "uint8"}
# ImageNet's training images, as in torchvision
_IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
_IMAGENET_SIZE, _IMAGENET_CROP = 224, 0.875


@dataclass(frozen=True)
class PictureInput:
    """The image input of a graph. batch, height, width, channels: 0 if free."""

    name: str
    batch: int
    height: int
    width: int
    channels: int
    fixed: dict[str, Any]  # the fields of Preprocess that the graph determines


def find_picture_input(inputs: list[Port], answers: Answers) -> PictureInput:
    """Return layout, size, dtype and batch size of the only input. Raises VerificationError, UsageError."""
    if len(inputs) != 1:
        listed = ", ".join(port.name for port in inputs) or "none"
        raise no_classifier(f"it has {len(inputs)} inputs ({listed}), expected one image")
    port = inputs[0]
    shown = f"its input {port.name} is {port.dtype} {in_words(port.shape)}"
    if port.dtype not in _DTYPES:
        raise no_classifier(f"{shown}, expected float, float16 or uint8")
    if len(port.shape) != 4:
        raise no_classifier(f"{shown}, expected four dimensions: N x C x H x W or N x H x W x C")
    told = json_object(answers.preprocess) if answers.preprocess not in (None, "imagenet", "none") else {}
    sizes = [size if isinstance(size, int) else 0 for size in port.shape]
    layout = "NCHW" if sizes[1] in (1, 3) else "NHWC" if sizes[3] in (1, 3) else told.get("layout")
    if layout not in ("NCHW", "NHWC"):
        if all(sizes[i] for i in (1, 3)):
            raise no_classifier(f"{shown}, expected 1 or 3 channels")
        hint = """Specify it with `--preprocess '{"layout": "NCHW", "color": "RGB", "crop": [224, 224]}'`."""
        raise UsageError("layout_unknown", f"cannot determine the layout of the model: {shown}", hint)
    if sizes[0] > MAX_BATCH:
        hint = "Export the model again with a batch size of 1 or a free batch dimension."
        message = f"the model requires batches of {sizes[0]:,} images (limit {MAX_BATCH:,}): {shown}"
        raise VerificationError("batch_too_large", message, hint)
    channels, height, width = (sizes[i] for i in ((1, 2, 3) if layout == "NCHW" else (3, 1, 2)))
    fixed = {"layout": layout, "dtype": _DTYPES[port.dtype]}
    if channels == 1:
        fixed["color"] = "L"
    return PictureInput(port.name, sizes[0], height, width, channels, fixed)


def complete_preprocess(picture: PictureInput, answers: Answers, said: Metadata | None) -> Preprocess:
    """Return the preprocessing from the graph and the user's options. Raises UsageError."""
    if answers.preprocess is None and said is not None:
        return said.preprocess
    size = (picture.height or _IMAGENET_SIZE, picture.width or _IMAGENET_SIZE)
    told: dict[str, Any] = {}
    if answers.preprocess == "imagenet":
        if picture.fixed.get("color") == "L":
            hint = """Use `--preprocess '{"mean": [0.45], "std": [0.23]}'` with the model's values, or `--preprocess none`."""
            raise UsageError(
                "invalid_preprocess", "--preprocess imagenet requires three channels, but the model has one", hint
            )
        told = {"resize": round(max(size) / _IMAGENET_CROP), **_IMAGENET}
    elif answers.preprocess not in (None, "none"):
        told = json_object(answers.preprocess)
    return _combined(picture, size, told)


def size_note(picture: PictureInput, answers: Answers, preprocess: Preprocess) -> str:
    """Return a note about the default image size, "" if the model or the user sets one."""
    if answers.preprocess is None or (picture.height and picture.width):
        return ""
    if answers.preprocess not in ("imagenet", "none") and "crop" in json_object(answers.preprocess):
        return ""
    height, width = preprocess.crop
    return (
        f"The model accepts any image size. Images are cropped to {height} x {width} pixels. "
        """To change this, add `--preprocess '{"crop": [HEIGHT, WIDTH]}'`."""
    )


def _combined(picture: PictureInput, size: tuple[int, int], told: Mapping[str, Any]) -> Preprocess:
    known = {field.name for field in fields(Preprocess)}
    if unknown := sorted(set(told) - known):
        raise UsageError(
            "invalid_preprocess",
            f"--preprocess has unknown keys: {', '.join(unknown)}",
            f"Use only {', '.join(sorted(known))}.",
        )
    for name, value in picture.fixed.items():
        if told.get(name, value) != value:
            raise UsageError(
                "invalid_preprocess", f"--preprocess sets {name} to {told[name]!r}, but the model requires {value}"
            )
    if picture.channels == 3 and told.get("color") == "L":
        raise UsageError("invalid_preprocess", "--preprocess sets color to L, but the model has three channels")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
    crop = values.setdefault("crop", size)
    if not (isinstance(crop, tuple) and len(crop) == 2 and all(isinstance(length, int) for length in crop)):
        raise UsageError("invalid_preprocess", f"crop must be [height, width] in pixels, got {crop!r}")
    for name, given, own in zip(("height", "width"), crop, (picture.height, picture.width), strict=True):
        if own and given != own:
            raise UsageError(
                "invalid_preprocess", f"--preprocess crops to a {name} of {given} pixels, but the model requires {own}"
            )
    values.setdefault("resize", max(crop))
    channels = 1 if (picture.fixed | values).get("color") == "L" else 3
    values = {"mean": (0.0,) * channels, "std": (1.0,) * channels} | values | picture.fixed
    try:
        return Preprocess(**values)
    except FaultError as error:
        raise UsageError("invalid_preprocess", str(error)) from error
    except TypeError as error:
        raise UsageError("invalid_preprocess", "--preprocess is invalid", reason=error) from error
