"""The loaders of published networks, on tiny random networks of those very classes."""

import numpy as np
import pytest
from PIL import Image

from openhart.errors import UserError
from openhart.evaluation.geneval.clip_colours import ClipColours
from openhart.evaluation.geneval.rules import COLOURS
from openhart.evaluation.networks.answers import TransformersAnswers
from openhart.evaluation.networks.clip import TransformersClip
from openhart.evaluation.networks.mask2former import COCO_CLASSES, TransformersMask2Former
from tests.evaluation.recorded import told
from tests.evaluation.tiny_networks import save_blip, save_clip, save_mask2former, save_vilt


def test_the_classes_are_geneval_s():
    assert len(set(COCO_CLASSES)) == 80
    recorded = {
        clause["class"]
        for case in told("geneval_cases")["cases"]
        for clause in case["metadata"].get("include", [])
    }
    assert recorded <= set(COCO_CLASSES)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


def test_clip_names_a_colour_for_every_object(clip):
    from openhart.evaluation.geneval.detections import Objects

    model = TransformersClip(str(clip))
    assert model.text_features(["a", "a much longer text " * 20]).shape == (2, 8)
    image = Image.new("RGB", (40, 30), "red")
    boxes = np.array([[0, 0, 20, 20, 1], [5, 5, 39, 29, 1]], np.float32)
    named = ClipColours(model)(image, Objects(boxes, np.ones((2, 30, 40), bool)), "cat")
    assert len(named) == 2
    assert set(named) <= set(COLOURS)


def test_mask2former_finds_boxes_around_its_masks(tmp_path):
    detector = TransformersMask2Former(str(save_mask2former(tmp_path)))
    image = Image.radial_gradient("L").convert("RGB").resize((50, 40))
    found = detector(image)
    assert set(found) <= set(COCO_CLASSES)
    assert sum(len(objects) for objects in found.values()) > 0
    for objects in found.values():
        for box, mask in zip(objects.boxes, objects.masks, strict=True):
            assert mask.shape == (40, 50)
            rows, columns = np.nonzero(mask)
            corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box[:4].tolist() == corners
            assert 0 < box[4] < 1


@pytest.mark.parametrize("save", [save_blip, save_vilt])
def test_questions_are_answered_one_by_one_or_together(save, tmp_path):
    model = TransformersAnswers(str(save(tmp_path)), question_tokens=12)
    assert model.name == f"{tmp_path}, questions of at most 12 tokens"
    questions = ["Is it red?", "is there a cat that is much longer than any question may be, yes or no?"]
    for shade in ("red", "white"):
        image = Image.new("RGB", (48, 32), shade)
        together = model(image, questions)
        assert together == [model(image, [question])[0] for question in questions]
        assert model(image, ["IS IT RED?"]) == together[:1]
        assert all(isinstance(answer, str) for answer in together)
        if save is save_vilt:
            assert set(together) <= {"yes", "no"}


def test_missing_weights_are_named_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot load a model of visual question answering from"):
        TransformersAnswers(str(tmp_path))
    with pytest.raises(UserError, match="cannot load a CLIP model from"):
        TransformersClip(str(tmp_path))
    with pytest.raises(UserError, match="cannot load a Mask2Former from"):
        TransformersMask2Former(str(tmp_path))
