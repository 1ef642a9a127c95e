"""Images that a generator has completed, as inputs of the decoder in post-training.

A generator's errors are not those that are simulated by exchanging codes at random. Here the generator draws
them: it gets the true codes of an image's first scales and the image's caption, and draws the finer scales
and the residual. The decoder learns to decode the result to the image itself. Without given codes, the result
would be another image of the same caption, and the decoder would learn to blur (RobusTok, arXiv 2503.08354,
post-training, which keeps a fraction of the true codes for the same reason).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openhart.data.sample import Sample
from openhart.errors import UserError
from openhart.generation.states import KnownCodes
from openhart.model_files import loading
from openhart.pipelines.hart import HartPipeline
from openhart.tokenizer.model import HybridTokenizer
from openhart.training.tokenizer.nearest.recipe import HybridRecipe, OwnSamples


@dataclass(frozen=True)
class OwnSampler:
    """Completes images by a generator, with the pipeline's own sampling settings.

    Attributes:
        pipeline: of the generator; its tokenizer has the codes of the tokenizer that is trained.
    """

    pipeline: HartPipeline

    @torch.no_grad()
    def complete(
        self,
        codes: Sequence[Tensor],
        samples: Sequence[Sample],
        settings: OwnSamples,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        """Features (n, z, P, P) of images whose first scales are given.

        Args:
            codes: of each scale, (n, h_k·w_k).
            samples: n, with the caption or label of each image.
            settings: of the phase. The number of scales that are given is drawn for each image, from
                ``known_scales`` to all but one.
            generators: one per image.
        """
        least = settings.known_scales
        most = max(len(codes) - 1, least)
        draws = [int(torch.randint(least, most + 1, (), generator=one)) for one in generators]
        given = torch.tensor(draws, device=codes[0].device)[:, None]
        masks = [(index < given).expand_as(part) for index, part in enumerate(codes)]
        encoder = self.pipeline.condition_encoder
        condition: dict[str, Any] = {encoder.argument: [sample.condition(encoder.kind) for sample in samples]}
        if settings.residual is not None:
            condition["use_residual"] = bool(torch.rand((), generator=generators[0]) < settings.residual)
        features: Tensor = self.pipeline(
            **condition,
            known_codes=KnownCodes(codes, masks),
            generator=list(generators),
            output_type="latent",
        ).images
        return features


def open_sampler(recipe: HybridRecipe, tokenizer: HybridTokenizer) -> OwnSampler | None:
    """The sampler of a recipe's ``own_samples``; None if no phase has any.

    Raises:
        UserError: if the generator cannot be loaded, or if its codes are not those of the tokenizer.
    """
    found = [phase.own_samples for phase in recipe.phases if phase.own_samples]
    if not found:
        return None
    pipeline = _load(found[0])
    theirs, ours = (model.quantizer.state_dict() for model in (pipeline.image_tokenizer, tokenizer))
    alike = theirs.keys() == ours.keys() and all(
        theirs[name].shape == ours[name].shape and torch.equal(theirs[name].float(), ours[name].float())
        for name in ours
    )
    if not alike:
        raise UserError(
            f"own_samples.generator: {found[0].generator} draws the codes of another tokenizer; name a "
            "generator that was trained on the tokenizer of 'initial'"
        )
    return OwnSampler(pipeline)


def _load(settings: OwnSamples) -> HartPipeline:
    folder = Path(settings.generator)
    with loading(folder):
        pipeline: HartPipeline = HartPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
