"""The part of a pipeline that encodes a map of codes as the condition of an image."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from openhart.errors import UserError
from openhart.pipelines.conditions import ConditionedPipeline
from openhart.tokenizer.vqgan import VqganTokenizer
from openhart.transformer.raster import RasterTransformer


class CodeConditionedPipeline(ConditionedPipeline):
    """Turns the arguments of a call into context tokens; a model without encoders takes codes."""

    image_tokenizer: VqganTokenizer
    transformer: RasterTransformer
    condition_tokenizer: VqganTokenizer | None

    @property
    def condition_kind(self) -> str:
        """``codes`` for a model without encoders, ``none`` for one of a single class; else as others."""
        if self.label_encoder is None and self.text_encoder is None:
            return "codes"
        single = self.label_encoder is not None and self.label_encoder.num_classes == 1
        return "none" if single else super().condition_kind

    def encode_context(
        self,
        prompt: str | Sequence[str] | None = None,
        class_labels: int | Sequence[int] | Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        condition_image: Tensor | None = None,
        condition_codes: Tensor | None = None,
    ) -> Tensor:
        """Encode the condition.

        Args:
            prompt: one text or B texts.
            class_labels: one label or B labels; a model of one class needs none.
            prompt_embeds: context tokens (B, T, D).
            condition_image: (B, channels, H, W), for a model that is conditioned on codes.
            condition_codes: its codes instead, (B, h, w) or (B, T).

        Returns:
            context tokens (B, T, D), or (B, h, w, D) from a map.

        Raises:
            UserError: if none or several of them are given, or one that does not suit the model.
        """
        others = [prompt, class_labels, prompt_embeds]
        if self.condition_kind != "codes":
            if condition_image is not None or condition_codes is not None:
                raise UserError("this model is not conditioned on codes")
            if self.condition_kind == "none":
                class_labels = 0 if all(value is None for value in others) else class_labels
            return self.encode_condition(prompt, class_labels, prompt_embeds)[0]
        given = [condition_image is not None, condition_codes is not None]
        if sum(given) != 1 or any(value is not None for value in others):
            raise UserError("this model is conditioned on codes: pass condition_image or condition_codes")
        if condition_image is not None:
            condition_codes = self._encode_image(condition_image)
        return self._embed(condition_codes)

    def _encode_image(self, image: Any) -> Tensor:
        """Codes (B, h, w) of a condition (B, channels, H, W)."""
        tokenizer = self.condition_tokenizer or self.image_tokenizer
        channels = tokenizer.config.in_channels
        if not isinstance(image, Tensor) or image.ndim != 4 or image.shape[1] != channels:
            raise UserError(f"condition_image must be a tensor (batch, {channels}, height, width)")
        features = tokenizer.encode(image.to(self._execution_device))
        codes: Tensor = tokenizer.quantize(features).codes[-1].unflatten(1, tuple(features.shape[2:]))
        return codes

    def _embed(self, codes: Any) -> Tensor:
        """Context tokens of codes (B, h, w) or (B, T)."""
        size, tokens = self.transformer.config.codebook_size, self.transformer.config.context_tokens
        if not isinstance(codes, Tensor) or codes.is_floating_point() or codes.ndim not in (2, 3):
            raise UserError("condition_codes must be whole numbers in a tensor (batch, height, width)")
        if not codes.numel() or codes.min() < 0 or codes.max() >= size:
            raise UserError(f"condition_codes must be 0 … {size - 1}")
        if codes.ndim == 2 and codes.shape[1] != tokens:
            raise UserError(f"condition_codes must be {tokens} codes per image, got {codes.shape[1]}")
        embedded: Tensor = self.transformer.embed(codes.to(self._execution_device))
        return embedded
