"""The sequence of every training run, whatever it trains.

The order is part of the result, since a resumed run must equal one that never stopped, to the bit:

1. **Seed**, so that initial weights depend on the recipe alone.
2. **Prepare** the stage: read its data and models and check that they fit, then make the output folder, then
   build what is trained. A mistake in a recipe therefore ends the command before anything is written.
3. **Resume**, when all that a checkpoint restores exists. The random states come last, so that nothing draws
   from them in between. The averages move to the device afterwards, because loading leaves them on the CPU.
4. **Open the batches** at the restored position: that of a stream is part of the checkpoint, that of a data
   set read by index follows from the number of steps done.
5. Per step: **begin** (work that is not clocked, such as a k-means start), **step** (clocked), **log**,
   **sample**, **save**. Saving comes last, so that a saved step has been logged: resuming drops the log's
   lines from the restored step on and measures them again. A request to stop (Ctrl-C, SIGTERM) is obeyed
   after saving.
6. **Export** the averaged weights as a model.
7. **Close** trackers and processes when the stage no longer exists.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.training_utils import EMAModel
from torch import Tensor
from tqdm.auto import tqdm

from openhart.interrupts import PendingStop
from openhart.training.generator.recipe import GeneratorRecipe
from openhart.training.run.batches import open_batches, place_in
from openhart.training.run.checkpoint import Checkpoints, Saved
from openhart.training.run.logs import log_metrics
from openhart.training.run.opening import close_run
from openhart.training.run.throughput import Pace
from openhart.training.tokenizer.recipe import TokenizerRecipe

Recipe = TokenizerRecipe | GeneratorRecipe


class Stage(Protocol):
    """A stage of training, prepared to take steps.

    Attributes:
        name: shown by the progress bar.
        shown: metrics that the progress bar shows.
        accelerator: of the run.
        saved: what a checkpoint keeps, by name; models first.
        ema: averages of the trained weights.
    """

    name: str
    shown: Sequence[str]
    accelerator: Accelerator
    saved: Mapping[str, Saved]
    ema: EMAModel

    @property
    def dataset(self) -> Any:
        """What batches are read from: a :class:`~openhart.data.sample.Dataset` or a stream."""

    @property
    def recipe(self) -> Recipe:
        """What is trained, and how."""

    def weights(self) -> Iterator[Tensor]:
        """The trained weights and their averages, which must be finite to be saved; of sharded ones, this
        process's shards."""

    def flops(self, number: int) -> float:
        """FLOPs of one pass of step ``number`` on one process."""

    def begin(self, number: int) -> None:
        """What precedes step ``number`` and is not clocked, such as the start of a phase."""

    def step(self, number: int, batches: Iterator[Any]) -> dict[str, Any]:
        """Take step ``number``, counted from 0.

        Args:
            number: of the step.
            batches: values and records; a step takes ``run.accumulation`` of them.

        Returns:
            metrics by name: scalars of this process.
        """

    def samples(self, number: int) -> None:
        """Log images that the averaged weights make after step ``number``. Collective."""

    def export(self) -> Path:
        """Save the averaged weights as a model and return its folder. Collective."""


def run_stage(recipe: Recipe, prepare: Callable[[], Stage], quiet: bool) -> Path:
    """Run or resume a recipe in the order that this module describes.

    Args:
        recipe: what is trained, and how.
        prepare: makes the stage; it must hold no reference to what it makes.
        quiet: show no progress bar.

    Returns:
        The folder of the exported model.

    Raises:
        UserError: if the recipe cannot be run or resumed, or if its losses stay infinite.
        Stopped: if the run was requested to stop; it is saved.
    """
    accelerator, folder = _run(recipe, prepare, quiet)
    close_run(accelerator)
    return folder


def _run(recipe: Recipe, prepare: Callable[[], Stage], quiet: bool) -> tuple[Accelerator, Path]:
    """The whole run; its models are gone when it returns."""
    run = recipe.run
    set_seed(run.seed)
    stage = prepare()
    accelerator = stage.accelerator
    opened = open_batches(stage.dataset, recipe.data, run.seed, accelerator)
    checkpoints = Checkpoints(accelerator, run, {**stage.saved, **place_in(opened)}, stage.weights)
    first = checkpoints.resume()
    stage.ema.to(accelerator.device)
    batches = opened.after(first * run.accumulation)
    pace = Pace(accelerator, run.accumulation * recipe.data.batch_size)
    hidden = quiet or not accelerator.is_main_process
    with (
        PendingStop(quiet) as stop,
        tqdm(total=recipe.steps, initial=first, desc=stage.name, disable=hidden) as bar,
    ):
        for number in range(first, recipe.steps):
            stage.begin(number)
            with pace.step(run.accumulation * stage.flops(number)):
                metrics = stage.step(number, batches)
            if number % run.log_every == 0:
                log_metrics(accelerator, metrics | pace.since_last_call(), number, bar, stage.shown)
            if (number + 1) % run.sample_every == 0:
                stage.samples(number)
            checkpoints.after_step(number + 1, recipe.steps, stop)
            bar.update()
    return accelerator, stage.export()
