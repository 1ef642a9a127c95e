"""Train settings of ``settings.yaml`` for a share of a recipe's steps, and compare them.

Each run ends with a line in ``OUTPUT/results.jsonl``; a run that has one is not done again, and one that was
stopped goes on. Without names the table of what is there is printed.
"""

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import yaml
from hold_out import hold_out

HERE = Path(__file__).parent
SHOWN = ("pictures", "captions")


def main() -> None:
    """Parse, run what is asked for, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names", nargs="*", help="Names of settings.yaml, or section.name=value for every run."
    )
    parser.add_argument(
        "--corpus", type=Path, default=Path("corpus"), help="Folder of the data set (default: corpus)."
    )
    parser.add_argument(
        "--recipe", type=Path, default=HERE.parent / "generator.yaml",
        help="Recipe to change (default: recipes/emoji/generator.yaml).",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, default=Path("runs/emoji/ablations"),
        help="Folder of the runs (default: runs/emoji/ablations).",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1], help="Seeds of the runs (default: 0 1)."
    )
    parser.add_argument(
        "--share", type=float, default=0.2, help="Fraction of the recipe's steps (default: 0.2)."
    )
    parser.add_argument(
        "--prompts",
        type=int,
        default=192,
        help="Number of prompts for retrieval; 0 leaves it out (default: 192).",
    )
    options, rest = parser.parse_known_args()
    warnings.filterwarnings("ignore", message="prompt cut")
    known = yaml.safe_load((HERE / "settings.yaml").read_text())
    common = [name for name in options.names + rest if "=" in name]
    names = [name for name in options.names if "=" not in name]
    if unknown := set(names) - set(known):
        parser.error(f"settings.yaml has no {', '.join(sorted(unknown))}; it has {', '.join(known)}")
    if names and not (options.output / "data").is_dir():
        print(hold_out(options.corpus / "train", options.output / "data"))
    for seed in options.seeds:
        for name in names:
            if (name, seed) not in {(line["name"], line["seed"]) for line in results(options.output)}:
                run(options, name, seed, [*common, *known[name]])
    print(table(results(options.output)))


def run(options: argparse.Namespace, name: str, seed: int, overrides: list[str]) -> None:
    """Train one setting with one seed, measure it, and keep the figures."""
    from openhart.training.generator import train as generator
    from openhart.training.generator.data import fill_cache
    from openhart.training.generator.recipe import GeneratorRecipe
    from openhart.training.recipes import load_recipe

    data, cache = options.output / "data", options.output / "cache"
    changed = any(text.startswith("data.") for text in overrides)
    steps = round(load_recipe(options.recipe, GeneratorRecipe, overrides).steps * options.share)
    overrides = [
        *overrides, f"data.train={data / 'train'}", f"steps={steps}", f"run.seed={seed}",
        f"run.output={options.output / f'{name}-{seed}'}", "run.sample_every=1000000",
        f"cache={cache / name if changed else cache / 'base'}",
    ]  # fmt: skip
    fill_cache(options.recipe, overrides)
    start = time.perf_counter()
    folder = generator.train(options.recipe, overrides)
    line = {"name": name, "seed": seed, "steps": steps, "seconds": round(time.perf_counter() - start)}
    line |= measure(folder, load_recipe(options.recipe, GeneratorRecipe, overrides), data, options.prompts)
    with (options.output / "results.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def measure(folder: Path, recipe: Any, data: Path, prompts: int) -> dict[str, Any]:
    """Figures of a trained pipeline on held-out pictures and captions, and retrieval."""
    from openhart.data import open_dataset
    from openhart.evaluation.benchmarks.likelihood import evaluate_likelihood
    from openhart.evaluation.benchmarks.retrieval import evaluate_retrieval
    from openhart.pipelines.hart import HartPipeline

    pipeline = HartPipeline.from_pretrained(folder)
    size, only = pipeline.image_tokenizer.image_size, recipe.data.only
    found: dict[str, Any] = {}
    for part in SHOWN:
        held_out = open_dataset(str(data / part), size, only=only)
        found[part] = evaluate_likelihood(pipeline, held_out)
    if prompts:
        seen = open_dataset(str(data / "train"), size, only=only)
        ways = {"codes": {"use_residual": False}}
        if pipeline.residual_head is not None:
            ways["residual"] = {"use_residual": True}
        for way, call in ways.items():
            result = evaluate_retrieval(pipeline, seen, prompts, **call)
            found[f"retrieval/{way}"] = {name: result.figure(name).value for name in ("top1", "top5")}
    return found


def results(output: Path) -> list[dict[str, Any]]:
    """What runs have measured."""
    path = output / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def figures(line: dict[str, Any]) -> dict[str, float]:
    """The figures of a run that the table shows."""
    found = {"seconds": line["seconds"]}
    for part in SHOWN:
        found[f"{part}: cross-entropy"] = line[part]["cross_entropy"]
        found[f"{part}: accuracy"] = 100 * line[part]["accuracy"]
        for kind, errors in line[part].get("residual", {}).items():
            found[f"{part}: {kind} residual's error"] = errors["error"]
    for way in ("codes", "residual"):
        if f"retrieval/{way}" in line:
            found[f"retrieval, {way}: in five"] = 100 * line[f"retrieval/{way}"]["top5"]
    return found


def table(lines: list[dict[str, Any]]) -> str:
    """Means over seeds, and in brackets half of the distance between the smallest and the largest."""
    if not lines:
        return "no run has been measured yet"
    runs: dict[str, list[dict[str, float]]] = {}
    for line in lines:
        runs.setdefault(line["name"], []).append(figures(line))
    columns = list(dict.fromkeys(column for each in runs.values() for part in each for column in part))
    rows = [["ablation", "seeds", *columns], ["---"] * (2 + len(columns))]
    for name, each in runs.items():
        cells = [[part[column] for part in each if column in part] for column in columns]
        shown = [f"{statistics.mean(c):.4g} (±{(max(c) - min(c)) / 2:.2g})" if c else "–" for c in cells]
        rows.append([name, str(len(each)), *shown])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    main()
