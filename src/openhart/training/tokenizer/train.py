"""Training the image tokenizer: autoencoder, codes, then the hybrid decoder (HART, section 3.1)."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch._functorch import config as functorch

from openhart.atomic import folder_written_whole
from openhart.checksums import write_checksums
from openhart.data import open_dataset
from openhart.errors import UserError
from openhart.interrupts import PendingStop
from openhart.randomness import step_generator
from openhart.tokenizer.model import HybridTokenizer
from openhart.tokenizer.quantizer import Quantized
from openhart.training.build import build_tokenizer
from openhart.training.config import Phase, TokenizerRecipe, load_recipe
from openhart.training.costs import Counter, tokenizer_phase_cost
from openhart.training.encoding.memory import some_samples
from openhart.training.optimizer import build_optimizer, rate_factor, set_rates
from openhart.training.run.batches import names_of, open_batches, place_in
from openhart.training.run.checkpoint import Checkpoints
from openhart.training.run.distributed import Skips, average_gradients, mean_over_processes, syncing
from openhart.training.run.loop import (
    close_run,
    log_images,
    log_metrics,
    open_run,
    steps_with_progress,
)
from openhart.training.run.throughput import Pace
from openhart.training.tokenizer.codebook import CodeRevival, start_with_kmeans
from openhart.training.tokenizer.decoder_inputs import DecoderInputs, draw_decoder_inputs
from openhart.training.tokenizer.losses import (
    PatchDiscriminator,
    adaptive_weight,
    build_perceptual,
    code_use,
    discriminator_loss,
    quantization_loss,
)
from openhart.training.tokenizer.reconstruction import Reconstruction

KMEANS_BATCHES = 16
SHOWN = 8


@dataclass
class Stage:
    """The parts of one tokenizer run; ``saved`` is what a checkpoint keeps of them, by name."""

    recipe: TokenizerRecipe
    accelerator: Accelerator
    tokenizer: HybridTokenizer
    model: nn.Module
    optimizer: Any
    perceptual: nn.Module | None
    discriminator: nn.Module
    discriminator_optimizer: Any
    ema: EMAModel
    revival: CodeRevival
    skips: Skips
    saved: dict[str, Any]

    def weights(self) -> Iterator[Tensor]:
        """The trained weights and their averages."""
        yield from itertools.chain(self.tokenizer.parameters(), self.ema.shadow_params)


def train(path: Path, overrides: list[str] | None = None, quiet: bool = False) -> Path:
    """Run or resume a tokenizer recipe.

    Args:
        path: the recipe's YAML file.
        overrides: ``section.name=value`` strings that replace values of the recipe.
        quiet: show no progress bar.

    Returns:
        The folder of the trained tokenizer, for :meth:`HybridTokenizer.from_pretrained`.

    Raises:
        UserError: a recipe, a data set or an output folder that cannot be used.
    """
    accelerator, folder = _run(load_recipe(path, TokenizerRecipe, overrides), quiet)
    close_run(accelerator)
    return folder


def _run(recipe: TokenizerRecipe, quiet: bool) -> tuple[Accelerator, Path]:
    set_seed(recipe.run.seed)
    tokenizer = build_tokenizer(recipe)
    size = tokenizer.image_size
    if recipe.data.buckets:
        raise UserError("a tokenizer learns on images of one size: leave data.buckets to the generator")
    dataset = open_dataset(recipe.data.train, size, only=recipe.data.only)
    some_samples(dataset, 1)  # says now if nothing can be read
    held_out = open_dataset(recipe.data.test or recipe.data.train, size, only=recipe.data.only)
    perceptual = build_perceptual(recipe.losses.perceptual) if recipe.losses.perceptual else None
    accelerator, output = open_run(recipe, all_used=False)
    stage = _prepare(recipe, accelerator, tokenizer, perceptual)
    batches = open_batches(dataset, recipe.data, recipe.run.seed, accelerator)
    checkpoints = Checkpoints(accelerator, recipe.run, stage.saved | place_in(batches), stage.weights)
    first = checkpoints.resume()
    stage.ema.to(accelerator.device)
    total = sum(phase.steps for phase in recipe.phases)
    samples = torch.stack([image for image, _ in some_samples(held_out, SHOWN)]).to(accelerator.device)
    stream = _on_device(accelerator, batches.after(first * recipe.run.accumulation))
    passes = recipe.run.accumulation
    pace = Pace(accelerator, passes * recipe.data.batch_size, 0)
    with PendingStop(quiet) as stop:
        for step, bar in steps_with_progress(accelerator, first, total, "tokenizer", quiet):
            phase, phase_step = _phase_at(recipe.phases, step)
            if phase_step == 0:
                _enter_phase(stage, phase, dataset, step)
            if phase_step == 0 or step == first:
                pace.flops = passes * _flops(stage, phase)
            with pace.step():
                metrics = _train_step(stage, phase, phase_step, step, total, stream)
            if step % recipe.run.log_every == 0:
                metrics |= pace.since_last_asked()
                log_metrics(accelerator, metrics, step, bar, ("likeness", "psnr", "codes_alive"))
            if (step + 1) % recipe.run.sample_every == 0:
                _log_reconstructions(stage, samples, step)
            checkpoints.after_step(step + 1, total, stop)
    return accelerator, _save_result(stage, output)


def _prepare(
    recipe: TokenizerRecipe,
    accelerator: Accelerator,
    tokenizer: HybridTokenizer,
    perceptual: nn.Module | None,
) -> Stage:
    losses = recipe.losses
    optimizer = build_optimizer([tokenizer], recipe.optimizer)
    discriminator: nn.Module = PatchDiscriminator(losses.discriminator_width)
    discriminator_optimizer: Any = torch.optim.AdamW(
        discriminator.parameters(), lr=losses.discriminator_learning_rate, betas=(0.5, 0.9)
    )
    discriminator.to(accelerator.device)
    if recipe.run.compile:
        functorch.donated_buffer = False  # the adaptive weight goes backward twice
        tokenizer.encoder.compile()
        tokenizer.decoder.compile()
    reconstruction = Reconstruction(tokenizer)
    model, prepared, discriminator_optimizer = accelerator.prepare(
        reconstruction, optimizer, discriminator_optimizer
    )
    ema = EMAModel(tokenizer.parameters(), decay=recipe.run.ema_decay, use_ema_warmup=True)
    codes = tokenizer.quantizer.codebook.num_embeddings
    revival = CodeRevival(codes, recipe.revive_every, recipe.revival_memory)
    skips = Skips(recipe.run.max_skipped)
    saved = {
        "model": reconstruction,
        "optimizer": prepared,
        "discriminator": discriminator,
        "discriminator-optimizer": discriminator_optimizer,
        "averages": ema,
        "revival": revival,
        "skips": skips,
    }
    if perceptual is not None:
        perceptual.to(accelerator.device)
    return Stage(
        recipe, accelerator, tokenizer, model, prepared, perceptual,
        discriminator, discriminator_optimizer, ema, revival, skips, saved,
    )  # fmt: skip


def _on_device(accelerator: Accelerator, stream: Iterator[Any]) -> Iterator[tuple[Tensor, list[str]]]:
    """Images (B, 3, H, W) and their names."""
    return ((images.to(accelerator.device), names_of(records)) for images, records in stream)


def _phase_at(phases: list[Phase], step: int) -> tuple[Phase, int]:
    ends = list(itertools.accumulate(phase.steps for phase in phases))
    index = next(place for place, end in enumerate(ends) if step < end)
    return phases[index], step - (ends[index] - phases[index].steps)


def _enter_phase(stage: Stage, phase: Phase, dataset: Any, step: int) -> None:
    if phase.kmeans_start:
        generator = step_generator(stage.recipe.run.seed, step)
        batches = open_batches(dataset, stage.recipe.data, stage.recipe.run.seed, stage.accelerator)
        stream = _on_device(stage.accelerator, batches.after(step))
        with torch.no_grad():
            images = itertools.islice(stream, KMEANS_BATCHES)
            encoded = [stage.tokenizer.encode(image) for image, _ in images]
        features = torch.cat([stage.accelerator.gather(part) for part in encoded])
        start_with_kmeans(stage.tokenizer.quantizer, features, generator)
    if phase.train == "decoder":  # what freezes is what the averaged weights have become
        stage.ema.copy_to(stage.tokenizer.parameters())


def _train_step(
    stage: Stage,
    phase: Phase,
    phase_step: int,
    step: int,
    total: int,
    batches: Iterator[tuple[Tensor, list[str]]],
) -> dict[str, Any]:
    recipe, accelerator = stage.recipe, stage.accelerator
    factor = rate_factor(step, total, recipe.optimizer)
    set_rates(stage.optimizer, factor, recipe.optimizer)
    common = step_generator(recipe.run.seed, step)
    metrics: dict[str, Any] = {}
    names: list[str] = []
    for part in range(recipe.run.accumulation):
        image, image_names = next(batches)
        names += image_names
        if recipe.mirror:
            image = _mirrored(image, common)
        inputs = _draw_inputs(stage, phase, len(image), common)
        with syncing(accelerator, stage.model, part + 1 == recipe.run.accumulation):
            with accelerator.autocast():
                output, features, quantized = stage.model(
                    image, inputs, frozen=phase.train == "decoder", learns_codes=phase.learns_codes
                )
                perceptual = phase.perceptual and step % recipe.losses.perceptual_every == 0
                loss, metrics = _losses(
                    stage, phase, phase_step, image, output, features, quantized, perceptual
                )
            accelerator.backward(loss / recipe.run.accumulation)
        if phase.adversarial:
            metrics["discriminator"] = _discriminator_backward(stage, image, output)
    metrics["loss"] = loss
    metrics["gradient_norm"] = accelerator.clip_grad_norm_(
        stage.tokenizer.parameters(), recipe.optimizer.max_gradient_norm
    )
    average_gradients(accelerator, stage.discriminator)
    if stage.skips.allows(accelerator, step, loss, metrics["gradient_norm"], names):
        stage.optimizer.step()
        stage.discriminator_optimizer.step()
        stage.ema.step(stage.tokenizer.parameters())
        if phase.learns_codes:
            metrics |= _keep_codes_alive(stage, quantized, step, common)
    stage.optimizer.zero_grad()
    stage.discriminator_optimizer.zero_grad()
    metrics["skipped"] = stage.skips.total
    if step % recipe.run.log_every == 0:
        codes = [accelerator.gather(found) for found in quantized.codes]
        metrics |= code_use(stage.tokenizer.quantizer, codes)
    return metrics


def _mirrored(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, 3, H, W), each flipped left to right with probability 1/2."""
    flipped = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(flipped[:, None, None, None].to(images.device), images.flip(3), images)


def _draw_inputs(stage: Stage, phase: Phase, batch: int, generator: torch.Generator) -> DecoderInputs:
    """What this process's samples are decoded from; drawn for all processes alike."""
    accelerator, quantizer = stage.accelerator, stage.tokenizer.quantizer
    drawn = draw_decoder_inputs(phase, quantizer, batch * accelerator.num_processes, generator)
    first = accelerator.process_index * batch
    return drawn.part(slice(first, first + batch), accelerator.device)


def _losses(
    stage: Stage,
    phase: Phase,
    phase_step: int,
    image: Tensor,
    output: Tensor,
    features: Tensor,
    quantized: Quantized,
    perceptual: bool,
) -> tuple[Tensor, dict[str, Any]]:
    weights = stage.recipe.losses
    output, squared = output.float(), F.mse_loss(output.float(), image)
    likeness = weights.l1 * F.l1_loss(output, image) + weights.l2 * squared
    if perceptual and stage.perceptual is not None:
        likeness = likeness + weights.perceptual_weight * stage.perceptual(output, image).mean()
    loss = likeness
    metrics = {"likeness": likeness, "psnr": -10 * (squared.detach() / 4).log10()}
    if phase.learns_codes:
        pull = quantization_loss(features, quantized, weights.commitment)
        loss = loss + weights.quantization * pull
        metrics["quantization"] = pull
    if phase.adversarial:
        stage.discriminator.requires_grad_(False)
        adversarial = -stage.discriminator(output).mean()
        stage.discriminator.requires_grad_(True)
        ramp = min(1.0, phase_step / weights.adversarial_ramp_steps)
        average = partial(mean_over_processes, stage.accelerator)
        balance = adaptive_weight(likeness, adversarial, stage.tokenizer.decoder.last_layer, average)
        loss = loss + weights.adversarial * ramp * balance * adversarial
        metrics |= {"adversarial": adversarial, "adversarial_balance": balance}
    return loss, metrics


def _discriminator_backward(stage: Stage, image: Tensor, output: Tensor) -> Tensor:
    with stage.accelerator.autocast():
        real, fake = stage.discriminator(image), stage.discriminator(output.detach())
        loss = discriminator_loss(real.float(), fake.float())
    stage.accelerator.backward(loss / stage.recipe.run.accumulation)
    return loss


def _keep_codes_alive(
    stage: Stage, quantized: Quantized, step: int, generator: torch.Generator
) -> dict[str, float]:
    stage.revival.count([stage.accelerator.gather(found) for found in quantized.codes])
    alive = float((stage.revival.use >= stage.revival.threshold).float().mean())
    moved = 0
    if (step + 1) % stage.revival.every == 0:
        searched = [stage.accelerator.gather(tokens.detach()) for tokens in quantized.searched]
        moved = stage.revival.revive(stage.tokenizer.quantizer, searched, generator)
    return {"codes_alive": alive, "codes_revived": moved}


@torch.no_grad()
def _log_reconstructions(stage: Stage, images: Tensor, step: int) -> None:
    """Rows of the log's picture: real, from codes alone, from complete features."""
    features = stage.tokenizer.encode(images)
    discrete = stage.tokenizer.decode(stage.tokenizer.quantize(features).f_hats[-1])
    rows = torch.cat([images, discrete, stage.tokenizer.decode(features)])
    log_images(stage.accelerator, "real_discrete_hybrid", rows, step)


def _flops(stage: Stage, phase: Phase) -> int:
    """FLOPs of a pass in a phase; the perceptual network's are not counted."""
    with torch.device("meta"):
        tokenizer = HybridTokenizer.from_config(stage.tokenizer.config)
    return tokenizer_phase_cost(Counter(stage.recipe.run.precision), stage.recipe, tokenizer, phase).flops


def _save_result(stage: Stage, output: Path) -> Path:
    folder = output / "image_tokenizer"
    if stage.accelerator.is_main_process:
        stage.ema.copy_to(stage.tokenizer.parameters())
        with folder_written_whole(folder) as whole:
            stage.tokenizer.save_pretrained(whole)
            write_checksums(whole)
    return folder
