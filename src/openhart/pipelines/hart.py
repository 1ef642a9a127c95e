"""Diffusers pipeline for text-conditional and class-conditional generation."""

from collections.abc import Generator, Sequence
from typing import Any, Unpack

import torch
from diffusers import ImagePipelineOutput
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from openhart.acceleration.levels import LEVELS
from openhart.checks import parse_values
from openhart.conditioning.encoder import Condition
from openhart.conditioning.label import LabelEncoder
from openhart.generation.next_scale import generate
from openhart.generation.saved import VERSION, VERSION_KEY
from openhart.generation.settings import (
    SAMPLING,
    SamplingOptions,
    SamplingSettings,
    given_overrides,
    values_of,
)
from openhart.generation.states import KnownCodes, ScaleState
from openhart.memory import ImageMemory, check_images
from openhart.pipelines.acceleration import AcceleratedPipeline
from openhart.pipelines.callbacks import TENSOR_INPUTS, Callbacks, ScaleCallback, StepCallback
from openhart.pipelines.checks import LAYOUTS, PipelineSettings, check_condition, check_fit
from openhart.pipelines.conditions import ConditionedPipeline, check_count, repeat_each
from openhart.pipelines.files import PipelineFiles
from openhart.pipelines.images import TilingPipeline, check_output_type
from openhart.pipelines.lora import LoraPipeline
from openhart.randomness import Draws, Generators, choose_draws
from openhart.residual.heads import TokenResidualHead
from openhart.tokenizer.model import HybridTokenizer
from openhart.transformer.model import HartTransformer


class HartPipeline(ConditionedPipeline, AcceleratedPipeline, TilingPipeline, LoraPipeline, PipelineFiles):
    """Generates images from prompts or class labels.

    Args:
        image_tokenizer: encodes images as codes and residual, and decodes them.
        transformer: predicts the codes of the next scale from the condition and all coarser scales.
        residual_head: generates the residual that the codes leave; None to decode the codes alone.
        label_encoder: the condition encoder of a class-conditional model.
        text_encoder: the text encoder of a text-conditional model, whose output has ``last_hidden_state``.
        text_tokenizer: the text encoder's tokenizer.
        text_encoder_name: the name from which the text encoder was loaded
            (:func:`openhart.conditioning.text.load_text_encoder`). An encoder with a name is not saved with
            the model, but loaded by its name again.
        max_tokens: context tokens T of a prompt; None for the number that the transformer takes.
        instruction: text that is put before every prompt.
        sampling: the model's own defaults of :class:`SamplingSettings`, by name.

    Raises:
        UserError: the parts do not fit each other, or a setting is invalid.
    """

    model_cpu_offload_seq = "text_encoder->transformer"
    family = "HartPipeline"
    levels = LEVELS
    head_name = "residual_head"
    layout = LAYOUTS["HartPipeline"]
    _optional_components = list(layout.optional)  # noqa: RUF012
    _exclude_from_cpu_offload = ["image_tokenizer", "residual_head", "label_encoder"]  # noqa: RUF012
    _callback_tensor_inputs = TENSOR_INPUTS

    def __init__(
        self,
        image_tokenizer: HybridTokenizer,
        transformer: HartTransformer,
        residual_head: TokenResidualHead | None = None,
        label_encoder: LabelEncoder | None = None,
        text_encoder: PreTrainedModel | None = None,
        text_tokenizer: PreTrainedTokenizerBase | None = None,
        text_encoder_name: str | None = None,
        max_tokens: int | None = None,
        instruction: str = "",
        sampling: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        values: dict[str, Any] = {"text_encoder_name": text_encoder_name, "max_tokens": max_tokens}
        values |= {"instruction": instruction, "sampling": sampling}
        parse_values(PipelineSettings, values, "HartPipeline")
        if max_tokens is None:
            values["max_tokens"] = transformer.config.context_tokens
        check_fit(image_tokenizer, transformer, residual_head)
        check_condition(transformer, label_encoder, text_encoder, values["max_tokens"])
        self.register_modules(
            image_tokenizer=image_tokenizer,
            transformer=transformer,
            residual_head=residual_head,
            label_encoder=label_encoder,
            text_encoder=text_encoder,
            text_tokenizer=text_tokenizer,
        )
        self.register_to_config(**values | {"sampling": dict(sampling or {}), VERSION_KEY: VERSION})
        self.sampling_settings()

    @property
    def num_timesteps(self) -> int:
        """Number of scales K, which are the steps of a call."""
        return len(self.transformer.scales)

    def sampling_settings(
        self, sampling: SamplingSettings | None = None, **overrides: Unpack[SamplingOptions]
    ) -> SamplingSettings:
        """Sampling settings of a call.

        Args:
            sampling: complete settings; None for the model's defaults, changed by :meth:`optimize`.
            overrides: single settings that replace theirs; None replaces nothing. A new ``top_k`` holds for
                every scale, unless ``late_top_k`` is given too.

        Raises:
            UserError: there is no such setting, or a value is outside its range.
        """
        defaults = {**self.config.sampling, **self._level_sampling}
        values, given = values_of(SamplingSettings, sampling, defaults), given_overrides(overrides, SAMPLING)
        if "top_k" in given:
            values.pop("late_top_k", None)
        return SamplingSettings(**(values | given))

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        class_labels: int | Sequence[int] | Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        max_sequence_length: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        sampling: SamplingSettings | None = None,
        generator: Generators = None,
        draws: Draws | None = None,
        known_codes: KnownCodes | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_scale_end: ScaleCallback | None = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **overrides: Unpack[SamplingOptions],
    ) -> Any:
        """Generate images.

        Args:
            prompt: one text or B texts; an empty text is the empty condition.
            class_labels: labels in place of a prompt, for class-conditional models.
            prompt_embeds: context tokens (B, T, D) in place of a prompt.
            prompt_attention_mask: (B, T), true where ``prompt_embeds`` are real; None for everywhere.
            negative_prompt: text that guidance steers away from, one for all or one per prompt; None for the
                empty condition, the only one that models are trained for.
            negative_prompt_embeds: context tokens (1, T, D) or (B, T, D) in place of ``negative_prompt``.
            negative_prompt_attention_mask: their mask; None for everywhere.
            max_sequence_length: tokens that a prompt is cut to, at most T; None for T.
            height: height in pixels; None for that of the model. Other sizes give good images only if the
                model was trained for them (``data.buckets`` of the recipe).
            width: width in pixels; None for that of the model.
            num_images_per_prompt: number of images per condition.
            sampling: complete sampling settings; None for the model's own.
            generator: one generator, from which each image takes a seed in order; or one per image, so that
                each image is the same alone and in any batch; None for images that differ with each call.
            draws: draws codes and noise in place of ``generator``; see :class:`openhart.randomness.Draws`.
            known_codes: codes that are given instead of drawn; see
                :class:`openhart.generation.states.KnownCodes`.
            output_type: ``pil``; ``np``, (B, H, W, 3) in [0, 1]; ``pt``, (B, 3, H, W) in [0, 1]; or
                ``latent``, features (B, z, P, P).
            return_dict: whether to return an object with ``images`` or a tuple.
            callback_on_scale_end: called after each scale with the pipeline, the scale's index and the
                :class:`ScaleState`; see :meth:`decode_preview`. If it returns False, the call ends with the
                images of that scale.
            callback_on_step_end: diffusers' callback, called after each scale as
                ``callback(pipe, step, timestep, tensors)``: step is the scale's index from 0, and timestep
                the number of scales that remain. It may return new ``latents``, which replace the features.
            callback_on_step_end_tensor_inputs: names of the tensors that it gets: ``latents``, the features
                so far, (B, z, P, P).
            overrides: single sampling settings that replace those of ``sampling`` or of the model, such as
                ``guidance_scale``, ``top_k`` or ``residual_steps``; :class:`SamplingSettings` has the list.

        Returns:
            an object with ``images``, or a tuple of them.

        Raises:
            UserError: an argument is invalid or does not suit the model.
        """
        check_output_type(output_type)
        callbacks = Callbacks(callback_on_scale_end, callback_on_step_end, callback_on_step_end_tensor_inputs)
        states = self.stream(
            prompt, class_labels=class_labels, prompt_embeds=prompt_embeds,
            prompt_attention_mask=prompt_attention_mask, negative_prompt=negative_prompt,
            negative_prompt_embeds=negative_prompt_embeds,
            negative_prompt_attention_mask=negative_prompt_attention_mask,
            max_sequence_length=max_sequence_length,
            height=height, width=width, num_images_per_prompt=num_images_per_prompt,
            sampling=sampling, generator=generator, draws=draws, known_codes=known_codes, **overrides,
        )  # fmt: skip
        images = self._finish(states, self.num_timesteps, callbacks, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @torch.no_grad()
    def stream(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        class_labels: int | Sequence[int] | Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        max_sequence_length: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        sampling: SamplingSettings | None = None,
        generator: Generators = None,
        draws: Draws | None = None,
        known_codes: KnownCodes | None = None,
        **overrides: Unpack[SamplingOptions],
    ) -> Generator[ScaleState, None, None]:
        """Generate images scale by scale; :meth:`decode_preview` decodes the images of each state.

        Arguments are checked at once, and the work is done as states are taken. Closing the generator cancels
        the rest of the work. The pipeline stores nothing about a call, so several threads may stream from one
        pipeline, and each gets the images that it would get alone.

        Args:
            prompt: one text or B texts; all arguments are those of :meth:`__call__`.
            class_labels: labels in place of a prompt, for class-conditional models.
            prompt_embeds: context tokens (B, T, D) in place of a prompt.
            prompt_attention_mask: (B, T), true where ``prompt_embeds`` are real.
            negative_prompt: text that guidance steers away from.
            negative_prompt_embeds: context tokens in place of ``negative_prompt``.
            negative_prompt_attention_mask: their mask.
            max_sequence_length: tokens that a prompt is cut to.
            height: height in pixels.
            width: width in pixels.
            num_images_per_prompt: number of images per condition.
            generator: one generator, or one per image.
            draws: draws codes and noise in place of ``generator``.
            known_codes: codes that are given instead of drawn.
            sampling: complete sampling settings; None for the model's own.
            overrides: single sampling settings that replace those of ``sampling`` or of the model.

        Returns:
            a generator of the state after each scale; the last one holds the final features.

        Raises:
            UserError: an argument is invalid or does not suit the model.
        """
        settings = self.sampling_settings(sampling, **overrides)
        size = self.check_size(height, width)
        scales = self.transformer.check_scales(self.image_tokenizer.scales_for_image(size))
        condition = self.encode_condition(
            prompt, class_labels, prompt_embeds, prompt_attention_mask, max_sequence_length
        )
        count = len(condition[0]) * check_count(num_images_per_prompt)
        negative = self.encode_negative(
            len(condition[0]),
            negative_prompt,
            negative_prompt_embeds,
            negative_prompt_attention_mask,
            max_sequence_length,
        )
        check_images(self.memory(settings), count, size, self._execution_device)
        condition, negative = repeat_each(condition, negative, num_images_per_prompt)
        draws = choose_draws(draws, generator, count, self._execution_device)
        return self._states(condition, negative, scales[-1], draws, settings, known_codes)

    @torch.no_grad()
    def _states(
        self,
        condition: Condition,
        negative: Condition,
        size: tuple[int, int],
        draws: Draws,
        settings: SamplingSettings,
        known: KnownCodes | None,
    ) -> Generator[ScaleState, None, None]:
        states = generate(
            self.transformer,
            self.image_tokenizer.quantizer,
            self.residual_head,
            condition,
            negative,
            draws,
            settings,
            known,
            size,
        )
        try:
            yield from states
        finally:
            self.maybe_free_model_hooks()

    def memory(self, settings: SamplingSettings) -> ImageMemory:
        """An estimate of the memory that images need in addition to the weights."""
        guided, tile = settings.guidance_scale > 1, self._tile
        return ImageMemory(self.transformer, self.image_tokenizer, guided, tile and tile[0])
