"""``openhart convert``: released weights to a model folder."""

from argparse import Namespace
from typing import Any

from openhart.atomic import check_writable
from openhart.cli.options import named, place, text_or_file, whole


def add_convert(commands: Any) -> None:
    """Add the options, one sub-command per kind of weights."""
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
    hart.set_defaults(run=convert_hart_weights)
    var = kinds.add_parser("var", help="released VAR weights")
    var.add_argument("vae", type=place)
    var.add_argument("transformer", type=place)
    var.add_argument("target", type=place)
    var.add_argument("--scales", type=whole(1, 1024), nargs="+", metavar="SIDE")
    var.set_defaults(run=convert_var_weights)


def convert_hart_weights(options: Namespace) -> None:
    """Convert a released HART folder."""
    check_writable(options.target)
    from openhart.conversion.hart import convert_hart

    convert_hart(
        options.source,
        options.target,
        weights=options.weights,
        text_encoder=options.text_encoder,
        instruction=options.instruction,
    )
    print(options.target)


def convert_var_weights(options: Namespace) -> None:
    """Convert released VAR weights."""
    check_writable(options.target)
    from openhart.conversion.var import convert_var

    convert_var(options.vae, options.transformer, options.target, scales=options.scales)
    print(options.target)
