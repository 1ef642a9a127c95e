"""Training a generator of any family on a trained tokenizer."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import nn

from openhart.conditioning.encoder import EncodedContext
from openhart.lora import add_lora
from openhart.training.build import build_model
from openhart.training.encoding.conditions import Conditions
from openhart.training.encoding.source import Source
from openhart.training.generator.build import (
    check_generator_fits,
    check_same_shape,
    new_like,
    transformer_settings,
)
from openhart.training.generator.data import load_tokenizer, open_source
from openhart.training.generator.export import Export
from openhart.training.generator.families import open_family
from openhart.training.generator.family import Family
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
from openhart.transformer.block import Block


def train(path: Path, overrides: list[str] | None = None, quiet: bool = False) -> Path:
    """Run or resume a generator recipe.

    Args:
        path: the recipe's YAML file.
        overrides: ``section.name=value`` strings that replace values of the recipe.
        quiet: show no progress bar.

    Returns:
        The folder of the trained pipeline, for :func:`openhart.from_pretrained`; with ``lora``, of the
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
    family = open_family(recipe, tokenizer)
    source = open_source(recipe, tokenizer, quiet)
    start = _load_initial(family, source.conditions)
    has_head = _check(family, source.conditions, start)
    accelerator = open_run(recipe, all_used=family.gives_every_gradient(has_head))
    source.start(accelerator.device)
    losses = _build(family, source, start)
    return _assemble(family, accelerator, source, losses)


def _load_initial(family: Family[Any], conditions: Conditions) -> Any:
    """The pipeline to start from, at the tokenizer's size, with adapters if the recipe wants them, or None.

    Raises:
        UserError: if there is none, or if it does not fit the recipe, its tokenizer or its conditioning.
    """
    recipe = family.recipe
    if not recipe.initial:
        return None
    found: Any = family.pipeline.from_pretrained(recipe.initial, text_encoder=None, text_tokenizer=None)
    check_same_shape(recipe, found.transformer)
    conditions.check_encoder(found.condition_encoder, recipe.initial)
    start: Any = family.pipeline(
        image_tokenizer=family.tokenizer,
        transformer=family.adopted(found.transformer, recipe.initial),
        **family.named_head(found),
        label_encoder=found.label_encoder,
        max_tokens=found.config.max_tokens,
    )
    if recipe.lora is not None:
        add_lora(start.transformer, **recipe.lora.model_dump())
        for part in (family.head_of(start), start.label_encoder):
            if part is not None:
                part.requires_grad_(False)
    return start


def _check(family: Family[Any], conditions: Conditions, start: Any) -> bool:
    """Refuse a generator that cannot be, does not fit the device or cannot make the recipe's sizes.

    Returns:
        whether the generator has a head.
    """
    if start is not None:
        model, head = start.transformer, family.head_of(start)
    else:
        settings = transformer_settings(family, conditions.shape())
        with torch.device("meta"):
            model = build_model(family.recipe.transformer, settings)
            head = family.build_head(model)
    family.check(model)
    check_generator_fits(family, model)
    return head is not None


def _build(family: Family[Any], source: Source, start: Any) -> nn.Module:
    """The trained modules, new or those of ``start``, and their losses."""
    recipe = family.recipe
    if start is not None:
        transformer, head = start.transformer.train(), family.head_of(start)
        encoder: nn.Module = start.label_encoder or EncodedContext()
    else:
        settings = transformer_settings(family, source.conditions.shape())
        transformer = build_model(recipe.transformer, settings)
        encoder = source.conditions.build_encoder(transformer.config.context_dim)
        head = family.build_head(transformer, source)
    if recipe.run.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    if recipe.run.compile:
        for block in transformer.modules():
            if isinstance(block, Block):
                block.compile()
    return family.losses(transformer, head, encoder)


def _assemble(family: Family[Any], accelerator: Accelerator, source: Source, losses: Any) -> GeneratorStage:
    """Share the modules among processes, and put optimizer and averages beside them.

    A sharded model is sharded first, since its optimizer holds shards.
    """
    recipe = family.recipe
    sharded = recipe.run.parallel == "fsdp" and accelerator.num_processes > 1
    if sharded:
        shard(accelerator, losses.to(accelerator.device))
    model: nn.Module = losses
    optimizer: Any = build_optimizer([losses], recipe.optimizer, family.undecayed(losses))
    saved: dict[str, Saved] = {"sharded": ShardedState(losses, optimizer)}
    if not sharded:
        model, optimizer = accelerator.prepare(losses, optimizer)
        saved = {"model": losses, "optimizer": optimizer}
    ema = EMAModel(losses.parameters(), decay=recipe.run.ema_decay, use_ema_warmup=True, foreach=not sharded)
    guard = NonFiniteGuard(recipe.run.max_skipped)
    saved |= {"averages": FullTensorEMA(ema), "skips": guard}
    if accelerator.scaler is not None:
        saved["scaler"] = accelerator.scaler
    return GeneratorStage(
        recipe=recipe,
        accelerator=accelerator,
        source=source,
        losses=losses,
        model=model,
        optimizer=optimizer,
        ema=ema,
        make_batch=family.batch_maker(source.conditions, losses.transformer),
        guard=guard,
        result=Export(family, accelerator, source.conditions, losses, ema),
        saved=saved,
        average_flops=_flops(family, losses),
        shown=family.shown,
    )


def _flops(family: Family[Any], losses: Any) -> int:
    """FLOPs of an average pass; blocks that gradient checkpointing recomputes are counted once."""
    recipe = family.recipe
    with torch.device("meta"):
        transformer, head = new_like(losses.transformer), new_like(family.head_of(losses))
        if recipe.lora is not None:
            for part in (transformer, head):
                if part is not None:
                    part.requires_grad_(False)
            add_lora(transformer, **recipe.lora.model_dump())
    return family.cost(Counter(recipe.run.precision), transformer, head, checkpointing=False).flops
