"""``openhart train``: a recipe's run, from the start or from where it stopped."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from openhart.cli.options import MANY, UsageError, add_command, add_quiet, place, positive, whole
from openhart.cli.recipe import add_recipe, load_checked_recipe


def add_train(commands: Any) -> None:
    """Add the options."""
    parser = add_command(
        commands, "train", "Train an image tokenizer or a generator from a recipe.",
        "openhart train tokenizer recipes/emoji/tokenizer.yaml run.seed=1",
    )  # fmt: skip
    add = parser.add_argument
    add(
        "kind", choices=["tokenizer", "generator"],
        help="tokenizer: the image tokenizer; generator: the transformer and its head, if it has one.",
    )  # fmt: skip
    add_recipe(parser, "Recipe (YAML). A run that was stopped continues from its last checkpoint.")
    add(
        "--plot", type=place, metavar="FILE",
        help="Draw the curves of the recipe's run to a .png, .pdf or .svg file, without training.",
    )  # fmt: skip
    add(
        "--dry-run", action="store_true",
        help="Print parameters, tokens, FLOPs and memory of a training step, without training; neither data "
        "nor weights are needed.",
    )  # fmt: skip
    add(
        "--gpus", type=whole(1, MANY), default=1, metavar="N",
        help="Number of GPUs for --dry-run (default: 1).",
    )  # fmt: skip
    add(
        "--gpu-memory", type=positive, metavar="GIB",
        help="Memory per GPU in GiB for --dry-run, which fails if a step does not fit (default: no limit).",
    )  # fmt: skip
    add_quiet(parser)
    parser.set_defaults(run=train, between_options="overrides")


def train(options: Namespace) -> None:
    """Train, or report what a step takes, or draw the curves of a run."""
    recipe = load_checked_recipe(options, options.kind)
    if options.dry_run:
        from openhart.training.dry_run import dry_run

        print(dry_run(options.recipe, options.kind, options.overrides, options.gpus, options.gpu_memory))
        return
    if options.plot:
        if options.plot.suffix.lower() not in (".png", ".pdf", ".svg"):
            raise UsageError(f"--plot must name a file that ends in .png, .pdf or .svg, got {options.plot}")
        from openhart.training.run.history import plot

        plot(Path(recipe.run.output), options.plot)
        return
    if options.kind == "tokenizer":
        from openhart.training.tokenizer.train import train as run
    else:
        from openhart.training.generator.train import train as run
    folder = run(options.recipe, options.overrides, quiet=options.quiet)
    if not options.quiet:
        print(folder)
