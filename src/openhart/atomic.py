"""Writing files so that a reader finds all of one or none of it."""

import errno
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openhart.errors import UserError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` once the block has ended without an error.

    The temporary file lies in the same folder and has the same suffix; folders are made. What is no
    regular file, such as a device, is written directly.

    Raises:
        OSError: the folder or the file cannot be written.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem[:40]}-{secrets.token_hex(4)}{path.suffix}")
    try:  # the block makes the file, so that no interruption finds it unguarded
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of ``folder`` once the block has ended without an error.

    It lies beside the other; folders above are made.

    Raises:
        OSError: it cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name[:40]}-{secrets.token_hex(4)}")
    before = temporary.with_name(f"{temporary.name}-before")
    try:
        temporary.mkdir()
        yield temporary
        if folder.exists():
            folder.rename(before)
        temporary.rename(folder)
    finally:
        if before.exists() and not folder.exists():
            before.rename(folder)
        for left in (temporary, before):
            shutil.rmtree(left, ignore_errors=True)


def check_new_folder(folder: Path) -> None:
    """Look whether a folder may be made: it does not exist, or is empty.

    Raises:
        UserError: it is neither.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty: name a new folder")


@contextmanager
def folder_filled_whole(folder: Path) -> Iterator[Path]:
    """A folder to fill, whose entries enter ``folder`` once the block has ended without an error.

    An entry takes the place of one of the same name; others stay. Until then nothing is seen of it.

    Raises:
        OSError: it cannot be written.
    """
    folder = folder.absolute()
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "there is a file where a folder is to be made", str(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name[:40]}-", dir=folder.parent) as beside:
        new, old = Path(beside, "new"), Path(beside, "old")
        yield new
        if not folder.exists():
            new.rename(folder)
            return
        old.mkdir()
        for entry in new.iterdir():
            place = folder / entry.name
            if place.exists():
                place.rename(old / entry.name)
            entry.rename(place)


def check_writable(folder: Path) -> None:
    """Fail now if files could not be made in a folder, which need not exist yet.

    Raises:
        OSError: why not.
    """
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, f"cannot write there ({error.strerror})", str(folder)) from error
