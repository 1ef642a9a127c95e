"""Multi-scale residual vector quantization (VAR, arXiv 2404.02905, algorithms 1 and 2)."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openhart.errors import UserError
from openhart.scales import Scales, parse_scales


@dataclass(frozen=True)
class Quantized:
    """What a pyramid of codes keeps of a feature map.

    Attributes:
        codes: one tensor a scale, (B, h_k·w_k), row-major.
        searched: one tensor a scale, (B, h_k·w_k, z): the vectors whose nearest code was taken.
        f_hats: one tensor a scale, (B, z, H, W): the sum of all scales so far, φ applied at each.
        last_target: (B, z, H, W): what was left to say before the last scale; HART's continuous target.
    """

    codes: list[Tensor]
    searched: list[Tensor]
    f_hats: list[Tensor]
    last_target: Tensor


class MultiScaleQuantizer(nn.Module):
    """Turns features into K code maps, coarse to fine, and back.

    Args:
        scales: sides or ``[height, width]`` of the code maps; the last one is the feature map's size.
        codebook_size: number of codes V, shared by all scales.
        code_dim: features' channels z.
        phi_count: how many convolutions φ the scales share; 0 gives every scale its own.
        phi_ratio: weight r of the convolution in φ(h) = (1 − r)·h + r·conv(h); 0 leaves φ out.
        normalize_codes: nearest code by cosine similarity instead of Euclidean distance.

    Raises:
        UserError: for scales or numbers that cannot be.
    """

    def __init__(
        self,
        scales: Sequence[int | Sequence[int]],
        codebook_size: int,
        code_dim: int,
        phi_count: int = 4,
        phi_ratio: float = 0.5,
        normalize_codes: bool = False,
    ) -> None:
        super().__init__()
        self.scales = parse_scales(scales)
        if codebook_size < 2 or code_dim < 1:
            raise UserError(
                f"a codebook needs at least 2 codes of 1 channel, got {codebook_size} of {code_dim}"
            )
        if phi_count < 0 or not 0 <= phi_ratio <= 1:
            raise UserError(
                "phi_count must not be negative and phi_ratio must lie in [0, 1], "
                f"got {phi_count} and {phi_ratio}"
            )
        self.phi_ratio = phi_ratio
        self.normalize_codes = normalize_codes
        self.codebook = nn.Embedding(codebook_size, code_dim)
        count = (phi_count or len(self.scales)) if phi_ratio else 0
        self.phis = nn.ModuleList(nn.Conv2d(code_dim, code_dim, 3, padding=1) for _ in range(count))
        self._phi_of_scale = _nearest_ticks(count, len(self.scales))

    def at(self, scales: Scales) -> "MultiScaleQuantizer":
        """The same codes and φ for another list of as many scales; weights are shared."""
        other = copy.copy(self)
        other.scales = scales
        return other

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the feature map."""
        return self.scales[-1]

    def quantize(self, features: Tensor) -> Quantized:
        """Encode features (B, z, H, W) scale by scale (VAR, algorithm 1), in float32.

        Raises:
            UserError: the feature map has another size than the last scale.
        """
        if tuple(features.shape[-2:]) != self.size:
            raise UserError(
                f"features of {tuple(features.shape[-2:])} do not fit scales that end in {self.size}"
            )
        rest = features.float()
        f_hat = torch.zeros_like(rest)
        codes, searched, f_hats = [], [], []
        last_target = rest
        for index in range(len(self.scales)):
            last_target = rest
            tokens = self.next_input(rest, index)
            found = self.nearest(tokens)
            step = self.add_scale(torch.zeros_like(rest), self.lookup(found).float(), index)
            f_hat = f_hat + step
            rest = rest - step
            codes.append(found)
            searched.append(tokens)
            f_hats.append(f_hat)
        return Quantized(codes, searched, f_hats, last_target)

    def nearest(self, tokens: Tensor) -> Tensor:
        """Index of the nearest code of each vector, (B, N, z) → (B, N)."""
        flat, table = tokens.detach().flatten(0, 1).float(), self.table(tokens.device).detach().float()
        if self.normalize_codes:
            found = (F.normalize(flat, dim=-1) @ F.normalize(table, dim=-1).T).argmax(dim=-1)
        else:
            distance = flat.square().sum(1, keepdim=True) + table.square().sum(1)
            found = torch.addmm(distance, flat, table.T, alpha=-2).argmin(dim=-1)
        return found.view(tokens.shape[:-1])

    def lookup(self, codes: Tensor) -> Tensor:
        """Rows of the codebook, (B, N) → (B, N, z)."""
        return self.codebook(codes)

    def table(self, device: torch.device) -> Tensor:
        """The whole codebook, (V, z), read through the module, which may be offloaded."""
        return self.codebook(torch.arange(self.codebook.num_embeddings, device=device))

    def add_scale(self, f_hat: Tensor, embedding: Tensor, scale_index: int, blend: bool = True) -> Tensor:
        """Add one scale's embedded codes to the features so far (VAR, algorithm 2).

        Args:
            f_hat: (B, z, H, W).
            embedding: (B, h_k·w_k, z), row-major.
            scale_index: k, from 0.
            blend: pass them through φ; HART leaves it out for the last scale when it generates.

        Returns:
            (B, z, H, W).
        """
        height, width = self.scales[scale_index]
        step = embedding.transpose(1, 2).unflatten(2, (height, width))
        if scale_index < len(self.scales) - 1:
            step = F.interpolate(step, size=self.size, mode="bicubic")
        if blend and self.phis:
            phi = self.phis[self._phi_of_scale[scale_index]]
            step = step.mul(1 - self.phi_ratio) + phi(step).mul(self.phi_ratio)
        return f_hat + step

    def next_input(self, f_hat: Tensor, scale_index: int) -> Tensor:
        """Features so far as the transformer sees them at a scale, (B, z, H, W) → (B, h_k·w_k, z)."""
        if scale_index < len(self.scales) - 1:
            f_hat = _area_resize(f_hat, self.scales[scale_index])
        return f_hat.flatten(2).transpose(1, 2)

    def code_inputs(self, codes: Sequence[Tensor]) -> Tensor:
        """Transformer inputs for scales 2 … K under teacher forcing, (B, Σ_{k≥2} h_k·w_k, z)."""
        f_hat = self.empty(len(codes[0]), codes[0].device)
        inputs = [f_hat.new_zeros(len(codes[0]), 0, f_hat.shape[1])]
        for index in range(len(self.scales) - 1):
            f_hat = self.add_scale(f_hat, self.lookup(codes[index]), index)
            inputs.append(self.next_input(f_hat, index + 1))
        return torch.cat(inputs, dim=1)

    def decode(self, codes: Sequence[Tensor]) -> Tensor:
        """The features that the codes of all scales add up to, φ applied at each, (B, z, H, W)."""
        return self.prefixes(codes)[-1]

    def prefixes(self, codes: Sequence[Tensor]) -> list[Tensor]:
        """The features after each scale, φ applied at each: one tensor (B, z, H, W) per scale."""
        f_hats = [self.empty(len(codes[0]), codes[0].device)]
        for index, scale_codes in enumerate(codes):
            f_hats.append(self.add_scale(f_hats[-1], self.lookup(scale_codes), index))
        return f_hats[1:]

    def empty(self, batch: int, device: torch.device) -> Tensor:
        """Features before the first scale: zeros, (B, z, H, W), in float32."""
        return torch.zeros(batch, self.codebook.embedding_dim, *self.size, device=device)


def _nearest_ticks(count: int, scale_count: int) -> list[int]:
    """Which of ``count`` φ each scale takes: the one whose tick lies nearest to k/(K − 1)."""
    if count == 0:
        return []
    margin = 1 / (3 * count) if count == 4 else 1 / (2 * count)
    ticks = np.linspace(margin, 1 - margin, count)
    places = [index / max(scale_count - 1, 1) for index in range(scale_count)]
    return [int(np.abs(ticks - place).argmin()) for place in places]


def _area_resize(features: Tensor, size: tuple[int, int]) -> Tensor:
    if features.device.type == "mps":  # its adaptive pooling takes only sizes that divide
        return F.interpolate(features.cpu(), size=size, mode="area").to(features.device)
    return F.interpolate(features, size=size, mode="area")
