"""``openhart evaluate``: its grammar and what each kind does; heavy imports wait as in the other commands."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openhart.atomic import check_writable, written_whole
from openhart.cli_arena import add_arena, arena, ratings, report
from openhart.cli_checks import LARGEST_SEED, UsageError, named, place, whole
from openhart.cli_commands import _check_image_path, _device, _need_extra
from openhart.cli_distances import add_distances, distances
from openhart.cli_reconstructions import add_reconstructions, reconstructions
from openhart.cli_samples import add_samples, samples
from openhart.errors import UserError

if TYPE_CHECKING:
    from openhart.evaluation.result import Result

GENERATION = ("retrieval", "residual", "attributes")
ON_MODELS = ("reconstruction", *GENERATION)
WITH_OWN_OUTPUT = ("arena", "checker", "pack", "report", "samples")
MANY = 10**6


def add_evaluate(commands: Any) -> None:
    """Add the grammar of ``openhart evaluate`` to a parser's commands."""
    parser = commands.add_parser("evaluate", help="measure a model, or pictures")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    helps = {
        "reconstruction": "what the image tokenizer keeps",
        "retrieval": "do pictures show what their prompts name, beside reconstructions as the ceiling",
        "residual": "generation with the residual and without it, on the same seeds",
        "attributes": "are style and background colour as the prompt names them",
    }
    for name, text in helps.items():
        kind = kinds.add_parser(name, help=text)
        kind.add_argument("data", type=named, help="image folder or shards")
        kind.add_argument(
            "--only", action="append", default=[], metavar="FIELD=VALUE[,VALUE]", help="records to keep"
        )
        _add_model(kind)
        if name in GENERATION:
            kind.add_argument("--count", type=whole(1, MANY), default=256, help="prompts")
            kind.add_argument("--seed", type=whole(0, LARGEST_SEED - MANY), default=0)
        if name == "retrieval":
            kind.add_argument("--sheet", type=place, help="a PNG of real and generated pairs")
    _add_checker(kinds)
    _add_published(kinds)
    add_samples(kinds)
    add_reconstructions(kinds)
    add_distances(kinds)
    add_arena(kinds)
    for name, kind in kinds.choices.items():
        if name not in WITH_OWN_OUTPUT:
            kind.add_argument("-o", "--output", type=place, help="a JSON file")
        kind.add_argument("--quiet", action="store_true", help="print and show nothing but errors")


def _add_model(parser: ArgumentParser) -> None:
    parser.add_argument("--model", type=named, help="folder or hub id (default: the packaged model)")


def _add_checker(kinds: Any) -> None:
    checker = kinds.add_parser(
        "checker",
        help="train the detector of drawn things, and measure it",
        epilog="example: openhart evaluate checker scenes -o checker",
    )
    checker.add_argument("scenes", type=place, help="a folder that openhart data scenes made")
    checker.add_argument("-o", "--output", type=place, required=True, metavar="DIR")
    checker.add_argument(
        "--held-out", type=whole(1, MANY), default=400, metavar="N", help="scenes to measure it on"
    )
    checker.add_argument("--seed", type=whole(0, LARGEST_SEED), default=0)
    _add_model(checker)
    composition = kinds.add_parser(
        "composition",
        help="GenEval's six tasks on known things, checked offline",
        epilog="example: openhart evaluate composition scenes/prompts/plain.jsonl --samples out",
    )
    composition.add_argument("prompts", type=place, help="a .jsonl in GenEval's layout")
    composition.add_argument("--checker", type=place, default=Path("checker"), metavar="DIR")
    composition.add_argument("--samples", type=place, required=True, metavar="DIR", help="where pictures go")
    composition.add_argument("--images-per-prompt", type=whole(1, MANY), default=4, metavar="N")
    composition.add_argument("--seed", type=whole(0, LARGEST_SEED - MANY), default=42)
    _add_model(composition)


def _add_published(kinds: Any) -> None:
    imagenet = kinds.add_parser("imagenet", help="FID, sFID, IS, precision and recall of a sample .npz")
    imagenet.add_argument("sample", type=place, help="an .npz with arr_0")
    imagenet.add_argument("reference", type=place, help="ADM's reference .npz")
    imagenet.add_argument("--rules", choices=["adm", "mar"], default="adm")
    imagenet.add_argument("--extractor", choices=["inception", "efficientnet"], default="inception")
    imagenet.add_argument("--weights", type=place, metavar="PTH", help="of Inception")
    pack = kinds.add_parser("pack", help="pictures of a folder into a shuffled sample .npz")
    pack.add_argument("folder", type=place)
    pack.add_argument("-o", "--output", type=place, required=True, metavar="NPZ")
    pack.add_argument("--seed", type=whole(0, LARGEST_SEED), default=0, help="of the shuffle")
    geneval = kinds.add_parser("geneval", help="score a folder of pictures in GenEval's layout")
    geneval.add_argument("folder", type=place)
    geneval.add_argument("--detector", metavar="PATH", help="a Mask2Former of transformers")
    geneval.add_argument("--clip", metavar="PATH", help="a CLIP of transformers")
    geneval.add_argument("--rows", type=place, metavar="JSONL", help="where a line per picture goes")
    geneval.add_argument("--rewritten-prompts", action="store_true", help="another benchmark, named so")
    compare = kinds.add_parser("compare", help="figures of several results, if they may be compared")
    compare.add_argument("results", type=place, nargs="+", metavar="JSON")


def evaluate(options: Namespace) -> None:
    """``openhart evaluate``: figures as JSON."""
    sheet = getattr(options, "sheet", None)
    plot = getattr(options, "plot", None)
    for picture in (sheet, plot):
        if picture is not None:
            _check_image_path(picture)
    for path in (options.output, sheet, plot, getattr(options, "rows", None)):
        if path is not None and path.is_dir() and options.kind not in ("checker", "samples"):
            raise UsageError(f"{path} is a folder, a file is needed")
        if path is not None and (path.is_file() or not path.exists()):
            check_writable(path.parent)
    report = KINDS[options.kind](options)
    if report is None:
        return
    text = json.dumps(report, indent=2)
    if options.output is not None and options.kind not in WITH_OWN_OUTPUT:
        with written_whole(options.output) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    if not options.quiet:
        print(text)


def _on_model(options: Namespace) -> dict[str, Any]:
    _need_extra("eval", "torchmetrics", "efficientnet_lite_pytorch")
    only = _only(options)
    if options.kind == "reconstruction":
        return _reconstruction(options, only)
    from openhart.data import open_dataset
    from openhart.evaluation.benchmarks.attributes import evaluate_attributes
    from openhart.evaluation.benchmarks.residual import evaluate_residual
    from openhart.evaluation.benchmarks.retrieval import evaluate_retrieval
    from openhart.pipelines.hart import HartPipeline

    pipeline = HartPipeline.from_pretrained(options.model).to(_device(None))
    dataset = open_dataset(options.data, pipeline.image_tokenizer.image_size, only=only)
    if not hasattr(dataset, "known_records"):
        raise UserError(
            f"{options.kind} chooses its pictures by their records: give an image folder, not shards"
        )
    settings = {"count": options.count, "seed": options.seed, "quiet": options.quiet}
    result: Result
    if options.kind == "residual":
        result = evaluate_residual(pipeline, dataset, **settings)
    elif options.kind == "attributes":
        result = evaluate_attributes(pipeline, dataset, **settings)
    elif options.sheet is None:
        result = evaluate_retrieval(pipeline, dataset, **settings)
    else:
        with written_whole(options.sheet) as temporary:
            result = evaluate_retrieval(pipeline, dataset, save_to=temporary, **settings)
    return _report(result, options)


def _report(result: "Result", options: Namespace) -> dict[str, Any]:
    """A result as JSON, with the model and the versions that made it."""
    import torch

    from openhart import __version__

    report = result.to_dict()
    if "model" in options:
        report["made_by"]["model"] = options.model or "packaged"
    report["made_by"] |= {"openhart": __version__, "torch": torch.__version__}
    return report


def _only(options: Namespace) -> dict[str, list[str]]:
    pairs = [text.partition("=") for text in options.only]
    for field, equals, values in pairs:
        if not (field and equals and values):
            raise UsageError("--only is written FIELD=VALUE or FIELD=VALUE,VALUE, as in --only style=noto")
    only: dict[str, list[str]] = {}
    for field, _, values in pairs:
        only.setdefault(field, []).extend(values.split(","))
    return only


def _reconstruction(options: Namespace, only: dict[str, list[str]]) -> dict[str, Any]:
    from openhart.data import open_dataset
    from openhart.evaluation.benchmarks.reconstruction import evaluate_reconstruction
    from openhart.model_files import load_image_tokenizer

    tokenizer = load_image_tokenizer(options.model)
    dataset = open_dataset(options.data, tokenizer.image_size, only=only)
    tokenizer.to(_device(None))
    return evaluate_reconstruction(tokenizer, dataset, quiet=options.quiet)


def _checker(options: Namespace) -> dict[str, Any] | None:
    check_writable(options.output)
    from openhart.evaluation.checker.files import save_checker
    from openhart.evaluation.checker.make import train_checker
    from openhart.model_files import load_image_tokenizer

    tokenizer = load_image_tokenizer(options.model)
    checker = train_checker(options.scenes, tokenizer, options.held_out, options.seed, options.quiet)
    save_checker(checker, options.output)
    return {"checker": str(options.output), "accuracy": checker.accuracy}


def _composition(options: Namespace) -> dict[str, Any]:
    check_writable(options.samples)
    from openhart.evaluation.benchmarks.composition import score_composition
    from openhart.evaluation.checker.files import load_checker
    from openhart.evaluation.samples.layouts import plan_geneval
    from openhart.evaluation.samples.make import make_samples
    from openhart.pipelines.hart import HartPipeline

    plan = plan_geneval(options.prompts, options.seed, options.images_per_prompt, "composition")
    checker = load_checker(options.checker)
    pipeline = HartPipeline.from_pretrained(options.model).to(_device(None))
    make_samples(pipeline, options.model or "packaged", plan, options.samples, quiet=options.quiet)
    result, _ = score_composition(options.samples, checker, options.quiet)
    return _report(result, options)


def _imagenet(options: Namespace) -> dict[str, Any]:
    from openhart.evaluation.benchmarks.imagenet import evaluate_adm, evaluate_mar
    from openhart.evaluation.networks.extractors import EfficientNetExtractor, Extractor, InceptionExtractor
    from openhart.evaluation.npz_files import read_batch_file

    sample, reference = read_batch_file(options.sample), read_batch_file(options.reference)
    device = _device(None)
    extractor: Extractor
    if options.extractor == "inception":
        extractor = InceptionExtractor(options.weights, device)
    else:
        extractor = EfficientNetExtractor(device)
    if options.rules == "adm":
        return _report(evaluate_adm(reference, sample, extractor, quiet=options.quiet), options)
    if reference.pool is None:
        raise UserError(f"{options.reference} must hold mu and sigma for MAR's rules")
    return _report(evaluate_mar(reference.pool, sample, extractor, options.quiet), options)


def _pack(options: Namespace) -> None:
    from openhart.data.decoding import read_image
    from openhart.evaluation.image_folders import find_images
    from openhart.evaluation.npz_files import write_sample_batch

    paths = find_images(options.folder)
    write_sample_batch(paths, options.output, read_image, options.seed)
    if not options.quiet:
        print(f"{options.output}  {len(paths):,} images")


def _geneval(options: Namespace) -> dict[str, Any]:
    from openhart.evaluation.benchmarks.geneval import (
        find_samples,
        geneval_result,
        score_samples,
        summarize,
        summary_text,
        write_rows,
    )
    from openhart.evaluation.geneval.clip_colours import ClipColours
    from openhart.evaluation.networks.clip import CLIP, TransformersClip
    from openhart.evaluation.networks.mask2former import DETECTOR, TransformersMask2Former

    samples, device = find_samples(options.folder), _device(None)
    detector = TransformersMask2Former(options.detector or DETECTOR, device)
    colours = ClipColours(TransformersClip(options.clip or CLIP, device))
    rows = list(score_samples(samples, detector, colours, quiet=options.quiet))
    if options.rows is not None:
        write_rows(rows, options.rows)
    if not options.quiet:
        print(summary_text(summarize(rows)))
    result = geneval_result(rows, detector, colours, rewritten_prompts=options.rewritten_prompts)
    return _report(result, options)


def _compare(options: Namespace) -> dict[str, Any]:
    from openhart.evaluation.result import check_comparable, read_result

    results = {str(path): read_result(path) for path in options.results}
    first = next(iter(results.values()))
    table: dict[str, Any] = {}
    for number, figure in enumerate(first.figures):
        others = [_same_place(result, number, path) for path, result in results.items()]
        check_comparable(others)
        key = f"{figure.label} ({figure.extractor})" if figure.extractor else figure.label
        table[key] = {path: other.value for path, other in zip(results, others, strict=True)}
    return table


def _same_place(result: "Result", number: int, path: str) -> Any:
    if number >= len(result.figures):
        raise UserError(f"{path} has only {len(result.figures)} figures: compare results of one benchmark")
    return result.figures[number]


KINDS: dict[str, Callable[[Namespace], dict[str, Any] | None]] = {
    "arena": arena,
    "ratings": ratings,
    "report": report,
    **dict.fromkeys(ON_MODELS, _on_model),
    "checker": _checker,
    "composition": _composition,
    "imagenet": _imagenet,
    "pack": _pack,
    "geneval": _geneval,
    "compare": _compare,
    "samples": samples,
    "scales": reconstructions,
    "perturbed": reconstructions,
    "distances": distances,
}
