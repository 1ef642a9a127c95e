"""CPU seconds per image of a raster-order transformer with its key-value cache, and without.

    python benchmarks/raster.py --depth 6 --width 256 --side 16 -o benchmarks/results/raster.json

With ``--reference``, a checkout of github.com/CompVis/taming-transformers, its two samplers, without a cache
and with one. Weights are random and the same for all programs, and each takes the most likely code, so
that all draw the same codes. They run in turn on one thread; a figure is the median of CPU seconds, which
other processes hardly change.
"""

import argparse
import copy
import json
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from openhart.acceleration.packed import can_pack, pack
from openhart.generation.logits import truncate
from openhart.generation.raster import generate
from openhart.generation.raster_settings import RasterSampling
from openhart.randomness import SeededDraws
from openhart.tokenizer.quantizer import MultiScaleQuantizer
from openhart.transformer.raster import RasterTransformer

CODES = 1024
Program = Callable[[], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--reference", type=Path, help="a checkout of taming-transformers, to compare with")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = {"depth": options.depth, "width": options.width, "num_heads": options.width // 64}
    plain = RasterTransformer(
        **shape,
        scales=[options.side],
        codebook_size=CODES,
        context_dim=options.width,
        context_projection=False,
    ).eval()
    programs = our_programs(plain)
    if options.reference:
        programs |= published_programs(options.reference, plain)
    else:
        programs["without cache"] = lambda: without_cache(plain)
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    expected = None
    for _ in range(options.runs):
        for name, program in programs.items():
            start = time.process_time()
            codes = program()
            seconds[name].append(time.process_time() - start)
            print(name, round(seconds[name][-1], 2), file=sys.stderr, flush=True)
            expected = codes if expected is None else expected
            if "bfloat16" not in name:
                assert torch.equal(codes, expected), f"{name} drew other codes"
    report = shape | {"side": options.side, "runs": options.runs}
    report |= {name: round(statistics.median(values), 3) for name, values in seconds.items()}
    text = json.dumps(report, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


def our_programs(plain: RasterTransformer) -> dict[str, Program]:
    """Our loop, as it is, with packed weights, and with packed weights in bfloat16."""
    packed, small = copy.deepcopy(plain), copy.deepcopy(plain).to(torch.bfloat16)
    for model in (packed, small):
        if can_pack(model):
            pack(model)
    quantizer = MultiScaleQuantizer([plain.size[0]], CODES, 4, phi_ratio=0.0)

    def run(model: RasterTransformer) -> Tensor:
        draws = SeededDraws([torch.Generator().manual_seed(0)])
        context = plain.code_embed.weight[None, :1].detach()
        *_, state = generate(model, quantizer, context, None, draws, RasterSampling(top_k=1))
        return state.codes.flatten(1)

    return {
        "with cache": lambda: run(plain),
        "with cache, exact": lambda: run(packed),
        "with cache, bfloat16 exact": lambda: run(small),
    }


@torch.no_grad()
def without_cache(transformer: RasterTransformer) -> Tensor:
    """Draw each code from a pass over all codes before it."""
    codes = torch.zeros(1, 0, dtype=torch.long)
    context = transformer.code_embed.weight[None, :1]
    for _ in range(transformer.size[0] * transformer.size[1]):
        logits = truncate(transformer(codes, context).logits[:, -1:], 1, 1.0)
        codes = torch.cat([codes, logits.argmax(dim=-1)], dim=1)
    return codes


def published_programs(folder: Path, ours: RasterTransformer) -> dict[str, Program]:
    """The samplers of the published program, with our weights."""
    sys.path.insert(0, str(folder))
    absent = types.ModuleType("transformers")  # for a function that the program imports and that is gone
    absent.top_k_top_p_filtering = None
    with mock.patch.dict(sys.modules, {"transformers": absent}):
        from taming.modules.transformer import mingpt

    config = ours.config
    model = mingpt.GPT(CODES, ours.max_positions, config.depth, config.num_heads, config.width).eval()
    model.load_state_dict(_published_weights(ours), strict=False)
    count, start = ours.size[0] * ours.size[1], torch.zeros(1, 1, dtype=torch.long)

    @torch.no_grad()
    def plain() -> Tensor:
        codes: Tensor = mingpt.sample(model, start, count)[:, 1:]
        return codes

    def fast() -> Tensor:
        codes: Tensor = mingpt.sample_with_past(start, model, count, sample_logits=False)
        return codes

    return {"published, without cache": plain, "published, with cache": fast}


def _published_weights(ours: RasterTransformer) -> dict[str, Any]:
    """Our weights under the published names."""
    found = {
        "tok_emb.weight": ours.code_embed.weight, "pos_emb": ours.position_embed[None],
        "head.weight": ours.head.weight, "ln_f.weight": ours.norm.weight, "ln_f.bias": ours.norm.bias,
    }  # fmt: skip
    for index, block in enumerate(ours.blocks):
        attention, prefix = block.attention, f"blocks.{index}."
        biases = attention.qkv_bias.chunk(3)
        for name, weight, bias in zip(
            ("query", "key", "value"), attention.qkv.weight.chunk(3), biases, strict=True
        ):
            found |= {f"{prefix}attn.{name}.weight": weight, f"{prefix}attn.{name}.bias": bias}
        parts = {"ln1": block.norm, "ln2": block.mlp_norm, "attn.proj": attention.proj}
        parts |= {"mlp.0": block.mlp[0], "mlp.2": block.mlp[2]}
        for name, part in parts.items():
            found |= {f"{prefix}{name}.weight": part.weight, f"{prefix}{name}.bias": part.bias}
    return found


if __name__ == "__main__":
    main()
