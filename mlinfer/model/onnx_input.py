"""What the graph of someone's classifier takes, and how a picture becomes that: by the graph, then by what the user says."""

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

MAX_BATCH = 1024  # of a model that takes no other; it is filled up with copies for each picture
_DTYPES = {"float": "float32", "float16": "float16", "uint8": "uint8"}
# Of the training pictures, as torchvision has it
_IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
_IMAGENET_SIZE, _IMAGENET_CROP = 224, 0.875


@dataclass(frozen=True)
class PictureInput:
    """What the graph takes. batch, height, width, channels: 0 where they are free."""

    name: str
    batch: int
    height: int
    width: int
    channels: int
    fixed: dict[str, Any]  # the fields of Preprocess that the graph decides


def find_picture_input(inputs: list[Port], answers: Answers) -> PictureInput:
    """Find layout, size, dtype and batch of the one input. Raises VerificationError, UsageError."""
    if len(inputs) != 1:
        listed = ", ".join(port.name for port in inputs) or "none"
        raise no_classifier(f"it has {len(inputs)} inputs ({listed}), not one picture")
    port = inputs[0]
    shown = f"its input {port.name} is {port.dtype} {in_words(port.shape)}"
    if port.dtype not in _DTYPES:
        raise no_classifier(f"{shown}; a picture is float, float16 or uint8")
    if len(port.shape) != 4:
        raise no_classifier(f"{shown}; a picture has four dimensions, N x C x H x W or N x H x W x C")
    told = json_object(answers.preprocess) if answers.preprocess not in (None, "imagenet", "none") else {}
    sizes = [size if isinstance(size, int) else 0 for size in port.shape]
    layout = "NCHW" if sizes[1] in (1, 3) else "NHWC" if sizes[3] in (1, 3) else told.get("layout")
    if layout not in ("NCHW", "NHWC"):
        if all(sizes[i] for i in (1, 3)):
            raise no_classifier(f"{shown}; a picture has 1 or 3 channels")
        hint = """Say it: --preprocess '{"layout": "NCHW", "color": "RGB", "crop": [224, 224]}'"""
        raise UsageError("layout_unknown", f"{shown}: its layout cannot be told", hint)
    if sizes[0] > MAX_BATCH:
        hint = "Export the model again with a batch of 1, or with a free one."
        message = f"{shown}: it takes only batches of {sizes[0]:,} pictures; {MAX_BATCH:,} is the most"
        raise VerificationError("batch_too_large", message, hint)
    channels, height, width = (sizes[i] for i in ((1, 2, 3) if layout == "NCHW" else (3, 1, 2)))
    fixed = {"layout": layout, "dtype": _DTYPES[port.dtype]}
    if channels == 1:
        fixed["color"] = "L"
    return PictureInput(port.name, sizes[0], height, width, channels, fixed)


def complete_preprocess(picture: PictureInput, answers: Answers, said: Metadata | None) -> Preprocess:
    """Complete the pre-processing: what the graph decides, then what was told. Raises UsageError."""
    if answers.preprocess is None and said is not None:
        return said.preprocess
    size = (picture.height or _IMAGENET_SIZE, picture.width or _IMAGENET_SIZE)
    told: dict[str, Any] = {}
    if answers.preprocess == "imagenet":
        if picture.fixed.get("color") == "L":
            hint = """Give --preprocess '{"mean": [0.45], "std": [0.23]}' with the model's own figures, or none."""
            raise UsageError("invalid_preprocess", "imagenet means three channels, and the model takes one", hint)
        told = {"resize": round(max(size) / _IMAGENET_CROP), **_IMAGENET}
    elif answers.preprocess not in (None, "none"):
        told = json_object(answers.preprocess)
    return _combined(picture, size, told)


def size_note(picture: PictureInput, answers: Answers, preprocess: Preprocess) -> str:
    """Say which size was taken where neither the model nor the user says one; "" where one of them does."""
    if answers.preprocess is None or (picture.height and picture.width):
        return ""
    if answers.preprocess not in ("imagenet", "none") and "crop" in json_object(answers.preprocess):
        return ""
    height, width = preprocess.crop
    return (
        f"The model takes any height and width; pictures are cut to {height} x {width}. "
        """For another size: --preprocess '{"crop": [HEIGHT, WIDTH]}'"""
    )


def _combined(picture: PictureInput, size: tuple[int, int], told: Mapping[str, Any]) -> Preprocess:
    known = {field.name for field in fields(Preprocess)}
    if unknown := sorted(set(told) - known):
        raise UsageError("invalid_preprocess", f"unknown: {', '.join(unknown)}", f"Known: {', '.join(sorted(known))}.")
    for name, value in picture.fixed.items():
        if told.get(name, value) != value:
            raise UsageError("invalid_preprocess", f"{name} is {told[name]!r}, but the model takes {value}")
    if picture.channels == 3 and told.get("color") == "L":
        raise UsageError("invalid_preprocess", "color is L, but the model takes three channels")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
    crop = values.setdefault("crop", size)
    if not (isinstance(crop, tuple) and len(crop) == 2 and all(isinstance(length, int) for length in crop)):
        raise UsageError("invalid_preprocess", f"crop is {crop!r}, not [height, width] in pixels")
    for name, given, own in zip(("height", "width"), crop, (picture.height, picture.width), strict=True):
        if own and given != own:
            raise UsageError("invalid_preprocess", f"crop gives a {name} of {given}, but the model takes {own}")
    values.setdefault("resize", max(crop))
    channels = 1 if (picture.fixed | values).get("color") == "L" else 3
    values = {"mean": (0.0,) * channels, "std": (1.0,) * channels} | values | picture.fixed
    try:
        return Preprocess(**values)
    except FaultError as error:
        raise UsageError("invalid_preprocess", str(error)) from error
    except TypeError as error:
        raise UsageError("invalid_preprocess", f"the pre-processing is not as documented: {error}") from error
