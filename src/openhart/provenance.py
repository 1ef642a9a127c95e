"""The record of how an image was made, inside its file.

A PNG has it as text chunks: ``openhart``, JSON from which the same image can be made again, and
``parameters``, which viewers of other programs show. JPEG and WebP have the JSON as the EXIF comment.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openhart.checksums import FILE, record_of
from openhart.errors import UserError, reason
from openhart.reading import read_json

CHUNK = "openhart"
EXIF_IFD = 0x8769
USER_COMMENT = 0x9286
COMMENT_CODE = b"UNICODE\0"
NAMES = {"guidance_scale": "CFG scale", "num_inference_steps": "Steps", "residual_steps": "Residual steps"}


def record_options(record: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Arguments of Pillow's ``save`` that write a record into a file.

    Args:
        record: everything that determines the image.
        kind: ``png``, ``jpeg`` or ``webp``.
    """
    text = json.dumps(record, ensure_ascii=True)
    if kind == "png":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt("parameters", readable(record))
        info.add_text(CHUNK, text)
        return {"pnginfo": info}
    from PIL import Image

    exif = Image.Exif()
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = COMMENT_CODE + text.encode("utf-16-be")
    return {"exif": exif}


def readable(record: Mapping[str, Any]) -> str:
    """A record in the form that viewers of other programs show: prompt, negative prompt, settings."""
    sampling = record.get("sampling") or {}
    values = {NAMES[name]: sampling[name] for name in NAMES if name in sampling}
    values |= {"Seed": record["seed"], "Size": f"{record['width']}x{record['height']}"}
    values |= {"Model": record.get("model"), "Model hash": record.get("model_hash")}
    values |= {"Version": f"openhart {record.get('version')}"}
    shown = [f"{name}: {_quoted(value)}" for name, value in values.items() if value not in (None, "")]
    lines = [str(record.get("prompt", f"class {record.get('label')}"))]
    if record.get("negative_prompt"):
        lines.append(f"Negative prompt: {record['negative_prompt']}")
    return "\n".join([*lines, ", ".join(shown)])


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text) if "," in text else text


def read_record(path: Path) -> dict[str, Any]:
    """The record of an image file.

    Raises:
        UserError: the file is no image, or it has no record.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            text = image.info.get(CHUNK) or _comment(image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT))
        record = json.loads(text) if text else None
    except (OSError, ValueError, SyntaxError, RecursionError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read how {path} was made: {reason(error)}") from error
    if not isinstance(record, dict) or not {"seed", "height", "width", "sampling"} <= record.keys():
        raise UserError(f"{path} has no record of how it was made: give an image that OpenHART wrote")
    return record


def _comment(value: Any) -> str:
    if not isinstance(value, bytes) or not value.startswith(COMMENT_CODE):
        return ""
    return value[len(COMMENT_CODE) :].decode("utf-16-be")


def model_hash(folder: Path) -> str:
    """A checksum of the files of a model, as 16 hexadecimal digits.

    Args:
        folder: of the model; its ``checksums.json`` saves reading the weights.
    """
    if (folder / FILE).is_file():
        records = read_json(folder / FILE)
    else:
        paths = [path for pattern in ("*", "*/*") for path in folder.glob(pattern)]
        names = [p.relative_to(folder).as_posix() for p in paths if p.suffix in (".json", ".safetensors")]
        records = record_of(folder, sorted(names))
    return hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()[:16]
