"""Conversion of CLIP weights of open_clip, such as those of HPSv2, to a folder of transformers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from openhart.conversion.folder import appearing_whole, check_destination
from openhart.conversion.weights import check_tensors, read_content
from openhart.errors import UserError, reason

NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.": "vision_model.embeddings.patch_embedding.",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.": "vision_model.pre_layrnorm.",
    "visual.ln_post.": "vision_model.post_layernorm.",
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
    "visual.proj": "visual_projection.weight",
    "token_embedding.": "text_model.embeddings.token_embedding.",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.": "text_model.final_layer_norm.",
    "transformer.resblocks.": "text_model.encoder.layers.",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
"""Names of open_clip, or their beginnings, and those of transformers."""
LAYER_NAMES = {
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".attn.": ".self_attn.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}
TRANSPOSED = ("visual.proj", "text_projection")


def convert_clip(source: Path, base: str, folder: Path) -> None:
    """Convert the weights of a CLIP model.

    Args:
        source: file of open_clip, such as ``HPS_v2.1_compressed.pt``; a state dict, alone or as the entry
            ``state_dict``.
        base: folder or hub id of a CLIP model of transformers with the same architecture, such as
            ``laion/CLIP-ViT-H-14-laion2B-s32B-b79K`` for HPSv2; gives settings, preprocessing and tokenizer.
        folder: a new or empty folder.

    Raises:
        UserError: if the weights do not fit the architecture, if ``base`` cannot be loaded, or if
            the folder is not empty.
    """
    check_destination(folder)
    model, *others = _load_base(base)
    content = read_content(source)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    renamed = rename_open_clip(check_tensors(content, source))
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    given = {name: value.shape for name, value in renamed.items()}
    if wrong := sorted(name for name in {*wanted, *given} if wanted.get(name) != given.get(name)):
        raise UserError(
            f"{source} does not fit the architecture of {base}: {wrong[0]} has the shape "
            f"{_shape(given.get(wrong[0]))} there and {_shape(wanted.get(wrong[0]))} here"
        )
    model.load_state_dict(renamed)
    with appearing_whole(folder) as partial:
        for each in (model, *others):
            each.save_pretrained(partial)


def rename_open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a CLIP model of open_clip under the names of transformers, in float32.

    Raises:
        UserError: if a tensor does not belong to a CLIP model of open_clip.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        start = next((start for start in NAMES if name.startswith(start)), None)
        if start is None:
            raise UserError(f"{name} is no tensor of a CLIP model of open_clip")
        new = NAMES[start] + name.removeprefix(start)
        for old, other in LAYER_NAMES.items():
            new = new.replace(old, other)
        value = tensor.float()
        before, joined, kind = new.partition(".in_proj_")
        if joined:
            for part, third in zip("qkv", value.chunk(3), strict=True):
                found[f"{before}.{part}_proj.{kind}"] = third.clone()
        else:
            found[new] = value.T.contiguous() if start in TRANSPOSED else value
    return found


def _load_base(base: str) -> tuple[Any, Any, Any]:
    """The model with random weights, its preprocessing and its tokenizer."""
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPConfig, CLIPModel

    try:
        model = CLIPModel(CLIPConfig.from_pretrained(base))
        return model, AutoImageProcessor.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {base}: give a CLIP of transformers of the same architecture ({reason(error)})"
        ) from error


def _shape(shape: Any) -> str:
    return "none" if shape is None else "×".join(map(str, shape)) or "of a number"
