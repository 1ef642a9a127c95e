"""Teacher-forced figures are those that the losses of training would give."""

import pytest
import torch
import torch.nn.functional as F

from openhart.data.sample import Sample
from openhart.evaluation.benchmarks.likelihood import evaluate_likelihood


class Pictures(torch.utils.data.Dataset):
    def __init__(self, pipeline, count=5):
        size = (count, 3, *pipeline.image_tokenizer.image_size)
        self.images = torch.rand(size, generator=torch.Generator().manual_seed(0)) * 2 - 1
        self.samples = [Sample({"text": text, "label": place % 5}) for place, text in enumerate("abcde")]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], self.samples[index]


def test_figures_do_not_depend_on_the_batch_and_are_those_of_the_model(text_pipeline):
    pictures = Pictures(text_pipeline)
    report = evaluate_likelihood(text_pipeline, pictures, batch_size=2, quiet=True)
    whole = evaluate_likelihood(text_pipeline, pictures, batch_size=5, quiet=True)
    assert report["cross_entropy"] == pytest.approx(whole["cross_entropy"], rel=1e-5)
    assert report["residual"]["sampled"] == pytest.approx(whole["residual"]["sampled"], rel=1e-3)
    tokenizer, transformer = text_pipeline.image_tokenizer, text_pipeline.transformer
    with torch.no_grad():
        codes = tokenizer.quantize(tokenizer.encode(pictures.images)).codes
        condition = text_pipeline.encode_condition(list("abcde"))
        hidden = transformer(tokenizer.quantizer.code_inputs(codes), *condition).hidden_states
        logits = transformer.logits(hidden, transformer.prepare(*condition))
    wanted = torch.cat(codes, dim=1)
    assert report["cross_entropy"] == pytest.approx(float(F.cross_entropy(logits.mT, wanted)), rel=1e-5)
    assert report["accuracy"] == pytest.approx(float((logits.argmax(-1) == wanted).float().mean()))
    assert [set(scale) for scale in report["scales"]] == [{"cross_entropy", "accuracy"}] * 4
    first = F.cross_entropy(logits[:, 0], wanted[:, 0])
    assert report["scales"][0]["cross_entropy"] == pytest.approx(float(first), rel=1e-5)


def test_the_best_strength_is_no_worse_than_none_or_all(text_pipeline):
    residual = evaluate_likelihood(text_pipeline, Pictures(text_pipeline), quiet=True)["residual"]
    for found in residual.values():
        assert 0 <= found["strength"] <= 1
        assert found["error_at_strength"] <= min(1.0, found["error"]) + 1e-6


def test_a_model_of_classes_without_a_residual_head(label_pipeline):
    report = evaluate_likelihood(label_pipeline, Pictures(label_pipeline), quiet=True)
    assert report["samples"] == 5
    assert "residual" not in report
