"""The part of a pipeline that encodes prompts, class labels and negative prompts."""

from collections.abc import Sequence
from typing import Any, cast

from diffusers import DiffusionPipeline
from torch import Tensor

from openhart.conditioning.encoder import Condition, ConditionEncoder, check_embeds
from openhart.conditioning.label import LabelEncoder
from openhart.conditioning.text import TextConditionEncoder
from openhart.errors import UserError
from openhart.transformer.families import AnyTransformer

CONDITIONED = {"text": "text-conditional", "label": "class-conditional"}


class ConditionedPipeline(DiffusionPipeline):
    """Turns the arguments of a call into the context of the images and the context that guidance avoids."""

    transformer: AnyTransformer
    label_encoder: LabelEncoder | None
    text_encoder: Any
    text_tokenizer: Any

    @property
    def condition_kind(self) -> str:
        """What images are made of: ``text``, ``label``, ``codes`` of another image, or ``none``."""
        return self.condition_encoder.kind

    @property
    def condition_encoder(self) -> ConditionEncoder:
        """The encoder of prompts (text encoder and tokenizer) or of class labels (label encoder)."""
        if self.label_encoder is not None:
            return cast(ConditionEncoder, self.label_encoder)
        config = self.transformer.config
        return TextConditionEncoder(
            self.text_tokenizer,
            self.text_encoder,
            config.context_tokens,
            config.context_dim,
            self.config.instruction,
        )

    def encode_condition(
        self,
        prompt: str | Sequence[str] | None = None,
        class_labels: int | Sequence[int] | Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        max_sequence_length: int | None = None,
    ) -> Condition:
        """Encode prompts or class labels, or check embeddings.

        Args:
            prompt: one text or B texts.
            class_labels: one label or B labels.
            prompt_embeds: context tokens (B, T, D). Pass exactly one of these three.
            prompt_attention_mask: (B, T), true where ``prompt_embeds`` are real; None for everywhere.
            max_sequence_length: tokens that a prompt is cut to; None for T.

        Returns:
            context (B, T, D) and mask (B, T) bool, on the device where the transformer runs.

        Raises:
            UserError: none of them, several, or one that does not suit the model.
        """
        values = {"prompt": prompt, "class_labels": class_labels, "prompt_embeds": prompt_embeds}
        given = [name for name, value in values.items() if value is not None]
        if len(given) != 1:
            raise UserError("pass exactly one of prompt, class_labels and prompt_embeds")
        if prompt_attention_mask is not None and prompt_embeds is None:
            raise UserError("prompt_attention_mask goes with prompt_embeds")
        encoder = self.condition_encoder
        if prompt_embeds is not None:
            return self._placed(check_embeds(prompt_embeds, prompt_attention_mask, encoder))
        self._check_argument(given[0])
        return self._placed(encoder.encode(values[encoder.argument], max_sequence_length))

    def encode_negative(
        self,
        batch: int,
        negative_prompt: str | Sequence[str] | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        max_sequence_length: int | None = None,
    ) -> Condition:
        """Encode the condition that guidance steers away from, the empty condition unless one is given.

        Args:
            batch: number of conditions B.
            negative_prompt: one text for all, or B texts.
            negative_prompt_embeds: context tokens (1, T, D) or (B, T, D) instead.
            negative_prompt_attention_mask: their mask; None for everywhere.
            max_sequence_length: tokens that a prompt is cut to; None for T.

        Returns:
            context and mask: (B, T, D) and (B, T); with batch size 1 if it is one for all; for the empty
            condition only the token that fills it, (1, 1, D) and (1, 1).

        Raises:
            UserError: both a text and embeddings, another number of them, or values that do not suit the
                model.
        """
        encoder = self.condition_encoder
        if negative_prompt is not None and negative_prompt_embeds is not None:
            raise UserError("pass negative_prompt or negative_prompt_embeds, not both")
        if negative_prompt_attention_mask is not None and negative_prompt_embeds is None:
            raise UserError("negative_prompt_attention_mask goes with negative_prompt_embeds")
        blank = isinstance(negative_prompt, str) and not negative_prompt.strip()
        if negative_prompt_embeds is not None:
            found = check_embeds(
                negative_prompt_embeds, negative_prompt_attention_mask, encoder, "negative_prompt"
            )
        elif negative_prompt is None or blank:
            context, mask = self._placed(encoder.empty(1))
            return context[:, :1], mask[:, :1]
        else:
            self._check_argument("prompt", "negative_prompt")
            found = encoder.encode(negative_prompt, max_sequence_length)
        if len(found[0]) not in (1, batch):
            raise UserError(f"pass one negative prompt, or one per prompt: {batch}, got {len(found[0])}")
        return self._placed(found)

    def _check_argument(self, argument: str, name: str | None = None) -> None:
        encoder = self.condition_encoder
        if argument != encoder.argument:
            raise UserError(
                f"this model is {CONDITIONED[encoder.kind]}: pass {encoder.argument} instead of "
                f"{name or argument}"
            )

    def _placed(self, condition: Condition) -> Condition:
        device = self._execution_device
        return condition[0].to(device), condition[1].to(device)


def check_count(num_images_per_prompt: Any) -> int:
    """Number of images per condition.

    Raises:
        UserError: if it is no positive whole number.
    """
    if type(num_images_per_prompt) is not int or num_images_per_prompt < 1:
        raise UserError(f"num_images_per_prompt must be at least 1, got {num_images_per_prompt!r}")
    return num_images_per_prompt


def repeat_each(condition: Condition, negative: Condition, times: int) -> tuple[Condition, Condition]:
    """Each condition several times in a row; a single negative one stays single, and is broadcast later."""
    if len(negative[0]) > 1:
        negative = repeat_condition(negative, times)
    return repeat_condition(condition, times), negative


def repeat_condition(condition: Condition, times: int) -> Condition:
    """Each condition several times in a row: (B, …) → (B · times, …)."""
    return condition[0].repeat_interleave(times, 0), condition[1].repeat_interleave(times, 0)
