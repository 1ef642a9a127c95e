"""``openhart data``: the corpora of the default model, or a recipe's data encoded once."""

from argparse import ArgumentParser, Namespace
from typing import Any

from openhart.atomic import check_writable
from openhart.cli.options import LARGEST_SEED, MANY, add_command, add_quiet, place, whole
from openhart.cli.recipe import add_recipe, load_checked_recipe


def add_data(commands: Any) -> None:
    """Add the options, one sub-command per kind of data."""
    parser = add_command(commands, "data", "Build a captioned data set, or encode one for training.")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="emoji|scenes|cache")
    emoji = add_command(
        kinds, "emoji", "Build a data set of single objects, drawn from open emoji packages.",
        "openhart data emoji data/emoji",
    )  # fmt: skip
    _add_drawing(emoji, "noto fluent-3d fluent-flat")
    emoji.set_defaults(run=build_emoji)
    scenes = add_command(
        kinds, "scenes",
        "Build a data set of scenes with one to four objects, which differ in colour, number and position.",
        "openhart data scenes data/scenes --count 24000 --seed 0",
    )  # fmt: skip
    _add_drawing(scenes, "fluent-3d fluent-flat noto")
    add = scenes.add_argument
    add("--count", type=whole(1, MANY), default=24_000, metavar="N", help="Training images (default: 24000).")
    add(
        "--unseen", type=whole(1, MANY), default=600, metavar="N",
        help="Images of combinations that no training image has (default: 600).",
    )  # fmt: skip
    add(
        "--seed",
        type=whole(0, LARGEST_SEED),
        default=0,
        metavar="N",
        help="Seed of all choices (default: 0).",
    )
    scenes.set_defaults(run=build_scenes)
    _add_cache(kinds)


def _add_cache(kinds: Any) -> None:
    cache = add_command(
        kinds, "cache", "Encode the images and captions of a generator recipe once, for all its runs.",
        "openhart data cache recipes/emoji/generator.yaml cache=runs/cache",
    )  # fmt: skip
    add_recipe(cache, "Recipe of a generator (YAML); its setting cache names the folder to write.")
    add_quiet(cache)
    cache.set_defaults(run=fill_cache, between_options="overrides")


def _add_drawing(parser: ArgumentParser, styles: str) -> None:
    """The options of the data sets that are drawn."""
    add = parser.add_argument
    add("folder", type=place, help="Folder of the data set; it must be new or empty.")
    add(
        "--size", type=whole(16, 4096), default=128, metavar="PIXELS",
        help="Side of the square images (default: 128).",
    )  # fmt: skip
    add(
        "--styles", nargs="+", metavar="STYLE",
        help=f"Styles among noto, fluent-3d, fluent-flat, twemoji and emojione (default: {styles}).",
    )  # fmt: skip
    add(
        "--packages", type=place, metavar="DIR",
        help="Folder with the tarballs of the emoji packages; missing ones are downloaded to it with npm "
        "(default: a temporary folder).",
    )  # fmt: skip
    add(
        "--workers", type=whole(1, 256), default=2, metavar="N",
        help="Number of drawing processes (default: 2).",
    )  # fmt: skip
    add_quiet(parser)


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
    return given | {"size": options.size, "workers": options.workers, "quiet": options.quiet}


def _print_counts(counts: dict[str, int], options: Namespace) -> None:
    if not options.quiet:
        print(", ".join(f"{name}: {count}" for name, count in counts.items()))


def fill_cache(options: Namespace) -> None:
    """Encode the data of a generator recipe into its folder."""
    recipe = load_checked_recipe(options, "generator")
    if recipe.cache_folder is not None:
        check_writable(recipe.cache_folder)
    from openhart.training.generator.data import fill_cache as fill

    folder, count = fill(options.recipe, options.overrides, quiet=options.quiet)
    if not options.quiet:
        print(f"{folder}  {count:,} samples")
