"""Codes, targets and text states of a data set on disk, so that training a generator runs no encoder.

A cache is a folder: ``cache.json`` says what it was made of and, once whole, how many samples it has;
``part-N.safetensors`` and ``part-N.jsonl`` hold them.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from tqdm.auto import tqdm

from openhart.data import collate
from openhart.data.broken import BrokenImages, Sturdy
from openhart.errors import UserError
from openhart.output import written_whole
from openhart.tokenizer.model import HybridTokenizer
from openhart.training.batches import plainly
from openhart.training.config import Conditioning, GeneratorRecipe
from openhart.training.latents import TextConditions, captions_of, encode_images, label_of

ABOUT = "cache.json"
SAMPLES_A_PART = 2048
CAPTIONS_AT_A_TIME = 64
PLACE = "place_in_cache"


class LatentCache(Dataset):
    """A whole cache, its parts mapped into memory as they are touched.

    Args:
        folder: where it lies.
        wanted: what it must have been made of, as :func:`describe` says.

    Raises:
        UserError: there is none, it is not whole, or it was made of something else.
    """

    def __init__(self, folder: Path, wanted: dict[str, Any]) -> None:
        if not (folder / ABOUT).is_file():
            raise UserError(f"there is no cache in {folder}: make it with `openhart data cache RECIPE`")
        about = json.loads((folder / ABOUT).read_text())
        check_same(folder, about, wanted)
        if "samples" not in about:
            raise UserError(f"the cache {folder} is not whole: finish it with `openhart data cache RECIPE`")
        self.folder, self.context = folder, about["context"]
        self.lines = [line for part in range(about["parts"]) for line in _jsonl(folder, part).open("rb")]
        self.part = lru_cache(about["parts"])(self._load)

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, Tensor], dict[str, Any]]:
        number, row = divmod(index, SAMPLES_A_PART)
        part = self.part(number)
        return (part["codes"][row], part["targets"][row]), json.loads(self.lines[index])

    def condition(self, record: dict[str, Any], choice: int) -> tuple[Tensor, Tensor]:
        """Context (T, D) and mask (T,) of one of a record's captions."""
        number, rows = record[PLACE]
        part = self.part(number)
        return part["context"][rows[choice]], part["mask"][rows[choice]]

    def _load(self, number: int) -> dict[str, Tensor]:
        return load_file(_tensors(self.folder, number))


class CachedConditions(TextConditions):
    """Context tokens out of a cache; the text encoder is loaded only for sample pictures."""

    def __init__(self, settings: Conditioning, cache: LatentCache) -> None:
        super().__init__(settings)
        self.cache = cache

    def shape(self) -> dict[str, int]:
        """Channels and positions of the context."""
        return self.cache.context

    def of(self, records: Sequence[dict[str, Any]], choices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """One caption of each record → context (B, T, D), mask (B, T)."""
        pairs = [self.cache.condition(*pair) for pair in zip(records, choices, strict=True)]
        context, mask = (torch.stack(column) for column in zip(*pairs, strict=True))
        return context.float(), mask


def describe(recipe: GeneratorRecipe, tokenizer: HybridTokenizer) -> dict[str, Any]:
    """What a cache for this recipe is made of; two caches of the same description are interchangeable."""
    text = {"text_encoder", "max_tokens", "instruction"} if recipe.conditioning.kind == "text" else set()
    return {
        "tokenizer": digest(tokenizer),
        "scales": [list(size) for size in tokenizer.quantizer.scales],
        "data": recipe.data.model_dump(include={"train", "only"}),
        "conditioning": recipe.conditioning.model_dump(include={"kind"} | text),
    }


def check_same(folder: Path, about: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Hold what a cache was made of against what is wanted.

    Raises:
        UserError: they differ.
    """
    for name, value in wanted.items():
        if about.get(name) != value:
            if name == "tokenizer":
                raise UserError(f"the cache {folder} was made by another tokenizer: name another folder")
            raise UserError(
                f"the cache {folder} was made with {name} {about.get(name)}, the recipe has {value}: name "
                "another folder"
            )


def digest(tokenizer: HybridTokenizer) -> str:
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
    tokenizer: HybridTokenizer,
    conditions: TextConditions | None,
    batch_size: int,
    workers: int,
    quiet: bool = False,
) -> int:
    """Encode a data set into a folder; a cache that was begun is finished.

    Args:
        folder: where to.
        about: what it is made of, as :func:`describe` says.
        dataset: images and records.
        tokenizer: the image tokenizer.
        conditions: encodes captions, or None if records have labels.
        batch_size: images encoded at a time.
        workers: processes that read images.
        quiet: show no progress bar.

    Returns:
        Number of samples.

    Raises:
        UserError: the folder holds a cache of something else, or a record lacks its caption or label.
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = json.loads((folder / ABOUT).read_text()) if (folder / ABOUT).is_file() else about
    check_same(folder, known, about)
    if "samples" in known:
        return known["samples"]
    _write_about(folder, about)
    done = next(number for number in itertools.count() if not _tensors(folder, number).is_file())
    samples, total = _samples(dataset, done * SAMPLES_A_PART, workers)
    broken, count, number = BrokenImages(), done * SAMPLES_A_PART, done
    with tqdm(desc="encoding", initial=count, total=total, disable=quiet) as bar:
        while batches := list(
            _encoded(itertools.islice(samples, SAMPLES_A_PART), tokenizer, batch_size, bar)
        ):
            codes, targets, records = zip(*batches, strict=True)
            flat = list(itertools.chain.from_iterable(records))
            broken.note(flat)
            _write_part(folder, number, torch.cat(codes), torch.cat(targets), flat, conditions)
            count, number = count + len(flat), number + 1
    if not count:
        raise UserError("the data set has no samples")
    context = conditions.shape() if conditions else None
    _write_about(folder, about | {"samples": count, "parts": number, "context": context})
    return count


def _samples(dataset: Any, done: int, workers: int) -> tuple[Iterator[Any], int | None]:
    """Images and records from ``done`` on, and how many there are in all if that is known."""
    if isinstance(dataset, IterableDataset):
        loader = DataLoader(dataset, batch_size=None, num_workers=min(workers, 1))
        return itertools.islice(plainly(loader), done, None), None
    rest = Subset(Sturdy(dataset), range(min(done, len(dataset)), len(dataset)))
    return plainly(DataLoader(rest, batch_size=None, num_workers=workers)), len(dataset)


def _encoded(
    samples: Iterator[Any], tokenizer: HybridTokenizer, batch_size: int, bar: Any
) -> Iterator[tuple[Tensor, Tensor, list[dict[str, Any]]]]:
    """Batches of the next part."""
    samples = itertools.islice(samples, SAMPLES_A_PART)
    while batch := list(itertools.islice(samples, batch_size)):
        images, records = collate(batch)
        codes, targets = encode_images(tokenizer, images.to(tokenizer.device))
        yield codes.to(torch.int32).cpu(), targets.to(torch.bfloat16).cpu(), records
        bar.update(len(records))


def _write_part(
    folder: Path,
    number: int,
    codes: Tensor,
    targets: Tensor,
    records: list[dict[str, Any]],
    conditions: TextConditions | None,
) -> None:
    tensors = {"codes": codes, "targets": targets}
    if conditions is None:
        for record in records:
            label_of(record)
    else:
        rows: dict[str, int] = {}
        for record in records:
            places = [rows.setdefault(caption, len(rows)) for caption in captions_of(record)]
            record[PLACE] = [number, places]
        tensors |= _states(list(rows), conditions)
    with written_whole(_jsonl(folder, number)) as path:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    with written_whole(_tensors(folder, number)) as path:  # last, since it says that the part is there
        save_file(tensors, path)


def _states(captions: list[str], conditions: TextConditions) -> dict[str, Tensor]:
    """Context of captions; its padding too, which the transformer sees."""
    starts = range(0, len(captions), CAPTIONS_AT_A_TIME)
    pairs = [conditions(captions[start : start + CAPTIONS_AT_A_TIME]) for start in starts]
    context, mask = (torch.cat(column) for column in zip(*pairs, strict=True))
    return {"context": context.to(torch.bfloat16), "mask": mask}


def _write_about(folder: Path, about: dict[str, Any]) -> None:
    with written_whole(folder / ABOUT) as path:
        path.write_text(json.dumps(about, indent=1) + "\n")


def _tensors(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.safetensors"


def _jsonl(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.jsonl"
