"""The generator in use: its averaged weights, sample images that they make, and the model that is saved."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel

from openhart.atomic import folder_written_whole
from openhart.lora import add_lora, save_lora
from openhart.pipelines.hart import HartPipeline
from openhart.randomness import seeded_generators
from openhart.tokenizer.model import HybridTokenizer
from openhart.training.encoding.conditions import Conditions
from openhart.training.generator.hart.losses import GeneratorLosses
from openhart.training.generator.recipe import GeneratorRecipe
from openhart.training.run.distributed import full_tensor
from openhart.training.run.logs import log_images


@dataclass(frozen=True)
class Export:
    """Makes pipelines of a run's averaged weights.

    Attributes:
        losses: the trained modules.
        ema: averages of their weights.
    """

    recipe: GeneratorRecipe
    accelerator: Accelerator
    tokenizer: HybridTokenizer
    conditions: Conditions
    losses: GeneratorLosses
    ema: EMAModel

    @torch.no_grad()
    def log_samples(self, number: int) -> None:
        """Log images of the recipe's samples, always from the same seeds. Collective."""
        recipe = self.recipe
        count = len(recipe.sample_prompts or recipe.sample_labels)
        if not count:
            return
        averaged = self._averaged()
        if not self.accelerator.is_main_process:
            return
        pipeline = self._pipeline(averaged, reads_text=True)
        pipeline.set_progress_bar_config(disable=True)
        images = pipeline(
            recipe.sample_prompts or None,
            class_labels=recipe.sample_labels or None,
            generator=seeded_generators(range(count)),
            output_type="pt",
        ).images
        log_images(self.accelerator, "samples", images * 2 - 1, number)

    def save(self) -> Path:
        """Save the pipeline in ``pipeline``, or the adapter alone in ``lora``. Collective."""
        adapted = self.recipe.lora is not None
        folder = Path(self.recipe.run.output) / ("lora" if adapted else "pipeline")
        averaged = self._averaged()
        if self.accelerator.is_main_process:
            with folder_written_whole(folder) as whole_folder:
                if adapted:
                    save_lora(averaged.transformer, whole_folder)
                else:
                    self._pipeline(averaged, reads_text=False).save_pretrained(whole_folder)
        return folder

    @torch.no_grad()
    def _averaged(self) -> GeneratorLosses:
        """The averaged weights in modules of their own. Collective."""
        weights = [full_tensor(part) for part in self.ema.shadow_params]
        transformer = new_like(self.losses.transformer)
        if self.recipe.lora is not None:
            add_lora(transformer, **self.recipe.lora.model_dump())
        encoder = self.conditions.build_encoder(transformer.config.context_dim)
        averaged = GeneratorLosses(transformer, new_like(self.losses.residual_head), encoder, self.recipe)
        averaged.to(self.accelerator.device).eval()
        for parameter, weight in zip(averaged.parameters(), weights, strict=True):
            parameter.copy_(weight)
        return averaged

    def _pipeline(self, parts: GeneratorLosses, reads_text: bool) -> HartPipeline:
        """A pipeline of the parts; one that is only saved needs its text encoder's name alone."""
        settings = self.recipe.conditioning
        return HartPipeline(
            image_tokenizer=self.tokenizer,
            transformer=parts.transformer,
            residual_head=parts.residual_head,
            max_tokens=settings.max_tokens,
            instruction=settings.instruction,
            sampling=self.recipe.sampling,
            **self.conditions.components(parts.encoder, reads_text),
        )


def new_like(part: Any) -> Any:
    """A new model of the same settings; None for None."""
    return None if part is None else type(part).from_config(part.config)
