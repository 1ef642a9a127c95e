"""Retrieval accuracy: is an image's own counterpart the nearest in a set, or among the nearest five?"""

import numpy as np
from numpy.typing import NDArray

from openhart.errors import UserError

Floats = NDArray[np.floating]
RANKS = {"top1": 1, "top5": 5}


def retrieval_ranks(given: Floats, wanted: Floats) -> NDArray[np.int_]:
    """Number of images that are nearer than the own counterpart, by cosine similarity: (N,); 0 is best.

    Args:
        given: features (N, D) of the images to be recognised.
        wanted: features (N, D) of their counterparts, in the same order.

    Raises:
        UserError: the two arrays differ in shape.
    """
    if given.shape != wanted.shape:
        raise UserError(
            f"retrieval needs aligned features of one shape, got {given.shape} and {wanted.shape}"
        )
    first, second = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (given, wanted))
    likeness = first @ second.T
    own = likeness.diagonal()[:, None]
    nearer: NDArray[np.int_] = (likeness > own).sum(axis=1)
    return nearer
