"""Lower bound of the generation time: the FLOPs of an image, divided by the measured matmul rate."""

from collections.abc import Callable

import torch
from shapes import Shape, build_meta
from torch.utils.flop_counter import FlopCounterMode


def count_flops(shape: Shape, batch: int, guided: bool = True, steps: int = 8) -> dict[str, int]:
    """FLOPs of generating a batch, by phase, counted on the meta device.

    All positions of the empty context are identical, so it is computed for one token.

    Args:
        shape: sizes of the model.
        batch: number of images.
        guided: use classifier-free guidance.
        steps: diffusion steps of the residual.
    """
    tokenizer, transformer, head = build_meta(shape)
    copies = 2 if guided else 1
    flops: dict[str, int] = {}

    def count(phase: str, work: Callable[[], object]) -> None:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            work()
        flops[phase] = flops.get(phase, 0) + counter.get_total_flops()

    with torch.device("meta"):
        config = transformer.config
        full = (
            torch.empty(batch, config.context_tokens, config.context_dim),
            torch.ones(batch, config.context_tokens, dtype=torch.bool),
        )
        empty = torch.empty(1, 1, config.context_dim), torch.ones(1, 1, dtype=torch.bool)
        cache = transformer.allocate_cache(copies * batch)
        outputs = []
        unconditional = empty if guided else None
        count("scale 1", lambda: outputs.append(transformer(None, *full, empty=unconditional, cache=cache)))
        prepared = outputs[0].prepared
        for index, side in enumerate(shape.scales[1:], start=1):
            inputs = torch.empty(copies * batch, side * side, config.code_dim)

            def one_scale(index: int = index, inputs: torch.Tensor = inputs) -> None:
                context = prepared.at_scale(index, copies * batch)
                transformer(inputs, cache=cache, scale_context=context)

            count(f"scale {index + 1}", one_scale)
        size = tokenizer.quantizer.size
        if head is not None:
            tokens = size[0] * size[1]
            embedded = head.embed_condition(torch.empty(copies * batch, tokens, config.width))
            noisy, t = torch.empty(copies * batch, tokens, config.code_dim), torch.ones(copies * batch, 1)
            count("residual", lambda: [head(noisy, t, embedded, size) for _ in range(steps)])
        count("decoder", lambda: tokenizer.decode(torch.empty(batch, config.code_dim, *size)))
    return flops
