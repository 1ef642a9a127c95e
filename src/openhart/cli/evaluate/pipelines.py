"""``openhart evaluate pipelines``: time, memory and quality of several pipelines in one table."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openhart.atomic import check_writable
from openhart.cli.device import find_device
from openhart.cli.evaluate.common import Report, add_json_output, add_kind, add_seed, report_of
from openhart.cli.evaluate.samples import add_call_settings, call_settings
from openhart.cli.options import MANY, UsageError, named, place, whole
from openhart.errors import UserError, require

if TYPE_CHECKING:
    from openhart.evaluation.benchmarks.pipelines import Candidate, Quality


def add_pipelines(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(
        kinds, "pipelines", measure,
        "Measure time, memory and quality of several diffusers pipelines on the same prompts.",
        "prompts.txt --model hart=packaged --model sdxl=FOLDER --samples out --reference photos",
    )  # fmt: skip
    add = parser.add_argument
    add("prompts", type=place, help="Text file with one prompt per line.")
    add(
        "--model", action="append", default=[], type=named, metavar="[NAME=]PATH", dest="models",
        help="Folder or Hugging Face id of a pipeline, with a name for the table; may be given several times "
        "(default: packaged, the packaged model).",
    )  # fmt: skip
    add(
        "--samples", type=place, required=True, metavar="DIR",
        help="Folder of the generated images, with a folder per model.",
    )  # fmt: skip
    add(
        "--images-per-prompt", type=whole(1, MANY), default=1, metavar="N",
        help="Number of images per prompt (default: 1).",
    )  # fmt: skip
    add_seed(parser, "The first seed")
    add(
        "--batch", type=whole(1, MANY), default=1, metavar="N",
        help="Images per pipeline call (default: 1, which measures the latency).",
    )  # fmt: skip
    add(
        "--dtype", choices=["float32", "bfloat16", "float16"], default="float32",
        help="Data type of the weights (default: float32).",
    )  # fmt: skip
    add_call_settings(parser)
    _add_quality(parser)
    add_json_output(parser)


def _add_quality(parser: ArgumentParser) -> None:
    """What the images are compared with, and by which networks."""
    add = parser.add_argument
    add(
        "--reference", type=place, metavar="DIR",
        help="Folder of real images; adds the Fréchet distance and KID (default: left out).",
    )  # fmt: skip
    add(
        "--dinov2", type=named, metavar="PATH",
        help="Folder or Hugging Face id of a DINOv2 model; adds FD-DINOv2 (default: left out).",
    )  # fmt: skip
    add(
        "--clip", type=named, metavar="PATH",
        help="Folder or Hugging Face id of a CLIP model; adds the CLIP score (default: left out).",
    )  # fmt: skip
    add(
        "--hps", type=named, metavar="PATH",
        help="Folder or Hugging Face id of a CLIP model with HPSv2's weights; adds HPSv2 (default: left "
        "out).",
    )  # fmt: skip


def measure(options: Namespace) -> Report:
    """Run every pipeline, compare the images, and print the table."""
    if options.dinov2 is not None and options.reference is None:
        raise UsageError("--dinov2 needs --reference, a folder of real images")
    candidates = candidates_of(options.models or ["packaged"], options.settings)
    check_writable(options.samples)
    import torch

    from openhart.evaluation.benchmarks.pipelines import Setup, evaluate_pipelines
    from openhart.evaluation.report.pipelines import pipelines_table
    from openhart.evaluation.samples.layouts import plan_prompts
    from openhart.loading import parse_dtype

    plan = plan_prompts(options.prompts, options.seed, options.images_per_prompt)
    device, dtype = find_device(), parse_dtype(options.dtype) or torch.float32
    quality = _quality(options, device)
    setup = Setup(str(device), dtype, options.batch)
    result = evaluate_pipelines(candidates, plan, options.samples, setup, quality, options.quiet)
    if not options.quiet:
        print(pipelines_table(result))
    return report_of(result, options)


def candidates_of(models: list[str], settings: list[str]) -> "dict[str, Candidate]":
    """The models by name, each with its call arguments: those of all models, and those of ``NAME:…``."""
    from openhart.evaluation.benchmarks.pipelines import Candidate

    paths: dict[str, str] = {}
    for model in models:
        name, equals, path = model.rpartition("=")
        name = name if equals else Path(path).name
        if not name or not path or Path(name).name != name or name.startswith("."):
            raise UsageError(f"--model is written PATH or NAME=PATH, got {model!r}")
        if name in paths:
            raise UsageError(f"two models have the name {name}: write --model NAME=PATH")
        paths[name] = path
    for setting in settings:
        name, colon, _ = setting.partition("=")[0].partition(":")
        if colon and name not in paths:
            raise UsageError(f"--set {setting} is for {name}, which is none of {', '.join(paths)}")
    found = {}
    for name, path in paths.items():
        own = [each.removeprefix(f"{name}:") for each in settings if each.startswith(f"{name}:")]
        shared = [each for each in settings if ":" not in each.partition("=")[0]]
        call = call_settings(shared) | call_settings(own)
        found[name] = Candidate(None if path == "packaged" else path, call)
    return found


def _quality(options: Namespace, device: Any) -> "Quality":
    from openhart.evaluation.benchmarks.pipelines import Quality
    from openhart.evaluation.image_folders import find_images
    from openhart.evaluation.networks.clip import TransformersClip
    from openhart.evaluation.networks.extractors import EfficientNetExtractor, Extractor
    from openhart.evaluation.networks.squares import DinoExtractor

    extractors: dict[str, Extractor] = {}
    if options.reference is not None:
        require("scipy", "efficientnet_lite_pytorch", extra="eval")
        if len(find_images(options.reference)) < 2:
            raise UserError(f"{options.reference} must have at least 2 images")
        packaged = EfficientNetExtractor(device)
        extractors = {"FD": packaged, "KID": packaged}
        if options.dinov2 is not None:
            extractors["FD-DINOv2"] = DinoExtractor(options.dinov2, device)
    clip, hps = (path and TransformersClip(path, device) for path in (options.clip, options.hps))
    return Quality(options.reference, extractors, clip, hps)
