"""What a family of generators supplies to its training; everything else is shared."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import nn

from openhart.data.sample import Sample
from openhart.errors import UserError
from openhart.training.encoding.conditions import Conditions
from openhart.training.encoding.images import Encoded
from openhart.training.encoding.source import Source
from openhart.training.generator.recipe import GeneratorRecipe
from openhart.training.run.flops import Cost, Counter

Recipe = TypeVar("Recipe", bound=GeneratorRecipe)


class BatchMaker(Protocol):
    """Makes what the losses take of encoded samples."""

    def __call__(
        self,
        encoded: Encoded,
        samples: list[Sample],
        generators: list[torch.Generator],
        common: torch.Generator,
        progress: float,
    ) -> Any:
        """One batch of B samples.

        Args:
            encoded: their encoding, by name (:func:`openhart.training.encoding.images.encode_images`).
            samples: what is known of them; all are of one size.
            generators: one per sample.
            common: draws what all samples on every process share.
            progress: share of the run's steps that is done.
        """


class Family(ABC, Generic[Recipe]):
    """One family with one recipe and its image tokenizer.

    Args:
        recipe: of the run.
        tokenizer: the recipe's; for a dry run, on the meta device.

    Attributes:
        pipeline: the class of the saved model. The losses have its parts under the same names.
        shown: metrics that the progress bar shows.
    """

    pipeline: ClassVar[Any]
    shown: ClassVar[tuple[str, ...]]

    def __init__(self, recipe: Recipe, tokenizer: Any) -> None:
        self.recipe, self.tokenizer = recipe, tokenizer

    def determined(self, context: dict[str, int]) -> dict[str, tuple[str, Any]]:
        """Settings of the transformer that other parts determine, beside the context's channels and tokens.

        Args:
            context: ``context_dim`` and ``context_tokens`` of the condition encoder.

        Returns:
            by name, the part and the value.
        """
        return {}

    def projects(self, context: dict[str, int]) -> bool:
        """Whether the context is mapped to the transformer's width: unless the recipe states it, if it has
        another width."""
        differs = context["context_dim"] != self.recipe.width
        return bool(self.recipe.model.get("context_projection", differs))

    def check(self, transformer: Any) -> None:
        """Check what concerns this family alone, with a transformer of the recipe's settings.

        Raises:
            UserError: if the recipe and its tokenizer do not fit each other.
        """

    def adopted(self, found: Any, name: str) -> Any:
        """The transformer of the initial model ``name``, fit for the recipe's tokenizer.

        Raises:
            UserError: if it cannot be.
        """
        wanted, own = self.recipe.latent_sizes(self.tokenizer)[-1], found.size
        if tuple(own) != wanted:
            sizes = [f"{height}×{width}" for height, width in (own, wanted)]
            raise UserError(
                f"initial: {name} makes maps of {sizes[0]}, but the recipe's images have {sizes[1]}"
            )
        return found

    def build_head(self, transformer: Any, source: Source | None = None) -> Any:
        """A new head for a transformer, or None.

        Args:
            transformer: on the meta device, or with weights.
            source: of the encoded samples, to measure them; None for a head without weights.
        """
        return None

    @abstractmethod
    def losses(self, transformer: Any, head: Any, encoder: nn.Module) -> nn.Module:
        """The trained modules with their losses: ``transformer``, the head under its name, and ``encoder``.

        A call takes a batch and returns metrics, of which ``loss`` has a gradient.
        """

    @abstractmethod
    def batch_maker(self, conditions: Conditions, transformer: Any) -> BatchMaker:
        """Makes batches for the losses."""

    def undecayed(self, losses: Any) -> Iterable[nn.Parameter]:
        """Weights of two or more dimensions that weight decay leaves out."""
        return ()

    @abstractmethod
    def tokens(self, transformer: Any) -> tuple[int, int]:
        """Tokens per sample, and how many of them an average step trains on."""

    @abstractmethod
    def cost(self, counter: Counter, transformer: Any, head: Any, checkpointing: bool) -> Cost:
        """One pass: its FLOPs on average and its activations at most.

        Args:
            counter: of the run's precision.
            transformer: on the meta device.
            head: on the meta device, or None.
            checkpointing: recompute the blocks in the backward pass.
        """

    def head_of(self, owner: Any) -> Any:
        """The head of losses or of a pipeline."""
        name: str | None = self.pipeline.head_name
        return name and getattr(owner, name)

    def named_head(self, owner: Any) -> dict[str, Any]:
        """The head of losses or of a pipeline, as an argument of the pipeline."""
        name: str | None = self.pipeline.head_name
        return {name: getattr(owner, name)} if name else {}

    def gives_every_gradient(self, has_head: bool) -> bool:
        """Whether every step gives every weight a gradient."""
        return True
