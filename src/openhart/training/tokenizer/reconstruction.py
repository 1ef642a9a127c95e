"""The tokenizer's training forward pass, from image to reconstruction."""

from typing import Any

from torch import Tensor, nn

from openhart.tokenizer.base import ImageTokenizer
from openhart.training.tokenizer.bottleneck import Bottleneck, Passed
from openhart.training.tokenizer.recipe import Phase


class Reconstruction(nn.Module):
    """Image → reconstruction through a bottleneck, as one module that DDP can wrap.

    Args:
        tokenizer: what is trained.
        bottleneck: of the recipe, with the same tokenizer.
    """

    def __init__(self, tokenizer: ImageTokenizer, bottleneck: Bottleneck[Any]) -> None:
        super().__init__()
        self.tokenizer, self.bottleneck = tokenizer, bottleneck

    def forward(self, image: Tensor, choices: Any, phase: Phase) -> tuple[Tensor, Passed]:
        """Encode and decode a batch.

        Args:
            image: (B, 3, H, W) in [−1, 1].
            choices: random choices of the bottleneck for these images.
            phase: of the recipe.

        Returns:
            reconstruction (B, 3, H, W), and what passed the bottleneck.
        """
        passed = self.bottleneck(image, choices, phase)
        return self.tokenizer.decode_unclamped(passed.features), passed
