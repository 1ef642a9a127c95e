"""Training the generator: codes by cross-entropy, the residual by diffusion (HART, section 3.2)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.training_utils import EMAModel
from torch import nn
from torch.utils.data import IterableDataset

from openhart.conditioning.encoder import EncodedContext
from openhart.interrupts import PendingStop
from openhart.lora import add_lora
from openhart.pipelines.hart import HartPipeline
from openhart.randomness import sample_generators, seed_dropout, step_generator
from openhart.tokenizer.model import HybridTokenizer
from openhart.training.build import (
    build_head,
    check_generator_fits,
    check_same_shape,
    transformer_settings,
)
from openhart.training.config import GeneratorRecipe, build_model, load_recipe
from openhart.training.costs import Counter, generator_cost, kept_shares
from openhart.training.encoding.conditions import Conditions
from openhart.training.encoding.memory import Latents
from openhart.training.generator.batch import make_batch
from openhart.training.generator.code_loss import check_weights, soft_targets
from openhart.training.generator.data import encoded, load_tokenizer, open_data, residual_scale
from openhart.training.generator.export import fresh, log_samples, save_result
from openhart.training.generator.losses import GeneratorLosses
from openhart.training.generator.noisy_context import Exchange
from openhart.training.generator.stage import Stage
from openhart.training.optimizer import build_optimizer, rate_factor, set_rates
from openhart.training.run.batches import names_of, open_batches, place_in
from openhart.training.run.checkpoint import Checkpoints
from openhart.training.run.distributed import Skips, syncing
from openhart.training.run.loop import close_run, log_metrics, open_run, steps_with_progress
from openhart.training.run.sharding import ShardedState, WholeAverages, shard, whole
from openhart.training.run.throughput import Pace
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
        UserError: a recipe, a tokenizer, a data set or an output folder that cannot be used.
    """
    accelerator, folder = _run(load_recipe(path, GeneratorRecipe, overrides), quiet)
    close_run(accelerator)
    return folder


def _run(recipe: GeneratorRecipe, quiet: bool) -> tuple[Accelerator, Path]:
    set_seed(recipe.run.seed)
    tokenizer = load_tokenizer(recipe)
    check_weights(recipe.code_loss, len(tokenizer.quantizer.scales))
    dataset, conditions = open_data(recipe, tokenizer)
    start = _load_initial(recipe, tokenizer, conditions)
    model = start.transformer if start else None
    if model is None:
        context = conditions.shape()
        with torch.device("meta"):  # says now if the recipe's model cannot be
            model = build_model(HartTransformer, transformer_settings(recipe, tokenizer, context))
    check_generator_fits(recipe, model)
    for size in recipe.data.buckets:
        model.check_scales(tokenizer.scales_for_image(size))
    has_head = recipe.residual is not None and (start is None or start.residual_head is not None)
    accelerator, output = open_run(recipe, all_used=has_head)
    tokenizer.to(accelerator.device)
    if recipe.cache is True and not isinstance(dataset, IterableDataset):
        dataset = Latents(tokenizer, dataset, recipe.data.batch_size, recipe.data.workers, quiet)
    scale: float | list[float] = 1.0
    if start is None and recipe.residual is not None:
        scale = residual_scale(tokenizer, dataset, recipe.residual.scaling)
    stage = _prepare(recipe, accelerator, tokenizer, conditions, start, scale)
    opened = open_batches(dataset, recipe.data, recipe.run.seed, accelerator)
    checkpoints = Checkpoints(accelerator, recipe.run, stage.saved | place_in(opened), stage.weights)
    first = checkpoints.resume()
    stage.ema.to(accelerator.device)
    batches = encoded(tokenizer, dataset, opened.after(first * recipe.run.accumulation))
    pace = _open_pace(stage)
    with PendingStop(quiet) as stop:
        for step, bar in steps_with_progress(accelerator, first, recipe.steps, "generator", quiet):
            with pace.step():
                metrics = _train_step(stage, step, batches)
            if step % recipe.run.log_every == 0:
                metrics |= pace.since_last_asked()
                log_metrics(accelerator, metrics, step, bar, ("cross_entropy", "diffusion"))
            if (step + 1) % recipe.run.sample_every == 0:
                log_samples(stage, step)
            checkpoints.after_step(step + 1, recipe.steps, stop)
    return accelerator, save_result(stage, output)


def _load_initial(
    recipe: GeneratorRecipe, tokenizer: HybridTokenizer, conditions: Conditions
) -> HartPipeline | None:
    """The pipeline to start from, at the tokenizer's scales, with adapters if the recipe wants them.

    Raises:
        UserError: there is none, or it does not fit the recipe, its tokenizer or its way of conditioning.
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


def _prepare(
    recipe: GeneratorRecipe,
    accelerator: Accelerator,
    tokenizer: HybridTokenizer,
    conditions: Conditions,
    start: HartPipeline | None,
    residual_scale: float | list[float],
) -> Stage:
    conditions.device = accelerator.device
    if start is not None:
        transformer, head = start.transformer.train(), start.residual_head
        encoder: nn.Module = start.label_encoder or EncodedContext()
    else:
        shape = conditions.shape()
        transformer = build_model(HartTransformer, transformer_settings(recipe, tokenizer, shape))
        encoder = conditions.build_encoder(transformer.config.context_dim)
        head = build_head(recipe.residual, transformer, residual_scale)
    if recipe.run.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    if recipe.run.compile:
        for block in transformer.blocks:
            block.compile()
    codebook = tokenizer.quantizer.codebook.weight
    soft = soft_targets(codebook, recipe.code_loss)
    losses = GeneratorLosses(transformer, head, encoder, recipe, soft)
    spread = recipe.run.parallel == "fsdp" and accelerator.num_processes > 1
    if spread:
        shard(accelerator, losses.to(accelerator.device))
    optimizer = build_optimizer([losses], recipe.optimizer)
    model: nn.Module = losses
    prepared: Any = optimizer
    if not spread:
        model, prepared = accelerator.prepare(losses, optimizer)
    ema = EMAModel(losses.parameters(), decay=recipe.run.ema_decay, use_ema_warmup=True, foreach=not spread)
    skips = Skips(recipe.run.max_skipped)
    saved = (
        {"sharded": ShardedState(losses, optimizer)} if spread else {"model": losses, "optimizer": prepared}
    )
    saved |= {"averages": WholeAverages(ema), "skips": skips}
    if accelerator.scaler is not None:
        saved["scaler"] = accelerator.scaler
    exchange = Exchange(codebook, recipe.noise) if recipe.noise else None
    return Stage(
        recipe, accelerator, tokenizer, losses, model, prepared, ema, skips, conditions, saved, exchange
    )


def _train_step(stage: Stage, step: int, batches: Iterator[Any]) -> dict[str, Any]:
    recipe, accelerator = stage.recipe, stage.accelerator
    factor = rate_factor(step, recipe.steps, recipe.optimizer)
    set_rates(stage.optimizer, factor, recipe.optimizer)
    common = step_generator(recipe.run.seed, step)
    metrics: dict[str, Any] = {}
    names: list[str] = []
    for part in range(recipe.run.accumulation):
        codes, last_target, records = next(batches)
        names += names_of(records)
        place = step * recipe.run.accumulation + part
        place = place * accelerator.num_processes + accelerator.process_index
        seed_dropout(recipe.run.seed, place)
        generators = sample_generators(recipe.run.seed, place * len(codes), len(codes))
        batch = make_batch(stage, codes, last_target, records, generators, common, step / recipe.steps)
        with syncing(accelerator, stage.model, part + 1 == recipe.run.accumulation):
            with accelerator.autocast():
                metrics = stage.model(batch)
            accelerator.backward(metrics["loss"] / recipe.run.accumulation)
    norm = accelerator.clip_grad_norm_(stage.losses.parameters(), recipe.optimizer.max_gradient_norm)
    metrics["gradient_norm"] = whole(norm)
    if stage.skips.allows(accelerator, step, metrics["loss"], metrics["gradient_norm"], names):
        stage.optimizer.step()
        stage.ema.step(stage.losses.parameters())
    stage.optimizer.zero_grad()
    return metrics | {
        "learning_rate": recipe.optimizer.learning_rate * factor,
        "skipped": stage.skips.total,
    }


def _open_pace(stage: Stage) -> Pace:
    """A clock that knows the FLOPs of an average step; blocks worked out again are not counted twice."""
    recipe, parts = stage.recipe, stage.losses
    with torch.device("meta"):
        transformer, head = fresh(parts.transformer), fresh(parts.residual_head)
        if recipe.lora is not None:
            for part in (transformer, head):
                if part is not None:
                    part.requires_grad_(False)
            add_lora(transformer, **recipe.lora.model_dump())
    plain = recipe.model_copy(update={"run": recipe.run.model_copy(update={"gradient_checkpointing": False})})
    height, width = transformer.scales[-1]
    last = round(height * width * kept_shares(recipe.thinning)[0])
    cost = generator_cost(Counter(recipe.run.precision), plain, transformer, head, last)
    passes = recipe.run.accumulation
    return Pace(stage.accelerator, passes * recipe.data.batch_size, passes * cost.flops)
