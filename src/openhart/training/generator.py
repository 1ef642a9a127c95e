"""Training the generator: codes by cross-entropy, the residual by diffusion (HART, section 3.2)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from openhart.conditioning.label import LabelEncoder
from openhart.conditioning.text import empty_condition
from openhart.data import collate, open_dataset
from openhart.data.images import BUCKET
from openhart.errors import UserError
from openhart.model_files import loading
from openhart.pipeline import HartPipeline
from openhart.scales import split_by_scale
from openhart.tokenizer.model import HybridTokenizer
from openhart.training.batches import (
    drawn,
    keep_place,
    names_of,
    open_batches,
    sample_generators,
    step_generator,
)
from openhart.training.cache import CachedConditions, LatentCache, describe, make_cache
from openhart.training.config import GeneratorRecipe, Thinning, build_model, load_recipe
from openhart.training.costs import Counter, generator_cost, kept_shares
from openhart.training.generator_losses import Batch, GeneratorLosses
from openhart.training.initial import with_scales
from openhart.training.latents import (
    Latents,
    TextConditions,
    captions_of,
    check_records,
    encode_images,
    label_of,
    some_samples,
)
from openhart.training.loop import (
    log_images,
    log_metrics,
    open_run,
    rate_at,
    set_rate,
    steps_with_progress,
)
from openhart.training.lora import FOLDER as LORA_FOLDER
from openhart.training.lora import add_lora, save_lora
from openhart.training.pace import Pace
from openhart.training.parallel import Skips, syncing
from openhart.training.parts import build_head, check_same_shape, transformer_settings
from openhart.training.sharding import ShardedState, WholeAverages, shard, whole
from openhart.training.state import resume, save_checkpoint
from openhart.transformer.model import HartTransformer

RESIDUAL_SHARE_KEPT = 0.995
MEASURED_SAMPLES = 512
LARGEST_QUANTILE = 2**24  # torch takes no more values


@dataclass
class Stage:
    """The parts of one generator run."""

    recipe: GeneratorRecipe
    accelerator: Accelerator
    tokenizer: HybridTokenizer
    losses: GeneratorLosses
    model: nn.Module
    optimizer: Any
    ema: EMAModel
    skips: Skips
    conditions: TextConditions | None


def train(path: Path, overrides: list[str] | None = None, quiet: bool = False) -> Path:
    """Run or resume a generator recipe.

    Args:
        path: the recipe's YAML file.
        overrides: ``section.name=value`` strings that replace values of the recipe.
        quiet: show no progress bar.

    Returns:
        The folder of the trained pipeline, for :meth:`HartPipeline.from_pretrained`; with ``lora``, of the
        adapter alone, for :func:`openhart.model_files.load_lora`.

    Raises:
        UserError: a recipe, a tokenizer, a data set or an output folder that cannot be used.
    """
    recipe = load_recipe(path, GeneratorRecipe, overrides)
    set_seed(recipe.run.seed)
    tokenizer = _load_tokenizer(recipe)
    dataset, conditions = _open_data(recipe, tokenizer)
    start = _load_initial(recipe, tokenizer)
    model = start.transformer if start else None
    if model is None:
        context = _context_shape(recipe, conditions)
        with torch.device("meta"):  # says now if the recipe's model cannot be
            model, _ = _build_transformer(recipe, tokenizer, context)
    for size in recipe.data.buckets:
        model.at(tokenizer.at(size).quantizer.scales)
    accelerator, output = open_run(recipe)
    tokenizer.to(accelerator.device)
    if recipe.cache is True and not isinstance(dataset, IterableDataset):
        dataset = Latents(tokenizer, dataset, recipe.data.batch_size, recipe.data.workers, quiet)
    scale = 1.0 if start else _residual_scale(tokenizer, dataset)
    stage = _prepare(recipe, accelerator, tokenizer, conditions, start, scale)
    opened = open_batches(dataset, recipe.data, recipe.run.seed, accelerator)
    keep_place(accelerator, opened)
    first = resume(accelerator, output)
    stage.ema.to(accelerator.device)
    batches = _encoded(stage, dataset, opened.after(first * recipe.run.accumulation))
    pace = _open_pace(stage)
    for step, bar in steps_with_progress(accelerator, first, recipe.steps, "generator", quiet):
        with pace.step():
            metrics = _train_step(stage, step, batches)
        if step % recipe.run.log_every == 0:
            metrics |= pace.since_last_asked()
            log_metrics(accelerator, metrics, step, bar, ("cross_entropy", "diffusion"))
        if (step + 1) % recipe.run.sample_every == 0:
            _log_samples(stage, step)
        if (step + 1) % recipe.run.save_every == 0 or step + 1 == recipe.steps:
            save_checkpoint(accelerator, output, step + 1, recipe.run.keep_checkpoints)
    return _finish(stage, output)


def _load_tokenizer(recipe: GeneratorRecipe) -> HybridTokenizer:
    """The recipe's tokenizer, frozen, at the recipe's scales."""
    folder = Path(recipe.tokenizer)
    if not (folder / "config.json").is_file():
        raise UserError(f"no image tokenizer in {folder}: train or convert one first")
    with loading(folder):
        tokenizer = HybridTokenizer.from_pretrained(folder)
        if recipe.scales is not None:
            tokenizer = HybridTokenizer.from_pretrained(folder, scales=recipe.scales)
    return tokenizer.eval().requires_grad_(False)


def _open_data(recipe: GeneratorRecipe, tokenizer: HybridTokenizer) -> tuple[Any, TextConditions | None]:
    """The recipe's samples and what encodes their captions, both from its cache if it names one."""
    settings = recipe.conditioning
    if isinstance(recipe.cache, str):
        if recipe.data.buckets:
            raise UserError("a cache on disk holds images of one size: leave data.buckets out, or cache=true")
        cache = LatentCache(Path(recipe.cache), describe(recipe, tokenizer))
        return cache, CachedConditions(settings, cache) if settings.kind == "text" else None
    sizes = recipe.data.buckets or [tokenizer.image_size]
    dataset = open_dataset(recipe.data.train, *sizes, only=recipe.data.only)
    check_records(dataset, settings.kind)
    return dataset, TextConditions(settings) if settings.kind == "text" else None


def fill_cache(path: Path, overrides: list[str] | None = None, quiet: bool = False) -> tuple[Path, int]:
    """Encode a generator recipe's data into the folder that it names as ``cache``.

    Args:
        path: the recipe's YAML file.
        overrides: ``section.name=value`` strings that replace values of the recipe.
        quiet: show no progress bar.

    Returns:
        The folder and its number of samples.

    Raises:
        UserError: a recipe, a tokenizer or a data set that cannot be used, or a folder that holds another
            cache.
    """
    recipe = load_recipe(path, GeneratorRecipe, overrides)
    if not isinstance(recipe.cache, str):
        raise UserError(f"{path} names no cache: give it a folder, as in cache=runs/cache")
    tokenizer = _load_tokenizer(recipe)
    about, folder = describe(recipe, tokenizer), Path(recipe.cache)
    dataset, conditions = _open_data(recipe.model_copy(update={"cache": False}), tokenizer)
    tokenizer.to(device := torch.accelerator.current_accelerator() or torch.device("cpu"))
    if conditions is not None:
        conditions.device = device
    data = recipe.data
    return folder, make_cache(
        folder, about, dataset, tokenizer, conditions, data.batch_size, data.workers, quiet
    )


def _load_initial(recipe: GeneratorRecipe, tokenizer: HybridTokenizer) -> HartPipeline | None:
    """The pipeline to start from, at the tokenizer's scales, with adapters if the recipe wants them.

    Raises:
        UserError: there is none, or it does not fit the recipe, its tokenizer or its way of conditioning.
    """
    if not recipe.initial:
        return None
    found = HartPipeline.from_pretrained(recipe.initial, text_encoder=None, text_tokenizer=None)
    check_same_shape(recipe, found.transformer)
    told = "text" if found.label_encoder is None else "label"
    if told != recipe.conditioning.kind:
        raise UserError(f"initial: {recipe.initial} is told a {told}, the recipe's conditioning.kind another")
    if found.transformer.config.context_tokens != (context := _context_tokens(recipe)):
        raise UserError(
            f"initial: {recipe.initial} takes {found.transformer.config.context_tokens} context tokens, "
            f"the recipe's conditioning.max_tokens is {context}"
        )
    start = HartPipeline(
        image_tokenizer=tokenizer,
        transformer=with_scales(found.transformer, tokenizer.config.scales),
        residual_head=found.residual_head,
        label_encoder=found.label_encoder,
        max_tokens=context,
    )
    if recipe.lora is not None:
        add_lora(start.transformer, recipe.lora)
        for part in (start.residual_head, start.label_encoder):
            if part is not None:
                part.requires_grad_(False)
    return start


def _context_tokens(recipe: GeneratorRecipe) -> int:
    return 1 if recipe.conditioning.kind == "label" else recipe.conditioning.max_tokens


def _residual_scale(tokenizer: HybridTokenizer, dataset: Any) -> float:
    """What residuals are divided by, so that nearly all lie in [−1, 1], where the sampler clamps."""
    samples = some_samples(dataset, MEASURED_SAMPLES)
    bucket = samples[0][1].get(BUCKET)
    values, _ = collate([sample for sample in samples if sample[1].get(BUCKET) == bucket])
    if isinstance(dataset, Latents | LatentCache):
        codes, targets = values[0].long(), values[1].float()
    else:
        codes, targets = encode_images(tokenizer.at(tuple(values.shape[-2:])), values.to(tokenizer.device))
    last = codes[:, -targets.shape[1] :].to(tokenizer.device)
    residual = targets.to(tokenizer.device) - tokenizer.quantizer.lookup(last).float()
    return float(residual.abs().flatten()[:LARGEST_QUANTILE].quantile(RESIDUAL_SHARE_KEPT))


def _prepare(
    recipe: GeneratorRecipe,
    accelerator: Accelerator,
    tokenizer: HybridTokenizer,
    conditions: TextConditions | None,
    start: HartPipeline | None,
    residual_scale: float,
) -> Stage:
    if conditions is not None:
        conditions.device = accelerator.device
    if start is not None:
        transformer, head = start.transformer.train(), start.residual_head
        label_encoder = start.label_encoder
    else:
        transformer, label_encoder = _build_transformer(recipe, tokenizer, _context_shape(recipe, conditions))
        head = build_head(recipe.residual, transformer, residual_scale)
    if recipe.run.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    if recipe.run.compile:
        for block in transformer.blocks:
            block.compile()
    losses = GeneratorLosses(transformer, head, label_encoder, recipe.residual)
    spread = recipe.run.parallel == "fsdp" and accelerator.num_processes > 1
    if spread:
        shard(accelerator, losses.to(accelerator.device))
    optimizer = torch.optim.AdamW(
        _parameter_groups(losses, recipe.optimizer.weight_decay),
        lr=recipe.optimizer.learning_rate,
        betas=recipe.optimizer.betas,
        fused=True,
    )
    model: nn.Module = losses
    prepared: Any = optimizer
    if not spread:
        model, prepared = accelerator.prepare(losses, optimizer)
    ema = EMAModel(losses.parameters(), decay=recipe.run.ema_decay, use_ema_warmup=True)
    skips = Skips(recipe.run.max_skipped)
    accelerator.register_for_checkpointing(WholeAverages(ema), skips)
    if spread:
        accelerator.register_for_checkpointing(ShardedState(losses, optimizer))
    return Stage(recipe, accelerator, tokenizer, losses, model, prepared, ema, skips, conditions)


def _context_shape(recipe: GeneratorRecipe, conditions: TextConditions | None) -> dict[str, int]:
    if conditions is None:
        return {"context_dim": recipe.model.get("width", 0), "context_tokens": 1}
    return conditions.shape()


def _build_transformer(
    recipe: GeneratorRecipe, tokenizer: HybridTokenizer, context: dict[str, int]
) -> tuple[HartTransformer, LabelEncoder | None]:
    """A new transformer, and the label encoder where classes are its condition."""
    transformer = build_model(HartTransformer, transformer_settings(recipe, tokenizer, context))
    if recipe.conditioning.kind == "text":
        return transformer, None
    if recipe.conditioning.num_classes is None:
        raise UserError("conditioning.num_classes must be given for kind: label")
    classes, width = recipe.conditioning.num_classes, context["context_dim"]
    return transformer, LabelEncoder(num_classes=classes, dim=width)  # by name, or its config forgets them


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and tables do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim >= 2]
    others = [p for p in trained if p.ndim < 2]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _encoded(
    stage: Stage, dataset: Any, batches: Iterator[Any]
) -> Iterator[tuple[Tensor, Tensor, list[dict[str, Any]]]]:
    """Codes (B, L), last targets (B, P², z) and records."""
    device = stage.accelerator.device
    for values, records in batches:
        if isinstance(dataset, Latents | LatentCache):
            codes, targets = (part.to(device) for part in values)
            yield codes.long(), targets.float(), records
        else:
            tokenizer = stage.tokenizer.at(tuple(values.shape[-2:]))
            yield *encode_images(tokenizer, values.to(device)), records


def _train_step(stage: Stage, step: int, batches: Iterator[Any]) -> dict[str, Any]:
    recipe, accelerator = stage.recipe, stage.accelerator
    set_rate(stage.optimizer, rate_at(step, recipe.steps, recipe.optimizer))
    common = step_generator(recipe.run.seed, step)
    metrics: dict[str, Any] = {}
    names: list[str] = []
    for part in range(recipe.run.accumulation):
        codes, last_target, records = next(batches)
        names += names_of(records)
        place = step * recipe.run.accumulation + part
        first = (place * accelerator.num_processes + accelerator.process_index) * len(codes)
        generators = sample_generators(recipe.run.seed, first, len(codes))
        batch = _make_batch(stage, codes, last_target, records, generators, common)
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
        "learning_rate": rate_at(step, recipe.steps, recipe.optimizer),
        "skipped": stage.skips.total,
    }


@torch.no_grad()
def _make_batch(
    stage: Stage,
    codes: Tensor,
    last_target: Tensor,
    records: list[dict[str, Any]],
    generators: list[torch.Generator],
    common: torch.Generator,
) -> Batch:
    quantizer = stage.tokenizer.at(records[0].get(BUCKET, stage.tokenizer.image_size)).quantizer
    by_scale = split_by_scale(codes, quantizer.scales)
    context, mask = _condition(stage, records, generators)
    return Batch(
        codes=by_scale,
        scale_inputs=quantizer.code_inputs(by_scale),
        last_target=last_target,
        context=context.to(codes.device),
        mask=mask.to(codes.device),
        keep=_choose_kept(codes, quantizer.size, stage.recipe.thinning, generators, common),
        codebook=quantizer.codebook.weight,
        scales=quantizer.scales,
        generators=generators,
    )


def _condition(
    stage: Stage, records: list[dict[str, Any]], generators: list[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """One caption (or the label) a sample, some replaced by the empty condition."""
    settings = stage.recipe.conditioning
    dropped = drawn(torch.rand, (1,), generators)[:, 0] < settings.drop
    if stage.conditions is None:
        assert settings.num_classes is not None
        labels = torch.tensor([label_of(record) for record in records])
        labels[dropped] = settings.num_classes
        return labels, torch.ones(len(records), 1, dtype=torch.bool)
    chosen = []
    for record, generator in zip(records, generators, strict=True):
        chosen.append(int(torch.randint(len(captions_of(record)), (), generator=generator)))
    context, mask = stage.conditions.of(records, chosen)
    nothing, nothing_mask = empty_condition(*context.shape)
    return (
        torch.where(dropped[:, None, None], nothing, context),
        torch.where(dropped[:, None], nothing_mask, mask),
    )


def _choose_kept(
    codes: Tensor,
    size: tuple[int, int],
    thinning: Thinning | None,
    generators: list[torch.Generator],
    common: torch.Generator,
) -> Tensor | None:
    """Which tokens of the last scale stay, as many in each sample, (B, P²); None for all."""
    if thinning is None:
        return None
    count = size[0] * size[1]
    dropped = torch.nn.init.trunc_normal_(
        torch.empty(()), thinning.mean, thinning.deviation, thinning.least, 1.0, common
    )
    kept = max(1, round(count * (1 - float(dropped))))
    order = drawn(torch.rand, (count,), generators).argsort(dim=1)
    return (order < kept).to(codes.device)


def _pipeline(stage: Stage, parts: GeneratorLosses, reads_text: bool) -> HartPipeline:
    """The model as it is used; what is only saved needs no text encoder, since that stays a name."""
    settings = stage.recipe.conditioning
    text_tokenizer, text_encoder = None, None
    if stage.conditions is not None and reads_text:
        text_tokenizer, text_encoder = stage.conditions.parts
    return HartPipeline(
        image_tokenizer=stage.tokenizer,
        transformer=parts.transformer,
        residual_head=parts.residual_head,
        label_encoder=parts.label_encoder,
        text_encoder=text_encoder,
        text_tokenizer=text_tokenizer,
        text_encoder_name=settings.text_encoder if stage.conditions else None,
        max_tokens=settings.max_tokens,
        instruction=settings.instruction,
        sampling=stage.recipe.sampling,
    )


def _open_pace(stage: Stage) -> Pace:
    """A clock that knows the FLOPs of an average step; blocks worked out again are not counted twice."""
    recipe, parts = stage.recipe, stage.losses
    with torch.device("meta"):
        transformer, head = _fresh(parts.transformer), _fresh(parts.residual_head)
        if recipe.lora is not None:
            for part in (transformer, head):
                if part is not None:
                    part.requires_grad_(False)
            add_lora(transformer, recipe.lora)
    plain = recipe.model_copy(update={"run": recipe.run.model_copy(update={"gradient_checkpointing": False})})
    height, width = transformer.scales[-1]
    last = round(height * width * kept_shares(recipe.thinning)[0])
    cost = generator_cost(Counter(recipe.run.precision), plain, transformer, head, last)
    passes = recipe.run.accumulation
    return Pace(stage.accelerator, passes * recipe.data.batch_size, passes * cost.flops)


@torch.no_grad()
def _averaged(stage: Stage) -> GeneratorLosses:
    """The averaged weights in modules of their own; every process must ask."""
    weights = [whole(part) for part in stage.ema.shadow_params]
    parts = stage.losses
    fresh = [_fresh(part) for part in (parts.transformer, parts.residual_head, parts.label_encoder)]
    if stage.recipe.lora is not None:
        add_lora(fresh[0], stage.recipe.lora)
    averaged = GeneratorLosses(fresh[0], fresh[1], fresh[2], parts.settings)
    averaged.to(stage.accelerator.device).eval()
    for parameter, weight in zip(averaged.parameters(), weights, strict=True):
        parameter.copy_(weight)
    return averaged


def _fresh(part: Any) -> Any:
    """A new model of the same settings."""
    return None if part is None else type(part).from_config(part.config)


@torch.no_grad()
def _log_samples(stage: Stage, step: int) -> None:
    """Pictures for the recipe's prompts, always from the same seeds, by the averaged weights."""
    prompts = stage.recipe.sample_prompts
    if not prompts:
        return
    averaged = _averaged(stage)
    if not stage.accelerator.is_main_process:
        return
    pipeline = _pipeline(stage, averaged, reads_text=True)
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    images = pipeline(prompts, generator=generators, output_type="pt").images
    log_images(stage.accelerator, "samples", images * 2 - 1, step)


def _finish(stage: Stage, output: Path) -> Path:
    """Save the averaged weights as a pipeline, or the adapter alone."""
    adapted = stage.recipe.lora is not None
    folder = output / (LORA_FOLDER if adapted else "pipeline")
    averaged = _averaged(stage)
    if stage.accelerator.is_main_process:
        if adapted:
            save_lora(averaged.transformer, folder)
        else:
            _pipeline(stage, averaged, reads_text=False).save_pretrained(folder)
    stage.accelerator.wait_for_everyone()
    stage.accelerator.end_training()
    return folder
