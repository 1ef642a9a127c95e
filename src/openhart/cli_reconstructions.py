"""``openhart evaluate scales`` and ``perturbed``: measurements of an image tokenizer."""

from argparse import Namespace
from typing import Any

from openhart.cli_checks import LARGEST_SEED, named, number, place, whole

MANY = 10**6


def add_reconstructions(kinds: Any) -> None:
    """Add the options of both kinds."""
    scales = kinds.add_parser("scales", help="reconstruction from the codes of the first scales only")
    scales.add_argument("--plot", type=place, metavar="PNG", help="a plot over the number of scales")
    perturbed = kinds.add_parser("perturbed", help="reconstruction from codes of which some are exchanged")
    perturbed.add_argument(
        "--shares", type=number, nargs="+", metavar="SHARE", help="shares of exchanged codes"
    )
    perturbed.add_argument(
        "--nearest",
        type=whole(1, MANY),
        default=100,
        metavar="N",
        help="exchange for one of the N nearest codes",
    )
    perturbed.add_argument("--seed", type=whole(0, LARGEST_SEED - MANY), default=0)
    for kind in (scales, perturbed):
        kind.add_argument("data", type=named, help="image folder, shards or Hugging Face data set")
        kind.add_argument(
            "--only", action="append", default=[], metavar="FIELD=VALUE[,VALUE]", help="records to keep"
        )
        kind.add_argument("--model", type=named, help="folder or hub id (default: the packaged model)")


def reconstructions(options: Namespace) -> dict[str, Any]:
    """Measure the image tokenizer of a model."""
    from openhart.cli_commands import _device, _need_extra
    from openhart.cli_evaluate import _only, _report

    _need_extra("eval", "torchmetrics", "efficientnet_lite_pytorch", "matplotlib")
    from openhart.data import open_dataset
    from openhart.evaluation.benchmarks.perturbed import SHARES, evaluate_perturbed
    from openhart.evaluation.benchmarks.scales import evaluate_scales, plot_scales
    from openhart.model_files import load_image_tokenizer

    tokenizer = load_image_tokenizer(options.model)
    dataset = open_dataset(options.data, tokenizer.image_size, only=_only(options))
    tokenizer.to(_device(None))
    if options.kind == "perturbed":
        shares = options.shares or SHARES
        result = evaluate_perturbed(
            tokenizer, dataset, shares, options.nearest, options.seed, quiet=options.quiet
        )
    else:
        result = evaluate_scales(tokenizer, dataset, quiet=options.quiet)
        if options.plot is not None:
            plot_scales(result, options.plot)
    return _report(result, options)
