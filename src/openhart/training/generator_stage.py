"""The parts of one generator run."""

from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import nn

from openhart.tokenizer.model import HybridTokenizer
from openhart.training.config import GeneratorRecipe
from openhart.training.generator_losses import GeneratorLosses
from openhart.training.latents import TextConditions
from openhart.training.noisy_context import Exchange
from openhart.training.parallel import Skips


@dataclass
class Stage:
    """What a run holds; ``model`` is ``losses`` as the run's processes share it."""

    recipe: GeneratorRecipe
    accelerator: Accelerator
    tokenizer: HybridTokenizer
    losses: GeneratorLosses
    model: nn.Module
    optimizer: Any
    ema: EMAModel
    skips: Skips
    conditions: TextConditions | None
    exchange: Exchange | None
