"""Gumbel-softmax quantizer (arXiv 1611.01144; for image tokens in DALL·E, arXiv 2102.12092, section 2.1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from openhart.randomness import gumbel_noise
from openhart.tokenizer.quantizer import MultiScaleQuantizer

EPSILON = 1e-10


@dataclass(frozen=True)
class Sampled:
    """Randomly sampled codes of a feature map, for training.

    Attributes:
        codes: (B, h·w), row-major.
        features: (B, z, h, w), the vectors of the codes, with the gradient of the softmax.
        divergence: the mean over positions of the Kullback-Leibler divergence between the codes'
            probabilities and the uniform distribution, in nats; a scalar.
    """

    codes: Tensor
    features: Tensor
    divergence: Tensor


class Scores(nn.Linear):
    """A linear map in float32, whatever the dtype of its weights."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, z) → (…, V)."""
        return F.linear(x.float(), self.weight.float(), self.bias.float())


class GumbelQuantizer(MultiScaleQuantizer):
    """Encodes features as one code map, with a linear score for every code instead of a distance.

    :meth:`quantize` chooses the code with the highest score and is deterministic; :meth:`sample` is random.

    Args:
        scales: one entry, side or ``[height, width]`` of the feature map for which the model is configured.
        codebook_size: number of codes V.
        code_dim: channels z of the features and of the codes' vectors.

    Raises:
        UserError: if the scales are invalid, or if a number is outside its range.
    """

    def __init__(self, scales: Sequence[int | Sequence[int]], codebook_size: int, code_dim: int) -> None:
        super().__init__(scales, codebook_size, code_dim, phi_ratio=0.0)
        self.projection = Scores(code_dim, codebook_size)

    def nearest(self, tokens: Tensor) -> Tensor:
        """Index of the code with the highest score for each vector, (B, N, z) → (B, N)."""
        scores: Tensor = self.projection(tokens.detach())
        return scores.argmax(dim=-1)

    def sample(self, features: Tensor, uniform: Tensor, temperature: float = 1.0) -> Sampled:
        """Sample each code from the softmax of its scores, with a straight-through gradient.

        Args:
            features: (B, z, h, w).
            uniform: random numbers in [0, 1), (B, h·w, V), from which the Gumbel noise is computed.
            temperature: τ of the softmax whose gradient is used.
        """
        scores = self.projection(features.flatten(2).transpose(1, 2))
        soft = ((scores + gumbel_noise(uniform)) / temperature).softmax(dim=-1)
        codes = soft.argmax(dim=-1)
        hard = F.one_hot(codes, soft.shape[-1]).to(soft.dtype)
        vectors = (soft + (hard - soft).detach()) @ self.table(soft.device)
        probabilities = scores.softmax(dim=-1)
        ratios = probabilities * probabilities.shape[-1] + EPSILON
        divergence = (probabilities * ratios.log()).sum(dim=-1).mean()
        return Sampled(codes, vectors.transpose(1, 2).unflatten(2, features.shape[2:]), divergence)
