"""What a recipe needs before it runs: parameters, tokens, FLOPs and memory of a step."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openhart.errors import UserError
from openhart.loading import read_config
from openhart.lora import add_lora
from openhart.reading import read_json
from openhart.training.build import build_model
from openhart.training.generator.build import transformer_settings
from openhart.training.generator.data import check_tokenizer_kind, open_conditions
from openhart.training.generator.families import open_family
from openhart.training.generator.recipe import GeneratorRecipe
from openhart.training.recipes import load_recipe
from openhart.training.run.flops import FLOAT, Cost, Counter
from openhart.training.run.settings import Run
from openhart.training.tokenizer.cost import tokenizer_phase_cost
from openhart.training.tokenizer.discriminator import PatchDiscriminator
from openhart.training.tokenizer.kinds import open_bottleneck
from openhart.training.tokenizer.recipe import TokenizerRecipe
from openhart.transformer.block import Block

GIB = 2**30
NAMES = {"encoder": "condition encoder", "alignment": "embedding losses"}
"""What a report calls some of the trained parts."""


@dataclass(frozen=True)
class Report:
    """What a step of a recipe needs.

    Attributes:
        parts: number of parameters of each part.
        trained: parameters with a gradient.
        frozen: parameters of the generator's image tokenizer, which has no gradient.
        tokens: codes per sample.
        seen: codes per sample that an average step trains on.
        batch: samples per GPU and pass.
        passes: passes per step (gradient accumulation).
        flops: of one pass on one GPU.
        kept: bytes of activations of one pass on one GPU.
        gpus: number of GPUs that share the samples of a step.
        gathered: bytes of full weights that a GPU holds at a time if they are sharded (FSDP2), else None.
    """

    parts: dict[str, int]
    trained: int
    frozen: int
    tokens: int
    seen: int
    batch: int
    passes: int
    flops: int
    kept: int
    gpus: int
    gathered: int | None = None

    @property
    def memory(self) -> dict[str, float]:
        """GiB per GPU by purpose, at most; accumulated gradients are not sharded."""
        ours, spread = sum(self.parts.values()), self.gpus if self.gathered is not None else 1
        found = {
            "weights": (ours / spread + self.frozen) * FLOAT,
            "gradients": self.trained / (spread if self.passes == 1 else 1) * FLOAT,
            "optimizer": 2 * self.trained / spread * FLOAT,
            "average": ours / spread * FLOAT,
            "activations": self.kept,
        }
        if self.gathered is not None:
            found["gathered"] = self.gathered
        return {name: size / GIB for name, size in found.items()}

    @property
    def samples(self) -> int:
        """Samples per step on all GPUs."""
        return self.batch * self.passes * self.gpus

    def row(self) -> str:
        """One line of a README's table: parameters, tokens, samples, FLOPs and memory."""
        values = (
            f"{sum(self.parts.values()) / 1e6:.1f} M",
            f"{self.tokens:,}",
            str(self.samples),
            f"{self.flops * self.passes * self.gpus:.2e}",
            f"{sum(self.memory.values()):.1f} GiB",
        )
        return "| " + " | ".join(values) + " |"

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {count:,}" for name, count in self.parts.items())
        memory = " + ".join(f"{name} {size:.2f}" for name, size in self.memory.items())
        seen = "" if self.seen == self.tokens else f", of which an average step trains on {self.seen:,}"
        return (
            f"parameters  {parts}; {self.trained:,} trained\n"
            f"tokens      {self.tokens:,} per sample{seen}\n"
            f"samples     {self.samples} per step: {self.batch} × {self.passes} on {self.gpus} GPU"
            f"{'s' if self.gpus > 1 else ''}\n"
            f"FLOPs       {self.flops * self.passes * self.gpus:.3e} per step\n"
            f"memory      {memory} = {sum(self.memory.values()):.2f} GiB per GPU\n"
            f"table       {self.row()}"
        )


def dry_run(
    path: Path, kind: str, overrides: list[str] | None = None, gpus: int = 1, gpu_memory: float | None = None
) -> Report:
    """Build a recipe's models on the meta device and count what a step needs.

    Args:
        path: the recipe.
        kind: ``tokenizer`` or ``generator``.
        overrides: as :func:`load_recipe`.
        gpus: number of GPUs that share the samples of a step.
        gpu_memory: GiB per GPU; None for any.

    Raises:
        UserError: if the recipe is not valid, or if it needs more memory.
    """
    if kind == "tokenizer":
        report = _weigh_tokenizer(load_recipe(path, TokenizerRecipe, overrides), gpus)
    else:
        report = _weigh_generator(load_recipe(path, GeneratorRecipe, overrides), path, gpus)
    needed = sum(report.memory.values())
    if gpu_memory is not None and needed > gpu_memory:
        raise UserError(
            f"{path} needs {needed:.1f} GiB per GPU but there are {gpu_memory:g}: lower data.batch_size "
            "(and raise run.accumulation), or set run.gradient_checkpointing=true or, for a generator, "
            "run.parallel=fsdp"
        )
    return report


def _weigh_tokenizer(recipe: TokenizerRecipe, gpus: int) -> Report:
    with torch.device("meta"):
        tokenizer = build_model(recipe.tokenizer, recipe.settings)
    counter, batch = Counter(recipe.run.precision), recipe.data.batch_size
    costs = [tokenizer_phase_cost(counter, recipe, tokenizer, phase) for phase in recipe.phases]
    parts = {"tokenizer": _count(tokenizer)}
    if any(phase.adversarial for phase in recipe.phases):
        with torch.device("meta"):
            parts["discriminator"] = _count(
                PatchDiscriminator(recipe.losses.discriminator_width, recipe.losses.discriminator_layers)
            )
    tokens = open_bottleneck(recipe, tokenizer).tokens
    return _report(recipe.run, parts, (sum(parts.values()), 0), (tokens, tokens), batch, _worst(costs), gpus)


def _worst(costs: list[Cost]) -> Cost:
    return Cost(max(cost.flops for cost in costs), max(cost.kept for cost in costs))


def _weigh_generator(recipe: GeneratorRecipe, path: Path, gpus: int) -> Report:
    tokenizer = _tokenizer_without_weights(recipe, path)
    whole = recipe.model_copy(update={"model": _initial_config(recipe) | recipe.model})
    conditions = open_conditions(recipe.conditioning, whole.width)
    context = conditions.planned_shape(recipe.model)
    family = open_family(whole, tokenizer)
    with torch.device("meta"):
        transformer: Any = build_model(recipe.transformer, transformer_settings(family, context))
        encoder = conditions.build_encoder(context["context_dim"])
        head = family.build_head(transformer)
        losses = family.losses(transformer, head, encoder)
    models = {NAMES.get(name, name.replace("_", " ")): part for name, part in losses.named_children()}
    parts = {name: count for name, part in models.items() if (count := _count(part))}
    if recipe.lora is not None:
        losses.requires_grad_(False)
        with torch.device("meta"):
            add_lora(transformer, **recipe.lora.model_dump())
        parts["adapters"] = _count(transformer) - parts["transformer"]
    trained = sum(p.numel() for p in losses.parameters() if p.requires_grad)
    counter = Counter(recipe.run.precision)
    cost = family.cost(counter, transformer, head, recipe.run.gradient_checkpointing)
    batch = recipe.data.batch_size
    report = _report(
        recipe.run, parts, (trained, _count(tokenizer)), family.tokens(transformer), batch, cost, gpus
    )
    if recipe.run.parallel != "fsdp" or gpus == 1:
        return report
    return replace(report, gathered=_gathered(transformer, sum(parts.values())) * counter.bytes)


def _gathered(transformer: nn.Module, weights: int) -> int:
    """Of a spread model, those outside the blocks and those of two blocks, the next being fetched early."""
    blocks = [_count(block) for block in transformer.modules() if isinstance(block, Block)]
    return weights - sum(blocks) + 2 * max(blocks)


def _tokenizer_without_weights(recipe: GeneratorRecipe, path: Path) -> nn.Module:
    """The tokenizer of the folder, if it is there already, else of the recipe beside that makes it."""
    config = Path(recipe.tokenizer) / "config.json"
    if config.is_file():
        check_tokenizer_kind(recipe, read_json(config))
        settings = read_config(Path(recipe.tokenizer))
    else:
        settings = _maker_of(recipe.tokenizer, path).settings
    with torch.device("meta"):
        tokenizer: nn.Module = build_model(recipe.image_tokenizer, settings | recipe.tokenizer_settings)
    return tokenizer


def _maker_of(tokenizer: str, path: Path) -> TokenizerRecipe:
    for beside in sorted(path.parent.glob("tokenizer*.yaml")):
        recipe = load_recipe(beside, TokenizerRecipe)
        if f"{recipe.run.output}/image_tokenizer" == tokenizer:
            return recipe
    raise UserError(f"{tokenizer} does not exist, and no tokenizer*.yaml beside {path} makes it")


def _initial_config(recipe: GeneratorRecipe) -> dict[str, Any]:
    """Settings of the transformer to start from, if its folder is there already."""
    config = Path(recipe.initial or "") / "transformer" / "config.json"
    if not recipe.initial or not config.is_file():
        return {}
    filled = {"scales", "codebook_size", "code_dim"}
    return {name: value for name, value in read_config(config.parent).items() if name not in filled}


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _report(
    run: Run,
    parts: dict[str, int],
    trained_and_frozen: tuple[int, int],
    tokens: tuple[int, int],
    batch: int,
    cost: Cost,
    gpus: int,
) -> Report:
    counts = (*trained_and_frozen, *tokens)
    return Report(parts, *counts, batch, run.accumulation, cost.flops, cost.kept, gpus)
