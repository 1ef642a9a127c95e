"""Sizes and checksums of files, saved beside them, so that damage is detected when they are read.

CRC-32 detects errors of disks and transfers. It is not a signature: anyone who changes a file can also change
its checksum.
"""

import json
import warnings
import zlib
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from openhart.errors import UserError

FILE = "checksums.json"
CHUNK = 1 << 22

Record = dict[str, Any]


def crc32(path: Path) -> str:
    """The CRC-32 of a file's content, as eight hexadecimal digits.

    Raises:
        OSError: if the file cannot be read.
    """
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return f"{checksum:08x}"


def record_of(folder: Path, names: list[str]) -> dict[str, Record]:
    """Size in bytes and checksum of files in a folder, by their names."""
    with ThreadPoolExecutor() as pool:
        sums = list(pool.map(crc32, [folder / name for name in names]))
    return {
        name: {"bytes": (folder / name).stat().st_size, "crc32": checksum}
        for name, checksum in zip(names, sums, strict=True)
    }


def changed_files(folder: Path, recorded: dict[str, Record]) -> list[str]:
    """Names of recorded files that are missing or differ from their record."""
    present = [name for name in recorded if (folder / name).is_file()]
    current = record_of(folder, present)
    return [name for name, record in recorded.items() if current.get(name) != record]


def write_checksums(folder: Path) -> None:
    """Write ``checksums.json`` for the safetensors and JSON files of a pipeline folder or of one model."""
    patterns = ["*", "*/*"] if (folder / "model_index.json").is_file() else ["*"]
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern))
    files = [path for path in paths if path.suffix in (".safetensors", ".json") and path.name != FILE]
    recorded = record_of(folder, [path.relative_to(folder).as_posix() for path in files])
    (folder / FILE).write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


def check_checksums(folder: Path, excluded_parts: Collection[str] = ()) -> list[Path]:
    """Compare the files of a pipeline folder, or of one of its parts, with ``checksums.json`` if it exists.

    Args:
        folder: folder of the pipeline, of a model, or of a part; the file of a part may be in its parent.
        excluded_parts: subfolders that are not compared, because each is compared when it is loaded.

    Returns:
        settings files that were changed after saving, possibly on purpose; see :func:`warn_of_changes`.

    Raises:
        UserError: if a weight file is missing or was changed, or if ``checksums.json`` is damaged.
    """
    root = folder if (folder / FILE).is_file() else folder.parent
    if not (root / FILE).is_file():
        return []
    prefix = "" if folder == root else f"{folder.name}/"
    recorded = {
        name: record
        for name, record in _read(root / FILE).items()
        if name.startswith(prefix) and name.partition("/")[0] not in excluded_parts
    }
    changed = [root / name for name in changed_files(root, recorded)]
    if weights := [path for path in changed if path.suffix == ".safetensors"]:
        raise UserError(
            f"{weights[0]} is missing, damaged or was changed after it was saved: download or copy it again, "
            f"or delete {root / FILE} if the change is intended"
        )
    return changed


def warn_of_changes(settings: list[Path]) -> None:
    """Warn that a settings file was changed after its model was saved; nothing if the list is empty."""
    if settings:
        warnings.warn(f"{settings[0]} has been changed since the model was saved", stacklevel=2)


def _read(path: Path) -> dict[str, Record]:
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is damaged: download or copy it again, or delete it to load without checks"
        ) from error
    if not isinstance(recorded, dict):
        raise UserError(
            f"{path} must hold a JSON object: download or copy it again, or delete it to load without checks"
        )
    return recorded
