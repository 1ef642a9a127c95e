"""Atomic writing: a file or folder appears only when it is complete."""

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
    """Yield a temporary path that is renamed to ``path`` when the block ends without an error.

    The temporary file is in the same folder and has the same suffix; missing parent folders are created. If
    ``path`` exists and is not a regular file (a device, for example), ``path`` itself is yielded.

    Raises:
        OSError: if the folder or the file cannot be written.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem[:40]}-{secrets.token_hex(4)}{path.suffix}")
    try:  # the block creates the file, so an interruption at any time removes it
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """Yield a new temporary folder that replaces ``folder`` when the block ends without an error.

    The temporary folder is in the same parent folder; missing parent folders are created. An existing
    ``folder`` is deleted with its content after the replacement.

    Raises:
        OSError: if the folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name[:40]}-{secrets.token_hex(4)}")
    backup = temporary.with_name(f"{temporary.name}-before")
    try:
        temporary.mkdir()
        yield temporary
        _readable_like_the_folder(temporary)
        if folder.exists():
            folder.rename(backup)
        temporary.rename(folder)
    finally:
        if backup.exists() and not folder.exists():
            backup.rename(folder)
        for remaining in (temporary, backup):
            shutil.rmtree(remaining, ignore_errors=True)


def check_new_folder(folder: Path) -> None:
    """Check that a folder does not exist or is empty.

    Raises:
        UserError: if the folder contains something, or if the path is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty: give a new folder")


@contextmanager
def folder_filled_whole(folder: Path) -> Iterator[Path]:
    """Yield a path for a temporary folder whose entries move into ``folder`` when the block ends without an
    error.

    The block creates the temporary folder. An entry replaces an existing one of the same name; other existing
    entries stay. After an error in the block, ``folder`` is unchanged.

    Raises:
        OSError: if the folder cannot be written.
    """
    folder = folder.absolute()
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "a file has the name of the new folder", str(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name[:40]}-", dir=folder.parent) as beside:
        new, old = Path(beside, "new"), Path(beside, "old")
        yield new
        _readable_like_the_folder(new)
        if not folder.exists():
            new.rename(folder)
            return
        old.mkdir()
        for entry in new.iterdir():
            target = folder / entry.name
            if target.exists():
                target.rename(old / entry.name)
            entry.rename(target)


def _readable_like_the_folder(folder: Path) -> None:
    """Let who may read a folder read its files too; safetensors creates them for their owner alone."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_mode & 0o777 == 0o600:
            path.chmod(mode)


def check_writable(folder: Path) -> None:
    """Check that files can be created in a folder, or in its nearest existing parent if it does not exist.

    Raises:
        OSError: if no file can be created; the message states the reason.
    """
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, f"cannot write there ({error.strerror})", str(folder)) from error
