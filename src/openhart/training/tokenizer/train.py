"""Training an image tokenizer of any kind."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch._functorch import config as functorch
from torch.utils.data import IterableDataset

from openhart.data import open_dataset
from openhart.data.joined import into_memory
from openhart.data.memory import ImagesInMemory
from openhart.data.sample import Dataset, Stream
from openhart.data.skipping import some_samples
from openhart.errors import UserError
from openhart.tokenizer.base import ImageTokenizer
from openhart.training.build import without_weights
from openhart.training.optimizer import build_optimizer
from openhart.training.recipes import load_recipe
from openhart.training.run.flops import Counter
from openhart.training.run.loop import run_stage
from openhart.training.run.nonfinite import NonFiniteGuard
from openhart.training.run.opening import open_run
from openhart.training.tokenizer.bottleneck import Bottleneck
from openhart.training.tokenizer.build import build_tokenizer
from openhart.training.tokenizer.cost import tokenizer_phase_cost
from openhart.training.tokenizer.discriminator import Adversary
from openhart.training.tokenizer.kinds import open_bottleneck
from openhart.training.tokenizer.losses import build_perceptual
from openhart.training.tokenizer.recipe import TokenizerRecipe
from openhart.training.tokenizer.reconstruction import Reconstruction
from openhart.training.tokenizer.stage import TokenizerStage

SHOWN = 8


def train(path: Path, overrides: list[str] | None = None, quiet: bool = False) -> Path:
    """Run or resume a tokenizer recipe.

    Args:
        path: the recipe's YAML file.
        overrides: ``section.name=value`` strings that replace values of the recipe.
        quiet: show no progress bar.

    Returns:
        The folder of the trained tokenizer, for :func:`openhart.model_files.load_image_tokenizer`.

    Raises:
        UserError: if a recipe, a data set or an output folder cannot be used.
    """
    recipe = load_recipe(path, TokenizerRecipe, overrides)
    return run_stage(recipe, partial(prepare, recipe), quiet)


def prepare(recipe: TokenizerRecipe) -> TokenizerStage:
    """Read the data of a recipe, open its run and build what is trained.

    Raises:
        UserError: as :func:`train`; if the recipe or its data is wrong, before the output folder is made.
    """
    tokenizer = build_tokenizer(recipe)
    size = tokenizer.image_size
    tokenizer.feature_size(size)  # fails now if the sides do not fit
    if recipe.data.buckets:
        raise UserError("a tokenizer learns on images of one size: leave data.buckets to the generator")
    dataset = open_dataset(recipe.data.train, size, only=recipe.data.only)
    if recipe.data.in_memory and isinstance(dataset, IterableDataset):
        raise UserError("data.in_memory: shards are read as a stream and cannot be kept in memory")
    some_samples(dataset, 1)  # fails now if nothing can be read
    held_out = open_dataset(recipe.data.test or recipe.data.train, size, only=recipe.data.only)
    perceptual = build_perceptual(recipe.losses.perceptual) if recipe.losses.perceptual else None
    bottleneck = open_bottleneck(recipe, tokenizer)
    bottleneck.open()
    accelerator = open_run(recipe, all_used=False)
    if recipe.data.in_memory:
        workers, device = recipe.data.workers, accelerator.device
        dataset = into_memory(dataset, lambda images: ImagesInMemory(images, workers, device))
    shown = torch.stack([image for image, _ in some_samples(held_out, SHOWN)])
    return _assemble(recipe, accelerator, dataset, bottleneck, perceptual, shown)


def _assemble(
    recipe: TokenizerRecipe,
    accelerator: Accelerator,
    dataset: Dataset[Tensor] | Stream[Tensor],
    bottleneck: Bottleneck[Any],
    perceptual: nn.Module | None,
    held_out: Tensor,
) -> TokenizerStage:
    """Share the tokenizer among processes, and put adversary, optimizers and averages beside it."""
    tokenizer = bottleneck.tokenizer
    optimizer = build_optimizer([tokenizer], recipe.optimizer)
    adversary = Adversary(recipe.losses, accelerator)
    if recipe.run.compile:
        functorch.donated_buffer = False  # the adaptive weight goes backward twice
        tokenizer.encoder.compile()
        tokenizer.decoder.compile()
    reconstruction = Reconstruction(tokenizer, bottleneck)
    model, prepared = accelerator.prepare(reconstruction, optimizer)
    ema = EMAModel(tokenizer.parameters(), decay=recipe.run.ema_decay, use_ema_warmup=True, foreach=True)
    guard = NonFiniteGuard(recipe.run.max_skipped)
    return TokenizerStage(
        recipe=recipe,
        accelerator=accelerator,
        dataset=dataset,
        tokenizer=tokenizer,
        bottleneck=bottleneck,
        model=model,
        optimizer=prepared,
        ema=ema,
        adversary=adversary,
        perceptual=None if perceptual is None else perceptual.to(accelerator.device),
        guard=guard,
        saved={
            "model": reconstruction,
            "optimizer": prepared,
            "discriminator": adversary.discriminator,
            "discriminator-optimizer": adversary.optimizer,
            "averages": ema,
            **bottleneck.saved,
            "skips": guard,
        },
        held_out=held_out.to(accelerator.device),
        flops_of_phases=_flops(recipe, tokenizer),
        shown=bottleneck.shown,
    )


def _flops(recipe: TokenizerRecipe, tokenizer: ImageTokenizer) -> list[int]:
    counter, clone = Counter(recipe.run.precision), without_weights(tokenizer)
    return [tokenizer_phase_cost(counter, recipe, clone, phase).flops for phase in recipe.phases]
