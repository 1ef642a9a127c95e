"""The nodes: what ComfyUI shows of the functions in :mod:`work`.

ComfyUI's own modules exist only inside its process, so they are imported in functions.
"""

from pathlib import Path
from typing import Any

from .work import condition, generate, load, reconstruct

CATEGORY = "OpenHART"
PACKAGED = "packaged model"
PREVIEW_SIDE = 512
LARGEST_SEED = 2**63 - 1
Inputs = dict[str, dict[str, Any]]


class LoadModel:
    """Loads the packaged model, or a model folder from ``models/openhart``."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Loads the packaged model, or a model folder from models/openhart."
    RETURN_TYPES = ("OPENHART_MODEL",)
    RETURN_NAMES = ("model",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802 — ComfyUI's name
        """What the node takes."""
        return {
            "required": {
                "model": ([PACKAGED, *sorted(_folders())],),
                "dtype": (["float32", "bfloat16"],),
                "optimize": (["none", "exact", "fast", "fastest"], {"default": "exact"}),
            }
        }

    def load(self, model: str, dtype: str, optimize: str) -> tuple[Any]:
        """Load a model to the device that ComfyUI chose."""
        from comfy.model_management import get_torch_device

        folder = None if model == PACKAGED else _folders()[model]
        return (load(folder, dtype, get_torch_device(), None if optimize == "none" else optimize),)


class Condition:
    """Encodes a prompt, or the number of a class, once for all images."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Encodes a prompt; a class-conditional model takes the number of a class."
    RETURN_TYPES = ("OPENHART_CONDITION",)
    RETURN_NAMES = ("condition",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802 — ComfyUI's name
        """What the node takes."""
        return {
            "required": {
                "model": ("OPENHART_MODEL",),
                "prompt": ("STRING", {"multiline": True, "default": "a red apple"}),
            },
            "optional": {"negative_prompt": ("STRING", {"multiline": True, "default": ""})},
        }

    def encode(self, model: Any, prompt: str, negative_prompt: str = "") -> tuple[dict[str, Any]]:
        """Encode."""
        return (condition(model, prompt, negative_prompt),)


class Generate:
    """Generates images, and shows a preview after each scale."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Generates images scale by scale; the node shows the image after each scale."
    RETURN_TYPES = ("IMAGE", "IMAGE")
    RETURN_NAMES = ("images", "scales")
    OUTPUT_TOOLTIPS = ("The images.", "The first image after each scale, coarse to fine.")
    FUNCTION = "generate"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802 — ComfyUI's name
        """What the node takes."""
        size = {"default": 0, "min": 0, "max": 4096, "step": 8, "tooltip": "0: the model's own."}
        return {
            "required": {
                "model": ("OPENHART_MODEL",),
                "condition": ("OPENHART_CONDITION",),
                "seed": (
                    "INT",
                    {"default": 0, "min": 0, "max": LARGEST_SEED, "control_after_generate": True},
                ),
                "count": ("INT", {"default": 1, "min": 1, "max": 64, "tooltip": "Number of images."}),
                "width": ("INT", size),
                "height": ("INT", size),
                "own_settings": (
                    "BOOLEAN",
                    {"default": True, "tooltip": "Use the model's own sampling settings, not those below."},
                ),
            },
            "optional": {
                "guidance_scale": ("FLOAT", {"default": 2.5, "min": 1.0, "max": 30.0, "step": 0.1}),
                "top_k": ("INT", {"default": 0, "min": 0, "max": 65536, "tooltip": "0: no limit."}),
                "top_p": ("FLOAT", {"default": 1.0, "min": 0.01, "max": 1.0, "step": 0.01}),
                "use_residual": ("BOOLEAN", {"default": True}),
            },
        }

    def generate(
        self,
        model: Any,
        condition: dict[str, Any],
        seed: int,
        count: int,
        width: int,
        height: int,
        own_settings: bool,
        **sampling: Any,
    ) -> tuple[Any, Any]:
        """Generate."""
        from comfy.model_management import throw_exception_if_processing_interrupted
        from comfy.utils import ProgressBar

        bar = ProgressBar(1)

        def show(index: int, total: int, image: Any) -> None:
            bar.update_absolute(index + 1, total, ("JPEG", image, PREVIEW_SIDE))
            throw_exception_if_processing_interrupted()

        size = (height or None, width or None)
        return generate(model, condition, seed, count, size, {} if own_settings else sampling, show)


class Reconstruct:
    """Encodes and decodes images by the model's image tokenizer."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Encodes and decodes images by the image tokenizer, to see what it preserves."
    RETURN_TYPES = ("IMAGE", "IMAGE")
    RETURN_NAMES = ("from_codes", "complete")
    OUTPUT_TOOLTIPS = ("Decoded from the codes alone.", "Decoded from all that generation can produce.")
    FUNCTION = "reconstruct"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802 — ComfyUI's name
        """What the node takes."""
        return {"required": {"model": ("OPENHART_MODEL",), "image": ("IMAGE",)}}

    def reconstruct(self, model: Any, image: Any) -> tuple[Any, Any]:
        """Reconstruct."""
        return reconstruct(model, image)


def _folders() -> dict[str, Path]:
    """The model folders below ``models/openhart``, by name."""
    import folder_paths

    places = [Path(folder_paths.models_dir) / "openhart"]
    if "openhart" in folder_paths.folder_names_and_paths:
        places = [Path(place) for place in folder_paths.get_folder_paths("openhart")]
    found = (index.parent for place in places for index in place.glob("*/model_index.json"))
    return {folder.name: folder for folder in found}
