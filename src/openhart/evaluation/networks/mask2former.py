"""Mask2Former (arXiv 2112.01527), the detector of GenEval."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from openhart.errors import UserError
from openhart.evaluation.geneval.detections import Found, Objects
from openhart.evaluation.networks.hub import load_image_processor, load_pretrained

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
"""The 80 classes of COCO, in its order and with GenEval's names."""
DETECTOR = "facebook/mask2former-swin-small-coco-instance"
DETECTIONS = 100


class TransformersMask2Former:
    """Mask2Former with COCO's instance classes: a
    :class:`openhart.evaluation.geneval.detections.Detector`.

    GenEval was published with the weights of mmdetection (Swin-S, 8×2, 50 epochs). Other weights of the same
    network detect differently, so the path is part of every result.

    Args:
        path: folder or hub id.
        device: where the network runs.

    Raises:
        UserError: the model cannot be loaded, or it does not have COCO's 80 classes.
    """

    def __init__(self, path: str = DETECTOR, device: torch.device | str = "cpu") -> None:
        from transformers import Mask2FormerForUniversalSegmentation

        self.name, self.device = path, device
        self.model = load_pretrained(Mask2FormerForUniversalSegmentation, path, "a Mask2Former")
        self.model.eval().to(device)
        if (count := self.model.config.num_labels) != len(COCO_CLASSES):
            raise UserError(f"{path} has {count} classes, but GenEval needs the 80 classes of COCO")
        self.processor = load_image_processor(path)

    @torch.no_grad()
    def __call__(self, image: Image.Image) -> Found:
        """See :class:`openhart.evaluation.geneval.detections.Detector`."""
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
