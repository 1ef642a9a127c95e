"""Types and checks of options, and the options that several commands share."""

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

LARGEST_SEED = 2**63 - 1
MANY = 10**6


class UsageError(Exception):
    """The command line is wrong: exit code 2."""


def whole(least: int, most: int) -> Callable[[str], int]:
    """An option's type: a whole number in a range."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {least} to {most}, got {text[:40]!r}"
            )
        return value

    return parse


def number(text: str) -> float:
    """An option's type: a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {text[:40]!r}")
    return value


def positive(text: str) -> float:
    """An option's type: a finite number above 0."""
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"must be greater than 0, got {text[:40]!r}")
    return value


def place(text: str) -> Path:
    """An option's type: a file or a folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must name a file or a folder, got an empty text")
    return Path(text)


def text(value: str) -> str:
    """An option's type: a text in UTF-8, whatever the locale is."""
    try:
        return os.fsencode(value).decode()
    except UnicodeError as error:
        raise argparse.ArgumentTypeError(f"must be a text in UTF-8, got {value[:40]!a}") from error


def named(value: str) -> str:
    """An option's type: the name of a model or of data."""
    place(value)
    return text(value)


def text_or_file(value: str) -> str:
    """An option's type: a text, or, after ``@``, the file that contains it."""
    if not value.startswith("@"):
        return text(value)
    try:
        return Path(value[1:]).read_bytes().decode()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {value[1:]}: {error.strerror}") from error
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{value[1:]} is not a text in UTF-8") from error


def add_command(commands: Any, name: str, sentence: str, example: str = "") -> argparse.ArgumentParser:
    """Add a command that is described by a full sentence and, in its help, by an example."""
    epilog = f"example: {example}" if example else None
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=sentence, description=sentence, epilog=epilog
    )
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``."""
    parser.add_argument(
        "--model",
        type=named,
        metavar="MODEL",
        help="Folder or Hugging Face id of the model (default: the packaged model).",
    )


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Add ``--quiet``."""
    parser.add_argument("--quiet", action="store_true", help="Print only errors, and show no progress bar.")
