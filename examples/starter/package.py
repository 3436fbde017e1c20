"""Make the file that ships from the trained weights: export, judge through the handler package, stamp, write.

    python examples/starter/package.py --weights starter.pt --data cifar10-jpeg.zip --out mlinfer/starter.onnx

The accuracy is top-1 on the 10,000 test images, each answered by `lambda_src.service.Service` as in Lambda.
"""

from __future__ import annotations

import argparse
import base64
import io
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import torch
from train import CLASSES, MEAN, SIZE, STD, starter_network

from lambda_src.metadata import Metadata, Preprocess
from lambda_src.service import Service
from lambda_src.settings import Settings

OPSET = 17


def export(weights: Path) -> tuple[onnx.ModelProto, dict[str, object]]:
    """Return the network as ONNX, [N, 3, 32, 32] -> logits [N, 10], and where it came from."""
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
    model = onnx.load_from_string(buffer.getvalue())
    with torch.no_grad():
        provenance["parity"] = parity(model, example, network(example))
    return model, provenance


def parity(model: onnx.ModelProto, example: torch.Tensor, expected: torch.Tensor) -> dict[str, object]:
    """Return the greatest difference of the logits between PyTorch and onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    actual = session.run(None, {"image": example.numpy()})[0]
    return {"inputs": len(example), "max_abs_difference": float(np.abs(actual - expected.numpy()).max())}


def stamp(model: onnx.ModelProto, provenance: dict[str, object], path: Path) -> None:
    """Write the model with its metadata."""
    spec = Preprocess(SIZE, (SIZE, SIZE), "bilinear", MEAN, STD)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, Metadata("starter", tuple(CLASSES), spec, "logits", provenance).to_props())
    path.write_bytes(model.SerializeToString())


def judge(path: Path, archive: Path) -> dict[str, object]:
    """Answer every test image through the handler package and count the right ones."""
    service = Service(Settings(str(path)), log=str)
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
    model, provenance = export(args.weights)
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "starter.onnx"
        stamp(model, provenance, trial)
        provenance["accuracy"] = judge(trial, args.data)
    stamp(model, provenance, args.out)
    print(f"{args.out}: {args.out.stat().st_size:,} bytes, {provenance['accuracy']}, {provenance['parity']}")


if __name__ == "__main__":
    main()
