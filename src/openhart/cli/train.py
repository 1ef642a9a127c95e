"""``openhart train``: a recipe's run, from the start or from where it stopped."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from openhart.cli.options import MANY, UsageError, add_quiet, place, positive, whole
from openhart.cli.recipe import load_checked_recipe


def add_train(commands: Any) -> None:
    """Add the options."""
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
