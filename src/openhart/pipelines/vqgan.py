"""Diffusers pipeline for VQGAN: one code after the other, in raster order (arXiv 2012.09841)."""

from collections.abc import Generator, Sequence
from typing import Any, Unpack

import torch
from diffusers import ImagePipelineOutput
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from openhart.checks import parse_values
from openhart.conditioning.label import LabelEncoder
from openhart.generation.raster import RasterState, check_map, generate
from openhart.generation.raster_settings import RASTER_SAMPLING, RasterOptions, RasterSampling
from openhart.generation.saved import VERSION, VERSION_KEY
from openhart.generation.settings import given_overrides, values_of
from openhart.generation.states import KnownCodes
from openhart.memory import RasterMemory, check_images
from openhart.pipelines.acceleration import AcceleratedPipeline
from openhart.pipelines.callbacks import TENSOR_INPUTS, Callbacks, StepCallback
from openhart.pipelines.checks import LAYOUTS, PipelineSettings, check_condition, check_vqgan_fit
from openhart.pipelines.code_conditions import CodeConditionedPipeline
from openhart.pipelines.conditions import check_count
from openhart.pipelines.files import PipelineFiles
from openhart.pipelines.images import TilingPipeline, check_output_type
from openhart.pipelines.lora import LoraPipeline
from openhart.randomness import Draws, Generators, choose_draws
from openhart.tokenizer.vqgan import VqganTokenizer
from openhart.transformer.raster import RasterTransformer


class VqganPipeline(
    CodeConditionedPipeline, AcceleratedPipeline, TilingPipeline, LoraPipeline, PipelineFiles
):
    """Generates images code by code, from nothing, class labels, prompts, or another map of codes.

    A model of one class is unconditional: it needs no label. A model without a label encoder and a text
    encoder is conditioned on codes, such as those of a segmentation or a depth map.

    Args:
        image_tokenizer: decodes codes into images.
        transformer: predicts each code from the condition and the codes before it.
        condition_tokenizer: encodes an image-like condition as codes; None for a model without such a
            condition, or to encode it by ``image_tokenizer``.
        label_encoder: the condition encoder of a class-conditional or unconditional model.
        text_encoder: the text encoder of a text-conditional model, whose output has ``last_hidden_state``.
        text_tokenizer: the text encoder's tokenizer.
        text_encoder_name: the name from which the text encoder was loaded
            (:func:`openhart.conditioning.text.load_text_encoder`). An encoder with a name is not saved with
            the model, but loaded by its name again.
        max_tokens: context tokens T of a prompt; None for the number that the transformer takes.
        instruction: text that is read before every prompt.
        sampling: the model's own defaults of :class:`RasterSampling`, by name.

    Raises:
        UserError: if the parts do not fit each other, or if a setting has a wrong value.
    """

    family = "VqganPipeline"
    layout = LAYOUTS["VqganPipeline"]
    model_cpu_offload_seq = "text_encoder->transformer"
    _optional_components = list(layout.optional)  # noqa: RUF012
    _exclude_from_cpu_offload = ["image_tokenizer", "condition_tokenizer", "label_encoder"]  # noqa: RUF012
    _callback_tensor_inputs = TENSOR_INPUTS

    def __init__(
        self,
        image_tokenizer: VqganTokenizer,
        transformer: RasterTransformer,
        condition_tokenizer: VqganTokenizer | None = None,
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
        check_vqgan_fit(image_tokenizer, transformer)
        check_condition(transformer, label_encoder, text_encoder, values["max_tokens"])
        self.register_modules(
            image_tokenizer=image_tokenizer,
            transformer=transformer,
            condition_tokenizer=condition_tokenizer,
            label_encoder=label_encoder,
            text_encoder=text_encoder,
            text_tokenizer=text_tokenizer,
        )
        self.register_to_config(**values | {"sampling": dict(sampling or {}), VERSION_KEY: VERSION})
        self.sampling_settings()

    def sampling_settings(
        self, sampling: RasterSampling | None = None, **overrides: Unpack[RasterOptions]
    ) -> RasterSampling:
        """Sampling settings of a call.

        Args:
            sampling: complete settings; None for the model's defaults.
            overrides: single settings that replace theirs; None replaces nothing.

        Raises:
            UserError: if there is no such setting, or if a value is outside its range.
        """
        values = values_of(RasterSampling, sampling, self.config.sampling)
        return RasterSampling(**(values | given_overrides(overrides, RASTER_SAMPLING)))

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        class_labels: int | Sequence[int] | Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        condition_image: Tensor | None = None,
        condition_codes: Tensor | None = None,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        sampling: RasterSampling | None = None,
        generator: Generators = None,
        draws: Draws | None = None,
        known_codes: KnownCodes | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **overrides: Unpack[RasterOptions],
    ) -> Any:
        """Generate images.

        Args:
            prompt: one text or B texts, for text-conditional models.
            class_labels: one label or B labels, for class-conditional models.
            prompt_embeds: context tokens (B, T, D) in place of a prompt.
            condition_image: (B, channels, H, W) in [−1, 1], or in [0, 1] for maps with one channel per class,
                for models conditioned on codes.
            condition_codes: its codes instead, (B, h, w), or (B, T) where they are no map.
            height: in pixels; None for the model's own. A larger image is drawn through a sliding window,
                which needs a condition that is a map of the same size.
            width: in pixels.
            num_images_per_prompt: images per condition.
            sampling: complete sampling settings; None for the model's own.
            generator: one, which gives each image a seed in order; or one per image, so that it is
                the same alone or in any batch; None for images that differ with each call.
            draws: draws codes in place of ``generator``; see :class:`openhart.randomness.Draws`.
            known_codes: given instead of drawn; see :class:`openhart.generation.states.KnownCodes`. A model
                of one map has one entry of codes and of masks.
            output_type: ``pil``; ``np``, (B, H, W, 3) in [0, 1]; ``pt``, (B, 3, H, W) in [0, 1]; or
                ``latent``, the codes' vectors (B, z, h, w).
            return_dict: an object with ``images``, or a tuple.
            callback_on_step_end: diffusers' callback, called after each row as
                ``callback(pipe, step, timestep, tensors)``: timestep is the number of rows that remain. New
                ``latents`` that it returns after the last row replace the features of the image.
            callback_on_step_end_tensor_inputs: names of the tensors that it gets: ``latents``, the codes'
                vectors (B, z, h, w), 0 below this row.
            overrides: single sampling settings that replace those of ``sampling`` or of the model, such as
                ``top_k``; :class:`RasterSampling` has the list.

        Returns:
            an object with ``images``, or a tuple of them.

        Raises:
            UserError: if arguments have wrong values, or do not suit the model.
        """
        check_output_type(output_type)
        callbacks = Callbacks(None, callback_on_step_end, callback_on_step_end_tensor_inputs)
        states = self.stream(
            prompt, class_labels=class_labels, prompt_embeds=prompt_embeds,
            condition_image=condition_image, condition_codes=condition_codes,
            height=height, width=width, num_images_per_prompt=num_images_per_prompt,
            sampling=sampling, generator=generator, draws=draws, known_codes=known_codes, **overrides,
        )  # fmt: skip
        rows = self.image_tokenizer.scales_for_image(self.check_size(height, width))[-1][0]
        images = self._finish(states, rows, callbacks, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @torch.no_grad()
    def stream(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        class_labels: int | Sequence[int] | Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        condition_image: Tensor | None = None,
        condition_codes: Tensor | None = None,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        sampling: RasterSampling | None = None,
        generator: Generators = None,
        draws: Draws | None = None,
        known_codes: KnownCodes | None = None,
        **overrides: Unpack[RasterOptions],
    ) -> Generator[RasterState, None, None]:
        """Generate images row by row; :meth:`decode_preview` makes pictures of each state.

        Arguments are checked at once, the work is done as states are taken. Closing the generator ends this
        call. The pipeline keeps nothing of a call, so several threads may stream from one pipeline.

        Args:
            prompt: as :meth:`__call__`, like all but the last.
            class_labels: one label or B labels, for class-conditional models.
            prompt_embeds: context tokens (B, T, D) in place of a prompt.
            condition_image: for models conditioned on codes.
            condition_codes: its codes instead.
            height: in pixels.
            width: in pixels.
            num_images_per_prompt: images per condition.
            sampling: complete sampling settings; None for the model's own.
            generator: one, or one per image.
            draws: draws codes in place of ``generator``.
            known_codes: codes that are given instead of drawn.
            overrides: single sampling settings that replace those of ``sampling`` or of the model.

        Returns:
            a generator of the state after each row of codes; the last one holds the complete map.

        Raises:
            UserError: if arguments have wrong values, or do not suit the model.
        """
        times = check_count(num_images_per_prompt)
        settings = self.sampling_settings(sampling, **overrides)
        size = self.check_size(height, width)
        map_size = self.image_tokenizer.scales_for_image(size)[-1]
        context = self.encode_context(prompt, class_labels, prompt_embeds, condition_image, condition_codes)
        check_map(self.transformer, context, map_size)
        empty = self.encode_negative(len(context))[0] if settings.guidance_scale > 1 else None
        count = len(context) * times
        check_images(self.memory(settings), count, size, self._execution_device)
        draws = choose_draws(draws, generator, count, self._execution_device)
        context = context.repeat_interleave(times, 0)
        return self._states(context, empty, draws, settings, known_codes, map_size)

    @torch.no_grad()
    def _states(
        self,
        context: Tensor,
        empty: Tensor | None,
        draws: Draws,
        settings: RasterSampling,
        known: KnownCodes | None,
        size: tuple[int, int],
    ) -> Generator[RasterState, None, None]:
        quantizer = self.image_tokenizer.quantizer
        try:
            yield from generate(self.transformer, quantizer, context, empty, draws, settings, known, size)
        finally:
            self.maybe_free_model_hooks()

    def memory(self, settings: RasterSampling) -> RasterMemory:
        """What images take beside the weights."""
        guided, tile = settings.guidance_scale > 1, self._tile
        return RasterMemory(self.transformer, self.image_tokenizer, guided, tile and tile[0])
