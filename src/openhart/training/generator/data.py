"""What a generator learns from: its frozen tokenizer, its samples, and what encodes their captions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from torch.utils.data import IterableDataset

from openhart.data import collate, open_dataset
from openhart.data.aspect import BUCKET
from openhart.data.augment import AugmentedCopies
from openhart.errors import UserError
from openhart.model_files import loading
from openhart.tokenizer.model import HybridTokenizer
from openhart.training.build import width_of
from openhart.training.config import Data, GeneratorRecipe, load_recipe
from openhart.training.encoding.conditions import Conditions, open_conditions
from openhart.training.encoding.disk import LatentCache, describe, make_cache
from openhart.training.encoding.memory import Latents, check_data, encode_images, some_samples

RESIDUAL_SHARE_KEPT = 0.995
MEASURED_SAMPLES = 512
LARGEST_QUANTILE = 2**24  # torch takes no more values
LEAST_DEVIATION = 1e-4


def load_tokenizer(recipe: GeneratorRecipe) -> HybridTokenizer:
    """The recipe's tokenizer, frozen, at the recipe's scales."""
    folder = Path(recipe.tokenizer)
    if not (folder / "config.json").is_file():
        raise UserError(f"no image tokenizer in {folder}: train or convert one first")
    with loading(folder):
        tokenizer: HybridTokenizer = HybridTokenizer.from_pretrained(folder)
        if recipe.scales is not None:
            tokenizer = HybridTokenizer.from_pretrained(folder, scales=recipe.scales)
    tokenizer.eval().requires_grad_(False)
    return tokenizer


def open_data(recipe: GeneratorRecipe, tokenizer: HybridTokenizer) -> tuple[Any, Conditions]:
    """The recipe's samples and what encodes their captions, both from its cache if it names one."""
    settings = recipe.conditioning
    conditions = open_conditions(settings, width_of(recipe))
    if isinstance(recipe.cache, str):
        cache = LatentCache(Path(recipe.cache), describe(recipe, tokenizer))
        check_data(cache, settings.kind, settings.num_classes)
        return cache, conditions.from_cache(cache)
    sizes = recipe.data.buckets or [tokenizer.image_size]
    dataset = _copies(open_dataset(recipe.data.train, *sizes, only=recipe.data.only), recipe.data)
    check_data(dataset, settings.kind, settings.num_classes)
    return dataset, conditions


def _copies(dataset: Any, data: Data) -> Any:
    """A data set with the changed copies of its pictures, if the recipe wants them.

    Raises:
        UserError: it is a stream, which has no numbers to tell copies by.
    """
    if data.augment is None:
        return dataset
    if isinstance(dataset, IterableDataset):
        raise UserError("data.augment: shards are read in a stream, augment a folder or Hugging Face data")
    augment = data.augment
    return AugmentedCopies(dataset, data.copies, augment.mirror, augment.shift, augment.scale)


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
    tokenizer = load_tokenizer(recipe)
    about, folder = describe(recipe, tokenizer), Path(recipe.cache)
    dataset, conditions = open_data(recipe.model_copy(update={"cache": False}), tokenizer)
    device = PartialState(cpu=not torch.accelerator.is_available()).device
    tokenizer.to(device)
    conditions.device = device
    data = recipe.data
    return folder, make_cache(
        folder, about, dataset, tokenizer, conditions, data.batch_size, data.workers, quiet
    )


def residual_scale(tokenizer: HybridTokenizer, dataset: Any, scaling: str) -> float | list[float]:
    """What residuals are divided by.

    Args:
        tokenizer: of the data.
        dataset: images, or their latents.
        scaling: ``quantile``, one number so that nearly all lie in [−1, 1]; or ``variance``, each channel's
            standard deviation.
    """
    samples = some_samples(dataset, MEASURED_SAMPLES)
    bucket = samples[0][1].get(BUCKET)
    values, _ = collate([sample for sample in samples if sample[1].get(BUCKET) == bucket])
    if isinstance(dataset, Latents | LatentCache):
        codes, targets = values[0].long(), values[1].float()
    else:
        codes, targets = encode_images(tokenizer, values.to(tokenizer.device))
    last = codes[:, -targets.shape[1] :].to(tokenizer.device)
    residual = targets.to(tokenizer.device) - tokenizer.quantizer.lookup(last).float()
    if scaling == "variance":
        deviations: list[float] = residual.flatten(0, 1).std(dim=0).clamp_min(LEAST_DEVIATION).tolist()
        return deviations
    return float(residual.abs().flatten()[:LARGEST_QUANTILE].quantile(RESIDUAL_SHARE_KEPT))


def encoded(
    tokenizer: HybridTokenizer, dataset: Any, batches: Iterator[Any]
) -> Iterator[tuple[Tensor, Tensor, list[dict[str, Any]]]]:
    """Codes (B, L), last targets (B, P², z) and records."""
    for values, records in batches:
        if isinstance(dataset, Latents | LatentCache):
            codes, targets = (part.to(tokenizer.device) for part in values)
            yield codes.long(), targets.float(), records
        else:
            yield *encode_images(tokenizer, values.to(tokenizer.device)), records
