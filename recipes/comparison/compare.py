"""Compare trained generators of several families in one table, with a sheet of images of the same prompts.

python recipes/comparison/compare.py recipes/comparison/generator_*.yaml --reference corpus/train \\
    --test corpus/test -o recipes/comparison/results

Every family generates the same captions with the same seeds. What is measured is what ``openhart evaluate``
measures: reconstruction of held-out images by the tokenizer, Fréchet distance and retrieval of generated
images and, with ``--checker``, composition.
"""

import json
import sys
import time
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from openhart.atomic import written_whole
from openhart.data import open_dataset
from openhart.errors import UserError
from openhart.evaluation.benchmarks.composition import score_composition
from openhart.evaluation.benchmarks.distances import set_distance
from openhart.evaluation.benchmarks.reconstruction import evaluate_reconstruction
from openhart.evaluation.benchmarks.retrieval import choose_things, retrieval_figures
from openhart.evaluation.checker.files import load_checker
from openhart.evaluation.images import Images, generate, pooled_features
from openhart.evaluation.networks.extractors import EfficientNetExtractor, MiddleExtractor
from openhart.evaluation.samples.layouts import plan_geneval
from openhart.evaluation.samples.make import make_samples
from openhart.image_io import grid, save_image, to_bytes
from openhart.pipelines.auto import from_pretrained
from openhart.training.generator.recipe import GeneratorRecipe
from openhart.training.recipes import load_recipe
from openhart.training.run.history import training_seconds
from openhart.training.tokenizer.recipe import TokenizerRecipe

SHOWN = 8
COLUMNS = {
    "parameters": "{:,.0f}",
    "training seconds": "{:.0f}",
    "reconstruction, PSNR": "{:.2f} dB",
    "reconstruction, FD": "{:.0f}",
    "generation, FD": "{:.0f}",
    "retrieved first": "{:.1%}",
    "retrieved among five": "{:.1%}",
    "composition": "{:.1%}",
    "seconds per image": "{:.3f}",
}
"""Name and format of each column."""


@dataclass(frozen=True)
class Task:
    """What every family is measured on.

    Attributes:
        prompts: captions of real images.
        real: these images, (N, H, W, 3).
        test: held-out images.
        seed: image i is generated with ``seed + i``.
        checker: folder of the detector of drawn objects; None leaves composition out.
        scenes: file of prompts for the composition.
    """

    prompts: list[str]
    real: Images
    test: Any
    seed: int
    checker: Path | None
    scenes: Path


def training_time(recipe: Path) -> float:
    """Seconds of a generator's training and of its tokenizer's."""
    generator = load_recipe(recipe, GeneratorRecipe)
    runs = [(generator.run, generator.data)]
    for beside in sorted(recipe.parent.glob("tokenizer*.yaml")):
        tokenizer = load_recipe(beside, TokenizerRecipe)
        if Path(tokenizer.run.output) == Path(generator.tokenizer).parent:
            runs.append((tokenizer.run, tokenizer.data))
    return sum(training_seconds(Path(run.output), run.accumulation * data.batch_size) for run, data in runs)


def parameters_of(pipeline: Any) -> int:
    """Parameters of all that was trained; the text encoder was not."""
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
    return sum(
        parameter.numel()
        for name, part in parts.items()
        if name != "text_encoder"
        for parameter in part.parameters()
    )


def measure(recipe: Path, task: Task, samples: Path, quiet: bool) -> tuple[dict[str, float], Images]:
    """The figures of one family, and its images (N, H, W, 3) of the task's prompts."""
    pipeline: Any = from_pretrained(Path(load_recipe(recipe, GeneratorRecipe).run.output) / "pipeline")
    start = time.perf_counter()
    seeds = [task.seed + number for number in range(len(task.prompts))]
    made = generate(pipeline, task.prompts, seeds, quiet)
    figures = {"seconds per image": (time.perf_counter() - start) / len(made)}
    figures |= {"parameters": parameters_of(pipeline), "training seconds": training_time(recipe)}
    middle = MiddleExtractor()
    real, own = (pooled_features(middle, images) for images in (task.real, made))
    figures["generation, FD"] = set_distance("FD", real, own).value
    found = {f.name: f.value for f in retrieval_figures(task.real, {"": made}, [EfficientNetExtractor()])}
    figures |= {"retrieved first": found["top1"], "retrieved among five": found["top5"]}
    decoded = evaluate_reconstruction(pipeline.image_tokenizer, task.test, quiet=quiet).figures
    best = decoded[-1].name.rpartition(", ")[0]
    for metric in ("PSNR", "FD"):
        value = next(each.value for each in decoded if each.name == f"{best}, {metric}")
        figures[f"reconstruction, {metric}"] = value
    if task.checker is not None:
        plan = plan_geneval(task.scenes, task.seed, 1, "composition")
        make_samples(pipeline, recipe.stem, plan, samples / recipe.stem, quiet=quiet)
        result, _ = score_composition(samples / recipe.stem, load_checker(task.checker), quiet)
        figures["composition"] = result.figures[0].value
    return figures, made


def table(rows: dict[str, dict[str, float]]) -> str:
    """A row per family and a column per figure that was measured."""
    names = [name for name in COLUMNS if all(name in figures for figures in rows.values())]
    lines = [["family", *names], ["---"] * (len(names) + 1)]
    lines += [
        [family, *(COLUMNS[name].format(figures[name]) for name in names)] for family, figures in rows.items()
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def sheet(real: Images, made: list[Images]) -> Image.Image:
    """The real images of the first prompts in one row, and below them a row per family."""
    shown = min(SHOWN, len(real))
    return grid([Image.fromarray(image) for images in (real, *made) for image in images[:shown]], shown)


def open_task(options: Any, size: tuple[int, int]) -> Task:
    """Read the images; the prompts are captions of ``--reference``."""
    only = {"style": options.styles} if options.styles else {}
    reference = open_dataset(options.reference, size, only=only)
    chosen = [
        reference[index]
        for index in choose_things(list(reference.all_samples()), options.count, options.seed)
    ]
    real = to_bytes(torch.stack([image for image, _ in chosen]))
    prompts = [sample.main_caption for _, sample in chosen]
    test = open_dataset(options.test, size)
    return Task(prompts, real, test, options.seed, options.checker, options.scenes)


def main(arguments: list[str] | None = None) -> None:
    """Measure every family and write table, figures and sheet."""
    parser = ArgumentParser(description="Compare trained generators of several families.")
    add = parser.add_argument
    add(
        "recipes", type=Path, nargs="+", help="Recipes of generators, beside the recipes of their tokenizers."
    )
    add("--reference", required=True, help="Images whose captions are the prompts.")
    add("--test", required=True, help="Held-out images, which the tokenizers reconstruct.")
    add("--styles", nargs="*", default=[], help="Styles of the prompts (default: all).")
    add("--count", type=int, default=256, help="Number of prompts (default: 256).")
    add("--seed", type=int, default=0, help="Seed of the first image (default: 0).")
    add("--checker", type=Path, help="Folder of openhart evaluate checker, for composition.")
    add("--scenes", type=Path, default=Path("scenes/prompts/plain.jsonl"), help="Prompts for composition.")
    add("-o", "--output", type=Path, required=True, help="Folder of the results.")
    add("--quiet", action="store_true", help="Show no progress bars.")
    options = parser.parse_args(arguments)
    first = load_recipe(options.recipes[0], GeneratorRecipe)
    pipeline: Any = from_pretrained(Path(first.run.output) / "pipeline")
    task = open_task(options, pipeline.image_tokenizer.image_size)
    rows: dict[str, dict[str, float]] = {}
    sheets: list[Images] = []
    for recipe in options.recipes:
        family = recipe.stem.removeprefix("generator_")
        rows[family], made = measure(recipe, task, options.output / "samples", options.quiet)
        sheets.append(np.asarray(made))
    options.output.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("comparison.json", json.dumps(rows, indent=1) + "\n"),
        ("comparison.md", table(rows)),
    ):
        with written_whole(options.output / name) as whole:
            whole.write_text(text, encoding="utf-8")
    save_image(sheet(task.real, sheets), options.output / "comparison.png")
    print(table(rows), end="")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"compare: {error}")
