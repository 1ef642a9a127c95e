"""Batches of VQGAN's transformer: codes, inputs with some random codes, and one condition per sample."""

from dataclasses import dataclass

import torch
from torch import Tensor

from openhart.data.sample import Sample
from openhart.randomness import stack_random
from openhart.training.encoding.conditions import Conditions, EncoderInputs
from openhart.training.encoding.images import Encoded


@dataclass(frozen=True)
class RasterBatch:
    """A batch as the losses take it.

    Attributes:
        codes: to be predicted, (B, N), row-major.
        inputs: all but the last, some of them replaced, (B, N − 1).
        condition: inputs of the encoder.
    """

    codes: Tensor
    inputs: Tensor
    condition: EncoderInputs


@dataclass(frozen=True)
class RasterBatchMaker:
    """Makes batches of encoded samples.

    Attributes:
        conditions: draws the condition of each sample.
        codebook_size: V.
        random_codes: probability with which an input is replaced by a random code.
    """

    conditions: Conditions
    codebook_size: int
    random_codes: float

    @torch.no_grad()
    def __call__(
        self,
        encoded: Encoded,
        samples: list[Sample],
        generators: list[torch.Generator],
        common: torch.Generator,
        progress: float,
    ) -> RasterBatch:
        """One batch of B samples, of their ``codes``."""
        codes = encoded["codes"]
        condition = self.conditions.draw(samples, generators)
        inputs = codes[:, :-1]
        if self.random_codes:
            drawn = stack_random(torch.rand, (2, inputs.shape[1]), generators).to(codes.device)
            random = (drawn[:, 1] * self.codebook_size).long().clamp_max(self.codebook_size - 1)
            inputs = torch.where(drawn[:, 0] < self.random_codes, random, inputs)
        return RasterBatch(codes, inputs, tuple(part.to(codes.device) for part in condition))
