"""VQGAN: one code after the other, in raster order (arXiv 2012.09841)."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openhart.pipelines.vqgan import VqganPipeline
from openhart.training.encoding.conditions import Conditions
from openhart.training.generator.family import Family
from openhart.training.generator.raster.batch import RasterBatchMaker
from openhart.training.generator.raster.losses import RasterLosses
from openhart.training.generator.raster.recipe import RasterRecipe
from openhart.training.run.flops import FLOAT, Cost, Counter, cost_of_stacks
from openhart.transformer.raster import RasterTransformer


class RasterFamily(Family[RasterRecipe]):
    """Trains a RasterTransformer."""

    pipeline = VqganPipeline
    shown = ("cross_entropy",)

    def determined(self, context: dict[str, int]) -> dict[str, tuple[str, Any]]:
        """Size of the map and of the codebook, by the tokenizer."""
        return {
            "codebook_size": ("tokenizer", self.tokenizer.quantizer.codebook.num_embeddings),
            "scales": ("tokenizer", self.tokenizer.config.scales),
            "context_projection": ("condition encoder", self.projects(context)),
        }

    def losses(self, transformer: Any, head: Any, encoder: nn.Module) -> nn.Module:
        """Cross-entropy of codes."""
        return RasterLosses(transformer, encoder)

    def batch_maker(self, conditions: Conditions, transformer: Any) -> RasterBatchMaker:
        """Codes, some of them random among the inputs."""
        return RasterBatchMaker(conditions, transformer.config.codebook_size, self.recipe.random_codes)

    def undecayed(self, losses: RasterLosses) -> Iterable[nn.Parameter]:
        """Tables of codes, classes and positions, as in the published program."""
        for module in losses.modules():
            if isinstance(module, nn.Embedding):
                yield from module.parameters()
        yield losses.transformer.position_embed

    def tokens(self, transformer: RasterTransformer) -> tuple[int, int]:
        """All codes of the map."""
        height, width = transformer.size
        return height * width, height * width

    def cost(self, counter: Counter, transformer: Any, head: Any, checkpointing: bool) -> Cost:
        """One pass over a complete sequence."""
        config, batch = transformer.config, self.recipe.data.batch_size
        codes, _ = self.tokens(transformer)

        def count(depth: int) -> Cost:
            with torch.device("meta"):
                shallow: Any = type(transformer).from_config(config, depth=depth)
            inputs, wanted = (
                counter.tensor(batch, size, needs_gradient=False, dtype=torch.long)
                for size in (codes - 1, codes)
            )
            context = counter.tensor(batch, config.context_tokens, config.context_dim, needs_gradient=False)

            def run() -> Tensor:
                logits = shallow(inputs, context).logits
                return F.cross_entropy(logits.flatten(0, 1), wanted.flatten())

            return counter.count(shallow.train(), run)

        entrance = batch * transformer.max_positions * config.width * FLOAT
        return cost_of_stacks(count, (config.depth,), (entrance,), checkpointing)
