"""What each command does; heavy imports wait until what was asked for is known to make sense."""

import re
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from openhart.atomic import check_writable, written_whole
from openhart.cli_checks import UsageError, in_flags
from openhart.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
IMAGES_AT_A_TIME = 8
MOST_IMAGES = 100_000
LONGEST_NAME = 100  # bytes, so that a number and a suffix may follow
DEVICES = ("cpu", "cuda", "mps", "xpu")


def generate(options: Namespace) -> None:
    """``openhart generate``: images of prompts or classes into a folder or a file."""
    conditions = _conditions(options)
    if options.optimize and options.weights:
        raise UsageError("give --optimize or --weights, not both")
    sampling = _sampling(options)
    paths = _image_paths(options, [name for name, _ in conditions])
    import torch

    device, dtype = _device(options.device), getattr(torch, options.dtype)
    from openhart.pipelines.hart import HartPipeline

    pipeline = HartPipeline.from_pretrained(options.model, dtype=dtype)
    _check_kind(pipeline, options)
    if options.lora is not None:
        pipeline.load_lora_weights(options.lora)
    pipeline.to(device)
    if options.optimize:
        pipeline.optimize(options.optimize)
    if options.weights:
        pipeline.quantize(options.weights)
    pipeline.set_progress_bar_config(disable=options.quiet, leave=False)
    first = torch.seed() % 2**32 if options.seed is None else options.seed
    jobs = [(value, first + number) for _, value in conditions for number in range(options.images_per_prompt)]
    together = _images_at_a_time(pipeline, options, sampling)
    for start in range(0, len(jobs), together):
        part = jobs[start : start + together]
        made = _pictures(pipeline, part, options, sampling)
        for path, (_, seed), (image, strip) in zip(paths[start:], part, made, strict=False):
            _save_image(image, path)
            if strip is not None:
                _save_image(strip, path.with_name(f"{path.stem}-previews.png"))
            if not options.quiet:
                print(f"{path}  seed {seed}")


def _check_kind(pipeline: Any, options: Namespace) -> None:
    encoder = pipeline.condition_encoder
    if options.label and encoder.argument != "class_labels":
        raise UserError("this model takes prompts: give a prompt instead of --label")
    if options.prompts and encoder.argument != "prompt":
        count = encoder.num_classes
        raise UserError(f"this model takes classes: give --label 0 … {count - 1} instead of a prompt")


def _images_at_a_time(pipeline: Any, options: Namespace, sampling: dict[str, Any]) -> int:
    """As many as fit the memory, at least one, which the pipeline then refuses if it does not."""
    from openhart.memory import free_memory, most

    size = pipeline.check_size(options.height, options.width)
    memory = pipeline.memory(pipeline.sampling_settings(**sampling))
    free = free_memory(pipeline.device)
    if free is None:
        return IMAGES_AT_A_TIME
    return max(1, most(lambda count: memory.of(count, size) <= free, IMAGES_AT_A_TIME))


def _conditions(options: Namespace) -> list[tuple[str, Any]]:
    """Name and prompt, or name and class, of everything asked for."""
    if options.prompts and options.label:
        raise UsageError("give prompts or --label, not both")
    if not options.prompts and not options.label:
        raise UsageError('give a prompt, as in: openhart generate "a red apple"')
    if options.label:
        return [(f"class-{label}", label) for label in options.label]
    return [(_slug(prompt), prompt) for prompt in options.prompts]


def _slug(prompt: str) -> str:
    words = re.sub(r"[\W_]+", "-", prompt[:1000].lower()).strip("-")[:60]
    return words.encode()[:LONGEST_NAME].decode(errors="ignore").strip("-") or "unconditional"


def _sampling(options: Namespace) -> dict[str, Any]:
    from openhart.generation.settings import SAMPLING

    values = {name: getattr(options, name, None) for name in SAMPLING}
    given = {name: value for name, value in values.items() if value is not None}
    if given:
        from openhart.generation.settings import SamplingSettings

        try:
            SamplingSettings(**given)
        except UserError as error:
            raise UsageError(in_flags(str(error))) from error
    return given


def _image_paths(options: Namespace, names: list[str]) -> list[Path]:
    """Where each image goes, no two in the same place.

    Raises:
        UsageError: several images for one file, or a suffix that is no image's.
        OSError: nothing can be written there.
    """
    output, each = options.output, options.images_per_prompt
    if len(names) * each > MOST_IMAGES:
        raise UsageError(f"{len(names) * each} images are too many for one command: ask for {MOST_IMAGES}")
    is_file = (output.exists() and not output.is_dir()) or (bool(output.suffix) and not output.is_dir())
    if is_file:
        if len(names) * each > 1:
            raise UsageError(f"{len(names) * each} images need a folder, but {output} is a file")
        _check_image_path(output)
        return [output]
    check_writable(output)
    return [output / f"{name}.png" for name in distinct(names, each)]


def distinct(names: list[str], each: int) -> Iterator[str]:
    """Each name as often as asked for, numbered where it, or that of its previews, is taken."""
    taken: set[str] = set()
    numbers: dict[str, int] = {}
    for name in (name for name in names for _ in range(each)):
        chosen = name
        while taken & {chosen, f"{chosen}-previews"}:
            numbers[name] = numbers.get(name, 1) + 1
            chosen = f"{name}-{numbers[name]}"
        taken |= {chosen, f"{chosen}-previews"}
        yield chosen


def _check_image_path(path: Path) -> None:
    regular = path.is_file() or not path.exists()
    if regular and path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"an image file ends in {', '.join(SUFFIXES)}, got {path}")
    if path.is_dir():
        raise UsageError(f"{path} is a folder, a file is needed")
    if regular:
        check_writable(path.parent)


def _device(name: str | None) -> Any:
    import torch

    if name is None:
        accelerators = (("cuda", torch.cuda), ("mps", torch.backends.mps))
        name = next((kind for kind, there in accelerators if there.is_available()), "cpu")
    try:
        if torch.device(name).type not in DEVICES:
            raise NotImplementedError
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"there is no device {name!r} here: use --device cpu") from error
    return torch.device(name)


def _pictures(
    pipeline: Any, jobs: list[tuple[Any, int]], options: Namespace, sampling: dict[str, Any]
) -> list[tuple[Any, Any]]:
    """Each job's image, and the strip of its previews or None."""
    import torch

    conditions = [value for value, _ in jobs]
    steps: list[list[Any]] = []

    def keep_preview(pipe: Any, scale: int, state: Any) -> None:
        steps.append(pipe.decode_preview(state))

    try:
        images = pipeline(
            **{"class_labels" if options.label else "prompt": conditions},
            generator=[torch.Generator().manual_seed(seed) for _, seed in jobs],
            height=options.height,
            width=options.width,
            callback_on_scale_end=keep_preview if options.previews else None,
            **sampling,
        ).images
    except UserError as error:
        raise UserError(in_flags(str(error))) from error
    strips = [_side_by_side(list(row)) for row in zip(*steps, strict=True)]
    return list(zip(images, strips or [None] * len(images), strict=True))


def _side_by_side(images: list[Any]) -> Any:
    from PIL import Image

    sheet = Image.new("RGB", (sum(image.width for image in images), images[0].height))
    left = 0
    for image in images:
        sheet.paste(image, (left, 0))
        left += image.width
    return sheet


def _save_image(image: Any, path: Path) -> None:
    kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}.get(path.suffix.lower(), "PNG")
    with written_whole(path) as temporary, temporary.open("wb") as file:
        image.save(file, kind)


def reconstruct(options: Namespace) -> None:
    """``openhart reconstruct``: an image beside what the image tokenizer makes of it."""
    _check_image_path(options.output)
    import torch
    from PIL import Image

    from openhart.data.decoding import read_image
    from openhart.data.images import to_tensor
    from openhart.evaluation.metrics.distances import psnr
    from openhart.model_files import load_image_tokenizer

    image = read_image(options.image)
    tokenizer = load_image_tokenizer(options.model)
    height, width = tokenizer.image_size
    if image.size != (width, height):
        print(
            f"{options.image} is {image.width}×{image.height}: its middle was resized to "
            f"{width}×{height}, what the model takes"
        )
    original = to_tensor(image, tokenizer.image_size)[None]
    with torch.no_grad():
        made = tokenizer(original, discrete=options.discrete or not tokenizer.hybrid).sample
    pair = torch.cat([original, made], dim=3)[0]
    if not pair.isfinite().all():
        raise UserError("the reconstruction is not finite: the image tokenizer's weights are broken")
    array = ((pair + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    _save_image(Image.fromarray(array), options.output)
    print(f"{options.output}  PSNR {float(psnr(made, original)):.2f} dB")


def info(options: Namespace) -> None:
    """``openhart info``: what a model is made of, read off its files."""
    from openhart.checks import check_settings
    from openhart.generation.saved import present_index
    from openhart.loading import read_config
    from openhart.model_files import find_model, read_index, read_licence, read_parts
    from openhart.pipelines.checks import check_index_settings
    from openhart.scales import parse_scales
    from openhart.tokenizer.model import HybridTokenizer

    folder = find_model(options.model)
    index = read_index(folder)
    check_index_settings(index, folder / "model_index.json")
    parts = read_parts(folder)
    where = folder / "image_tokenizer"
    tokenizer = check_settings(HybridTokenizer, read_config(where), str(where / "config.json"))
    factor = tokenizer["patch_size"] * 2 ** (len(tokenizer["channel_multipliers"]) - 1)
    height, width = parse_scales(tokenizer["scales"])[-1]
    print(f"model      {folder}")
    for part in parts:
        print(f"{part.name:16} {part.kind:20} {part.parameters:>13,} parameters  {part.dtype}")
    print(f"{'in all':37} {sum(part.parameters for part in parts):>13,} parameters")
    print(f"scales     {', '.join(str(side) for side in tokenizer['scales'])}")
    print(f"image      {height * factor}×{width * factor} pixels")
    print(f"codes      {tokenizer['codebook_size']:,} of {tokenizer['code_dim']} channels")
    if index.get("text_encoder_name"):
        print(f"text       {index['text_encoder_name']}, {index.get('max_tokens')} tokens")
    print(f"sampling   {present_index(index).get('sampling') or 'defaults'}")
    print(f"licence    {read_licence(folder) or 'not stated'}")


def convert(options: Namespace) -> None:
    """``openhart convert``: released weights to a model folder."""
    check_writable(options.target)
    if options.kind == "hart":
        from openhart.conversion.hart import convert_hart

        convert_hart(
            options.source,
            options.target,
            weights=options.weights,
            text_encoder=options.text_encoder,
            instruction=options.instruction,
        )
    else:
        from openhart.conversion.var import convert_var

        convert_var(options.vae, options.transformer, options.target, scales=options.scales)
    print(options.target)


def data(options: Namespace) -> None:
    """``openhart data``: the corpora of the default model, or a recipe's data encoded once."""
    if options.kind == "cache":
        _cache(options)
        return
    check_writable(options.folder)
    choices = {"styles": options.styles, "packages": options.packages}
    given = {name: value for name, value in choices.items() if value is not None}
    given |= {"size": options.size, "quiet": options.quiet}
    if options.kind == "scenes":
        from openhart.data.emoji.build_scenes import build_scenes

        if options.seed < 0:
            raise UsageError(f"--seed must not be negative, got {options.seed}")
        given |= {name: getattr(options, name) for name in ("count", "unseen", "seed")}
        counts = build_scenes(options.folder, **given)
    else:
        from openhart.data.emoji.build import build_emoji_corpus

        counts = build_emoji_corpus(options.folder, **given)
    if not options.quiet:
        print(", ".join(f"{name}: {count}" for name, count in counts.items()))


def _cache(options: Namespace) -> None:
    recipe = _recipe(options, "generator")
    if isinstance(recipe.cache, str):
        check_writable(Path(recipe.cache))
    from openhart.training.generator.data import fill_cache

    folder, count = fill_cache(options.recipe, options.overrides, quiet=options.quiet)
    if not options.quiet:
        print(f"{folder}  {count:,} samples")


def train(options: Namespace) -> None:
    """``openhart train``: a recipe's run, from the start or from where it stopped."""
    recipe = _recipe(options, options.kind)
    if options.dry_run:
        from openhart.training.dry_run import dry_run

        print(dry_run(options.recipe, options.kind, options.overrides, options.gpus, options.gpu_memory))
        return
    if options.plot:
        if options.plot.suffix.lower() not in (".png", ".pdf", ".svg"):
            raise UsageError(f"--plot must name a file that ends in .png, .pdf or .svg, got {options.plot}")
        from openhart.training.run.history import plot

        plot(Path(recipe.run.output), options.plot)
        return
    if options.kind == "tokenizer":
        from openhart.training.tokenizer.train import train as run
    else:
        from openhart.training.generator.train import train as run
    folder = run(options.recipe, options.overrides, quiet=options.quiet)
    if not options.quiet:
        print(folder)


def _recipe(options: Namespace, stage: str) -> Any:
    """The recipe, checked; one that is spoilt by its overrides alone is wrong usage."""
    _need_extra("train", "accelerate", "pydantic", "yaml")
    from openhart.training.config import GeneratorRecipe, TokenizerRecipe, load_recipe

    kind: Any = TokenizerRecipe if stage == "tokenizer" else GeneratorRecipe
    try:
        return load_recipe(options.recipe, kind, options.overrides)
    except UserError as error:
        load_recipe(options.recipe, kind)
        raise UsageError(str(error)) from error


def _need_extra(extra: str, *packages: str) -> None:
    from importlib.util import find_spec

    if missing := [package for package in packages if find_spec(package) is None]:
        raise UserError(f"{', '.join(missing)} missing: pip install 'openhart[{extra}]'")


COMMANDS: dict[str, Callable[[Namespace], None]] = {
    "generate": generate,
    "reconstruct": reconstruct,
    "info": info,
    "convert": convert,
    "data": data,
    "train": train,
}
