"""The files of a cache, written completely or not at all, with checksums by which damage is noticed.

``cache.json`` and the records of each part have one checksum; tensors have one per row, which is compared
when the row is used, since reading a large cache at the start would take long.
"""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from openhart.atomic import written_whole
from openhart.errors import UserError

ABOUT = "cache.json"
CHECK = "crc32"


def tensors_path(folder: Path, number: int) -> Path:
    """Path of a part's tensors."""
    return folder / f"part-{number:05d}.safetensors"


def records_path(folder: Path, number: int) -> Path:
    """Path of a part's records, one per line."""
    return folder / f"part-{number:05d}.jsonl"


def write_about(folder: Path, about: dict[str, Any]) -> None:
    """Write what a cache is made from and, once it is complete, its number of samples."""
    with written_whole(folder / ABOUT) as path:
        path.write_text(json.dumps(about | {CHECK: _sum_of(about)}, indent=1) + "\n", encoding="utf-8")


def read_about(folder: Path) -> dict[str, Any]:
    """Read what :func:`write_about` wrote.

    Raises:
        UserError: if the file is missing or damaged.
    """
    path = folder / ABOUT
    if not path.is_file():
        raise UserError(f"there is no cache in {folder}: make it with `openhart data cache RECIPE`")
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        good = about.pop(CHECK) == _sum_of(about)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path) from error
    if not good:
        raise _damaged(path)
    return about


def write_part(
    folder: Path, number: int, tensors: dict[str, Tensor], records: Sequence[dict[str, Any]]
) -> None:
    """Write a part's records and, last, its tensors, whose file marks the part as complete.

    Args:
        folder: the cache.
        number: of the part.
        tensors: by name, rows first.
        records: one per sample.
    """
    lines = "".join(json.dumps(record) + "\n" for record in records).encode()
    with written_whole(records_path(folder, number)) as path:
        path.write_bytes(lines)
    checks = {
        f"{CHECK}.{name}": torch.tensor([row_sum(row) for row in rows]) for name, rows in tensors.items()
    }
    with written_whole(tensors_path(folder, number)) as path:
        save_file(tensors | checks, path, metadata={CHECK: f"{zlib.crc32(lines):08x}"})


def read_records(folder: Path, number: int) -> list[bytes]:
    """The lines of a part's records; of the tensors' file only the header is read.

    Raises:
        UserError: if a file is missing, incomplete or damaged.
    """
    path = tensors_path(folder, number)
    try:
        with safe_open(path, "pt") as file:
            wanted = (file.metadata() or {}).get(CHECK)
        lines = records_path(folder, number).read_bytes()
    except (OSError, SafetensorError) as error:
        raise _damaged(path) from error
    if wanted != f"{zlib.crc32(lines):08x}":
        raise _damaged(records_path(folder, number))
    return lines.splitlines()


class PartTensors:
    """The tensors of a part, mapped into memory.

    Args:
        folder: the cache.
        number: of the part.

    Raises:
        UserError: if the file is incomplete or damaged.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.path = tensors_path(folder, number)
        try:
            self.tensors = load_file(self.path)
        except (OSError, SafetensorError) as error:
            raise _damaged(self.path) from error

    def row(self, name: str, index: int) -> Tensor:
        """One row of a tensor.

        Raises:
            UserError: if its checksum differs.
        """
        row = self.tensors[name][index]
        if row_sum(row) != int(self.tensors[f"{CHECK}.{name}"][index]):
            raise _damaged(self.path)
        return row


def row_sum(row: Tensor) -> int:
    """The CRC-32 of a tensor's bytes."""
    return zlib.crc32(row.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _sum_of(about: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(about, sort_keys=True).encode()):08x}"


def _damaged(path: Path) -> UserError:
    again = "`openhart data cache RECIPE`"
    if path.name == ABOUT:
        return UserError(f"{path} is damaged or of an earlier version: delete it and run {again} again")
    return UserError(
        f"{path} is missing, damaged or of an earlier version: delete it and {ABOUT}, and run {again} again"
    )
