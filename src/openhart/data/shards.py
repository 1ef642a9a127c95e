"""Images with captions from webdataset shards (tar files), on a disk or wherever fsspec can read."""

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

from openhart.data.aspect import BUCKET, Size, log_aspect, nearest_size
from openhart.data.decoding import BrokenImageError, decode_image
from openhart.data.images import IMAGE_KINDS, to_tensor
from openhart.data.records import without_reserved_fields
from openhart.data.skipping import MAX_CONSECUTIVE, with_skipped
from openhart.errors import UserError, reason, require
from openhart.randomness import mixed_generator
from openhart.reading import parse_json

SHUFFLED_AT_A_TIME = 1000
MAX_SHARDS = 10**6
LONGEST_CLASS = 16  # bytes
RANGE = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})")
META = re.compile(r"__[^/]*__($|/)")  # files about the archive itself


class Shards(IterableDataset[Any]):
    """Samples of webdataset shards, once each, in order: an image with ``txt`` or ``json``.

    An image that cannot be read is left out; the record after it says so under ``in_place_of``.

    Args:
        pattern: shards, such as ``data/train-{000..099}.tar`` or ``s3://bucket/train-*.tar``; several
            patterns are joined by ``::``.
        sizes: height and width of the images handed out. Of several, each image takes the one nearest to its
            aspect ratio, and its record says which under ``cut_to``.

    Raises:
        UserError: a package is missing, or there is no such shard.
    """

    def __init__(self, pattern: str, *sizes: Size) -> None:
        require("webdataset", "fsspec", extra="train")
        from webdataset.shardlists import expand_urls

        self.sizes = sizes
        if math.prod(abs(int(last) - int(first)) + 1 for first, last in RANGE.findall(pattern)) > MAX_SHARDS:
            raise UserError(f"{pattern} stands for more than {MAX_SHARDS:,} shards")
        self.urls = [url for part in expand_urls(pattern) for url in _matching(part)]
        _check(self.urls)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, dict[str, Any]]]:
        """Yield image (3, H, W) in [−1, 1] and record.

        Raises:
            UserError: a shard cannot be read, or a sample has no image.
        """
        reader, readers = _worker()
        raw = itertools.chain.from_iterable(read_shard(url) for url in self.urls)
        decode_errors: list[str] = []
        yield from self.decode(itertools.islice(raw, reader, None, readers), decode_errors)
        for error in decode_errors:
            warnings.warn(f"skipped an image: {error}", stacklevel=2)

    def one_by_one(self) -> list["Shards"]:
        """Each shard by itself."""
        found = [copy.copy(self) for _ in self.urls]
        for shards, url in zip(found, self.urls, strict=True):
            shards.urls = [url]
        return found

    def decode(
        self, samples: Iterable[dict[str, Any]], decode_errors: list[str], size: Size | None = None
    ) -> Iterator[tuple[torch.Tensor, dict[str, Any]]]:
        """Images and records of raw samples, of their own size or a given one.

        Args:
            samples: as they lie in the shards.
            decode_errors: of broken images that no record tells of yet; the caller's, to carry over.
            size: of every image; by default the nearest to each.

        Raises:
            UserError: a sample has no image, or none of many in a row can be read.
        """
        for sample in samples:
            cut_to = size or nearest_size(self.aspect(sample), self.sizes)
            try:
                image, record = _decode(sample, cut_to)
            except BrokenImageError as error:
                decode_errors.append(str(error))
                if len(decode_errors) == MAX_CONSECUTIVE:
                    raise UserError(f"no image can be read; the first: {decode_errors[0]}") from error
                continue
            if len(self.sizes) > 1:
                record[BUCKET] = cut_to
            record = with_skipped(record, decode_errors)
            decode_errors.clear()
            yield image, record

    def aspect(self, sample: dict[str, Any]) -> float:
        """ln(height / width) of a raw sample's image; 0 where there is but one size, or no image."""
        kind = _image_kind(sample) if len(self.sizes) > 1 else None
        return 0.0 if kind is None else log_aspect(io.BytesIO(sample[kind]))


class ShardStream(IterableDataset[Any]):
    """Endless shuffled passes over shards, which goes on where its state says.

    Each pass takes the shards in a new order and shuffles within them, a thousand samples at a time.
    Processes and their workers share the shards out; if there are fewer than readers, the samples. What
    resuming reads again is at most one shard a reader.

    Args:
        shards: what to read.
        seed: of the order.
        rank: this process.
        world: number of processes.
    """

    def __init__(self, shards: Shards, seed: int, rank: int = 0, world: int = 1) -> None:
        self.shards, self.seed, self.rank, self.world = shards, seed, rank, world
        self.position = {"epoch": 0, "shard": 0, "sample": 0}

    def __iter__(self) -> Iterator[tuple[torch.Tensor, dict[str, Any]]]:
        """Yield image (3, H, W) in [−1, 1] and record, without end.

        Raises:
            UserError: a shard cannot be read, or none of its images.
        """
        return self.shards.decode(self.raw(), [])

    def state_dict(self) -> dict[str, int]:
        """The place of the next sample."""
        return dict(self.position)

    def load_state_dict(self, place: dict[str, int]) -> None:
        """Go on at a place."""
        self.position = dict(place)

    def raw(self) -> Iterator[dict[str, Any]]:
        """Samples as they lie in the shards, without end.

        Raises:
            UserError: as when iterating.
        """
        place = self.position
        while True:
            fresh, found = not (place["shard"] or place["sample"]), False
            for number, url, share in self._order(place["epoch"])[place["shard"] :]:
                for sample in self._shuffled(itertools.islice(read_shard(url), *share), number):
                    place["sample"] += 1
                    found = True
                    yield sample
                place["shard"], place["sample"] = place["shard"] + 1, 0
            if fresh and not found:
                raise UserError(f"no samples for one of the readers in {', '.join(self.shards.urls[:3])}")
            place["epoch"], place["shard"] = place["epoch"] + 1, 0

    def _order(self, epoch: int) -> list[tuple[int, str, tuple[int, None, int]]]:
        """Number, URL and share (first sample, step) of the shards that this reader takes in a pass."""
        worker, workers = _worker()
        reader, readers = self.rank * workers + worker, self.world * workers
        urls = self.shards.urls
        order = torch.randperm(len(urls), generator=mixed_generator(self.seed, epoch, 0, 0)).tolist()
        if len(urls) < readers:
            return [(number, urls[number], (reader, None, readers)) for number in order]
        return [(number, urls[number], (0, None, 1)) for number in order[reader::readers]]

    def _shuffled(self, samples: Iterator[dict[str, Any]], number: int) -> Iterator[dict[str, Any]]:
        """A shard's samples from the present one on, shuffled block by block."""
        past = self.position["sample"]
        for block_number in itertools.count(1):
            block = list(itertools.islice(samples, SHUFFLED_AT_A_TIME))
            if not block:
                return
            if past < len(block):
                generator = mixed_generator(self.seed, self.position["epoch"], number + 1, block_number)
                order = torch.randperm(len(block), generator=generator).tolist()
                yield from (block[index] for index in order[past:])
            past = max(past - len(block), 0)


def read_shard(url: str) -> Iterator[dict[str, Any]]:
    """Samples of one shard as webdataset groups them: endings → bytes, and ``__key__``.

    Raises:
        UserError: it cannot be read.
    """
    import fsspec
    from webdataset.tariterators import group_by_keys

    try:
        with fsspec.open(url, "rb") as stream:
            yield from group_by_keys(file | {"__url__": url} for file in _files(stream))
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise UserError(f"cannot read shard {url}: {reason(error)}") from error


def _files(stream: Any) -> Iterator[dict[str, Any]]:
    """Name and bytes of each file in an archive, in the form that webdataset groups; what they are is left to
    the caller."""
    with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Header) as archive:
        for header in archive:
            content = archive.extractfile(header) if header.isreg() else None
            if content is not None and not META.match(header.name):
                yield {"fname": header.name, "data": content.read()}
            archive.members = []  # type: ignore[attr-defined] # else it keeps all headers


class _Header(tarfile.TarInfo):
    """A file's header, of which a damaged or missing one is an error; tarfile takes it for the end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "_Header":
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"it is damaged or cut short ({error})") from error


def _matching(pattern: str) -> list[str]:
    """The shards that a pattern with ``*`` or ``?`` stands for, in order; another one is a shard itself."""
    if not any(sign in pattern for sign in "*?"):
        return [pattern]
    system, path = _system(pattern)
    found = sorted(system.glob(path))
    if not found:
        raise UserError(f"there is no shard {pattern}")
    return [system.unstrip_protocol(name) if "://" in pattern else name for name in found]


def _check(urls: list[str]) -> None:
    """Look for the first of the shards, so that a wrong pattern is told at once."""
    system, path = _system(urls[0])
    if not system.exists(path):
        raise UserError(f"there is no shard {urls[0]}")


def _system(url: str) -> tuple[Any, str]:
    """What reads a URL, and the path it knows it by."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, OSError, ValueError) as error:  # an ImportError says which package is missing
        raise UserError(f"cannot read {url}: {reason(error)}") from error
    return system, path


def _decode(sample: dict[str, Any], size: Size) -> tuple[torch.Tensor, dict[str, Any]]:
    name = f"{sample['__url__']}/{sample['__key__']}"
    kind = _image_kind(sample)
    if kind is None:
        raise UserError(f"sample {name} has no image: it needs {', '.join(IMAGE_KINDS)}")
    try:
        record = (
            without_reserved_fields(parse_json(sample["json"].decode(), "its json"))
            if "json" in sample
            else {}
        )
        if "txt" in sample:
            record["text"] = sample["txt"].decode()
        if "cls" in sample:
            record["label"] = _class_of(sample["cls"])
    except ValueError as error:
        raise UserError(f"sample {name} has a record that cannot be read: {reason(error)}") from error
    record.setdefault("file_name", f"{sample['__key__']}.{kind}")
    return to_tensor(decode_image(sample[kind], name), size), record


def _class_of(content: bytes) -> int:
    if not content.strip().isdigit() or len(content) > LONGEST_CLASS:
        raise UserError(f"its cls must be a whole number from 0 on, got {content[:40]!r}")
    return int(content)


def _image_kind(sample: dict[str, Any]) -> str | None:
    return next((kind for kind in IMAGE_KINDS if kind in sample), None)


def _worker() -> tuple[int, int]:
    """Number of this loading worker, and of all."""
    info = get_worker_info()
    return (info.id, info.num_workers) if info else (0, 1)
