"""Reading images with captions or labels, and building a corpus of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from openhart.errors import UserError

if TYPE_CHECKING:
    from openhart.data.sample import Sample

Value = TypeVar("Value")
SHARD_ENDINGS = (".tar", ".tar.gz", ".tgz")


def open_dataset(
    path: str | Sequence[str], *sizes: tuple[int, int], only: Mapping[str, Sequence[str]] | None = None
) -> Any:
    """Open a data set of images and their records.

    Args:
        path: a folder (:class:`openhart.data.images.ImageFolder`), webdataset shards, here or at a URL, in
            ``.tar``, ``.tar.gz`` or ``.tgz`` (:class:`openhart.data.shards.Shards`), or ``hf:`` and a
            Hugging Face data set (:class:`openhart.data.hugging_face.HuggingFaceImages`). Several of them are
            joined (:class:`openhart.data.joined.JoinedDatasets`), but no shards.
        sizes: height and width in pixels to which images are scaled and cropped. With several sizes
            (buckets), each image gets the size nearest to its aspect ratio, which its sample states as
            ``size``.
        only: allowed values per field; records with other values are omitted. Shards do not support it.

    Returns:
        a :class:`~openhart.data.sample.Dataset` of images (3, H, W) in [−1, 1], or, of shards, a
        :class:`~openhart.data.sample.Stream`.

    Raises:
        UserError: if the path is empty, if the data set does not exist or cannot be read, if no record has
            the allowed values, or if ``only`` is given for shards.
    """
    if not isinstance(path, str):
        return _join(path, *sizes, only=only)
    if not path.strip() or "\0" in path:
        raise UserError("give a folder of images, shards, or the address of a data set that begins with hf:")
    if path.startswith("hf:"):
        from openhart.data.hugging_face import HuggingFaceImages

        return HuggingFaceImages(path, *sizes, only=only)
    if path.endswith(SHARD_ENDINGS):
        from openhart.data.shards import Shards

        if only:
            raise UserError("only: shards cannot be filtered by their records; use a folder instead")
        return Shards(path, *sizes)
    from openhart.data.images import ImageFolder

    return ImageFolder(Path(path), *sizes, only=only)


def _join(
    paths: Sequence[str], *sizes: tuple[int, int], only: Mapping[str, Sequence[str]] | None = None
) -> Any:
    """Several data sets as one; a path that occurs several times is opened once."""
    from openhart.data.joined import JoinedDatasets

    if not paths:
        raise UserError("give at least one data set")
    for path in paths:
        if path.endswith(SHARD_ENDINGS):
            raise UserError(f"{path} is read as a stream of shards and cannot be joined with other data sets")
    opened = {path: open_dataset(path, *sizes, only=only) for path in dict.fromkeys(paths)}
    return JoinedDatasets([opened[path] for path in paths])


def collate(pairs: "list[tuple[Value, Sample]]") -> "tuple[Any, list[Sample]]":
    """Stack images (or latents) into a batch; samples stay a list because they differ in their fields."""
    from torch.utils.data import default_collate

    values, samples = zip(*pairs, strict=True)
    return default_collate(list(values)), list(samples)
