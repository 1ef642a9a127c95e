"""Diffusers pipeline for MAR: masked autoregressive generation of continuous tokens (arXiv 2406.11838)."""

from collections.abc import Generator, Sequence
from typing import Any, Unpack

import torch
from diffusers import ImagePipelineOutput
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from openhart.checks import parse_values
from openhart.conditioning.encoder import Condition
from openhart.conditioning.label import LabelEncoder
from openhart.errors import UserError
from openhart.generation.masked import MaskedState, generate_masked, plan_steps
from openhart.generation.masked_settings import (
    MASKED_SAMPLING,
    MaskedSamplingOptions,
    MaskedSamplingSettings,
)
from openhart.generation.saved import VERSION, VERSION_KEY
from openhart.generation.settings import given_overrides, values_of
from openhart.memory import MaskedMemory, check_images
from openhart.pipelines.acceleration import AcceleratedPipeline
from openhart.pipelines.callbacks import TENSOR_INPUTS, Callbacks, StepCallback
from openhart.pipelines.checks import LAYOUTS, PipelineSettings, check_condition, check_mar_fit
from openhart.pipelines.conditions import ConditionedPipeline, check_count, repeat_each
from openhart.pipelines.files import PipelineFiles
from openhart.pipelines.images import DecodingPipeline, check_output_type
from openhart.pipelines.lora import LoraPipeline
from openhart.randomness import Draws, Generators, choose_draws
from openhart.residual.heads import TokenResidualHead
from openhart.tokenizer.kl import KLAutoencoder
from openhart.transformer.masked import MaskedTransformer


class MarPipeline(ConditionedPipeline, AcceleratedPipeline, DecodingPipeline, LoraPipeline, PipelineFiles):
    """Generates images from class labels or prompts, some tokens per step, in random order.

    Args:
        image_tokenizer: decodes latents into images.
        transformer: turns known tokens and the condition into a condition for each unknown token.
        diffusion_head: generates a token from its condition.
        label_encoder: the condition encoder of a class-conditional model.
        text_encoder: the text encoder of a text-conditional model, whose output has ``last_hidden_state``.
        text_tokenizer: the text encoder's tokenizer.
        text_encoder_name: the name from which the text encoder was loaded
            (:func:`openhart.conditioning.text.load_text_encoder`). An encoder with a name is not saved with
            the model, but loaded by its name again.
        max_tokens: context tokens T of a prompt; None for the number that the transformer takes.
        instruction: text that is read before every prompt.
        sampling: the model's own defaults of :class:`MaskedSamplingSettings`, by name.

    Raises:
        UserError: if the parts do not fit each other, or if a setting is invalid.
    """

    family = "MarPipeline"
    head_name = "diffusion_head"
    layout = LAYOUTS["MarPipeline"]
    model_cpu_offload_seq = "text_encoder->transformer"
    _optional_components = list(layout.optional)  # noqa: RUF012
    _exclude_from_cpu_offload = ["image_tokenizer", "diffusion_head", "label_encoder"]  # noqa: RUF012
    _callback_tensor_inputs = TENSOR_INPUTS

    def __init__(
        self,
        image_tokenizer: KLAutoencoder,
        transformer: MaskedTransformer,
        diffusion_head: TokenResidualHead,
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
        parse_values(PipelineSettings, values, self.family)
        if max_tokens is None:
            values["max_tokens"] = transformer.config.context_tokens
        check_mar_fit(image_tokenizer, transformer, diffusion_head)
        check_condition(transformer, label_encoder, text_encoder, values["max_tokens"])
        self.register_modules(
            image_tokenizer=image_tokenizer,
            transformer=transformer,
            diffusion_head=diffusion_head,
            label_encoder=label_encoder,
            text_encoder=text_encoder,
            text_tokenizer=text_tokenizer,
        )
        self.register_to_config(**values | {"sampling": dict(sampling or {}), VERSION_KEY: VERSION})
        self.sampling_settings()

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        height, width = self.transformer.size
        factor = self.image_tokenizer.downsample_factor
        return height * factor, width * factor

    def sampling_settings(
        self, sampling: MaskedSamplingSettings | None = None, **overrides: Unpack[MaskedSamplingOptions]
    ) -> MaskedSamplingSettings:
        """Sampling settings of a call.

        Args:
            sampling: complete settings; None for the model's defaults.
            overrides: single settings that replace theirs; None replaces nothing.

        Raises:
            UserError: if there is no such setting, or if a value is outside its range.
        """
        values = values_of(MaskedSamplingSettings, sampling, self.config.sampling)
        return MaskedSamplingSettings(**(values | given_overrides(overrides, MASKED_SAMPLING)))

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
        sampling: MaskedSamplingSettings | None = None,
        generator: Generators = None,
        draws: Draws | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **overrides: Unpack[MaskedSamplingOptions],
    ) -> Any:
        """Generate images.

        Args:
            prompt: one text or B texts, for text-conditional models; an empty text is the empty condition.
            class_labels: one label or B labels, for class-conditional models; the label after the last class
                means no class.
            prompt_embeds: context tokens (B, T, D) in place of a prompt.
            prompt_attention_mask: (B, T), true where ``prompt_embeds`` are real; None for everywhere.
            negative_prompt: text that guidance steers away from, one for all or one per prompt; None for the
                empty condition.
            negative_prompt_embeds: context tokens (1, T, D) or (B, T, D) in place of ``negative_prompt``.
            negative_prompt_attention_mask: their mask; None for everywhere.
            max_sequence_length: tokens that a prompt is cut to, at most T; None for T.
            height: in pixels; None or the model's own height.
            width: in pixels; None or the model's own width.
            num_images_per_prompt: images per condition.
            sampling: complete sampling settings; None for the model's own.
            generator: one, which gives each image a seed in order; or one per image, so that it is
                the same alone or in any batch; None for images that differ with each call.
            draws: draws orders and noise in place of ``generator``; see :class:`openhart.randomness.Draws`.
            output_type: ``pil``; ``np``, (B, H, W, 3) in [0, 1]; ``pt``, (B, 3, H, W) in [0, 1]; or
                ``latent``, (B, z, h, w).
            return_dict: an object with ``images``, or a tuple.
            callback_on_step_end: diffusers' callback, called after each step as
                ``callback(pipe, step, timestep, tensors)``: timestep is the number of steps that remain. It
                may return new ``latents``.
            callback_on_step_end_tensor_inputs: names of the tensors that it gets: ``latents``, (B, z, h, w),
                0 where tokens are unknown.
            overrides: single sampling settings that replace those of ``sampling`` or of the model, such as
                ``guidance_scale`` or ``num_inference_steps``; :class:`MaskedSamplingSettings` has the list.

        Returns:
            an object with ``images``, or a tuple of them.

        Raises:
            UserError: if arguments are invalid or do not suit the model.
        """
        check_output_type(output_type)
        callbacks = Callbacks(None, callback_on_step_end, callback_on_step_end_tensor_inputs)
        settings = self.sampling_settings(sampling, **overrides)
        states = self.stream(
            prompt, class_labels=class_labels, prompt_embeds=prompt_embeds,
            prompt_attention_mask=prompt_attention_mask, negative_prompt=negative_prompt,
            negative_prompt_embeds=negative_prompt_embeds,
            negative_prompt_attention_mask=negative_prompt_attention_mask,
            max_sequence_length=max_sequence_length,
            height=height, width=width, num_images_per_prompt=num_images_per_prompt,
            sampling=settings, generator=generator, draws=draws,
        )  # fmt: skip
        steps = len(plan_steps(self.transformer.num_tokens, settings))
        images = self._finish(states, steps, callbacks, output_type)
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
        sampling: MaskedSamplingSettings | None = None,
        generator: Generators = None,
        draws: Draws | None = None,
        **overrides: Unpack[MaskedSamplingOptions],
    ) -> Generator[MaskedState, None, None]:
        """Generate images step by step; :meth:`decode_preview` makes pictures of each state.

        Arguments are checked at once, the work is done as states are taken. Closing the generator ends this
        call. The pipeline keeps nothing of a call, so several threads may stream from one pipeline.

        Args:
            prompt: as :meth:`__call__`, like all but the last.
            class_labels: labels in place of a prompt, for class-conditional models.
            prompt_embeds: context tokens (B, T, D) in place of a prompt.
            prompt_attention_mask: (B, T), true where ``prompt_embeds`` are real.
            negative_prompt: text that guidance steers away from.
            negative_prompt_embeds: context tokens in place of ``negative_prompt``.
            negative_prompt_attention_mask: their mask.
            max_sequence_length: tokens that a prompt is cut to.
            height: in pixels.
            width: in pixels.
            num_images_per_prompt: images per condition.
            sampling: complete sampling settings; None for the model's own.
            generator: one, or one per image.
            draws: draws orders and noise in place of ``generator``.
            overrides: single sampling settings that replace those of ``sampling`` or of the model.

        Returns:
            a generator of the state after each step; the last one holds the final latents.

        Raises:
            UserError: if arguments are invalid or do not suit the model.
        """
        settings = self.sampling_settings(sampling, **overrides)
        size = self.check_size(height, width)
        condition = self.encode_condition(
            prompt, class_labels, prompt_embeds, prompt_attention_mask, max_sequence_length
        )
        count = len(condition[0]) * check_count(num_images_per_prompt)
        check_images(self.memory(settings), count, size, self._execution_device)
        negative = self.encode_negative(
            len(condition[0]),
            negative_prompt,
            negative_prompt_embeds,
            negative_prompt_attention_mask,
            max_sequence_length,
        )
        condition, negative = repeat_each(condition, negative, num_images_per_prompt)
        draws = choose_draws(draws, generator, count, self._execution_device)
        return self._states(condition, negative, draws, settings)

    @torch.no_grad()
    def _states(
        self, condition: Condition, negative: Condition, draws: Draws, settings: MaskedSamplingSettings
    ) -> Generator[MaskedState, None, None]:
        try:
            yield from generate_masked(
                self.transformer, self.diffusion_head, condition, negative, draws, settings
            )
        finally:
            self.maybe_free_model_hooks()

    def check_size(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Height and width in pixels, which are the model's own.

        Raises:
            UserError: if another size is given: the learned positions fit one size only.
        """
        own = self.image_size
        size = (own[0] if height is None else height, own[1] if width is None else width)
        if size != own:
            raise UserError(
                f"this model makes images of {own[0]}×{own[1]} pixels only, got height {height!r} and width "
                f"{width!r}"
            )
        return size

    def memory(self, settings: MaskedSamplingSettings) -> MaskedMemory:
        """Estimate of the memory that images need in addition to the weights."""
        return MaskedMemory(self.transformer, self.image_tokenizer, settings.guidance_scale > 1)
