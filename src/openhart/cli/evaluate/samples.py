"""``openhart evaluate samples``: its options and its action; heavy imports wait until the command runs."""

import inspect
import json
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_args

from openhart.atomic import check_writable
from openhart.cli.device import find_device
from openhart.cli.evaluate.common import add_kind
from openhart.cli.options import LARGEST_SEED, MANY, UsageError, named, place, whole
from openhart.errors import UserError

if TYPE_CHECKING:
    from openhart.evaluation.samples.layouts import Plan

BENCHMARKS = ("geneval", "dpg", "mjhq", "imagenet", "composition")
GIVEN_BY_THE_BENCHMARK = (
    "self", "prompt", "class_labels", "generator", "output_type", "return_dict", "num_images_per_prompt",
)  # fmt: skip


def add_samples(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(
        kinds, "samples", samples,
        help="generate the images of a benchmark; continues after an interruption",
        example="geneval evaluation_metadata.jsonl -o geneval-samples",
    )  # fmt: skip
    add = parser.add_argument
    add("benchmark", choices=BENCHMARKS)
    add("prompts", nargs="?", type=place, help="prompt file or folder of the benchmark; none for imagenet")
    add("-o", "--output", type=place, required=True, metavar="DIR", dest="folder", help="folder of images")
    add(
        "--model", type=named, help="folder or hub id of any diffusers pipeline (default: the packaged model)"
    )
    add("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="type of the weights")
    add("--images-per-prompt", type=whole(1, MANY), metavar="N", help="default: the published number")
    add("--seed", type=whole(0, LARGEST_SEED - 10 * MANY), metavar="N", help="the first seed")
    add("--batch", type=whole(1, MANY), default=8, metavar="N", help="images per pipeline call (default: 8)")
    add("--rounding", choices=["round", "truncate"], default="round", help="rounding to bytes")
    add("--file-type", choices=["png", "jpg"], help="default: the published type")
    add(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="settings",
        help="an argument of the pipeline call, such as guidance_scale=4.5 or num_inference_steps=20",
    )  # fmt: skip


def samples(options: Namespace) -> None:
    """Generate the images that the folder does not have yet."""
    if (options.prompts is None) != (options.benchmark == "imagenet"):
        wrong = "takes no prompts" if options.benchmark == "imagenet" else "needs its prompt file"
        raise UsageError(f"evaluate samples {options.benchmark} {wrong}")
    check_writable(options.folder)
    call = _call_settings(options.settings)
    from openhart.evaluation.any_pipeline import load_any_pipeline
    from openhart.evaluation.samples.make import Output, join_processes, make_samples
    from openhart.loading import parse_dtype

    processes = join_processes()
    plan = None if options.prompts is None else _prompt_plan(options)
    device = processes.device or find_device()
    pipeline = load_any_pipeline(options.model, parse_dtype(options.dtype), device)
    _check_call(pipeline, call)
    if plan is None:
        plan = _class_plan(options, pipeline)
    output = Output(options.batch, options.rounding, options.file_type)
    model = options.model or "packaged"
    make_samples(pipeline, model, plan, options.folder, output, options.quiet, processes, call)
    if processes.index == 0 and not options.quiet:
        print(f"{options.folder}  {plan.count:,} images")


def _prompt_plan(options: Namespace) -> "Plan":
    from openhart.evaluation.samples.layouts import FIRST_SEEDS, IMAGES_PER_PROMPT, PROMPT_PLANS

    name = options.benchmark
    seed = FIRST_SEEDS[name] if options.seed is None else options.seed
    return PROMPT_PLANS[name](options.prompts, seed, options.images_per_prompt or IMAGES_PER_PROMPT[name])


def _class_plan(options: Namespace, pipeline: Any) -> "Plan":
    from openhart.evaluation.samples.layouts import IMAGES_PER_PROMPT, plan_imagenet

    encoder, transformer = (getattr(pipeline, name, None) for name in ("label_encoder", "transformer"))
    classes = getattr(getattr(encoder, "config", None), "num_classes", None)
    classes = classes or getattr(getattr(transformer, "config", None), "num_embeds_ada_norm", None)
    if classes is None:
        raise UserError("imagenet needs a class-conditional model, but this model takes prompts")
    per_class = options.images_per_prompt or IMAGES_PER_PROMPT["imagenet"]
    return plan_imagenet(classes, options.seed or 0, per_class)


def _call_settings(pairs: list[str]) -> dict[str, Any]:
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


def _check_call(pipeline: Any, call: dict[str, Any]) -> None:
    known = _arguments(type(pipeline).__call__)
    for name in call:
        if name in GIVEN_BY_THE_BENCHMARK:
            raise UserError(f"the benchmark determines {name}: remove it from --set")
        if name not in known:
            raise UserError(f"{type(pipeline).__name__} has no argument {name}: see its documentation")


def _arguments(function: Callable[..., Any]) -> set[str]:
    """Names of a function's arguments, those of ``**options: Unpack[TypedDict]`` included."""
    names = set()
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            for options in get_args(parameter.annotation):
                names |= options.__annotations__.keys()
        else:
            names.add(parameter.name)
    return names
