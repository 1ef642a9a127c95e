"""Is a picture's own counterpart the nearest one in a set, or among the nearest five?"""

import numpy as np
from numpy.typing import NDArray

from openhart.errors import UserError

Floats = NDArray[np.floating]
RANKS = {"top1": 1, "top5": 5}


def retrieval_ranks(given: Floats, wanted: Floats) -> NDArray[np.int_]:
    """How many others are nearer than the own counterpart, by cosine: (N,), 0 where it is the nearest.

    Args:
        given: features (N, D) of the pictures to be recognised.
        wanted: features (N, D) of their counterparts, in the same order.

    Raises:
        UserError: the two are not of one shape.
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
