"""Losses of HART's generator: cross-entropy of codes and diffusion of the residual (HART, section 3.2)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from openhart.generation.logits import sample_codes
from openhart.residual.diffusion import diffusion_loss
from openhart.residual.heads import TokenResidualHead
from openhart.residual.schedule import cosine_schedule
from openhart.scales import Scales
from openhart.training.generator.diffusion import diffusion_metrics, draw_noise
from openhart.training.generator.hart.code_loss import SoftTargets, cross_entropies, token_weights
from openhart.training.generator.hart.embedding_losses import build_alignment, codes_before
from openhart.training.generator.hart.recipe import HartRecipe
from openhart.transformer.model import HartTransformer


class GeneratorLosses(nn.Module):
    """The generator's losses as one module that DDP or FSDP can wrap.

    Args:
        transformer: predicts codes.
        residual_head: predicts the residual, or None.
        encoder: turns the condition of a batch into context and mask.
        recipe: states the losses and their weights.
        soft: smoothed targets, or None for one-hot targets.
    """

    def __init__(
        self,
        transformer: HartTransformer,
        residual_head: TokenResidualHead | None,
        encoder: nn.Module,
        recipe: HartRecipe,
        soft: SoftTargets | None = None,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.residual_head = residual_head
        self.encoder = encoder
        self.code_loss, self.settings, self.soft = recipe.code_loss, recipe.residual, soft
        self.schedule = cosine_schedule()
        self.alignment = build_alignment(recipe.embedding_losses, transformer)

    def forward(self, batch: "Batch") -> dict[str, Tensor]:
        """Losses of one batch; its generators draw codes, noise and times.

        Returns:
            scalars: ``loss``, with gradient, and its parts: cross-entropy over all tokens and of each scale,
            diffusion, embeddings.
        """
        transformer = self.transformer
        condition = self.encoder(*batch.condition)
        prepared = transformer.prepare(condition.context, condition.mask, batch.scales)
        observed = None if self.alignment is None else self.alignment.observer()
        hidden = transformer(
            batch.scale_inputs,
            keep=batch.keep,
            scales=batch.scales,
            prepared=prepared,
            observe=observed,
        ).hidden_states
        logits = transformer.logits(hidden, prepared).float()
        wanted = torch.cat([*batch.codes[:-1], _kept(batch.codes[-1], batch.keep)], dim=1)
        loss, report = self._codes(batch, logits, wanted)
        if self.alignment is not None and observed is not None:
            *between, last = codes_before(batch.codes, batch.scales)
            current = torch.cat([*between, _kept(last, batch.keep)], dim=1)
            losses = self.alignment(observed, current, wanted, batch.codebook)
            report |= {f"embedding/{name}": part.detach() for name, part in losses.items()}
            loss = loss + self.alignment.weighted(losses)
        if self.residual_head is not None and self.settings is not None:
            count = wanted.shape[1] - sum(batch.sizes[:-1])
            report |= self._residual(batch, hidden[:, -count:], logits[:, -count:])
            loss = loss + self.settings.weight * report["diffusion"]
        return report | {"loss": loss}

    def _codes(self, batch: "Batch", logits: Tensor, wanted: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The code loss, and the plain cross-entropies that are reported."""
        hard, soft = cross_entropies(logits, wanted, self.soft)
        sizes = [*batch.sizes[:-1], wanted.shape[1] - sum(batch.sizes[:-1])]
        loss = (soft * token_weights(sizes, self.code_loss).to(soft.device)).sum(dim=1).mean()
        report = {"cross_entropy": hard.mean()}
        for index, part in enumerate(hard.split(sizes, dim=1)):
            report[f"cross_entropy/scale_{index + 1}"] = part.mean().detach()
        return loss, report

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
        target = head.to_units(_kept(batch.continuous_target, batch.keep) - embedding)
        if settings.clip is not None:
            target = target.clamp(-settings.clip, settings.clip)
        condition = self.transformer.residual_condition(hidden, embedding)
        times = target.shape[1] if settings.kind == "token" else 1
        t, noise = draw_noise((target.shape[1], target.shape[2]), settings.repeats, times, batch.generators)
        t, noise = t.to(target.device), noise.to(target.device)
        mse, bound = diffusion_loss(head, target, condition, t, noise, self.schedule, size=batch.scales[-1])
        return diffusion_metrics(mse, bound)


@dataclass(frozen=True)
class Batch:
    """A batch as the losses take it.

    Attributes:
        codes: one tensor per scale, (B, h_k·w_k).
        scale_inputs: (B, Σ_{k≥2} h_k·w_k, z).
        continuous_target: (B, P², z), the features minus all scales but the last.
        condition: inputs of the encoder: context (B, T, D) and mask (B, T) bool, or class labels (B,).
        keep: (B, P²) bool, tokens of the last scale that are kept, or None for all.
        codebook: (V, z), frozen.
        scales: height and width of each.
        generators: one per sample.
    """

    codes: list[Tensor]
    scale_inputs: Tensor
    continuous_target: Tensor
    condition: tuple[Tensor, ...]
    keep: Tensor | None
    codebook: Tensor
    scales: Scales
    generators: list[torch.Generator]

    @property
    def sizes(self) -> list[int]:
        """Number of tokens of each scale."""
        return [codes.shape[1] for codes in self.codes]


def _kept(tokens: Tensor, keep: Tensor | None) -> Tensor:
    """Kept rows of (B, P², …), (B, n, …)."""
    return tokens if keep is None else tokens[keep].unflatten(0, (len(tokens), -1))
