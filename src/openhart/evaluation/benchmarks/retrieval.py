"""Does a picture show what its prompt names? Its nearest real image should be of the same thing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from openhart.data.records import main_caption
from openhart.errors import UserError
from openhart.features import EfficientNetFeatures
from openhart.pipeline import HartPipeline


def choose_things(records: Sequence[dict[str, Any]], count: int, seed: int) -> list[int]:
    """Indices of ``count`` records of different things on a white background, by chance.

    Raises:
        UserError: the data set has too few things, or a record without a caption.
    """
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen: dict[str, int] = {}
    for index in order:
        record = records[index]
        if record.get("background", "white") == "white":
            chosen.setdefault(str(record.get("thing") or main_caption(record)), index)
        if len(chosen) == count:
            return list(chosen.values())
    raise UserError(
        f"the data set has {len(chosen)} different things and {count} are to be chosen: lower the count"
    )


@torch.no_grad()
def evaluate_retrieval(
    pipeline: HartPipeline,
    dataset: Any,
    count: int = 256,
    batch_size: int = 16,
    seed: int = 0,
    save_to: Path | None = None,
    quiet: bool = False,
    **call: Any,
) -> dict[str, Any]:
    """Generate one picture a prompt and look for it among the real ones.

    Args:
        pipeline: makes the pictures.
        dataset: an image folder or another map-style data set; each chosen record's caption is a prompt.
        count: prompts, and real images to be found among.
        batch_size: pictures at a time.
        seed: chooses the records, and seeds picture i with ``seed + i``.
        save_to: a PNG of the first 64 pictures, each right of its real one.
        quiet: show no progress bar.
        call: passed on to the pipeline.

    Returns:
        ``top1`` and ``top5``: share of pictures whose own real image is the nearest, or among the
        five nearest, by cosine of EfficientNet-Lite0's 1,280 features.
    """
    if not hasattr(dataset, "known_records"):
        raise UserError("retrieval chooses its pictures by their records: give an image folder, not shards")
    if pipeline.label_encoder is not None:
        raise UserError("retrieval needs a model that takes prompts, this one takes classes")
    chosen = choose_things(list(dataset.known_records()), count, seed)
    samples = [dataset[index] for index in chosen]
    real = torch.stack([image for image, _ in samples])
    prompts = [main_caption(record) for _, record in samples]
    pipeline.set_progress_bar_config(disable=True)
    made = []
    for start in tqdm(range(0, count, batch_size), desc="pictures", disable=quiet):
        part = prompts[start : start + batch_size]
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        images = pipeline(part, generator=generators, output_type="pt", **call).images
        made.append(images.float().cpu() * 2 - 1)
    pictures = torch.cat(made)
    if save_to is not None:
        _save_pairs(real[:64], pictures[:64], save_to)
    return {"prompts": count, "seed": seed, **retrieval_accuracy(real, pictures)}


def retrieval_accuracy(real: Tensor, pictures: Tensor) -> dict[str, float]:
    """Two aligned batches (N, 3, H, W) in [−1, 1] → shares found first and among five."""
    features = EfficientNetFeatures()
    wanted, given = (
        F.normalize(torch.cat([features.pooled(part) for part in images.split(32)]), dim=1)
        for images in (real, pictures)
    )
    nearest = (given @ wanted.T).topk(min(5, len(real)), dim=1).indices
    found = nearest == torch.arange(len(real))[:, None]
    return {
        "top1": float(found[:, 0].float().mean()),
        "top5": float(found.any(dim=1).float().mean()),
    }


def _save_pairs(real: Tensor, pictures: Tensor, path: Path) -> None:
    from PIL import Image

    pairs = torch.cat([real, pictures], dim=3)
    across = min(8, len(pairs))
    rows = [torch.cat(list(row), dim=2) for row in pairs.split(across) if len(row) == across]
    sheet = ((torch.cat(rows, dim=1).clamp(-1, 1) + 1) * 127.5).round().byte()
    Image.fromarray(sheet.permute(1, 2, 0).numpy()).save(path)
