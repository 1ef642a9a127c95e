"""Models that answer questions about an image, through ``transformers``."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from PIL import Image

from openhart.evaluation.networks.hub import load_pretrained

QUESTION_TOKENS = 25
ANSWER_TOKENS = 10


class QuestionModel(Protocol):
    """Answers questions about an image.

    Attributes:
        name: network and weights, as they are written into every result.
    """

    name: str

    def __call__(self, image: Image.Image, questions: Sequence[str]) -> Sequence[str]:
        """An RGB image and n questions → n answers."""
        ...


class TransformersAnswers:
    """A model of visual question answering of ``transformers`` (BLIP, ViLT), with its own preprocessing.

    DPG-Bench was published with mPLUG-large of ModelScope, which ``transformers`` does not have; other models
    answer differently, so the name is part of every result. As in the published program, questions are in
    lower case and truncated. A model that generates gives its text as the answer, one that classifies the
    name of its best class.

    Args:
        path: folder or hub id.
        device: where the network runs.
        question_tokens: maximum length of a question; the published program uses 25.

    Raises:
        UserError: the model or its preprocessing cannot be loaded.
    """

    def __init__(
        self, path: str, device: torch.device | str = "cpu", question_tokens: int = QUESTION_TOKENS
    ) -> None:
        from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor

        what = "a model of visual question answering"
        self.model = load_pretrained(AutoModelForVisualQuestionAnswering, path, what).eval().to(device)
        self.processor = load_pretrained(AutoProcessor, path, "the preprocessing of images and questions")
        self.device, self.question_tokens = device, question_tokens
        self.name = f"{path}, questions of at most {question_tokens} tokens"

    @torch.no_grad()
    def __call__(self, image: Image.Image, questions: Sequence[str]) -> Sequence[str]:
        """See :class:`QuestionModel`."""
        inputs: Any = self.processor(
            images=[image] * len(questions), text=[question.lower() for question in questions],
            padding=True, truncation=True, max_length=self.question_tokens, return_tensors="pt",
        ).to(self.device)  # fmt: skip
        if self.model.can_generate():
            tokens = self.model.generate(**inputs, max_new_tokens=ANSWER_TOKENS)
            return [text.strip() for text in self.processor.batch_decode(tokens, skip_special_tokens=True)]
        best = self.model(**inputs).logits.argmax(dim=-1)
        return [self.model.config.id2label[index] for index in best.tolist()]
