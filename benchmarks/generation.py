"""Seconds per image by phase, compared with a lower bound.

For a model (default: the packaged one), the whole command from a cold start, and a loaded pipeline:

    python benchmarks/generation.py -o benchmarks/results/generation.json

For a published size with random weights, compared with a checkout of the authors' program:

    python benchmarks/generation.py --shape hart-0.7b-256 --reference ../hart -o hart-256.json

Each measurement runs in a separate process, so that its peak memory is measured alone. The programs
alternate, so that other load on the machine affects all of them. Results are medians.
"""

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from programs import apply, now, peak_memory

PROMPT = "a red apple"
PROGRAMS = {
    "float32": ("float32", None),
    "float32 exact": ("float32", "exact"),
    "bfloat16": ("bfloat16", None),
    "bfloat16 exact": ("bfloat16", "exact"),
    "int8 weights": ("bfloat16", "int8"),
    "fp8 weights": ("bfloat16", "fp8"),
    "fast": ("bfloat16", "fast"),
    "fastest": ("bfloat16", "fastest"),
}
DEFAULT_PROGRAMS = [name for name in PROGRAMS if "weights" not in name]


def main() -> None:
    options = parse()
    if options.one:
        print(json.dumps(run_one(options)))
        return
    report: dict[str, Any] = {
        "machine": machine(options.device),
        "date": str(date.today()),
        "runs": options.runs,
    }
    report |= compare(options) if options.shape else time_model(options)
    text = json.dumps(report, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")
        if options.shape:
            from plots import plot_phases

            plot_phases(report, options.output.with_suffix(".png"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="folder or hub id (default: the packaged model)")
    parser.add_argument("--shape", help="a published size, such as hart-0.7b-1024 or var-d16-256")
    parser.add_argument("--reference", type=Path, help="a checkout of HART or VAR, to compare with")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=DEFAULT_PROGRAMS)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--warm-ups", type=int, default=1, help="runs per process that are not measured")
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("PROGRAM", "BATCH"), help=argparse.SUPPRESS)
    parser.add_argument("--codes", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def machine(device: str) -> dict[str, object]:
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else platform.processor(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "cores": len(names),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def call(options: argparse.Namespace, program: str, batch: int, *rest: str) -> dict[str, Any]:
    """The measurements of one program, from a separate process."""
    command = [sys.executable, __file__, "--one", program, str(batch), *rest]
    for name in ("model", "shape", "reference", "device"):
        if value := getattr(options, name):
            command += [f"--{name}", str(value)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    seconds = round(figures.get("seconds", figures.get("seconds_per_image", 0)), 2)
    print(f"{program}, batch {batch}: {seconds} s", file=sys.stderr, flush=True)
    return figures


def run_one(options: argparse.Namespace) -> dict[str, Any]:
    program, batch = options.one[0], int(options.one[1])
    if not options.shape:
        return time_warm(options, *PROGRAMS[program], batch)
    import programs
    from shapes import SHAPES

    shape = SHAPES[options.shape]
    if program == "reference":
        reference = programs.hart_reference if shape.family == "hart" else programs.var_reference
        run = reference(options.reference, shape, options.device, batch)
    else:
        run = programs.ours(shape, options.device, *PROGRAMS[program], batch)
    stored = None
    if options.codes and options.codes.exists():
        stored = torch.load(options.codes, map_location=options.device)
    codes = stored and stored["codes"]
    seconds = [run(options.seed, codes).seconds for _ in range(options.warm_ups)]
    result = run(options.seed, codes)
    figures: dict[str, Any] = {
        "seconds": result.seconds,
        "first_seconds": [*seconds, result.seconds][0],
        "phases": result.phases,
        "peak_gib": result.peak_gib,
    }
    images = result.images.float()
    if stored is None:
        torch.save({"codes": result.codes, "images": images}, options.codes)
        return figures
    difference = images - stored["images"]
    equal = [(a == b).flatten() for a, b in zip(result.codes, codes, strict=True)]
    return figures | {
        "largest_difference": difference.abs().max().item(),
        "psnr": -10 * math.log10(max(difference.square().mean().item(), 1e-20)),
        "codes_agree": torch.cat(equal).float().mean().item(),
    }


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Run the programs in turn with the same weights, condition, noise and codes.

    The first program chooses the codes; the others use the same ones.
    """
    from lower_bound import count_flops
    from shapes import SHAPES

    from openhart.arithmetic import matmul_rate

    names = [*(["reference"] if options.reference else []), *options.programs]
    report: dict[str, Any] = {"shape": options.shape, "batches": []}
    for batch in options.batches:
        dtypes, device = (torch.float32, torch.bfloat16), torch.device(options.device)
        rates = [matmul_rate(device, dtype) for dtype in dtypes]
        measured: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        with tempfile.TemporaryDirectory() as folder:
            for run in range(options.runs):
                for name in names:
                    rest = ["--warm-ups", str(options.warm_ups), "--seed", str(run)]
                    codes = f"{folder}/{run}.pt"
                    measured[name].append(call(options, name, batch, *rest, "--codes", codes))
        matmul_rate.cache_clear()  # measure twice, because other load may have slowed the first measurement
        again = [matmul_rate(device, dtype) for dtype in dtypes]
        rates = [max(pair) for pair in zip(rates, again, strict=True)]
        flops = count_flops(SHAPES[options.shape], batch)
        entry: dict[str, Any] = {
            "batch": batch,
            "device": options.device,
            "teraflop": sum(flops.values()) / 1e12,
        }
        entry["teraflop_by_phase"] = {phase: value / 1e12 for phase, value in flops.items()}
        for name, rate in zip(("float32", "bfloat16"), rates, strict=True):
            entry[f"{name}_gigaflop_per_second"] = rate / 1e9
            entry[f"{name}_lower_bound_seconds"] = sum(flops.values()) / rate
        first = measured[names[0]]
        entry["programs"] = [summarize(name, runs, first, entry) for name, runs in measured.items()]
        report["batches"].append(entry)
    return report


def summarize(name: str, runs: list[Any], first: list[Any], entry: dict[str, Any]) -> dict[str, Any]:
    seconds = statistics.median(run["seconds"] for run in runs)
    on_cpu = entry["device"] == "cpu"
    dtype = PROGRAMS[name][0] if name in PROGRAMS else "float32" if on_cpu else "bfloat16"
    summary = {
        "program": name,
        "seconds": seconds,
        "first_seconds": max(run["first_seconds"] for run in runs),
        "times_as_fast": statistics.median(run["seconds"] for run in first) / seconds,
        "ratio_to_lower_bound": seconds / entry[f"{dtype}_lower_bound_seconds"],
        "peak_gib": max(run["peak_gib"] for run in runs),
        "phases": {
            phase: statistics.median(run["phases"][phase] for run in runs) for phase in runs[0]["phases"]
        },
    }
    for figure, worst in (("largest_difference", max), ("psnr", min), ("codes_agree", min)):
        if figure in runs[0]:
            summary[figure] = worst(run[figure] for run in runs)
    return summary


def time_model(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "prompt": PROMPT,
        "cold_command_seconds": time_cold(options.model, options.device, options.runs),
        "warm": [
            call(options, program, batch, "--runs", str(options.runs))
            for program in options.programs
            for batch in options.batches
        ],
    }


def time_cold(model: str | None, device: str, runs: int) -> float:
    """Wall-clock seconds of `openhart generate`, from the start of the process to the written file."""
    chosen = ["--model", model] if model else []
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for run in range(runs):
            command = [
                "generate",
                PROMPT,
                "-o",
                f"{folder}/{run}.png",
                "--device",
                device,
                "--quiet",
                *chosen,
            ]
            start = time.perf_counter()
            subprocess.run([sys.executable, "-m", "openhart", *command], check=True)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def time_warm(options: argparse.Namespace, dtype: str, level: str | None, batch: int) -> dict[str, Any]:
    from openhart import HartPipeline

    pipeline = HartPipeline.from_pretrained(options.model, dtype=getattr(torch, dtype))
    pipeline.to(options.device)
    apply(pipeline, level)
    pipeline.set_progress_bar_config(disable=True)
    seconds = []
    for run in range(options.runs + 1):
        generators = [torch.Generator().manual_seed(run * batch + index) for index in range(batch)]
        start = now()
        pipeline([PROMPT] * batch, generator=generators)
        seconds.append(now() - start)
    return {
        "program": options.one[0],
        "batch": batch,
        "seconds_per_image": statistics.median(seconds[1:]) / batch,
        "peak_gib": peak_memory(),
    }


if __name__ == "__main__":
    main()
