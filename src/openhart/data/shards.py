"""Images with captions or labels from webdataset shards (tar files), at any path or URL that fsspec reads."""

import copy
import io
import itertools
import math
import re
import tarfile
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from openhart.data.aspect import Size, log_aspect, nearest_size
from openhart.data.decoding import BrokenImageError, decode_image
from openhart.data.images import IMAGE_KINDS, to_tensor
from openhart.data.sample import Sample, without_reserved
from openhart.data.skipping import MAX_CONSECUTIVE
from openhart.errors import UserError, reason, require
from openhart.randomness import mixed_generator
from openhart.reading import parse_json

SHUFFLE_BLOCK = 1000
MAX_SHARDS = 10**6
MAX_LABEL_BYTES = 16
RANGE = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})")
META = re.compile(r"__[^/]*__($|/)")  # files about the archive itself


class Shards(IterableDataset[Any]):
    """Samples of webdataset shards, once each, in order.

    A sample is an image with ``txt`` (caption), ``cls`` (label) or ``json`` (record). An image that cannot be
    decoded is skipped; the next sample states its error in ``decode_errors``.

    Args:
        pattern: shards, such as ``data/train-{000..099}.tar`` or ``s3://bucket/train-*.tar``; several
            patterns are joined by ``::``.
        sizes: height and width in pixels to which images are scaled and cropped. With several sizes, each
            image gets the size nearest to its aspect ratio, which its sample states as ``size``.

    Raises:
        UserError: if a package is missing, if a pattern matches no shard or too many, or if the first shard
            does not exist.
    """

    def __init__(self, pattern: str, *sizes: Size) -> None:
        require("webdataset", "fsspec", extra="train")
        from webdataset.shardlists import expand_urls

        self.sizes = sizes
        if math.prod(abs(int(last) - int(first)) + 1 for first, last in RANGE.findall(pattern)) > MAX_SHARDS:
            raise UserError(f"{pattern} matches more than {MAX_SHARDS:,} shards, which is the limit")
        self.urls = [url for part in expand_urls(pattern) for url in _matching(part)]
        _check(self.urls)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Sample]]:
        """Yield image (3, H, W) in [−1, 1] and sample.

        Raises:
            UserError: if a shard cannot be read, if a sample has no image or no valid record, or if many
                consecutive images cannot be decoded.
        """
        reader, readers = _worker()
        raw = itertools.chain.from_iterable(read_shard(url) for url in self.urls)
        decode_errors: list[str] = []
        yield from self.decode(itertools.islice(raw, reader, None, readers), decode_errors)
        for error in decode_errors:
            warnings.warn(f"skipped an image: {error}", stacklevel=2)

    def one_by_one(self) -> list["Shards"]:
        """One data set per shard."""
        single = [copy.copy(self) for _ in self.urls]
        for shards, url in zip(single, self.urls, strict=True):
            shards.urls = [url]
        return single

    def decode(
        self, samples: Iterable[dict[str, Any]], decode_errors: list[str], size: Size | None = None
    ) -> Iterator[tuple[torch.Tensor, Sample]]:
        """Decode raw samples.

        Args:
            samples: raw samples, as :func:`read_shard` yields them.
            decode_errors: errors of skipped images that no sample states yet. The list belongs to the caller
                and is changed in place, so that errors are carried over to the next call.
            size: height and width of every image; None for the size nearest to each aspect ratio.

        Raises:
            UserError: if a sample has no image or no valid record, or if :data:`MAX_CONSECUTIVE` consecutive
                images cannot be decoded.
        """
        for sample in samples:
            cut_to = size or nearest_size(self.aspect(sample), self.sizes)
            try:
                image, fields = _decode(sample, cut_to)
            except BrokenImageError as error:
                decode_errors.append(str(error))
                if len(decode_errors) == MAX_CONSECUTIVE:
                    raise UserError(f"no image can be read; the first error: {decode_errors[0]}") from error
                continue
            found = Sample(fields, cut_to if len(self.sizes) > 1 else None, tuple(decode_errors))
            decode_errors.clear()
            yield image, found

    def aspect(self, sample: dict[str, Any]) -> float:
        """ln(height / width) of a raw sample's image; 0 if there is only one size, or no image."""
        kind = _image_kind(sample) if len(self.sizes) > 1 else None
        return 0.0 if kind is None else log_aspect(io.BytesIO(sample[kind]))


class ShardStream(IterableDataset[Any]):
    """Infinite shuffled stream of the samples of shards that can be resumed from its state.

    Each pass reads the shards in a new random order and shuffles blocks of a thousand samples within each
    shard. A reader is a data loader's worker in one process. Shards are divided among the readers; if there
    are fewer shards than readers, the samples of each shard are. Resuming reads at most one shard per reader
    again.

    Args:
        shards: the data set.
        seed: seed of the order.
        rank: index of this process, from 0.
        world: number of processes.
    """

    def __init__(self, shards: Shards, seed: int, rank: int = 0, world: int = 1) -> None:
        self.shards, self.seed, self.rank, self.world = shards, seed, rank, world
        self.position = {"epoch": 0, "shard": 0, "sample": 0}

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Sample]]:
        """Yield image (3, H, W) in [−1, 1] and sample, without end.

        Raises:
            UserError: as :meth:`Shards.__iter__`, or if a reader has no samples.
        """
        return self.shards.decode(self.raw(), [])

    def state_dict(self) -> dict[str, int]:
        """Position of the next sample."""
        return dict(self.position)

    def load_state_dict(self, position: dict[str, int]) -> None:
        """Continue at a position from :meth:`state_dict`."""
        self.position = dict(position)

    def raw(self) -> Iterator[dict[str, Any]]:
        """Yield raw samples without end.

        Raises:
            UserError: if a shard cannot be read, or if a whole pass yields no sample for this reader.
        """
        position = self.position
        while True:
            whole_pass, empty = not (position["shard"] or position["sample"]), True
            for number, url, subset in self._order(position["epoch"])[position["shard"] :]:
                for sample in self._shuffled(itertools.islice(read_shard(url), *subset), number):
                    position["sample"] += 1
                    empty = False
                    yield sample
                position["shard"], position["sample"] = position["shard"] + 1, 0
            if whole_pass and empty:
                urls = ", ".join(self.shards.urls[:3])
                raise UserError(
                    f"no samples in {urls} for one of the loading workers: use fewer workers or more samples"
                )
            position["epoch"], position["shard"] = position["epoch"] + 1, 0

    def _order(self, epoch: int) -> list[tuple[int, str, tuple[int, None, int]]]:
        """Number, URL and subset (first sample, None, step) of each shard of this reader, for one pass."""
        worker, workers = _worker()
        reader, readers = self.rank * workers + worker, self.world * workers
        urls = self.shards.urls
        order = torch.randperm(len(urls), generator=mixed_generator(self.seed, epoch, 0, 0)).tolist()
        if len(urls) < readers:
            return [(number, urls[number], (reader, None, readers)) for number in order]
        return [(number, urls[number], (0, None, 1)) for number in order[reader::readers]]

    def _shuffled(self, samples: Iterator[dict[str, Any]], number: int) -> Iterator[dict[str, Any]]:
        """The samples of a shard, shuffled block by block, without those before the current position."""
        passed = self.position["sample"]
        for block_number in itertools.count(1):
            block = list(itertools.islice(samples, SHUFFLE_BLOCK))
            if not block:
                return
            if passed < len(block):
                generator = mixed_generator(self.seed, self.position["epoch"], number + 1, block_number)
                order = torch.randperm(len(block), generator=generator).tolist()
                yield from (block[index] for index in order[passed:])
            passed = max(passed - len(block), 0)


def read_shard(url: str) -> Iterator[dict[str, Any]]:
    """Yield the raw samples of one shard as webdataset groups them: suffix → bytes, ``__key__``, ``__url__``.

    Raises:
        UserError: if the shard cannot be read or is damaged.
    """
    import fsspec
    from webdataset.tariterators import group_by_keys

    try:
        with fsspec.open(url, "rb") as stream:
            yield from group_by_keys(file | {"__url__": url} for file in _files(stream))
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise UserError(f"cannot read shard {url}: {reason(error)}") from error


def _files(stream: Any) -> Iterator[dict[str, Any]]:
    """Name and content of each file in an archive, in the form that webdataset groups."""
    with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Header) as archive:
        for header in archive:
            content = archive.extractfile(header) if header.isreg() else None
            if content is not None and not META.match(header.name):
                yield {"fname": header.name, "data": content.read()}
            archive.members = []  # type: ignore[attr-defined] # otherwise tarfile keeps all headers


class _Header(tarfile.TarInfo):
    """Header of a file; a damaged header is an error, whereas tarfile treats it as the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "_Header":
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"it is damaged or cut short ({error})") from error


def _matching(pattern: str) -> list[str]:
    """The shards that match a pattern with ``*`` or ``?``, in order; any other text is the URL of a shard."""
    if not any(sign in pattern for sign in "*?"):
        return [pattern]
    system, path = _system(pattern)
    matches = sorted(system.glob(path))
    if not matches:
        raise UserError(f"there is no shard {pattern}: check the path")
    return [system.unstrip_protocol(name) if "://" in pattern else name for name in matches]


def _check(urls: list[str]) -> None:
    """Check that the first shard exists, so that a wrong pattern is reported before training."""
    system, path = _system(urls[0])
    if not system.exists(path):
        raise UserError(f"there is no shard {urls[0]}: check the path")


def _system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path within it."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, OSError, ValueError) as error:  # an ImportError names the missing package
        raise UserError(f"cannot read {url}: {reason(error)}") from error
    return system, path


def _decode(sample: dict[str, Any], size: Size) -> tuple[torch.Tensor, dict[str, Any]]:
    name = f"{sample['__url__']}/{sample['__key__']}"
    kind = _image_kind(sample)
    if kind is None:
        raise UserError(f"sample {name} has no image: it needs a file of type {', '.join(IMAGE_KINDS)}")
    try:
        stored = parse_json(sample["json"].decode(), "its json") if "json" in sample else {}
        record = without_reserved(stored)
        if "txt" in sample:
            record["text"] = sample["txt"].decode()
        if "cls" in sample:
            record["label"] = _class_of(sample["cls"])
    except ValueError as error:
        raise UserError(f"sample {name} has a record that cannot be read: {reason(error)}") from error
    record.setdefault("file_name", f"{sample['__key__']}.{kind}")
    return to_tensor(decode_image(sample[kind], name), size), record


def _class_of(content: bytes) -> int:
    if not content.strip().isdigit() or len(content) > MAX_LABEL_BYTES:
        raise UserError(f"its cls must be a whole number, at least 0, got {content[:40]!r}")
    return int(content)


def _image_kind(sample: dict[str, Any]) -> str | None:
    return next((kind for kind in IMAGE_KINDS if kind in sample), None)


def _worker() -> tuple[int, int]:
    """Index of this loading worker, and the number of workers."""
    info = get_worker_info()
    return (info.id, info.num_workers) if info else (0, 1)
