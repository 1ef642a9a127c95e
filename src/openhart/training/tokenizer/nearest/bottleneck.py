"""Nearest codes of one or several scales, with the continuous features beside them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor

from openhart.data.sample import Dataset, Sample, Stream
from openhart.randomness import sample_generators
from openhart.scales import count_tokens
from openhart.training.run.checkpoint import Saved
from openhart.training.run.flops import Counter
from openhart.training.tokenizer.bottleneck import Bottleneck, Gather, Passed
from openhart.training.tokenizer.losses import quantization_loss
from openhart.training.tokenizer.nearest.codebook import CodeRevival, code_use, kmeans_start
from openhart.training.tokenizer.nearest.decoder_inputs import (
    DecoderInputs,
    decoder_features,
    draw_decoder_inputs,
)
from openhart.training.tokenizer.nearest.own_samples import OwnSampler, open_sampler
from openhart.training.tokenizer.nearest.recipe import CodePhase, CodesRecipe, HybridPhase, HybridRecipe

Recipe = TypeVar("Recipe", bound=CodesRecipe)


class NearestCodes(Bottleneck[Recipe]):
    """Each vector takes its nearest code; a straight-through gradient goes to the features."""

    shown = ("likeness", "psnr", "codes_alive")

    def __init__(self, recipe: Recipe, tokenizer: Any) -> None:
        super().__init__(recipe, tokenizer)
        codes = tokenizer.quantizer.codebook.num_embeddings
        self.revival = CodeRevival(codes, recipe.revive_every, recipe.revival_memory)

    @property
    def tokens(self) -> int:
        """Codes of all scales."""
        return count_tokens(self.tokenizer.quantizer.scales)

    @property
    def codebook(self) -> Tensor:
        """Codes (V, z)."""
        weight: Tensor = self.tokenizer.quantizer.codebook.weight
        return weight

    @property
    def saved(self) -> Mapping[str, Saved]:
        """The count of uses."""
        return {"revival": self.revival}

    def draw(self, number: int, phase: CodePhase, batch: int, generator: torch.Generator) -> DecoderInputs:
        """What each sample is decoded from."""
        return draw_decoder_inputs(phase, self.tokenizer.quantizer, batch, generator)

    def stand_in(self, counter: Counter, batch: int) -> DecoderInputs:
        """No code is exchanged, which costs nothing that counts."""
        share = counter.tensor(batch, needs_gradient=False)
        return DecoderInputs(share, None, counter.tensor(batch, needs_gradient=False, dtype=torch.long))

    def __call__(self, image: Tensor, choices: DecoderInputs, phase: CodePhase) -> Passed:
        """Images (B, 3, H, W) → features (B, z, h, w) of codes, complete ones or between."""
        with torch.set_grad_enabled(not phase.frozen and torch.is_grad_enabled()):
            features = self.tokenizer.encode(image)
        with (
            torch.autocast(image.device.type, enabled=False),
            torch.set_grad_enabled(phase.learns_bottleneck and torch.is_grad_enabled()),
        ):
            quantized = self.tokenizer.quantize(features.float())
        given = decoder_features(features, quantized, self.tokenizer.quantizer, choices)
        if not phase.learns_bottleneck:
            return Passed(given, codes=quantized.codes, searched=quantized.searched)
        weights = self.recipe.losses
        loss = quantization_loss(features, quantized, weights.commitment, weights.code_weight)
        metrics = {"quantization": loss}
        return Passed(given, weights.quantization * loss, metrics, quantized.codes, quantized.searched)

    def begin(
        self,
        phase: CodePhase,
        number: int,
        accelerator: Accelerator,
        dataset: Dataset[Tensor] | Stream[Tensor],
    ) -> None:
        """Start with k-means, if the phase does. Collective."""
        if phase.kmeans_start:
            kmeans_start(self.recipe, accelerator, self.tokenizer, dataset, number)

    def after_update(
        self, number: int, passed: Passed, generator: torch.Generator, gather: Gather
    ) -> dict[str, float]:
        """Count the use of codes and, every ``revive_every`` steps, move unused ones. Collective."""
        revival = self.revival
        revival.count([gather(found) for found in passed.codes])
        alive = float((revival.use >= revival.threshold).float().mean())
        moved = 0
        if revival.every is not None and (number + 1) % revival.every == 0:
            searched = [gather(tokens.detach()) for tokens in passed.searched]
            moved = revival.revive(self.tokenizer.quantizer, searched, generator)
        return {"codes_alive": alive, "codes_revived": moved}

    def report(self, passed: Passed, gather: Gather) -> dict[str, float]:
        """Use of codes per scale. Collective."""
        return code_use(self.tokenizer.quantizer, [gather(found) for found in passed.codes])


class HybridCodes(NearestCodes[HybridRecipe]):
    """As :class:`NearestCodes`; the decoder may also get what a generator draws for the images."""

    sampler: OwnSampler | None = None

    def open(self) -> None:
        """Load the generator of ``own_samples``, if a phase has any.

        Raises:
            UserError: if it cannot be loaded, or if its codes are not those of the tokenizer.
        """
        self.sampler = open_sampler(self.recipe, self.tokenizer)

    @torch.no_grad()
    def with_samples(
        self, choices: DecoderInputs, phase: HybridPhase, image: Tensor, samples: list[Sample], first: int
    ) -> DecoderInputs:
        """Choices whose first images the generator of ``own_samples`` completes."""
        settings = phase.own_samples
        count = 0 if settings is None else round(settings.images * len(image))
        if settings is None or self.sampler is None or not count:
            return choices
        self.sampler.pipeline.to(image.device)
        codes = self.tokenizer.quantize(self.tokenizer.encode(image[:count]).float()).codes
        generators = sample_generators(self.recipe.run.seed, first, count)
        completed = self.sampler.complete(codes, samples[:count], settings, generators)
        return replace(choices, completed=completed)
