"""``openhart evaluate``: finds the kinds of evaluation, writes and prints their reports."""

import json
from argparse import Namespace
from typing import Any

from openhart.atomic import written_whole
from openhart.cli.evaluate.arena import add_arena
from openhart.cli.evaluate.attributes import add_attributes
from openhart.cli.evaluate.checker import add_checker
from openhart.cli.evaluate.compare import add_compare
from openhart.cli.evaluate.composition import add_composition
from openhart.cli.evaluate.distances import add_distances
from openhart.cli.evaluate.dpg import add_dpg
from openhart.cli.evaluate.geneval import add_geneval
from openhart.cli.evaluate.hps import add_hps
from openhart.cli.evaluate.imagenet import add_imagenet
from openhart.cli.evaluate.mjhq import add_mjhq
from openhart.cli.evaluate.pack import add_pack
from openhart.cli.evaluate.perturbed import add_perturbed
from openhart.cli.evaluate.pipelines import add_pipelines
from openhart.cli.evaluate.ratings import add_ratings
from openhart.cli.evaluate.reconstruction import add_reconstruction
from openhart.cli.evaluate.report import add_report
from openhart.cli.evaluate.residual import add_residual
from openhart.cli.evaluate.retrieval import add_retrieval
from openhart.cli.evaluate.samples import add_samples
from openhart.cli.evaluate.scales import add_scales
from openhart.cli.files import check_file_path, check_image_path
from openhart.cli.options import add_command

KINDS = (
    add_reconstruction, add_scales, add_perturbed, add_retrieval, add_residual, add_attributes,
    add_checker, add_composition, add_samples, add_imagenet, add_pack, add_geneval, add_dpg, add_mjhq,
    add_hps, add_pipelines, add_distances,
    add_arena, add_ratings, add_compare, add_report,
)  # fmt: skip
"""What adds each kind; its parser names what measures by ``set_defaults(measure=…)``."""


def add_evaluate(commands: Any) -> None:
    """Add the kinds, each with its options."""
    parser = add_command(commands, "evaluate", "Measure a model, a folder of images or votes of people.")
    parser.set_defaults(run=evaluate)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for add in KINDS:
        add(kinds)


def evaluate(options: Namespace) -> None:
    """Check the files to write, measure, write and print the report."""
    for name in ("sheet", "plot"):
        if (picture := getattr(options, name, None)) is not None:
            check_image_path(picture)
    for name in ("output", "rows"):
        if (path := getattr(options, name, None)) is not None:
            check_file_path(path)
    report = options.measure(options)
    if report is None:
        return
    text = json.dumps(report, indent=2)
    output = getattr(options, "output", None)
    if output is not None:
        with written_whole(output) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    if not options.quiet:
        print(text)
