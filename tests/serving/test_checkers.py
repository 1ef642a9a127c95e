"""Adapters of safety checkers, with tiny models of the real classes."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from openhart.errors import UserError
from openhart.serving.checkers import (
    both,
    diffusers_checker,
    image_classifier,
    load_checker,
    prompt_classifier,
)

RED, BLUE = (Image.new("RGB", (32, 32), colour) for colour in ("red", "blue"))


def test_a_text_classifier_of_transformers_checks_prompts(text_pipeline):
    from transformers import BertConfig, BertForSequenceClassification, pipeline

    config = BertConfig(
        vocab_size=len(text_pipeline.text_tokenizer), hidden_size=8, num_hidden_layers=1,
        num_attention_heads=1, intermediate_size=8, id2label={0: "fine", 1: "toxic"},
        label2id={"fine": 0, "toxic": 1},
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    torch.nn.init.zeros_(model.classifier.weight)
    classifier = pipeline("text-classification", model=model, tokenizer=text_pipeline.text_tokenizer)
    for bias, refused in (((0.0, 3.0), True), ((3.0, 0.0), False)):
        model.classifier.bias.data = torch.tensor(bias)
        check = prompt_classifier(classifier, {"toxic"}, 0.7)
        assert check("some text " * 1000, None) is refused
        assert check("some text", RED) is False


def test_an_image_classifier_checks_images():
    def classifier(image, top_k):
        score = image.getpixel((0, 0))[0] / 255
        return [{"label": "red", "score": score}, {"label": "other", "score": 1 - score}]

    check = image_classifier(classifier, {"red"})
    assert check("a prompt", None) is False
    assert check("a prompt", RED) is True
    assert check("a prompt", BLUE) is False


def test_the_safety_checker_of_diffusers_checks_images():
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    vision = {
        "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
        "image_size": 32, "patch_size": 16, "projection_dim": 8,
    }  # fmt: skip
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8)).eval()

    def processor(images, return_tensors):
        pixels = torch.tensor([list(image.tobytes()) for image in images]).float()
        return SimpleNamespace(pixel_values=pixels.reshape(-1, 32, 32, 3).permute(0, 3, 1, 2) / 127.5 - 1)

    check = diffusers_checker(checker, processor)
    checker.concept_embeds.data.normal_()
    for threshold, refused in ((-2.0, True), (2.0, False)):
        checker.concept_embeds_weights.data.fill_(threshold)
        checker.special_care_embeds_weights.data.fill_(2.0)
        assert check("a prompt", RED.copy()) is refused
    assert check("a prompt", None) is False


def test_several_checkers_refuse_what_one_of_them_refuses():
    check = both(lambda prompt, _: "dog" in prompt, lambda _, image: image and "an image")
    assert check("a dog", None) is True
    assert check("a cat", RED) == "an image"
    assert not check("a cat", None)
    lenient = both(check, lambda _prompt, _image, moderation: moderation == "auto")
    assert lenient("a cat", None, moderation="auto") is True
    assert not lenient("a cat", None, moderation="low")


@pytest.mark.parametrize("name", ["json:nothing", "no_such_module:check", "json", "", ":", "json:__name__"])
def test_a_checker_that_is_not_there_is_one_sentence(name):
    with pytest.raises(UserError, match="safety checker"):
        load_checker(name)
