"""Segmentation of an image with a plain background into pieces and groups of pieces.

A drawing may consist of several pieces (the wings of a bee, the bells of an alarm clock). Therefore every
group of neighbouring pieces is a candidate object; :func:`group_pieces` returns all of them as a tree.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import linkage
from scipy.ndimage import binary_fill_holes, distance_transform_edt, gaussian_filter, label, maximum_filter
from scipy.spatial.distance import squareform

from openhart.data.oklab import to_oklab

Mask = NDArray[np.bool_]
Gaps = NDArray[np.float64]
NEIGHBOURS = np.ones((3, 3))
BORDER = 2
LEVELS = 16
SMOOTHING = 0.6
LEAST_CONTRAST = 0.035
NOISE_FACTOR = 2.0
EDGE = 5
LEAST_OF_NEARBY = 0.3
SMALLEST_PIECE = 0.0008
SMALLEST_PART = 0.003
NECK = 4
MOST_PIECES = 12


@dataclass(frozen=True)
class Group:
    """A candidate object: its mask (H, W), and the indices of the two groups it consists of, if any."""

    mask: Mask
    parts: tuple[int, int] | None = None

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in pixels; right and bottom are exclusive."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def background_of(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The most frequent colour of the border of an image (H, W, 3): (3,)."""
    border = np.concatenate(
        [
            picture[:BORDER].reshape(-1, 3),
            picture[-BORDER:].reshape(-1, 3),
            picture[:, :BORDER].reshape(-1, 3),
            picture[:, -BORDER:].reshape(-1, 3),
        ]
    )
    coarse = (border // LEVELS).astype(int) @ [LEVELS**2, LEVELS, 1]
    common = np.bincount(coarse).argmax()
    colour: NDArray[np.uint8] = np.median(border[coarse == common], axis=0).astype(np.uint8)
    return colour


def foreground(picture: NDArray[np.uint8]) -> Mask:
    """Mask (H, W) of the pixels that differ from the background, and of those enclosed by such pixels.

    Pixels with a weak difference beside a strong one are the soft edge of an object and are excluded.
    """
    ground = to_oklab(background_of(picture))
    smooth = gaussian_filter(to_oklab(picture), (SMOOTHING, SMOOTHING, 0))
    distance = np.linalg.norm(smooth - ground, axis=2)
    border = np.concatenate([distance[:BORDER].ravel(), distance[-BORDER:].ravel()])
    noise = float(np.median(border))
    nearby = maximum_filter(distance, EDGE)
    least = np.maximum(max(LEAST_CONTRAST, NOISE_FACTOR * noise), LEAST_OF_NEARBY * nearby)
    mask: Mask = binary_fill_holes(distance > least)
    return mask


def find_pieces(picture: NDArray[np.uint8]) -> tuple[list[Mask], Gaps]:
    """Find the pieces of the foreground, by descending area, and the gaps between them; specks are ignored.

    A piece is a connected component. If a component separates when it is eroded, each part is a piece,
    because two things that touch in a blurred image are connected too.

    Returns:
        masks (H, W), and gaps (n, n) in pixels. For two pieces that a neck connects, the gap is minus
        half the width of the neck.
    """
    numbers, _ = label(foreground(picture), structure=NEIGHBOURS)
    levels = _levels(numbers > 0)
    seeds = [seed for start in _largest(numbers) for seed in _seeds(start, levels, 0)]
    if not seeds:
        return [], np.zeros((0, 0))
    seeds = sorted(seeds, key=lambda seed: -int(seed.mask.sum()))[:MOST_PIECES]
    pieces = _grow(seeds, numbers)
    return pieces, _gaps(seeds, pieces, levels)


@dataclass(frozen=True)
class _Seed:
    """Pixels that remain connected when every outline is eroded by ``level`` pixels."""

    mask: Mask
    level: int


def _levels(mask: Mask) -> list[Mask]:
    depth = distance_transform_edt(mask)
    return [depth > level for level in range(NECK + 1)]


def _largest(numbers: NDArray[np.int32]) -> list[Mask]:
    areas = np.bincount(numbers.ravel())[1:]
    return [numbers == number + 1 for number in np.flatnonzero(areas >= SMALLEST_PIECE * numbers.size)]


def _seeds(piece: Mask, levels: list[Mask], level: int) -> list[_Seed]:
    """The parts into which a piece separates when it is eroded, or the piece if it does not separate."""
    for deeper in range(level + 1, len(levels)):
        numbers, count = label(piece & levels[deeper], structure=NEIGHBOURS)
        areas = np.bincount(numbers.ravel())[1:]
        parts = np.flatnonzero(areas >= SMALLEST_PART * piece.size) + 1
        if len(parts) > 1:
            return [seed for part in parts for seed in _seeds(numbers == part, levels, deeper)]
        if not count:
            break
    return [_Seed(piece, level)]


def _grow(seeds: list[_Seed], numbers: NDArray[np.int32]) -> list[Mask]:
    """Assign every foreground pixel to the nearest seed to which it is connected."""
    pieces = [seed.mask for seed in seeds]
    homes = [int(numbers[seed.mask][0]) for seed in seeds]
    for home in set(homes):
        own = [index for index, other in enumerate(homes) if other == home]
        if len(own) == 1:
            pieces[own[0]] = numbers == home
            continue
        distances = np.stack([distance_transform_edt(~seeds[index].mask) for index in own])
        nearest = distances.argmin(axis=0)
        for place, index in enumerate(own):
            pieces[index] = (numbers == home) & (nearest == place)
    return pieces


def _gaps(seeds: list[_Seed], pieces: list[Mask], levels: list[Mask]) -> Gaps:
    distances = [distance_transform_edt(~piece) for piece in pieces]
    gaps = np.array([[distance[other].min() for other in pieces] for distance in distances])
    for level, mask in enumerate(levels):
        numbers, _ = label(mask, structure=NEIGHBOURS)
        at = np.array([numbers[seed.mask].max() if seed.level >= level else 0 for seed in seeds])
        connected = (at[:, None] == at) & (at > 0)
        gaps[connected] = -level
    np.fill_diagonal(gaps, -NECK - 1)
    return gaps


def group_pieces(pieces: list[Mask], gaps: Gaps) -> list[Group]:
    """Single-linkage tree of the pieces: first the pieces, then larger groups; the last contains all pieces.

    The ``parts`` of a group are indices of earlier entries of the list.

    Args:
        pieces: masks of :func:`find_pieces`.
        gaps: gaps of :func:`find_pieces`.
    """
    groups = [Group(piece) for piece in pieces]
    if len(pieces) > 1:
        distances = squareform(gaps + NECK + 1, checks=False)
        for first, second, _, _ in linkage(distances, "single"):
            parts = int(first), int(second)
            groups.append(Group(groups[parts[0]].mask | groups[parts[1]].mask, parts))
    return groups
