"""``openhart evaluate checker``: train the detector of drawn things, and measure it."""

from argparse import Namespace
from typing import Any

from openhart.atomic import check_writable
from openhart.cli.evaluate.common import Report, add_kind
from openhart.cli.options import LARGEST_SEED, MANY, add_model, place, whole


def add_checker(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(
        kinds, "checker", measure, help="train the detector of drawn things, and measure it",
        example="scenes -o checker",
    )  # fmt: skip
    add = parser.add_argument
    add("scenes", type=place, help="a folder that openhart data scenes made")
    add("-o", "--output", type=place, required=True, metavar="DIR", dest="folder")
    add("--held-out", type=whole(1, MANY), default=400, metavar="N", help="scenes to measure it on")
    add("--seed", type=whole(0, LARGEST_SEED), default=0)
    add_model(parser)


def measure(options: Namespace) -> Report:
    """Train the detector on scenes and measure it on others."""
    check_writable(options.folder)
    from openhart.evaluation.checker.files import save_checker
    from openhart.evaluation.checker.make import train_checker
    from openhart.model_files import load_image_tokenizer

    tokenizer = load_image_tokenizer(options.model)
    checker = train_checker(options.scenes, tokenizer, options.held_out, options.seed, options.quiet)
    save_checker(checker, options.folder)
    return {"checker": str(options.folder), "accuracy": checker.accuracy}
