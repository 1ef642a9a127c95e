"""MAR: masked tokens by diffusion (arXiv 2406.11838)."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from openhart.pipelines.mar import MarPipeline
from openhart.residual.heads import TokenResidualHead
from openhart.training.encoding.conditions import Conditions
from openhart.training.encoding.source import Source
from openhart.training.generator.diffusion import head_cost
from openhart.training.generator.family import Family
from openhart.training.generator.masked.batch import MaskedBatchMaker
from openhart.training.generator.masked.losses import MaskedLosses, start_head
from openhart.training.generator.masked.recipe import MaskedRecipe
from openhart.training.run.flops import FLOAT, Cost, Counter, cost_of_stacks
from openhart.transformer.masked import MaskedTransformer


class MaskedFamily(Family[MaskedRecipe]):
    """Trains a MaskedTransformer and its diffusion head."""

    pipeline = MarPipeline
    shown = ("diffusion",)

    def determined(self, context: dict[str, int]) -> dict[str, tuple[str, Any]]:
        """Channels by the tokenizer; texts take the place of the repeated class vector."""
        found: dict[str, tuple[str, Any]] = {
            "latent_channels": ("tokenizer", self.tokenizer.config.latent_channels),
            "size": ("tokenizer", list(self.recipe.latent_sizes(self.tokenizer)[-1])),
            "context_projection": ("condition encoder", self.projects(context)),
        }
        if context["context_tokens"] > 1:
            found["buffer_tokens"] = ("condition encoder", context["context_tokens"])
        return found

    def build_head(self, transformer: Any, source: Source | None = None) -> TokenResidualHead:
        """The diffusion head, whose targets are the latents as they are."""
        settings = self.recipe.diffusion_head
        head: TokenResidualHead = TokenResidualHead(
            code_dim=transformer.token_channels,
            condition_dim=transformer.config.width,
            width=settings.width,
            depth=settings.depth,
            residual_scale=1.0,
            clamp=False,
        )
        if source is not None:
            start_head(head)
        return head

    def losses(self, transformer: Any, head: Any, encoder: nn.Module) -> nn.Module:
        """Diffusion of the masked tokens."""
        return MaskedLosses(transformer, head, encoder)

    def batch_maker(self, conditions: Conditions, transformer: Any) -> MaskedBatchMaker:
        """Latents and their masks."""
        recipe, patch = self.recipe, transformer.config.patch_size
        return MaskedBatchMaker(
            self.tokenizer, conditions, recipe.masking, patch**2, recipe.diffusion_head.repeats
        )

    def undecayed(self, losses: MaskedLosses) -> Iterable[nn.Parameter]:
        """The diffusion head, as in the published program."""
        yield from losses.diffusion_head.parameters()

    def tokens(self, transformer: MaskedTransformer) -> tuple[int, int]:
        """All tokens, and those that are masked."""
        return transformer.num_tokens, round(transformer.num_tokens * self.recipe.masking.average)

    def cost(self, counter: Counter, transformer: Any, head: Any, checkpointing: bool) -> Cost:
        """One pass; of many or few masked tokens, whichever keeps more."""
        masking, count = self.recipe.masking, transformer.num_tokens
        usual, most, least = (
            self._cost(counter, transformer, head, math.ceil(count * share), checkpointing)
            for share in (masking.average, 1.0, masking.min)
        )
        return Cost(usual.flops, max(most.kept, least.kept))

    def _cost(self, counter: Counter, transformer: Any, head: Any, masked: int, checkpointing: bool) -> Cost:
        config, batch = transformer.config, self.recipe.data.batch_size
        known = transformer.num_tokens - max(masked, 1)

        def count(encoder_depth: int, decoder_depth: int) -> Cost:
            depths = {"encoder_depth": encoder_depth, "decoder_depth": decoder_depth}
            with torch.device("meta"):
                shallow: Any = type(transformer).from_config(config, **depths)
            tokens = counter.tensor(
                batch, transformer.num_tokens, transformer.token_channels, needs_gradient=False
            )
            context = counter.tensor(batch, config.context_tokens, config.context_dim, needs_gradient=False)
            mask = counter.tensor(batch, config.context_tokens, needs_gradient=False, dtype=torch.bool)
            places = [
                counter.tensor(batch, size, needs_gradient=False, dtype=torch.long)
                for size in (known, transformer.num_tokens - known)
            ]

            def run() -> Tensor:
                hidden: Tensor = shallow(tokens, places[0], context, mask, places[1]).hidden_states
                return hidden

            return counter.count(shallow.train(), run)

        rows = batch * config.width * FLOAT
        entrances = [(config.buffer_tokens + size) * rows for size in (known, transformer.num_tokens)]
        depths = (config.encoder_depth, config.decoder_depth)
        stacks = cost_of_stacks(count, depths, entrances, checkpointing)
        size = transformer.num_tokens - known
        return stacks + head_cost(counter, head, batch, size, self.recipe.diffusion_head.repeats, size)
