"""HART: codes of all scales and their residual (arXiv 2410.10812)."""

from typing import Any

from torch import nn

from openhart.pipelines.hart import HartPipeline
from openhart.residual.heads import TokenResidualHead, WideResidualHead
from openhart.scales import count_tokens
from openhart.training.encoding.conditions import Conditions
from openhart.training.encoding.source import Source
from openhart.training.generator.family import Family
from openhart.training.generator.hart.batch import HartBatchMaker
from openhart.training.generator.hart.code_loss import check_weights, soft_targets
from openhart.training.generator.hart.cost import generator_cost, kept_shares
from openhart.training.generator.hart.losses import GeneratorLosses
from openhart.training.generator.hart.noisy_context import Exchange
from openhart.training.generator.hart.recipe import HartRecipe
from openhart.training.generator.hart.units import residual_scale
from openhart.training.run.flops import Cost, Counter
from openhart.transformer.model import HartTransformer
from openhart.transformer.resize import with_scales

HEADS = {"token": TokenResidualHead, "wide": WideResidualHead}


class HartFamily(Family[HartRecipe]):
    """Trains a HartTransformer and its residual head."""

    pipeline = HartPipeline
    shown = ("cross_entropy", "diffusion")

    def determined(self, context: dict[str, int]) -> dict[str, tuple[str, Any]]:
        """Scales, codebook size and code dimension, by the tokenizer."""
        table = self.tokenizer.quantizer.codebook
        return {
            "codebook_size": ("tokenizer", table.num_embeddings),
            "code_dim": ("tokenizer", table.embedding_dim),
            "scales": ("tokenizer", self.tokenizer.config.scales),
        }

    def check(self, transformer: Any) -> None:
        """Check the weights of scales, and that the transformer can make the recipe's sizes."""
        check_weights(self.recipe.code_loss, len(self.tokenizer.quantizer.scales))
        for size in self.recipe.data.buckets:
            transformer.check_scales(self.tokenizer.scales_for_image(size))

    def adopted(self, found: HartTransformer, name: str) -> HartTransformer:
        """The transformer at the tokenizer's scales."""
        return with_scales(found, self.tokenizer.config.scales)

    def build_head(self, transformer: Any, source: Source | None = None) -> TokenResidualHead | None:
        """The residual head of the recipe, in units that are measured on some samples."""
        settings = self.recipe.residual
        if settings is None:
            return None
        units: float | list[float] = 1.0
        if source is not None:
            units = residual_scale(self.tokenizer, source, settings.scaling)
        head: TokenResidualHead = HEADS[settings.kind](
            code_dim=transformer.config.code_dim,
            condition_dim=transformer.config.width,
            width=settings.width,
            depth=settings.depth,
            residual_scale=units,
            limit=settings.limit,
        )
        return head

    def losses(self, transformer: Any, head: Any, encoder: nn.Module) -> nn.Module:
        """Cross-entropy of codes and diffusion of the residual."""
        soft = soft_targets(self.tokenizer.quantizer.codebook.weight, self.recipe.code_loss)
        return GeneratorLosses(transformer, head, encoder, self.recipe, soft)

    def batch_maker(self, conditions: Conditions, transformer: Any) -> HartBatchMaker:
        """Codes with the transformer's inputs, noisy if the recipe wants that."""
        recipe, codebook = self.recipe, self.tokenizer.quantizer.codebook.weight
        exchange = Exchange(codebook, recipe.noise) if recipe.noise else None
        return HartBatchMaker(self.tokenizer, conditions, exchange, recipe.token_dropping)

    def tokens(self, transformer: HartTransformer) -> tuple[int, int]:
        """Codes of all scales, and those that token dropping leaves."""
        total, (height, width) = count_tokens(transformer.scales), transformer.scales[-1]
        share = kept_shares(self.recipe.token_dropping)[0]
        return total, total - height * width + round(height * width * share)

    def cost(self, counter: Counter, transformer: Any, head: Any, checkpointing: bool) -> Cost:
        """One pass, with fewer tokens of the last scale on average than at most."""
        height, width = transformer.scales[-1]
        shares = kept_shares(self.recipe.token_dropping)
        usual, largest = (
            generator_cost(
                counter, self.recipe, transformer, head, round(height * width * share), checkpointing
            )
            for share in shares
        )
        return Cost(usual.flops, largest.kept)

    def gives_every_gradient(self, has_head: bool) -> bool:
        """Without a residual head, what prepares its condition is not used."""
        return has_head and self.recipe.residual is not None
