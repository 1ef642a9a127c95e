"""Encoding of images by each kind of image tokenizer, and the dtypes in which encodings are stored."""

from functools import singledispatch

import torch
from torch import Tensor

from openhart.tokenizer.kl import KLAutoencoder
from openhart.tokenizer.model import HybridTokenizer
from openhart.tokenizer.vqgan import VqganTokenizer

Tokenizer = HybridTokenizer | VqganTokenizer | KLAutoencoder
Encoded = dict[str, Tensor]
STORED = {"codes": torch.int32, "targets": torch.bfloat16, "moments": torch.float16}
"""The dtype in which a tensor of an encoding is stored, by its name."""


@singledispatch
def encode_images(tokenizer: Tokenizer, images: Tensor) -> Encoded:
    """Images (B, 3, H, W) in [−1, 1] → what a generator learns from, by name.

    - Of a hybrid tokenizer: ``codes`` of all scales (B, L), and ``targets`` (B, P², z), the features minus
      all scales but the last.
    - Of a VQGAN's tokenizer: ``codes`` (B, h·w), row-major.
    - Of a continuous tokenizer: ``moments`` (B, 2z, h, w), mean and log variance of the unscaled latents.
    """
    raise TypeError(f"there is no encoding for {type(tokenizer).__name__}")


@encode_images.register
@torch.no_grad()
def _(tokenizer: HybridTokenizer, images: Tensor) -> Encoded:
    quantized = tokenizer.quantize(tokenizer.encode(images))
    targets = quantized.continuous_target.flatten(2).transpose(1, 2)
    return {"codes": torch.cat(quantized.codes, dim=1), "targets": targets}


@encode_images.register
@torch.no_grad()
def _(tokenizer: VqganTokenizer, images: Tensor) -> Encoded:
    return {"codes": tokenizer.quantize(tokenizer.encode(images)).codes[-1]}


@encode_images.register
@torch.no_grad()
def _(tokenizer: KLAutoencoder, images: Tensor) -> Encoded:
    found = tokenizer.encode(images).latent_dist
    return {"moments": torch.cat([found.mean, found.logvar], dim=1)}


def to_stored(encoded: Encoded) -> Encoded:
    """An encoding as it is stored, on the CPU."""
    return {name: part.to(STORED[name]).cpu() for name, part in encoded.items()}


def from_stored(encoded: Encoded, device: torch.device) -> Encoded:
    """A stored encoding on a device, in int64 and float32."""
    on_device = {name: part.to(device) for name, part in encoded.items()}
    return {
        name: part.float() if part.is_floating_point() else part.long() for name, part in on_device.items()
    }
