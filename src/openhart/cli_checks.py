"""What the command line checks of itself: typed options, flags in messages, streams that show everything."""

import argparse
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, get_type_hints

from openhart.generation.settings import MANY, SAMPLING, SamplingSettings

LARGEST_SEED = 2**63 - 1


def sampling_flag(name: str) -> str:
    """The option of a sampling setting, such as ``--top-k``."""
    return "--" + (SAMPLING[name].flag or name).replace("_", "-")


FLAGS = {
    **{name: sampling_flag(name) for name in SAMPLING},
    "class_labels": "--label",
    "height and width": "--height and --width",
    "image sides": "--height and --width",
}


class UsageError(Exception):
    """A command line that cannot mean anything: exit code 2."""


class OneSentenceParser(argparse.ArgumentParser):
    """A parser that tells what is wrong without repeating the whole grammar."""

    def error(self, message: str) -> NoReturn:
        """Exit with 2."""
        self.exit(2, f"{self.prog}: {one_line(message)} (see {self.prog} --help)\n")


def whole(least: int, most: int) -> Callable[[str], int]:
    """An option's type: a whole number in a range."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"must be a whole number of {least} to {most}, got {text[:40]!r}"
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
    """An option's type: a text in UTF-8, also where the locale does not say so."""
    try:
        return os.fsencode(value).decode()
    except UnicodeError as error:
        raise argparse.ArgumentTypeError(f"must be a text in UTF-8, got {value[:40]!a}") from error


def named(value: str) -> str:
    """An option's type: the name of a model or of data."""
    place(value)
    return text(value)


def text_or_file(value: str) -> str:
    """An option's type: a text, or, after ``@``, the file that holds it."""
    if not value.startswith("@"):
        return text(value)
    try:
        return Path(value[1:]).read_bytes().decode()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {value[1:]}: {error.strerror}") from error
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{value[1:]} is not a text in UTF-8") from error


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add an option per sampling setting, with the help text and the range of its declaration."""
    group = parser.add_argument_group(
        "sampling", "Settings that are left out have the model's own defaults (openhart info)."
    )
    kinds = get_type_hints(SamplingSettings)
    for name, declared in SAMPLING.items():
        flag, text = sampling_flag(name), declared.help.replace("%", "%%")
        if kinds[name] is bool:
            group.add_argument(flag, dest=name, action=argparse.BooleanOptionalAction, help=text)
        elif declared.choices:
            group.add_argument(flag, choices=declared.choices, help=text)
        elif kinds[name] in (int, int | None):
            kind = whole(int(declared.least or 0), int(declared.most or MANY))
            group.add_argument(flag, type=kind, metavar=declared.metavar, help=text)
        else:
            several = None if kinds[name] is float else "+"
            group.add_argument(flag, type=number, nargs=several, metavar=declared.metavar, help=text)


def in_flags(message: str) -> str:
    """A message about Python's arguments in the words of the command line."""
    for name, flag in FLAGS.items():
        message = re.sub(rf"(?<![\w/.-]){name}(?![\w/.-])", flag, message)
    return message.removeprefix("sampling: ")


def understand(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line whose prompts, or values of a recipe, may stand between options.

    Exits with 2 where something is left that means nothing.
    """
    options, rest = parser.parse_known_args(arguments)
    name = {"generate": "prompts", "train": "overrides", "data": "overrides"}.get(options.command, "")
    escaped = "--" in rest
    unknown = [] if escaped else [word for word in rest if word.startswith("-") and word != "-"]
    words = [word for word in rest if word != "--"]
    if name == "overrides":
        unknown += [word for word in words if "=" not in word]
    if words and (unknown or not hasattr(options, name)):
        parser.error(f"unrecognized arguments: {' '.join(unknown or words)}")
    if words:
        try:
            setattr(options, name, [*getattr(options, name), *map(text, words)])
        except argparse.ArgumentTypeError as error:
            parser.error(f"{words[0]!a}: {error}")
    return options


def let_streams_show_everything() -> None:
    """Write what a stream's encoding lacks as an escape, such as ``\\u00e9``, rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def close_streams_quietly() -> None:
    """Once nobody reads the output any more, let Python's exit not complain of it."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(nothing, stream.fileno())
        except (OSError, ValueError, AttributeError):
            continue


def one_line(message: str) -> str:
    """A message without line breaks and without characters that would steer a terminal."""
    words = " ".join(message.split())
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in words)
