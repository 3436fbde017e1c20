"""torchvision's classifiers with made-up weights: no download, but different answers for different images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from .reference import torchvision


def write_state_dict(arch: str, path: Path, pictures: list[Path], classes: int = 1000) -> Path:
    """Write random weights that give different answers to different images, as trained ones do.

    With torchvision's own initialisation, deep networks give nearly the same answer to everything, or zeros. So batch
    normalisation learns its statistics from the images, and the last layer is drawn at random and scaled up.
    """
    models = torchvision().models
    import torch

    torch.manual_seed(0)
    network = models.get_model(arch, weights=None, num_classes=classes)
    transform = models.get_model_weights(arch).DEFAULT.transforms()
    batch = torch.stack([transform(Image.open(picture).convert("RGB")) for picture in pictures])
    norms = [module for module in network.eval().modules() if isinstance(module, torch.nn.BatchNorm2d)]
    last = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.inference_mode():
        for norm in norms:
            norm.momentum = None
            norm.reset_running_stats()
            norm.train()
        network(batch)
        network.eval()
        last.weight.normal_()
        scores = network(batch)
        last.weight.mul_(3 / scores.std(0).mean())
        last.bias.zero_()
        last.bias.sub_(network(batch).mean(0))
    torch.save(network.state_dict(), path)
    return path


def best_five(arch: str, weights: Path | None, pictures: list[Path]) -> list[list[int]]:
    """Return torchvision's five best classes of each image; without a file, with the random weights of `mlinfer export`."""
    models = torchvision().models
    import torch

    from mlinfer.model.torchvision_import import RANDOM_SEED

    torch.manual_seed(RANDOM_SEED)
    network: Any = models.get_model(arch, weights=None).eval()
    if weights:
        network.load_state_dict(torch.load(weights, weights_only=True))
    transform = models.get_model_weights(arch).DEFAULT.transforms()
    with torch.inference_mode():
        scores = [network(transform(Image.open(p).convert("RGB"))[None])[0] for p in pictures]
    return [row.topk(5).indices.tolist() for row in scores]
