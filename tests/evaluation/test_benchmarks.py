"""The benchmarks that generate: on a tiny random model, and on perfect and blind stand-ins for it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from openhart.data.images import ImageFolder
from openhart.errors import UserError
from openhart.evaluation.benchmarks.attributes import evaluate_attributes
from openhart.evaluation.benchmarks.residual import distance_figures, evaluate_residual
from openhart.evaluation.benchmarks.retrieval import evaluate_retrieval
from openhart.evaluation.images import pooled_features
from openhart.evaluation.metrics.intervals import bootstrap_error_interval, bootstrap_interval, share_interval
from openhart.evaluation.metrics.retrieval import retrieval_ranks
from openhart.evaluation.networks.extractors import GradientExtractor
from openhart.tokenizer.base import CODES, COMPLETE
from tests.evaluation.shapes import GROUNDS, THINGS, draw_scene

pytest.importorskip("efficientnet_lite_pytorch")
NAMES = [f"{colour} {thing}" for thing in THINGS for colour in ("red", "green", "blue", "purple", "yellow")]


def captioned(thing, style, ground):
    text = f"a {thing}" + (", flat style" if style == "flat" else "")
    return text + ("" if ground == "white" else f", on a {ground} background")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty things in two styles on three grounds."""
    place = tmp_path_factory.mktemp("corpus")
    lines = []
    for name in NAMES:
        for style in ("flat", "rough"):
            for ground in GROUNDS:
                colour, thing = name.split()
                picture = np.array(draw_scene([thing], [colour], ground).resize((32, 32)))
                if style == "rough":
                    thing_there = (picture != picture[0, 0]).any(axis=2)
                    picture[thing_there & (np.indices((32, 32)).sum(axis=0) % 2 == 0)] //= 2
                file = f"{style}-{name}-{ground}.png".replace(" ", "-")
                Image.fromarray(picture.astype(np.uint8)).save(place / file)
                record = {"file_name": file, "text": captioned(name, style, ground), "thing": name}
                lines.append(json.dumps({**record, "style": style, "background": ground}) + "\n")
    (place / "metadata.jsonl").write_text("".join(lines))
    return ImageFolder(place, (32, 32))


class Tokenizer:
    """Gives back what it is given; its codes alone lose half of the picture."""

    device = torch.device("cpu")

    def versions(self, images):
        half = torch.cat([images[..., :16], torch.ones_like(images[..., 16:])], dim=3)
        return {CODES: half, COMPLETE: images}

    def decode(self, version):
        return version


class Memory:
    """A pipeline that knows every picture by its caption, or draws one picture for all."""

    def __init__(self, dataset, blind=False):
        self.image_tokenizer, self.residual_head, self.blind = Tokenizer(), object(), blind
        self.pictures = {}
        for image, sample in (dataset[index] for index in range(len(dataset))):
            self.pictures.setdefault(sample.main_caption, image)

    def set_progress_bar_config(self, **_):
        pass

    def __call__(self, prompts, generator, output_type, use_residual=True):
        assert output_type == "pt"
        assert len(generator) == len(prompts)
        first = next(iter(self.pictures.values()))
        images = torch.stack([first if self.blind else self.pictures[prompt] for prompt in prompts])
        if not use_residual:
            images = (images + 0.3 * torch.randn(images.shape, generator=generator[0])).clamp(-1, 1)
        return SimpleNamespace(images=(images + 1) / 2)


@pytest.mark.slow
def test_retrieval_of_a_perfect_and_of_a_blind_model(folder, tmp_path):
    result = evaluate_retrieval(Memory(folder), folder, count=20, save_to=tmp_path / "sheet.png", quiet=True)
    assert Image.open(tmp_path / "sheet.png").size == (8 * 64, 2 * 32)
    assert len({figure.extractor for figure in result.figures}) == 3
    for figure in result.figures:
        assert figure.value == 1 or figure.name.startswith("codes"), figure
        assert figure.interval[0] < figure.value <= figure.interval[1]
    assert any(figure.value < 1 for figure in result.figures)
    blind = evaluate_retrieval(Memory(folder, blind=True), folder, count=20, quiet=True)
    assert blind.figure("top1").value <= 0.1
    assert blind.figure("reconstructed top1").value == 1


@pytest.mark.slow
def test_a_worse_picture_without_the_residual_shows(folder):
    result = evaluate_residual(Memory(folder), folder, count=10, quiet=True, resamples=8)
    assert result.figure("with residual, FD").value < result.figure("without residual, FD").value
    for distance in ("FD", "FD-Lite2"):
        saved = result.figure(f"{distance} saved by the residual")
        assert saved.interval[0] < saved.value < saved.interval[1]
        assert saved.value > 0.5
    assert result.figure("with residual, top1").value == 1


@pytest.mark.slow
def test_equal_pictures_save_nothing():
    random = np.random.default_rng(0)
    real, made = random.integers(0, 256, (2, 12, 32, 32, 3), dtype=np.uint8)
    assert distance_figures(real, {"a": made, "b": made}, resamples=2)[-1].value == pytest.approx(0, abs=1e-6)


def test_a_model_without_a_residual_is_named(folder):
    pipeline = Memory(folder)
    pipeline.residual_head = None
    with pytest.raises(UserError, match="no residual head"):
        evaluate_residual(pipeline, folder, count=5)


@pytest.mark.slow
def test_named_styles_and_backgrounds_are_recognised(folder):
    result = evaluate_attributes(Memory(folder), folder, count=12, quiet=True)
    values = {figure.name: figure.value for figure in result.figures}
    assert values.pop("style") == values.pop("background") == 1
    assert values == dict.fromkeys(values, 1)
    blind = evaluate_attributes(Memory(folder, blind=True), folder, count=12, quiet=True)
    assert blind.figure("style").value <= 0.6
    assert blind.figure("background").value <= 0.6
    assert blind.figure("real style").value == 1


def test_a_data_set_without_styles_is_named(tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a"}\n')
    dataset = ImageFolder(tmp_path, (32, 32))
    with pytest.raises(UserError, match="must have style and background"):
        evaluate_attributes(Memory(dataset), dataset)


def test_ranks_by_hand():
    wanted = np.eye(3)
    given = np.array([[2.0, 0, 0], [3, 2, 1], [2, 1, 3]])
    assert retrieval_ranks(given, wanted).tolist() == [0, 1, 0]
    with pytest.raises(UserError, match="one shape"):
        retrieval_ranks(given, wanted[:2])


def test_gradients_tell_shapes_apart_whatever_their_place_in_a_batch():
    pictures = np.stack([np.array(draw_scene([name], ["red"])) for name in THINGS])
    features = pooled_features(GradientExtractor(), pictures)
    assert retrieval_ranks(features + 0.01, features).tolist() == [0] * len(THINGS)
    alone = pooled_features(GradientExtractor(), pictures[2:3])
    assert alone == pytest.approx(features[2:3], abs=1e-6)


def test_intervals_hold_what_they_are_of():
    random = np.random.default_rng(0)
    values = random.normal(3, 1, 400)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.2)
    low, high = bootstrap_error_interval(values, lambda rows: float(rows.mean()))
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.3)
    assert share_interval(10, 10) == (
        pytest.approx(0.722, abs=1e-3),
        1,
    )  # Wilson's interval is not empty there
    assert share_interval(5, 10) == (pytest.approx(0.237, abs=1e-3), pytest.approx(0.763, abs=1e-3))
