"""Learned perceptual distance (LPIPS, arXiv 1801.03924) in the two published conventions."""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from openhart.errors import UserError, reason, require
from openhart.evaluation.metrics.pixels import Images, check_pairs


@dataclass(frozen=True)
class LpipsRule:
    """A network and the programs that use it; values of different networks cannot be compared."""

    network: Literal["alex", "vgg"]
    used_by: str


LPIPS_RULES = {
    "alexnet": LpipsRule("alex", "DC-AE: torchmetrics' default"),
    "vgg": LpipsRule("vgg", "LightningDiT and the taming-transformers lineage"),
}


def lpips_each(images: Images, references: Images, rule: str) -> NDArray[np.float64]:
    """LPIPS of each of N aligned images, (N,).

    In both conventions the network sees values in [−1, 1]; torchmetrics accepts [0, 1] and rescales them.

    Args:
        images: uint8 (N, H, W, 3).
        references: images of the same shape.
        rule: one of :data:`LPIPS_RULES`.

    Raises:
        UserError: there is no such rule, or torchmetrics cannot load the network.
    """
    check_pairs(images, references)
    if rule not in LPIPS_RULES:
        raise UserError(f"the LPIPS rule must be one of {', '.join(LPIPS_RULES)}, got {rule!r}")
    metric = _network(LPIPS_RULES[rule].network)
    first, second = (
        torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 for pictures in (images, references)
    )
    with torch.no_grad():
        each = [float(metric(a[None], b[None])) for a, b in zip(first, second, strict=True)]
    metric.reset()
    return np.array(each)


@cache
def _network(name: Literal["alex", "vgg"]) -> Any:
    require("torchmetrics", extra="eval")
    require("torchvision")
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return LearnedPerceptualImagePatchSimilarity(net_type=name, normalize=True)
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(
            "the network of LPIPS cannot be loaded: it needs the torchvision that belongs to the installed "
            f"torch, and weights that torchvision downloads ({reason(error)})"
        ) from error
