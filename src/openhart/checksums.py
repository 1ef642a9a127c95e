"""Sizes and checksums of files, written with them, so that a damaged file is noticed when it is read.

CRC-32 finds what disks and transfers break. It is no signature: whoever changes a file can change its
checksum.
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
    """The CRC-32 of a file's content, eight hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    found = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            found = zlib.crc32(chunk, found)
    return f"{found:08x}"


def record_of(folder: Path, names: list[str]) -> dict[str, Record]:
    """Size and checksum of files in a folder, by their names."""
    with ThreadPoolExecutor() as pool:
        sums = list(pool.map(crc32, [folder / name for name in names]))
    return {
        name: {"bytes": (folder / name).stat().st_size, "crc32": found}
        for name, found in zip(names, sums, strict=True)
    }


def changed_files(folder: Path, recorded: dict[str, Record]) -> list[str]:
    """Names of recorded files that are missing or not as they were written."""
    there = [name for name in recorded if (folder / name).is_file()]
    now = record_of(folder, there)
    return [name for name, record in recorded.items() if now.get(name) != record]


def write_checksums(folder: Path) -> None:
    """Record weights and settings of a model folder, or of a part alone, in its ``checksums.json``."""
    places = ["*", "*/*"] if (folder / "model_index.json").is_file() else ["*"]
    paths = sorted(path for place in places for path in folder.glob(place))
    kept = [path for path in paths if path.suffix in (".safetensors", ".json") and path.name != FILE]
    recorded = record_of(folder, [path.relative_to(folder).as_posix() for path in kept])
    (folder / FILE).write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


def check_checksums(folder: Path, excluded_parts: Collection[str] = ()) -> list[Path]:
    """Hold a model folder, or a part of one, against its ``checksums.json``, if it has any.

    Args:
        folder: of the model or the part.
        excluded_parts: parts of the model that are left out, since they are looked at when they are loaded.

    Returns:
        settings that were changed since, which may have been on purpose: :func:`warn_of_changes` says so.

    Raises:
        UserError: weights are not as they were written.
    """
    home = folder if (folder / FILE).is_file() else folder.parent
    if not (home / FILE).is_file():
        return []
    start = "" if folder == home else f"{folder.name}/"
    recorded = {
        name: record
        for name, record in _read(home / FILE).items()
        if name.startswith(start) and name.partition("/")[0] not in excluded_parts
    }
    changed = [home / name for name in changed_files(home, recorded)]
    if weights := [path for path in changed if path.suffix == ".safetensors"]:
        raise UserError(
            f"{weights[0]} is missing, damaged or was changed after it was saved: get it anew, or delete "
            f"{home / FILE} if the change is meant"
        )
    return changed


def warn_of_changes(settings: list[Path]) -> None:
    """Warn of settings that were changed since their model was saved."""
    if settings:
        warnings.warn(f"{settings[0]} has been changed since the model was saved", stacklevel=2)


def _read(path: Path) -> dict[str, Record]:
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged: get it anew, or delete it to load without checks") from error
    if not isinstance(recorded, dict):
        raise UserError(f"{path} must hold a JSON object: get it anew, or delete it to load without checks")
    return recorded
