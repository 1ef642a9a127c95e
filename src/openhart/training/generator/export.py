"""The generator as it is used: its averaged weights, sample pictures by them, and what is saved."""

from pathlib import Path
from typing import Any

import torch

from openhart.atomic import folder_written_whole
from openhart.lora import add_lora, save_lora
from openhart.pipelines.hart import HartPipeline
from openhart.randomness import seeded_generators
from openhart.training.generator.losses import GeneratorLosses
from openhart.training.generator.stage import Stage
from openhart.training.run.loop import log_images
from openhart.training.run.sharding import whole


@torch.no_grad()
def log_samples(stage: Stage, step: int) -> None:
    """Pictures of the recipe's samples, always from the same seeds, by the averaged weights."""
    recipe = stage.recipe
    count = len(recipe.sample_prompts or recipe.sample_labels)
    if not count:
        return
    averaged = _averaged(stage)
    if not stage.accelerator.is_main_process:
        return
    pipeline = _pipeline(stage, averaged, reads_text=True)
    pipeline.set_progress_bar_config(disable=True)
    generators = seeded_generators(range(count))
    images = pipeline(
        recipe.sample_prompts or None,
        class_labels=recipe.sample_labels or None,
        generator=generators,
        output_type="pt",
    ).images
    log_images(stage.accelerator, "samples", images * 2 - 1, step)


def save_result(stage: Stage, output: Path) -> Path:
    """Save the averaged weights as a pipeline, or the adapter alone."""
    adapted = stage.recipe.lora is not None
    folder = output / ("lora" if adapted else "pipeline")
    averaged = _averaged(stage)
    if stage.accelerator.is_main_process:
        with folder_written_whole(folder) as whole_folder:
            if adapted:
                save_lora(averaged.transformer, whole_folder)
            else:
                _pipeline(stage, averaged, reads_text=False).save_pretrained(whole_folder)
    return folder


@torch.no_grad()
def _averaged(stage: Stage) -> GeneratorLosses:
    """The averaged weights in modules of their own; every process must ask."""
    weights = [whole(part) for part in stage.ema.shadow_params]
    trained = stage.losses
    transformer = fresh(trained.transformer)
    if stage.recipe.lora is not None:
        add_lora(transformer, **stage.recipe.lora.model_dump())
    encoder = stage.conditions.build_encoder(transformer.config.context_dim)
    others = (fresh(trained.residual_head), encoder)
    averaged = GeneratorLosses(transformer, *others, stage.recipe)
    averaged.to(stage.accelerator.device).eval()
    for parameter, weight in zip(averaged.parameters(), weights, strict=True):
        parameter.copy_(weight)
    return averaged


def _pipeline(stage: Stage, parts: GeneratorLosses, reads_text: bool) -> HartPipeline:
    """The model as it is used; what is only saved needs no text encoder, since that stays a name."""
    settings = stage.recipe.conditioning
    return HartPipeline(
        image_tokenizer=stage.tokenizer,
        transformer=parts.transformer,
        residual_head=parts.residual_head,
        max_tokens=settings.max_tokens,
        instruction=settings.instruction,
        sampling=stage.recipe.sampling,
        **stage.conditions.components(parts.encoder, reads_text),
    )


def fresh(part: Any) -> Any:
    """A new model of the same settings."""
    return None if part is None else type(part).from_config(part.config)
