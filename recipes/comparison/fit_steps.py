"""Print the command that trains a recipe for as many seconds as are given, from a short measurement.

python recipes/comparison/fit_steps.py recipes/comparison/tokenizer_vqgan.yaml --seconds 1800

Every phase is run for a few steps, in a temporary folder, and its seconds per step are measured. All phases
are then made longer or shorter by one factor. The learning rate follows the number of steps, so that every
schedule ends.
"""

import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path
from statistics import median

from openhart.errors import UserError
from openhart.training.generator.recipe import GeneratorRecipe
from openhart.training.generator.train import train as train_generator
from openhart.training.recipes import load_recipe
from openhart.training.run import history
from openhart.training.tokenizer.recipe import TokenizerRecipe
from openhart.training.tokenizer.train import train as train_tokenizer

MEASURED = 8
"""Steps per phase, of which the first are slower and the median is taken."""


def fitted_steps(steps: list[int], seconds_per_step: list[float], seconds: float) -> list[int]:
    """Numbers of steps in the same proportions that take so many seconds; at least one each."""
    factor = seconds / sum(count * each for count, each in zip(steps, seconds_per_step, strict=True))
    return [max(1, round(count * factor)) for count in steps]


def measure(recipe: Path, kind: str, phases: int, samples: int, overrides: list[str]) -> list[float]:
    """Seconds per step of each phase."""
    names = [f"phases.{index}.steps" for index in range(phases)] if kind == "tokenizer" else ["steps"]
    train = train_tokenizer if kind == "tokenizer" else train_generator
    with tempfile.TemporaryDirectory() as folder:
        few = [f"{name}={MEASURED}" for name in names]
        quick = [
            f"run.output={folder}/run",
            "run.log_every=1",
            "run.save_every=100000",
            "run.sample_every=100000",
        ]
        train(recipe, [*overrides, *quick, *few], quiet=True)
        lines = history.read(Path(folder) / "run")
    if skipped := lines[-1]["skipped"]:
        raise SystemExit(f"{recipe}: the losses or gradients of {skipped:.0f} measured steps are not finite")
    taken = [samples / line["samples_per_second"] for line in lines]
    return [median(taken[first : first + MEASURED]) for first in range(0, len(taken), MEASURED)]


def main(arguments: list[str] | None = None) -> None:
    """Measure a recipe and print the command."""
    parser = ArgumentParser(description="Print the command that trains a recipe for a number of seconds.")
    parser.add_argument("recipe", type=Path, help="Recipe whose name begins with tokenizer or generator.")
    parser.add_argument("overrides", nargs="*", help="Settings that replace those of the recipe.")
    parser.add_argument("--seconds", type=float, required=True, help="Seconds of training.")
    options = parser.parse_args(arguments)
    kind = options.recipe.stem.partition("_")[0]
    if kind == "tokenizer":
        found = load_recipe(options.recipe, TokenizerRecipe, options.overrides)
        steps = [phase.steps for phase in found.phases]
        samples = found.data.batch_size * found.run.accumulation
    else:
        generator = load_recipe(options.recipe, GeneratorRecipe, options.overrides)
        steps, samples = [generator.steps], generator.data.batch_size * generator.run.accumulation
    taken = measure(options.recipe, kind, len(steps), samples, options.overrides)
    wanted = fitted_steps(steps, taken, options.seconds)
    names = ["steps"] if kind == "generator" else [f"phases.{index}.steps" for index in range(len(wanted))]
    fitted = " ".join(f"{name}={count}" for name, count in zip(names, wanted, strict=True))
    print(" ".join(["openhart train", kind, str(options.recipe), *options.overrides, fitted]))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"fit_steps: {error}")
