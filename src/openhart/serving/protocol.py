"""The parameters of an image request in the OpenAI Images protocol, and their checks."""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from openhart.checks import check_text, sentence
from openhart.errors import UserError, reason
from openhart.serving.problems import ProtocolError
from openhart.serving.request import LARGEST_SEED

LONGEST_PROMPT = 32_000
LARGEST_SIDE = 4096
SIZE = re.compile(r"(\d{1,9})x(\d{1,9})", re.ASCII)
CODES = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "string_too_long": "string_above_max_length",
}
"""The protocol's codes of pydantic's errors; all others are ``invalid_value``."""


class Generation(BaseModel):
    """The body of POST /v1/images/generations; parameters that are null count as not given.

    ``negative_prompt``, ``seed`` and ``every_scale`` are ours, as are the sampling settings of the model,
    which :func:`parse_generation` separates before.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str = Field(max_length=LONGEST_PROMPT)
    model: str | None = Field(None, max_length=1000)
    n: int = Field(1, ge=1)
    size: str = "auto"
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] = "auto"
    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] = "png"
    output_compression: int = Field(100, ge=0, le=100)
    background: Literal["auto", "opaque"] = "auto"
    moderation: Literal["auto", "low"] = "auto"
    style: Literal["vivid", "natural"] | None = None
    complexity: Literal["low", "medium", "high"] | None = None
    user: str | None = Field(None, max_length=1000)
    safety_identifier: str | None = Field(None, max_length=1000)
    stream: bool = False
    partial_images: int = Field(0, ge=0, le=3)
    negative_prompt: str | None = Field(None, max_length=LONGEST_PROMPT)
    seed: int | None = Field(None, ge=0, le=LARGEST_SEED)
    every_scale: bool = False

    @property
    def previews(self) -> int:
        """Number of partial images; more than there are scales for one after each scale."""
        if not self.stream:
            return 0
        return sys.maxsize if self.every_scale else self.partial_images

    @property
    def shown_quality(self) -> str:
        """The quality as answers state it."""
        return {"auto": "high", "hd": "high", "standard": "medium"}.get(self.quality, self.quality)


@dataclass(frozen=True)
class Parsed:
    """The parameters of a request, and the model's sampling settings among them."""

    parameters: Generation
    sampling: dict[str, Any]


def parse_json(body: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        ProtocolError: the body is no JSON object.
    """
    try:
        values = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else reason(error)
        raise ProtocolError(400, f"the body must be a JSON object: {what}", "invalid_json") from error
    if not isinstance(values, dict):
        raise ProtocolError(400, "the body must be a JSON object", "invalid_json")
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def parse_generation(values: Mapping[str, Any], sampling_names: tuple[str, ...], most: int) -> Parsed:
    """Check the parameters of a request.

    Args:
        values: the JSON object.
        sampling_names: names of the model's sampling settings.
        most: largest ``n``.

    Raises:
        ProtocolError: a parameter is missing, unknown, or has a wrong value.
    """
    given = {name: value for name, value in values.items() if value is not None}
    sampling = {name: given.pop(name) for name in sampling_names if name in given}
    try:
        parameters = Generation(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        message = (
            f"there is no parameter {name[:60]!a}" if first["type"] == "extra_forbidden" else sentence(error)
        )
        if name == "background":
            message += "; this model cannot make transparent images"
        raise ProtocolError(400, message, CODES.get(first["type"], "invalid_value"), name[:60]) from error
    _check_texts(parameters)
    if parameters.n > most:
        raise ProtocolError(400, f"n must be at most {most}, got {parameters.n}", "invalid_value", "n")
    if parameters.stream and parameters.n > 1:
        raise ProtocolError(
            400, "n must be 1 when stream is true: the events name no image", "invalid_value", "n"
        )
    if parameters.output_format == "png" and parameters.output_compression < 100:
        message = "output_compression must be 100 for png, which loses nothing; use jpeg or webp"
        raise ProtocolError(400, message, "invalid_value", "output_compression")
    return Parsed(parameters, sampling)


def _check_texts(parameters: Generation) -> None:
    for name in ("prompt", "negative_prompt", "model", "user", "safety_identifier"):
        try:
            check_text(getattr(parameters, name) or "")
        except ValueError as error:
            raise ProtocolError(400, f"{name} must be valid Unicode", "invalid_value", name) from error
    if not parameters.prompt.strip():
        raise ProtocolError(400, "prompt must not be empty", "invalid_value", "prompt")


def parse_size(text: str) -> tuple[int, int] | None:
    """Height and width of a size ``WIDTHxHEIGHT``; None for ``auto``.

    Raises:
        ProtocolError: it is no size, or it is too large.
    """
    if text == "auto":
        return None
    match = SIZE.fullmatch(text)
    if match is None or not all(1 <= int(side) <= LARGEST_SIDE for side in match.groups()):
        message = f"size must be auto or WIDTHxHEIGHT with sides of 1 to {LARGEST_SIDE}, got {text[:40]!a}"
        raise ProtocolError(400, message, "invalid_value", "size")
    width, height = map(int, match.groups())
    return height, width


def value_problem(error: UserError, names: tuple[str, ...]) -> ProtocolError:
    """The answer to a value that the model refuses; the message begins with the name of the parameter."""
    message = str(error).removeprefix("sampling: ")
    param = next((name for name in names if re.match(rf"{name}\b", message)), None)
    return ProtocolError(400, message, "invalid_value", param)
