"""Time and memory of the five metrics of ADM's ImageNet protocol for 50,000 images with 2,048 features.

    python benchmarks/scoring.py -o benchmarks/results/scoring.json

Features are synthetic, so that no network is needed: 2,048 pooled and 2,023 spatial ones per image, and a
classifier of 1,008 classes. The time for generating them is subtracted. ``processor_seconds`` is the sum over
all threads, so it is also meaningful if other programs use the processor.
"""

import argparse
import json
import time
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from openhart.evaluation.benchmarks.imagenet import evaluate_adm
from openhart.evaluation.benchmarks.pipelines import machine_name
from openhart.evaluation.npz_files import read_batch_file
from openhart.memory import GIB, peak_memory

POOLED, SPATIAL, CLASSES, DIRECTIONS = 2048, 2023, 1008, 128


class SyntheticFeatures:
    """Synthetic features of 128 directions and noise instead of Inception's; measures its own seconds."""

    name = "synthetic features"

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.random, self.seconds, self.busy = random, 0.0, 0.0
        self.mix = random.standard_normal((DIRECTIONS, POOLED), np.float32) / DIRECTIONS**0.5
        self.softmax_weight = random.standard_normal((POOLED, CLASSES), np.float32) / POOLED**0.5

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        start, busy = time.perf_counter(), time.process_time()
        count = len(images)
        noise = self.random.standard_normal((count, POOLED), np.float32) * 0.3
        pooled = self.random.standard_normal((count, DIRECTIONS), np.float32) @ self.mix + noise
        pooled = np.maximum(pooled + 0.3, 0)
        self.seconds += time.perf_counter() - start
        self.busy += time.process_time() - busy
        return pooled, pooled[:, :SPATIAL] * 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--references", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    extractor = SyntheticFeatures()
    with TemporaryDirectory() as folder:
        files = []
        for name in ("references", "samples"):
            path = Path(folder, f"{name}.npz")
            np.savez(path, arr_0=np.zeros((getattr(options, name), 1, 1, 3), np.uint8))
            files.append(read_batch_file(path))
        start, busy = time.perf_counter(), time.process_time()
        result = evaluate_adm(files[0], files[1], extractor, quiet=True)
        seconds = time.perf_counter() - start - extractor.seconds
        busy = time.process_time() - busy - extractor.busy
    peak = peak_memory(torch.device("cpu"))
    report = {
        "machine": machine_name(torch.device("cpu")),
        "date": str(date.today()),
        "torch": torch.__version__,
        "samples": options.samples,
        "references": options.references,
        "features": POOLED,
        "seconds": round(seconds, 1),
        "processor_seconds": round(busy, 1),
        "peak_gib": peak and round(peak / GIB, 2),
        "figures": {figure.label: [figure.value, figure.interval] for figure in result.figures},
    }
    text = json.dumps(report, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
