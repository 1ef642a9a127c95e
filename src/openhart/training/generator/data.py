"""The data of a generator's recipe: its frozen tokenizer, its samples and their cache."""

from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch.utils.data import IterableDataset

from openhart.data import collate, open_dataset
from openhart.data.augment import AugmentedCopies
from openhart.data.sample import check_samples
from openhart.data.skipping import some_samples
from openhart.errors import UserError
from openhart.model_files import loading
from openhart.tokenizer.model import HybridTokenizer
from openhart.training.build import width_of
from openhart.training.encoding.captions import TextConditions
from openhart.training.encoding.conditions import Conditions
from openhart.training.encoding.disk import LatentCache, describe, make_cache
from openhart.training.encoding.labels import LabelConditions
from openhart.training.encoding.source import ImageSource, MemorySource, Source, StoredSource
from openhart.training.generator.recipe import NO_CACHE, GeneratorRecipe
from openhart.training.generator.settings import Conditioning
from openhart.training.recipes import load_recipe

RESIDUAL_SHARE_KEPT = 0.995
MEASURED_SAMPLES = 512
LARGEST_QUANTILE = 2**24  # torch takes no more values
LEAST_DEVIATION = 1e-4


def load_tokenizer(recipe: GeneratorRecipe) -> HybridTokenizer:
    """The recipe's tokenizer, frozen, with the recipe's scales."""
    folder = Path(recipe.tokenizer)
    if not (folder / "config.json").is_file():
        raise UserError(f"no image tokenizer in {folder}: train or convert one first")
    with loading(folder):
        tokenizer: HybridTokenizer = HybridTokenizer.from_pretrained(folder)
        if recipe.scales is not None:
            tokenizer = HybridTokenizer.from_pretrained(folder, scales=recipe.scales)
    tokenizer.eval().requires_grad_(False)
    return tokenizer


def open_conditions(settings: Conditioning, width: int) -> Conditions:
    """The conditions of a recipe.

    Args:
        settings: the recipe's ``conditioning``.
        width: the transformer's width C, which is that of a label's context token.

    Raises:
        UserError: if ``kind: label`` is given without ``num_classes``.
    """
    if settings.kind == "label":
        return LabelConditions(settings, width)
    return TextConditions(settings)


def open_source(recipe: GeneratorRecipe, tokenizer: HybridTokenizer, quiet: bool = False) -> Source:
    """The samples that a recipe trains on, encoded in the way that its ``cache`` names.

    Shards, which are read as a stream, are encoded in each step, unless a cache on disk holds them.

    Args:
        recipe: of the run.
        tokenizer: the recipe's.
        quiet: show no progress bar while images are encoded into memory.

    Raises:
        UserError: if the data or the cache cannot be used.
    """
    settings, data = recipe.conditioning, recipe.data
    folder, conditions = recipe.cache_folder, open_conditions(settings, width_of(recipe))
    if folder is not None:
        cache = LatentCache(folder, describe(recipe, tokenizer))
        _check(cache, recipe)
        return StoredSource(tokenizer, cache, conditions.from_cache(cache))
    images = open_images(recipe, tokenizer)
    if recipe.cache == NO_CACHE or isinstance(images, IterableDataset):
        return ImageSource(tokenizer, images, conditions)
    return MemorySource(tokenizer, images, conditions, data.batch_size, data.workers, quiet)


def open_images(recipe: GeneratorRecipe, tokenizer: HybridTokenizer) -> Any:
    """The images of a recipe, with their changed copies if it names any.

    Raises:
        UserError: if images cannot be read, a caption or label is missing, or shards are to be augmented.
    """
    data = recipe.data
    sizes = data.buckets or [tokenizer.image_size]
    images = open_dataset(data.train, *sizes, only=data.only)
    if data.augment is not None:
        if isinstance(images, IterableDataset):
            raise UserError(
                "data.augment changes images of a folder or of Hugging Face data, not those of shards"
            )
        augment = data.augment
        images = AugmentedCopies(images, data.copies, augment.mirror, augment.shift, augment.scale)
    _check(images, recipe)
    return images


def _check(dataset: Any, recipe: GeneratorRecipe) -> None:
    """Check the condition of every sample that is known before reading, and read one sample."""
    settings = recipe.conditioning
    if not isinstance(dataset, IterableDataset):
        check_samples(dataset.all_samples(), settings.kind, settings.num_classes)
    first = [sample for _, sample in some_samples(dataset, 1)]
    check_samples(first, settings.kind, settings.num_classes)


def fill_cache(path: Path, overrides: list[str] | None = None, quiet: bool = False) -> tuple[Path, int]:
    """Encode a generator recipe's data into the folder that it names as ``cache``.

    Args:
        path: the recipe's YAML file.
        overrides: ``section.name=value`` strings that replace values of the recipe.
        quiet: show no progress bar.

    Returns:
        The folder and its number of samples.

    Raises:
        UserError: if a recipe, a tokenizer or a data set cannot be used, or if the folder holds another
            cache.
    """
    recipe = load_recipe(path, GeneratorRecipe, overrides)
    folder = recipe.cache_folder
    if folder is None:
        raise UserError(f"{path} names no cache: give it a folder, as in cache=runs/cache")
    tokenizer = load_tokenizer(recipe)
    about, images = describe(recipe, tokenizer), open_images(recipe, tokenizer)
    conditions = open_conditions(recipe.conditioning, width_of(recipe))
    device = PartialState(cpu=not torch.accelerator.is_available()).device
    tokenizer.to(device)
    conditions.device = device
    data = recipe.data
    return folder, make_cache(
        folder, about, images, tokenizer, conditions, data.batch_size, data.workers, quiet
    )


def residual_scale(tokenizer: HybridTokenizer, source: Source, scaling: str) -> float | list[float]:
    """The units of the residual head, by which residuals are divided.

    Args:
        tokenizer: its codebook is that of the source.
        source: of the encoded samples; some are read.
        scaling: ``quantile``, one number, so that 99.5 % of the residuals are in [−1, 1]; or ``variance``,
            the standard deviation of each channel.
    """
    samples = some_samples(source.dataset, MEASURED_SAMPLES)
    size = samples[0][1].size
    values, _ = collate([pair for pair in samples if pair[1].size == size])
    codes, targets = source.encoded(values)
    residual = targets - tokenizer.quantizer.lookup(codes[:, -targets.shape[1] :]).float()
    if scaling == "variance":
        deviations: list[float] = residual.flatten(0, 1).std(dim=0).clamp_min(LEAST_DEVIATION).tolist()
        return deviations
    return float(residual.abs().flatten()[:LARGEST_QUANTILE].quantile(RESIDUAL_SHARE_KEPT))
