"""Published networks that benchmarks need, loaded through ``transformers`` from a folder or a hub."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from openhart.errors import UserError
from openhart.evaluation.detections import Found, Objects

COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "computer mouse", "tv remote",
    "computer keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book",
    "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
"""The 80 classes of COCO in its order, under GenEval's names."""
CLIP = "openai/clip-vit-large-patch14"
DETECTOR = "facebook/mask2former-swin-small-coco-instance"
DETECTIONS = 100


class TransformersClip:
    """A CLIP model as an :class:`openhart.evaluation.clip_colours.ImageTextModel`, and its preprocessing.

    Args:
        path: folder or hub id.
        device: where it runs.

    Raises:
        UserError: it cannot be loaded.
    """

    def __init__(self, path: str = CLIP, device: torch.device | str = "cpu") -> None:
        from transformers import CLIPModel

        self.name, self.device = path, device
        self.model = _load(CLIPModel, path, "a CLIP model").eval().to(device)
        self.processor = _image_processor(path)
        self.tokenizer = _tokenizer(path)

    @torch.no_grad()
    def image_features(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB pictures of any size → (n, D)."""
        pixels = self.processor(images=list(images), return_tensors="pt")["pixel_values"].to(self.device)
        return _tensor(self.model.get_image_features(pixel_values=pixels))

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Texts, cut at the model's 77 tokens → (n, D)."""
        inputs = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(
            self.device
        )
        return _tensor(self.model.get_text_features(**inputs))


class TransformersMask2Former:
    """Mask2Former with COCO's instance classes, as an :class:`openhart.evaluation.detections.Detector`.

    GenEval was published with mmdetection's weights (Swin-S, 8×2, 50 epochs); others' weights of the same
    network are another detector, so the path is part of every result.

    Args:
        path: folder or hub id.
        device: where it runs.

    Raises:
        UserError: it cannot be loaded, or has not COCO's 80 classes.
    """

    def __init__(self, path: str = DETECTOR, device: torch.device | str = "cpu") -> None:
        from transformers import Mask2FormerForUniversalSegmentation

        self.name, self.device = path, device
        self.model = _load(Mask2FormerForUniversalSegmentation, path, "a Mask2Former").eval().to(device)
        if self.model.config.num_labels != len(COCO_CLASSES):
            raise UserError(f"{path} has {self.model.config.num_labels} classes, GenEval needs COCO's 80")
        self.processor = _image_processor(path)

    @torch.no_grad()
    def __call__(self, image: Image.Image) -> Found:
        """See :class:`openhart.evaluation.detections.Detector`."""
        pixels = self.processor(images=image, return_tensors="pt")["pixel_values"].to(self.device)
        output = self.model(pixel_values=pixels)
        classes = output.class_queries_logits[0].softmax(dim=-1)[:, :-1]
        scores, places = classes.flatten().topk(min(DETECTIONS, classes.numel()))
        labels, queries = places % len(COCO_CLASSES), places // len(COCO_CLASSES)
        logits = torch.nn.functional.interpolate(
            output.masks_queries_logits[0, queries][None], (image.height, image.width), mode="bilinear"
        )[0]
        masks = logits > 0
        sizes = masks.sum(dim=(1, 2))
        certainty = (logits.sigmoid() * masks).sum(dim=(1, 2)) / sizes.clamp_min(1)
        found: dict[str, Objects] = {}
        for index, name in enumerate(COCO_CLASSES):
            chosen = torch.nonzero((labels == index) & (sizes > 0))[:, 0]
            if len(chosen):
                shapes = masks[chosen].cpu().numpy()
                found[name] = _objects(shapes, (scores * certainty)[chosen].cpu().numpy())
        return found


def _objects(masks: NDArray[np.bool_], scores: NDArray[np.floating]) -> Objects:
    rows, columns = np.asarray(masks.any(axis=2)), np.asarray(masks.any(axis=1))
    height, width = rows.shape[1], columns.shape[1]
    corners = (
        columns.argmax(axis=1),
        rows.argmax(axis=1),
        width - columns[:, ::-1].argmax(axis=1),
        height - rows[:, ::-1].argmax(axis=1),
    )
    return Objects(np.stack([*corners, scores], axis=1).astype(np.float32), masks)


def _load(kind: Any, path: str, what: str) -> Any:
    try:
        return kind.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot load {what} from {path}: give the path of a folder that transformers can read"
        ) from error


def _image_processor(path: str) -> Any:
    import transformers

    return _load(transformers.AutoImageProcessor, path, "the image preprocessing")


def _tokenizer(path: str) -> Any:
    import transformers

    return _load(transformers.AutoTokenizer, path, "the tokenizer")


def _tensor(output: Any) -> Tensor:
    """Features as they are, or as newer versions of transformers wrap them."""
    return output if isinstance(output, Tensor) else output.pooler_output
