"""``openhart evaluate checker``: train the detector of drawn objects, and measure it."""

from argparse import Namespace
from typing import Any

from openhart.atomic import check_writable
from openhart.cli.evaluate.common import Report, add_kind, add_seed
from openhart.cli.options import MANY, add_model, place, whole


def add_checker(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(
        kinds, "checker", measure,
        "Train the detector of drawn objects that composition needs, and measure its accuracy.",
        "data/scenes -o checker",
    )  # fmt: skip
    add = parser.add_argument
    add("scenes", type=place, help="Folder that openhart data scenes has written.")
    add(
        "-o", "--output", type=place, required=True, metavar="DIR", dest="folder",
        help="Folder of the detector.",
    )  # fmt: skip
    add(
        "--held-out", type=whole(1, MANY), default=400, metavar="N",
        help="Number of scenes that are not trained on but measured (default: 400).",
    )  # fmt: skip
    add_seed(parser, "Seed of the choice of scenes and of training")
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
