"""Images with captions from webdataset shards (tar files)."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import IterableDataset

from openhart.data.images import to_tensor
from openhart.errors import UserError

SHUFFLED_AT_A_TIME = 1000


class Shards(IterableDataset):
    """Samples of webdataset shards: ``jpg``, ``png`` or ``webp``, with ``txt`` or ``json``.

    Args:
        pattern: shards, such as ``data/train-{000..099}.tar``.
        size: height and width of the images handed out.
        seed: of the order.

    Raises:
        UserError: webdataset is not installed.
    """

    def __init__(self, pattern: str, size: tuple[int, int], seed: int = 0) -> None:
        try:
            import webdataset as wds
        except ImportError as error:
            raise UserError("shards need more packages: pip install 'openhart[train]'") from error
        self.size = size
        self.pipeline = (
            wds.WebDataset(
                pattern,
                shardshuffle=100,
                seed=seed,
                nodesplitter=wds.split_by_node,
                workersplitter=wds.split_by_worker,
                empty_check=False,
            )
            .shuffle(SHUFFLED_AT_A_TIME, seed=seed)
            .decode("pil")
        )

    def __iter__(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """Yield image (3, H, W) in [−1, 1] and record.

        Raises:
            UserError: a sample without an image, or a shard that is missing.
        """
        try:
            for sample in self.pipeline:
                yield self._read(sample)
        except OSError as error:
            raise UserError(f"cannot read a shard: {error}") from error

    def _read(self, sample: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        record = dict(sample.get("json") or {})
        if "txt" in sample:
            record["text"] = sample["txt"]
        record.setdefault("file_name", sample["__key__"])
        for ending in ("png", "jpg", "jpeg", "webp"):
            if ending in sample:
                return to_tensor(sample[ending], self.size), record
        raise UserError(f"sample {sample['__key__']} of a shard has no image")
