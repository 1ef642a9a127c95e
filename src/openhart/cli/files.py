"""Files that commands write: their names are checked before any work."""

from pathlib import Path

from openhart.atomic import check_writable
from openhart.cli.options import UsageError
from openhart.image_io import FORMATS


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
    if regular and path.suffix.lower() not in FORMATS:
        raise UsageError(f"an image file ends in {', '.join(FORMATS)}, got {path}")
    check_file_path(path)
