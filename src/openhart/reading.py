"""Reading of text and JSON files; errors are one sentence that names the file."""

import json
from pathlib import Path
from typing import Any

from openhart.errors import UserError, reason


def read_text(path: Path) -> str:
    """The content of a UTF-8 text file, without a byte order mark.

    Raises:
        UserError: if the file is missing, cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error


def parse_any_json(text: str, where: Path | str) -> Any:
    """The value of a JSON text.

    Args:
        text: the JSON text.
        where: source of the text in error messages, such as a file.

    Raises:
        UserError: if the text is not valid JSON.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        position = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{where} cannot be read as JSON: {error.msg} at {position}") from error
    except RecursionError as error:
        raise UserError(f"{where} cannot be read as JSON: {reason(error)}") from error
    except ValueError as error:
        raise UserError(f"{where} cannot be read as JSON: a number in it is too long") from error


def parse_json(text: str, where: Path | str) -> dict[str, Any]:
    """As :func:`parse_any_json`, for a text that must be a JSON object.

    Raises:
        UserError: if the text is not valid JSON, or if it is not an object.
    """
    value = parse_any_json(text, where)
    if not isinstance(value, dict):
        raise UserError(f"{where} must hold a JSON object, names and values in braces")
    return value


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: if the file is missing, cannot be read, or is not a JSON object.
    """
    return parse_json(read_text(path), path)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects in a file with one JSON object per line; empty lines are ignored.

    Raises:
        UserError: if the file is missing or cannot be read, or if a line is not a JSON object.
    """
    lines = enumerate(read_text(path).splitlines(), start=1)
    return [parse_json(line, f"{path}, line {number}") for number, line in lines if line.strip()]
