"""Loading published networks through ``transformers``, from a folder or from the Hugging Face hub."""

from typing import Any

from openhart.errors import UserError


def load_pretrained(kind: Any, path: str, what: str) -> Any:
    """Call ``kind.from_pretrained(path)``.

    Args:
        kind: a class of ``transformers``.
        path: a folder or a hub id.
        what: what is loaded, for the error message, such as ``a CLIP model``.

    Raises:
        UserError: ``transformers`` cannot load it.
    """
    try:
        return kind.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot load {what} from {path}: give the path of a folder that transformers can read"
        ) from error


def load_image_processor(path: str) -> Any:
    """The image preprocessing that is stored beside a model; raises like :func:`load_pretrained`."""
    import transformers

    return load_pretrained(transformers.AutoImageProcessor, path, "the image preprocessing")


def load_tokenizer(path: str) -> Any:
    """The text tokenizer that is stored beside a model; raises like :func:`load_pretrained`."""
    import transformers

    return load_pretrained(transformers.AutoTokenizer, path, "the tokenizer")
