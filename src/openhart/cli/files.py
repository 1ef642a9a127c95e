"""Files that commands write: their names are checked before any work."""

from pathlib import Path

from openhart.atomic import check_writable
from openhart.cli.options import UsageError
from openhart.image_io import FORMATS


def check_file_path(path: Path) -> None:
    """Check, before any work, that a file can be written.

    Raises:
        UsageError: it is a folder.
        OSError: its folder cannot be written.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file")
    if path.is_file() or not path.exists():
        check_writable(path.parent)


def check_image_path(path: Path) -> None:
    """Check, before any work, that an image can be written.

    Raises:
        UsageError: it is a folder, or its suffix is not that of an image format.
        OSError: its folder cannot be written.
    """
    regular = path.is_file() or not path.exists()
    if regular and path.suffix.lower() not in FORMATS:
        raise UsageError(f"an image file ends in {', '.join(FORMATS)}, got {path}")
    check_file_path(path)
