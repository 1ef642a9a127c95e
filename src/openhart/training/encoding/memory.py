"""Encoding of images, and a data set that is encoded once and kept in memory."""

import itertools
from collections.abc import Iterator
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
from openhart.tokenizer.model import HybridTokenizer


@torch.no_grad()
def encode_images(tokenizer: HybridTokenizer, images: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) in [−1, 1] → codes of all scales (B, L), continuous target (B, P², z)."""
    quantized = tokenizer.quantize(tokenizer.encode(images))
    return torch.cat(quantized.codes, dim=1), quantized.continuous_target.flatten(2).transpose(1, 2)


class Latents(data.Dataset[Any]):
    """A data set encoded once: codes in int32, targets in bfloat16, and the samples.

    Args:
        tokenizer: the trained image tokenizer.
        dataset: images (3, H, W) in [−1, 1].
        batch_size: images encoded at a time.
        workers: processes that read images.
        quiet: show no progress bar.
    """

    def __init__(
        self,
        tokenizer: HybridTokenizer,
        dataset: Dataset[Tensor],
        batch_size: int,
        workers: int,
        quiet: bool = False,
    ) -> None:
        self.codes: dict[int, Tensor] = {}
        self.targets: dict[int, Tensor] = {}
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
            codes, targets = encode_images(tokenizer, images.to(tokenizer.device))
            broken.note(samples)
            rows = zip(codes.to(torch.int32).cpu(), targets.to(torch.bfloat16).cpu(), samples, strict=True)
            for row in rows:
                place = next(places)
                self.codes[place], self.targets[place], self.samples[place] = row

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, Tensor], Sample]:
        return (self.codes[index], self.targets[index]), self.samples[index]

    def bucket(self, index: int) -> Size | None:
        """The size of a sample, if there are several."""
        return self.samples[index].size

    def all_samples(self) -> list[Sample]:
        """What is known of all samples."""
        return [self.samples[index] for index in range(len(self))]


def _batched(values: list[int], size: int) -> Iterator[list[int]]:
    """Parts of at most ``size`` values; itertools has this from Python 3.12 on."""
    return (values[start : start + size] for start in range(0, len(values), size))
