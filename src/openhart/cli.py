"""The command line: parses, calls, prints.

Exit code 2 for wrong usage, 1 for failure, 130 for Ctrl-C.
"""

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openhart import __version__
from openhart.cli_commands import COMMANDS, UsageError
from openhart.cli_evaluate import add_evaluate, evaluate
from openhart.errors import UserError

# diffusers imports torchao wherever it is installed, and both then tell of parts that nobody here uses
CHATTERERS = ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer")
EXAMPLE = 'example: openhart generate "a red apple" -o apple.png --seed 0'


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if any("=" not in text or text.startswith("-") for text in rest) or (rest and "overrides" not in options):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # argparse takes no values of a recipe after an option
        options.overrides += rest
    _show_warnings_plainly()
    try:
        {**COMMANDS, "evaluate": evaluate}[options.command](options)
    except UsageError as error:
        _complain(str(error))
        return 2
    except UserError as error:
        _complain(str(error))
        return 1
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        _complain(f"{error.strerror or error}{place}")
        return 1
    return 0


def _complain(message: str) -> None:
    print(f"openhart: {' '.join(message.split())}", file=sys.stderr)


def _show_warnings_plainly() -> None:
    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        _complain(f"warning: {message}")

    warnings.filterwarnings("ignore")
    warnings.filterwarnings("always", message="prompt cut|cannot save|skipped an image")
    warnings.showwarning = show
    for name in CHATTERERS:
        logging.getLogger(name).setLevel(logging.ERROR)


def build_parser() -> argparse.ArgumentParser:
    """The whole grammar of the command line."""
    parser = argparse.ArgumentParser(
        prog="openhart", description="Text to image by next-scale prediction.", epilog=EXAMPLE
    )
    parser.add_argument("--version", action="version", version=f"openhart {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_generate(commands)
    _add_reconstruct(commands)
    info = commands.add_parser("info", help="what a model is made of")
    info.add_argument("model", nargs="?", help="folder or hub id (default: the packaged model)")
    _add_convert(commands)
    _add_data(commands)
    _add_train(commands)
    add_evaluate(commands)
    return parser


def _add_generate(commands: Any) -> None:
    parser = commands.add_parser("generate", help="make images from prompts", epilog=EXAMPLE)
    add = parser.add_argument
    add("prompts", nargs="*", metavar="PROMPT", help='a text; "" for no condition')
    add("-o", "--output", type=Path, default=Path(), help="a folder, or a file for one image")
    add("--label", type=int, action="append", metavar="N", help="a class instead of a prompt")
    add("--seed", type=int, help="the same seed gives the same image")
    add("--images-per-prompt", type=_positive, default=1, metavar="N")
    add("--height", type=_positive, metavar="PIXELS", help="default: the model's own")
    add("--width", type=_positive, metavar="PIXELS")
    add("--previews", action="store_true", help="also save what each scale amounts to")
    add("--guidance-scale", type=float, metavar="G", help="how closely to follow the prompt")
    add("--top-k", type=int, metavar="K", help="codes that may be drawn; 0 for all")
    add("--top-p", type=float, metavar="P", help="probability that may be drawn; 0 for all")
    add("--temperature", type=float, metavar="T")
    add("--smooth", action=argparse.BooleanOptionalAction, help="mix codes instead of choosing")
    add("--last-scale-steps", type=int, metavar="N", help="decode the last scale in N steps")
    add("--residual-steps", type=int, metavar="N", help="diffusion steps of the residual")
    add("--residual-solver", choices=["ddpm", "dpm++"], help="how the residual's steps are taken")
    add("--unguided-scales", type=int, metavar="N", help="leave the last N scales without guidance")
    add("--kept-tokens", type=float, nargs="+", metavar="SHARE", help="tokens worked out at the last scales")
    add("--no-residual", action="store_true", help="the picture of the codes alone")
    _add_model(parser)
    add("--lora", type=Path, metavar="DIR", help="an adapter made by fine-tuning")
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
    parser.add_argument("image", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="original | reconstruction")
    parser.add_argument("--discrete", action="store_true", help="through the codes alone")
    _add_model(parser)


def _add_convert(commands: Any) -> None:
    parser = commands.add_parser("convert", help="released weights to a model folder")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="hart|var")
    hart = kinds.add_parser("hart", help="a released HART folder")
    hart.add_argument("source", type=Path)
    hart.add_argument("target", type=Path)
    hart.add_argument("--weights", choices=["ema", "raw"], default="ema")
    hart.add_argument("--text-encoder", metavar="NAME", help="folder or hub id, kept as a name")
    var = kinds.add_parser("var", help="released VAR weights")
    var.add_argument("vae", type=Path)
    var.add_argument("transformer", type=Path)
    var.add_argument("target", type=Path)
    var.add_argument("--scales", type=_positive, nargs="+", metavar="SIDE")


def _add_data(commands: Any) -> None:
    parser = commands.add_parser("data", help="build a captioned corpus, or encode one for training")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="emoji|cache")
    emoji = kinds.add_parser("emoji", help="pictures of things from open emoji packages")
    emoji.add_argument("folder", type=Path)
    emoji.add_argument("--size", type=_positive, default=128, help="side in pixels")
    emoji.add_argument("--styles", nargs="+", metavar="STYLE")
    emoji.add_argument("--packages", type=Path, metavar="DIR", help="where the packages lie")
    _add_quiet(emoji)
    cache = kinds.add_parser(
        "cache",
        help="encode a generator recipe's images and captions once",
        epilog="example: openhart data cache recipes/emoji/generator.yaml cache=runs/cache",
    )
    cache.add_argument("recipe", type=Path, help="names the folder as cache")
    cache.add_argument("overrides", nargs="*", metavar="section.name=value")
    _add_quiet(cache)


def _add_train(commands: Any) -> None:
    parser = commands.add_parser(
        "train",
        help="train an image tokenizer or a generator",
        epilog="example: openhart train tokenizer recipes/emoji/tokenizer.yaml run.seed=1",
    )
    parser.add_argument("kind", choices=["tokenizer", "generator"])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="section.name=value")
    parser.add_argument(
        "--plot", type=Path, metavar="PNG", help="train nothing: draw curves of the recipe's run"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what a step takes; needs neither data nor weights",
    )
    parser.add_argument("--gpus", type=_positive, default=1, metavar="N", help="for --dry-run")
    parser.add_argument(
        "--gpu-memory", type=float, metavar="GIB", help="for --dry-run: fail if a step does not fit"
    )
    _add_quiet(parser)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="folder or hub id (default: the packaged model)")


def _add_quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="print and show nothing but errors")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value
