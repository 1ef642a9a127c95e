"""CPU seconds per image of a raster-order transformer with its key-value cache, and without.

    python benchmarks/raster.py --depth 6 --width 256 --side 16 -o benchmarks/results/raster.json

Weights are random, and codes are drawn by the same seeds, so that both programs draw the same codes. They run
in turn on one thread; a figure is the median of CPU seconds, which other processes hardly change.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from openhart.generation.raster import generate
from openhart.generation.raster_settings import RasterSampling
from openhart.randomness import SeededDraws, draw_codes
from openhart.tokenizer.quantizer import MultiScaleQuantizer
from openhart.transformer.raster import RasterTransformer

CODES = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description="A raster-order transformer with its cache, and without.")
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = {"depth": options.depth, "width": options.width, "num_heads": options.width // 64}
    transformer = RasterTransformer(
        **shape,
        scales=[options.side],
        codebook_size=CODES,
        context_dim=options.width,
        context_projection=False,
    ).eval()
    quantizer = MultiScaleQuantizer([options.side], CODES, 4, phi_ratio=0.0)
    context = torch.randn(1, 1, options.width)
    seconds: dict[str, list[float]] = {"with cache": [], "without cache": []}
    for _ in range(options.runs):
        start = time.process_time()
        *_, state = generate(transformer, quantizer, context, None, draws(), RasterSampling(top_k=0))
        seconds["with cache"].append(time.process_time() - start)
        start = time.process_time()
        codes = without_cache(transformer, context, options.side**2)
        seconds["without cache"].append(time.process_time() - start)
        assert torch.equal(codes, state.codes.flatten(1)), "the two programs drew different codes"
    report = shape | {"side": options.side, "runs": options.runs}
    report |= {name: round(statistics.median(values), 3) for name, values in seconds.items()}
    text = json.dumps(report, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


def draws() -> SeededDraws:
    return SeededDraws([torch.Generator().manual_seed(0)])


@torch.no_grad()
def without_cache(transformer: RasterTransformer, context: Tensor, count: int) -> Tensor:
    """Draw each code from a pass over all codes before it."""
    codes, generators = torch.zeros(1, 0, dtype=torch.long), draws().generators
    for _ in range(count):
        logits = transformer(codes, context).logits[:, -1:]
        codes = torch.cat([codes, draw_codes(logits, generators)], dim=1)
    return codes


if __name__ == "__main__":
    main()
