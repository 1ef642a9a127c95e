"""Multi-scale residual vector quantization (VAR, arXiv 2404.02905, algorithms 1 and 2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openhart.errors import UserError
from openhart.scales import Scales, fit_scales, parse_scales

PhiRule = Literal["without_residual", "never", "without_head"]


@dataclass(frozen=True)
class Quantized:
    """A feature map as codes of every scale, with the intermediate results of the quantization.

    Attributes:
        codes: one tensor per scale, (B, h_k·w_k), row-major.
        searched: one tensor per scale, (B, h_k·w_k, z): the vectors whose nearest codes were chosen.
        f_hats: one tensor per scale, (B, z, H, W): the sum of all scales so far, φ applied at each.
        continuous_target: (B, z, H, W): the features minus all scales but the last (HART, section 3.1).
    """

    codes: list[Tensor]
    searched: list[Tensor]
    f_hats: list[Tensor]
    continuous_target: Tensor


class MultiScaleQuantizer(nn.Module):
    """Encodes features as K code maps, coarse to fine, and decodes code maps to features.

    Feature maps of any size are accepted: their scales are the configured ones in proportion
    (:meth:`scales_for`).

    Args:
        scales: sides or ``[height, width]`` of the code maps; the last one is the feature map's size.
        codebook_size: number of codes V, shared by all scales.
        code_dim: channels z of the features.
        phi_count: number of convolutions φ that the scales share; 0 for one per scale.
        phi_ratio: weight r of the convolution in φ(h) = (1 − r)·h + r·conv(h); 0 omits φ.
        normalize_codes: choose the nearest code by cosine similarity instead of Euclidean distance.
        phi_at_last_scale: when the last scale of a generated image passes through φ. ``without_residual``:
            unless a residual is added to it. ``never``: HART's rule, with or without a residual.
            ``without_head``: unless the model has a residual head.

    Raises:
        UserError: if the scales are invalid, or if a number is outside its range.
    """

    def __init__(
        self,
        scales: Sequence[int | Sequence[int]],
        codebook_size: int,
        code_dim: int,
        phi_count: int = 4,
        phi_ratio: float = 0.5,
        normalize_codes: bool = False,
        phi_at_last_scale: PhiRule = "without_residual",
    ) -> None:
        super().__init__()
        self.scales = parse_scales(scales)
        if codebook_size < 2 or code_dim < 1:
            raise UserError(
                "codebook_size must be at least 2 and code_dim at least 1, "
                f"got {codebook_size} and {code_dim}"
            )
        if phi_count < 0 or not 0 <= phi_ratio <= 1:
            raise UserError(
                "phi_count must be at least 0 and phi_ratio must be between 0 and 1, "
                f"got {phi_count} and {phi_ratio}"
            )
        self.phi_ratio = phi_ratio
        self.normalize_codes = normalize_codes
        self.phi_at_last_scale = phi_at_last_scale
        self.codebook = nn.Embedding(codebook_size, code_dim)
        count = (phi_count or len(self.scales)) if phi_ratio else 0
        self.phis = nn.ModuleList(nn.Conv2d(code_dim, code_dim, 3, padding=1) for _ in range(count))
        self._phi_of_scale = _nearest_ticks(count, len(self.scales))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the last configured scale, which is the feature map."""
        return self.scales[-1]

    def scales_for(self, size: tuple[int, int]) -> Scales:
        """Scales of a feature map of this height and width: the configured ones, each side in proportion."""
        return self.scales if size == self.size else fit_scales(self.scales, size)

    def quantize(self, features: Tensor) -> Quantized:
        """Encode features (B, z, H, W) scale by scale (VAR, algorithm 1), in float32."""
        remaining = features.float()
        f_hat = torch.zeros_like(remaining)
        codes, searched, f_hats = [], [], []
        target = remaining
        for index in range(len(self.scales)):
            target = remaining
            tokens = self.next_input(remaining, index)
            scale_codes = self.nearest(tokens)
            step = self.add_scale(torch.zeros_like(remaining), self.lookup(scale_codes).float(), index)
            f_hat = f_hat + step
            remaining = remaining - step
            codes.append(scale_codes)
            searched.append(tokens)
            f_hats.append(f_hat)
        return Quantized(codes, searched, f_hats, target)

    def nearest(self, tokens: Tensor) -> Tensor:
        """Index of the nearest code of each vector, (B, N, z) → (B, N)."""
        flat, table = tokens.detach().flatten(0, 1).float(), self.table(tokens.device).detach().float()
        if self.normalize_codes:
            indices = (F.normalize(flat, dim=-1) @ F.normalize(table, dim=-1).T).argmax(dim=-1)
        else:
            squares = flat.square().sum(1, keepdim=True) + table.square().sum(1)
            indices = torch.addmm(squares, flat, table.T, alpha=-2).argmin(dim=-1)
        return indices.view(tokens.shape[:-1])

    def lookup(self, codes: Tensor) -> Tensor:
        """Rows of the codebook, (B, N) → (B, N, z)."""
        vectors: Tensor = self.codebook(codes)
        return vectors

    def table(self, device: torch.device) -> Tensor:
        """The vectors of all codes, (V, z), read by a call of the module so that offloading hooks run."""
        vectors: Tensor = self.codebook(torch.arange(self.codebook.num_embeddings, device=device))
        return vectors

    def add_scale(self, f_hat: Tensor, embedding: Tensor, scale_index: int, apply_phi: bool = True) -> Tensor:
        """Add one scale's embedded codes to the features so far (VAR, algorithm 2).

        Args:
            f_hat: (B, z, H, W); its height and width determine the scales.
            embedding: (B, h_k·w_k, z), row-major.
            scale_index: k, from 0.
            apply_phi: pass the embedded codes through φ.

        Returns:
            (B, z, H, W).
        """
        size = _size_of(f_hat)
        step = embedding.transpose(1, 2).unflatten(2, self.scales_for(size)[scale_index])
        if scale_index < len(self.scales) - 1:
            step = F.interpolate(step, size=size, mode="bicubic")
        if apply_phi and self.phis:
            phi = self.phis[self._phi_of_scale[scale_index]]
            step = step.mul(1 - self.phi_ratio) + phi(step).mul(self.phi_ratio)
        features: Tensor = f_hat + step
        return features

    def applies_phi_to_last_scale(self, has_residual: bool, has_head: bool) -> bool:
        """Whether the last scale of a generated image passes through φ, by ``phi_at_last_scale``.

        Args:
            has_residual: a residual is added to the last scale of this image.
            has_head: the model has a residual head, used or not.
        """
        if self.phi_at_last_scale == "without_residual":
            return not has_residual
        return self.phi_at_last_scale == "without_head" and not has_head

    def next_input(self, f_hat: Tensor, scale_index: int) -> Tensor:
        """Resize the features so far to the size of a scale, (B, z, H, W) → (B, h_k·w_k, z).

        These are the inputs of the transformer at this scale. The last scale is not resized.
        """
        if scale_index < len(self.scales) - 1:
            f_hat = _area_resize(f_hat, self.scales_for(_size_of(f_hat))[scale_index])
        return f_hat.flatten(2).transpose(1, 2)

    def code_inputs(self, codes: Sequence[Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Transformer inputs for scales 2 … K under teacher forcing, (B, Σ_{k≥2} h_k·w_k, z).

        Args:
            codes: one tensor per scale, (B, h_k·w_k).
            size: height and width of the feature map; None for the configured size.
        """
        f_hat = self.empty(len(codes[0]), codes[0].device, size)
        inputs = [f_hat.new_zeros(len(codes[0]), 0, f_hat.shape[1])]
        for index in range(len(self.scales) - 1):
            f_hat = self.add_scale(f_hat, self.lookup(codes[index]), index)
            inputs.append(self.next_input(f_hat, index + 1))
        return torch.cat(inputs, dim=1)

    def decode(self, codes: Sequence[Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """The sum of the embedded codes of all scales, with φ at each scale, (B, z, H, W).

        Args:
            codes: one tensor per scale, (B, h_k·w_k).
            size: height and width of the feature map; None for the configured size.
        """
        return self.prefixes(codes, size)[-1]

    def prefixes(self, codes: Sequence[Tensor], size: tuple[int, int] | None = None) -> list[Tensor]:
        """The features after each scale, with φ at each scale: one tensor (B, z, H, W) per scale.

        Args:
            codes: one tensor per scale, (B, h_k·w_k).
            size: height and width of the feature map; None for the configured size.
        """
        f_hats = [self.empty(len(codes[0]), codes[0].device, size)]
        for index, scale_codes in enumerate(codes):
            f_hats.append(self.add_scale(f_hats[-1], self.lookup(scale_codes), index))
        return f_hats[1:]

    def empty(self, batch: int, device: torch.device, size: tuple[int, int] | None = None) -> Tensor:
        """Features before the first scale: zeros, (B, z, H, W), in float32.

        Args:
            batch: B.
            device: where the tensor is allocated.
            size: height and width; None for the configured size.
        """
        return torch.zeros(batch, self.codebook.embedding_dim, *(size or self.size), device=device)


def _size_of(features: Tensor) -> tuple[int, int]:
    return features.shape[-2], features.shape[-1]


def _nearest_ticks(count: int, scale_count: int) -> list[int]:
    """Index of the φ of each scale: that of the tick nearest to k/(K − 1), k from 0 (VAR's rule)."""
    if count == 0:
        return []
    margin = 1 / (3 * count) if count == 4 else 1 / (2 * count)
    ticks = np.linspace(margin, 1 - margin, count)
    progress = [index / max(scale_count - 1, 1) for index in range(scale_count)]
    return [int(np.abs(ticks - value).argmin()) for value in progress]


def _area_resize(features: Tensor, size: tuple[int, int]) -> Tensor:
    if features.device.type == "mps":  # adaptive pooling on MPS supports only divisible sizes
        return F.interpolate(features.cpu(), size=size, mode="area").to(features.device)
    return F.interpolate(features, size=size, mode="area")
