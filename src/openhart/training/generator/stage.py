"""The parts of one generator run."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from openhart.tokenizer.model import HybridTokenizer
from openhart.training.config import GeneratorRecipe
from openhart.training.encoding.conditions import Conditions
from openhart.training.generator.losses import GeneratorLosses
from openhart.training.generator.noisy_context import Exchange
from openhart.training.run.distributed import Skips
from openhart.training.run.sharding import own_part


@dataclass
class Stage:
    """What a run holds; ``model`` is ``losses`` as the run's processes share it, ``saved`` what a checkpoint
    keeps of them, by name."""

    recipe: GeneratorRecipe
    accelerator: Accelerator
    tokenizer: HybridTokenizer
    losses: GeneratorLosses
    model: nn.Module
    optimizer: Any
    ema: EMAModel
    skips: Skips
    conditions: Conditions
    saved: dict[str, Any]
    exchange: Exchange | None

    def weights(self) -> Iterator[Tensor]:
        """The trained weights and their averages; of spread ones, this process's part."""
        for weight in chain(self.losses.parameters(), self.ema.shadow_params):
            yield own_part(weight)
