"""Text and JSON files as users hand them in: what cannot be read is one sentence."""

import json
from pathlib import Path
from typing import Any

from openhart.errors import UserError, reason


def read_text(path: Path) -> str:
    """A text in UTF-8.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error


def parse_any_json(text: str, where: Path | str) -> Any:
    """The value in a JSON text.

    Args:
        text: the JSON.
        where: what messages name as its place.

    Raises:
        UserError: it is no JSON.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{where} cannot be read as JSON: {error.msg} at {place}") from error
    except RecursionError as error:
        raise UserError(f"{where} cannot be read as JSON: {reason(error)}") from error
    except ValueError as error:
        raise UserError(f"{where} cannot be read as JSON: a number in it is too long") from error


def parse_json(text: str, where: Path | str) -> dict[str, Any]:
    """As :func:`parse_any_json`, of a text that must hold an object.

    Raises:
        UserError: it is no JSON, or no object.
    """
    value = parse_any_json(text, where)
    if not isinstance(value, dict):
        raise UserError(f"{where} must hold a JSON object, names and values in braces")
    return value


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: the file is missing, or holds something else.
    """
    return parse_json(read_text(path), path)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects in a file with one JSON object per line; empty lines are ignored.

    Raises:
        UserError: the file is missing, or a line is no JSON object.
    """
    lines = enumerate(read_text(path).splitlines(), start=1)
    return [parse_json(line, f"{path}, line {number}") for number, line in lines if line.strip()]
