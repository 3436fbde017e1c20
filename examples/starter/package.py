"""Create the shipped model file from the trained weights: export, quantise, measure, add metadata.

    pip install -e '.[export]'
    python examples/starter/package.py --weights starter.pt --data cifar10-jpeg.zip --out mlinfer/starter.onnx

The file is int8: a quarter of the size and a third of the time, for 0.15 points less accuracy. It is calibrated on training
images; the accuracies are top-1 on the 10,000 test images, classified by `lambda_src.service.Service` as in Lambda.
"""

from __future__ import annotations

import argparse
import base64
import io
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from numpy.typing import NDArray
from train import CLASSES, MEAN, SIZE, STD, starter_network

from lambda_src.images.preprocess import Preprocess
from lambda_src.inference.classifier import Classifier
from lambda_src.inference.metadata import Metadata
from lambda_src.service import Service
from lambda_src.settings import Settings
from mlinfer.model.arithmetic import arithmetic, normalisation
from mlinfer.model.graph import stamp
from mlinfer.model.parity import compare, fixed_pixels
from mlinfer.model.parity import run as run_file
from mlinfer.model.pixel_input import to_tensor, write_pixel_model
from mlinfer.model.quantize import quantize
from mlinfer.model.samples import SamplePicture

OPSET = 17
STEPS = arithmetic(normalisation(MEAN, STD))
Run = Callable[[NDArray[Any]], NDArray[Any]]


def export(weights: Path) -> tuple[onnx.ModelProto, dict[str, object], Run]:
    """Return the network as ONNX, [N, 3, 32, 32] -> logits [N, 10], where it came from, and the network for pixels."""
    checkpoint = torch.load(weights)
    network = starter_network(tuple(checkpoint["widths"]))
    network.load_state_dict(checkpoint["state"])
    network.eval()
    example = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    buffer = io.BytesIO()
    axes = {"image": {0: "N"}, "logits": {0: "N"}}
    torch.onnx.export(
        network,
        (example,),
        buffer,
        dynamo=False,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes=axes,
    )
    provenance = {
        "architecture": f"residual network, {sum(p.numel() for p in network.parameters()):,} parameters",
        "weights": f"trained from scratch on CIFAR-10 (Krizhevsky 2009), {checkpoint['epochs']} epochs, seed {checkpoint['seed']}",
        "exporter": f"torch {torch.__version__}",
        "opset": OPSET,
        "precision": "float32",
    }

    def run(batch: NDArray[Any]) -> NDArray[Any]:
        with torch.no_grad():
            scores: NDArray[Any] = network(torch.from_numpy(to_tensor(batch, STEPS))).numpy()
            return scores

    return onnx.load_from_string(buffer.getvalue()), provenance, run


def training_pictures(archive: Path, count: int = 1000) -> list[SamplePicture]:
    """Return training images to calibrate with, evenly from all classes, without labels, because their accuracy is too good."""
    with zipfile.ZipFile(archive) as z:
        names = sorted(n for n in z.namelist() if "train/" in n and n.endswith(".jpg"))
        chosen = names[:: max(1, len(names) // count)]
        return [SamplePicture(name, "", partial(bytes, z.read(name))) for name in chosen]


def judge(path: Path, archive: Path) -> dict[str, object]:
    """Classify every test image with the handler package and count the correct answers."""
    service = Service(Settings(str(path)), log=lambda _: None)
    right = total = 0
    with zipfile.ZipFile(archive) as z:
        for name in sorted(n for n in z.namelist() if "test/" in n and n.endswith(".jpg")):
            event = {"image": base64.b64encode(z.read(name)).decode(), "top_k": 1}
            right += service.answer(event)["body"]["label"] == name.split("/")[-2]
            total += 1
    return {"top1": right / total, "images": total, "data": "CIFAR-10 test images as JPEG"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("mlinfer/starter.onnx"))
    args = parser.parse_args()
    model, provenance, run = export(args.weights)
    spec = Preprocess(SIZE, (SIZE, SIZE), arithmetic=STEPS)
    metadata = Metadata("starter", tuple(CLASSES), spec, "logits", provenance)
    with tempfile.TemporaryDirectory() as folder:
        plain, quantized = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        write_pixel_model(model, metadata, plain)
        batches = list(fixed_pixels(spec, (1, 3)))
        classifier = Classifier(plain, "", threads=1)
        parity = compare([run(batch) for batch in batches], [run_file(classifier, batch) for batch in batches])
        if not parity.holds:
            raise SystemExit(f"the exported file answers differently: {parity}")
        provenance["parity"] = asdict(parity)
        figures = quantize(
            plain, quantized, training_pictures(args.data), track=lambda items, *_: items, allow_drop=False
        )
        accuracy = judge(quantized, args.data) | {"float_top1": judge(plain, args.data)["top1"]}
        provenance |= {"precision": "int8", "quantization": asdict(figures), "accuracy": accuracy}
        stamp(quantized, metadata, args.out)
    print(f"{args.out}: {args.out.stat().st_size:,} bytes, {accuracy}, {figures}")


if __name__ == "__main__":
    main()
