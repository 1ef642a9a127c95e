"""Prediction quality under teacher forcing: cross-entropy of real codes, and error of the residual head."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from openhart.data import collate
from openhart.data.sample import Sample
from openhart.generation.logits import sample_codes
from openhart.pipelines.hart import HartPipeline
from openhart.randomness import SeededDraws, seeded_generators
from openhart.residual.schedule import cosine_schedule
from openhart.residual.solvers import SOLVERS
from openhart.scales import split_by_scale


@dataclass
class Sums:
    """Sums over samples; for codes one value per scale."""

    samples: int = 0
    losses: list[Tensor] = field(default_factory=list)
    hits: list[Tensor] = field(default_factory=list)
    residual: dict[str, Tensor] = field(default_factory=dict)


@torch.no_grad()
def evaluate_likelihood(
    pipeline: HartPipeline, dataset: Dataset[Any], batch_size: int = 32, seed: int = 0, quiet: bool = False
) -> dict[str, Any]:
    """Compare predictions with the codes of real images, given all coarser scales (teacher forcing).

    Args:
        pipeline: the model.
        dataset: map-style, of images (3, H, W) in [−1, 1] and records; the caption is the record's ``text``.
        batch_size: images per batch.
        seed: seed of the codes and residuals that are drawn.
        quiet: show no progress bar.

    Returns:
        ``samples``; ``cross_entropy`` in nats and ``accuracy`` of the most likely code, over all tokens, and
        per scale under ``scales``. With a residual head also ``residual``: the model draws codes of the last
        scale, and the true residual with respect to these codes is compared with the head's residual.
        ``error`` is the squared error of ``sampled`` and ``mean`` residuals relative to that of no residual;
        ``strength`` is the factor that minimizes the error, and ``error_at_strength`` the error with it.
    """
    sums = Sums()
    loader = DataLoader(dataset, batch_size, collate_fn=collate)
    for images, samples in tqdm(loader, desc="likelihood", disable=quiet):
        generators = seeded_generators(seed + sums.samples + i for i in range(len(images)))
        _add(sums, pipeline, images, samples, generators)
    sizes = torch.tensor([h * w for h, w in pipeline.transformer.scales])
    losses, hits = (torch.stack(part).sum(dim=0) / sums.samples for part in (sums.losses, sums.hits))
    report: dict[str, Any] = {
        "samples": sums.samples,
        "cross_entropy": float(losses.sum() / sizes.sum()),
        "accuracy": float(hits.sum() / sizes.sum()),
        "scales": [
            {"cross_entropy": float(loss / size), "accuracy": float(hit / size)}
            for loss, hit, size in zip(losses, hits, sizes, strict=True)
        ],
    }
    if sums.residual:
        report["residual"] = {kind: _errors(found) for kind, found in sums.residual.items()}
    return report


def _add(
    sums: Sums,
    pipeline: HartPipeline,
    images: Tensor,
    samples: list[Sample],
    generators: list[torch.Generator],
) -> None:
    tokenizer, transformer = pipeline.image_tokenizer, pipeline.transformer
    quantized = tokenizer.quantize(tokenizer.encode(images.to(tokenizer.device)))
    encoder = pipeline.condition_encoder
    wanted = [sample.condition(encoder.kind) for sample in samples]
    values: dict[str, Any] = {encoder.argument: wanted}
    condition = pipeline.encode_condition(**values)
    prepared = transformer.prepare(*condition)
    inputs = tokenizer.quantizer.code_inputs(quantized.codes)
    hidden = transformer(inputs, prepared=prepared).hidden_states
    logits = transformer.logits(hidden, prepared)
    codes = torch.cat(quantized.codes, dim=1)
    loss = F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none").view(codes.shape)
    hit = (logits.argmax(dim=-1) == codes).float()
    for found, kept in ((loss, sums.losses), (hit, sums.hits)):
        kept.append(torch.stack([part.sum() for part in split_by_scale(found, transformer.scales)]).cpu())
    sums.samples += len(images)
    if pipeline.residual_head is not None:
        count = quantized.codes[-1].shape[1]
        target = quantized.continuous_target.flatten(2).transpose(1, 2)
        _add_residual(sums, pipeline, hidden[:, -count:], logits[:, -count:], target, generators)


def _add_residual(
    sums: Sums,
    pipeline: HartPipeline,
    hidden: Tensor,
    logits: Tensor,
    target: Tensor,
    generators: list[torch.Generator],
) -> None:
    settings, head = pipeline.sampling_settings(), pipeline.residual_head
    drawn = sample_codes(logits / settings.temperature, generators, settings.top_k, settings.top_p)
    embedding = pipeline.image_tokenizer.quantizer.lookup(drawn)
    condition = pipeline.transformer.residual_condition(hidden, embedding)

    draws = SeededDraws(generators)

    def draw() -> Tensor:
        return draws.normal(target.shape[1:]).to(target.device)

    for kind, name in (("sampled", settings.residual_solver), ("mean", "mean")):
        solver = SOLVERS[name]
        schedule = solver.respace(cosine_schedule(), settings.residual_steps)
        size = pipeline.image_tokenizer.quantizer.size
        found = solver.sample(head, condition, None, 1.0, draw(), draw, schedule, size)
        guess, truth = head.from_units(found.float()), target - embedding
        products = torch.stack([(truth * truth).sum(), (truth * guess).sum(), (guess * guess).sum()])
        sums.residual[kind] = sums.residual.get(kind, torch.zeros(3)) + products.cpu()


def _errors(products: Tensor) -> dict[str, float]:
    """Relative error and its minimum, from the sums of truth², truth·guess and guess²."""
    truth, both, guess = products.tolist()
    strength = min(max(both / guess, 0.0), 1.0) if guess else 0.0
    return {
        "error": (truth - 2 * both + guess) / truth,
        "strength": strength,
        "error_at_strength": (truth - 2 * strength * both + strength**2 * guess) / truth,
    }
