"""Determine the input of an ONNX classifier and its preprocessing, from the graph and the user's options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from lambda_src.errors import FaultError
from lambda_src.images.preprocess import Preprocess
from lambda_src.inference.metadata import Metadata

from ..errors import UsageError, VerificationError
from .arithmetic import Step, arithmetic, check_steps, is_number, normalisation
from .modelfile import Port, in_words
from .source import Answers, json_object, no_classifier

MAX_BATCH = 1024  # a fixed batch of this size is filled up with copies of each image
_TENSOR = ("mean", "std", "arithmetic", "layout", "dtype")  # what a user can say beside the fields of Preprocess
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
    fixed: dict[str, Any]  # the fields of _Told that the graph determines


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
    height, width = preprocess.size
    return (
        f"The model accepts any image size. Images are cropped to {height} x {width} pixels. "
        """To change this, add `--preprocess '{"crop": [HEIGHT, WIDTH]}'`."""
    )


def _combined(picture: PictureInput, size: tuple[int, int], told: Mapping[str, Any]) -> Preprocess:
    known = {*(field.name for field in fields(Preprocess)), *_TENSOR}
    if unknown := sorted(set(told) - known):
        raise _invalid(f"--preprocess has unknown keys: {', '.join(unknown)}", f"Use only {', '.join(sorted(known))}.")
    for name, value in picture.fixed.items():
        if told.get(name, value) != value:
            raise _invalid(f"--preprocess sets {name} to {told[name]!r}, but the model requires {value}")
    if picture.channels == 3 and told.get("color") == "L":
        raise _invalid("--preprocess sets color to L, but the model has three channels")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in told.items()
    } | picture.fixed
    if "crop" not in values and isinstance(values.get("resize", 0), int):
        values["crop"] = size
    values.setdefault("crop", None)
    values.setdefault("resize", max(values["crop"]) if _is_pair(values["crop"]) else 0)
    try:
        steps = _steps(values)
        preprocess = Preprocess(
            **{name: value for name, value in values.items() if name not in _TENSOR}, arithmetic=steps
        )
    except FaultError as error:
        raise _invalid(str(error)) from error
    except (TypeError, ValueError) as error:
        raise UsageError("invalid_preprocess", "--preprocess is invalid", reason=error) from error
    for name, given, own in zip(("height", "width"), preprocess.size, (picture.height, picture.width), strict=True):
        if own and given != own:
            raise _invalid(f"--preprocess makes images with a {name} of {given} pixels, but the model requires {own}")
    return preprocess


def _steps(values: dict[str, Any]) -> tuple[Step, ...]:
    """Return the arithmetic from mean and std, or from its own list, and reduce `color` to that of the pixels.

    Raises ValueError, TypeError.
    """
    color, layout, dtype = values.get("color", "RGB"), values["layout"], values["dtype"]
    if color not in ("RGB", "BGR", "L"):
        raise ValueError(f"color must be RGB, BGR or L, got {color!r}")
    values["color"] = "L" if color == "L" else "RGB"
    channels = 1 if color == "L" else 3
    if "arithmetic" in values and not {"mean", "std"}.isdisjoint(values):
        raise ValueError("use either arithmetic or mean and std")
    if "arithmetic" in values:
        steps = check_steps(values["arithmetic"], channels)
    else:
        mean, std = values.get("mean", (0.0,) * channels), values.get("std", (1.0,) * channels)
        for name, numbers in (("mean", mean), ("std", std)):
            if len(numbers) != channels or not all(map(is_number, numbers)):
                raise ValueError(
                    f"preprocess.{name} must have one number per channel of {color} ({channels}), got {numbers!r}"
                )
        if not all(std):
            raise ValueError("preprocess.std must not contain 0")
        steps = normalisation(mean, std)
    return arithmetic(steps, color=color, layout=layout, dtype=dtype)


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(side, int) for side in value)


def _invalid(message: str, hint: str = "") -> UsageError:
    return UsageError("invalid_preprocess", message, hint)
