"""``openhart evaluate geneval``: score a folder of images in GenEval's layout."""

from argparse import Namespace
from typing import Any

from openhart.cli.device import find_device
from openhart.cli.evaluate.common import Report, add_json_output, add_kind, report_of
from openhart.cli.options import place


def add_geneval(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(
        kinds, "geneval", measure, "Score a folder of images in GenEval's layout.",
        "geneval-samples --rows rows.jsonl",
    )  # fmt: skip
    add = parser.add_argument
    add("folder", type=place, help="Folder that openhart evaluate samples geneval has written.")
    add(
        "--detector", metavar="PATH",
        help="Folder or Hugging Face id of a Mask2Former (default: "
        "facebook/mask2former-swin-small-coco-instance).",
    )  # fmt: skip
    add(
        "--clip", metavar="PATH",
        help="Folder or Hugging Face id of a CLIP model (default: openai/clip-vit-large-patch14).",
    )  # fmt: skip
    add("--rows", type=place, metavar="JSONL", help="Also write a line per image, as GenEval's program does.")
    add(
        "--rewritten-prompts", action="store_true",
        help="State in the result that a language model rewrote the prompts, which makes it another "
        "benchmark.",
    )  # fmt: skip
    add_json_output(parser)


def measure(options: Namespace) -> Report:
    """Detect the objects of each image and apply GenEval's rules."""
    from openhart.evaluation.benchmarks.geneval import (
        find_samples,
        geneval_result,
        score_samples,
        summarize,
        summary_text,
        write_rows,
    )
    from openhart.evaluation.geneval.clip_colours import ClipColours
    from openhart.evaluation.networks.clip import CLIP, TransformersClip
    from openhart.evaluation.networks.mask2former import DETECTOR, TransformersMask2Former

    samples, device = find_samples(options.folder), find_device()
    detector = TransformersMask2Former(options.detector or DETECTOR, device)
    colours = ClipColours(TransformersClip(options.clip or CLIP, device))
    rows = list(score_samples(samples, detector, colours, quiet=options.quiet))
    if options.rows is not None:
        write_rows(rows, options.rows)
    if not options.quiet:
        print(summary_text(summarize(rows)))
    result = geneval_result(rows, detector, colours, rewritten_prompts=options.rewritten_prompts)
    return report_of(result, options)
