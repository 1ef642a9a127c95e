"""The command line: parses, calls, prints.

Exit code 2 for wrong usage, 1 for failure, 130 for Ctrl-C, 143 for SIGTERM.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from openhart import __version__
from openhart.cli_checks import (
    LARGEST_SEED,
    OneSentenceParser,
    UsageError,
    add_sampling,
    close_streams_quietly,
    let_streams_show_everything,
    named,
    one_line,
    place,
    positive,
    text,
    text_or_file,
    understand,
    whole,
)
from openhart.cli_commands import COMMANDS
from openhart.cli_evaluate import add_evaluate, evaluate
from openhart.errors import UserError, reason
from openhart.interrupts import Stopped, sigterm_interrupts

EXAMPLE = 'example: openhart generate "a red apple" -o apple.png --seed 0'
TRACEBACK = "OPENHART_TRACEBACK"
MANY = 10**6


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    let_streams_show_everything()
    options = understand(build_parser(), arguments)
    try:
        _show_warnings_plainly()
        with sigterm_interrupts():
            {**COMMANDS, "evaluate": evaluate}[options.command](options)
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
    return "memory ran out: ask for fewer or smaller images, or lower data.batch_size of the recipe"


def _unexpected(error: Exception) -> str:
    return (
        f"this is a mistake of OpenHART, not yours: please report it with what the same command prints after "
        f"setting {TRACEBACK}=1 ({type(error).__name__}: {reason(error)})"
    )


def _complain(message: str) -> None:
    print(f"openhart: {one_line(message)}", file=sys.stderr)


def _show_warnings_plainly() -> None:
    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        _complain(f"warning: {message}")

    warnings.filterwarnings("ignore")
    shown = "the prompt was cut|cannot save|skipped an image|.* has been changed since"
    warnings.filterwarnings("always", message=shown)
    warnings.showwarning = show


def build_parser() -> argparse.ArgumentParser:
    """The whole grammar of the command line."""
    parser = OneSentenceParser(
        prog="openhart", description="Text to image by next-scale prediction.", epilog=EXAMPLE
    )
    parser.add_argument("--version", action="version", version=f"openhart {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_generate(commands)
    _add_reconstruct(commands)
    info = commands.add_parser("info", help="what a model is made of")
    info.add_argument("model", nargs="?", type=named, help="folder or hub id (default: the packaged model)")
    _add_convert(commands)
    _add_data(commands)
    _add_train(commands)
    add_evaluate(commands)
    return parser


def _add_generate(commands: Any) -> None:
    parser = commands.add_parser("generate", help="make images from prompts", epilog=EXAMPLE)
    add = parser.add_argument
    add("prompts", nargs="*", type=text, metavar="PROMPT", help='a text; "" for no condition')
    add("-o", "--output", type=place, default=place("."), help="a folder, or a file for one image")
    add("--label", type=whole(0, 10**8), action="append", metavar="N", help="a class instead of a prompt")
    add("--seed", type=whole(0, LARGEST_SEED), metavar="N", help="the same seed gives the same image")
    add("--images-per-prompt", type=whole(1, MANY), default=1, metavar="N")
    add("--height", type=whole(1, MANY), metavar="PIXELS", help="default: the model's own")
    add("--width", type=whole(1, MANY), metavar="PIXELS")
    add("--previews", action="store_true", help="also save what each scale amounts to")
    add_sampling(parser)
    _add_model(parser)
    add("--lora", type=place, metavar="DIR", help="an adapter made by fine-tuning")
    add("--dtype", choices=["float32", "bfloat16"], default="float32")
    add(
        "--optimize",
        choices=["exact", "fast", "fastest"],
        metavar="LEVEL",
        help="exact: the same sooner; fast, fastest: at a cost in quality (docs/speed.md)",
    )
    add("--weights", choices=["int8", "fp8"], help="keep weights in eight bits (needs torchao)")
    add("--device", help="cpu, cuda, mps (default: the fastest there is)")
    _add_quiet(parser)


def _add_reconstruct(commands: Any) -> None:
    parser = commands.add_parser("reconstruct", help="an image through the image tokenizer")
    parser.add_argument("image", type=place)
    parser.add_argument("-o", "--output", type=place, required=True, help="original | reconstruction")
    parser.add_argument("--discrete", action="store_true", help="through the codes alone")
    _add_model(parser)


def _add_convert(commands: Any) -> None:
    parser = commands.add_parser("convert", help="released weights to a model folder")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="hart|var")
    hart = kinds.add_parser("hart", help="a released HART folder")
    hart.add_argument("source", type=place)
    hart.add_argument("target", type=place)
    hart.add_argument("--weights", choices=["ema", "raw"], default="ema")
    hart.add_argument("--text-encoder", type=named, metavar="NAME", help="folder or hub id, kept as a name")
    hart.add_argument(
        "--instruction",
        type=text_or_file,
        default="",
        metavar="TEXT|@FILE",
        help="read before every prompt, as the weights were trained",
    )
    var = kinds.add_parser("var", help="released VAR weights")
    var.add_argument("vae", type=place)
    var.add_argument("transformer", type=place)
    var.add_argument("target", type=place)
    var.add_argument("--scales", type=whole(1, 1024), nargs="+", metavar="SIDE")


def _add_data(commands: Any) -> None:
    parser = commands.add_parser("data", help="build a captioned corpus, or encode one for training")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="emoji|scenes|cache")
    emoji = kinds.add_parser("emoji", help="pictures of things from open emoji packages")
    scenes = kinds.add_parser(
        "scenes",
        help="scenes of one to four things: colours, counts, positions",
        epilog="example: openhart data scenes scenes --count 24000 --seed 0",
    )
    for kind in (emoji, scenes):
        kind.add_argument("folder", type=place)
        kind.add_argument("--size", type=whole(16, 4096), default=128, help="side in pixels")
        kind.add_argument("--styles", nargs="+", metavar="STYLE")
        kind.add_argument("--packages", type=place, metavar="DIR", help="where the packages lie")
        _add_quiet(kind)
    scenes.add_argument("--count", type=whole(1, MANY), default=24_000, help="training pictures")
    scenes.add_argument(
        "--unseen", type=whole(1, MANY), default=600, metavar="N", help="pictures of unseen combinations"
    )
    scenes.add_argument("--seed", type=whole(0, LARGEST_SEED), default=0)
    cache = kinds.add_parser(
        "cache",
        help="encode a generator recipe's images and captions once",
        epilog="example: openhart data cache recipes/emoji/generator.yaml cache=runs/cache",
    )
    cache.add_argument("recipe", type=place, help="names the folder as cache")
    cache.add_argument("overrides", nargs="*", metavar="section.name=value")
    _add_quiet(cache)


def _add_train(commands: Any) -> None:
    parser = commands.add_parser(
        "train",
        help="train an image tokenizer or a generator",
        epilog="example: openhart train tokenizer recipes/emoji/tokenizer.yaml run.seed=1",
    )
    parser.add_argument("kind", choices=["tokenizer", "generator"])
    parser.add_argument("recipe", type=place)
    parser.add_argument("overrides", nargs="*", metavar="section.name=value")
    parser.add_argument(
        "--plot", type=place, metavar="PNG", help="train nothing: draw curves of the recipe's run"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what a step takes; needs neither data nor weights",
    )
    parser.add_argument("--gpus", type=whole(1, MANY), default=1, metavar="N", help="for --dry-run")
    parser.add_argument(
        "--gpu-memory", type=positive, metavar="GIB", help="for --dry-run: fail if a step does not fit"
    )
    _add_quiet(parser)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=named, help="folder or hub id (default: the packaged model)")


def _add_quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="print and show nothing but errors")
