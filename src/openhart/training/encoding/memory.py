"""What the generator learns from: codes and the last scale's target of each sample.

The tokenizer is frozen, so a map-style data set is encoded once and kept; a stream is encoded batch by batch.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset
from tqdm.auto import tqdm

from openhart.data import collate
from openhart.data.aspect import BUCKET, Size
from openhart.data.records import check_records
from openhart.data.skipping import BrokenImages, SkipBrokenDataset
from openhart.interrupts import outlive_interrupts
from openhart.tokenizer.model import HybridTokenizer


@torch.no_grad()
def encode_images(tokenizer: HybridTokenizer, images: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) → codes of all scales in a row (B, L), last target (B, P², z)."""
    quantized = tokenizer.quantize(tokenizer.encode(images))
    return torch.cat(quantized.codes, dim=1), quantized.continuous_target.flatten(2).transpose(1, 2)


def check_data(dataset: Any, kind: str, classes: int | None) -> None:
    """Look for a caption or a label in every record that is known before reading, and read one sample.

    Args:
        dataset: images and records.
        kind: ``text`` or ``label``.
        classes: how many classes there are; None for any number.

    Raises:
        UserError: a record has none, or one that cannot be used, or no image can be read.
    """
    if hasattr(dataset, "all_records"):
        check_records(dataset.all_records(), kind, classes)
    check_records([record for _, record in some_samples(dataset, 1)], kind, classes)


def some_samples(dataset: Any, count: int) -> list[tuple[Tensor, dict[str, Any]]]:
    """At most ``count`` samples, spread over a data set; of a stream, the first."""
    if isinstance(dataset, IterableDataset):
        return list(itertools.islice(dataset, count))
    stride = max(len(dataset) // count, 1)
    readable = SkipBrokenDataset(dataset)
    return [readable[index] for index in range(0, len(dataset), stride)[:count]]


class Latents(Dataset[Any]):
    """A data set encoded once: targets in bfloat16, records as they were.

    Args:
        tokenizer: the trained image tokenizer.
        dataset: map-style, of images and records.
        batch_size: images encoded at a time.
        workers: processes that read images.
        quiet: show no progress bar.
    """

    def __init__(
        self,
        tokenizer: HybridTokenizer,
        dataset: Any,
        batch_size: int,
        workers: int,
        quiet: bool = False,
    ) -> None:
        self.codes: dict[int, Tensor] = {}
        self.targets: dict[int, Tensor] = {}
        self.records: list[dict[str, Any]] = [{}] * len(dataset)
        readable, broken = SkipBrokenDataset(dataset), BrokenImages()
        order = sorted(range(len(readable)), key=lambda index: str(readable.bucket(index)))
        groups = [list(group) for _, group in itertools.groupby(order, readable.bucket)]
        loader = DataLoader(
            readable,
            batch_sampler=[part for group in groups for part in _batched(group, batch_size)],
            num_workers=workers,
            collate_fn=collate,
            worker_init_fn=outlive_interrupts,
            generator=torch.Generator(),  # so that weights start alike however the data was read
        )
        places = iter(order)
        for images, records in tqdm(loader, desc="encoding", disable=quiet):
            codes, targets = encode_images(tokenizer, images.to(tokenizer.device))
            broken.note(records)
            rows = zip(codes.to(torch.int32).cpu(), targets.to(torch.bfloat16).cpu(), records, strict=True)
            for row in rows:
                place = next(places)
                self.codes[place], self.targets[place], self.records[place] = row

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, Tensor], dict[str, Any]]:
        return (self.codes[index], self.targets[index]), self.records[index]

    def bucket(self, index: int) -> Size | None:
        """The size of a sample, where there are several."""
        return self.records[index].get(BUCKET)


def _batched(values: list[int], size: int) -> Iterator[list[int]]:
    """Parts of at most ``size`` values; itertools has this from Python 3.12 on."""
    return (values[start : start + size] for start in range(0, len(values), size))
