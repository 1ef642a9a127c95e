"""The loss of MAR: diffusion of the masked tokens (arXiv 2406.11838, section 3.2)."""

import torch
from torch import Tensor, nn

from openhart.residual.diffusion import diffusion_loss
from openhart.residual.heads import TokenResidualHead
from openhart.residual.schedule import cosine_schedule
from openhart.training.generator.diffusion import diffusion_metrics
from openhart.training.generator.masked.batch import MaskedBatch
from openhart.transformer.masked import MaskedTransformer


class MaskedLosses(nn.Module):
    """The trained modules and their loss as one module that DDP or FSDP can wrap.

    Args:
        transformer: computes a condition for each masked token.
        diffusion_head: predicts the noise in a token from its condition.
        encoder: turns the condition of a batch into context and mask.
    """

    def __init__(
        self, transformer: MaskedTransformer, diffusion_head: TokenResidualHead, encoder: nn.Module
    ) -> None:
        super().__init__()
        self.transformer, self.diffusion_head, self.encoder = transformer, diffusion_head, encoder
        self.schedule = cosine_schedule()

    def forward(self, batch: MaskedBatch) -> dict[str, Tensor]:
        """The loss of one batch: the mean over its masked tokens and all repeats.

        Returns:
            scalars: ``loss``, with gradient; ``diffusion``, which equals it, and its two parts.
        """
        transformer, head = self.transformer, self.diffusion_head
        condition = self.encoder(*batch.condition)
        tokens = transformer.patchify(batch.latents)
        hidden = transformer(
            tokens, batch.known, condition.context, condition.mask, batch.masked
        ).hidden_states
        target = head.to_units(tokens.take_along_dim(batch.masked[..., None], dim=1))
        size = (1, target.shape[1])
        report = diffusion_metrics(
            *diffusion_loss(head, target, hidden, batch.times, batch.noise, self.schedule, size)
        )
        return report | {"loss": report["diffusion"]}


@torch.no_grad()
def start_head(head: TokenResidualHead) -> None:
    """Initialise a new diffusion head as MAR's: Xavier-uniform linear maps without biases, and normal ones of
    deviation 0.02 in the embedding of the step. What starts at zero stays so."""
    for module in head.modules():
        if isinstance(module, nn.Linear) and module.weight.any():
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for layer in (head.time.first, head.time.second):
        nn.init.normal_(layer.weight, std=0.02)
