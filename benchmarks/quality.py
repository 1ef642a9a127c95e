"""Cost in quality of each speed setting, for the packaged model and its corpus (`openhart data emoji`).

    python benchmarks/quality.py corpus/train -o benchmarks/results/quality.json

For each variant: seconds per image in batches of 16; fraction of images whose nearest real image shows the
right thing (top 1, top 5); distances between the sets of generated and real images; and PSNR to the float32
image of the same codes.
"""

import argparse
import json
import math
import platform
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openhart import HartPipeline
from openhart.data.images import ImageFolder
from openhart.evaluation.benchmarks.distances import set_distance
from openhart.evaluation.benchmarks.retrieval import choose_things, retrieval_accuracy
from openhart.evaluation.images import pooled_features
from openhart.evaluation.networks.extractors import EfficientNetExtractor, MiddleExtractor
from openhart.generation.states import KnownCodes
from openhart.image_io import to_bytes

BATCH = 16
SOLVERS = [("ddpm", 8), ("ddpm", 4), ("dpm++", 8), ("dpm++", 4)]
VARIANTS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "float32": (None, {}),
    "exact": ("exact", {}),
    "exact in bfloat16": ("bfloat16", {}),
    "bfloat16, int8 weights": ("int8", {}),
    "bfloat16, fp8 weights": ("fp8", {}),
    "fast": ("fast", {}),
    "fastest": ("fastest", {}),
    "last scale without guidance": (None, {"unguided_scales": 1}),
    "last two without guidance": (None, {"unguided_scales": 2}),
    "last three without guidance": (None, {"unguided_scales": 3}),
    "3/4 of the last scale's tokens": (None, {"keep_ratios": (0.75,)}),
    "half of the last scale's tokens": (None, {"keep_ratios": (0.5,)}),
} | {
    f"residual, {solver}, {steps} steps": (
        None,
        {"use_residual": True, "residual_solver": solver, "residual_steps": steps},
    )
    for solver, steps in SOLVERS
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument(
        "--seed", type=int, default=2, help="selects prompts; the defaults were tuned with seeds 0 and 1"
    )
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="measured after float32"
    )
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    pipeline = HartPipeline.from_pretrained()
    dataset = ImageFolder(options.corpus, pipeline.image_tokenizer.image_size, only=STYLES)
    chosen = choose_things(dataset.samples, options.count, options.seed)
    samples = [dataset[index] for index in chosen]
    real, prompts = (
        torch.stack([image for image, _ in samples]),
        [sample.main_caption for _, sample in samples],
    )
    known: list[KnownCodes] = []
    report: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads(),
        "date": str(date.today()), "prompts": options.count, "seed": options.seed, "variants": {},
    }  # fmt: skip
    first: Tensor | None = None
    for name in dict.fromkeys(("float32", *options.variants)):
        level, call = VARIANTS[name]
        pipeline = prepare(level)
        images, seconds = generate(pipeline, prompts, options.seed, call)
        figures: dict[str, Any] = {"seconds_per_image": seconds, **retrieval_accuracy(real, images)}
        for metric, extractor in (("frechet", MiddleExtractor()), ("KID", EfficientNetExtractor())):
            features = [pooled_features(extractor, to_bytes(each)) for each in (real, images)]
            figures[metric.lower()] = set_distance(metric, *features).value
        if not call:
            same, _ = generate(pipeline, prompts, options.seed, {"use_residual": True}, known)
            first = same if first is None else first
            figures["psnr_same_codes"] = psnr(same, first)
        report["variants"][name] = figures
        print(name, json.dumps(figures), flush=True)
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n")


STYLES = {"style": ["fluent-3d", "fluent-flat"]}


def prepare(level: str | None) -> HartPipeline:
    if level == "bfloat16":
        pipeline = HartPipeline.from_pretrained(dtype=torch.bfloat16).optimize("exact")
    elif level in ("int8", "fp8"):
        pipeline = HartPipeline.from_pretrained(dtype=torch.bfloat16).quantize(level)
    else:
        pipeline = HartPipeline.from_pretrained()
        if level is not None:
            pipeline.optimize(level)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(
    pipeline: HartPipeline,
    prompts: list[str],
    seed: int,
    call: dict[str, Any],
    known: list[KnownCodes] | None = None,
) -> tuple[Tensor, float]:
    """Generated images (N, 3, H, W) in [−1, 1], and seconds per image.

    An empty list ``known`` is filled with the sampled codes, one entry per batch; a filled one fixes them.
    """
    batches, seconds = [], 0.0
    for number, start in enumerate(range(0, len(prompts), BATCH)):
        batch = prompts[start : start + BATCH]
        generators = [torch.Generator().manual_seed(seed + start + row) for row in range(len(batch))]
        fixed = known[number] if known is not None and number < len(known) else None
        codes: list[Tensor] = []
        began = time.perf_counter()
        images = pipeline(
            batch,
            generator=generators,
            known_codes=fixed,
            output_type="pt",
            callback_on_scale_end=lambda _pipe, _index, state, stored=codes: stored.append(state.codes),
            **call,
        ).images
        seconds += time.perf_counter() - began
        if known is not None and fixed is None:
            known.append(KnownCodes(codes, [torch.ones_like(each, dtype=torch.bool) for each in codes]))
        batches.append(images.float() * 2 - 1)
    return torch.cat(batches), seconds / len(prompts)


def psnr(images: Tensor, reference: Tensor) -> float:
    error = (images - reference).square().mean().item() / 4
    return 200.0 if error == 0 else -10 * math.log10(error)


if __name__ == "__main__":
    main()
