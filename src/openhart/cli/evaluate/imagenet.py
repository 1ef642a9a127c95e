"""``openhart evaluate imagenet``: class-conditional ImageNet metrics of a sample ``.npz``."""

from argparse import Namespace
from typing import Any

from openhart.cli.device import find_device
from openhart.cli.evaluate.common import Report, add_json_output, add_kind, report_of
from openhart.cli.options import place
from openhart.errors import UserError


def add_imagenet(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(kinds, "imagenet", measure, help="FID, sFID, IS, precision and recall of a sample .npz")
    add = parser.add_argument
    add("sample", type=place, help="an .npz with arr_0")
    add("reference", type=place, help="ADM's reference .npz")
    add("--rules", choices=["adm", "mar"], default="adm")
    add("--extractor", choices=["inception", "efficientnet"], default="inception")
    add("--weights", type=place, metavar="PTH", help="of Inception")
    add_json_output(parser)


def measure(options: Namespace) -> Report:
    """Compare the sample with the reference."""
    from openhart.evaluation.benchmarks.imagenet import evaluate_adm, evaluate_mar
    from openhart.evaluation.networks.extractors import EfficientNetExtractor, Extractor
    from openhart.evaluation.networks.inception import InceptionExtractor
    from openhart.evaluation.npz_files import read_batch_file

    sample, reference = read_batch_file(options.sample), read_batch_file(options.reference)
    device = find_device()
    extractor: Extractor
    if options.extractor == "inception":
        extractor = InceptionExtractor(options.weights, device)
    else:
        extractor = EfficientNetExtractor(device)
    if options.rules == "adm":
        return report_of(evaluate_adm(reference, sample, extractor, quiet=options.quiet), options)
    if reference.pool is None:
        raise UserError(f"{options.reference} must hold mu and sigma for MAR's rules")
    return report_of(evaluate_mar(reference.pool, sample, extractor, options.quiet), options)
