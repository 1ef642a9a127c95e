"""Files that commands write: names are checked before any work, and no half-written file is left."""

from pathlib import Path
from typing import Any

from openhart.atomic import check_writable, written_whole
from openhart.cli.options import UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def check_file_path(path: Path) -> None:
    """Fail now if a file cannot be written.

    Raises:
        UsageError: it is a folder.
        OSError: its folder cannot be written.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder, a file is needed")
    if path.is_file() or not path.exists():
        check_writable(path.parent)


def check_image_path(path: Path) -> None:
    """Fail now if an image cannot be written.

    Raises:
        UsageError: it is a folder, or has a suffix that is no image's.
        OSError: its folder cannot be written.
    """
    regular = path.is_file() or not path.exists()
    if regular and path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"an image file ends in {', '.join(SUFFIXES)}, got {path}")
    check_file_path(path)


def save_image(image: Any, path: Path) -> None:
    """Write a PIL image in the format of the file's suffix."""
    kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}.get(path.suffix.lower(), "PNG")
    with written_whole(path) as temporary, temporary.open("wb") as file:
        image.save(file, kind)
