"""Safety checkers: any function of a prompt and an image, and adapters for two kinds of classifiers."""

import asyncio
from collections.abc import Callable, Collection
from importlib import import_module
from inspect import signature
from typing import Any

from PIL import Image
from starlette.concurrency import run_in_threadpool

from openhart.errors import UserError, reason
from openhart.serving.problems import ProtocolError

Checker = Callable[..., Any]
"""Called with the prompt and None before generation, and with the prompt and each image after it. If it has a
parameter ``moderation``, it gets that of the request as a keyword: ``auto``, or ``low`` for less strictness.

What it returns is true if the request is refused; a text is the reason that the client gets."""

BLOCKED = "the request was refused by the safety checker"


class SafetyHook:
    """Calls a checker in a thread, one call at a time.

    Args:
        checker: the checker; None permits everything.
    """

    def __init__(self, checker: Checker | None) -> None:
        self.checker = checker
        self._lock = asyncio.Lock()

    async def check(self, prompt: str, image: Image.Image | None = None, moderation: str = "auto") -> None:
        """Refuse a prompt or an image.

        Args:
            prompt: of the request.
            image: a generated image, or None before generation.
            moderation: of the request.

        Raises:
            ProtocolError: the checker refuses it.
        """
        if self.checker is None:
            return
        async with self._lock:
            verdict = await run_in_threadpool(_ask, self.checker, prompt, image, moderation)
        if verdict:
            message = f"{BLOCKED}: {verdict}" if isinstance(verdict, str) else BLOCKED
            raise ProtocolError(400, message, "moderation_blocked", kind="image_generation_user_error")


def _ask(checker: Checker, prompt: str, image: Image.Image | None, moderation: str) -> Any:
    """The verdict of a checker, which gets ``moderation`` only if it has a parameter of this name."""
    try:
        takes_moderation = "moderation" in signature(checker).parameters
    except ValueError:  # a function in C may have no signature
        takes_moderation = False
    return checker(prompt, image, **({"moderation": moderation} if takes_moderation else {}))


def prompt_classifier(classifier: Any, refused: Collection[str], threshold: float = 0.5) -> Checker:
    """A checker of prompts from a text classifier.

    Args:
        classifier: a ``text-classification`` pipeline of transformers.
        refused: labels that are refused.
        threshold: score from which on a label counts, in [0, 1].
    """

    def check(prompt: str, image: Image.Image | None) -> bool:
        return image is None and _exceeds(classifier(prompt, top_k=None, truncation=True), refused, threshold)

    return check


def image_classifier(classifier: Any, refused: Collection[str], threshold: float = 0.5) -> Checker:
    """A checker of images from an image classifier.

    Args:
        classifier: an ``image-classification`` pipeline of transformers.
        refused: labels that are refused.
        threshold: score from which on a label counts, in [0, 1].
    """

    def check(prompt: str, image: Image.Image | None) -> bool:  # noqa: ARG001
        return image is not None and _exceeds(classifier(image, top_k=None), refused, threshold)

    return check


def _exceeds(scores: list[dict[str, Any]], refused: Collection[str], threshold: float) -> bool:
    return any(each["label"] in refused and each["score"] >= threshold for each in scores)


def diffusers_checker(safety_checker: Any, feature_extractor: Any) -> Checker:
    """A checker of images from the safety checker of Stable Diffusion.

    Args:
        safety_checker: ``StableDiffusionSafetyChecker`` of diffusers.
        feature_extractor: its ``CLIPImageProcessor``.
    """

    def check(prompt: str, image: Image.Image | None) -> bool:  # noqa: ARG001
        if image is None:
            return False
        import numpy as np

        pixels = feature_extractor([image], return_tensors="pt").pixel_values.to(safety_checker.device)
        array = np.asarray(image, dtype=np.float32)[None] / 255
        _, concepts = safety_checker(images=array, clip_input=pixels.to(safety_checker.dtype))
        return bool(concepts[0])

    return check


def both(*checkers: Checker) -> Checker:
    """A checker that refuses what one of several refuses."""

    def check(prompt: str, image: Image.Image | None, moderation: str = "auto") -> Any:
        verdicts = (_ask(each, prompt, image, moderation) for each in checkers)
        return next((verdict for verdict in verdicts if verdict), None)

    return check


def load_checker(name: str) -> Checker:
    """The checker ``MODULE:NAME``.

    Raises:
        UserError: there is none, or it cannot be called.
    """
    module, _, attribute = name.partition(":")
    try:
        checker = getattr(import_module(module), attribute)
    except Exception as error:  # whatever the module raises
        raise UserError(f"cannot load the safety checker {name}: {reason(error)}") from error
    if not callable(checker):
        raise UserError(f"the safety checker {name} must be a function of a prompt and an image")
    return checker  # type: ignore[no-any-return]
