"""What the generator learns by: cross-entropy of codes and diffusion of the residual (HART, section 3.2)."""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openhart.conditioning.label import LabelEncoder
from openhart.generation import sample_codes
from openhart.residual.diffusion import cosine_schedule, diffusion_loss
from openhart.residual.heads import TokenResidualHead
from openhart.scales import Scales
from openhart.training.batches import drawn
from openhart.training.config import ResidualHead
from openhart.transformer.model import HartTransformer


class GeneratorLosses(nn.Module):
    """The generator's losses as one forward, for any wrapper.

    Args:
        transformer: predicts codes.
        residual_head: predicts the residual, or None.
        label_encoder: classes to context, or None for text.
        settings: how the residual's loss is made.
    """

    def __init__(
        self,
        transformer: HartTransformer,
        residual_head: TokenResidualHead | None,
        label_encoder: LabelEncoder | None,
        settings: ResidualHead | None,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.residual_head = residual_head
        self.label_encoder = label_encoder
        self.settings = settings
        self.schedule = cosine_schedule()

    def forward(self, batch: "Batch") -> dict[str, Tensor]:
        """Losses of one batch; its generators draw codes, noise and times.

        Returns:
            ``loss`` and its parts: cross-entropy over all scales and of each, diffusion.
        """
        transformer = self.transformer
        context, mask = batch.context, batch.mask
        if self.label_encoder is not None:
            context, mask = self.label_encoder(context)
        hidden = transformer(batch.scale_inputs, context, mask, keep=batch.keep, scales=batch.scales)
        logits = transformer.logits(hidden, transformer.prepare(context, mask)).float()
        wanted = torch.cat([*batch.codes[:-1], _kept(batch.codes[-1], batch.keep)], dim=1)
        losses = F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none")
        report = {"cross_entropy": losses.mean()}
        sizes = [codes.shape[1] for codes in batch.codes[:-1]]
        for index, part in enumerate(losses.split([*sizes, losses.shape[1] - sum(sizes)], dim=1)):
            report[f"cross_entropy/scale_{index + 1}"] = part.mean().detach()
        loss = report["cross_entropy"]
        if self.residual_head is not None and self.settings is not None:
            count = losses.shape[1] - sum(sizes)
            report |= self._residual(batch, hidden[:, -count:], logits[:, -count:])
            loss = loss + self.settings.weight * report["diffusion"]
        return report | {"loss": loss}

    def _residual(self, batch: "Batch", hidden: Tensor, logits: Tensor) -> dict[str, Tensor]:
        settings, head = self.settings, self.residual_head
        assert settings is not None
        assert head is not None
        codes = sample_codes(
            logits.detach(),
            batch.generators,
            top_k=settings.condition_top_k,
            top_p=settings.condition_top_p,
        )
        embedding = batch.codebook[codes]
        target = (_kept(batch.last_target, batch.keep) - embedding) / head.config.residual_scale
        condition = self.transformer.residual_condition(hidden, embedding)
        repeated = [part.repeat(settings.repeats, 1, 1) for part in (target, condition)]
        times = partial(torch.randint, len(self.schedule))
        size = (settings.repeats, target.shape[1] if settings.kind == "token" else 1)
        t = drawn(lambda *size, generator: times(size, generator=generator), size, batch.generators)
        noise = drawn(torch.randn, (settings.repeats, *target.shape[1:]), batch.generators)
        t, noise = (part.transpose(0, 1).flatten(0, 1).to(target.device) for part in (t, noise))
        mse, bound = diffusion_loss(
            head, repeated[0], repeated[1], t, noise, self.schedule, size=batch.scales[-1]
        )
        return {
            "diffusion": (mse + bound).mean(),
            "diffusion/mse": mse.mean().detach(),
            "diffusion/bound": bound.mean().detach(),
        }


@dataclass(frozen=True)
class Batch:
    """What the losses look at.

    Attributes:
        codes: one tensor a scale, (B, h_k·w_k).
        scale_inputs: (B, Σ_{k≥2} h_k·w_k, z).
        last_target: (B, P², z), what was left to say before the last scale.
        context: (B, T, D), or class labels (B,).
        mask: (B, T) bool; ignored with labels.
        keep: (B, P²) bool, tokens of the last scale that stay, or None for all.
        codebook: (V, z), frozen.
        scales: height and width of each.
        generators: a source of random choices a sample.
    """

    codes: list[Tensor]
    scale_inputs: Tensor
    last_target: Tensor
    context: Tensor
    mask: Tensor
    keep: Tensor | None
    codebook: Tensor
    scales: Scales
    generators: list[torch.Generator]


def _kept(tokens: Tensor, keep: Tensor | None) -> Tensor:
    """Rows of (B, P², …) that stay, (B, n, …)."""
    return tokens if keep is None else tokens[keep].unflatten(0, (len(tokens), -1))
