"""Rendering of an icon's SVG."""

import io

from PIL import Image

from openhart.errors import UserError, reason, require

OVERSAMPLING = 2


def require_renderer() -> None:
    """Check that SVG can be rendered.

    Raises:
        UserError: if the renderer is not installed.
    """
    require("resvg_py", extra="data")


def draw(svg: str, ratio: float, side: int) -> Image.Image | None:
    """Render an SVG with transparency and crop it to its visible part; None if nothing is visible.

    Args:
        svg: the drawing.
        ratio: width divided by height.
        side: longer side of the drawing in pixels, before cropping.

    Raises:
        UserError: if the SVG is invalid.
    """
    import resvg_py

    width, height = round(side * min(1, ratio)), round(side * min(1, 1 / ratio))
    try:
        png = resvg_py.svg_to_bytes(svg_string=svg, width=width, height=height)
    except ValueError as error:
        raise UserError(f"an icon cannot be drawn because its SVG is invalid: {reason(error)}") from error
    drawing = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    box = drawing.getchannel("A").getbbox()
    return drawing.crop(box) if box else None


def fit(drawing: Image.Image, side: float) -> Image.Image:
    """Scale a drawing so that its longer side has ``side`` pixels."""
    factor = side / max(drawing.size)
    width, height = (max(1, round(length * factor)) for length in drawing.size)
    return drawing.resize((width, height), Image.Resampling.LANCZOS)
