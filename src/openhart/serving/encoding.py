"""Images as bytes of a file, with the record of how they were made."""

from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image

from openhart.provenance import Record, record_options


@dataclass(frozen=True)
class Encoding:
    """A file format.

    Attributes:
        format: ``png``, ``jpeg`` or ``webp``.
        quality: of JPEG and WebP, 0 to 100.
        size: height and width to which the image is resized, or None.
    """

    format: str = "png"
    quality: int = 100
    size: tuple[int, int] | None = None

    @property
    def media_type(self) -> str:
        """Media type of the files."""
        return f"image/{self.format}"

    def encode(self, image: Image.Image, record: Record | None, fast: bool = False) -> bytes:
        """The bytes of a file.

        Args:
            image: the image.
            record: how the image was made, which is written into the file; None for nothing.
            fast: take a fifth of the time for PNG, and up to half as many bytes again.
        """
        if self.size is not None:
            image = image.resize(self.size[::-1], Image.Resampling.LANCZOS)
        options: dict[str, Any] = {} if record is None else record_options(record, self.format.upper())
        if self.format != "png":
            options["quality"] = self.quality
        elif fast:
            options["compress_level"] = 1
        file = BytesIO()
        image.save(file, self.format.upper(), **options)
        return file.getvalue()
