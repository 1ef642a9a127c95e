"""A data set that is encoded once and kept in memory."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import data
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from openhart.data import collate
from openhart.data.aspect import Size
from openhart.data.sample import Dataset, Sample
from openhart.data.skipping import BrokenImages, SkipBrokenDataset
from openhart.interrupts import outlive_interrupts
from openhart.training.encoding.images import Encoded, Tokenizer, encode_images, to_stored


class Latents(data.Dataset[Any]):
    """A data set encoded once, and its samples.

    Args:
        tokenizer: the trained image tokenizer.
        dataset: images (3, H, W) in [−1, 1].
        batch_size: images encoded at a time.
        workers: processes that read images.
        quiet: show no progress bar.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        dataset: Dataset[Tensor],
        batch_size: int,
        workers: int,
        quiet: bool = False,
    ) -> None:
        self.encoded: dict[int, Encoded] = {}
        self.samples: dict[int, Sample] = {}
        readable, broken = SkipBrokenDataset(dataset), BrokenImages()
        order = sorted(range(len(readable)), key=lambda index: str(readable.bucket(index)))
        groups = [list(group) for _, group in itertools.groupby(order, readable.bucket)]
        loader = DataLoader(
            readable,
            batch_sampler=[part for group in groups for part in _batched(group, batch_size)],
            num_workers=workers,
            collate_fn=collate,
            worker_init_fn=outlive_interrupts,
            generator=torch.Generator(),  # so that reading does not change initial weights
        )
        places = iter(order)
        for images, samples in tqdm(loader, desc="encoding", disable=quiet):
            encoded = to_stored(encode_images(tokenizer, images.to(tokenizer.device)))
            broken.note(samples)
            for row, sample in enumerate(samples):
                place = next(places)
                self.encoded[place] = {name: part[row] for name, part in encoded.items()}
                self.samples[place] = sample

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Encoded, Sample]:
        return self.encoded[index], self.samples[index]

    def take(self, indices: Sequence[int]) -> tuple[Any, list[Sample]]:
        """A batch of encodings, by name, and their samples."""
        return collate([self[index] for index in indices])

    def bucket(self, index: int) -> Size | None:
        """The size of a sample, if there are several."""
        return self.samples[index].size

    def all_samples(self) -> list[Sample]:
        """What is known of all samples."""
        return [self.samples[index] for index in range(len(self))]


def _batched(values: list[int], size: int) -> Iterator[list[int]]:
    """Parts of at most ``size`` values; itertools has this from Python 3.12 on."""
    return (values[start : start + size] for start in range(0, len(values), size))
