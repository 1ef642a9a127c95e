"""The generator's stage of training: its step, its sample images and its result."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from openhart.randomness import sample_generators, seed_dropout, step_generator
from openhart.training.encoding.source import Source
from openhart.training.generator.export import Export
from openhart.training.generator.family import BatchMaker
from openhart.training.generator.recipe import GeneratorRecipe
from openhart.training.optimizer import rate_factor, set_rates
from openhart.training.run.checkpoint import Saved
from openhart.training.run.distributed import full_tensor, own_part, syncing
from openhart.training.run.nonfinite import NonFiniteGuard


@dataclass
class GeneratorStage:
    """The parts of one generator run; see :class:`openhart.training.run.loop.Stage`.

    Attributes:
        source: of the encoded samples.
        losses: the trained modules and their losses.
        model: the same, as the run's processes share it.
        make_batch: makes what the losses take.
        guard: skips steps that are not finite.
        average_flops: of a pass, when tokens are dropped as often as on average.
        shown: metrics that the progress bar shows.
    """

    recipe: GeneratorRecipe
    accelerator: Accelerator
    source: Source
    losses: nn.Module
    model: nn.Module
    optimizer: Any
    ema: EMAModel
    make_batch: BatchMaker
    guard: NonFiniteGuard
    result: Export
    saved: Mapping[str, Saved]
    average_flops: float
    shown: Sequence[str]
    name: str = "generator"

    @property
    def dataset(self) -> Any:
        """What batches are read from."""
        return self.source.dataset

    def weights(self) -> Iterator[Tensor]:
        """The trained weights and their averages; of sharded ones, this process's shards."""
        for weight in chain(self.losses.parameters(), self.ema.shadow_params):
            yield own_part(weight)

    def flops(self, number: int) -> float:
        """FLOPs of an average pass."""
        return self.average_flops

    def begin(self, number: int) -> None:
        """Nothing precedes a step."""

    def step(self, number: int, batches: Iterator[Any]) -> dict[str, Any]:
        """Learn from ``run.accumulation`` batches of encoded samples and update the generator."""
        recipe, accelerator, passes = self.recipe, self.accelerator, self.recipe.run.accumulation
        factor = rate_factor(number, recipe.steps, recipe.optimizer)
        set_rates(self.optimizer, factor, recipe.optimizer)
        common = step_generator(recipe.run.seed, number)
        metrics: dict[str, Any] = {}
        names: list[str] = []
        for part in range(passes):
            values, samples = next(batches)
            encoded = self.source.encoded(values)
            names += [sample.name for sample in samples]
            place = number * passes + part
            place = place * accelerator.num_processes + accelerator.process_index
            seed_dropout(recipe.run.seed, place)
            generators = sample_generators(recipe.run.seed, place * len(samples), len(samples))
            progress = number / recipe.steps
            batch = self.make_batch(encoded, samples, generators, common, progress)
            with syncing(accelerator, self.model, part + 1 == passes):
                with accelerator.autocast():
                    metrics = self.model(batch)
                accelerator.backward(metrics["loss"] / passes)
        norm = accelerator.clip_grad_norm_(self.losses.parameters(), recipe.optimizer.max_gradient_norm)
        metrics["gradient_norm"] = full_tensor(norm)
        if self.guard.allows(accelerator, number, metrics["loss"], metrics["gradient_norm"], names):
            self.optimizer.step()
            self.ema.step(self.losses.parameters())
        self.optimizer.zero_grad()
        rate = recipe.optimizer.learning_rate * factor
        return metrics | {"learning_rate": rate, "skipped": self.guard.total}

    def samples(self, number: int) -> None:
        """Log images of the recipe's prompts or classes."""
        self.result.log_samples(number)

    def export(self) -> Path:
        """Save the pipeline or, with ``lora``, the adapter alone."""
        return self.result.save()
