"""The tokenizer's stage of training: its step, its sample images and its result."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
from openhart.randomness import step_generator
from openhart.tokenizer.base import ImageTokenizer
from openhart.training.optimizer import rate_factor, set_rates
from openhart.training.run.checkpoint import Saved
from openhart.training.run.distributed import syncing
from openhart.training.run.logs import log_images
from openhart.training.run.nonfinite import NonFiniteGuard
from openhart.training.tokenizer.bottleneck import Bottleneck, Passed
from openhart.training.tokenizer.discriminator import Adversary
from openhart.training.tokenizer.losses import reconstruction_loss
from openhart.training.tokenizer.phases import phase_at
from openhart.training.tokenizer.recipe import Phase, TokenizerRecipe


@dataclass
class TokenizerStage:
    """The parts of one tokenizer run; see :class:`openhart.training.run.loop.Stage`.

    Attributes:
        tokenizer: what is trained.
        bottleneck: what is between its encoder and decoder.
        model: its forward pass from image to reconstruction, as the run's processes share it.
        adversary: the discriminator and its optimizer.
        perceptual: the perceptual distance, or None.
        guard: skips steps that are not finite.
        held_out: images (n, 3, H, W) that the log shows.
        flops_of_phases: FLOPs of one pass in each phase.
    """

    recipe: TokenizerRecipe
    accelerator: Accelerator
    dataset: Any
    tokenizer: ImageTokenizer
    bottleneck: Bottleneck[Any]
    model: nn.Module
    optimizer: Any
    ema: EMAModel
    adversary: Adversary
    perceptual: nn.Module | None
    guard: NonFiniteGuard
    saved: Mapping[str, Saved]
    held_out: Tensor
    flops_of_phases: Sequence[float]
    shown: Sequence[str]
    name: str = "tokenizer"

    def weights(self) -> Iterator[Tensor]:
        """The trained weights and their averages."""
        yield from chain(self.tokenizer.parameters(), self.ema.shadow_params)

    def flops(self, number: int) -> float:
        """FLOPs of a pass in the step's phase; those of the perceptual network are not counted."""
        return self.flops_of_phases[phase_at(self.recipe.phases, number)[0]]

    def begin(self, number: int) -> None:
        """Start the phase whose first step this is; weights that freeze are the averaged ones."""
        phase, phase_step = self._phase(number)
        if phase_step == 0:
            with self._averages_follow():
                self.bottleneck.begin(phase, number, self.accelerator, self.dataset)
        if phase_step == 0 and phase.frozen:
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
                metrics, passed = self._pass(number, place, image.to(accelerator.device), samples, common)
        metrics["gradient_norm"] = accelerator.clip_grad_norm_(
            self.tokenizer.parameters(), recipe.optimizer.max_gradient_norm
        )
        self.adversary.average_gradients()
        if self.guard.allows(accelerator, number, metrics["loss"], metrics["gradient_norm"], names):
            self.optimizer.step()
            self.adversary.optimizer.step()
            self.ema.step(self.tokenizer.parameters())
            if self._phase(number)[0].learns_bottleneck:
                with self._averages_follow():
                    metrics |= self.bottleneck.after_update(number, passed, common, accelerator.gather)
        self.optimizer.zero_grad()
        self.adversary.optimizer.zero_grad()
        metrics["skipped"] = self.guard.total
        if number % recipe.run.log_every == 0:
            metrics |= self.bottleneck.report(passed, accelerator.gather)
        return metrics

    @contextmanager
    def _averages_follow(self) -> Iterator[None]:
        """Replace codes in the averages too that are replaced meanwhile: a code and what it was before have
        no mean that is of use."""
        codebook = self.bottleneck.codebook
        if codebook is None:
            yield
            return
        before = codebook.detach().clone()
        yield
        moved = codebook.ne(before).any(dim=1)
        own = next(index for index, each in enumerate(self.tokenizer.parameters()) if each is codebook)
        self.ema.shadow_params[own][moved] = codebook.detach()[moved]

    @torch.no_grad()
    def samples(self, number: int) -> None:
        """Log the held-out images, and what is decoded from each version of their features."""
        versions = self.tokenizer.versions(self.held_out).values()
        rows = torch.cat([self.held_out, *(self.tokenizer.decode(features) for features in versions)])
        log_images(self.accelerator, "reconstructions", rows, number)

    def export(self) -> Path:
        """Save the tokenizer with its averaged weights in ``image_tokenizer``."""
        folder = Path(self.recipe.run.output) / "image_tokenizer"
        if self.accelerator.is_main_process:
            self.ema.copy_to(self.tokenizer.parameters())
            self.bottleneck.finish(self.held_out)
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
    ) -> tuple[dict[str, Any], Passed]:
        """One forward and backward pass of tokenizer and discriminator on images (B, 3, H, W).

        ``place`` is the number of batches of the whole run before this one, over all processes.
        """
        phase, phase_step = self._phase(number)
        if self.recipe.mirror:
            image = _mirrored(image, generator)
        choices = self._choices(number, len(image), generator)
        choices = self.bottleneck.with_samples(choices, phase, image, samples, place * len(image))
        with self.accelerator.autocast():
            output, passed = self.model(image, choices, phase)
            loss, metrics = self._reconstruction(number, phase, output.float(), image)
            metrics |= passed.metrics
            if passed.loss is not None:
                loss = loss + passed.loss
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
        return metrics | {"loss": loss}, passed

    def _reconstruction(
        self, number: int, phase: Phase, output: Tensor, image: Tensor
    ) -> tuple[Tensor, dict[str, Any]]:
        weights = self.recipe.losses
        perceptual = phase.perceptual and number % weights.perceptual_every == 0
        loss, psnr = reconstruction_loss(output, image, weights, self.perceptual if perceptual else None)
        return loss, {"likeness": loss, "psnr": psnr}

    def _choices(self, number: int, batch: int, generator: torch.Generator) -> Any:
        """Random choices for this process's samples; all processes draw for all samples."""
        processes, first = self.accelerator.num_processes, self.accelerator.process_index * batch
        drawn = self.bottleneck.draw(number, self._phase(number)[0], batch * processes, generator)
        return drawn.part(slice(first, first + batch), self.accelerator.device)


def _mirrored(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, 3, H, W), each flipped left to right with probability 1/2."""
    flipped = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(flipped[:, None, None, None].to(images.device), images.flip(3), images)
