"""The nodes that a model file begins with give the same numbers as torchvision, bit for bit, for every kind of image."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from devtools import reference
from lambda_src.images.decode import decode
from lambda_src.images.geometry import resize_and_crop
from lambda_src.images.preprocess import Preprocess
from lambda_src.settings import MAX_PIXELS

from .. import golden
from ..conftest import CAT, Run
from ..foreign import colour_model, labels_file
from ..models import LABELS
from ..pictures import encoded, gradient, plain

MlInfer = Callable[..., Run]
Tensor = Callable[[bytes], NDArray[Any]]
ODD_SIZES = [(1, 1), (3, 200), (200, 3), (31, 33), (33, 31), (257, 256), (640, 97), (97, 640)]


@pytest.fixture
def tensor(mlinfer: MlInfer) -> Callable[..., Tensor]:
    """Return a function that exports a network and returns what its input gets for an image, as a batch of one."""

    def export(preprocess: dict[str, Any], labels: tuple[str, ...] = LABELS, **form: Any) -> Tensor:
        model = colour_model(Path("net.onnx"), size="S", **form)
        told = ("--labels", labels_file(labels=labels), "--preprocess", json.dumps(preprocess))
        run = mlinfer("export", model, *told)
        assert run.code == 0, run.err
        made = onnx.load("models/net.onnx")
        types = {"float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}
        kind = types.get(form.get("dtype", ""), TensorProto.FLOAT)
        made.graph.output.append(helper.make_tensor_value_info("image", kind, [None] * 4))
        session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in geometry(preprocess).items()}
        spec = Preprocess(**fields)

        def ask(data: bytes) -> NDArray[Any]:
            image = resize_and_crop(decode(data, MAX_PIXELS), spec)
            pixels = np.asarray(image.convert(spec.color)).reshape(1, *spec.size, spec.channels)
            found: NDArray[Any] = session.run(["image"], {session.get_inputs()[0].name: pixels})[0]
            return found

        return ask

    return export


def geometry(preprocess: dict[str, Any]) -> dict[str, Any]:
    """Return the part that the handler does."""
    rest = {k: v for k, v in preprocess.items() if k not in ("mean", "std", "arithmetic", "layout", "dtype")}
    return rest | ({"color": "RGB"} if rest.get("color") == "BGR" else {})


def told(name: str, **changes: Any) -> dict[str, Any]:
    """Return a pre-processing of golden.py as `--preprocess` takes it."""
    spec, (mean, std) = golden.SPECS[name], golden.NUMBERS[name]
    return {"resize": spec.resize, "crop": list(spec.crop or ()), "mean": list(mean), "std": list(std)} | changes


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize("name", golden.SPECS)
def test_photographs_equal_torchvision(photos: list[Path], tensor: Callable[..., Tensor], name: str) -> None:
    """On every photograph, the tensor behind the nodes equals torchvision's ImageClassification transform bit for bit."""
    transform = reference.transform(golden.SPECS[name], *golden.NUMBERS[name])
    ask = tensor(told(name))
    for photo in photos:
        expected = transform(Image.open(photo).convert("RGB")).numpy()
        assert np.array_equal(ask(photo.read_bytes())[0], expected), photo.name


@pytest.mark.usefixtures("torchvision")
def test_odd_sizes_equal_torchvision(tensor: Callable[..., Tensor]) -> None:
    """Odd sizes, and images narrower than the crop, are rounded as in torchvision."""
    spec = Preprocess(40, (37, 52))
    transform = reference.transform(spec, *golden.NUMBERS["imagenet"])
    ask = tensor(told("imagenet", resize=40, crop=[37, 52]))
    for size in ODD_SIZES:
        image = Image.fromarray(np.random.default_rng(7).integers(0, 256, (*size, 3), dtype=np.uint8))
        assert np.array_equal(ask(encoded(image, "PNG"))[0], transform(image).numpy()), size


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
def test_interpolations_equal_torchvision(tensor: Callable[..., Tensor], interpolation: Any) -> None:
    """Each interpolation equals the one of that name in torchvision."""
    transform = reference.transform(Preprocess(32, (32, 32), interpolation), *golden.NUMBERS["imagenet"])
    ask = tensor(told("imagenet", resize=32, crop=[32, 32], interpolation=interpolation))
    assert np.array_equal(ask(encoded(gradient(), "PNG"))[0], transform(gradient()).numpy())


@pytest.mark.parametrize("name", golden.SPECS)
def test_golden_arrays(tensor: Callable[..., Tensor], name: str) -> None:
    """The project's own images give the frozen arrays (golden.py)."""
    ask = tensor(told(name))
    for picture, data in golden.PICTURES.items():
        assert golden.matches(picture, name, ask(data())[0]), picture


@pytest.mark.usefixtures("torchvision")
def test_golden_arrays_are_torchvisions() -> None:
    """The frozen arrays equal what torchvision gives today."""
    for name, spec in golden.SPECS.items():
        transform = reference.transform(spec, *golden.NUMBERS[name])
        for picture, data in golden.PICTURES.items():
            assert golden.matches(picture, name, transform(Image.open(io.BytesIO(data())).convert("RGB")).numpy())


def test_layouts_and_colours(tensor: Callable[..., Tensor]) -> None:
    """NHWC and BGR are the same numbers in another order."""
    data = CAT.read_bytes()
    base = tensor(told("small"))(data)
    assert base.shape == (1, 3, 32, 32)
    assert np.array_equal(tensor(told("small"), layout="NHWC")(data).transpose(0, 3, 1, 2), base)
    mean, std = (list(reversed(numbers)) for numbers in golden.NUMBERS["small"])
    bgr = told("small", color="BGR", mean=mean, std=std)
    assert np.array_equal(tensor(bgr)(data)[:, ::-1], base)
    assert np.array_equal(tensor(bgr, layout="NHWC")(data).transpose(0, 3, 1, 2)[:, ::-1], base)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_grey_input(tensor: Callable[..., Tensor], layout: str) -> None:
    """A model with one channel gets the luminance."""
    spec = {"resize": 8, "crop": [8, 8], "mean": [0.5], "std": [0.5], "color": "L"}
    batch = tensor(spec, ("white", "black"), channels=1, layout=layout)(encoded(plain((255, 255, 255)), "PNG"))
    assert batch.shape == ((1, 1, 8, 8) if layout == "NCHW" else (1, 8, 8, 1))
    assert (batch == 1.0).all()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("color", ["RGB", "BGR"])
def test_bytes_stay_bytes(tensor: Callable[..., Tensor], layout: str, color: str) -> None:
    """A uint8 model gets the pixel values in its own order."""
    spec = {"resize": 8, "crop": [8, 8], "color": color}
    raw = tensor(spec, dtype="uint8", layout=layout)(encoded(plain((255, 128, 0)), "PNG"))
    assert raw.dtype == np.uint8
    pixel = raw[0, :, 0, 0] if layout == "NCHW" else raw[0, 0, 0]
    assert pixel.tolist() == ([255, 128, 0] if color == "RGB" else [0, 128, 255])


def test_half_input(tensor: Callable[..., Tensor]) -> None:
    """A float16 model gets the rounded float32 numbers."""
    data = CAT.read_bytes()
    half = tensor(told("small"), dtype="float16")(data)
    assert half.dtype == np.float16
    assert np.array_equal(half, tensor(told("small"))(data).astype(np.float16))


def test_arithmetic_of_ones_own(tensor: Callable[..., Tensor]) -> None:
    """Other arithmetic is done in the given order, in float32: here Keras's `caffe` and EfficientNet's two divisions."""
    data, size = CAT.read_bytes(), {"resize": 8, "crop": [8, 8]}
    pixels = tensor(size | {"color": "BGR"}, dtype="uint8")(data).astype(np.float32)
    means = [103.939, 116.779, 123.68]
    caffe = tensor(size | {"color": "BGR", "arithmetic": [{"subtract": means}]})(data)
    assert np.array_equal(caffe, pixels - np.array(means, np.float32)[:, None, None])
    twice = [{"divide": 127.5}, {"subtract": 1}, {"divide": [0.5, 0.25, 0.125]}]
    found = tensor(size | {"color": "BGR", "arithmetic": twice})(data)
    expected = (pixels / np.float32(127.5) - np.float32(1)) / np.array([0.5, 0.25, 0.125], np.float32)[:, None, None]
    assert np.array_equal(found, expected)
