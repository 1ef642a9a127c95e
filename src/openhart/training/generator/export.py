"""The generator in use: its averaged weights, sample images that they make, and the model that is saved."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel

from openhart.atomic import folder_written_whole
from openhart.lora import add_lora, save_lora
from openhart.pipelines.files import PipelineFiles
from openhart.randomness import seeded_generators
from openhart.training.encoding.conditions import Conditions
from openhart.training.generator.build import new_like
from openhart.training.generator.family import Family
from openhart.training.run.distributed import full_tensor
from openhart.training.run.logs import log_images


@dataclass(frozen=True)
class Export:
    """Makes pipelines of a run's averaged weights.

    Attributes:
        losses: the trained modules.
        ema: averages of their weights.
    """

    family: Family[Any]
    accelerator: Accelerator
    conditions: Conditions
    losses: Any
    ema: EMAModel

    @torch.no_grad()
    def log_samples(self, number: int) -> None:
        """Log images of the recipe's samples, always from the same seeds. Collective."""
        recipe = self.family.recipe
        count = len(recipe.sample_prompts or recipe.sample_labels)
        if not count:
            return
        averaged = self._averaged()
        if not self.accelerator.is_main_process:
            return
        pipeline: Any = self._pipeline(averaged, reads_text=True)
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
        adapted = self.family.recipe.lora is not None
        folder = Path(self.family.recipe.run.output) / ("lora" if adapted else "pipeline")
        averaged = self._averaged()
        if self.accelerator.is_main_process:
            with folder_written_whole(folder) as whole_folder:
                if adapted:
                    save_lora(averaged.transformer, whole_folder)
                else:
                    self._pipeline(averaged, reads_text=False).save_pretrained(whole_folder)
        return folder

    @torch.no_grad()
    def _averaged(self) -> Any:
        """The averaged weights in modules of their own. Collective."""
        weights = [full_tensor(part) for part in self.ema.shadow_params]
        family, losses = self.family, self.losses
        transformer = new_like(losses.transformer)
        if family.recipe.lora is not None:
            add_lora(transformer, **family.recipe.lora.model_dump())
        head, encoder = new_like(family.head_of(losses)), new_like(losses.encoder)
        averaged = family.losses(transformer, head, encoder)
        averaged.to(self.accelerator.device).eval()
        for parameter, weight in zip(averaged.parameters(), weights, strict=True):
            parameter.copy_(weight)
        return averaged

    def _pipeline(self, parts: Any, reads_text: bool) -> PipelineFiles:
        """A pipeline of the parts; one that is only saved needs its text encoder's name alone."""
        family, settings = self.family, self.family.recipe.conditioning
        pipeline: PipelineFiles = family.pipeline(
            image_tokenizer=family.tokenizer,
            transformer=parts.transformer,
            **family.named_head(parts),
            max_tokens=settings.max_tokens,
            instruction=settings.instruction,
            sampling=family.recipe.sampling,
            **self.conditions.components(parts.encoder, reads_text),
        )
        return pipeline
