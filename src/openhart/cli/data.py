"""``openhart data``: the corpora of the default model, or a recipe's data encoded once."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from openhart.atomic import check_writable
from openhart.cli.options import LARGEST_SEED, MANY, add_quiet, place, whole
from openhart.cli.recipe import load_checked_recipe


def add_data(commands: Any) -> None:
    """Add the options, one sub-command per kind of data."""
    parser = commands.add_parser("data", help="build a captioned corpus, or encode one for training")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="emoji|scenes|cache")
    emoji = kinds.add_parser("emoji", help="pictures of things from open emoji packages")
    scenes = kinds.add_parser(
        "scenes",
        help="scenes of one to four things: colours, counts, positions",
        epilog="example: openhart data scenes scenes --count 24000 --seed 0",
    )
    for kind, run in ((emoji, build_emoji), (scenes, build_scenes)):
        kind.add_argument("folder", type=place)
        kind.add_argument("--size", type=whole(16, 4096), default=128, help="side in pixels")
        kind.add_argument("--styles", nargs="+", metavar="STYLE")
        kind.add_argument("--packages", type=place, metavar="DIR", help="where the packages lie")
        add_quiet(kind)
        kind.set_defaults(run=run)
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
    add_quiet(cache)
    cache.set_defaults(run=fill_cache, between_options="overrides")


def build_emoji(options: Namespace) -> None:
    """Build the corpus of single things."""
    check_writable(options.folder)
    from openhart.data.emoji.build import build_emoji_corpus

    _print_counts(build_emoji_corpus(options.folder, **_common(options)), options)


def build_scenes(options: Namespace) -> None:
    """Build the corpus of scenes."""
    check_writable(options.folder)
    from openhart.data.emoji.build_scenes import build_scenes as build

    numbers = {name: getattr(options, name) for name in ("count", "unseen", "seed")}
    _print_counts(build(options.folder, **_common(options), **numbers), options)


def _common(options: Namespace) -> dict[str, Any]:
    choices = {"styles": options.styles, "packages": options.packages}
    given = {name: value for name, value in choices.items() if value is not None}
    return given | {"size": options.size, "quiet": options.quiet}


def _print_counts(counts: dict[str, int], options: Namespace) -> None:
    if not options.quiet:
        print(", ".join(f"{name}: {count}" for name, count in counts.items()))


def fill_cache(options: Namespace) -> None:
    """Encode the data of a generator recipe into its folder."""
    recipe = load_checked_recipe(options, "generator")
    if isinstance(recipe.cache, str):
        check_writable(Path(recipe.cache))
    from openhart.training.generator.data import fill_cache as fill

    folder, count = fill(options.recipe, options.overrides, quiet=options.quiet)
    if not options.quiet:
        print(f"{folder}  {count:,} samples")
