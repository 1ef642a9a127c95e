"""Training the generator: codes by cross-entropy, the residual by diffusion (HART, section 3.2)."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import nn

from openhart.conditioning.encoder import EncodedContext
from openhart.lora import add_lora
from openhart.pipelines.hart import HartPipeline
from openhart.tokenizer.model import HybridTokenizer
from openhart.training.build import (
    build_head,
    build_model,
    check_generator_fits,
    check_same_shape,
    transformer_settings,
)
from openhart.training.encoding.conditions import Conditions
from openhart.training.encoding.source import Source
from openhart.training.generator.data import load_tokenizer, open_source, residual_scale
from openhart.training.generator.export import Export, new_like
from openhart.training.generator.hart.batch import BatchMaker
from openhart.training.generator.hart.code_loss import check_weights, soft_targets
from openhart.training.generator.hart.cost import generator_cost, kept_shares
from openhart.training.generator.hart.losses import GeneratorLosses
from openhart.training.generator.hart.noisy_context import Exchange
from openhart.training.generator.recipe import GeneratorRecipe
from openhart.training.generator.stage import GeneratorStage
from openhart.training.optimizer import build_optimizer
from openhart.training.recipes import load_recipe
from openhart.training.run.checkpoint import Saved
from openhart.training.run.distributed import FullTensorEMA, ShardedState, shard
from openhart.training.run.flops import Counter
from openhart.training.run.loop import run_stage
from openhart.training.run.nonfinite import NonFiniteGuard
from openhart.training.run.opening import open_run
from openhart.transformer.model import HartTransformer
from openhart.transformer.resize import with_scales


def train(path: Path, overrides: list[str] | None = None, quiet: bool = False) -> Path:
    """Run or resume a generator recipe.

    Args:
        path: the recipe's YAML file.
        overrides: ``section.name=value`` strings that replace values of the recipe.
        quiet: show no progress bar.

    Returns:
        The folder of the trained pipeline, for :meth:`HartPipeline.from_pretrained`; with ``lora``, of the
        adapter alone, for :meth:`openhart.HartPipeline.load_lora_weights`.

    Raises:
        UserError: if a recipe, a tokenizer, a data set or an output folder cannot be used.
    """
    recipe = load_recipe(path, GeneratorRecipe, overrides)
    return run_stage(recipe, partial(prepare, recipe, quiet), quiet)


def prepare(recipe: GeneratorRecipe, quiet: bool) -> GeneratorStage:
    """Read the data of a recipe, open its run and build what is trained.

    Raises:
        UserError: as :func:`train`; if the recipe or its data is wrong, before the output folder is made.
    """
    tokenizer = load_tokenizer(recipe)
    check_weights(recipe.code_loss, len(tokenizer.quantizer.scales))
    source = open_source(recipe, tokenizer, quiet)
    start = _load_initial(recipe, tokenizer, source.conditions)
    _check(recipe, tokenizer, source.conditions, start)
    has_head = recipe.residual is not None and (start is None or start.residual_head is not None)
    accelerator = open_run(recipe, all_used=has_head)
    source.start(accelerator.device)
    units: float | list[float] = 1.0
    if start is None and recipe.residual is not None:
        units = residual_scale(tokenizer, source, recipe.residual.scaling)
    losses = _build(recipe, tokenizer, source.conditions, start, units)
    return _assemble(recipe, accelerator, tokenizer, source, losses)


def _load_initial(
    recipe: GeneratorRecipe, tokenizer: HybridTokenizer, conditions: Conditions
) -> HartPipeline | None:
    """The pipeline to start from, at the tokenizer's scales, with adapters if the recipe wants them.

    Raises:
        UserError: if there is none, or if it does not fit the recipe, its tokenizer or its conditioning.
    """
    if not recipe.initial:
        return None
    found = HartPipeline.from_pretrained(recipe.initial, text_encoder=None, text_tokenizer=None)
    check_same_shape(recipe, found.transformer)
    conditions.check_encoder(found.condition_encoder, recipe.initial)
    start = HartPipeline(
        image_tokenizer=tokenizer,
        transformer=with_scales(found.transformer, tokenizer.config.scales),
        residual_head=found.residual_head,
        label_encoder=found.label_encoder,
        max_tokens=found.config.max_tokens,
    )
    if recipe.lora is not None:
        add_lora(start.transformer, **recipe.lora.model_dump())
        for part in (start.residual_head, start.label_encoder):
            if part is not None:
                part.requires_grad_(False)
    return start


def _check(
    recipe: GeneratorRecipe, tokenizer: HybridTokenizer, conditions: Conditions, start: HartPipeline | None
) -> None:
    """Refuse a generator that cannot be, does not fit the device or cannot make the recipe's sizes."""
    if start is not None:
        model = start.transformer
    else:
        shape = conditions.shape()
        with torch.device("meta"):
            model = build_model(HartTransformer, transformer_settings(recipe, tokenizer, shape))
    check_generator_fits(recipe, model)
    for size in recipe.data.buckets:
        model.check_scales(tokenizer.scales_for_image(size))


def _build(
    recipe: GeneratorRecipe,
    tokenizer: HybridTokenizer,
    conditions: Conditions,
    start: HartPipeline | None,
    residual_units: float | list[float],
) -> GeneratorLosses:
    """The trained modules, new or those of ``start``, and their losses."""
    if start is not None:
        transformer, head = start.transformer.train(), start.residual_head
        encoder: nn.Module = start.label_encoder or EncodedContext()
    else:
        shape = conditions.shape()
        transformer = build_model(HartTransformer, transformer_settings(recipe, tokenizer, shape))
        encoder = conditions.build_encoder(transformer.config.context_dim)
        head = build_head(recipe.residual, transformer, residual_units)
    if recipe.run.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    if recipe.run.compile:
        for block in transformer.blocks:
            block.compile()
    soft = soft_targets(tokenizer.quantizer.codebook.weight, recipe.code_loss)
    return GeneratorLosses(transformer, head, encoder, recipe, soft)


def _assemble(
    recipe: GeneratorRecipe,
    accelerator: Accelerator,
    tokenizer: HybridTokenizer,
    source: Source,
    losses: GeneratorLosses,
) -> GeneratorStage:
    """Share the modules among processes, and put optimizer and averages beside them.

    A sharded model is sharded first, since its optimizer holds shards.
    """
    sharded = recipe.run.parallel == "fsdp" and accelerator.num_processes > 1
    if sharded:
        shard(accelerator, losses.to(accelerator.device))
    model: nn.Module = losses
    optimizer: Any = build_optimizer([losses], recipe.optimizer)
    saved: dict[str, Saved] = {"sharded": ShardedState(losses, optimizer)}
    if not sharded:
        model, optimizer = accelerator.prepare(losses, optimizer)
        saved = {"model": losses, "optimizer": optimizer}
    ema = EMAModel(losses.parameters(), decay=recipe.run.ema_decay, use_ema_warmup=True, foreach=not sharded)
    guard = NonFiniteGuard(recipe.run.max_skipped)
    saved |= {"averages": FullTensorEMA(ema), "skips": guard}
    if accelerator.scaler is not None:
        saved["scaler"] = accelerator.scaler
    exchange = Exchange(tokenizer.quantizer.codebook.weight, recipe.noise) if recipe.noise else None
    return GeneratorStage(
        recipe=recipe,
        accelerator=accelerator,
        source=source,
        losses=losses,
        model=model,
        optimizer=optimizer,
        ema=ema,
        make_batch=BatchMaker(tokenizer, source.conditions, exchange, recipe.token_dropping),
        guard=guard,
        result=Export(recipe, accelerator, tokenizer, source.conditions, losses, ema),
        saved=saved,
        average_flops=_flops(recipe, losses),
    )


def _flops(recipe: GeneratorRecipe, losses: GeneratorLosses) -> int:
    """FLOPs of an average pass; blocks that gradient checkpointing recomputes are counted once."""
    with torch.device("meta"):
        transformer, head = new_like(losses.transformer), new_like(losses.residual_head)
        if recipe.lora is not None:
            for part in (transformer, head):
                if part is not None:
                    part.requires_grad_(False)
            add_lora(transformer, **recipe.lora.model_dump())
    plain = recipe.model_copy(update={"run": recipe.run.model_copy(update={"gradient_checkpointing": False})})
    height, width = transformer.scales[-1]
    last = round(height * width * kept_shares(recipe.token_dropping)[0])
    return generator_cost(Counter(recipe.run.precision), plain, transformer, head, last).flops
