"""Images that are decoded once and kept in memory, on the device that uses them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import data
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from openhart.data.aspect import Size
from openhart.data.sample import Dataset, Sample
from openhart.data.skipping import BrokenImages, SkipBrokenDataset
from openhart.image_io import to_bytes
from openhart.interrupts import outlive_interrupts

AT_A_TIME = 256


class ImagesInMemory(data.Dataset[Any]):
    """A data set of images of one size, kept as 8-bit values: 3·H·W bytes per image.

    Reading and decoding each image in every epoch takes longer than a training step on a GPU.

    Args:
        dataset: images (3, H, W) in [−1, 1].
        workers: processes that read images.
        device: where the images are kept and batches are made.
        quiet: show no progress bar.

    Raises:
        UserError: if many consecutive images cannot be decoded.
    """

    def __init__(
        self, dataset: Dataset[Tensor], workers: int, device: torch.device, quiet: bool = True
    ) -> None:
        readable, broken = SkipBrokenDataset(dataset), BrokenImages()
        loader = DataLoader(
            readable,
            batch_size=AT_A_TIME,
            num_workers=workers,
            collate_fn=_to_bytes,
            worker_init_fn=outlive_interrupts,
            generator=torch.Generator(),  # so that reading does not change initial weights
        )
        parts: list[Tensor] = []
        self.samples: list[Sample] = []
        for pixels, samples in tqdm(loader, desc="decoding", disable=quiet):
            parts.append(pixels.to(device))
            self.samples += samples
            broken.note(samples)
        self.pixels = torch.cat(parts)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Sample]:
        images, samples = self.take([index])
        return images[0], samples[0]

    def take(self, indices: Sequence[int]) -> tuple[Tensor, list[Sample]]:
        """A batch: images (B, 3, H, W) in [−1, 1], on the device, and their samples."""
        pixels = self.pixels[torch.tensor(indices, device=self.pixels.device)]
        images = pixels.movedim(-1, -3).contiguous().float() / 127.5 - 1
        return images, [self.samples[index] for index in indices]

    def all_samples(self) -> list[Sample]:
        """What is known of all images."""
        return self.samples

    def bucket(self, index: int) -> Size | None:
        """The size of an image if there are several, which is never so."""
        return self.samples[index].size


def _to_bytes(pairs: list[tuple[Tensor, Sample]]) -> tuple[Tensor, list[Sample]]:
    """Images (B, H, W, 3) as 8-bit values, and their samples."""
    images, samples = zip(*pairs, strict=True)
    return torch.from_numpy(to_bytes(torch.stack(images))), list(samples)
