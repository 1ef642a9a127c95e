"""The record of how an image was made, inside its file.

A PNG has it as text chunks: ``openhart``, JSON from which the same image can be made again, and
``parameters``, which viewers of other programs show. JPEG and WebP have the JSON as the EXIF comment, except
for a JPEG of a prompt that is too long for it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from openhart.checks import sentence
from openhart.checksums import FILE, record_of
from openhart.errors import UserError, reason
from openhart.reading import read_json

CHUNK = "openhart"
EXIF_IFD = 0x8769
USER_COMMENT = 0x9286
COMMENT_CODE = b"ASCII\0\0\0"
LONGEST_COMMENT = 60_000  # bytes; the EXIF data of a JPEG have at most 64 KiB
NAMES = {"guidance_scale": "CFG scale", "num_inference_steps": "Steps", "residual_steps": "Residual steps"}


class Record(BaseModel):
    """Everything that determines an image.

    Attributes:
        prompt: the prompt; None for a class-conditional model.
        label: the class instead.
        negative_prompt: text that guidance steered away from, or None.
        seed: the seed.
        height: in pixels.
        width: in pixels.
        sampling: the complete sampling settings, by name.
        model: name of the model.
        model_hash: checksum of the model's files (:func:`model_hash`); empty if it is unknown.
        computation: data type, level of optimization and further options that change the computation.
        version: version of OpenHART.
    """

    model_config = ConfigDict(strict=True, protected_namespaces=())

    prompt: str | None = None
    label: int | None = None
    negative_prompt: str | None = None
    seed: int = Field(ge=0, lt=2**63)
    height: int = Field(ge=1, le=2**16)
    width: int = Field(ge=1, le=2**16)
    sampling: dict[str, Any]
    model: str | None = None
    model_hash: str = ""
    computation: dict[str, str] = {}
    version: str = ""


def record_options(record: Record, kind: str) -> dict[str, Any]:
    """Arguments of Pillow's ``save`` that write a record into a file.

    Args:
        record: everything that determines the image.
        kind: Pillow's name of the format.
    """
    text = json.dumps(record.model_dump(exclude_none=True), ensure_ascii=True)
    if kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt("parameters", readable(record))
        info.add_text(CHUNK, text)
        return {"pnginfo": info}
    from PIL import Image

    if kind == "JPEG" and len(text) > LONGEST_COMMENT:
        return {}
    exif = Image.Exif()
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = COMMENT_CODE + text.encode("ascii")
    return {"exif": exif}


def readable(record: Record) -> str:
    """A record in the form that viewers of other programs show: prompt, negative prompt, settings."""
    values = {NAMES[name]: record.sampling[name] for name in NAMES if name in record.sampling}
    values |= {"Seed": record.seed, "Size": f"{record.width}x{record.height}"}
    values |= {"Model": record.model, "Model hash": record.model_hash}
    values |= {"Version": f"openhart {record.version}"}
    shown = [f"{name}: {_quoted(value)}" for name, value in values.items() if value not in (None, "")]
    lines = [f"class {record.label}" if record.prompt is None else record.prompt]
    if record.negative_prompt:
        lines.append(f"Negative prompt: {record.negative_prompt}")
    return "\n".join([*lines, ", ".join(shown)])


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text) if "," in text else text


def read_record(path: Path) -> Record:
    """The record of an image file.

    Raises:
        UserError: the file is no image, or its record is missing or damaged.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            text = image.info.get(CHUNK) or _comment(image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read how {path} was made: {reason(error)}") from error
    if not text:
        raise UserError(f"{path} does not state how it was made: give an image that OpenHART wrote")
    try:
        return Record.model_validate_json(text)
    except ValidationError as error:
        raise UserError(sentence(error, f"the record in {path}")) from error


def _comment(value: Any) -> str:
    if not isinstance(value, bytes) or not value.startswith(COMMENT_CODE):
        return ""
    return value[len(COMMENT_CODE) :].decode("ascii")


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
