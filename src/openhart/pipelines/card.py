"""The model card of a saved pipeline, filled from its folder."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from openhart.generation.saved import present_index
from openhart.model_files import read_index, read_parts

CARD_FILE = "README.md"
TEMPLATE = Path(__file__).with_name("card.md.jinja")


def write_card(folder: Path, size: tuple[int, int]) -> None:
    """Write ``README.md`` with metadata for the Hugging Face hub into a model folder.

    Args:
        folder: the model folder, complete but for its card.
        size: height and width in pixels of the images that the model generates.

    Raises:
        OSError: if the file cannot be written.
        UserError: if a file of the model is missing or damaged.
    """
    index = read_index(folder)
    family = str(index["_class_name"])
    parts = read_parts(folder)
    takes_text = "label_encoder" not in {part.name for part in parts}
    data = ModelCardData(
        library_name="diffusers",
        pipeline_tag="text-to-image" if takes_text else "unconditional-image-generation",
        tags=["openhart", family.removesuffix("Pipeline").lower()],
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        family=family,
        takes_text=takes_text,
        parts=parts,
        total=sum(part.parameters for part in parts),
        height=size[0],
        width=size[1],
        encoder=index.get("text_encoder_name"),
        max_tokens=index.get("max_tokens"),
        sampling=present_index(index).get("sampling") or {},
    )
    card.save(folder / CARD_FILE)
