"""Does an image have the style and the background colour that its prompt names?

Both are recognised by classifiers that are fitted on images of the data set. Their accuracy on held-out
images, real and reconstructed, is reported beside the scores.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openhart.data.images import ImageFolder
from openhart.data.oklab import to_oklab
from openhart.errors import UserError
from openhart.evaluation.checker.segments import background_of
from openhart.evaluation.images import Images, generate, pooled_features, reconstruct
from openhart.evaluation.metrics.intervals import share_interval
from openhart.evaluation.networks.extractors import EfficientNetExtractor, GradientExtractor
from openhart.evaluation.networks.logistic import fit_linear
from openhart.evaluation.result import Figure, Result
from openhart.image_io import from_bytes, to_bytes

LEARNED_FROM = 600
KEPT_ASIDE = 150
DECAY = 1e-3
STYLE_FEATURES = "EfficientNet-Lite0, oriented gradients and smoothness, linear classifier"
Record = Mapping[str, Any]
Recognise = Callable[[Images], list[str]]


def evaluate_attributes(
    pipeline: Any,
    dataset: ImageFolder,
    count: int = 128,
    seed: int = 0,
    quiet: bool = False,
    **call: Any,
) -> Result:
    """Score images whose prompts name a style, and images whose prompts name a background colour.

    Args:
        pipeline: generates the images.
        dataset: its records have ``thing``, ``style``, ``background``, ``text`` and optionally ``captions``.
        count: number of prompts of each kind.
        seed: determines the choice of records; image i is generated with ``seed + i``.
        quiet: show no progress bar.
        call: further arguments of the pipeline call.

    Returns:
        figures ``style`` and ``background`` of the generated images. Figures with the prefix ``real`` or
        ``reconstructed`` are the accuracy of the same classifiers on real images of other things and on their
        reconstructions.

    Raises:
        UserError: the records name no styles or no backgrounds.
    """
    random = np.random.default_rng(seed)
    records = [sample.fields for sample in dataset.samples]
    learned, aside = _two_sets_of_things(records, random)
    tests = {
        "style": (learn_styles(dataset, learned), STYLE_FEATURES, _names_style(records)),
        "background": (learn_backgrounds(dataset, learned), None, names_background),
    }
    figures = []
    real = _images(dataset, aside)
    reconstructed = reconstruct(pipeline.image_tokenizer, from_bytes(real))
    for field, (recognise, extractor, find_prompt) in tests.items():
        truth = [record[field] for record in aside]
        for kind, pictures in (("real ", real), ("reconstructed ", reconstructed)):
            figures.append(_figure(f"{kind}{field}", recognise(pictures), truth, extractor))
        prompts, wanted = choose_prompts(records, find_prompt, field, count, random)
        made = generate(pipeline, prompts, [seed + number for number in range(len(prompts))], quiet, **call)
        figures.append(_figure(field, recognise(made), wanted, extractor))
    return Result("attributes", tuple(figures), {"seed": seed, "data": str(dataset.path), **call})


def learn_styles(dataset: ImageFolder, records: Sequence[Record]) -> Recognise:
    """Fit a linear classifier of styles on fixed features.

    Raises:
        UserError: the records name fewer than two styles.
    """
    styles = sorted({record["style"] for record in records})
    if len(styles) < 2:
        raise UserError("the data set must contain at least two styles")
    features = style_features(_images(dataset, records))
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-3
    inputs = torch.from_numpy((features - mean) / scale).float()
    labels = torch.tensor([styles.index(record["style"]) for record in records])
    layer = fit_linear(inputs, labels, len(styles), DECAY)

    @torch.no_grad()
    def recognise(pictures: Images) -> list[str]:
        logits = layer(torch.from_numpy((style_features(pictures) - mean) / scale).float())
        return [styles[index] for index in logits.argmax(dim=1).tolist()]

    return recognise


def style_features(pictures: Images) -> NDArray[np.floating]:
    """Features that distinguish styles: those of two extractors, and how smooth areas are, (N, D)."""
    lightness = to_oklab(pictures)[..., 0]
    steps = np.abs(np.diff(lightness, axis=2)).reshape(len(pictures), -1)
    edges = (0.001, 0.004, 0.01, 0.02, 0.05, 0.1, 0.2)
    evenness = np.stack([(steps > edge).mean(axis=1) for edge in edges], axis=1)
    return np.concatenate(
        [
            pooled_features(EfficientNetExtractor(), pictures),
            pooled_features(GradientExtractor(), pictures),
            np.log(evenness + 1e-3),
        ],
        axis=1,
    )


def learn_backgrounds(dataset: ImageFolder, records: Sequence[Record]) -> Recognise:
    """Fit a classifier that chooses the nearest background colour of the data set, by an image's border."""
    by_name: dict[str, list[NDArray[np.uint8]]] = {}
    for record, picture in zip(records, _images(dataset, records), strict=True):
        by_name.setdefault(record["background"], []).append(background_of(picture))
    names = sorted(by_name)
    colours = to_oklab(np.array([np.median(by_name[name], axis=0) for name in names]).astype(np.uint8))

    def recognise(pictures: Images) -> list[str]:
        seen = to_oklab(np.array([background_of(picture) for picture in pictures]))
        nearest = np.linalg.norm(seen[:, None] - colours, axis=2).argmin(axis=1)
        return [names[index] for index in nearest]

    return recognise


def names_background(record: Record) -> str | None:
    """A caption that names the background colour of a record; None if it is white or not named."""
    background = record["background"]
    if background == "white":
        return None
    return next((text for text in captions_of(record) if f"{background} background" in text), None)


def _names_style(records: Sequence[Record]) -> Callable[[Record], str | None]:
    """A function that finds a caption which only records of one style have, so that it names the style."""
    styles: dict[str, set[str]] = {}
    for record in records:
        for text in captions_of(record):
            styles.setdefault(text, set()).add(record["style"])
    kinds: dict[str, set[str]] = {}
    for record in records:
        kinds.setdefault(record.get("thing", ""), set()).add(record["style"])

    def find(record: Record) -> str | None:
        if record["background"] != "white" or len(kinds[record.get("thing", "")]) < 2:
            return None
        return next((text for text in captions_of(record)[::-1] if len(styles[text]) == 1), None)

    return find


def captions_of(record: Record) -> list[str]:
    """All captions of a record, the main one first."""
    return list(dict.fromkeys([record["text"], *record.get("captions", [])]))


def choose_prompts(
    records: Sequence[Record],
    find_prompt: Callable[[Record], str | None],
    field: str,
    count: int,
    random: np.random.Generator,
) -> tuple[list[str], list[str]]:
    """Prompts that name the value of a field, balanced over the values, and these values.

    Raises:
        UserError: no caption names a value.
    """
    by_value: dict[str, list[str]] = {}
    for index in random.permutation(len(records)):
        if (prompt := find_prompt(records[index])) is not None:
            by_value.setdefault(records[index][field], []).append(prompt)
    if not by_value:
        raise UserError(f"no caption of the data set names a {field}")
    turns = max(map(len, by_value.values()))
    pairs = [
        (prompts[turn], value)
        for turn in range(turns)
        for value, prompts in by_value.items()
        if turn < len(prompts)
    ]
    chosen, values = zip(*pairs[:count], strict=True)
    return list(chosen), list(values)


def _two_sets_of_things(
    records: Sequence[Record], random: np.random.Generator
) -> tuple[list[Record], list[Record]]:
    if missing := [
        field for field in ("style", "background") if any(field not in record for record in records)
    ]:
        raise UserError(f"every record of the data set must have {' and '.join(missing)}")
    things = sorted({str(record.get("thing", record["text"])) for record in records})
    random.shuffle(things)
    aside_things = set(things[: len(things) // 5])
    sets: tuple[list[Record], list[Record]] = ([], [])
    for index in random.permutation(len(records)):
        record = records[index]
        sets[record.get("thing", record["text"]) in aside_things].append(record)
    return _balanced(sets[0], LEARNED_FROM), _balanced(sets[1], KEPT_ASIDE)


def _balanced(records: list[Record], count: int) -> list[Record]:
    """About the same number of each background, because most records are white."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record["background"], []).append(record)
    turns = [group[turn] for turn in range(count) for group in groups.values() if turn < len(group)]
    return turns[:count]


def _images(dataset: ImageFolder, records: Sequence[Record]) -> Images:
    places = {sample.name: index for index, sample in enumerate(dataset.samples)}
    return to_bytes(torch.stack([dataset[places[record["file_name"]]][0] for record in records]))


def _figure(name: str, seen: Sequence[str], wanted: Sequence[str], extractor: str | None) -> Figure:
    hits = sum(a == b for a, b in zip(seen, wanted, strict=True))
    return Figure(name, hits / len(wanted), len(wanted), share_interval(hits, len(wanted)), extractor)
