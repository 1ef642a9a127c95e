"""``openhart evaluate samples``: its options and its action; heavy imports wait until the command runs."""

import json
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from openhart.atomic import check_writable
from openhart.cli.device import find_device
from openhart.cli.evaluate.common import add_kind
from openhart.cli.options import LARGEST_SEED, MANY, UsageError, named, place, whole
from openhart.errors import UserError

if TYPE_CHECKING:
    from openhart.evaluation.samples.layouts import Plan

BENCHMARKS = ("geneval", "dpg", "mjhq", "hps", "imagenet", "composition", "prompts")


def add_samples(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(
        kinds, "samples", samples,
        "Generate the images of a benchmark with any diffusers pipeline. An interrupted command continues "
        "where it stopped.",
        "geneval evaluation_metadata.jsonl -o geneval-samples",
    )  # fmt: skip
    add = parser.add_argument
    add("benchmark", choices=BENCHMARKS, help="Benchmark, which determines files, seeds and prompts.")
    add(
        "prompts", nargs="?", type=place,
        help="Published file or folder of the benchmark's prompts; none for imagenet.",
    )  # fmt: skip
    add(
        "-o", "--output", type=place, required=True, metavar="DIR", dest="folder",
        help="Folder of the images.",
    )  # fmt: skip
    _add_generation(parser)


def _add_generation(parser: ArgumentParser) -> None:
    """The model, and how it is called."""
    add = parser.add_argument
    add(
        "--model", type=named, metavar="MODEL",
        help="Folder or Hugging Face id of any diffusers pipeline (default: the packaged model).",
    )  # fmt: skip
    add(
        "--dtype", choices=["float32", "bfloat16", "float16"], default="float32",
        help="Data type of the weights (default: float32).",
    )  # fmt: skip
    add(
        "--images-per-prompt", type=whole(1, MANY), metavar="N",
        help="Number of images per prompt or class (default: the published number).",
    )  # fmt: skip
    add(
        "--seed", type=whole(0, LARGEST_SEED - 10 * MANY), metavar="N",
        help="The first seed (default: the published one, otherwise 0).",
    )  # fmt: skip
    add("--batch", type=whole(1, MANY), default=8, metavar="N", help="Images per pipeline call (default: 8).")
    add(
        "--rounding", choices=["round", "truncate"], default="round",
        help="Rounding of levels to bytes; truncate gives slightly darker images, as some published programs "
        "(default: round).",
    )  # fmt: skip
    add("--file-type", choices=["png", "jpg"], help="Type of the image files (default: the published one).")
    add_call_settings(parser)


def add_call_settings(parser: ArgumentParser) -> None:
    """Add ``--set``, which may be repeated; :func:`call_settings` reads it."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="settings",
        help="Argument of the pipeline call, such as guidance_scale=4.5 or num_inference_steps=20; may be "
        "given several times (default: the pipeline's own values).",
    )  # fmt: skip


def samples(options: Namespace) -> None:
    """Generate the images that the folder does not have yet."""
    if (options.prompts is None) != (options.benchmark == "imagenet"):
        wrong = "takes no prompts" if options.benchmark == "imagenet" else "needs its prompt file"
        raise UsageError(f"evaluate samples {options.benchmark} {wrong}")
    check_writable(options.folder)
    call = call_settings(options.settings)
    from openhart.evaluation.any_pipeline import check_call, check_prompts, load_any_pipeline
    from openhart.evaluation.samples.make import Output, join_processes, make_samples
    from openhart.loading import parse_dtype

    processes = join_processes()
    plan = None if options.prompts is None else _prompt_plan(options)
    device = processes.device or find_device()
    pipeline = load_any_pipeline(options.model, parse_dtype(options.dtype), device)
    check_call(pipeline, call)
    if plan is None:
        plan = _class_plan(options, pipeline)
    else:
        check_prompts(pipeline, options.benchmark)
    output = Output(options.batch, options.rounding, options.file_type)
    model = options.model or "packaged"
    make_samples(pipeline, model, plan, options.folder, output, options.quiet, processes, call)
    if processes.index == 0 and not options.quiet:
        print(f"{options.folder}  {plan.count:,} images")


def _prompt_plan(options: Namespace) -> "Plan":
    from openhart.evaluation.samples.layouts import FIRST_SEEDS, IMAGES_PER_PROMPT, PROMPT_PLANS

    name = options.benchmark
    seed = FIRST_SEEDS.get(name, 0) if options.seed is None else options.seed
    return PROMPT_PLANS[name](options.prompts, seed, options.images_per_prompt or IMAGES_PER_PROMPT[name])


def _class_plan(options: Namespace, pipeline: Any) -> "Plan":
    from openhart.evaluation.samples.layouts import IMAGES_PER_PROMPT, plan_imagenet

    encoder, transformer = (getattr(pipeline, name, None) for name in ("label_encoder", "transformer"))
    classes = getattr(getattr(encoder, "config", None), "num_classes", None)
    classes = classes or getattr(getattr(transformer, "config", None), "num_embeds_ada_norm", None)
    if classes is None:
        raise UserError("imagenet needs a class-conditional model, and this model takes no classes")
    per_class = options.images_per_prompt or IMAGES_PER_PROMPT["imagenet"]
    return plan_imagenet(classes, options.seed or 0, per_class)


def call_settings(pairs: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` → values, written as in JSON; other values are texts."""
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise UsageError("--set is written NAME=VALUE, as in --set guidance_scale=4.5")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    return settings
