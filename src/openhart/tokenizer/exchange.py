"""Replacing codes by near ones, to simulate errors of the generator (RobusTok, arXiv 2503.08354)."""

import torch
from torch import Tensor

from openhart.tokenizer.quantizer import MultiScaleQuantizer


def exchange_codes(quantizer: MultiScaleQuantizer, codes: Tensor, ranks: Tensor) -> Tensor:
    """Replace codes by near ones in Euclidean distance.

    Args:
        quantizer: quantizer with the codebook.
        codes: (B, L).
        ranks: (B, L), integers; rank r replaces a code by its r-th nearest other code, 0 keeps it.

    Returns:
        (B, L).
    """
    table = quantizer.codebook.weight.float()
    chosen = ranks > 0
    if not chosen.any():
        return codes
    distances = torch.cdist(table[codes[chosen]], table)
    nearest = distances.topk(int(ranks.max()) + 1, largest=False).indices
    exchanged = codes.clone()
    exchanged[chosen] = nearest.gather(1, ranks[chosen][:, None])[:, 0]
    return exchanged
