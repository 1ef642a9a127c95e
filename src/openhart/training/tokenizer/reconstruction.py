"""The tokenizer's training forward pass, from image to reconstruction."""

import torch
from torch import Tensor, nn

from openhart.tokenizer.model import HybridTokenizer
from openhart.tokenizer.quantizer import Quantized
from openhart.training.tokenizer.decoder_inputs import DecoderInputs, decoder_features


class Reconstruction(nn.Module):
    """Image → reconstruction from codes, complete features or between, as one module that DDP can wrap."""

    def __init__(self, tokenizer: HybridTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(
        self, image: Tensor, inputs: DecoderInputs, frozen: bool, learns_codes: bool
    ) -> tuple[Tensor, Tensor, Quantized]:
        """Encode, quantize and decode a batch.

        Args:
            image: (B, 3, H, W) in [−1, 1].
            inputs: what each sample is decoded from.
            frozen: encoder, codes and φ have no gradient.
            learns_codes: codes and φ have a gradient.

        Returns:
            reconstruction (B, 3, H, W), features (B, z, P, P), and their quantization.
        """
        with torch.set_grad_enabled(not frozen and torch.is_grad_enabled()):
            features = self.tokenizer.encode(image)
        with (
            torch.autocast(image.device.type, enabled=False),
            torch.set_grad_enabled(learns_codes and torch.is_grad_enabled()),
        ):
            quantized = self.tokenizer.quantize(features.float())
        mixed = decoder_features(features, quantized, self.tokenizer.quantizer, inputs)
        return self.tokenizer.decode_unclamped(mixed), features, quantized
