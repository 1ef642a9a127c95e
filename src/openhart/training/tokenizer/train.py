"""Training the image tokenizer: autoencoder, codes, then the hybrid decoder (HART, section 3.1)."""

from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch._functorch import config as functorch

from openhart.data import open_dataset
from openhart.data.sample import Dataset, Stream
from openhart.data.skipping import some_samples
from openhart.errors import UserError
from openhart.tokenizer.model import HybridTokenizer
from openhart.training.build import build_tokenizer, without_weights
from openhart.training.optimizer import build_optimizer
from openhart.training.recipes import load_recipe
from openhart.training.run.flops import Counter
from openhart.training.run.loop import run_stage
from openhart.training.run.nonfinite import NonFiniteGuard
from openhart.training.run.opening import open_run
from openhart.training.tokenizer.codebook import CodeRevival
from openhart.training.tokenizer.cost import tokenizer_phase_cost
from openhart.training.tokenizer.discriminator import Adversary
from openhart.training.tokenizer.losses import build_perceptual
from openhart.training.tokenizer.own_samples import OwnSampler, open_sampler
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
        The folder of the trained tokenizer, for :meth:`HybridTokenizer.from_pretrained`.

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
    if recipe.data.buckets:
        raise UserError("a tokenizer learns on images of one size: leave data.buckets to the generator")
    dataset = open_dataset(recipe.data.train, size, only=recipe.data.only)
    some_samples(dataset, 1)  # fails now if nothing can be read
    held_out = open_dataset(recipe.data.test or recipe.data.train, size, only=recipe.data.only)
    perceptual = build_perceptual(recipe.losses.perceptual) if recipe.losses.perceptual else None
    sampler = open_sampler(recipe, tokenizer)
    accelerator = open_run(recipe, all_used=False)
    shown = torch.stack([image for image, _ in some_samples(held_out, SHOWN)])
    return _assemble(recipe, accelerator, dataset, tokenizer, perceptual, shown, sampler)


def _assemble(
    recipe: TokenizerRecipe,
    accelerator: Accelerator,
    dataset: Dataset[Tensor] | Stream[Tensor],
    tokenizer: HybridTokenizer,
    perceptual: nn.Module | None,
    held_out: Tensor,
    sampler: OwnSampler | None,
) -> TokenizerStage:
    """Share the tokenizer among processes, and put adversary, optimizers and averages beside it."""
    optimizer = build_optimizer([tokenizer], recipe.optimizer)
    adversary = Adversary(recipe.losses, accelerator)
    if recipe.run.compile:
        functorch.donated_buffer = False  # the adaptive weight goes backward twice
        tokenizer.encoder.compile()
        tokenizer.decoder.compile()
    reconstruction = Reconstruction(tokenizer)
    model, prepared = accelerator.prepare(reconstruction, optimizer)
    ema = EMAModel(tokenizer.parameters(), decay=recipe.run.ema_decay, use_ema_warmup=True)
    codes = tokenizer.quantizer.codebook.num_embeddings
    revival = CodeRevival(codes, recipe.revive_every, recipe.revival_memory)
    guard = NonFiniteGuard(recipe.run.max_skipped)
    return TokenizerStage(
        recipe=recipe,
        accelerator=accelerator,
        dataset=dataset,
        tokenizer=tokenizer,
        model=model,
        optimizer=prepared,
        ema=ema,
        adversary=adversary,
        perceptual=None if perceptual is None else perceptual.to(accelerator.device),
        revival=revival,
        guard=guard,
        saved={
            "model": reconstruction,
            "optimizer": prepared,
            "discriminator": adversary.discriminator,
            "discriminator-optimizer": adversary.optimizer,
            "averages": ema,
            "revival": revival,
            "skips": guard,
        },
        held_out=held_out.to(accelerator.device),
        sampler=sampler and OwnSampler(sampler.pipeline.to(accelerator.device)),
        flops_of_phases=_flops(recipe, tokenizer),
    )


def _flops(recipe: TokenizerRecipe, tokenizer: HybridTokenizer) -> list[int]:
    counter, clone = Counter(recipe.run.precision), without_weights(tokenizer)
    return [tokenizer_phase_cost(counter, recipe, clone, phase).flops for phase in recipe.phases]
