"""Caches on disk: encoded images and text states of a data set, so that training runs no encoder.

A cache is a folder: ``cache.json`` states what it was made from and, once it is complete, the number of
samples; ``part-N.safetensors`` and ``part-N.jsonl`` hold the samples of a shard or of a range of a data set.
"""

import hashlib
import itertools
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm.auto import tqdm

from openhart.data.aspect import Size
from openhart.data.sample import Sample
from openhart.data.shards import Shards
from openhart.data.skipping import BrokenImages, SkipBrokenDataset
from openhart.errors import UserError
from openhart.interrupts import outlive_interrupts
from openhart.training.encoding.conditions import Conditions
from openhart.training.encoding.files import (
    ABOUT,
    PartTensors,
    read_about,
    read_records,
    records_path,
    tensors_path,
    write_about,
    write_part,
)
from openhart.training.encoding.images import STORED, Encoded, Tokenizer, encode_images, to_stored
from openhart.training.generator.recipe import GeneratorRecipe
from openhart.training.run.batches import reraise_worker_errors

SAMPLES_A_PART = 2048


class LatentCache(Dataset[Any]):
    """A complete cache; its parts are mapped into memory when they are first used.

    Args:
        folder: of the cache.
        wanted: what it must have been made from, by :func:`describe`.

    Raises:
        UserError: if there is none, or if it is damaged, incomplete or made from something else.
    """

    def __init__(self, folder: Path, wanted: dict[str, Any]) -> None:
        about = read_about(folder)
        check_same(folder, about, wanted)
        if "samples" not in about:
            raise UserError(f"the cache {folder} is not whole: finish it with `openhart data cache RECIPE`")
        self.folder, self.context = folder, about["context"]
        parts = [read_records(folder, part) for part in range(about["parts"])]
        self.starts = list(itertools.accumulate((len(lines) for lines in parts), initial=0))[:-1]
        self.lines = list(itertools.chain.from_iterable(parts))
        self.rows = None
        if wanted["data"]["buckets"]:
            self.rows = [row for lines in parts for row in _rows(lines)]
        self.part = lru_cache(about["parts"])(partial(PartTensors, folder))

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> tuple[Encoded, Sample]:
        number = bisect_right(self.starts, index) - 1
        row = index - self.starts[number]
        part, sample = self.part(number), Sample.from_record(json.loads(self.lines[index]))
        if self.rows is not None:
            row = self.rows[index][1]
        ending = _ending(sample.size)
        names = [name for name in STORED if name + ending in part.tensors]
        return {name: part.row(name + ending, row) for name in names}, sample

    def all_samples(self) -> Iterator[Sample]:
        """What is known of every sample without its tensors."""
        return (Sample.from_record(json.loads(line)) for line in self.lines)

    def bucket(self, index: int) -> Size | None:
        """The size of a sample, if there are several."""
        return None if self.rows is None else self.rows[index][0]

    def condition(self, sample: Sample, choice: int) -> tuple[Tensor, Tensor]:
        """Context (T, D) and mask (T,) of one of a sample's captions."""
        assert sample.cache_rows is not None
        number, rows = sample.cache_rows
        part = self.part(number)
        return part.row("context", rows[choice]), part.row("mask", rows[choice])


def describe(recipe: GeneratorRecipe, tokenizer: Tokenizer) -> dict[str, Any]:
    """What a cache for this recipe is made from; two caches with equal descriptions are interchangeable."""
    copies = recipe.data.model_dump(mode="json", include={"augment", "copies"}, exclude_defaults=True)
    return {
        "tokenizer": digest(tokenizer),
        "scales": [list(size) for size in recipe.latent_sizes(tokenizer)],
        "data": recipe.data.model_dump(mode="json", include={"train", "only", "buckets"}) | copies,
        "conditioning": recipe.conditioning.identity(),
    }


def check_same(folder: Path, about: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Check that a cache was made from what is wanted.

    Raises:
        UserError: if they differ.
    """
    for name, value in wanted.items():
        if about.get(name) != value:
            if name == "tokenizer":
                raise UserError(f"the cache {folder} was made by another tokenizer: name another folder")
            raise UserError(
                f"the cache {folder} was made with {name} {about.get(name)}, the recipe has {value}: name "
                "another folder"
            )


def digest(tokenizer: Tokenizer) -> str:
    """SHA-256 of a tokenizer's weights."""
    found = hashlib.sha256()
    for name, tensor in sorted(tokenizer.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


@torch.no_grad()
def make_cache(
    folder: Path,
    about: dict[str, Any],
    dataset: Any,
    tokenizer: Tokenizer,
    conditions: Conditions,
    batch_size: int,
    workers: int,
    quiet: bool = False,
) -> int:
    """Encode a data set into a folder; a cache that was begun is completed. Several processes share the
    parts.

    Args:
        folder: of the cache.
        about: what it is made from, by :func:`describe`.
        dataset: images and samples.
        tokenizer: the image tokenizer.
        conditions: encodes the captions, or checks the labels.
        batch_size: images encoded at a time.
        workers: reading processes per encoding process.
        quiet: show no progress bar.

    Returns:
        The number of samples.

    Raises:
        UserError: if the folder holds a cache of something else, or if a sample has no caption or label.
        OSError: if the folder cannot be written.
    """
    state = PartialState()
    known = read_about(folder) if (folder / ABOUT).is_file() else about
    check_same(folder, known, about)
    if "samples" in known:
        return int(known["samples"])
    state.wait_for_everyone()  # before one of them writes what all have looked at
    if state.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        write_about(folder, about)
    state.wait_for_everyone()
    parts, broken = _parts(dataset), BrokenImages()
    mine = range(state.process_index, len(parts), state.num_processes)
    rest = [number for number in mine if not tensors_path(folder, number).is_file()]
    with tqdm(desc="encoding", total=_total(parts, rest), disable=quiet or not state.is_main_process) as bar:
        for number in rest:
            pairs = reraise_worker_errors(_one_by_one(parts[number], workers))
            tensors, samples = _encoded(pairs, tokenizer, batch_size, bar)
            broken.note(samples)
            contexts, samples = conditions.store(number, samples)
            write_part(folder, number, tensors | contexts, [sample.to_record() for sample in samples])
    state.wait_for_everyone()
    count = sum(len(records_path(folder, number).read_bytes().splitlines()) for number in range(len(parts)))
    if not count:
        raise UserError("the data set has no samples")
    if state.is_main_process:
        context = conditions.shape()
        write_about(folder, about | {"samples": count, "parts": len(parts), "context": context})
    return count


def _one_by_one(part: Any, workers: int) -> DataLoader[Any]:
    """A part's images and samples."""
    return DataLoader(part, batch_size=None, num_workers=workers, worker_init_fn=outlive_interrupts)


def _parts(dataset: Any) -> list[Any]:
    """The parts of a data set that are encoded and stored together."""
    if isinstance(dataset, Shards):
        return dataset.one_by_one()
    starts = range(0, len(dataset), SAMPLES_A_PART)
    ranges = [range(start, min(start + SAMPLES_A_PART, len(dataset))) for start in starts]
    return [Subset(SkipBrokenDataset(dataset), places) for places in ranges]


def _total(parts: list[Any], numbers: list[int]) -> int | None:
    """Samples in some of the parts, if that is known."""
    if any(isinstance(part, Shards) for part in parts):
        return None
    return sum(len(parts[number]) for number in numbers)


def _encoded(
    pairs: Iterator[tuple[Tensor, Sample]], tokenizer: Tokenizer, batch_size: int, bar: Any
) -> tuple[dict[str, Tensor], list[Sample]]:
    """The encoding of a part, grouped by size, and the samples in their order."""
    samples: list[Sample] = []
    waiting: dict[Size | None, list[Tensor]] = {}
    encoded: dict[Size | None, list[Encoded]] = {}

    def encode(size: Size | None) -> None:
        images = torch.stack(waiting.pop(size)).to(tokenizer.device)
        encoded.setdefault(size, []).append(to_stored(encode_images(tokenizer, images)))
        bar.update(len(images))

    for image, sample in pairs:
        samples.append(sample)
        size = sample.size
        waiting.setdefault(size, []).append(image)
        if len(waiting[size]) == batch_size:
            encode(size)
    for size in list(waiting):
        encode(size)
    tensors: dict[str, Tensor] = {}
    for size, batches in encoded.items():
        for name in batches[0]:
            tensors[name + _ending(size)] = torch.cat([batch[name] for batch in batches])
    return tensors, samples


def _rows(lines: list[bytes]) -> list[tuple[Size, int]]:
    """Size of each sample of a part, and its row among the samples of this size."""
    found: list[tuple[Size, int]] = []
    rows: Counter[Size] = Counter()
    for size in (Sample.from_record(json.loads(line)).size for line in lines):
        assert size is not None
        found.append((size, rows[size]))
        rows[size] += 1
    return found


def _ending(size: Size | None) -> str:
    """The end of a tensor's name for images of this size, if there are several."""
    return "" if size is None else f".{size[0]}x{size[1]}"
