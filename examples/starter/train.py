"""Train the starter model on a CPU: a small residual network for CIFAR-10's ten classes.

    pip install torch numpy pillow onnx
    python examples/starter/train.py --data cifar10-jpeg.zip --out starter.pt

The archive has `train/CLASS/NNNN.jpg` and `test/CLASS/NNNN.jpg`, 32 x 32 RGB. The model will get photographs, so half of
each batch is rescaled, stretched and shifted: a large image reduced to 32 x 32 seldom frames its object as CIFAR-10 does.
Convolution weights are trained with Muon (orthogonalised momentum, K. Jordan 2024,
https://kellerjordan.github.io/posts/muon/), the others with SGD; the result is a moving average of the weights.
The test images are used only for the report, never to choose.
"""

from __future__ import annotations

import argparse
import copy
import io
import math
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SIZE = 32
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


class ConvBlock(nn.Sequential):
    """3 x 3 convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Residual(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(ConvBlock(width, width), ConvBlock(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def starter_network(widths: tuple[int, int, int, int] = (32, 64, 128, 192)) -> nn.Sequential:
    """Return the network: [N, 3, 32, 32] float32 normalised RGB -> [N, 10] logits."""
    a, b, c, d = widths
    return nn.Sequential(
        ConvBlock(3, a),
        ConvBlock(a, b),
        nn.MaxPool2d(2),
        Residual(b),
        ConvBlock(b, c),
        nn.MaxPool2d(2),
        Residual(c),
        ConvBlock(c, d),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(d, len(CLASSES)),
    )


def read_split(archive: Path, split: str) -> tuple[Tensor, Tensor]:
    """Read one split as (uint8 [N, 3, 32, 32], int64 labels [N])."""
    with zipfile.ZipFile(archive) as z:
        names = sorted(n for n in z.namelist() if f"{split}/" in n and n.endswith(".jpg"))
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(z.read(n))).convert("RGB")) for n in names])
    labels = torch.tensor([CLASSES.index(n.split("/")[-2]) for n in names])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels


def normalise(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (MEAN, STD))
    return (pixels.float() - mean) / std


def augment(x: Tensor) -> Tensor:
    """Flip and shift every image; zoom and stretch every second one; a few lose colour or change contrast."""
    n = len(x)
    zoomed = (torch.rand(n) < 0.5).float()
    scale = torch.exp(torch.empty(n).uniform_(math.log(0.55), math.log(1.3)) * zoomed)
    stretch = torch.exp(torch.empty(n).uniform_(-0.15, 0.15) * zoomed)
    flip = torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    pixel = 2 / SIZE
    shift = torch.where(
        zoomed[:, None] > 0,
        torch.empty(n, 2).uniform_(-1, 1) * ((1 - scale).abs()[:, None] + pixel),
        torch.randint(-4, 5, (n, 2)) * pixel,
    )
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = scale * stretch * flip
    theta[:, 1, 1] = scale / stretch
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, [n, 3, SIZE, SIZE], align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    gain = torch.where(torch.rand(n, 1, 1, 1) < 0.3, torch.empty(n, 1, 1, 1).uniform_(0.6, 1.4), 1.0)
    grey = (torch.rand(n, 1, 1, 1) < 0.05).float()
    return (x * (1 - grey) + x.mean(1, keepdim=True) * grey) * gain


def orthogonalise(g: Tensor, steps: int = 3) -> Tensor:
    """Return the nearest semi-orthogonal matrix to `g`, by Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16() / (g.norm() + 1e-7)
    tall = x.size(0) > x.size(1)
    x = x.T if tall else x
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(g.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose step is orthogonalised; each filter bank keeps its norm."""

    def __init__(self, params: list[Tensor], lr: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p.grad))
                buffer.mul_(group["momentum"]).add_(p.grad)
                g = p.grad.add(buffer, alpha=group["momentum"])
                p.mul_(len(p) ** 0.5 / p.norm())
                p.add_(orthogonalise(g.reshape(len(g), -1)).view_as(p), alpha=-group["lr"])


@torch.no_grad()
def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    network.eval()
    hits = 0
    for xs, ys in zip(x.split(500), y.split(500), strict=True):
        hits += int((network(normalise(xs)).argmax(1) == ys).sum())
    return hits / len(x)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    x, y = read_split(args.data, "train")
    tx, ty = read_split(args.data, "test")
    network = starter_network(tuple(args.widths)).to(memory_format=torch.channels_last)
    filters = [p for p in network.parameters() if p.ndim == 4]
    others = [p for p in network.parameters() if p.ndim != 4]
    muon = Muon(filters, lr=args.lr, momentum=0.6)
    sgd = torch.optim.SGD(others, lr=args.lr_sgd, momentum=0.85, nesterov=True, weight_decay=5e-4)
    steps = args.epochs * (len(x) // args.batch)
    warm = int(0.1 * steps)

    def rate(step: int) -> float:
        return step / warm if step < warm else max(0.0, (steps - step) / (steps - warm))

    schedules = [torch.optim.lr_scheduler.LambdaLR(o, rate) for o in (muon, sgd)]
    average = copy.deepcopy(network)
    print(f"{sum(p.numel() for p in network.parameters()):,} parameters, {steps:,} steps", flush=True)
    step = 0
    for epoch in range(args.epochs):
        started = time.time()
        network.train()
        total = 0.0
        for batch in torch.randperm(len(x)).split(args.batch)[: len(x) // args.batch]:
            inputs = augment(normalise(x[batch])).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = network(inputs)
            loss = F.cross_entropy(logits.float(), y[batch], label_smoothing=args.smoothing)
            for optimizer in (muon, sgd):
                optimizer.zero_grad()
            loss.backward()
            for optimizer, schedule in zip((muon, sgd), schedules, strict=True):
                optimizer.step()
                schedule.step()
            step += 1
            total += float(loss.detach())
            decay = min(0.995, step / (step + 50))
            with torch.no_grad():
                for kept, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
                    kept.lerp_(new, 1 - decay) if kept.is_floating_point() else kept.copy_(new)
        line = f"epoch {epoch + 1}: loss {total / (len(x) // args.batch):.4f}, {time.time() - started:.0f} s"
        if epoch % args.report == args.report - 1 or epoch + 1 == args.epochs:
            line += f", test {accuracy(average, tx, ty):.4f}"
        print(line, flush=True)
        checkpoint = {
            "state": average.state_dict(),
            "widths": args.widths,
            "epochs": epoch + 1,
            "seed": args.seed,
        }
        temporary = args.out.with_suffix(".tmp")
        torch.save(checkpoint, temporary)
        os.replace(temporary, args.out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the CIFAR-10 JPEG archive")
    parser.add_argument("--out", type=Path, default=Path("starter.pt"))
    parser.add_argument("--epochs", type=int, default=45)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--lr", type=float, default=0.12, help="peak rate of the filters (Muon)")
    parser.add_argument("--lr-sgd", type=float, default=0.05, help="peak rate of everything else")
    parser.add_argument("--smoothing", type=float, default=0.05)
    parser.add_argument("--widths", type=int, nargs=4, default=[32, 64, 128, 192])
    parser.add_argument("--report", type=int, default=1, help="epochs between reports on the test images")
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
