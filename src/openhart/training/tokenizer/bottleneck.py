"""What is between encoder and decoder in training: the interface of all kinds of tokenizers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor

from openhart.data.sample import Sample
from openhart.training.run.checkpoint import Saved
from openhart.training.run.flops import Counter
from openhart.training.tokenizer.recipe import TokenizerRecipe

Recipe = TypeVar("Recipe", bound=TokenizerRecipe)
Gather = Callable[[Tensor], Tensor]


class Choices(Protocol):
    """Random choices for a batch of B samples."""

    def part(self, rows: slice, device: torch.device) -> Any:
        """The choices for some of the samples, on a device."""


@dataclass(frozen=True)
class Passed:
    """What a batch of B images became between encoder and decoder.

    Attributes:
        features: (B, z, h, w), what the decoder gets.
        loss: weighted loss of the bottleneck, a scalar; None where nothing learns by one.
        metrics: scalars by name.
        codes: one tensor per scale, (B, h_k·w_k); empty for a tokenizer without codes.
        searched: one tensor per scale, (B, h_k·w_k, z): the vectors whose nearest codes were chosen.
    """

    features: Tensor
    loss: Tensor | None = None
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    codes: list[Tensor] = field(default_factory=list)
    searched: list[Tensor] = field(default_factory=list)


class Bottleneck(ABC, Generic[Recipe]):
    """The bottleneck of one kind of tokenizer: its random choices, its pass and its losses.

    Args:
        recipe: of the run.
        tokenizer: what is trained; to count costs, on the meta device.

    Attributes:
        shown: metrics that the progress bar shows.
    """

    shown: ClassVar[tuple[str, ...]] = ("likeness", "psnr")

    def __init__(self, recipe: Recipe, tokenizer: Any) -> None:
        self.recipe, self.tokenizer = recipe, tokenizer

    @abstractmethod
    def draw(self, number: int, phase: Any, batch: int, generator: torch.Generator) -> Choices:
        """Draw the random choices of a pass of step ``number`` for ``batch`` samples."""

    @abstractmethod
    def stand_in(self, counter: Counter, batch: int) -> Any:
        """Choices without storage, to count the cost of a pass."""

    @abstractmethod
    def __call__(self, image: Tensor, choices: Any, phase: Any) -> Passed:
        """Encode images and pass them through the bottleneck.

        Args:
            image: (B, 3, H, W) in [−1, 1].
            choices: part of what :meth:`draw` made.
            phase: of the recipe.
        """

    @property
    @abstractmethod
    def tokens(self) -> int:
        """Tokens per image."""

    @property
    def codebook(self) -> Tensor | None:
        """Codes (V, z), of which :meth:`begin` and :meth:`after_update` replace some; None if they do not."""
        return None

    @property
    def saved(self) -> Mapping[str, Saved]:
        """What a checkpoint keeps, by name."""
        return {}

    def open(self) -> None:
        """Read what the recipe names beside the tokenizer.

        Raises:
            UserError: if it cannot be read, or if it does not fit the tokenizer.
        """

    def with_samples(self, choices: Any, phase: Any, image: Tensor, samples: list[Sample], first: int) -> Any:
        """Choices completed by what is known of the images.

        Args:
            choices: part of what :meth:`draw` made.
            phase: of the recipe.
            image: (B, 3, H, W) in [−1, 1].
            samples: of these images.
            first: position of the first sample: the number of samples of the whole run before it.
        """
        return choices

    def begin(self, phase: Any, number: int, accelerator: Accelerator, dataset: Any) -> None:
        """What precedes step ``number``, the first of a phase. Collective."""

    def after_update(
        self, number: int, passed: Passed, generator: torch.Generator, gather: Gather
    ) -> dict[str, float]:
        """What follows an update of the weights; returns metrics. Collective.

        Args:
            number: of the step.
            passed: the last pass.
            generator: equal on all processes.
            gather: joins a tensor of all processes.
        """
        return {}

    def finish(self, images: Tensor) -> None:
        """Settle what depends on the trained weights, before they are saved.

        Args:
            images: (B, 3, H, W) in [−1, 1], held out.
        """

    def report(self, passed: Passed, gather: Gather) -> dict[str, float]:
        """Metrics of a logged step. Collective."""
        return {}
