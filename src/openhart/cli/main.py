"""Entry of the command line: parses, runs a command, turns failures into one sentence and an exit code.

Exit code 2 for wrong usage, 1 for failure, 130 for Ctrl-C, 143 for SIGTERM.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from openhart import __version__
from openhart.cli.convert import add_convert
from openhart.cli.data import add_data
from openhart.cli.evaluate.command import add_evaluate
from openhart.cli.generate import EXAMPLE, add_generate
from openhart.cli.info import add_info
from openhart.cli.options import UsageError
from openhart.cli.parser import OneSentenceParser, understand
from openhart.cli.reconstruct import add_reconstruct
from openhart.cli.serve import add_serve
from openhart.cli.streams import close_streams_quietly, let_streams_show_everything, one_line
from openhart.cli.train import add_train
from openhart.errors import UserError, reason
from openhart.interrupts import Stopped, sigterm_interrupts

TRACEBACK = "OPENHART_TRACEBACK"
COMMANDS = (
    add_generate, add_serve, add_reconstruct, add_info, add_convert, add_data, add_train, add_evaluate,
)  # fmt: skip
"""What adds each command; a command's parser names its action by ``set_defaults(run=…)``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    let_streams_show_everything()
    options = understand(build_parser(), arguments)
    try:
        _show_warnings_plainly()
        with sigterm_interrupts():
            options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
    except (UsageError, UserError) as error:
        _complain(str(error))
        return 2 if isinstance(error, UsageError) else 1
    except Stopped as stop:
        _complain(str(stop))
        return stop.status
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except BrokenPipeError:
        close_streams_quietly()
        return 1
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        _complain(f"{error.strerror or error}{where}")
        close_streams_quietly()
        return 1
    except Exception as error:
        if (message := _out_of_memory(error)) is None and os.environ.get(TRACEBACK):
            raise
        _complain(message or _unexpected(error))
        return 1
    return 0


def _out_of_memory(error: Exception) -> str | None:
    from openhart.memory import is_out_of_memory

    if not is_out_of_memory(error):
        return None
    return "the memory is exhausted: generate fewer or smaller images, or lower data.batch_size of the recipe"


def _unexpected(error: Exception) -> str:
    return (
        "this is a bug in OpenHART, not a mistake of yours: please report it with the output of the same "
        f"command with {TRACEBACK}=1 ({type(error).__name__}: {reason(error)})"
    )


def _complain(message: str) -> None:
    print(f"openhart: {one_line(message)}", file=sys.stderr)


def _show_warnings_plainly() -> None:
    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        _complain(f"warning: {message}")

    warnings.filterwarnings("ignore")
    shown = "the prompt was cut|cannot save|skipped an image|.* has been changed since|.* has no model_ema"
    warnings.filterwarnings("always", message=shown)
    warnings.showwarning = show


def build_parser() -> argparse.ArgumentParser:
    """The whole grammar of the command line."""
    parser = OneSentenceParser(
        prog="openhart",
        description="Generate images from text by next-scale prediction, train such models and measure them. "
        "openhart COMMAND --help explains a command.",
        epilog=f"example: {EXAMPLE}",
    )
    parser.add_argument(
        "--version", action="version", version=f"openhart {__version__}", help="Print the version."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    return parser
