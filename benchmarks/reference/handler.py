"""The handler of the reference design that this project started from, for comparison; never shipped.

It uses torch and torchvision's transforms, boto3 to download the float model from S3 to /tmp at the first invocation,
onnxruntime's default session, and Pillow for the base64 image. It checks nothing, as the original. One thing is added:
THREADS, for a comparison on one core. 0, onnxruntime's default, creates one thread per core of the machine and pins it
there, whatever cores the process may use.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import os
import re
import time
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import onnxruntime as ort
import torch
from PIL import Image


def _declare_operators() -> list[object]:
    """Let torchvision be imported beside a CPU build of torch that PyPI has no torchvision for.

    Its binaries then do not load, and the import fails at the first operator that they would have registered. The
    transforms need no operator, so each is declared without an implementation, which takes milliseconds. A matching pair
    of builds does not need this.
    """
    spec = importlib.util.find_spec("torchvision")
    assert spec and spec.origin
    source = Path(spec.origin).with_name("_meta_registrations.py").read_text()
    library = torch.library.Library("torchvision", "DEF")
    for name in sorted(set(re.findall(r'register_meta\("(\w+)"\)|torchvision::(\w+)"', source))):
        library.define(f"{name[0] or name[1]}() -> ()")
    return [library]  # its destructor would take the declarations back


_library = _declare_operators()
from torchvision import transforms

MODEL_URI = os.environ["MODEL_URI"]  # s3://bucket/key, or a path
LOCAL = "/tmp/model.onnx"

preprocess = transforms.Compose(
    [
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)
s3 = boto3.client("s3")
session: Any = None


def load_model() -> Any:
    """Return the session; download the model and create the session at the first call."""
    global session
    if session is None:
        path = MODEL_URI
        if path.startswith("s3://"):
            bucket, key = path.removeprefix("s3://").split("/", 1)
            path = LOCAL
            if not Path(path).exists():
                s3.download_file(bucket, key, path)
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("THREADS", "0"))
        session = ort.InferenceSession(path, options)
    return session


def lambda_handler(event: dict[str, Any], _: object = None) -> dict[str, Any]:
    """Answer an event {"image": base64}."""
    started = time.time()
    model = load_model()
    loaded = time.time()
    image = Image.open(io.BytesIO(base64.b64decode(event["image"]))).convert("RGB")
    batch = preprocess(image).unsqueeze(0).numpy()
    prepared = time.time()
    output = model.run(None, {model.get_inputs()[0].name: batch})[0]
    ended = time.time()
    timings = {
        "model_load_s": loaded - started,
        "preprocess_s": prepared - loaded,
        "inference_s": ended - prepared,
    }
    return {"statusCode": 200, "body": {"pred_index": int(np.argmax(output[0])), "timings": timings}}
