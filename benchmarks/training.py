"""Training speed of both stages, its ratio to the measured matmul rate, and the effect of each setting.

Runs `openhart train` on real images, in one process per setting; the settings alternate:

    openhart data emoji corpus --size 256
    python benchmarks/training.py corpus/train --stage generator --width 1024 --depth 16 -o generator.json

The image tokenizer has the published size for 256 px and random weights, which take as long as trained ones.
Results are medians of the steps after the first ones, over all rounds; ratios are relative to the first
setting.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import torch
import yaml
from generation import machine

from openhart.presets import PUBLISHED_SCALES
from openhart.tokenizer.model import HybridTokenizer
from openhart.training.run.history import read

SCALES = list(PUBLISHED_SCALES[256])
CHOICES = {
    "generator": {
        "bfloat16": [],
        "float32": ["run.precision=no"],
        "compiled": ["run.compile=true"],
        "thinned": ["token_dropping={}"],
        "recomputed": ["run.gradient_checkpointing=true"],
        "encoding": ["cache=none"],
    },
    "tokenizer": {
        "bfloat16": [],
        "float32": ["run.precision=no"],
        "compiled": ["run.compile=true"],
    },
}
FIGURES = ("samples_per_second", "teraflops_per_second", "mfu", "peak_gib")


def main() -> None:
    options = parse()
    names = options.choices or list(CHOICES[options.stage])
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        recipe = write_recipe(options, Path(folder))
        for run in range(options.rounds):
            for name in names:
                lines = train(options, recipe, Path(folder) / f"{name}-{run}", CHOICES[options.stage][name])
                found[name] += lines
                pace = statistics.median(line["samples_per_second"] for line in lines)
                print(f"{name}: {pace:.3g} samples per second", file=sys.stderr, flush=True)
    report = {
        "machine": machine("cuda" if torch.cuda.is_available() else "cpu"),
        "date": str(date.today()),
        **{name: getattr(options, name) for name in ("stage", "width", "depth", "batch", "steps", "rounds")},
        "choices": [summarize(name, lines, found[names[0]]) for name, lines in found.items()],
    }
    text = json.dumps(report, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="folder of captioned images with metadata.jsonl")
    parser.add_argument("--stage", choices=CHOICES, default="generator")
    parser.add_argument("--choices", nargs="+", metavar="NAME")
    parser.add_argument("--width", type=int, default=1024, help="width of the transformer")
    parser.add_argument("--depth", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4, help="measured steps")
    parser.add_argument("--first", type=int, default=2, help="steps before the measured ones")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--samples", type=int, default=64, help="number of images")
    parser.add_argument("-o", "--output", type=Path)
    return parser.parse_args()


def write_recipe(options: argparse.Namespace, folder: Path) -> Path:
    """Write a recipe of the stage; for the generator, also a tokenizer and its encoded data."""
    steps = options.first + options.steps
    values: dict[str, Any] = {
        "run": {"output": "", "precision": "bf16", "log_every": 1, "save_every": 10**6},
        "data": {"train": few_images(options, folder), "batch_size": options.batch},
        "optimizer": {"learning_rate": 1e-4},
    }
    path = folder / "recipe.yaml"
    if options.stage == "tokenizer":
        phase = {"name": "all", "steps": steps, "discrete_share": 0.5, "adversarial": True}
        values |= {"model": {"scales": SCALES}, "phases": [phase]}
        path.write_text(yaml.safe_dump(values))
        return path
    HybridTokenizer(scales=SCALES).save_pretrained(folder / "image_tokenizer")
    values |= {
        "tokenizer": str(folder / "image_tokenizer"),
        "steps": steps,
        "model": {"width": options.width, "depth": options.depth, "num_heads": options.width // 64},
        "residual": {"width": 1024, "depth": 6},
        "cache": str(folder / "cache"),
    }
    path.write_text(yaml.safe_dump(values))
    call("data", "cache", str(path), f"run.output={folder}")
    return path


def few_images(options: argparse.Namespace, folder: Path) -> str:
    """Create a folder with links to the first images of the data."""
    source, few = Path(options.data).resolve(), folder / "images"
    few.mkdir()
    lines = (source / "metadata.jsonl").read_text().splitlines()[: options.samples]
    for line in lines:
        name = json.loads(line)["file_name"]
        (few / name).parent.mkdir(parents=True, exist_ok=True)
        (few / name).symlink_to(source / name)
    (few / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return str(few)


def train(
    options: argparse.Namespace, recipe: Path, output: Path, overrides: list[str]
) -> list[dict[str, Any]]:
    """Train, and return the log entries of the measured steps."""
    call("train", options.stage, str(recipe), f"run.output={output}", *overrides)
    return read(output)[options.first :]


def call(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "openhart", *arguments, "--quiet"], check=True)


def summarize(name: str, lines: list[dict[str, Any]], first: list[dict[str, Any]]) -> dict[str, Any]:
    figures = {figure: statistics.median(line[figure] for line in lines) for figure in FIGURES}
    before = statistics.median(line["samples_per_second"] for line in first)
    tokens = sum(side * side for side in SCALES)
    return {
        "choice": name,
        **figures,
        "tokens_per_second": figures["samples_per_second"] * tokens,
        "times_as_fast": figures["samples_per_second"] / before,
    }


if __name__ == "__main__":
    main()
