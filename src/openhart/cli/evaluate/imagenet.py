"""``openhart evaluate imagenet``: class-conditional ImageNet metrics of a sample ``.npz``."""

from argparse import Namespace
from typing import Any

from openhart.cli.device import find_device
from openhart.cli.evaluate.common import Report, add_json_output, add_kind, report_of
from openhart.cli.options import place
from openhart.errors import UserError


def add_imagenet(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(
        kinds, "imagenet", measure,
        "Compute FID, sFID, IS, precision and recall of class-conditional samples.",
        "samples.npz VIRTUAL_imagenet256_labeled.npz",
    )  # fmt: skip
    add = parser.add_argument
    add("sample", type=place, help="File of samples (.npz), with arr_0 of uint8 (N, H, W, 3).")
    add("reference", type=place, help="Reference file of ADM (.npz), with images or statistics.")
    add(
        "--rules", choices=["adm", "mar"], default="adm",
        help="Program whose rules are followed: ADM or MAR, which follows torch-fidelity (default: adm).",
    )  # fmt: skip
    add(
        "--extractor", choices=["inception", "efficientnet"], default="inception",
        help="Network of the features; figures with efficientnet need no download but are no FID (default: "
        "inception).",
    )  # fmt: skip
    add(
        "--weights", type=place, metavar="PTH",
        help="Weights of Inception, torch-fidelity's weights-inception-2015-12-05-6726825d.pth (default: "
        "downloaded).",
    )  # fmt: skip
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
