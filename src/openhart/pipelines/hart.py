"""The face of a model: load it, call it with prompts, save it."""

import inspect
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, cast

import diffusers.utils
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from pydantic import BaseModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from openhart.acceleration.levels import find_level, speed_up
from openhart.acceleration.quantized import quantize_weights
from openhart.arithmetic import fastest_dtype
from openhart.atomic import folder_filled_whole
from openhart.checks import Place, Text, Width, parse_values
from openhart.checksums import check_checksums, tell_changed, write_checksums
from openhart.conditioning.encoder import Condition, ConditionEncoder, check_embeds
from openhart.conditioning.label import LabelEncoder
from openhart.conditioning.text import TextConditionEncoder, load_text_encoder
from openhart.errors import UserError
from openhart.generation.next_scale import generate
from openhart.generation.settings import SamplingSettings
from openhart.generation.states import KnownCodes, ScaleState
from openhart.loading import (
    DTYPE_ARGUMENT,
    HUB_OPTIONS,
    LOADING_OPTIONS,
    check_files,
    check_finite,
    check_options,
    loading_parts,
    parse_dtype,
)
from openhart.memory import PictureMemory, check_pictures
from openhart.model_files import find_model, loading, read_index
from openhart.randomness import Draws, Generators, SeededDraws, expand_generators
from openhart.residual.heads import TokenResidualHead
from openhart.safety import OWN_CLASSES, refuse_code
from openhart.tokenizer.model import HybridTokenizer
from openhart.tokenizer.quantizer import MultiScaleQuantizer
from openhart.tokenizer.tiling import decode_in_tiles
from openhart.transformer.model import HartTransformer

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
NEEDED_PARTS = ("image_tokenizer", "transformer")
CONDITIONED = {"text": "text-conditional", "label": "class-conditional"}
SAVING_OPTIONS = ("safe_serialization", "variant", "max_shard_size")


class PipelineSettings(BaseModel):
    """What a pipeline keeps beside its parts."""

    text_encoder_name: Place | None = None
    max_tokens: Width = 24
    instruction: Text = ""
    sampling: dict[str, Any] | None = None


class HartPipeline(DiffusionPipeline):
    """Prompt or class label → image.

    Args:
        image_tokenizer: image ↔ features ↔ codes.
        transformer: condition and coarser scales → the next scale's codes.
        residual_head: what the last scale's codes lost, or None: pictures are the codes' alone.
        label_encoder: for models told classes.
        text_encoder: for models told texts; gives ``last_hidden_state``.
        text_tokenizer: the text encoder's.
        text_encoder_name: where the text encoder comes from (see :func:`load_text_encoder`). With a
            name it is loaded from there and not saved with the model.
        max_tokens: context tokens T of a prompt.
        instruction: text put before every prompt.
        sampling: the model's own defaults, names and values of :class:`SamplingSettings`.

    Raises:
        UserError: parts that do not fit each other.
    """

    model_cpu_offload_seq = "text_encoder->transformer"
    _optional_components = ["residual_head", "label_encoder", "text_encoder", "text_tokenizer"]  # noqa: RUF012
    _exclude_from_cpu_offload = ["image_tokenizer", "residual_head", "label_encoder"]  # noqa: RUF012

    def __init__(
        self,
        image_tokenizer: HybridTokenizer,
        transformer: HartTransformer,
        residual_head: TokenResidualHead | None = None,
        label_encoder: LabelEncoder | None = None,
        text_encoder: PreTrainedModel | None = None,
        text_tokenizer: PreTrainedTokenizerBase | None = None,
        text_encoder_name: str | None = None,
        max_tokens: int = 24,
        instruction: str = "",
        sampling: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        values: dict[str, Any] = {"text_encoder_name": text_encoder_name, "max_tokens": max_tokens}
        values |= {"instruction": instruction, "sampling": sampling}
        parse_values(PipelineSettings, values, "HartPipeline")
        _check_fit(image_tokenizer, transformer, residual_head)
        _check_condition(transformer, label_encoder, text_encoder, max_tokens)
        self.register_modules(
            image_tokenizer=image_tokenizer,
            transformer=transformer,
            residual_head=residual_head,
            label_encoder=label_encoder,
            text_encoder=text_encoder,
            text_tokenizer=text_tokenizer,
        )
        self.register_to_config(
            text_encoder_name=text_encoder_name,
            max_tokens=max_tokens,
            instruction=instruction,
            sampling=dict(sampling or {}),
        )
        self._level_sampling: dict[str, Any] = {}
        self._tile: tuple[int, int] | None = None
        self._optimized = self._quantized = False
        self.sampling_settings()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path | None = None, **kwargs: Any
    ) -> "HartPipeline":
        """Load a model.

        Args:
            pretrained_model_name_or_path: a folder or a hub id; None for the packaged model.
            kwargs: ``dtype``, a dtype or its name; for the hub ``revision``, ``token``, ``cache_dir``,
                ``local_files_only`` and ``force_download`` (all but ``revision`` for the text encoder too);
                ``variant`` of the weight files; what :meth:`diffusers.DiffusionPipeline.from_pretrained`
                takes to place and quantize weights, such as ``device_map``; or a part or setting of the
                pipeline to use instead of the stored one.

        Raises:
            UserError: no such model, an argument that nothing would come of, broken weights, or a config that
                does not fit them.
        """
        settings = list(inspect.signature(cls.__init__).parameters)[1:]
        known = (*HUB_OPTIONS, *LOADING_OPTIONS, "dtype", "torch_dtype", *settings)
        refuse_code(kwargs)
        check_options("HartPipeline.from_pretrained", kwargs, known)
        check_files(kwargs)
        for name in NEEDED_PARTS:
            if name in kwargs and not isinstance(kwargs[name], nn.Module):
                raise UserError(f"{name} must be a model, got {kwargs[name]!r:.60}")
        hub = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        dtype = parse_dtype(kwargs.pop("dtype", kwargs.pop("torch_dtype", None)))
        folder = find_model(pretrained_model_name_or_path, hub)
        index = read_index(folder)
        check_index_settings(index, folder / "model_index.json")
        encoder_name = index.get("text_encoder_name")
        with loading(pretrained_model_name_or_path or folder), loading_parts():
            if encoder_name and "text_encoder" not in kwargs and not _names_part(index, "text_encoder"):
                tokenizer, encoder = load_text_encoder(encoder_name, hub | {"revision": None})
                kwargs |= {"text_encoder": encoder.to(dtype), "text_tokenizer": tokenizer}
            kwargs.setdefault("low_cpu_mem_usage", diffusers.utils.is_accelerate_available())
            changed = check_checksums(folder, parts_aside=OWN_CLASSES)
            kwargs |= {"use_safetensors": True, DTYPE_ARGUMENT: dtype}
            pipeline = super().from_pretrained(str(folder), **kwargs)
            if pipeline.text_encoder is not None:
                check_finite(pipeline.text_encoder, encoder_name or folder / "text_encoder")
        tell_changed(changed)
        return pipeline

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Save the model, whole or not at all; a text encoder that has a name stays a name.

        Args:
            save_directory: the folder, made if missing; files of another name in it stay.
            kwargs: as :meth:`diffusers.DiffusionPipeline.save_pretrained`, such as ``variant``.

        Raises:
            UserError: quantized weights, or an argument that nothing would come of.
            OSError: it cannot be written.
        """
        check_options("HartPipeline.save_pretrained", kwargs, SAVING_OPTIONS)
        check_files(kwargs)
        if self._quantized:
            raise UserError("quantized weights cannot be saved: save the model before it is quantized")
        parts = ("text_encoder", "text_tokenizer") if self.config.text_encoder_name else ()
        kept = {part: self.config[part] for part in parts}
        self.register_to_config(**dict.fromkeys(parts, (None, None)))
        try:
            with folder_filled_whole(Path(save_directory)) as folder:
                super().save_pretrained(str(folder), **kwargs)
                write_checksums(folder)
        finally:
            self.register_to_config(**kept)

    def optimize(self, level: str = "exact") -> "HartPipeline":
        """Make the pipeline faster, in place, where it is now; afterwards it only generates.

        Args:
            level: ``exact``: the same pictures up to rounding. ``fast``: bfloat16 where the device is faster
                in it than in float32, and the last scale without guidance. ``fastest``: the same, and the
                last three scales without guidance. ``docs/speed.md`` has what each gains and costs.

        Returns:
            the pipeline itself.

        Raises:
            UserError: no such level, or the weights are quantized.
        """
        chosen = find_level(level)
        if self._quantized:
            raise UserError("a pipeline with quantized weights cannot be optimized: choose one of the two")
        if chosen.low_precision and fastest_dtype(self.device) == torch.bfloat16:
            self.to(dtype=torch.bfloat16)
        self._level_sampling = dict(chosen.sampling)
        speed_up(self.image_tokenizer, self.transformer, self.residual_head)
        self._optimized = True
        return self

    def quantize(self, kind: str = "int8") -> "HartPipeline":
        """Keep the weights of transformer and residual head in eight bits; afterwards it only generates.

        Args:
            kind: ``int8`` or ``fp8``. What each costs is measured in ``docs/speed.md``.

        Returns:
            the pipeline itself.

        Raises:
            UserError: no such kind, torchao is not installed, or the pipeline is optimized.
        """
        if self._optimized:
            raise UserError("an optimized pipeline cannot be quantized: choose one of the two")
        for part in (self.transformer, self.residual_head):
            if part is not None:
                quantize_weights(part, kind)
        self._quantized = True
        return self

    def sampling_settings(self, **given: Any) -> SamplingSettings:
        """The model's sampling defaults, or the level's, with what is given (and not None) in their place.

        Raises:
            UserError: a name that is no setting, or a value that cannot be.
        """
        given = {name: value for name, value in given.items() if value is not None}
        values = {**self.config.sampling, **self._level_sampling}
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
        prompt_mask: Tensor | None = None,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        guidance_scale: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float | None = None,
        smooth: bool | None = None,
        residual_steps: int | None = None,
        use_residual: bool | None = None,
        last_scale_steps: int | None = None,
        residual_solver: str | None = None,
        residual_strength: float | None = None,
        unguided_scales: int | None = None,
        kept_tokens: Sequence[float] | None = None,
        generator: Generators = None,
        draws: Draws | None = None,
        known_codes: KnownCodes | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_scale_end: Callable[["HartPipeline", int, ScaleState], Any] | None = None,
    ) -> Any:
        """Generate images. Sampling arguments left out are the model's own defaults.

        Args:
            prompt: one text or several; an empty one means no condition.
            class_labels: instead of a prompt, for models told classes.
            prompt_embeds: instead of a prompt, context tokens (B, T, D).
            prompt_mask: (B, T) bool, true where ``prompt_embeds`` are real; None for everywhere.
            height: in pixels; the model's own unless given. Other sizes are good as far as they were trained
                (``data.buckets``).
            width: in pixels.
            num_images_per_prompt: images of each condition.
            guidance_scale: see :class:`SamplingSettings`, as the next eleven.
            top_k: codes that may be drawn; 0 for all.
            top_p: probability that may be drawn.
            temperature: divides the scores.
            smooth: mix codes instead of choosing.
            residual_steps: diffusion steps of the residual.
            use_residual: without it, the picture is the codes' alone.
            last_scale_steps: steps of the last scale.
            residual_solver: how the residual's steps are taken.
            residual_strength: share of the sampled residual that is added.
            unguided_scales: last scales that go without guidance.
            kept_tokens: share of the tokens worked out at the last scales.
            generator: one, which gives each image a seed in order; or one per image, so that it is
                the same alone or in any batch; None for images that differ with each call.
            draws: draws codes and noise in place of ``generator``; see :class:`openhart.randomness.Draws`.
            known_codes: given instead of drawn; see :class:`openhart.generation.states.KnownCodes`.
            output_type: ``pil``; ``np``, (B, H, W, 3) in [0, 1]; ``pt``, (B, 3, H, W) in [0, 1]; or
                ``latent``, features (B, z, P, P).
            return_dict: an object with ``images``, or a tuple.
            callback_on_scale_end: called after each scale with the pipeline, the scale's index and the
                :class:`ScaleState`; see :meth:`decode_preview`. If it returns False, the call ends with the
                images of that scale.

        Returns:
            an object with ``images``, or a tuple of them.

        Raises:
            UserError: arguments that cannot be, or do not suit the model.
        """
        if output_type not in OUTPUT_TYPES:
            raise UserError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}")
        if callback_on_scale_end is not None and not callable(callback_on_scale_end):
            raise UserError(f"callback_on_scale_end must be a function, got {callback_on_scale_end!r:.60}")
        states = self.stream(
            prompt, class_labels=class_labels, prompt_embeds=prompt_embeds, prompt_mask=prompt_mask,
            height=height, width=width, num_images_per_prompt=num_images_per_prompt,
            generator=generator, draws=draws, known_codes=known_codes,
            guidance_scale=guidance_scale, top_k=top_k, top_p=top_p, temperature=temperature,
            smooth=smooth, residual_steps=residual_steps, use_residual=use_residual,
            last_scale_steps=last_scale_steps, residual_solver=residual_solver,
            residual_strength=residual_strength, unguided_scales=unguided_scales, kept_tokens=kept_tokens,
        )  # fmt: skip
        with self.progress_bar(total=len(self.transformer.scales)) as bar:
            for state in states:
                bar.update()
                if callback_on_scale_end and callback_on_scale_end(self, state.scale_index, state) is False:
                    states.close()
        images = self._finish(state.f_hat, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @torch.no_grad()
    def stream(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        class_labels: int | Sequence[int] | Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        draws: Draws | None = None,
        known_codes: KnownCodes | None = None,
        **sampling: Any,
    ) -> Generator[ScaleState, None, None]:
        """Generate images scale by scale; :meth:`decode_preview` makes pictures of each state.

        Arguments are checked at once, the work is done as states are taken. Closing the generator ends this
        call. The pipeline keeps nothing of a call, so several threads may stream from one pipeline; each gets
        the images that it would get alone.

        Args:
            prompt: as :meth:`__call__`, like all but the last.
            class_labels: instead of a prompt, for class-conditional models.
            prompt_embeds: instead of a prompt, context tokens (B, T, D).
            prompt_mask: (B, T) bool, true where ``prompt_embeds`` are real.
            height: in pixels.
            width: in pixels.
            num_images_per_prompt: images per condition.
            generator: one, or one per image.
            draws: draws codes and noise in place of ``generator``.
            known_codes: codes that are given instead of drawn.
            sampling: settings of :class:`SamplingSettings` in place of the model's defaults; None leaves one.

        Returns:
            a generator of the state after each scale; the last one holds the final features.

        Raises:
            UserError: arguments that cannot be, or do not suit the model.
        """
        if type(num_images_per_prompt) is not int or num_images_per_prompt < 1:
            raise UserError(f"num_images_per_prompt must be at least 1, got {num_images_per_prompt!r}")
        settings = self.sampling_settings(**sampling)
        size = self.check_size(height, width)
        quantizer = self.image_tokenizer.at(size).quantizer
        self.transformer.check_scales(quantizer.scales)
        condition = self.encode_condition(prompt, class_labels, prompt_embeds, prompt_mask)
        count = len(condition[0]) * num_images_per_prompt
        check_pictures(self.memory(settings), count, size, self._execution_device)
        context, mask = (part.repeat_interleave(num_images_per_prompt, 0) for part in condition)
        if draws is None:
            draws = SeededDraws(expand_generators(generator, count, self._execution_device))
        elif generator is not None:
            raise UserError("give generator or draws, not both")
        return self._states((context, mask), quantizer, draws, settings, known_codes)

    @torch.no_grad()
    def _states(
        self,
        condition: Condition,
        quantizer: MultiScaleQuantizer,
        draws: Draws,
        settings: SamplingSettings,
        known: KnownCodes | None,
    ) -> Generator[ScaleState, None, None]:
        states = generate(
            self.transformer,
            quantizer,
            self.residual_head,
            condition,
            self._empty_condition(),
            draws,
            settings,
            known,
        )
        try:
            yield from states
        finally:
            self.maybe_free_model_hooks()

    def check_size(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Height and width in pixels, the model's own where they are None.

        Raises:
            UserError: they are no whole numbers of pixels.
        """
        own = self.image_tokenizer.image_size
        size = (own[0] if height is None else height, own[1] if width is None else width)
        if any(type(side) is not int or side < 1 for side in size):
            raise UserError(f"height and width must be whole numbers of pixels, got {height!r} and {width!r}")
        return size

    def memory(self, settings: SamplingSettings) -> PictureMemory:
        """What pictures take beside the weights."""
        guided, tile = settings.guidance_scale > 0, self._tile
        return PictureMemory(self.transformer, self.image_tokenizer, guided, tile and tile[0])

    @property
    def condition_encoder(self) -> ConditionEncoder:
        """What encodes prompts or class labels: the text encoder with its tokenizer, or the label encoder."""
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
        prompt_mask: Tensor | None = None,
    ) -> Condition:
        """Encode exactly one of the three as context (B, T, D) and mask (B, T) bool.

        Raises:
            UserError: none of them, several, or one that does not suit the model.
        """
        values = {"prompt": prompt, "class_labels": class_labels, "prompt_embeds": prompt_embeds}
        given = [name for name, value in values.items() if value is not None]
        if len(given) != 1:
            raise UserError("pass exactly one of prompt, class_labels and prompt_embeds")
        if prompt_mask is not None and prompt_embeds is None:
            raise UserError("prompt_attention_mask goes with prompt_embeds")
        encoder = self.condition_encoder
        if prompt_embeds is not None:
            return self._placed(check_embeds(prompt_embeds, prompt_mask, encoder))
        if given[0] != encoder.argument:
            raise UserError(
                f"this model is {CONDITIONED[encoder.kind]}: pass {encoder.argument} instead of {given[0]}"
            )
        return self._placed(encoder.encode(values[encoder.argument]))

    def _placed(self, condition: Condition) -> Condition:
        device = self._execution_device
        return condition[0].to(device), condition[1].to(device)

    def _empty_condition(self) -> Condition:
        """The token that fills the empty condition, (1, 1, D), and its mask."""
        context, mask = self._placed(self.condition_encoder.empty(1))
        return context[:, :1], mask[:, :1]

    def decode_preview(self, state: ScaleState) -> list[Any]:
        """The pictures, as PIL images, that the scales so far amount to."""
        return self._finish(state.f_hat, "pil")

    def enable_tiling(self, tile: int = 1024, overlap: int = 128) -> None:
        """Decode images larger than a tile in parts, in memory that does not grow with them.

        Args:
            tile: side in pixels.
            overlap: pixels that neighbouring tiles share and blend in.

        Raises:
            UserError: tiles that do not exceed their overlap, or the model's patches.
        """
        factor = self.image_tokenizer.downsample_factor
        if type(tile) is not int or type(overlap) is not int:
            raise UserError(f"tile and overlap must be whole numbers of pixels, got {tile!r} and {overlap!r}")
        if not factor <= tile or not 0 <= overlap < tile:
            raise UserError(
                f"a tile must be at least {factor} pixels and larger than its overlap, "
                f"got {tile} and {overlap}"
            )
        self._tile = tile // factor, overlap // factor

    def disable_tiling(self) -> None:
        """Decode every image whole again."""
        self._tile = None

    def _decode(self, features: Tensor) -> Tensor:
        if self._tile is None:
            return self.image_tokenizer.decode(features)
        return decode_in_tiles(self.image_tokenizer, features, *self._tile)

    @torch.no_grad()
    def _finish(self, features: Tensor, output_type: str) -> Any:
        if output_type == "latent":
            return features
        images = (self._decode(features).float() / 2 + 0.5).clamp(0, 1)
        if not images.isfinite().all():
            raise UserError(
                f"the picture is not finite: the model's weights are broken, or too large for "
                f"{self.image_tokenizer.dtype}"
            )
        if output_type == "pt":
            return images
        arrays = images.permute(0, 2, 3, 1).cpu().numpy()
        return arrays if output_type == "np" else self.numpy_to_pil(arrays)


def check_index_settings(index: dict[str, Any], path: Path) -> None:
    """Hold a ``model_index.json`` against what a pipeline has.

    Raises:
        UserError: an unknown name, or a value that cannot be.
    """
    settings = PipelineSettings.model_fields
    known = {*inspect.signature(HartPipeline.__init__).parameters, "self"}
    for name, value in index.items():
        if name.startswith("_"):
            continue
        if name not in known:
            raise UserError(f"{path} has an unknown setting {name}")
        if name not in settings and not _is_part(value, name not in NEEDED_PARTS):
            raise UserError(f"{path}: {name} must name a module and a class, got {value!r:.60}")
    if missing := [name for name in NEEDED_PARTS if name not in index]:
        raise UserError(f"{path}: {missing[0]} is missing")
    given = parse_values(PipelineSettings, {n: index[n] for n in settings if n in index}, str(path))
    try:
        SamplingSettings(**(given.sampling or {}))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _is_part(value: Any, may_be_none: bool) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    return all(isinstance(word, str) for word in value) or (may_be_none and value == [None, None])


def _names_part(index: dict[str, Any], part: str) -> bool:
    value = index.get(part)
    return isinstance(value, list) and value[0] is not None


def _check_fit(
    image_tokenizer: HybridTokenizer,
    transformer: HartTransformer,
    residual_head: TokenResidualHead | None,
) -> None:
    quantizer, config = image_tokenizer.quantizer, transformer.config
    table = quantizer.codebook
    sides = [
        ("scales", quantizer.scales, transformer.scales),
        ("codebook_size", table.num_embeddings, config.codebook_size),
        ("code_dim", table.embedding_dim, config.code_dim),
    ]
    if residual_head is not None:
        sides += [
            ("residual head's code_dim", table.embedding_dim, residual_head.config.code_dim),
            ("residual head's condition_dim", config.width, residual_head.config.condition_dim),
        ]
    for name, wanted, got in sides:
        if wanted != got:
            raise UserError(f"the model's parts do not fit: {name} must be {wanted}, got {got}")


def _check_condition(
    transformer: HartTransformer,
    label_encoder: LabelEncoder | None,
    text_encoder: PreTrainedModel | None,
    max_tokens: int,
) -> None:
    config = transformer.config
    sides = []
    if label_encoder is not None:
        sides = [
            ("label encoder's dim", config.context_dim, label_encoder.dim),
            ("context_tokens", label_encoder.tokens, config.context_tokens),
        ]
    elif text_encoder is not None:
        width = getattr(text_encoder.config, "hidden_size", config.context_dim)
        sides = [
            ("text encoder's width", config.context_dim, width),
            ("max_tokens", config.context_tokens, max_tokens),
        ]
    for name, wanted, got in sides:
        if wanted != got:
            raise UserError(f"the model's parts do not fit: {name} must be {wanted}, got {got}")
