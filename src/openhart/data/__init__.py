"""Reading images with captions or labels, and building a corpus of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openhart.errors import UserError


def open_dataset(path: str, *sizes: tuple[int, int], only: Mapping[str, Sequence[str]] | None = None) -> Any:
    """Open images with what is known of them.

    Args:
        path: a folder (:class:`openhart.data.images.ImageFolder`), webdataset shards, here or at a URL, in
            ``.tar``, ``.tar.gz`` or ``.tgz`` (:class:`openhart.data.shards.Shards`), or ``hf:`` and a
            Hugging Face data set (:class:`openhart.data.hugging_face.HuggingFaceImages`).
        sizes: height and width of the images handed out; of several (buckets), each image takes the one
            nearest to its aspect ratio, and its record says which under ``cut_to``.
        only: keep the records whose fields are among those listed; shards are read whole.

    Raises:
        UserError: there is nothing that can be read.
    """
    if not path.strip() or "\0" in path:
        raise UserError("give a folder of images, shards, or the address of a data set that begins with hf:")
    if path.startswith("hf:"):
        from openhart.data.hugging_face import HuggingFaceImages

        return HuggingFaceImages(path, *sizes, only=only)
    if path.endswith((".tar", ".tar.gz", ".tgz")):
        from openhart.data.shards import Shards

        if only:
            raise UserError("only: shards cannot be filtered by their records, so give a folder")
        return Shards(path, *sizes)
    from openhart.data.images import ImageFolder

    return ImageFolder(Path(path), *sizes, only=only)


def collate(samples: list[tuple[Any, dict[str, Any]]]) -> tuple[Any, list[dict[str, Any]]]:
    """Stack images (or latents) into a batch; leave records a list, since captions differ in number."""
    from torch.utils.data import default_collate

    values, records = zip(*samples, strict=True)
    return default_collate(list(values)), list(records)
