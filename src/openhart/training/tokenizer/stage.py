"""The tokenizer's stage of training: its step, its sample images and its result."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from openhart.atomic import folder_written_whole
from openhart.checksums import write_checksums
from openhart.data.sample import Sample
from openhart.randomness import sample_generators, step_generator
from openhart.tokenizer.model import HybridTokenizer
from openhart.tokenizer.quantizer import Quantized
from openhart.training.optimizer import rate_factor, set_rates
from openhart.training.run.checkpoint import Saved
from openhart.training.run.distributed import syncing
from openhart.training.run.logs import log_images
from openhart.training.run.nonfinite import NonFiniteGuard
from openhart.training.tokenizer.codebook import CodeRevival, code_use
from openhart.training.tokenizer.decoder_inputs import DecoderInputs, draw_decoder_inputs
from openhart.training.tokenizer.discriminator import Adversary
from openhart.training.tokenizer.losses import quantization_loss, reconstruction_loss
from openhart.training.tokenizer.own_samples import OwnSampler
from openhart.training.tokenizer.phases import kmeans_start, phase_at
from openhart.training.tokenizer.recipe import OwnSamples, Phase, TokenizerRecipe


@dataclass
class TokenizerStage:
    """The parts of one tokenizer run; see :class:`openhart.training.run.loop.Stage`.

    Attributes:
        tokenizer: what is trained.
        model: its forward pass from image to reconstruction, as the run's processes share it.
        adversary: the discriminator and its optimizer.
        perceptual: the perceptual distance, or None.
        guard: skips steps that are not finite.
        held_out: images (n, 3, H, W) that the log shows.
        sampler: completes images by a generator, for phases with ``own_samples``.
        flops_of_phases: FLOPs of one pass in each phase.
    """

    recipe: TokenizerRecipe
    accelerator: Accelerator
    dataset: Any
    tokenizer: HybridTokenizer
    model: nn.Module
    optimizer: Any
    ema: EMAModel
    adversary: Adversary
    perceptual: nn.Module | None
    revival: CodeRevival
    guard: NonFiniteGuard
    saved: Mapping[str, Saved]
    held_out: Tensor
    sampler: OwnSampler | None
    flops_of_phases: Sequence[float]
    name: str = "tokenizer"
    shown: Sequence[str] = ("likeness", "psnr", "codes_alive")

    def weights(self) -> Iterator[Tensor]:
        """The trained weights and their averages."""
        yield from chain(self.tokenizer.parameters(), self.ema.shadow_params)

    def flops(self, number: int) -> float:
        """FLOPs of a pass in the step's phase; those of the perceptual network are not counted."""
        return self.flops_of_phases[phase_at(self.recipe.phases, number)[0]]

    def begin(self, number: int) -> None:
        """Start the phase whose first step this is: k-means, and averaged weights before they freeze."""
        phase, phase_step = self._phase(number)
        if phase_step == 0 and phase.kmeans_start:
            kmeans_start(self.recipe, self.accelerator, self.tokenizer, self.dataset, number)
        if phase_step == 0 and phase.train == "decoder":  # the frozen weights are the averaged ones
            self.ema.copy_to(self.tokenizer.parameters())

    def step(self, number: int, batches: Iterator[Any]) -> dict[str, Any]:
        """Reconstruct ``run.accumulation`` batches of images and update tokenizer and discriminator."""
        recipe, accelerator, passes = self.recipe, self.accelerator, self.recipe.run.accumulation
        set_rates(self.optimizer, rate_factor(number, recipe.steps, recipe.optimizer), recipe.optimizer)
        common = step_generator(recipe.run.seed, number)
        names: list[str] = []
        for part in range(passes):
            image, samples = next(batches)
            names += [sample.name for sample in samples]
            with syncing(accelerator, self.model, part + 1 == passes):
                place = (number * passes + part) * accelerator.num_processes + accelerator.process_index
                metrics, quantized = self._pass(number, place, image.to(accelerator.device), samples, common)
        metrics["gradient_norm"] = accelerator.clip_grad_norm_(
            self.tokenizer.parameters(), recipe.optimizer.max_gradient_norm
        )
        self.adversary.average_gradients()
        if self.guard.allows(accelerator, number, metrics["loss"], metrics["gradient_norm"], names):
            self.optimizer.step()
            self.adversary.optimizer.step()
            self.ema.step(self.tokenizer.parameters())
            if self._phase(number)[0].learns_codes:
                metrics |= self._revive_codes(number, quantized, common)
        self.optimizer.zero_grad()
        self.adversary.optimizer.zero_grad()
        metrics["skipped"] = self.guard.total
        if number % recipe.run.log_every == 0:
            codes = [accelerator.gather(found) for found in quantized.codes]
            metrics |= code_use(self.tokenizer.quantizer, codes)
        return metrics

    @torch.no_grad()
    def samples(self, number: int) -> None:
        """Log the held-out images, their reconstructions from codes alone, and those from all features."""
        features = self.tokenizer.encode(self.held_out)
        discrete = self.tokenizer.decode(self.tokenizer.quantize(features).f_hats[-1])
        rows = torch.cat([self.held_out, discrete, self.tokenizer.decode(features)])
        log_images(self.accelerator, "real_discrete_hybrid", rows, number)

    def export(self) -> Path:
        """Save the tokenizer with its averaged weights in ``image_tokenizer``."""
        folder = Path(self.recipe.run.output) / "image_tokenizer"
        if self.accelerator.is_main_process:
            self.ema.copy_to(self.tokenizer.parameters())
            with folder_written_whole(folder) as whole:
                self.tokenizer.save_pretrained(whole)
                write_checksums(whole)
        return folder

    def _phase(self, number: int) -> tuple[Phase, int]:
        """The phase of a step, and the step's number within it."""
        index, phase_step = phase_at(self.recipe.phases, number)
        return self.recipe.phases[index], phase_step

    def _pass(
        self, number: int, place: int, image: Tensor, samples: list[Sample], generator: torch.Generator
    ) -> tuple[dict[str, Any], Quantized]:
        """One forward and backward pass of tokenizer and discriminator on images (B, 3, H, W).

        ``place`` is the number of batches of the whole run before this one, over all processes.
        """
        phase, phase_step = self._phase(number)
        if self.recipe.mirror:
            image = _mirrored(image, generator)
        inputs = self._draw_inputs(phase, len(image), generator)
        if phase.own_samples:
            inputs = replace(inputs, completed=self._completed(phase.own_samples, place, image, samples))
        with self.accelerator.autocast():
            output, features, quantized = self.model(
                image, inputs, frozen=phase.train == "decoder", learns_codes=phase.learns_codes
            )
            loss, metrics = self._reconstruction(number, phase, output.float(), image)
            if phase.learns_codes:
                weights = self.recipe.losses
                metrics["quantization"] = quantization_loss(features, quantized, weights.commitment)
                loss = loss + weights.quantization * metrics["quantization"]
            if phase.adversarial:
                last_layer = self.tokenizer.decoder.last_layer
                adversarial, more = self.adversary.tokenizer_loss(
                    output.float(), metrics["likeness"], last_layer, phase_step
                )
                loss, metrics = loss + adversarial, metrics | more
        passes = self.recipe.run.accumulation
        self.accelerator.backward(loss / passes)
        if phase.adversarial:
            metrics["discriminator"] = self.adversary.backward(image, output, passes)
        return metrics | {"loss": loss}, quantized

    def _reconstruction(
        self, number: int, phase: Phase, output: Tensor, image: Tensor
    ) -> tuple[Tensor, dict[str, Any]]:
        weights = self.recipe.losses
        perceptual = phase.perceptual and number % weights.perceptual_every == 0
        loss, psnr = reconstruction_loss(output, image, weights, self.perceptual if perceptual else None)
        return loss, {"likeness": loss, "psnr": psnr}

    def _draw_inputs(self, phase: Phase, batch: int, generator: torch.Generator) -> DecoderInputs:
        """What this process's samples are decoded from; all processes draw for all samples."""
        quantizer, first = self.tokenizer.quantizer, self.accelerator.process_index * batch
        drawn = draw_decoder_inputs(phase, quantizer, batch * self.accelerator.num_processes, generator)
        return drawn.part(slice(first, first + batch), self.accelerator.device)

    @torch.no_grad()
    def _completed(
        self, settings: OwnSamples, place: int, image: Tensor, samples: list[Sample]
    ) -> Tensor | None:
        """Features of the first images of a batch, completed by the generator of ``own_samples``."""
        count = round(settings.images * len(image))
        if not count or self.sampler is None:
            return None
        codes = self.tokenizer.quantize(self.tokenizer.encode(image[:count]).float()).codes
        generators = sample_generators(self.recipe.run.seed, place * len(image), count)
        return self.sampler.complete(codes, samples[:count], settings.known_scales, generators)

    def _revive_codes(
        self, number: int, quantized: Quantized, generator: torch.Generator
    ) -> dict[str, float]:
        """Count the use of codes and, every ``revive_every`` steps, move unused ones. Collective."""
        revival, gather = self.revival, self.accelerator.gather
        revival.count([gather(found) for found in quantized.codes])
        alive = float((revival.use >= revival.threshold).float().mean())
        moved = 0
        if (number + 1) % revival.every == 0:
            searched = [gather(tokens.detach()) for tokens in quantized.searched]
            moved = revival.revive(self.tokenizer.quantizer, searched, generator)
        return {"codes_alive": alive, "codes_revived": moved}


def _mirrored(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, 3, H, W), each flipped left to right with probability 1/2."""
    flipped = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(flipped[:, None, None, None].to(images.device), images.flip(3), images)
