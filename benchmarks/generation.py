"""Seconds an image on this machine: the whole command from cold, and a loaded pipeline, with peak memory.

    python benchmarks/generation.py -o benchmarks/results/generation.json

Each pipeline runs in a process of its own, so that its peak memory is its own. Medians of several runs.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

PROMPT = "a red apple"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder or hub id (default: the packaged model)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--warm", nargs=2, metavar=("DTYPE", "BATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.warm:
        print(json.dumps(time_warm(options.model, options.warm[0], int(options.warm[1]), options.runs)))
        return
    report = {"machine": machine(), "date": str(date.today()), "prompt": PROMPT, "runs": options.runs}
    report["cold_command_seconds"] = time_cold(options.model, options.runs)
    report["warm"] = [
        run_apart(options, dtype, batch) for dtype in ("float32", "bfloat16") for batch in options.batches
    ]
    text = json.dumps(report, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


def machine() -> dict[str, object]:
    import torch

    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(names),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def time_cold(model: str | None, runs: int) -> float:
    """Wall-clock seconds of `openhart generate`, from nothing to a written file."""
    chosen = ["--model", model] if model else []
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for run in range(runs):
            command = ["generate", PROMPT, "-o", f"{folder}/{run}.png", "--quiet", *chosen]
            start = time.perf_counter()
            subprocess.run([sys.executable, "-m", "openhart", *command], check=True)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def run_apart(options: argparse.Namespace, dtype: str, batch: int) -> dict[str, object]:
    command = [sys.executable, __file__, "--warm", dtype, str(batch), "--runs", str(options.runs)]
    command += ["--model", options.model] if options.model else []
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def time_warm(model: str | None, dtype: str, batch: int, runs: int) -> dict[str, object]:
    import torch

    from openhart import HartPipeline

    pipeline = HartPipeline.from_pretrained(model, dtype=getattr(torch, dtype))
    pipeline.set_progress_bar_config(disable=True)
    seconds = []
    for run in range(runs + 1):
        generators = [torch.Generator().manual_seed(run * batch + place) for place in range(batch)]
        start = time.perf_counter()
        pipeline([PROMPT] * batch, generator=generators)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "dtype": dtype,
        "batch": batch,
        "seconds_an_image": statistics.median(seconds[1:]) / batch,
        "peak_memory_mib": round(peak),
    }


if __name__ == "__main__":
    main()
