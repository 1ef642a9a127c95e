"""The data of a generator's recipe: its frozen tokenizer, its samples and their cache."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch.utils.data import IterableDataset

from openhart.data import open_dataset
from openhart.data.augment import AugmentedCopies
from openhart.data.skipping import some_samples
from openhart.errors import UserError
from openhart.model_files import loading
from openhart.reading import read_json
from openhart.training.encoding.captions import TextConditions
from openhart.training.encoding.conditions import Conditions
from openhart.training.encoding.disk import LatentCache, describe, make_cache
from openhart.training.encoding.images import Tokenizer
from openhart.training.encoding.labels import LabelConditions, NoConditions
from openhart.training.encoding.source import ImageSource, MemorySource, Source, StoredSource
from openhart.training.generator.recipe import NO_CACHE, GeneratorRecipe
from openhart.training.generator.settings import Conditioning
from openhart.training.recipes import load_recipe

CLASSES = {"label": LabelConditions, "none": NoConditions}


def load_tokenizer(recipe: GeneratorRecipe) -> Any:
    """The recipe's tokenizer, frozen, with the recipe's settings in place of its own.

    Raises:
        UserError: if there is none, or if it is of another kind than the recipe's family needs.
    """
    folder, kind = Path(recipe.tokenizer), recipe.image_tokenizer
    if not (folder / "config.json").is_file():
        raise UserError(f"no image tokenizer in {folder}: train or convert one first")
    with loading(folder):
        check_tokenizer_kind(recipe, read_json(folder / "config.json"))
        tokenizer: Any = kind.from_pretrained(folder)
        if recipe.tokenizer_settings:
            tokenizer = kind.from_pretrained(folder, **recipe.tokenizer_settings)
    tokenizer.eval().requires_grad_(False)
    return tokenizer


def check_tokenizer_kind(recipe: GeneratorRecipe, config: Mapping[str, Any]) -> None:
    """Check that a tokenizer is of the kind that the recipe's family needs.

    Args:
        recipe: names the tokenizer.
        config: the content of its ``config.json``.

    Raises:
        UserError: if it is not.
    """
    wanted = recipe.image_tokenizer.__name__
    found = config.get("_class_name", wanted)
    if found != wanted:
        raise UserError(
            f"tokenizer: {recipe.tokenizer} is a {found}, but model.kind {recipe.kind} needs a {wanted}"
        )


def open_conditions(settings: Conditioning, width: int) -> Conditions:
    """The conditions of a recipe.

    Args:
        settings: the recipe's ``conditioning``.
        width: the transformer's width C, which is that of a label's context token.

    Raises:
        UserError: if ``kind: label`` is given without ``num_classes``.
    """
    if settings.kind == "text":
        return TextConditions(settings)
    return CLASSES[settings.kind](settings, width)


def open_source(recipe: GeneratorRecipe, tokenizer: Tokenizer, quiet: bool = False) -> Source:
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
    folder, conditions = recipe.cache_folder, open_conditions(settings, recipe.width)
    if folder is not None:
        cache = LatentCache(folder, describe(recipe, tokenizer))
        _check(cache, conditions)
        return StoredSource(tokenizer, cache, conditions.from_cache(cache))
    images = open_images(recipe, tokenizer)
    _check(images, conditions)
    if recipe.cache == NO_CACHE or isinstance(images, IterableDataset):
        return ImageSource(tokenizer, images, conditions)
    return MemorySource(tokenizer, images, conditions, data.batch_size, data.workers, quiet)


def open_images(recipe: GeneratorRecipe, tokenizer: Tokenizer) -> Any:
    """The images of a recipe, with their changed copies if it names any.

    Raises:
        UserError: if images cannot be read, or if shards are to be augmented.
    """
    data = recipe.data
    if data.in_memory:
        raise UserError(
            "data.in_memory is for tokenizers: a generator keeps what it encodes by cache: memory"
        )
    height, width = (side * tokenizer.downsample_factor for side in recipe.latent_sizes(tokenizer)[-1])
    sizes = data.buckets or [(height, width)]
    images = open_dataset(data.train, *sizes, only=data.only)
    if data.augment is not None:
        if isinstance(images, IterableDataset):
            raise UserError(
                "data.augment changes images of a folder or of Hugging Face data, not those of shards"
            )
        augment = data.augment
        images = AugmentedCopies(images, data.copies, augment.mirror, augment.shift, augment.scale)
    return images


def _check(dataset: Any, conditions: Conditions) -> None:
    """Check the condition of every sample that is known before reading, and read one sample."""
    if not isinstance(dataset, IterableDataset):
        conditions.check(dataset.all_samples())
    conditions.check(sample for _, sample in some_samples(dataset, 1))


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
    conditions = open_conditions(recipe.conditioning, recipe.width)
    _check(images, conditions)
    device = PartialState(cpu=not torch.accelerator.is_available()).device
    tokenizer.to(device)
    conditions.device = device
    data = recipe.data
    return folder, make_cache(
        folder, about, images, tokenizer, conditions, data.batch_size, data.workers, quiet
    )
