"""The tokenizer as training calls it: each sample decoded from its codes or from all of its features."""

import torch
from torch import Tensor, nn

from openhart.tokenizer.model import HybridTokenizer
from openhart.tokenizer.quantizer import Quantized
from openhart.training.losses import straight_through


class Reconstruction(nn.Module):
    """Image → reconstruction, some samples through their codes; one forward for any wrapper."""

    def __init__(self, tokenizer: HybridTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(
        self, image: Tensor, through_codes: Tensor, frozen: bool, learns_codes: bool
    ) -> tuple[Tensor, Tensor, Quantized]:
        """Decode each sample from discrete or continuous features.

        Args:
            image: (B, 3, H, W) in [−1, 1].
            through_codes: (B,) bool, samples decoded from their codes alone.
            frozen: encoder, codes and φ get no gradient.
            learns_codes: codes and φ get one.

        Returns:
            reconstruction (B, 3, H, W), features (B, z, P, P), and what the codes keep of them.
        """
        with torch.set_grad_enabled(not frozen and torch.is_grad_enabled()):
            features = self.tokenizer.encode(image)
        with (
            torch.autocast(image.device.type, enabled=False),
            torch.set_grad_enabled(learns_codes and torch.is_grad_enabled()),
        ):
            quantized = self.tokenizer.quantize(features.float())
        discrete = straight_through(features, quantized.f_hats[-1].to(features.dtype))
        mixed = torch.where(through_codes[:, None, None, None], discrete, features)
        return self.tokenizer.decode_unclamped(mixed), features, quantized
