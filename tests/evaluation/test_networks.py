"""The loaders of published networks, on tiny random networks of those very classes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from openhart.errors import UserError
from openhart.evaluation.geneval.clip_colours import ClipColours
from openhart.evaluation.geneval.rules import COLOURS
from openhart.evaluation.networks.clip import TransformersClip
from openhart.evaluation.networks.mask2former import COCO_CLASSES, TransformersMask2Former
from tests.evaluation.recorded import told


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
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**size, "vocab_size": len(words), "eos_token_id": len(words) - 1},
        vision_config={**size, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    crop = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=crop).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


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
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig
    from transformers import Mask2FormerImageProcessorPil as Processor

    backbone = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        num_labels=80,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=16,
        num_queries=6,
    )
    torch.manual_seed(0)
    Mask2FormerForUniversalSegmentation(config).save_pretrained(tmp_path)
    Processor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    detector = TransformersMask2Former(str(tmp_path))
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


def test_missing_weights_are_named_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot load a CLIP model from"):
        TransformersClip(str(tmp_path))
    with pytest.raises(UserError, match="cannot load a Mask2Former from"):
        TransformersMask2Former(str(tmp_path))
