"""The parser of the command line: one sentence per mistake, and values that may stand between options."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from openhart.cli.options import text
from openhart.cli.streams import one_line


class OneSentenceParser(argparse.ArgumentParser):
    """A parser that states what is wrong without repeating the whole grammar."""

    def error(self, message: str) -> NoReturn:
        """Exit with 2."""
        self.exit(2, f"{self.prog}: {one_line(message)} (see {self.prog} --help)\n")


def understand(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line whose prompts, or values of a recipe, may stand between options.

    A command that allows this names the list of such values by ``set_defaults(between_options=…)``.
    Exits with 2 if an argument is left over.
    """
    options, rest = parser.parse_known_args(arguments)
    name = getattr(options, "between_options", "")
    escaped = "--" in rest
    unknown = [] if escaped else [word for word in rest if word.startswith("-") and word != "-"]
    words = [word for word in rest if word != "--"]
    if name == "overrides":
        unknown += [word for word in words if "=" not in word]
    if words and (unknown or not name):
        parser.error(f"unrecognized arguments: {' '.join(unknown or words)}")
    if words:
        try:
            setattr(options, name, [*getattr(options, name), *map(text, words)])
        except argparse.ArgumentTypeError as error:
            parser.error(f"{words[0]!a}: {error}")
    return options
