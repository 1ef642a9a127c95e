"""The options of sampling, made from the declarations of the settings."""

import argparse
import re
from typing import Any, get_type_hints

from openhart.cli.options import UsageError, number, whole
from openhart.errors import UserError
from openhart.generation.settings import MANY, SAMPLING, SamplingSettings


def sampling_flag(name: str) -> str:
    """The option of a sampling setting, such as ``--top-k``."""
    return "--" + (SAMPLING[name].flag or name).replace("_", "-")


FLAGS = {
    **{name: sampling_flag(name) for name in SAMPLING},
    "class_labels": "--label",
    "height and width": "--height and --width",
    "image sides": "--height and --width",
}


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
    """A message about arguments of Python, with the names of the command line's options."""
    for name, flag in FLAGS.items():
        message = re.sub(rf"(?<![\w/.-]){name}(?![\w/.-])", flag, message)
    return message.removeprefix("sampling: ")


def given_sampling(options: argparse.Namespace) -> dict[str, Any]:
    """The sampling settings that the command line gives.

    Raises:
        UsageError: one of them is outside its range.
    """
    values = {name: getattr(options, name, None) for name in SAMPLING}
    given = {name: value for name, value in values.items() if value is not None}
    try:
        SamplingSettings(**given)
    except UserError as error:
        raise UsageError(in_flags(str(error))) from error
    return given
