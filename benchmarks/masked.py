"""CPU seconds of MAR's loop over steps, beside a checkout of the authors' program (github.com/LTH14/mar).

    python benchmarks/masked.py --reference ../mar -o benchmarks/results/mar-b-256.json

All programs generate one image of a MAR of published size with random weights, guidance and 100 diffusion
steps per token. Each runs in a process of its own, on one thread; they alternate, and figures are medians of
CPU seconds, which other processes change less than the time on the clock. The image tokenizer is left out.
``--steps`` measures only some of the 64 steps, from the state in which they begin.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from programs import peak_memory, without_cuda
from shapes import randomise
from torch import Tensor, nn

from openhart.acceleration.packed import can_pack, pack
from openhart.generation import masked
from openhart.generation.masked_settings import MaskedSamplingSettings
from openhart.randomness import SeededDraws
from openhart.residual.heads import TokenResidualHead
from openhart.transformer.masked import MaskedTransformer

SIZES = {"mar-b": (768, 12, 12, 1024, 6), "mar-l": (1024, 16, 16, 1280, 8), "mar-h": (1280, 20, 16, 1536, 12)}
"""Width, blocks per side and heads of the transformer; width and depth of the diffusion head."""
STEPS, DIFFUSION_STEPS, GUIDANCE, LABEL = 64, 100, 2.9, 207
PROGRAMS = {
    "float32": ("float32", False),
    "float32 exact": ("float32", True),
    "bfloat16 exact": ("bfloat16", True),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="mar-b")
    parser.add_argument("--reference", type=Path, help="a checkout of MAR, to compare with")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--steps", type=int, nargs="+", default=list(range(STEPS)), help="counted from 0")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_one(options)))
        return
    names = [*(["reference"] if options.reference else []), *options.programs]
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(options.runs):
        for name in names:
            measured[name].append(call(options, name))
            print(name, measured[name][-1], file=sys.stderr, flush=True)
    first = statistics.median(run["cpu_seconds"] for run in measured[names[0]])
    report: dict[str, Any] = {"size": options.size, "steps": options.steps, "runs": options.runs}
    report["torch"], report["programs"] = torch.__version__, []
    for name, runs in measured.items():
        seconds = statistics.median(run["cpu_seconds"] for run in runs)
        figures = {"program": name, "cpu_seconds": seconds, "times_as_fast": first / seconds}
        report["programs"].append(figures | {"peak_gib": max(run["peak_gib"] for run in runs)})
    text = json.dumps(report, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


def call(options: argparse.Namespace, program: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", program, "--size", options.size, "--steps"]
    command += [str(step) for step in options.steps]
    if options.reference:
        command += ["--reference", str(options.reference)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def run_one(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if options.one == "reference":
        seconds = published(options.reference, options.size, options.steps)
    else:
        seconds = ours(options.size, options.steps, *PROGRAMS[options.one])
    return {"cpu_seconds": round(seconds, 2), "peak_gib": round(peak_memory(), 2)}


def ours(size: str, steps: list[int], dtype: str, packed: bool) -> float:
    """CPU seconds of some steps of our loop, with packed weights as ``optimize("exact")`` has them."""
    width, depth, heads, head_width, head_depth = SIZES[size]
    shape = {"encoder_depth": depth, "decoder_depth": depth, "width": width, "num_heads": heads}
    with torch.device("meta"):
        transformer = MaskedTransformer(**shape, context_dim=width)
        head = TokenResidualHead(
            code_dim=16,
            condition_dim=width,
            width=head_width,
            depth=head_depth,
            residual_scale=1.0,
            clamp=False,
        )
    for seed, model in enumerate((transformer, head)):
        randomise(model, seed)
        model.to(getattr(torch, dtype))
        if packed and can_pack(model):
            pack(model)
    settings = MaskedSamplingSettings(
        num_inference_steps=STEPS, guidance_scale=GUIDANCE, diffusion_steps=DIFFUSION_STEPS
    )
    plan = masked.plan_steps(transformer.num_tokens, settings)
    masked.plan_steps = lambda *_: [plan[step] for step in steps]
    condition, empty = torch.randn(2, 1, 1, width)
    mask = torch.ones(1, 1, dtype=torch.bool)
    draws = SeededDraws([torch.Generator().manual_seed(0)])
    start = time.process_time()
    for _ in masked.generate_masked(transformer, head, (condition, mask), (empty, mask), draws, settings):
        pass
    return time.process_time() - start


class VitBlock(nn.Module):
    """The operations of timm's block, which the published program takes: fused attention, exact GELU."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, norm_layer: Any, **_: Any) -> None:
        super().__init__()
        self.norm1, self.norm2, self.heads = norm_layer(dim), norm_layer(dim), num_heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, int(dim * mlp_ratio)), nn.GELU(), nn.Linear(int(dim * mlp_ratio), dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


def published(folder: Path, size: str, steps: list[int]) -> float:
    """CPU seconds of some steps of the published loop; the tokens generated before them are zeros."""
    sys.path.insert(0, str(folder))
    transformers = types.ModuleType("timm.models.vision_transformer")
    transformers.Block = VitBlock
    sys.modules |= {"timm": types.ModuleType("timm"), "timm.models": types.ModuleType("timm.models")}
    sys.modules["timm.models.vision_transformer"] = transformers
    with without_cuda("cpu"), contextlib.redirect_stdout(None):
        import models.mar as program

        width, depth, heads, head_width, head_depth = SIZES[size]
        sides = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in (
            ("embed_dim", width), ("depth", depth), ("num_heads", heads))}  # fmt: skip
        norm = lambda dim: nn.LayerNorm(dim, eps=1e-6)  # noqa: E731
        model = program.MAR(
            **sides, norm_layer=norm, buffer_size=64, diffloss_d=head_depth, diffloss_w=head_width,
            num_sampling_steps=str(DIFFUSION_STEPS),
        ).eval()  # fmt: skip
    randomise(model.diffloss.net, 0)  # its layers start at zero
    total = [0.0]
    program.tqdm = lambda _: _timed(model, steps, total)
    labels = torch.tensor([LABEL])
    with torch.no_grad():
        model.sample_tokens(1, STEPS, GUIDANCE, "linear", labels, progress=True)
    return total[0]


def _timed(model: Any, steps: list[int], total: list[float]) -> Iterator[int]:
    """Indices of the steps to measure, each after an unmeasured one that leads to its state."""
    sample: Callable[..., Tensor] = model.diffloss.sample
    for step in steps:
        if step and step - 1 not in steps:
            model.diffloss.sample = lambda z, *_: torch.zeros(len(z), 16)
            yield step - 1
        model.diffloss.sample = sample
        start = time.process_time()
        yield step
        total[0] += time.process_time() - start


if __name__ == "__main__":
    main()
