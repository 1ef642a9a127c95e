"""The loss of VQGAN's transformer: cross-entropy of each code, given those before it (equation 9)."""

import torch.nn.functional as F
from torch import Tensor, nn

from openhart.training.generator.raster.batch import RasterBatch
from openhart.transformer.raster import RasterTransformer


class RasterLosses(nn.Module):
    """The trained modules and their loss as one module that DDP or FSDP can wrap.

    Args:
        transformer: predicts codes.
        encoder: turns the condition of a batch into context and mask.
    """

    def __init__(self, transformer: RasterTransformer, encoder: nn.Module) -> None:
        super().__init__()
        self.transformer, self.encoder = transformer, encoder

    def forward(self, batch: RasterBatch) -> dict[str, Tensor]:
        """The loss of one batch.

        Returns:
            scalars: ``loss``, with gradient, and ``cross_entropy``, which equals it.
        """
        context = self.encoder(*batch.condition).context
        logits = self.transformer(batch.inputs, context).logits
        loss = F.cross_entropy(logits.flatten(0, 1), batch.codes.flatten())
        return {"loss": loss, "cross_entropy": loss}
